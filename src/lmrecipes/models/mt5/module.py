"""mT5 as a LightningModule: pretraining and fine-tuning, which have one objective, and writing texts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lmrecipes.batches import BatchPlan, TextPairBatch, WrittenTexts
from lmrecipes.checkpoints.weights import check_weights, own_weights
from lmrecipes.metrics.group_loss import GroupLoss
from lmrecipes.metrics.perplexity import TokenLoss
from lmrecipes.models.common.generation import Decoding, Generated, generate
from lmrecipes.models.common.hf import begins
from lmrecipes.models.common.parallel_plan import ParallelPlan
from lmrecipes.models.common.peft import Tuning, load_base, tune
from lmrecipes.models.common.sampling import PromptBatch
from lmrecipes.models.common.vocab_size import corpus_of, with_vocabulary
from lmrecipes.models.mt5 import hf
from lmrecipes.models.mt5.config import MT5Config
from lmrecipes.models.mt5.fill_mask import completion, masked
from lmrecipes.models.mt5.network import MT5
from lmrecipes.models.mt5.parallel import parallel_plan
from lmrecipes.models.mt5.tiny import tiny
from lmrecipes.optim import GroupSettings, Schedule, StepSchedule, build_optimizer, parameter_groups
from lmrecipes.trainer_state import completes_step, logs_step

_FILL_IN = Decoding(max_new_tokens=16)
"""As published for filling blanks."""


class Marks(Protocol):
    """What is asked of a vocabulary."""

    pad_id: int
    """Padding, with which decoding starts too."""
    eos_id: int
    """The end of a text."""


class MT5Module(LightningModule):
    """Text to text (Xue et al. 2021, arXiv:2010.11934), in Google's family or NeMo's."""

    network: MT5
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
        recompute: bool = False,
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
            recompute: whether the backward pass computes layers again, which keeps less in memory.
            tuning: what is trained; left out, everything.
        """
        super().__init__()
        self.config = config
        self.batch_plan = batch
        self.sampling = decoding or _FILL_IN
        self.marks: Marks | None = None
        self._optimizer = optimizer
        self._schedule = schedule
        self._groups = groups or GroupSettings()
        self._pretrained = pretrained
        self._writes = decoding is not None
        self._recompute = recompute
        self._tuning = tuning or Tuning()
        self._means = torch.nn.ModuleDict({f"{split}_loss": TokenLoss() for split in ("train", "val", "test")})

    def configure_model(self) -> None:
        """Builds the network, for the corpus's vocabulary where the recipe leaves its size open.

        Raises:
            ValueError: for a precision or a vocabulary that does not fit.
        """
        if hasattr(self, "network"):
            return
        if self._trainer or self._fabric:
            self.check_precision(str(self.trainer.precision))
        corpus = corpus_of(self)
        self.config = with_vocabulary(self.config, corpus)
        self.network = MT5(self.config)
        self.network.recompute = self._recompute
        self._begin()
        if corpus is not None:
            self.marks = corpus.vocabulary
            self._languages = tuple(getattr(corpus, "languages", ()))
            # Of one language it would be the same again.
            for split in ("val", "test") if len(self._languages) > 1 else ():
                self._means[f"{split}_by_language"] = GroupLoss(len(self._languages))

    def _begin(self) -> None:
        tuning = self._tuning
        if self._pretrained is not None and (begins(self) or tuning.in_part):
            hf.load_published(self.network, self._pretrained)
        if tuning.in_part and tuning.base is not None:
            load_base(self.network, tuning.base)
        has_base = self._pretrained is not None or tuning.base is not None
        if tuning.in_part and not has_base and begins(self):
            warnings.warn(
                f"model.tuning.kind is {tuning.kind}, but the network beside it has learned nothing: give a base "
                f"with --init_from RUN",
                stacklevel=2,
            )
        tune(self.network, tuning, has_base=has_base)

    def adopt(self, found: Mapping[str, Tensor], given: str) -> dict[str, Tensor]:
        """The weights to begin with of another run: all of them, or none where they are the base already.

        Args:
            found: the other run's weights.
            given: what the user gave, for messages.

        Raises:
            ValueError: if they are of another network.
        """
        own = own_weights(self)
        if self._tuning.in_part and not own.keys() & found.keys():
            return {}
        check_weights(found, own, given)
        return dict(found)

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

    def _loss(self, batch: TextPairBatch, split: str) -> Tensor:
        out = self.network(
            batch.input_ids, batch.input_pairs, batch.decoder_input_ids, batch.targets, batch.target_pairs
        )
        counted = batch.target_pairs > 0
        cast(TokenLoss, self._means[f"{split}_loss"]).update(out.losses, counted)
        if f"{split}_by_language" in self._means:
            cast(GroupLoss, self._means[f"{split}_by_language"]).update(out.losses, counted, batch.languages)
        loss: Tensor = out.loss
        return loss

    def training_step(self, batch: TextPairBatch, batch_idx: int) -> Tensor:
        """Mean loss over the targets of one micro-batch."""
        loss = self._loss(batch, "train")
        if logs_step(self.trainer) and completes_step(self.trainer):
            # Over all targets since the last logged step.
            self._report("train")
        return loss

    def validation_step(self, batch: TextPairBatch, batch_idx: int) -> Any:
        """Adds to the validation loss; what is written for the inputs, if the recipe says how."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: TextPairBatch, batch_idx: int) -> Any:
        """Adds to the test loss; what is written for the inputs, if the recipe says how."""
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: TextPairBatch, split: str) -> WrittenTexts | None:
        self._loss(batch, split)
        return self._answers(batch) if self._writes else None

    def _answers(self, batch: TextPairBatch) -> WrittenTexts:
        found = self._write(batch.input_ids, batch.input_pairs)
        return WrittenTexts(batch.questions, found.tokens, found.log_probs.sum(1))

    def _write(self, input_ids: Tensor, input_pairs: Tensor) -> Generated:
        marks = self.marks or corpus_of(self).vocabulary
        how = (marks.pad_id, marks.eos_id, self.sampling)
        return generate(self.network, input_ids, input_pairs, *how, padding=marks.pad_id)

    def predict_step(self, batch: TextPairBatch | PromptBatch, batch_idx: int) -> WrittenTexts | Generated:
        """What is written for the inputs, or for one text."""
        if isinstance(batch, TextPairBatch):
            return self._answers(batch)
        return self._write(batch.input_ids, torch.ones_like(batch.input_ids))

    # What `lmrecipes predict` asks for.

    def prompt(self, text: str, vocabulary: Any) -> list[int]:
        """Tokens of a text whose blanks, `<mask>`, are to be filled; without any the text is answered."""
        self.marks = vocabulary
        return masked(text, vocabulary, input_eos=self.config.is_google)

    def shown(self, text: str, vocabulary: Any, output: Generated) -> str:
        """What was written, as published: JSON."""
        return completion(text, vocabulary, output)

    def on_validation_epoch_end(self) -> None:
        """Logs the validation loss."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Logs the test loss."""
        self._report("test")

    def _report(self, split: str) -> None:
        mean = cast(TokenLoss, self._means[f"{split}_loss"])
        figures = {f"{split}/loss": mean.compute()}
        mean.reset()
        if f"{split}_by_language" in self._means:
            by_language = cast(GroupLoss, self._means[f"{split}_by_language"])
            losses = zip(self._languages, by_language.compute(), strict=True)
            figures |= {f"{split}/loss_{name}": loss for name, loss in losses if not loss.isnan()}
            by_language.reset()
        self.log_dict(figures, batch_size=1)

    def configure_optimizers(self) -> Any:
        """Norms and biases by themselves; the learning rate moves every optimizer step."""
        optimizer = build_optimizer(self._optimizer, parameter_groups(self.network, self._groups), fused=True)
        scheduler = StepSchedule(optimizer, self._schedule, max_steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def parallel_plan(self) -> ParallelPlan:
        """What of the network may be split over processes."""
        plan = parallel_plan(self.config)
        # The thin matrices beside the split ones would have to be split too.
        return replace(plan, split={}) if self._tuning.kind == "lora" else plan

    def example(self) -> dict[str, Any]:
        """Made-up arguments of one call of the network."""
        ids = hf.made_up(self.config)
        one = torch.ones_like(ids)
        return {
            "input_ids": ids,
            "input_pairs": one,
            "decoder_input_ids": ids,
            "targets": ids.roll(-1, 1),
            "target_pairs": one,
        }

    def export(self, folder: Path, form: str) -> None:
        """Refuses programs."""
        raise ValueError(f"--format {form} is not for mT5; --format hf or state_dict are")

    def export_hf(self, folder: Path, vocabulary: Any) -> list[Path]:
        """Writes a folder that transformers loads."""
        return hf.write_published(self.network, folder, vocabulary)

    def count(self, batch: TextPairBatch) -> tuple[int, int]:
        """Pairs, and tokens of inputs and targets without padding, for throughput."""
        tokens = (batch.input_pairs > 0).sum() + (batch.target_pairs > 0).sum()
        return int(batch.input_pairs.amax(1).sum()), int(tokens)

    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token, forward and backward."""
        seq_len = self.batch_plan.seq_len
        return self.config.flops_per_token(seq_len, self.batch_plan.most_targets)
