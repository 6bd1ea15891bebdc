"""Transformer-XL as a LightningModule: steps, loss, memory, optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lmrecipes.batches import BatchPlan, StreamBatch
from lmrecipes.metrics.perplexity import TokenLoss, text_figures
from lmrecipes.models.common.parallel_plan import ParallelPlan
from lmrecipes.models.common.sampling import PromptBatch, Sampling
from lmrecipes.models.common.vocab_size import corpus_of, with_vocabulary
from lmrecipes.models.transformer_xl import export
from lmrecipes.models.transformer_xl.memory import StreamMemory
from lmrecipes.models.transformer_xl.network import TransformerXL, TransformerXLConfig
from lmrecipes.models.transformer_xl.parallel import parallel_plan
from lmrecipes.models.transformer_xl.tiny import tiny
from lmrecipes.optim import Schedule, StepSchedule, build_optimizer
from lmrecipes.trainer_state import completes_step, data_rank, logs_step


class TransformerXLModule(LightningModule):
    """Language modelling over parallel streams of text, with segment memory (Dai et al. 2019, arXiv:1901.02860)."""

    network: TransformerXL
    tiny_config = staticmethod(tiny)

    def __init__(
        self,
        config: TransformerXLConfig,
        optimizer: OptimizerCallable,
        schedule: Schedule,
        batch: BatchPlan,
        compile: bool = False,
    ) -> None:
        """Holds the settings; the network is built by `configure_model`, when the vocabulary is known.

        Args:
            config: sizes of the network.
            optimizer: makes the optimizer from the parameters.
            schedule: learning rate by step.
            batch: how text is cut; a recipe's `batch:` group.
            compile: whether torch.compile is applied to the network.
        """
        super().__init__()
        self.config = config
        self.batch_plan = batch
        self.sampling = Sampling()
        self._optimizer = optimizer
        self._schedule = schedule
        self._compile = compile
        self._segmenting = {split: batch.segmenting(split) for split in ("train", "val", "test")}
        self._memory = {split: StreamMemory() for split in self._segmenting}
        self._loss = torch.nn.ModuleDict({f"{split}_loss": TokenLoss() for split in self._segmenting})

    def _meter(self, split: str) -> TokenLoss:
        return cast(TokenLoss, self._loss[f"{split}_loss"])

    def configure_model(self) -> None:
        """Builds the network, for the corpus's vocabulary where the recipe leaves its size open."""
        if hasattr(self, "network"):
            return
        self.config = with_vocabulary(self.config, corpus_of(self))
        self.network = TransformerXL(self.config)
        if self._compile:
            self.network.compile()

    def _nll(self, batch: StreamBatch, split: str) -> Tensor:
        """Negative log-likelihood per token (columns, length), given the streams' memory, which it moves on."""
        plan = self._segmenting[split]
        nll, memory = self.network(
            batch.input_ids,
            batch.targets,
            self._memory[split].read(batch),
            mem_len=plan.mem_len,
            clamp_len=plan.clamp_len,
            same_length=plan.same_length,
        )
        self._memory[split].write(batch, memory)
        return nll

    def training_step(self, batch: StreamBatch, batch_idx: int) -> Tensor:
        """Mean loss over the tokens of one micro-batch (all of a step's micro-batches have equally many)."""
        nll = self._nll(batch, "train")
        self._meter("train").update(nll.detach())
        if logs_step(self.trainer) and completes_step(self.trainer):
            # Over all tokens since the last logged step.
            loss = self._meter("train").compute()
            self._meter("train").reset()
            self.log_dict({"train/loss": loss, "train/perplexity": loss.exp()}, batch_size=1)
        return nll.mean()

    def on_validation_epoch_start(self) -> None:
        """Begins validation with nothing remembered."""
        self._begin("val")

    def on_test_epoch_start(self) -> None:
        """Begins the test with nothing remembered."""
        self._begin("test")

    def _begin(self, split: str) -> None:
        self._memory[split].clear()
        self._meter(split).reset()

    def validation_step(self, batch: StreamBatch, batch_idx: int) -> None:
        """Adds one segment to the validation loss."""
        self._evaluate(batch, "val")

    def test_step(self, batch: StreamBatch, batch_idx: int) -> None:
        """Adds one segment to the test loss."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: StreamBatch, split: str) -> None:
        nll = self._nll(batch, split)
        if batch.scored:
            self._meter(split).update(nll)

    def on_validation_epoch_end(self) -> None:
        """Logs validation loss and perplexity."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Logs test loss and perplexity."""
        self._report("test")

    def _report(self, split: str) -> None:
        self._memory[split].clear()
        corpus = getattr(self.trainer, "datamodule", None)
        figures = text_figures(self._meter(split).compute(), corpus.statistics(split) if corpus else None)
        self.log_dict({f"{split}/{name}": value for name, value in figures.items()}, batch_size=1)

    def example(self) -> dict[str, Any]:
        """Made-up arguments of one call of the network."""
        plan = self._segmenting["test"]
        tokens, targets, memory = export.example(self.network, plan)
        return {"input_ids": tokens, "targets": targets, "memory": memory, **export.settings_of(plan)}

    def export(self, folder: Path, form: str) -> None:
        """Writes the trained network as programs for the test split's plan; see `models.common.programs`."""
        export.export(self.network, self._segmenting["test"], folder, form)

    def use_programs(self, folder: Path, split: str = "test") -> None:
        """Evaluates a split by exported programs from now on."""
        self.network = export.ExportedTransformerXL(folder, split)  # type: ignore[assignment]

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        """Continues a text token by token: ids (1, prompt + generated)."""
        ids, memory, new = batch.input_ids, None, batch.input_ids
        plan = self._segmenting["test"]
        for _ in range(self.sampling.max_new_tokens):
            log_probs, memory = self.network.log_probs(
                new, memory, mem_len=max(plan.mem_len, plan.seq_len), clamp_len=plan.clamp_len
            )
            new = self.sampling.draw(log_probs[:, -1])
            ids = torch.cat([ids, new], dim=1)
        return ids

    def configure_optimizers(self) -> Any:
        """One group of all parameters, as published; the learning rate moves every optimizer step."""
        optimizer = build_optimizer(
            self._optimizer, self.network.parameters(), fused=self.trainer.precision != "16-mixed"
        )
        scheduler = StepSchedule(optimizer, self._schedule, max_steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def parallel_plan(self) -> ParallelPlan:
        """What of the network may be split over processes."""
        return parallel_plan(self.config)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the training memory of all ranks."""
        copies = self.trainer.world_size // data_rank(self.trainer).size
        checkpoint["stream_memory"] = self._memory["train"].state(
            lambda layer: cast(Tensor, self.all_gather(layer)).view(-1, *layer.shape)[::copies]
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the training memory of this rank."""
        mem_len = self._segmenting["train"].mem_len
        self._memory["train"].restore(checkpoint.get("stream_memory", []), data_rank(self.trainer), mem_len)

    def count(self, batch: StreamBatch) -> tuple[int, int]:
        """Sequences and predicted tokens of a batch, for throughput."""
        return batch.input_ids.shape[0], batch.input_ids.numel()

    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token, forward and backward."""
        plan = self._segmenting["train"]
        return self.config.flops_per_token(plan.seq_len, plan.mem_len)
