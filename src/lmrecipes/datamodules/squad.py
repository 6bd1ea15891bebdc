"""Questions about texts: every corpus in SQuAD format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lmrecipes.batches import BatchPlan
from lmrecipes.data.embedded.squad import make_squad
from lmrecipes.data.tasks.squad.answers import Evidence
from lmrecipes.data.tasks.squad.collators import SpanCollator, SquadCollator
from lmrecipes.data.tasks.squad.files import OnMalformed, Question
from lmrecipes.data.tasks.squad.prepared import PreparedSquad, prepare_questions, prepare_squad
from lmrecipes.data.tasks.squad.source import SquadSource, check_languages
from lmrecipes.data.tasks.squad.windows import WindowRule
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings
from lmrecipes.datamodules.bucketed import PREDICT, SPLITS, BucketedDataModule, Report, SplitExamples
from lmrecipes.datamodules.cached import tiny_vocabulary, vocabulary_settings
from lmrecipes.metrics.squad import normalizer


class SquadDataModule(BucketedDataModule):
    """Files in SQuAD format: SQuAD 1.1 and 2.0, XQuAD, TyDi QA GoldP, your own.

    Contexts are cut into windows once, or questions made texts, which are then mapped into memory. Training batches are
    of pieces of about the same length, and arithmetic on the optimizer's step: a resumed run goes on exactly, with any
    number of workers. Evaluation reads every piece once, whatever the number of ranks.
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
        """Holds the settings; nothing is read yet.

        Args:
            batch: a recipe's `batch:` group. seq_len is a window's length; an evaluation's batch_size says how many
                windows of full length take the room of one batch over all devices, of shorter ones there are more.
            train: file to train on: .json or .parquet, also .gz; hf://datasets/OWNER/NAME/FILE; embedded:train,
                or embedded:1.1/train for questions that all have an answer.
            val: file to validate on.
            test: file to test on.
            language: of val and test, for normalizing answers as MLQA does, and for {language} in the files' names;
                left out, answers are normalized as the official SQuAD scripts do it.
            languages: several of them, whose files are all read and have figures of their own.
            vocabulary_dir: a run, or a folder, with the vocabulary to use.
            wordpiece: which WordPiece vocabulary to read or learn otherwise, for windows.
            sentencepiece: which SentencePiece vocabulary to read or learn otherwise, for texts.
            max_query_len: tokens of a question that are kept.
            doc_stride: tokens of a context from one window's beginning to the next one's.
            max_answer_len: tokens of an answer at most.
            n_best: answers kept for a question.
            window_rule: google or nvidia: what a window without the answer is trained to say.
            null_threshold: odds above which a question is left unanswered; left out, every one is answered.
            on_malformed: what to do about malformed questions: refuse, skip, or repair what can be repaired.
            collator: what a batch is; left out, windows with spans.
            cache_dir: where prepared data goes; left out, $LMRECIPES_CACHE or ~/.cache/lmrecipes.
            num_workers: processes that load batches.
            seed: for the order of training.

        Raises:
            ValueError: for settings that do not work.
        """
        for name, value in (("max_answer_len", max_answer_len), ("n_best", n_best)):
            if value < 1:
                raise ValueError(f"data.{name} is {value}; it must be 1 or more")
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
        windowing = {"max_query_len": max_query_len, "doc_stride": doc_stride, "rule": window_rule}
        self._layouts = self.collator.layouts(batch, windowing)

    @staticmethod
    def tiny_data(settings: Mapping[str, Any], text: Path) -> dict[str, Any]:
        """What makes a rehearsal's questions few: those that `write_synthetic` leaves in a folder."""
        files = {split: str(text / f"{split}.json") for split in SPLITS if settings[split] is not None}
        sizes = tiny_vocabulary(settings.get("collator"), SpanCollator)
        unset = dict.fromkeys(("vocabulary_dir", "language", "languages"))
        return {**files, **sizes, **unset, "max_query_len": 16, "doc_stride": 16}

    def write_synthetic(self, folder: Path) -> str:
        """Writes a few synthetic questions for each split, some without an answer if the recipe's may lack one."""
        folder.mkdir(parents=True, exist_ok=True)
        for split in self.files:
            made = make_squad(split, 6, unanswerable=self.null_threshold is not None)
            (folder / f"{split}.json").write_text(json.dumps(made), encoding="utf-8")
        return "synthetic questions"

    # What is read.

    def source(self, split: str) -> SquadSource:
        """Where the questions of a split come from.

        Raises:
            ValueError: if the recipe does not say.
        """
        return SquadSource.of(self.file(split), self.language, self.languages, self.on_malformed)

    def ask(self, questions: Sequence[Question]) -> None:
        """Makes these questions the split that `predict` answers; their answers need not be known.

        Raises:
            ValueError: for none, or an empty one.
        """
        asked = prepare_questions(questions, self.vocabulary, self._layouts["test"])
        self._examples[PREDICT] = self._ready(PREDICT, asked)

    def prepare_split(self, split: str, report: Report) -> SplitExamples:
        """Windows or texts of the questions of a split."""
        how = self._layouts[split]
        return self._ready(split, prepare_squad(self.source(split), self.vocabulary, how, self.cache_dir, report))

    def _ready(self, split: str, prepared: PreparedSquad) -> SplitExamples:
        collator, vocabulary, how = self.collator, self.vocabulary, self._layouts["test" if split == PREDICT else split]
        return SplitExamples(
            prepared,
            prepared.pieces.lengths,
            lambda rows: collator.batch(prepared, rows, vocabulary, how),
            prepared.manifest["complaint"],
        )

    def learning_key(self) -> str:
        """The training questions and the vocabulary's settings."""
        return json.dumps([self.source("train").describe(), self.settings.describe()], sort_keys=True)

    def learning_texts(self) -> list[str]:
        """The training questions and their contexts."""
        questions = self.source("train").read().questions
        return [*dict.fromkeys(q.context for q in questions), *(q.question for q in questions)]

    @property
    def batch_fields(self) -> frozenset[str]:
        """Fields of the batch plan that are read."""
        return frozenset(("seq_len", "target_len") if self.collator.texts else ("seq_len",))

    # For SquadAnswers.

    def prepared(self, split: str) -> PreparedSquad:
        """The questions of a split (train, val, test or predict) and their windows or texts."""
        found: PreparedSquad = self.examples(split).content
        return found

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
        """What a step's output on a batch of a split says about its questions, by their ids."""
        return self.collator.evidence(
            output, self.prepared(split), self.vocabulary, n_best=self.n_best, max_answer_len=self.max_answer_len
        )
