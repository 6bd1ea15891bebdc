"""mC4: web pages in many languages, as texts with spans left out (Xue et al. 2021, arXiv:2010.11934)."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from lmrecipes.batches import BatchPlan, TextPairBatch
from lmrecipes.data.corpora.documents import EMBEDDED_LANGUAGE, DocumentSource
from lmrecipes.data.corpora.malformed import OnMalformedLine
from lmrecipes.data.embedded.languages import LANGUAGES
from lmrecipes.data.objectives.row_packing import Packing, Rows, index_rows
from lmrecipes.data.objectives.seq2seq_lm import Corruptor, PairEvaluationBatches, PairTrainingBatches
from lmrecipes.data.objectives.span_corruption import SpanCorruption
from lmrecipes.data.prepared.cache import writing_to
from lmrecipes.data.prepared.examples import Examples
from lmrecipes.data.prepared.shards import ALL, Share
from lmrecipes.data.sampling.interleaving import Interleaving
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings
from lmrecipes.datamodules.prepared_documents import PreparedDocuments
from lmrecipes.datamodules.resumable_loader import PositionLoader, micro_batches_done
from lmrecipes.trainer_state import data_rank

_LANGUAGE = "{language}"


class MC4DataModule(PreparedDocuments):
    """Documents by language, tokenized once, packed into rows and corrupted anew whenever they are read.

    Which row comes when is arithmetic on the optimizer step: a run that was killed reads on exactly, nothing lost or
    repeated, with any number of workers; and with any number of ranks, as long as the global batch stays as it is.
    """

    name = "mc4"
    vocabulary_class, vocabulary_name = SentencePiece, "SentencePiece"
    batch_fields = frozenset(
        (
            "seq_len",
            "target_len",
        )
    )
    # What a rehearsal needs for texts with spans.
    tiny_lengths: ClassVar[dict[str, int]] = {"seq_len": 32, "target_len": 16}

    def __init__(
        self,
        batch: BatchPlan,
        languages: Sequence[str] = LANGUAGES,
        path: str | None = None,
        paths: dict[str, str] | None = None,
        repository: str | None = "allenai/c4",
        revision: str | None = None,
        max_files: int | None = None,
        key: str = "text",
        alpha: float = 0.7,
        weigh_by: Literal["tokens", "documents"] = "tokens",
        corruption: SpanCorruption | None = None,
        packed: bool = True,
        sentencepiece: SentencePieceSettings | None = None,
        held_out: float = 0.0001,
        on_malformed: OnMalformedLine = "refuse",
        cache_dir: str | None = None,
        num_workers: int = 0,
        seed: int = 1234,
        vocabulary_dir: str | None = None,
    ) -> None:
        """Holds the settings; nothing is read yet.

        Args:
            batch: a recipe's `batch:` group: seq_len tokens of a row's inputs and target_len of its targets.
            languages: which ones, by code.
            path: local files in place of the hub's, with {language} for the code: a file, folder or pattern, such as
                corpus/{language} or corpus/c4-{language}.*.json.gz; JSON lines, text or parquet, also .gz and .zst.
                embedded:{language} for made-up sentences.
            paths: files of single languages in place of these, by code.
            repository: repository on the Hugging Face hub that is laid out as allenai/c4 is, English from C4 itself.
            revision: branch, tag or commit of the repository; left out, the newest.
            max_files: how many of the repository's files of a language to read at most.
            key: key or column that holds the text.
            alpha: a language is drawn as often as its size to this power; 1: as large as it is, 0: all alike.
            weigh_by: what its size is: tokens, as in NeMo (0.7), or documents, as in Google's (0.3).
            corruption: what is left out of a text; left out, as Google's.
            packed: whether a row takes several texts, or one.
            sentencepiece: which vocabulary to make; left out, one is learned from the documents.
            held_out: share of the documents for validation, and as many again for the test.
            on_malformed: what to do about lines that are no JSON, have no text, or are cut short: refuse, or skip.
            cache_dir: where prepared data goes; left out, $LMRECIPES_CACHE or ~/.cache/lmrecipes.
            num_workers: processes that load training batches; a core makes about half a million tokens a second.
            seed: for splits, order and spans.
            vocabulary_dir: a saved vocabulary to use instead of making one.

        Raises:
            ValueError: for settings that cannot be, naming the field.
        """
        if not languages or len(set(languages)) < len(languages):
            raise ValueError(f"data.languages is {list(languages)}; give one or more, each once, such as [en, de]")
        if not 0 <= alpha <= 1:
            raise ValueError(f"data.alpha is {alpha}; it must be 0 to 1, such as 0.7")
        if unknown := [code for code in paths or {} if code not in languages]:
            raise ValueError(f"data.paths names {unknown[0]}, which is none of data.languages: {', '.join(languages)}")
        if path is not None and _LANGUAGE not in path and len(languages) > 1:
            raise ValueError(f"data.path is {path}; it needs {_LANGUAGE} where a language's code stands")
        self.languages = list(languages)
        self.alpha, self.weigh_by = alpha, weigh_by
        self.corruption = corruption or SpanCorruption()
        self.packed = packed
        self.path = path
        # Fails at once where no text has room.
        self.corruption.longest_text(batch.sequence_length, batch.max_target_len)
        common: dict[str, Any] = {"key": key, "on_malformed": on_malformed}
        sources = []
        for code in self.languages:
            place = (paths or {}).get(code) or (path and path.replace(_LANGUAGE, code))
            if place is not None:
                sources.append(DocumentSource(name=code, path=place, documents=_boundaries(place), **common))
            else:
                where: dict[str, Any] = _in_c4(code) | {"revision": revision, "max_files": max_files}
                sources.append(DocumentSource(name=code, repository=repository, **where, **common))
        for source in sources:
            source.check()
        super().__init__(
            batch,
            sources,
            sentencepiece or SentencePieceSettings(),
            seq_len=0,
            held_out=held_out,
            cache_dir=cache_dir,
            num_workers=num_workers,
            seed=seed,
            vocabulary_dir=vocabulary_dir,
        )
        self._indexed: dict[str, Rows] = {}
        self._counting: PairTrainingBatches | None = None

    @staticmethod
    def tiny_data(settings: Mapping[str, Any], text: Path) -> dict[str, Any]:
        """What makes a rehearsal's corpus small: every line of a text is a document of each of three languages."""
        languages = list(settings["languages"])[:3]
        return {
            "languages": languages,
            "path": None,
            "paths": dict.fromkeys(languages, str(text / "train.txt")),
            "sentencepiece": {"vocab_size": 400},
            "vocabulary_dir": None,
            "held_out": 0.2,
        }

    def prepare(self, progress: bool = True, workers: int | None = None, share: Share = ALL) -> None:
        """Tokenizes the documents and packs them into rows unless that was done; training then needs no network.

        Raises:
            ValueError: if the text cannot be had or read; naming the language, and the line.
        """
        if self._given is None:
            self._complain_of_missing()
        super().prepare(progress, workers, share)
        if self.ready:
            for split in ("train", "val", "test"):
                self.rows(split)

    def _complain_of_missing(self) -> None:
        missing = [source.name for source in self.sources if source.gone]
        # All gone is no language missing: what was prepared of them before may still be there.
        if not missing or len(missing) == len(self.sources) or self.path is None:
            return
        before, _, behind = self.path.partition(_LANGUAGE)
        there = {name[len(before) :] for name in glob.glob(f"{before}*{behind}")} if behind == "" else set()
        have = sorted(there) or [source.name for source in self.sources if not source.gone]
        raise ValueError(
            f"data.languages has {', '.join(missing)}, but {self.path} has no such files; "
            f"it has {', '.join(have)}; leave the missing out, or give their files with data.paths"
        )

    @property
    def vocabulary(self) -> SentencePiece:
        """The vocabulary."""
        return cast(SentencePiece, self.prepared.vocabulary)

    def _packing(self, split: str) -> Packing:
        return Packing(
            corruption=self.corruption,
            input_len=self.batch_plan.sequence_length,
            target_len=self.batch_plan.max_target_len,
            n_sentinels=self.vocabulary.n_sentinels,
            packed=self.packed and split == "train",
        )

    def _index(self, split: str) -> Rows:
        how = self._packing(split)
        digest = hashlib.sha256(json.dumps(asdict(how), sort_keys=True).encode()).hexdigest()[:12]
        starts = Examples(self.prepared, split).starts
        with writing_to(self.cache_dir):
            return index_rows(self.prepared.folder / f"{split}.rows.{digest}", starts, self._documents(split), how)

    def rows(self, split: str) -> Rows:
        """The rows of a split: packed for training, one text each to evaluate."""
        if split not in self._indexed:
            self._indexed[split] = self._index(split)
        return self._indexed[split]

    def _documents(self, split: str) -> list[int]:
        found: list[int] = self.prepared.split(split)["examples"]
        return found

    def corruptor(self, split: str) -> Corruptor:
        """What makes pairs of the rows of a split.

        Raises:
            ValueError: if it has none.
        """
        rows = self.rows(split)
        if not len(rows):
            raise self.nothing(split)
        starts = Examples(self.prepared, split).starts
        return Corruptor(self.prepared.tokens(split), starts, rows, self.vocabulary, self.seed)

    def shares(self) -> NDArray[np.float64]:
        """How often each language is drawn, as shares of all rows.

        Raises:
            ValueError: if a language has no training text.
        """
        documents = self._documents("train")
        if empty := [code for code, n in zip(self.languages, documents, strict=True) if not n]:
            raise ValueError(f"data.languages has {empty[0]}, but no training document of it has text; leave it out")
        ends = np.cumsum([0, *documents])
        sizes = np.diff(Examples(self.prepared, "train").starts[ends]) if self.weigh_by == "tokens" else documents
        weights = np.asarray(sizes, dtype=np.float64) ** self.alpha
        found: NDArray[np.float64] = weights / weights.sum()
        return found

    def train_batches(self) -> PairTrainingBatches:
        """This rank's training batches.

        Raises:
            ValueError: if batch and ranks do not divide; naming the field.
        """
        place = data_rank(self.trainer)
        n_chunks = self.batch_plan.accumulation(place.size)
        corruptor = self.corruptor("train")
        order = Interleaving(corruptor.rows.counts, self.shares().tolist(), self.seed)
        return PairTrainingBatches(
            corruptor, order, batch_size=self.batch_plan.global_batch_size, place=place, n_chunks=n_chunks
        )

    def tokens_by_language(self, first_step: int, end: int) -> dict[str, int]:
        """Tokens of text that all ranks together read in steps from one to before another, by language."""
        self._counting = self._counting or self.train_batches()
        found = self._counting.text_tokens(first_step, end, len(self.languages))
        return dict(zip(self.languages, found.tolist(), strict=True))

    def evaluation_batches(self, split: str) -> PairEvaluationBatches:
        """This rank's batches of a held-out split."""
        size = self.batch_plan.segmenting(split).batch_size
        place = data_rank(self.trainer)
        return PairEvaluationBatches(self.corruptor(split), batch_size=size, place=place, seed=self.seed)

    def train_dataloader(self) -> DataLoader[TextPairBatch]:
        """Micro-batches from the optimizer's step to the end of the epoch, every time it is iterated."""
        return PositionLoader(
            self.train_batches(), lambda: micro_batches_done(self.trainer, self.batch_plan), self.num_workers
        )

    def val_dataloader(self) -> DataLoader[TextPairBatch]:
        """Validation texts, one a row, always with the same spans."""
        return PositionLoader(self.evaluation_batches("val"))

    def test_dataloader(self) -> DataLoader[TextPairBatch]:
        """Test texts, one a row, always with the same spans."""
        return PositionLoader(self.evaluation_batches("test"))


def _in_c4(code: str) -> dict[str, str]:
    """Where allenai/c4 has a language: English cleaned, the others in mC4."""
    if code == "en":
        return {"config": "en", "files_named": "c4-train.*.json.gz"}
    return {"config": "multilingual", "files_named": f"c4-{code}.tfrecord-*.json.gz"}


def _boundaries(place: str) -> Literal["line"] | None:
    """Of a plain text a line is a document; other forms say it themselves."""
    plain = not place.startswith(EMBEDDED_LANGUAGE) and os.path.basename(place).endswith(
        (".txt", ".txt.gz", ".txt.zst")
    )
    return "line" if plain else None
