"""Answering questions by spans of a text as a LightningModule: steps, loss, optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lmrecipes.batches import BatchPlan, SpanBatch, SpanScores
from lmrecipes.checkpoints.weights import check_weights, own_weights
from lmrecipes.data.tasks.squad.best_spans import best_spans
from lmrecipes.models.common.hf import is_fresh_start, made_up
from lmrecipes.models.common.module import RecipeModule
from lmrecipes.models.common.parallel_plan import ParallelPlan
from lmrecipes.models.electra import hf
from lmrecipes.models.electra.config import ReaderConfig
from lmrecipes.models.electra.parallel import reader_plan
from lmrecipes.models.electra.reader import ElectraReader
from lmrecipes.models.electra.tiny import tiny
from lmrecipes.optim import GroupSettings, Schedule

# Fields of a batch that concern the search for answers, not the network.
_NOT_READ = ("windows", "n_best", "max_answer_len")


class ElectraReaderModule(RecipeModule):
    """Fine-tuning on SQuAD-shaped data; evaluation steps hand over the spans that were found."""

    network: ElectraReader
    batch_type = SpanBatch
    batch_fields = frozenset(("seq_len",))
    tiny_config = staticmethod(tiny)

    def __init__(
        self,
        config: ReaderConfig,
        optimizer: OptimizerCallable,
        schedule: Schedule,
        batch: BatchPlan,
        groups: GroupSettings | None = None,
        pretrained: str | None = None,
        compile: bool = False,
    ) -> None:
        """Stores the settings; `configure_model` builds the network once the vocabulary is known.

        Args:
            config: sizes of the encoder, and the head.
            optimizer: makes the optimizer from the parameters.
            schedule: learning rate by step.
            batch: how windows are batched; a recipe's `batch:` group.
            groups: parameter groups of the optimizer; default: no weight decay for norms and biases.
            pretrained: folder or hub name of a published discriminator to initialize from.
            compile: whether to apply torch.compile to the network.
        """
        config.check_length(batch.seq_len)
        super().__init__(config, optimizer, schedule, batch, groups=groups, compile=compile)
        self._pretrained = pretrained
        self.add_metric("loss")

    def build(self) -> ElectraReader:
        """Encoder and head."""
        return ElectraReader(self.config)

    def initialize(self) -> None:
        """Loads published weights into the encoder, if the recipe names some."""
        if self._pretrained is not None and is_fresh_start(self):
            hf.load_reader(self.network, self._pretrained)

    def select_weights(self, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """Another run's weights to start from: a pretrained discriminator's encoder, or all of a reader.

        Args:
            weights: the other run's weights.
            source: what the user gave, for messages.

        Raises:
            ValueError: if they are of neither, or of another size.
        """
        expected = own_weights(self)
        theirs, ours = "network.discriminator.", "network.electra."
        if any(name.startswith(theirs) for name in weights):
            expected = {name: value for name, value in expected.items() if name.startswith(ours)}
            weights = {ours + name.removeprefix(theirs): v for name, v in weights.items() if name.startswith(theirs)}
        check_weights(weights, expected, source)
        return dict(weights)

    def _run(self, batch: SpanBatch, split: str) -> Any:
        out = self.network(**{name: value for name, value in batch._asdict().items() if name not in _NOT_READ})
        self.metric(split, "loss").update(out.loss.detach().expand(len(batch.lengths)))
        return out

    def loss(self, batch: SpanBatch, split: str) -> Tensor:
        """Mean loss over the windows of a batch."""
        loss: Tensor = self._run(batch, split).loss
        return loss

    def evaluate(self, batch: SpanBatch, split: str) -> SpanScores:
        """The best spans of each window, and the odds that it has no answer."""
        out = self._run(batch, split)
        if out.logits is not None:
            start, end = out.logits
            shown = batch._replace(allowed=batch.allowed[:, : start.shape[1]])
            return best_spans(start, end, shown, n_best=batch.n_best, max_answer_len=batch.max_answer_len)
        odds = self.config.answerable
        return SpanScores(windows=batch.windows, **out.found._asdict(), null_is_odds=odds)

    def predict_step(self, batch: SpanBatch, batch_idx: int) -> SpanScores:
        """The best spans of each window."""
        return self.evaluate(batch, "test")

    def depth(self, name: str) -> int:
        """Depth of a parameter: embeddings 0, layer i of the encoder i + 1, the head one above the next."""
        parts = name.split(".")
        if parts[0] != "electra":
            return self.config.n_layers + 2
        return int(parts[3]) + 1 if parts[1:3] == ["encoder", "layer"] else 0

    @property
    def parallel_plan(self) -> ParallelPlan:
        """How the network is sharded and split over processes."""
        return reader_plan(self.config)

    def example(self) -> dict[str, Any]:
        """Synthetic arguments of one forward pass, by name."""
        ids, first = made_up(self.config), torch.zeros(2, dtype=torch.long)
        return {
            "input_ids": ids,
            "token_type_ids": torch.zeros_like(ids),
            "lengths": torch.full((2,), ids.shape[1]),
            "allowed": torch.ones_like(ids, dtype=torch.bool),
            "starts": first,
            "ends": first,
            "impossible": torch.zeros(2),
        }

    def export_hf(self, folder: Path, vocabulary: Any) -> list[Path]:
        """Writes a folder that transformers loads, with the vocabulary."""
        return hf.write_reader(self.network, folder, vocabulary)

    def count(self, batch: SpanBatch) -> tuple[int, int]:
        """Windows and real tokens of a batch, for throughput."""
        return len(batch.lengths), int(batch.lengths.sum())

    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token, forward and backward."""
        return self.config.flops_per_token(self.batch_plan.sequence_length)
