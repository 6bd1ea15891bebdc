"""Questions about texts: all corpora in SQuAD format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lmrecipes.batches import BatchPlan, SpanBatch
from lmrecipes.config.validation import at_least
from lmrecipes.data.embedded.squad import make_squad
from lmrecipes.data.tasks.squad.answers import Evidence
from lmrecipes.data.tasks.squad.collators import SpanCollator, SquadCollator
from lmrecipes.data.tasks.squad.files import OnMalformed, Question
from lmrecipes.data.tasks.squad.prepared import Layout, PreparedSquad, prepare_questions, prepare_squad
from lmrecipes.data.tasks.squad.source import SquadSource, check_languages
from lmrecipes.data.tasks.squad.windows import WindowRule
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings
from lmrecipes.datamodules.bucketed import PREDICT, SPLITS, BucketedDataModule, Report, SplitExamples
from lmrecipes.datamodules.cached import tiny_vocabulary, vocabulary_settings
from lmrecipes.metrics.squad import normalizer


class SquadDataModule(BucketedDataModule):
    """Files in SQuAD format: SQuAD 1.1 and 2.0, XQuAD, TyDi QA GoldP, your own.

    Contexts are cut into windows, or questions turned into texts, once; the result is mapped into memory.
    """

    cache_name, unit, file_format = "squad", "questions", "a file in SQuAD format"
    # Minimum lengths for a question, a context and their special tokens.
    tiny_lengths: ClassVar[dict[str, int]] = {"seq_len": 80, "target_len": 24}

    def __init__(
        self,
        batch: BatchPlan,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        language: str | None = None,
        languages: Sequence[str] | None = None,
        vocabulary_dir: str | None = None,
        wordpiece: WordPieceSettings | None = None,
        sentencepiece: SentencePieceSettings | None = None,
        max_query_len: int = 64,
        doc_stride: int = 128,
        max_answer_len: int = 30,
        n_best: int = 20,
        window_rule: WindowRule = "google",
        null_threshold: float | None = None,
        on_malformed: OnMalformed = "refuse",
        collator: SquadCollator | None = None,
        cache_dir: str | None = None,
        num_workers: int = 0,
        seed: int = 1111,
    ) -> None:
        """Stores the settings; nothing is read yet.

        Args:
            batch: a recipe's `batch:` group. seq_len is a window's length; an evaluation batch has room for batch_size
                windows of full length over all devices, and for more if they are shorter.
            train: file to train on: .json or .parquet, also .gz; hf://datasets/OWNER/NAME/FILE; embedded:train,
                or embedded:1.1/train for questions that all have an answer.
            val: file to validate on.
            test: file to test on.
            language: of val and test, for normalizing answers as in MLQA, and for {language} in the files' names; left
                out, answers are normalized as in the official SQuAD scripts.
            languages: several of them, each with a file and metrics of its own.
            vocabulary_dir: a run, or a folder, with the vocabulary to use.
            wordpiece: which WordPiece vocabulary to read or learn otherwise, for windows.
            sentencepiece: which SentencePiece vocabulary to read or learn otherwise, for texts.
            max_query_len: tokens that a question is truncated to.
            doc_stride: tokens of context from one window's beginning to the next one's.
            max_answer_len: maximum tokens of an answer.
            n_best: answers kept per question.
            window_rule: google or nvidia: labels of a window without the answer.
            null_threshold: log odds above which a question is left unanswered; left out, every question is answered.
            on_malformed: what to do about malformed questions: refuse, skip, or repair where possible.
            collator: kind of batches; left out, windows with spans.
            cache_dir: where prepared data goes; left out, $LMRECIPES_CACHE or ~/.cache/lmrecipes.
            num_workers: processes that load batches.
            seed: for the order of training.

        Raises:
            ValueError: for settings that do not work.
        """
        normalizer(language)
        files = {"train": train, "val": val, "test": test}
        check_languages(files, language, languages)
        self.collator = collator or SpanCollator()
        super().__init__(
            batch,
            files,
            vocabulary_settings(self.collator.vocabulary_class, wordpiece, sentencepiece),
            vocabulary_dir=vocabulary_dir,
            cache_dir=cache_dir,
            num_workers=num_workers,
            seed=seed,
        )
        self.language = language
        self.languages = tuple(languages or ())
        self.max_answer_len = max_answer_len
        self.n_best = n_best
        self.null_threshold = null_threshold
        self.on_malformed = on_malformed
        at_least(self, "data.", max_answer_len=1, n_best=1)
        windowing = {"max_query_len": max_query_len, "doc_stride": doc_stride, "rule": window_rule}
        self._layouts = self.collator.layouts(batch, windowing)

    @staticmethod
    def tiny_data(settings: Mapping[str, Any], text: Path) -> dict[str, Any]:
        """Settings of a rehearsal, which reads the questions of `write_synthetic`."""
        files = {split: str(text / f"{split}.json") for split in SPLITS if settings[split] is not None}
        sizes = tiny_vocabulary(settings.get("collator"), SpanCollator)
        unset = dict.fromkeys(("vocabulary_dir", "language", "languages"))
        return {**files, **sizes, **unset, "max_query_len": 16, "doc_stride": 16}

    def write_synthetic(self, folder: Path) -> str:
        """Writes a few synthetic questions for each split, some without an answer if the recipe's may lack one."""
        folder.mkdir(parents=True, exist_ok=True)
        for split in self.files:
            content = make_squad(split, 6, unanswerable=self.null_threshold is not None)
            (folder / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
        return "synthetic questions"

    def source(self, split: str) -> SquadSource:
        """The source of a split's questions.

        Raises:
            ValueError: if the recipe names none.
        """
        return SquadSource.of(self.file(split), self.language, self.languages, self.on_malformed)

    def ask(self, questions: Sequence[Question]) -> None:
        """Makes these questions the split that `predict` answers; their answers need not be known.

        Raises:
            ValueError: if there are none, or one is empty.
        """
        prepared = prepare_questions(questions, self.vocabulary, self._layouts["test"])
        self._examples[PREDICT] = self._split_examples(prepared, self._layouts["test"])

    def prepare_split(self, split: str, report: Report) -> SplitExamples:
        """Windows or texts of the questions of a split."""
        layout = self._layouts[split]
        prepared = prepare_squad(self.source(split), self.vocabulary, layout, self.cache_dir, report)
        return self._split_examples(prepared, layout)

    def _split_examples(self, prepared: PreparedSquad, layout: Layout) -> SplitExamples:
        collator, vocabulary = self.collator, self.vocabulary
        return SplitExamples(
            prepared,
            prepared.pieces.lengths,
            lambda rows: self._searched(collator.batch(prepared, rows, vocabulary, layout)),
            prepared.manifest["complaint"],
        )

    def _searched(self, batch: Any) -> Any:
        """The batch with the limits of the search for spans, where its type has them."""
        if not isinstance(batch, SpanBatch):
            return batch
        return batch._replace(n_best=self.n_best, max_answer_len=self.max_answer_len)

    def learning_key(self) -> str:
        """The training questions and the vocabulary's settings."""
        return json.dumps([self.source("train").describe(), self.settings.describe()], sort_keys=True)

    def learning_texts(self) -> list[str]:
        """The training questions and their contexts."""
        questions = self.source("train").read().questions
        return [*dict.fromkeys(q.context for q in questions), *(q.question for q in questions)]

    @property
    def batch_type(self) -> type:
        """Type of the collator's batches."""
        return self.collator.batch_type

    @property
    def batch_fields(self) -> frozenset[str]:
        """Fields of the batch plan that are read."""
        return frozenset(("seq_len", "target_len") if self.collator.texts else ("seq_len",))

    def prepared(self, split: str) -> PreparedSquad:
        """The questions of a split (train, val, test or predict) and their windows or texts."""
        prepared: PreparedSquad = self.examples(split).content
        return prepared

    @property
    def writes_texts(self) -> bool:
        """Whether answers are generated texts."""
        return self.collator.texts

    def questions(self, split: str) -> Sequence[Question]:
        """The questions of a split."""
        return self.prepared(split).questions

    def may_lack(self, split: str) -> bool:
        """Whether questions of a split may have no answer."""
        return bool(self.prepared(split).manifest["impossible"]) or self.null_threshold is not None

    def evidence(self, split: str, output: Any) -> dict[str, Evidence]:
        """Candidate answers from a step's output on a batch of a split, by question id."""
        return self.collator.evidence(
            output, self.prepared(split), self.vocabulary, n_best=self.n_best, max_answer_len=self.max_answer_len
        )
