"""Collators: batches of questions, and answers from a model's output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from lmrecipes.batches import BatchPlan, SpanBatch, SpanScores, TextPairBatch, WrittenTexts
from lmrecipes.data.sampling.length_buckets import width
from lmrecipes.data.tasks.squad.answers import Candidate, Evidence, evidence_of
from lmrecipes.data.tasks.squad.prepared import Layout, PreparedSquad
from lmrecipes.data.tasks.squad.text import Prompt, TextLayout
from lmrecipes.data.tasks.squad.windows import Windowing, Windows
from lmrecipes.data.tasks.text_pairs import TextPairs, written
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.wordpiece import WordPiece


class SquadCollator(ABC):
    """An objective's view of prepared questions."""

    vocabulary_class: type[Vocabulary]
    """Kind of vocabulary that it needs."""
    batch_type: type
    """Type of its batches, of `lmrecipes.batches`."""
    texts: bool = False
    """Whether answers are generated instead of found in the context."""

    @abstractmethod
    def layout(self, batch: BatchPlan, split: str, windowing: Mapping[str, Any]) -> Layout:
        """How the questions of a split (train, val or test) become pieces, given the settings of `Windowing`."""

    def layouts(self, batch: BatchPlan, windowing: Mapping[str, Any]) -> dict[str, Layout]:
        """The layout of each split.

        Raises:
            ValueError: for invalid sizes, naming the field.
        """
        _ = batch.sequence_length  # which must be set
        layouts = {}
        for split in ("train", "val", "test"):
            try:
                layouts[split] = self.layout(batch, split, windowing)
            except ValueError as error:
                prefix = "" if batch.for_split(split).seq_len == batch.seq_len else f"{split}."
                raise ValueError(str(error).replace("batch.seq_len", f"batch.{prefix}seq_len")) from None
        return layouts

    @abstractmethod
    def batch(self, prepared: PreparedSquad, rows: NDArray[Any], vocabulary: Any, layout: Any) -> Any:
        """The batch of the pieces with these numbers; without any, a batch with weight zero."""

    @abstractmethod
    def evidence(
        self, output: Any, prepared: PreparedSquad, vocabulary: Any, *, n_best: int, max_answer_len: int
    ) -> dict[str, Evidence]:
        """Candidate answers from a step's output, by question id."""


class SpanCollator(SquadCollator):
    """Windows, with answers as spans: SpanBatch in, SpanScores out."""

    vocabulary_class = WordPiece
    batch_type = SpanBatch

    def layout(self, batch: BatchPlan, split: str, windowing: Mapping[str, Any]) -> Windowing:
        """Windows."""
        return Windowing(seq_len=batch.for_split(split).seq_len, **windowing)

    def batch(self, prepared: PreparedSquad, rows: NDArray[Any], vocabulary: WordPiece, layout: Windowing) -> SpanBatch:
        """Windows, padded to the longest of them."""
        windows = cast(Windows, prepared.pieces)
        numbers = rows.astype(np.int64) if len(rows) else np.array([-1])
        rows = np.maximum(numbers, 0)
        lengths = windows.lengths[rows]
        wide = width(lengths, layout.seq_len)
        input_ids = np.zeros((len(rows), wide), dtype=np.int64)
        for row, window, length in zip(input_ids, rows.tolist(), lengths.tolist(), strict=True):
            row[:length] = windows.ids(window, vocabulary.cls_id, vocabulary.sep_id)
        positions, ends = np.arange(wide), lengths[:, None]
        in_context = (positions >= windows.context_position(rows)[:, None]) & (positions < ends)
        return SpanBatch(
            input_ids=torch.from_numpy(input_ids),
            token_type_ids=torch.from_numpy(in_context.astype(np.int64)),
            lengths=torch.from_numpy(lengths.astype(np.int64)),
            allowed=torch.from_numpy((in_context & (positions < ends - 1)) | (positions == 0)),
            starts=torch.from_numpy(windows.start[rows].astype(np.int64)),
            ends=torch.from_numpy(windows.end[rows].astype(np.int64)),
            impossible=torch.from_numpy(windows.impossible[rows].astype(np.float32)),
            windows=torch.from_numpy(numbers),
        )

    def evidence(
        self, output: SpanScores, prepared: PreparedSquad, vocabulary: Any, *, n_best: int, max_answer_len: int
    ) -> dict[str, Evidence]:
        """Spans as texts of their contexts."""
        return evidence_of(output, prepared.pieces, prepared.questions, n_best=n_best, max_answer_len=max_answer_len)


class TextCollator(SquadCollator):
    """Questions as texts, with generated answers: TextPairBatch in, WrittenTexts out."""

    vocabulary_class = SentencePiece
    batch_type = TextPairBatch
    texts = True

    def __init__(self, prompt: Prompt = "nemo", input_eos: bool = True) -> None:
        """Sets the format of inputs.

        Args:
            prompt: nemo: Title, Paragraph, Question. google: question, context.
            input_eos: whether an input ends with </s>, as in pretraining.
        """
        self.prompt: Prompt = prompt
        self.input_eos = input_eos

    def layout(self, batch: BatchPlan, split: str, windowing: Mapping[str, Any]) -> TextLayout:
        """Whole questions; in training one per answer."""
        return TextLayout(
            seq_len=batch.for_split(split).seq_len,
            target_len=batch.max_target_len,
            prompt=self.prompt,
            every_answer=split == "train",
            input_eos=self.input_eos,
        )

    def batch(
        self, prepared: PreparedSquad, rows: NDArray[Any], vocabulary: SentencePiece, layout: TextLayout
    ) -> TextPairBatch:
        """Questions, padded to the longest of them."""
        pairs = cast(TextPairs, prepared.pieces)
        return pairs.batch(rows, layout.seq_len, layout.target_len, vocabulary.pad_id)

    def evidence(
        self,
        output: WrittenTexts,
        prepared: PreparedSquad,
        vocabulary: SentencePiece,
        *,
        n_best: int,
        max_answer_len: int,
    ) -> dict[str, Evidence]:
        """The generated texts."""
        questions = prepared.questions
        return {
            questions[number].id: Evidence((Candidate(text, score, 0.0),))
            for number, text, score in written(output, vocabulary)
        }
