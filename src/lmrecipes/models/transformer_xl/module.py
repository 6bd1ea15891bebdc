"""Transformer-XL as a LightningModule: loss, memory, generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lmrecipes.batches import BatchPlan, StreamBatch
from lmrecipes.metrics.perplexity import text_metrics
from lmrecipes.models.common.module import SPLITS, RecipeModule
from lmrecipes.models.common.parallel_plan import ParallelPlan
from lmrecipes.models.common.sampling import PromptBatch, Sampling, continuation, prompt_tokens
from lmrecipes.models.common.vocab_size import corpus_of
from lmrecipes.models.transformer_xl import export
from lmrecipes.models.transformer_xl.config import TransformerXLConfig
from lmrecipes.models.transformer_xl.memory import StreamMemory
from lmrecipes.models.transformer_xl.network import TransformerXL
from lmrecipes.models.transformer_xl.parallel import parallel_plan
from lmrecipes.models.transformer_xl.score import score_tokens
from lmrecipes.models.transformer_xl.tiny import tiny
from lmrecipes.optim import Schedule
from lmrecipes.trainer_state import data_rank


class TransformerXLModule(RecipeModule):
    """Language modelling over parallel streams of text, with segment memory (Dai et al. 2019, arXiv:1901.02860)."""

    network: TransformerXL
    batch_type = StreamBatch
    batch_fields = frozenset(("seq_len", "mem_len", "clamp_len", "same_length"))
    tiny_config = staticmethod(tiny)
    prompt, completion = staticmethod(prompt_tokens), staticmethod(continuation)

    def __init__(
        self,
        config: TransformerXLConfig,
        optimizer: OptimizerCallable,
        schedule: Schedule,
        batch: BatchPlan,
        compile: bool = False,
    ) -> None:
        """Stores the settings; `configure_model` builds the network once the vocabulary is known.

        Args:
            config: sizes of the network.
            optimizer: makes the optimizer from the parameters.
            schedule: learning rate by step.
            batch: how text is cut; a recipe's `batch:` group.
            compile: whether to apply torch.compile to the network.
        """
        super().__init__(config, optimizer, schedule, batch, compile=compile)
        self.sampling = Sampling()
        self._plans = {split: batch.for_split(split) for split in SPLITS}
        self._memory = {split: StreamMemory() for split in SPLITS}
        self.add_metric("loss")

    def build(self) -> TransformerXL:
        """The network."""
        return TransformerXL(self.config)

    def parameters_to_train(self) -> Any:
        """One group of all parameters, as published."""
        return self.network.parameters()

    def _nll(self, batch: StreamBatch, split: str) -> Tensor:
        """Negative log-likelihood per token (streams, length), with the streams' memory, which is updated."""
        plan = self._plans[split]
        memory = self._memory[split].read(batch)
        nll, memory = self.network(batch.input_ids, batch.targets, memory, **export.settings_of(plan))
        self._memory[split].write(batch, memory)
        return nll

    def loss(self, batch: StreamBatch, split: str) -> Tensor:
        """Mean loss over the tokens of a batch (all micro-batches of a step have equally many)."""
        nll = self._nll(batch, split)
        if batch.scored:
            self.metric(split, "loss").update(nll.detach())
        return nll.mean()

    def begin_split(self, split: str) -> None:
        """Starts an evaluation with an empty memory; training's memory is kept."""
        super().begin_split(split)
        if split != "train":
            self._memory[split].clear()

    def compute_metrics(self, split: str) -> dict[str, Tensor]:
        """Loss and perplexity, of an evaluation also per word and character."""
        corpus = None if split == "train" else corpus_of(self)
        return text_metrics(self.metric(split, "loss").compute(), corpus.statistics(split) if corpus else None)

    def example(self) -> dict[str, Any]:
        """Synthetic arguments of one forward pass, by name."""
        plan = self._plans["test"]
        tokens, targets, memory = export.example(self.network, plan)
        return {"input_ids": tokens, "targets": targets, "memory": memory, **export.settings_of(plan)}

    def export(self, folder: Path, form: str) -> None:
        """Writes the trained network as programs for the test split's plan; see `models.common.exported_program`."""
        export.export(self.network, self._plans["test"], folder, form)

    def use_programs(self, folder: Path, split: str = "test") -> None:
        """Replaces the network by exported programs for a split."""
        self.network = export.ExportedTransformerXL(folder, split)  # type: ignore[assignment]

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        """Continues a text token by token: ids (1, prompt + generated)."""
        ids, memory, new = batch.input_ids, None, batch.input_ids
        plan = self._plans["test"]
        for _ in range(self.sampling.max_new_tokens):
            log_probs, memory = self.network.log_probs(
                new, memory, mem_len=max(plan.mem_len, plan.seq_len), clamp_len=plan.clamp_len
            )
            new = self.sampling.draw(log_probs[:, -1])
            ids = torch.cat([ids, new], dim=1)
        return ids

    def score_tokens(self, ids: list[int]) -> float:
        """Mean negative log-likelihood, in nats, of every token but the first, with the memory of the test split."""
        return score_tokens(self.network, ids, self._plans["test"])

    @property
    def parallel_plan(self) -> ParallelPlan:
        """How the network is sharded and split over processes."""
        return parallel_plan(self.config)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the training memory of all ranks."""
        super().on_save_checkpoint(checkpoint)
        copies = self.trainer.world_size // data_rank(self.trainer).size
        checkpoint["stream_memory"] = self._memory["train"].state(
            lambda layer: cast(Tensor, self.all_gather(layer)).view(-1, *layer.shape)[::copies]
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the training memory of this rank."""
        super().on_load_checkpoint(checkpoint)
        mem_len = self._plans["train"].mem_len
        self._memory["train"].restore(checkpoint.get("stream_memory", []), data_rank(self.trainer), mem_len)

    def count(self, batch: StreamBatch) -> tuple[int, int]:
        """Sequences and predicted tokens of a batch, for throughput."""
        return batch.input_ids.shape[0], batch.input_ids.numel()

    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token, forward and backward."""
        plan = self._plans["train"]
        return self.config.flops_per_token(plan.seq_len, plan.mem_len)
