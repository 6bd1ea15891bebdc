"""XNLI: whether one sentence follows from another, learned in English and tested in other languages.

Conneau et al. 2018 (arXiv:1809.05053), Williams et al. 2018 (arXiv:1704.05426).
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from lmrecipes.batches import BatchPlan, TextPairBatch, WrittenTexts
from lmrecipes.data.corpora.hub import local_file
from lmrecipes.data.corpora.malformed import OnMalformedLine, complaint
from lmrecipes.data.prepared.cache import cache_folder, writing_to
from lmrecipes.data.prepared.lock import locked
from lmrecipes.data.sampling.length_buckets import ShuffledBuckets, budgeted
from lmrecipes.data.tasks.nli import Inference, NLIFile, Prompt, asked, read_nli
from lmrecipes.data.tasks.nli_embedded import EMBEDDED, make_nli
from lmrecipes.data.tasks.text_pairs import TextPair, TextPairs, tokenized
from lmrecipes.data.tasks.written import written
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings, load_sentencepiece
from lmrecipes.datamodules.resumable_loader import PositionLoader, micro_batches_done
from lmrecipes.trainer_state import data_rank

_SPLITS = ("train", "val", "test")
_LANGUAGE = "{language}"
_VERSION = 1


class XNLIDataModule(LightningDataModule):
    """Pairs of sentences as text to text: MNLI to train on, XNLI in several languages to evaluate.

    Training batches are of texts of about the same length, and arithmetic on the optimizer's step. Evaluation reads
    every pair once, whatever the number of ranks.
    """

    task = "xnli"
    batch_fields = frozenset(
        (
            "seq_len",
            "target_len",
        )
    )
    # What a rehearsal needs for two sentences.
    tiny_lengths: ClassVar[dict[str, int]] = {"seq_len": 64, "target_len": 8}

    def __init__(
        self,
        batch: BatchPlan,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        languages: Sequence[str] = ("en", "es", "de", "fr", "zh"),
        prompt: Prompt = "nemo",
        input_eos: bool = True,
        vocabulary_dir: str | None = None,
        sentencepiece: SentencePieceSettings | None = None,
        on_malformed: OnMalformedLine = "refuse",
        cache_dir: str | None = None,
        num_workers: int = 0,
        seed: int = 1234,
    ) -> None:
        """Holds the settings; nothing is read yet.

        Args:
            batch: a recipe's `batch:` group. An evaluation's batch_size says how many inputs of full length take the
                room of one batch over all devices, of shorter ones there are more.
            train: MNLI's training file: .tsv, .jsonl or .parquet, also .gz; hf://datasets/OWNER/NAME/FILE;
                embedded:train.
            val: file to validate on; with {language}, one of each language, or else one in which each line says it.
            test: file to test on, likewise.
            languages: those to evaluate.
            prompt: nemo: the published form, labels as words. google: premise first, labels as digits.
            input_eos: whether an input ends with the end of a text; as it was when the model was pretrained.
            vocabulary_dir: a run, or a folder, with the vocabulary to use.
            sentencepiece: which SentencePiece vocabulary to read or learn otherwise.
            on_malformed: what to do about lines that have no pair: refuse, or skip.
            cache_dir: where prepared data goes; left out, $LMRECIPES_CACHE or ~/.cache/lmrecipes.
            num_workers: processes that load training batches.
            seed: for the order of training.

        Raises:
            ValueError: for settings that do not work.
        """
        super().__init__()
        if not languages or len(set(languages)) < len(languages):
            raise ValueError(f"data.languages is {list(languages)}; give one or more, each once, such as [en, de]")
        self.batch_plan = batch
        self.files = {split: file for split, file in zip(_SPLITS, (train, val, test), strict=True) if file is not None}
        if _LANGUAGE in (train or ""):
            raise ValueError(f"data.train is {train}; training is in one language, so name one file")
        self.languages = list(languages)
        self.prompt: Prompt = prompt
        self.input_eos = input_eos
        self.vocabulary_dir = None if vocabulary_dir is None else Path(vocabulary_dir).expanduser()
        self.settings = sentencepiece or SentencePieceSettings()
        self.on_malformed = on_malformed
        self.cache_dir = cache_folder(cache_dir)
        self.num_workers = num_workers
        self.seed = seed
        self._vocabulary: SentencePiece | None = None
        self._only: tuple[str, ...] = _SPLITS
        self._pairs: dict[str, TextPairs] = {}

    @staticmethod
    def tiny_data(settings: Mapping[str, Any], text: Path) -> dict[str, Any]:
        """What makes a rehearsal's pairs few: made-up ones, whatever text there is."""
        files = {split: f"{EMBEDDED}{split}" for split in _SPLITS if settings[split] is not None}
        return {**files, "languages": ["en", "de"], "vocabulary_dir": None, "sentencepiece": {"vocab_size": 400}}

    def write_synthetic(self, folder: Path) -> str:
        """Writes nothing: the embedded pairs are small."""
        return "embedded pairs"

    def languages_of(self, split: str) -> list[str]:
        """The languages of a split: English to train on."""
        return ["en"] if split == "train" else self.languages

    def evaluate_with(self, vocabulary: Vocabulary, split: str) -> None:
        """From now on only this split is read, with a trained model's own vocabulary."""
        if not isinstance(vocabulary, SentencePiece):
            raise ValueError(f"the run's vocabulary is one of kind {vocabulary.kind}; these texts need SentencePiece")
        self._vocabulary, self._only = vocabulary, (split,)

    def prepare(self, progress: bool = True) -> None:
        """Tokenizes all splits unless that was done.

        Raises:
            ValueError: if a file cannot be had or read, or is malformed.
        """
        for split in self._only:
            if split in self.files:
                self.pairs(split)

    def prepare_data(self) -> None:
        """Lightning's hook: prepares in one process per node."""
        self.prepare()

    def _sources(self, split: str) -> list[tuple[str, str | None]]:
        """Files of a split, and which language's pairs are wanted of each."""
        if split not in self.files:
            raise ValueError(f"data.{split} is not given; name a file of MNLI or XNLI")
        file = self.files[split]
        if split == "train":
            return [(file, None)]
        return [(file.replace(_LANGUAGE, code), code) for code in self.languages]

    def _read(self, split: str) -> list[Inference]:
        found: list[Inference] = []
        for file, code in self._sources(split):
            made = file.startswith(EMBEDDED)
            read = NLIFile(make_nli(file, code), {}) if made else read_nli(file, self.on_malformed, language=code)
            # Pairs without a label are published so, and said nothing of.
            if wrong := complaint({kind: about for kind, about in read.flaws.items() if "label" not in kind}):
                warnings.warn(f"{file}: {wrong}", stacklevel=2)
            found += read.pairs
        return found

    def _described(self, split: str) -> str:
        files = []
        for file, code in self._sources(split):
            about: list[Any] = [file, code]
            if "://" not in file and not file.startswith(EMBEDDED):
                stat = local_file(file).stat()
                about += [str(local_file(file).resolve()), stat.st_size, stat.st_mtime_ns]
            files.append(about)
        return json.dumps([_VERSION, files, self.on_malformed], sort_keys=True)

    @property
    def vocabulary(self) -> SentencePiece:
        """The vocabulary: a run's or folder's, or one learned from the training text."""
        if self._vocabulary is None:
            if self.vocabulary_dir is not None:
                inside = self.vocabulary_dir / "vocabulary"
                self._vocabulary = load_sentencepiece(str(inside if inside.is_dir() else self.vocabulary_dir))
            elif self.settings.name is not None:
                self._vocabulary = load_sentencepiece(self.settings.name)
            else:
                with writing_to(self.cache_dir):
                    self._vocabulary = self._learned()
        return self._vocabulary

    def _learned(self) -> SentencePiece:
        about = json.dumps([self._described("train"), self.settings.describe()])
        folder = self.cache_dir / f"xnli-vocabulary-{hashlib.sha256(about.encode()).hexdigest()[:12]}"
        if not (folder / "vocabulary.json").is_file():
            texts = [" ".join(asked(pair, self.prompt)) for pair in self._read("train")]
            self.settings.make(lambda _: texts).save(folder)
        vocabulary = load_vocabulary(folder)
        assert isinstance(vocabulary, SentencePiece)
        return vocabulary

    @property
    def vocab_size(self) -> int:
        """Different tokens."""
        return self.vocabulary.size

    def pairs(self, split: str) -> TextPairs:
        """The texts of a split (train, val or test), tokenized."""
        if split not in self._pairs:
            sizes = [self.batch_plan.segmenting(split).seq_len, self.batch_plan.max_target_len]
            how = [self._described(split), self.vocabulary.digest(), sizes, self.prompt, self.input_eos]
            folder = self.cache_dir / f"xnli-{hashlib.sha256(json.dumps(how).encode()).hexdigest()[:12]}"
            with writing_to(self.cache_dir):
                if not folder.is_dir():
                    self.cache_dir.mkdir(parents=True, exist_ok=True)
                    with locked(self.cache_dir / f".{folder.name}.lock"):
                        if not folder.is_dir():
                            self._write(split, folder, *sizes)
            self._pairs[split] = TextPairs.load(folder)
        return self._pairs[split]

    def _write(self, split: str, folder: Path, input_len: int, target_len: int) -> None:
        languages = self.languages_of(split)
        texts = []
        for number, pair in enumerate(self._read(split)):
            language = languages.index(pair.language) if split != "train" else 0
            texts.append(TextPair(*asked(pair, self.prompt), number, language))
        # Where a kill has left one, its files are written over.
        part = folder.with_name(f".{folder.name}.part")
        tokenized(texts, self.vocabulary, input_len, target_len, input_eos=self.input_eos).save(part)
        os.replace(part, folder)

    # What is asked of the texts that are written.

    def asked(self, split: str) -> int:
        """Texts of a split."""
        return len(self.pairs(split))

    def verdicts(self, split: str, output: WrittenTexts) -> dict[int, tuple[int, bool]]:
        """By the number of each text: its language's number, and whether the very label was written."""
        pairs = self.pairs(split)
        found = {}
        for number, text, _ in written(output, self.vocabulary):
            label = self.vocabulary.decode(pairs.pair(number).targets.tolist()).strip()
            found[number] = (int(pairs.language[number]), text == label)
        return found

    # Batches.

    def _batch(self, split: str, rows: NDArray[Any]) -> TextPairBatch:
        seq_len = self.batch_plan.segmenting(split).seq_len
        return self.pairs(split).batch(rows, seq_len, self.batch_plan.max_target_len, self.vocabulary.pad_id)

    def train_dataloader(self) -> DataLoader[TextPairBatch]:
        """Micro-batches from the optimizer's step to the end of the epoch, every time it is iterated."""
        rank, world_size = data_rank(self.trainer)
        order = ShuffledBuckets(
            self.pairs("train").lengths,
            self.batch_plan.global_batch_size,
            rank=rank,
            world_size=world_size,
            passes=self.batch_plan.accumulation(world_size),
            seed=self.seed,
        )
        batches = _Ordered(self, "train", order)
        return PositionLoader(batches, lambda: micro_batches_done(self.trainer, self.batch_plan), self.num_workers)

    def val_dataloader(self) -> DataLoader[TextPairBatch]:
        """Pairs to validate on."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader[TextPairBatch]:
        """Pairs to test on."""
        return self._evaluation("test")

    def _evaluation(self, split: str) -> DataLoader[TextPairBatch]:
        rank, world_size = data_rank(self.trainer)
        plan = self.batch_plan.segmenting(split)
        tokens = max(plan.batch_size // world_size, 1) * plan.seq_len
        order = budgeted(self.pairs(split).lengths, plan.seq_len, tokens, world_size)[rank::world_size]
        return DataLoader(_Listed(self, split, order), batch_size=None, generator=torch.Generator())


@dataclass(frozen=True)
class _Ordered:
    data: XNLIDataModule
    split: str
    order: ShuffledBuckets

    def __len__(self) -> int:
        return len(self.order)

    def batch(self, k: int) -> TextPairBatch:
        return self.data._batch(self.split, self.order.rows(k))


class _Listed(torch.utils.data.Dataset[TextPairBatch]):
    def __init__(self, data: XNLIDataModule, split: str, order: list[NDArray[Any]]) -> None:
        self._data, self._split, self._order = data, split, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, number: int) -> TextPairBatch:
        return self._data._batch(self._split, np.asarray(self._order[number]))
