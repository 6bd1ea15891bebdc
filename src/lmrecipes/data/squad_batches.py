"""What a batch of questions is for an objective, and how a model's output answers them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lmrecipes.batches import SpanBatch, SpanScores
from lmrecipes.data.answers import Evidence, evidence_of
from lmrecipes.data.buckets import width
from lmrecipes.data.prepared_squad import PreparedSquad
from lmrecipes.data.wordpiece import WordPiece


class SquadCollator(ABC):
    """An objective's view of prepared questions."""

    @abstractmethod
    def batch(self, prepared: PreparedSquad, rows: NDArray[Any], vocabulary: WordPiece, seq_len: int) -> Any:
        """The batch of the windows of these numbers; none of them: one that does not count."""

    @abstractmethod
    def evidence(
        self, output: Any, prepared: PreparedSquad, *, n_best: int, max_answer_len: int
    ) -> dict[str, Evidence]:
        """What a step's output says about the questions, by their ids."""


class SpanCollator(SquadCollator):
    """Windows in which the answer is a span: SpanBatch in, SpanScores out."""

    def batch(self, prepared: PreparedSquad, rows: NDArray[Any], vocabulary: WordPiece, seq_len: int) -> SpanBatch:
        """Windows, padded to the longest of them."""
        windows = prepared.windows
        numbers = rows.astype(np.int64) if len(rows) else np.array([-1])
        rows = np.maximum(numbers, 0)
        lengths = windows.lengths[rows]
        wide = width(lengths, seq_len)
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
        self, output: SpanScores, prepared: PreparedSquad, *, n_best: int, max_answer_len: int
    ) -> dict[str, Evidence]:
        """Spans as texts of their contexts."""
        return evidence_of(output, prepared.windows, prepared.questions, n_best=n_best, max_answer_len=max_answer_len)
