"""An interrupted training continues at exactly the next batch, with any number of workers."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from lmrecipes.batches import BatchPlan
from lmrecipes.datamodules import EmbeddedText, TextFolder

pytestmark = pytest.mark.filterwarnings("ignore")


class Reader(LightningModule):
    """Records the batches it trains on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.read = []

    def training_step(self, batch, batch_idx):
        self.read.append((batch.chunk, batch.restart, batch.input_ids.tolist(), batch.targets.tolist()))
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def read(corpus, tmp_path, steps, workers, micro, start=None, **arguments):
    plan = BatchPlan(global_batch_size=4, seq_len=100, micro_batch_size=micro)
    data = TextFolder(plan, path=str(corpus), cache_dir=str(tmp_path), num_workers=workers, **arguments)
    module = Reader()
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        accumulate_grad_batches=plan.accumulation(1),
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=start)
    trainer.save_checkpoint(tmp_path / f"{steps}.ckpt", weights_only=False)
    return module.read, data.train_dataloader().batches_per_epoch


@pytest.mark.slow
@pytest.mark.parametrize("carry_memory", [True, False])
@pytest.mark.parametrize(("micro", "workers"), [(4, 0), (2, 0), (2, 2), (1, 3)])
@pytest.mark.parametrize("stop", [7, 10, 11])
def test_an_interrupted_training_reads_the_same_batches(small_corpus, tmp_path, micro, workers, stop, carry_memory):
    straight, per_epoch = read(small_corpus, tmp_path, 24, 0, micro, carry_memory=carry_memory)
    first, _ = read(small_corpus, tmp_path, stop, workers, micro, carry_memory=carry_memory)
    rest, _ = read(small_corpus, tmp_path, 24, workers, micro, tmp_path / f"{stop}.ckpt", carry_memory=carry_memory)
    assert per_epoch == 10 * (4 // micro)
    assert len(straight) == 24 * (4 // micro)
    assert first + rest == straight


def test_loading_leaves_torchs_random_numbers_alone(small_corpus, tmp_path):
    data = TextFolder(BatchPlan(global_batch_size=4, seq_len=8), path=str(small_corpus), cache_dir=str(tmp_path))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(data.train_dataloader())
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.slow
def test_the_embedded_text_needs_no_download(tmp_path):
    data = EmbeddedText(BatchPlan(global_batch_size=4, seq_len=8), cache_dir=str(tmp_path))
    data.prepare(progress=False)
    assert data.statistics("train").tokens > 100_000
    assert data.statistics("val").tokens > 10_000
    assert data.statistics("test").tokens > 10_000
    assert 3_000 < data.vocab_size < 30_000
