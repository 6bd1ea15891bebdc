"""mT5 trains the same under every strategy, and generates text with sharded parameters."""

import csv

import pytest
import torch
from small_runs import strategy_options, weights

FAMILIES = {"nemo": [], "google": ["--model.config.family=google", "--model.config.positions=relative"]}
SMALL = [
    *("--config", "mt5/tiny_mc4", "--data.languages=[en,ko]", "--data.sentencepiece.vocab_size=600"),
    # Every row is a micro-batch: the mean over it does not depend on which rank gets the row.
    *("--batch.global_batch_size=4", "--batch.micro_batch_size=1", "--batch.seq_len=48", "--batch.target_len=24"),
    *("--batch.val.batch_size=4", "--model.config.n_layers=2", "--model.config.d_model=32"),
    *("--model.config.n_heads=2", "--model.config.d_head=8", "--model.config.d_ff=48"),
    *("--model.schedule.warmup_share=0.2", "--trainer.max_steps=6", "--trainer.val_check_interval=6"),
    *("--trainer.limit_val_batches=2", "--trainer.log_every_n_steps=1", "--trainer.num_sanity_val_steps=0"),
    "--model.decoding.max_new_tokens=5",
]


def losses(run):
    with (run / "metrics.csv").open() as file:
        return [(row["step"], float(row["train/loss"])) for row in csv.DictReader(file) if row.get("train/loss")]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "strategy"), [("nemo", "2 fsdp2"), ("google", "1x2 tensor parallel")])
def test_mt5_losses_and_weights_equal_those_of_one_process(family, strategy, command, tmp_path):
    cache = f"--data.cache_dir={tmp_path / 'cache'}"
    for name, run in (("1 process", "alone"), (strategy, "distributed")):
        done = command("fit", *SMALL, *FAMILIES[family], cache, *strategy_options(name), f"--run_dir={run}")
        assert (done.returncode, done.stderr) == (0, "")
    alone, distributed = losses(tmp_path / "alone"), losses(tmp_path / "distributed")
    assert len(alone) == 6
    assert distributed == [(step, pytest.approx(loss, abs=2e-4)) for step, loss in alone]
    actual = weights(tmp_path / "distributed")
    for name, value in weights(tmp_path / "alone").items():
        torch.testing.assert_close(actual[name], value, atol=4e-3, rtol=0, msg=name)
