"""A model whose answers depend only on a window's tokens, and a program that evaluates it on several ranks."""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer

from lmrecipes.batches import BatchPlan, EvalBatchPlan
from lmrecipes.callbacks import SquadAnswers
from lmrecipes.data.tasks.squad.best_spans import best_spans
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings
from lmrecipes.datamodules import SquadDataModule


def pseudo_random(ids: torch.Tensor, key: int) -> torch.Tensor:
    """Pseudo-random numbers, a function of token and position only; coarse enough for ties."""
    positions = torch.arange(ids.shape[1])
    return ((ids * 7919 + positions * 104729 + key) % 997 % 61).float()


class RandomAnswers(LightningModule):
    """Pseudo-random answers; trains one parameter, which shifts them from one validation to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("synchronised", torch.zeros(3))

    def _scores(self, batch):
        key = 17 * int(self.global_step)
        start, end = pseudo_random(batch.input_ids, key), pseudo_random(batch.input_ids, key + 31)
        return best_spans(start, end, batch, n_best=5, max_answer_len=6)

    def training_step(self, batch, batch_idx):
        return self.weight * batch.input_ids.float().mean()

    def validation_step(self, batch, batch_idx):
        return self._scores(batch)

    test_step = predict_step = validation_step

    def count(self, batch):
        return len(batch.lengths), int(batch.lengths.sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def squad_data(file: str, cache: str) -> SquadDataModule:
    """Windows of squad questions; many questions have several."""
    plan = BatchPlan(global_batch_size=6, seq_len=40, val=EvalBatchPlan(batch_size=6), test=EvalBatchPlan(batch_size=6))
    return SquadDataModule(
        plan,
        train=file,
        val=file,
        test=file,
        cache_dir=cache,
        wordpiece=WordPieceSettings(vocab_size=600),
        max_query_len=16,
        doc_stride=8,
        max_answer_len=6,
        n_best=5,
        null_threshold=-26.0,
    )


def cpu_trainer(folder: str, devices: int = 1, **more) -> Trainer:
    """A Trainer on CPU processes."""
    return Trainer(
        **{"callbacks": [SquadAnswers()], **more},
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )


def evaluate_on(file: str, cache: str, folder: str, devices: int) -> None:
    """Validates; every rank writes its metrics."""
    trainer = cpu_trainer(folder, devices, enable_checkpointing=False)
    (metrics,) = trainer.validate(RandomAnswers(), squad_data(file, cache), verbose=False)
    Path(folder).mkdir(exist_ok=True)
    Path(folder, f"rank{trainer.global_rank}.json").write_text(json.dumps(metrics, sort_keys=True))
    # The first process would exit before the others have written.
    trainer.strategy.barrier()


if __name__ == "__main__":
    evaluate_on(*sys.argv[1:4], devices=int(sys.argv[4]))
