"""Heads that find a span in a text: the simple one, and Google's and NVIDIA's joint ones, the end given the start."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrecipes.models.electra.config import ReaderConfig

# B windows, T positions, D width of the encoder, K starts of the beam, S spans.


class Gold(NamedTuple):
    """Where the answers are, each of shape (B,)."""

    starts: Tensor
    ends: Tensor
    impossible: Tensor


class Found(NamedTuple):
    """Spans with scores, each of shape (B, S), and the odds of no answer, (B,)."""

    starts: Tensor
    ends: Tensor
    start_scores: Tensor
    end_scores: Tensor
    null: Tensor


class SimpleHead(nn.Module):
    """Two numbers per token, for start and end; parameters are those of transformers' question answering."""

    null_is_odds = False

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.outputs = nn.Linear(config.d_model, 2)

    def logits(self, hidden_BTD: Tensor, real_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Of start and end, (B, T) each; -inf in padding."""
        start_BT, end_BT = self.outputs(hidden_BTD).float().masked_fill(~real_BT[..., None], -torch.inf).unbind(-1)
        return start_BT, end_BT

    def loss(self, hidden_BTD: Tensor, real_BT: Tensor, allowed_BT: Tensor, gold: Gold) -> Tensor:
        """Mean of the losses of start and end."""
        start_BT, end_BT = self.logits(hidden_BTD, real_BT)
        return (F.cross_entropy(start_BT, gold.starts) + F.cross_entropy(end_BT, gold.ends)) / 2


class JointHead(nn.Module, ABC):
    """Predicts the end given the start, and answerability given the starts."""

    masked: float
    """Added to the logits of positions where no answer may begin or end."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.beam, self.learns_answerable = config.beam, config.answerable
        self.start = nn.Linear(config.d_model, 1)

    @property
    def null_is_odds(self) -> bool:
        """Whether the no-answer score is the log odds of a classifier."""
        return self.learns_answerable

    @abstractmethod
    def end_logits(self, hidden_BTD: Tensor, start_BKD: Tensor) -> Tensor:
        """Logits of the end at each position, given each of K starts: (B, K, T)."""

    @abstractmethod
    def impossible_logits(self, hidden_BTD: Tensor, expected_BD: Tensor, start_BD: Tensor | None) -> Tensor:
        """Log odds of there being no answer (B,).

        Args:
            hidden_BTD: what the encoder makes of the window.
            expected_BD: its mean, weighted with the probability of starting there.
            start_BD: at the true start, in training.
        """

    def _start_logits(self, hidden_BTD: Tensor, allowed_BT: Tensor) -> Tensor:
        return self._masked(self.start(hidden_BTD).squeeze(-1), allowed_BT)

    def _masked(self, logits: Tensor, allowed: Tensor) -> Tensor:
        return logits.float() + self.masked * (~allowed)

    def _expected(self, hidden_BTD: Tensor, start_BT: Tensor) -> Tensor:
        return torch.einsum("bt,btd->bd", start_BT.softmax(-1).to(hidden_BTD.dtype), hidden_BTD)

    def loss(self, hidden_BTD: Tensor, real_BT: Tensor, allowed_BT: Tensor, gold: Gold) -> Tensor:
        """Mean of the losses of the start and of the end given the true start, and half that of answerability."""
        start_BT = self._start_logits(hidden_BTD, allowed_BT)
        start_BD = _at(hidden_BTD, gold.starts[:, None]).squeeze(1)
        end_BT = self._masked(self.end_logits(hidden_BTD, start_BD[:, None]).squeeze(1), allowed_BT)
        loss = (F.cross_entropy(start_BT, gold.starts) + F.cross_entropy(end_BT, gold.ends)) / 2
        if self.learns_answerable:
            odds_B = self.impossible_logits(hidden_BTD, self._expected(hidden_BTD, start_BT), start_BD)
            loss = loss + 0.5 * F.binary_cross_entropy_with_logits(odds_B.float(), gold.impossible)
        return loss

    def find(self, hidden_BTD: Tensor, allowed_BT: Tensor) -> Found:
        """The most probable ends of the most probable starts, with log-probabilities."""
        start_BT = self._start_logits(hidden_BTD, allowed_BT)
        log_start_BT = start_BT.log_softmax(-1)
        beam = min(self.beam, start_BT.shape[1])
        top_BK, starts_BK = log_start_BT.topk(beam, dim=-1)
        log_end_BKT = self._log_ends(hidden_BTD, starts_BK, allowed_BT)
        top_BKK, ends_BKK = log_end_BKT.topk(beam, dim=-1)
        # A window may have fewer positions than the beam.
        top_BK = top_BK.masked_fill(~allowed_BT.gather(1, starts_BK), -torch.inf)
        top_BKK = top_BKK.masked_fill(~allowed_BT[:, None].expand(-1, beam, -1).gather(2, ends_BKK), -torch.inf)
        if self.learns_answerable:
            null_B = self.impossible_logits(hidden_BTD, self._expected(hidden_BTD, start_BT), None).float()
        else:
            first = torch.zeros_like(starts_BK[:, :1])
            null_B = log_start_BT[:, 0] + self._log_ends(hidden_BTD, first, allowed_BT)[:, 0, 0]
        return Found(
            starts=starts_BK[..., None].expand_as(ends_BKK).flatten(1),
            ends=ends_BKK.flatten(1),
            start_scores=top_BK[..., None].expand_as(top_BKK).flatten(1),
            end_scores=top_BKK.flatten(1),
            null=null_B,
        )

    def _log_ends(self, hidden_BTD: Tensor, starts_BK: Tensor, allowed_BT: Tensor) -> Tensor:
        logits_BKT = self.end_logits(hidden_BTD, _at(hidden_BTD, starts_BK))
        return self._masked(logits_BKT, allowed_BT[:, None]).log_softmax(-1)


def _at(hidden_BTD: Tensor, positions_BK: Tensor) -> Tensor:
    return hidden_BTD.gather(1, positions_BK[..., None].expand(-1, -1, hidden_BTD.shape[-1]))


class _Pair(nn.Module):
    """A linear layer over concatenated vectors, one of which is shared by many of the other."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, out)
        self.second = nn.Linear(width, out, bias=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(..., width) twice, to (..., out)."""
        out: Tensor = self.first(first) + self.second(second)
        return out


class GoogleHead(JointHead):
    """The head of Google's `configure_finetuning.py` and `finetune/qa`: gelu, masked by 1000."""

    masked = -1000.0

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__(config)
        self.end_hidden = _Pair(config.d_model, config.d_answer)
        self.end = nn.Linear(config.d_answer, 1)
        if config.answerable:
            self.answer_hidden = _Pair(config.d_model, config.d_answer)
            self.answer = nn.Linear(config.d_answer, 1)

    def end_logits(self, hidden_BTD: Tensor, start_BKD: Tensor) -> Tensor:
        """See JointHead."""
        token_BTA = self.end_hidden.second(hidden_BTD)
        starts = self.end_hidden.first(start_BKD).unbind(1)
        # One start at a time, to bound memory.
        return torch.stack([self.end(F.gelu(token_BTA + one[:, None])).squeeze(-1) for one in starts], dim=1)

    def impossible_logits(self, hidden_BTD: Tensor, expected_BD: Tensor, start_BD: Tensor | None) -> Tensor:
        """See JointHead: of the expected start, in training too."""
        out: Tensor = self.answer(F.gelu(self.answer_hidden(hidden_BTD[:, 0], expected_BD))).squeeze(-1)
        return out


class NvidiaHead(JointHead):
    """The head of NVIDIA's `run_tf_squad.py`: tanh and layer norm, masked by 1e30."""

    masked = -1e30

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__(config)
        width = config.d_model
        self.end_hidden = _Pair(width, width)
        self.end_norm = nn.LayerNorm(width, eps=1e-12)
        self.end = nn.Linear(width, 1)
        if config.answerable:
            self.answer_hidden = _Pair(width, width)
            self.answer = nn.Linear(width, 1, bias=False)

    def end_logits(self, hidden_BTD: Tensor, start_BKD: Tensor) -> Tensor:
        """See JointHead."""
        token_BTD = self.end_hidden.first(hidden_BTD)
        starts = self.end_hidden.second(start_BKD).unbind(1)
        return torch.stack(
            [self.end(self.end_norm((token_BTD + one[:, None]).tanh())).squeeze(-1) for one in starts], dim=1
        )

    def impossible_logits(self, hidden_BTD: Tensor, expected_BD: Tensor, start_BD: Tensor | None) -> Tensor:
        """See JointHead: of the true start in training, of the expected one else."""
        start = expected_BD if start_BD is None else start_BD
        out: Tensor = self.answer(self.answer_hidden(start, hidden_BTD[:, 0]).tanh()).squeeze(-1)
        return out


HEADS: dict[str, type[SimpleHead] | type[JointHead]] = {
    "simple": SimpleHead,
    "google": GoogleHead,
    "nvidia": NvidiaHead,
}
