"""mT5 as a LightningModule: pretraining and fine-tuning, which have one objective, and generation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lmrecipes.batches import BatchPlan, TextPairBatch, WrittenTexts
from lmrecipes.checkpoints.weights import check_weights, own_weights
from lmrecipes.metrics.group_loss import GroupLoss
from lmrecipes.models.common.generation import Decoding, Generated, generate
from lmrecipes.models.common.hf import is_fresh_start
from lmrecipes.models.common.module import RecipeModule
from lmrecipes.models.common.parallel_plan import ParallelPlan
from lmrecipes.models.common.peft import Tuning, load_base, tune
from lmrecipes.models.common.sampling import PromptBatch
from lmrecipes.models.common.vocab_size import corpus_of
from lmrecipes.models.mt5 import hf
from lmrecipes.models.mt5.config import MT5Config
from lmrecipes.models.mt5.fill_mask import completion, masked
from lmrecipes.models.mt5.network import MT5
from lmrecipes.models.mt5.parallel import parallel_plan
from lmrecipes.models.mt5.tiny import tiny
from lmrecipes.optim import GroupSettings, Schedule

_FILL_IN = Decoding(max_new_tokens=16)
"""As published for filling blanks."""


class SpecialTokens(Protocol):
    """The tokens of a vocabulary that generation needs."""

    pad_id: int
    """Padding, with which decoding starts too."""
    eos_id: int
    """The end of a text."""


class MT5Module(RecipeModule):
    """Text to text (Xue et al. 2021, arXiv:2010.11934), in Google's family or NeMo's."""

    network: MT5
    batch_fields = frozenset(
        (
            "seq_len",
            "target_len",
        )
    )
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
        """Holds the settings; the network is built by `configure_model`, when the vocabulary is known.

        Args:
            config: sizes of the network.
            optimizer: makes the optimizer from the parameters.
            schedule: learning rate by step.
            batch: how text is cut; a recipe's `batch:` group.
            groups: which parameters the optimizer treats otherwise; left out, norms and biases have no weight decay.
            pretrained: folder or hub name of a published mT5 of Google's to begin with.
            decoding: how evaluation steps write answers to the inputs; left out, they write none.
            activation_checkpointing: whether the backward pass computes layers again, which keeps less in memory.
            tuning: what is trained; left out, everything.
        """
        super().__init__(config, optimizer, schedule, batch, groups=groups)
        self.sampling = decoding or _FILL_IN
        self.special_tokens: SpecialTokens | None = None
        self._pretrained = pretrained
        self._generates = decoding is not None
        self._activation_checkpointing = activation_checkpointing
        self._tuning = tuning or Tuning()
        self._languages: tuple[str, ...] = ()
        self.add_metric("loss")

    def configure_model(self) -> None:
        """Builds the network, for the corpus's vocabulary where the recipe leaves its size open.

        Raises:
            ValueError: for a precision or a vocabulary that does not fit.
        """
        if hasattr(self, "network"):
            return
        if self._trainer or self._fabric:
            self.check_precision(str(self.trainer.precision))
        super().configure_model()
        if (corpus := corpus_of(self)) is not None:
            self.special_tokens = corpus.vocabulary
            self._languages = tuple(getattr(corpus, "languages", ()))
            # With one language it would repeat the loss.
            if len(self._languages) > 1:
                self.add_metric("by_language", lambda: GroupLoss(len(self._languages)), ("val", "test"))

    def build(self) -> MT5:
        """The network."""
        network = MT5(self.config)
        network.activation_checkpointing = self._activation_checkpointing
        return network

    def initialize(self) -> None:
        """Fills the network with the weights that the recipe names, and freezes all but the adapters."""
        tuning = self._tuning
        if self._pretrained is not None and (is_fresh_start(self) or tuning.in_part):
            hf.load_published(self.network, self._pretrained)
        if tuning.in_part and tuning.base is not None:
            load_base(self.network, tuning.base)
        has_base = self._pretrained is not None or tuning.base is not None
        if tuning.in_part and not has_base and is_fresh_start(self):
            warnings.warn(
                f"model.tuning.kind is {tuning.kind}, but the frozen network has random weights: give a base with "
                f"--init_from RUN",
                stacklevel=2,
            )
        tune(self.network, tuning, has_base=has_base)

    def select_weights(self, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """The weights to begin with of another run: all of them, or none where they are the base already.

        Args:
            weights: the other run's weights.
            source: what the user gave, for messages.

        Raises:
            ValueError: if they are of another network.
        """
        expected = own_weights(self)
        if self._tuning.in_part and not expected.keys() & weights.keys():
            return {}
        check_weights(weights, expected, source)
        return dict(weights)

    @staticmethod
    def check_precision(precision: str) -> None:
        """Refuses half precision.

        Raises:
            ValueError: with the reason.
        """
        if precision in ("16-mixed", "16-true", "16"):
            raise ValueError(
                f"trainer.precision is {precision}, in which mT5's activations overflow and the loss becomes NaN: it "
                f"was trained in bfloat16, which reaches as far as float32; use bf16-mixed, or 32-true"
            )

    def loss(self, batch: TextPairBatch, split: str) -> Tensor:
        """Mean loss over the targets of a batch."""
        out = self.network(
            batch.input_ids, batch.input_pairs, batch.decoder_input_ids, batch.targets, batch.target_pairs
        )
        counted = batch.target_pairs > 0
        self.metric(split, "loss").update(out.losses.detach(), counted)
        if self._has_languages(split):
            self.metric(split, "by_language").update(out.losses, counted, batch.languages)
        loss: Tensor = out.loss
        return loss

    def _has_languages(self, split: str) -> bool:
        return split != "train" and len(self._languages) > 1

    def evaluate(self, batch: TextPairBatch, split: str) -> WrittenTexts | None:
        """Adds to the loss; the generated texts, if the recipe says how to decode."""
        self.loss(batch, split)
        return self._answers(batch) if self._generates else None

    def figures(self, split: str) -> dict[str, Tensor]:
        """The loss, of an evaluation also by language."""
        figures: dict[str, Tensor] = super().figures(split)
        if self._has_languages(split):
            losses = zip(self._languages, self.metric(split, "by_language").compute(), strict=True)
            figures |= {f"loss_{name}": loss for name, loss in losses if not loss.isnan()}
        return figures

    def _answers(self, batch: TextPairBatch) -> WrittenTexts:
        found = self._generate(batch.input_ids, batch.input_pairs)
        return WrittenTexts(batch.questions, found.tokens, found.log_probs.sum(1))

    def _generate(self, input_ids: Tensor, input_pairs: Tensor) -> Generated:
        special = self.special_tokens or corpus_of(self).vocabulary
        how = (special.pad_id, special.eos_id, self.sampling)
        return generate(self.network, input_ids, input_pairs, *how, padding=special.pad_id)

    def predict_step(self, batch: TextPairBatch | PromptBatch, batch_idx: int) -> WrittenTexts | Generated:
        """Generates for a batch of inputs, or for one text."""
        if isinstance(batch, TextPairBatch):
            return self._answers(batch)
        return self._generate(batch.input_ids, torch.ones_like(batch.input_ids))

    def prompt(self, text: str, vocabulary: Any) -> list[int]:
        """Tokens of a text whose `<mask>` are to be filled; without any the text is answered."""
        self.special_tokens = vocabulary
        return masked(text, vocabulary, input_eos=self.config.is_google)

    def completion(self, text: str, vocabulary: Any, output: Generated) -> str:
        """What was generated, as published: JSON."""
        return completion(text, vocabulary, output)

    @property
    def parallel_plan(self) -> ParallelPlan:
        """How the network may be sharded and split."""
        plan = parallel_plan(self.config)
        # LoRA's matrices are not split, so the layers beside them cannot be.
        return replace(plan, split={}) if self._tuning.kind == "lora" else plan

    def example(self) -> dict[str, Any]:
        """Synthetic arguments of one call of the network."""
        ids = hf.made_up(self.config)
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
