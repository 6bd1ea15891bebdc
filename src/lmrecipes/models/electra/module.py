"""ELECTRA's pretraining as a LightningModule: steps, losses, figures, optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lmrecipes.batches import BatchPlan, MaskedBatch
from lmrecipes.metrics.perplexity import TokenLoss
from lmrecipes.metrics.replaced_tokens import ReplacedTokens
from lmrecipes.models.common.hf import begins
from lmrecipes.models.common.parallel_plan import ParallelPlan
from lmrecipes.models.common.vocab_size import corpus_of, with_vocabulary
from lmrecipes.models.electra import hf
from lmrecipes.models.electra.config import ElectraConfig
from lmrecipes.models.electra.network import Electra, PretrainingOutput
from lmrecipes.models.electra.parallel import pretraining_plan
from lmrecipes.models.electra.tiny import tiny
from lmrecipes.optim import GroupSettings, Schedule, StepSchedule, build_optimizer, parameter_groups
from lmrecipes.trainer_state import completes_step, logs_step

_LOSSES = ("generator_loss", "discriminator_loss")


class ElectraModule(LightningModule):
    """Replaced token detection (Clark et al. 2020, arXiv:2003.10555)."""

    network: Electra
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
        """Holds the settings; the network is built by `configure_model`, when the vocabulary is known.

        Args:
            config: sizes of the networks.
            optimizer: makes the optimizer from the parameters.
            schedule: learning rate by step.
            batch: how text is cut; a recipe's `batch:` group.
            groups: which parameters the optimizer treats otherwise; left out, norms and biases have no weight decay.
            pretrained: folders of published networks to begin with.
            compile: whether torch.compile is applied to the network.
        """
        super().__init__()
        self.config = config
        self.batch_plan = batch
        self._optimizer = optimizer
        self._schedule = schedule
        self._groups = groups or GroupSettings()
        self._pretrained = pretrained
        self._compile = compile
        splits = ("train", "val", "test")
        self._means = torch.nn.ModuleDict({f"{split}_{name}": TokenLoss() for split in splits for name in _LOSSES})
        self._tokens = torch.nn.ModuleDict({f"{split}_tokens": ReplacedTokens() for split in splits})

    def configure_model(self) -> None:
        """Builds the network, for the corpus's vocabulary where the recipe leaves its size open."""
        if hasattr(self, "network"):
            return
        self.config = with_vocabulary(self.config, corpus_of(self))
        self.network = Electra(self.config)
        if self._pretrained is not None and begins(self):
            hf.load_pretraining(self.network, self._pretrained)
        if self._compile:
            self.network.compile()

    def training_step(self, batch: MaskedBatch, batch_idx: int) -> Tensor:
        """Weighted sum of both losses of one micro-batch."""
        out = self.network(**batch._asdict())
        self._add("train", out, tokens=logs_step(self.trainer))
        if logs_step(self.trainer) and completes_step(self.trainer):
            # Losses over all passes since the last logged step, the rest over those of this one.
            self._report("train")
        loss: Tensor = out.loss
        return loss

    def validation_step(self, batch: MaskedBatch, batch_idx: int) -> None:
        """Adds a batch to the validation figures."""
        self._add("val", self.network(**batch._asdict()), tokens=True)

    def test_step(self, batch: MaskedBatch, batch_idx: int) -> None:
        """Adds a batch to the test figures."""
        self._add("test", self.network(**batch._asdict()), tokens=True)

    def on_validation_epoch_end(self) -> None:
        """Logs the validation figures."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Logs the test figures."""
        self._report("test")

    def _add(self, split: str, out: PretrainingOutput, *, tokens: bool) -> None:
        # Each is a mean over so many tokens.
        counts = (len(out.originals), len(out.replaced))
        for name, count in zip(_LOSSES, counts, strict=True):
            cast(TokenLoss, self._means[f"{split}_{name}"]).update(getattr(out, name).detach().expand(count))
        if tokens:
            cast(ReplacedTokens, self._tokens[f"{split}_tokens"]).update(
                out.generator_logits, out.originals, out.sampled, out.discriminator_logits, out.replaced
            )

    def _report(self, split: str) -> None:
        figures = {}
        for name in _LOSSES:
            mean = cast(TokenLoss, self._means[f"{split}_{name}"])
            figures[name] = mean.compute()
            mean.reset()
        figures["loss"] = self.config.weighted(*(figures[name] for name in _LOSSES))
        tokens = cast(ReplacedTokens, self._tokens[f"{split}_tokens"])
        figures |= tokens.compute()
        tokens.reset()
        self.log_dict({f"{split}/{name}": value for name, value in figures.items()}, batch_size=1)

    def configure_optimizers(self) -> Any:
        """Norms and biases by themselves, as published; the learning rate moves every optimizer step."""
        optimizer = build_optimizer(
            self._optimizer,
            parameter_groups(self.network, self._groups, self._depth),
            fused=self.trainer.precision != "16-mixed",
        )
        scheduler = StepSchedule(optimizer, self._schedule, max_steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _depth(self, name: str) -> int:
        raise ValueError("model.groups.layer_decay is for fine-tuning; leave it out of pretraining")

    @property
    def parallel_plan(self) -> ParallelPlan:
        """What of the network may be split over processes."""
        return pretraining_plan(self.config)

    def example(self) -> dict[str, Any]:
        """Made-up arguments of one call of the network."""
        ids, first = hf.made_up(self.config), torch.zeros(2, 1, dtype=torch.long)
        return {
            "input_ids": ids,
            "token_type_ids": torch.zeros_like(ids),
            "lengths": torch.full((2,), ids.shape[1]),
            "positions": first,
            "originals": ids[:, :1],
            "weights": torch.ones(2, 1),
        }

    def export(self, folder: Path, form: str) -> None:
        """Refuses programs: a discriminator that is pretrained is there to be fine-tuned."""
        raise ValueError(f"--format {form} is not for pretraining; --format hf writes what can be fine-tuned")

    def export_hf(self, folder: Path, vocabulary: Any) -> list[Path]:
        """Writes `discriminator` and `generator`, which transformers loads, with the vocabulary."""
        return hf.write_pretraining(self.network, folder, vocabulary)

    def count(self, batch: MaskedBatch) -> tuple[int, int]:
        """Sequences and real tokens of a batch, for throughput."""
        return len(batch.lengths), int(batch.lengths.sum())

    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token, forward and backward."""
        masking = getattr(corpus_of(self), "masking", None)
        predicted = 0.15 if masking is None else masking.mask_prob
        return self.config.flops_per_token(self.batch_plan.seq_len, predicted)
