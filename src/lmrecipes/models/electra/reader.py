"""ELECTRA's encoder with a head that finds the answer to a question in a text."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from lmrecipes.models.common.unpadded import Packing
from lmrecipes.models.electra.config import ReaderConfig
from lmrecipes.models.electra.encoder import build_encoder, embed, encode, faster, initialize
from lmrecipes.models.electra.heads import HEADS, Found, Gold, JointHead, SimpleHead


class ReaderOutput(NamedTuple):
    """Outputs of a forward pass; spans in evaluation only."""

    loss: Tensor
    """Mean over the windows."""
    found: Found | None
    """Spans, by a joint head."""
    logits: tuple[Tensor, Tensor] | None
    """Of start and end at each position, by the simple head."""


class ElectraReader(nn.Module):
    """Extractive question answering."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.electra = build_encoder(config.transformers(), config.init_std)
        self.head = HEADS[config.head](config)
        initialize(self.head, config.init_std)
        faster(self.head)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        lengths: Tensor,
        allowed: Tensor,
        starts: Tensor,
        ends: Tensor,
        impossible: Tensor,
    ) -> ReaderOutput:
        """Loss of a batch of windows, and in evaluation their answers; arguments as in SpanBatch."""
        packing = Packing.of(lengths, input_ids.device)
        embedded_NE = embed(self.electra, packing.pack(input_ids), packing.pack(token_type_ids), packing)
        hidden_BTD = packing.pad(encode(self.electra, embedded_NE, packing))
        allowed = allowed[:, : packing.shape[1]]
        real = packing.pad(embedded_NE.new_ones(len(embedded_NE))).bool()
        gold = Gold(starts, ends, impossible)
        loss = self.head.loss(hidden_BTD, real, allowed, gold)
        if self.training:
            return ReaderOutput(loss, None, None)
        if isinstance(self.head, JointHead):
            return ReaderOutput(loss, self.head.find(hidden_BTD, allowed), None)
        assert isinstance(self.head, SimpleHead)
        return ReaderOutput(loss, None, self.head.logits(hidden_BTD, real))
