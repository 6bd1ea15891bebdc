"""ELECTRA trains the same under every strategy."""

import json

import pytest
from small_runs import strategy_options
from test_parity import TOLERANCE, losses

from lmrecipes.data.embedded.squad import make_squad

SIZES = {"d_embedding": 16, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32}
# Such a low temperature makes the generator deterministic; sampling would differ between processes.
PRETRAINING = {"generator_size": 1.0, "generator_d_head": 8, "temperature": 1e-6}


@pytest.fixture(scope="module")
def squad(tmp_path_factory):
    """A small SQuAD file."""
    file = tmp_path_factory.mktemp("squad") / "squad.json"
    file.write_text(json.dumps(make_squad("train", 40)))
    return file


def recipe(name, squad):
    text = squad.with_name("text.txt")
    if name == "tiny_pretrain":
        paragraphs = json.loads(squad.read_text())["data"][0]["paragraphs"]
        text.write_text("\n\n".join(paragraph["context"] for paragraph in paragraphs))
        data = ["--data=documents_folder", f"--data.paths.mine={text}", "--data.held_out=0.2"]
        sizes = SIZES | PRETRAINING
    else:
        data = [f"--data.{split}={squad}" for split in ("train", "val", "test")]
        sizes = SIZES | {"d_answer": 16}
    return [
        *("fit", "--config", f"electra/{name}", *data, f"--data.cache_dir={squad.parent}/cache"),
        *("--data.wordpiece.vocab_size=300", "--batch.global_batch_size=8", "--batch.seq_len=96"),
        *(f"--model.config.{field}={value}" for field, value in sizes.items()),
        *("--trainer.max_steps=8", "--trainer.val_check_interval=8", "--trainer.log_every_n_steps=1"),
        *("--trainer.num_sanity_val_steps=0", "--trainer.gradient_clip_val=0.1"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("tiny_squad", "2 fsdp2"),
        ("tiny_squad", "2 zero 3"),
        ("tiny_squad", "1x2 tensor parallel"),
        ("tiny_pretrain", "1x2 tensor parallel"),
    ],
)
def test_electra_losses_equal_those_of_one_process(name, strategy, squad, command, tmp_path):
    for one in ("1 process", strategy):
        done = command(*recipe(name, squad), *strategy_options(one), f"--run_dir={one}")
        assert (done.returncode, done.stderr) == (0, "")
    alone, distributed = losses(tmp_path / "1 process"), losses(tmp_path / strategy)
    assert alone.keys() == distributed.keys()
    assert sum("train/loss" in row for row in alone.values()) == 8
    for step, row in alone.items():
        # Every rank counts its own tokens.
        for metric in {"train/loss", "val/loss"} & row.keys():
            assert distributed[step][metric] == pytest.approx(row[metric], abs=TOLERANCE), (step, metric)
