"""Collators: what a batch of questions is, and how a model's output answers them."""

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
    """What texts are tokenized with."""
    texts: bool = False
    """Whether answers are written, and not found in the context."""

    @abstractmethod
    def layout(self, batch: BatchPlan, split: str, windowing: Mapping[str, Any]) -> Layout:
        """How the questions of a split (train, val or test) become pieces.

        Args:
            batch: sizes.
            split: of the data.
            windowing: the DataModule's settings for windows.
        """

    def layouts(self, batch: BatchPlan, windowing: Mapping[str, Any]) -> dict[str, Layout]:
        """The layout of each split.

        Raises:
            ValueError: for sizes that cannot be, naming the field that they are of.
        """
        found = {}
        for split in ("train", "val", "test"):
            try:
                found[split] = self.layout(batch, split, windowing)
            except ValueError as error:
                own = "" if batch.segmenting(split).seq_len == batch.seq_len else f"{split}."
                raise ValueError(str(error).replace("batch.seq_len", f"batch.{own}seq_len")) from None
        return found

    @abstractmethod
    def batch(self, prepared: PreparedSquad, rows: NDArray[Any], vocabulary: Any, how: Any) -> Any:
        """The batch of the pieces of these numbers; none of them: one that does not count."""

    @abstractmethod
    def evidence(
        self, output: Any, prepared: PreparedSquad, vocabulary: Any, *, n_best: int, max_answer_len: int
    ) -> dict[str, Evidence]:
        """What a step's output says about the questions, by their ids."""


class SpanCollator(SquadCollator):
    """Windows in which the answer is a span: SpanBatch in, SpanScores out."""

    vocabulary_class = WordPiece

    def layout(self, batch: BatchPlan, split: str, windowing: Mapping[str, Any]) -> Windowing:
        """Windows."""
        return Windowing(seq_len=batch.segmenting(split).seq_len, **windowing)

    def batch(self, prepared: PreparedSquad, rows: NDArray[Any], vocabulary: WordPiece, how: Windowing) -> SpanBatch:
        """Windows, padded to the longest of them."""
        windows = cast(Windows, prepared.pieces)
        numbers = rows.astype(np.int64) if len(rows) else np.array([-1])
        rows = np.maximum(numbers, 0)
        lengths = windows.lengths[rows]
        wide = width(lengths, how.seq_len)
        input_ids = np.zeros((len(rows), wide), dtype=np.int64)
        for row, window, length in zip(input_ids, rows.tolist(), lengths.tolist(), strict=True):
            row[:length] = windows.ids(window, vocabulary.cls_id, vocabulary.sep_id)
        positions, behind = np.arange(wide), lengths[:, None]
        in_context = (positions >= windows.context_position(rows)[:, None]) & (positions < behind)
        return SpanBatch(
            input_ids=torch.from_numpy(input_ids),
            token_type_ids=torch.from_numpy(in_context.astype(np.int64)),
            lengths=torch.from_numpy(lengths.astype(np.int64)),
            allowed=torch.from_numpy((in_context & (positions < behind - 1)) | (positions == 0)),
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
    """Questions as texts that are answered in writing: TextPairBatch in, WrittenTexts out."""

    vocabulary_class = SentencePiece
    texts = True

    def __init__(self, prompt: Prompt = "nemo", input_eos: bool = True) -> None:
        """Says how questions are put.

        Args:
            prompt: nemo: Title, Paragraph, Question. google: question, context.
            input_eos: whether an input ends with the end of a text; as it was when the model was pretrained.
        """
        self.prompt: Prompt = prompt
        self.input_eos = input_eos

    def layout(self, batch: BatchPlan, split: str, windowing: Mapping[str, Any]) -> TextLayout:
        """Whole questions; in training one for each of its answers."""
        return TextLayout(
            seq_len=batch.segmenting(split).seq_len,
            target_len=batch.max_target_len,
            prompt=self.prompt,
            every_answer=split == "train",
            input_eos=self.input_eos,
        )

    def batch(
        self, prepared: PreparedSquad, rows: NDArray[Any], vocabulary: SentencePiece, how: TextLayout
    ) -> TextPairBatch:
        """Questions, padded to the longest of them."""
        pairs = cast(TextPairs, prepared.pieces)
        return pairs.batch(rows, how.seq_len, how.target_len, vocabulary.pad_id)

    def evidence(
        self,
        output: WrittenTexts,
        prepared: PreparedSquad,
        vocabulary: SentencePiece,
        *,
        n_best: int,
        max_answer_len: int,
    ) -> dict[str, Evidence]:
        """Texts as they were written."""
        questions = prepared.questions
        return {
            questions[number].id: Evidence((Candidate(text, score, 0.0),))
            for number, text, score in written(output, vocabulary)
        }
