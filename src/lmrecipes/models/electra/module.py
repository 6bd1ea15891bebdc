"""ELECTRA's pretraining as a LightningModule: steps, losses, metrics, optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lmrecipes.batches import BatchPlan, MaskedBatch
from lmrecipes.metrics.replaced_tokens import ReplacedTokens
from lmrecipes.models.common.hf import is_fresh_start, made_up
from lmrecipes.models.common.module import RecipeModule
from lmrecipes.models.common.parallel_plan import ParallelPlan
from lmrecipes.models.common.vocab_size import corpus_of
from lmrecipes.models.electra import hf
from lmrecipes.models.electra.config import ElectraConfig
from lmrecipes.models.electra.network import Electra, PretrainingOutput
from lmrecipes.models.electra.parallel import pretraining_plan
from lmrecipes.models.electra.tiny import tiny
from lmrecipes.optim import GroupSettings, Schedule
from lmrecipes.trainer_state import logs_step

_LOSSES = ("generator_loss", "discriminator_loss")


class ElectraModule(RecipeModule):
    """Replaced token detection (Clark et al. 2020, arXiv:2003.10555)."""

    network: Electra
    batch_type = MaskedBatch
    batch_fields = frozenset(("seq_len",))
    tiny_config = staticmethod(tiny)

    def __init__(
        self,
        config: ElectraConfig,
        optimizer: OptimizerCallable,
        schedule: Schedule,
        batch: BatchPlan,
        groups: GroupSettings | None = None,
        pretrained: hf.Pretrained | None = None,
        compile: bool = False,
    ) -> None:
        """Stores the settings; `configure_model` builds the network once the vocabulary is known.

        Args:
            config: sizes of the networks.
            optimizer: makes the optimizer from the parameters.
            schedule: learning rate by step.
            batch: how text is cut; a recipe's `batch:` group.
            groups: parameter groups of the optimizer; default: no weight decay for norms and biases.
            pretrained: published networks to initialize from.
            compile: whether to apply torch.compile to the network.
        """
        config.check_length(batch.seq_len)
        super().__init__(config, optimizer, schedule, batch, groups=groups, compile=compile)
        self._pretrained = pretrained
        for name in _LOSSES:
            self.add_metric(name)
        self.add_metric("tokens", ReplacedTokens)

    def build(self) -> Electra:
        """Generator and discriminator."""
        return Electra(self.config)

    def initialize(self) -> None:
        """Loads published weights into both, if the recipe names some."""
        if self._pretrained is not None and is_fresh_start(self):
            hf.load_pretraining(self.network, self._pretrained)

    def loss(self, batch: MaskedBatch, split: str) -> Tensor:
        """Weighted sum of both losses of a batch."""
        out: PretrainingOutput = self.network(**batch._asdict())
        # Losses are means; weigh them by their token counts.
        counts = (len(out.originals), len(out.replaced))
        for name, count in zip(_LOSSES, counts, strict=True):
            self.metric(split, name).update(getattr(out, name).detach().expand(count))
        # In training only on logged steps: the metrics cost as much as a small network.
        if split != "train" or logs_step(self.trainer):
            self.metric(split, "tokens").update(
                out.generator_logits, out.originals, out.sampled, out.discriminator_logits, out.replaced
            )
        return out.loss

    def compute_metrics(self, split: str) -> dict[str, Tensor]:
        """Losses over all micro-batches since the last logged step; of tokens see `ReplacedTokens`."""
        losses = {name: self.metric(split, name).compute() for name in _LOSSES}
        total = self.config.weighted(*losses.values())
        return {**losses, "loss": total, **self.metric(split, "tokens").compute()}

    @property
    def parallel_plan(self) -> ParallelPlan:
        """How the network is sharded and split over processes."""
        return pretraining_plan(self.config)

    def example(self) -> dict[str, Any]:
        """Synthetic arguments of one forward pass, by name."""
        ids, first = made_up(self.config), torch.zeros(2, 1, dtype=torch.long)
        return {
            "input_ids": ids,
            "token_type_ids": torch.zeros_like(ids),
            "lengths": torch.full((2,), ids.shape[1]),
            "positions": first,
            "originals": ids[:, :1],
            "weights": torch.ones(2, 1),
        }

    def export_hf(self, folder: Path, vocabulary: Any) -> list[Path]:
        """Writes `discriminator` and `generator`, which transformers loads, with the vocabulary."""
        return hf.write_pretraining(self.network, folder, vocabulary)

    def count(self, batch: MaskedBatch) -> tuple[int, int]:
        """Sequences and real tokens of a batch, for throughput."""
        return len(batch.lengths), int(batch.lengths.sum())

    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token, forward and backward."""
        masking = getattr(getattr(corpus_of(self), "objective", None), "masking", None)
        predicted = 0.15 if masking is None else masking.mask_prob
        return self.config.flops_per_token(self.batch_plan.sequence_length, predicted)
