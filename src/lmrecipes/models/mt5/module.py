"""mT5 as a LightningModule: pretraining and fine-tuning, which have one objective, and generation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lmrecipes.batches import BatchPlan, TextPairBatch, WrittenTexts
from lmrecipes.checkpoints.weights import own_weights
from lmrecipes.metrics.group_loss import GroupLoss
from lmrecipes.models.common import peft
from lmrecipes.models.common.generation import Decoding, Generated, generate
from lmrecipes.models.common.hf import is_fresh_start, made_up
from lmrecipes.models.common.module import RecipeModule
from lmrecipes.models.common.parallel_plan import ParallelPlan
from lmrecipes.models.common.peft import Tuning, tuned_plan
from lmrecipes.models.common.sampling import PromptBatch
from lmrecipes.models.common.vocab_size import corpus_of
from lmrecipes.models.mt5 import hf
from lmrecipes.models.mt5.config import MT5Config
from lmrecipes.models.mt5.fill_mask import Pieces, completion, masked
from lmrecipes.models.mt5.network import MT5
from lmrecipes.models.mt5.parallel import parallel_plan
from lmrecipes.models.mt5.tiny import tiny
from lmrecipes.optim import GroupSettings, Schedule

_FILL_IN = Decoding(max_new_tokens=16)
"""As published for filling blanks."""


class MT5Module(RecipeModule):
    """Text to text (Xue et al. 2021, arXiv:2010.11934), in Google's family or NeMo's."""

    network: MT5
    batch_type = TextPairBatch
    batch_fields = frozenset(("seq_len", "target_len"))
    tiny_config = staticmethod(tiny)

    def __init__(
        self,
        config: MT5Config,
        optimizer: OptimizerCallable,
        schedule: Schedule,
        batch: BatchPlan,
        groups: GroupSettings | None = None,
        pretrained: str | None = None,
        decoding: Decoding | None = None,
        activation_checkpointing: bool = False,
        tuning: Tuning | None = None,
    ) -> None:
        """Stores the settings; `configure_model` builds the network once the vocabulary is known.

        Args:
            config: sizes of the network.
            optimizer: makes the optimizer from the parameters.
            schedule: learning rate by step.
            batch: a recipe's `batch:` group.
            groups: parameter groups of the optimizer; default: no weight decay for norms and biases.
            pretrained: folder or hub name of a published mT5 of Google's to initialize from.
            decoding: how evaluation steps generate answers; left out, they generate none.
            activation_checkpointing: whether the backward pass recomputes layers to save memory.
            tuning: adapters to train on a frozen base; default: train everything.
        """
        super().__init__(config, optimizer, schedule, batch, groups=groups)
        self.sampling = decoding or _FILL_IN
        self.special_tokens: Pieces | None = None
        self._pretrained = pretrained
        self._generates = decoding is not None
        self._activation_checkpointing = activation_checkpointing
        self._tuning = tuning or Tuning()
        self.add_metric("loss")

    def configure_model(self) -> None:
        """Builds the network, and measures the loss of each language of a corpus that has several."""
        built = hasattr(self, "network")
        super().configure_model()
        languages = getattr(corpus_of(self), "languages", ())
        if not built and len(languages) > 1:
            self.add_metric("by_language", lambda: GroupLoss(languages), ("val", "test"))

    def build(self) -> MT5:
        """The network."""
        network = MT5(self.config)
        network.activation_checkpointing = self._activation_checkpointing
        return network

    def initialize(self) -> None:
        """Loads the weights that the recipe names, and freezes all but the adapter."""
        name = self._pretrained
        load_published = None if name is None else partial(hf.load_published, self.network, name)
        peft.initialize(self.network, self._tuning, load_published, fresh=is_fresh_start(self))

    def select_weights(self, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """The weights of another run to start from; see `peft.select_weights`."""
        return peft.select_weights(weights, own_weights(self), source, self._tuning)

    @staticmethod
    def check_precision(precision: str) -> None:
        """Refuses half precision.

        Raises:
            ValueError: with the reason.
        """
        if precision in ("16-mixed", "16-true", "16"):
            raise ValueError(
                f"trainer.precision is {precision}, in which mT5's activations overflow and the loss becomes NaN; use "
                f"bf16-mixed, or 32-true"
            )

    def loss(self, batch: TextPairBatch, split: str) -> Tensor:
        """Mean loss over the targets of a batch."""
        out = self.network(
            batch.input_ids, batch.input_pairs, batch.decoder_input_ids, batch.targets, batch.target_pairs
        )
        counted = batch.target_pairs > 0
        self.metric(split, "loss").update(out.losses.detach(), counted)
        if self.has_metric(split, "by_language"):
            self.metric(split, "by_language").update(out.losses, counted, batch.languages)
        loss: Tensor = out.loss
        return loss

    def evaluate(self, batch: TextPairBatch, split: str) -> WrittenTexts | None:
        """Adds to the loss; the generated texts, if the recipe says how to decode."""
        self.loss(batch, split)
        return self._answers(batch) if self._generates else None

    def compute_metrics(self, split: str) -> dict[str, Tensor]:
        """The loss, of an evaluation also by language."""
        metrics: dict[str, Tensor] = super().compute_metrics(split)
        if self.has_metric(split, "by_language"):
            metrics |= {f"loss_{code}": loss for code, loss in self.metric(split, "by_language").by_name().items()}
        return metrics

    def _answers(self, batch: TextPairBatch) -> WrittenTexts:
        generated = self._generate(batch.input_ids, batch.input_pairs)
        return WrittenTexts(batch.questions, generated.tokens, generated.log_probs.sum(1))

    def _generate(self, input_ids: Tensor, input_pairs: Tensor) -> Generated:
        special = self.special_tokens or corpus_of(self).vocabulary
        # Decoding starts with padding.
        begin, padding = special.pad_id, special.pad_id
        return generate(self.network, input_ids, input_pairs, begin, special.eos_id, self.sampling, padding=padding)

    def predict_step(self, batch: TextPairBatch | PromptBatch, batch_idx: int) -> WrittenTexts | Generated:
        """Generates for a batch of inputs, or for one text."""
        if isinstance(batch, TextPairBatch):
            return self._answers(batch)
        return self._generate(batch.input_ids, torch.ones_like(batch.input_ids))

    def prompt(self, text: str, vocabulary: Any) -> list[int]:
        """Tokens of a text whose `<mask>` are to be filled; a text without any is continued."""
        self.special_tokens = vocabulary
        return masked(text, vocabulary, input_eos=self.config.is_google)

    def completion(self, text: str, vocabulary: Any, output: Generated) -> str:
        """The completion in its published form, JSON."""
        return completion(text, vocabulary, output)

    @property
    def parallel_plan(self) -> ParallelPlan:
        """How the network is sharded and split over processes."""
        return tuned_plan(parallel_plan(self.config), self._tuning)

    def example(self) -> dict[str, Any]:
        """Synthetic arguments of one forward pass, by name."""
        ids = made_up(self.config)
        one = torch.ones_like(ids)
        return {
            "input_ids": ids,
            "input_pairs": one,
            "decoder_input_ids": ids,
            "targets": ids.roll(-1, 1),
            "target_pairs": one,
        }

    def export_hf(self, folder: Path, vocabulary: Any) -> list[Path]:
        """Writes a folder that transformers loads."""
        return hf.write_published(self.network, folder, vocabulary)

    def count(self, batch: TextPairBatch) -> tuple[int, int]:
        """Pairs, and tokens of inputs and targets without padding, for throughput."""
        tokens = (batch.input_pairs > 0).sum() + (batch.target_pairs > 0).sum()
        return int(batch.input_pairs.amax(1).sum()), int(tokens)

    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token, forward and backward."""
        seq_len = self.batch_plan.sequence_length
        return self.config.flops_per_token(seq_len, self.batch_plan.max_target_len)
