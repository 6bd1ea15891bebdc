"""Questions about texts: every corpus in SQuAD format."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from lmrecipes.batches import BatchPlan
from lmrecipes.data.embedded.squad import make_squad
from lmrecipes.data.prepared.cache import cache_folder, writing_to
from lmrecipes.data.prepared.progress_bar import ProgressBar
from lmrecipes.data.sampling.length_buckets import ShuffledBuckets, budgeted
from lmrecipes.data.tasks.squad.answers import Evidence
from lmrecipes.data.tasks.squad.collators import SpanCollator, SquadCollator
from lmrecipes.data.tasks.squad.files import OnMalformed, Question
from lmrecipes.data.tasks.squad.prepared import Layout, PreparedSquad, SquadSource, prepare_questions, prepare_squad
from lmrecipes.data.tasks.squad.windows import WindowRule
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings, load_sentencepiece
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings, load_wordpiece
from lmrecipes.datamodules.resumable_loader import PositionLoader, micro_batches_done
from lmrecipes.metrics.squad import normalizer
from lmrecipes.trainer_state import data_rank

_SPLITS = ("train", "val", "test")
# `ask` makes a split of this name.
ASKED = "predict"


class SquadDataModule(LightningDataModule):
    """Files in SQuAD format: SQuAD 1.1 and 2.0, XQuAD, TyDi QA GoldP, your own.

    Contexts are cut into windows once, or questions made texts, which are then mapped into memory. Training batches are
    of pieces of about the same length, and arithmetic on the optimizer's step: a resumed run goes on exactly, with any
    number of workers. Evaluation reads every piece once, whatever the number of ranks.
    """

    # What a rehearsal needs for a question, a context and their marks.
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
        super().__init__()
        for name, value in (("max_answer_len", max_answer_len), ("n_best", n_best)):
            if value < 1:
                raise ValueError(f"data.{name} is {value}; it must be 1 or more")
        self.batch_plan = batch
        self.files = {split: file for split, file in zip(_SPLITS, (train, val, test), strict=True) if file is not None}
        normalizer(language)
        for split, file in self.files.items():
            if "{language}" in file and language is None and (split == "train" or not languages):
                raise ValueError(f"data.{split} is {file}, which needs data.language; de, say")
        if languages is not None and (language is not None or not languages or len(set(languages)) < len(languages)):
            raise ValueError(
                f"data.languages is {list(languages)} beside data.language {language}; give one of the two, each "
                f"language once"
            )
        self.language = language
        self.languages = tuple(languages or ())
        self.vocabulary_dir = None if vocabulary_dir is None else Path(vocabulary_dir).expanduser()
        self.collator = collator or SpanCollator()
        self.settings: WordPieceSettings | SentencePieceSettings = (
            sentencepiece or SentencePieceSettings()
            if issubclass(self.collator.vocabulary_class, SentencePiece)
            else wordpiece or WordPieceSettings()
        )
        self.max_answer_len = max_answer_len
        self.n_best = n_best
        self.null_threshold = null_threshold
        self.on_malformed = on_malformed
        self.cache_dir = cache_folder(cache_dir)
        self.num_workers = num_workers
        self.seed = seed
        windowing = {"max_query_len": max_query_len, "doc_stride": doc_stride, "rule": window_rule}
        self._layouts: dict[str, Layout] = {}
        for split in (*_SPLITS, ASKED):
            read_as = "test" if split == ASKED else split
            try:
                self._layouts[split] = self.collator.layout(batch, read_as, windowing)
            except ValueError as error:
                own = (
                    "batch.seq_len" if batch.segmenting(read_as).seq_len == batch.seq_len else f"batch.{split}.seq_len"
                )
                raise ValueError(str(error).replace("batch.seq_len", own)) from None
        self._prepared: dict[str, PreparedSquad] = {}
        self._vocabulary: Vocabulary | None = None
        self._only: tuple[str, ...] = _SPLITS

    @staticmethod
    def tiny_data(settings: Mapping[str, Any], text: Path) -> dict[str, Any]:
        """What makes a rehearsal's questions few: those that `write_synthetic` leaves in a folder."""
        files = {split: str(text / f"{split}.json") for split in _SPLITS if settings[split] is not None}
        sizes = {"wordpiece": {"vocab_size": 400}, "sentencepiece": {"vocab_size": 400}}
        tokens = {**sizes, "vocabulary_dir": None, "language": None, "languages": None}
        return {**files, **tokens, "max_query_len": 16, "doc_stride": 16}

    def write_synthetic(self, folder: Path) -> str:
        """Writes a few synthetic questions for each split, some without an answer if the recipe's may lack one."""
        folder.mkdir(parents=True, exist_ok=True)
        for split in self.files:
            made = make_squad(split, 6, unanswerable=self.null_threshold is not None)
            (folder / f"{split}.json").write_text(json.dumps(made), encoding="utf-8")
        return "synthetic questions"

    def source(self, split: str) -> SquadSource:
        """Where the questions of a split come from.

        Raises:
            ValueError: if the recipe does not say.
        """
        if split not in self.files:
            raise ValueError(f"data.{split} is not given; name a file in SQuAD format")
        file = self.files[split]
        several = self.languages if "{language}" in file else ()
        return SquadSource(
            file if several else file.replace("{language}", str(self.language)), self.on_malformed, several
        )

    def evaluate_with(self, vocabulary: Vocabulary, split: str) -> None:
        """From now on only this split is read, with a trained model's own vocabulary."""
        wanted = self.collator.vocabulary_class
        if not isinstance(vocabulary, wanted):
            raise ValueError(f"the run's vocabulary is one of kind {vocabulary.kind}; questions need {wanted.__name__}")
        self._vocabulary, self._only = vocabulary, (split,)

    def ask(self, questions: Sequence[Question]) -> None:
        """Makes these questions the split that `predict` answers; their answers need not be known.

        Raises:
            ValueError: for none, or an empty one.
        """
        if not questions:
            raise ValueError("there is no question to answer")
        for number, question in enumerate(questions, start=1):
            for name, text in (("question", question.question), ("context", question.context)):
                if not text.strip():
                    raise ValueError(f"the {name} of question {question.id or number} is empty")
        self._prepared[ASKED] = prepare_questions(questions, self.vocabulary, self._layouts[ASKED])

    def prepare(self, progress: bool = True) -> None:
        """Tokenizes and cuts the files of all splits unless that was done; training then needs none of them.

        Raises:
            ValueError: if a file cannot be had or read, or is malformed.
        """
        for split in self._only:
            if split in self.files:
                self._prepare(split, progress)

    def prepare_data(self) -> None:
        """Lightning's hook: prepares in one process per node."""
        if ASKED not in self._prepared:
            self.prepare()

    def _prepare(self, split: str, progress: bool, quiet: bool = False) -> PreparedSquad:
        with writing_to(self.cache_dir), ProgressBar(f"preparing {split} questions", progress) as report:
            self._prepared[split] = prepare_squad(
                self.source(split),
                self.vocabulary,
                self._layouts[split],
                self.cache_dir,
                lambda done, total: report("texts", done, total),
                (lambda _: None) if quiet else (lambda line: warnings.warn(line, stacklevel=2)),
            )
        return self._prepared[split]

    def prepared(self, split: str) -> PreparedSquad:
        """The windows of a split (train, val, test or predict)."""
        if split == ASKED and split not in self._prepared:
            raise ValueError("no question was asked; `ask` takes them")
        return self._prepared.get(split) or self._prepare(split, progress=False, quiet=True)

    @property
    def vocabulary(self) -> Any:
        """The vocabulary: a run's or folder's, or one learned from the training questions and their contexts."""
        if self._vocabulary is None:
            if self.vocabulary_dir is not None:
                inside = self.vocabulary_dir / "vocabulary"
                where = str(inside if inside.is_dir() else self.vocabulary_dir)
                wordpiece = isinstance(self.settings, WordPieceSettings)
                self._vocabulary = load_wordpiece(where) if wordpiece else load_sentencepiece(where)
            elif self.settings.name is not None:
                self._vocabulary = self.settings.make(lambda _: ())
            else:
                with writing_to(self.cache_dir):
                    self._vocabulary = self._learned()
        return self._vocabulary

    def _learned(self) -> Vocabulary:
        source = self.source("train")
        described = json.dumps([source.describe(), self.settings.describe()], sort_keys=True)
        folder = self.cache_dir / f"squad-vocabulary-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
        if not (folder / "vocabulary.json").is_file():
            questions = source.read().questions
            texts = [*dict.fromkeys(q.context for q in questions), *(q.question for q in questions)]
            self.settings.make(lambda _: texts).save(folder)
        return load_vocabulary(folder)

    @property
    def vocab_size(self) -> int:
        """Different tokens."""
        size: int = self.vocabulary.size
        return size

    @property
    def batch_fields(self) -> frozenset[str]:
        """Fields of the batch plan that are read."""
        return frozenset(("seq_len", "target_len") if self.collator.texts else ("seq_len",))

    @property
    def writes_texts(self) -> bool:
        """Whether answers are written, and so are also compared as they stand."""
        return self.collator.texts

    # What is asked of the answers to a split.

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

    # Batches.

    def _batch(self, split: str) -> Callable[[NDArray[Any]], Any]:
        prepared, vocabulary, how = self.prepared(split), self.vocabulary, self._layouts[split]
        return lambda rows: self.collator.batch(prepared, rows, vocabulary, how)

    def training_order(self) -> ShuffledBuckets:
        """Which windows are in this rank's micro-batches."""
        rank, world_size = data_rank(self.trainer)
        return ShuffledBuckets(
            self.prepared("train").pieces.lengths,
            self.batch_plan.global_batch_size,
            rank=rank,
            world_size=world_size,
            passes=self.batch_plan.accumulation(world_size),
            seed=self.seed,
        )

    def evaluation_order(self, split: str) -> list[NDArray[Any]]:
        """Which windows are in this rank's batches: longest first, none of another rank's among them."""
        rank, world_size = data_rank(self.trainer)
        plan = self.batch_plan.segmenting("test" if split == ASKED else split)
        tokens = max(plan.batch_size // world_size, 1) * plan.seq_len
        return budgeted(self.prepared(split).pieces.lengths, plan.seq_len, tokens, world_size)[rank::world_size]

    def train_dataloader(self) -> PositionLoader:
        """Micro-batches from the optimizer's step to the end of the epoch, every time it is iterated."""
        return PositionLoader(
            _Training(self.training_order(), self._batch("train")),
            lambda: micro_batches_done(self.trainer, self.batch_plan),
            self.num_workers,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Windows to validate on."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Windows to test on."""
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Windows of the questions that were asked."""
        return self._evaluation(ASKED)

    def _evaluation(self, split: str) -> DataLoader[Any]:
        batches = _Evaluation(self.evaluation_order(split), self._batch(split))
        return DataLoader(batches, batch_size=None, num_workers=self.num_workers, generator=torch.Generator())


class _Training:
    def __init__(self, order: ShuffledBuckets, batch: Callable[[NDArray[Any]], Any]) -> None:
        self._order, self._batch = order, batch

    def __len__(self) -> int:
        return len(self._order)

    def batch(self, k: int) -> Any:
        return self._batch(self._order.rows(k))


class _Evaluation(Dataset[Any]):
    def __init__(self, order: list[NDArray[Any]], batch: Callable[[NDArray[Any]], Any]) -> None:
        self._order, self._batch = order, batch

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, number: int) -> Any:
        return self._batch(np.asarray(self._order[number]))
