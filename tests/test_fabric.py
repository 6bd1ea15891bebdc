"""Under Fabric a recipe trains as under the Trainer, and their checkpoints are each other's."""

import csv
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lmrecipes.fabric
from conftest import environment
from lmrecipes.__main__ import main

FIGURES = ("train/loss", "train/perplexity", "train/tokens", "val/loss", "val/perplexity")
WAYS = {
    "one process": [],
    "two ranks, two passes": [
        *("--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.devices=2", "--batch.micro_batch_size=1"),
    ],
}


def figures(run: Path) -> dict[tuple[str, str], float]:
    with (run / "metrics.csv").open() as file:
        return {(r["step"], k): float(r[k]) for r in csv.DictReader(file) for k in FIGURES if r.get(k)}


def state(run: Path) -> dict[str, torch.Tensor]:
    (path,) = (run / "checkpoints").glob("last-*.ckpt")
    content = torch.load(path, weights_only=True)
    assert content["global_step"] == 12
    return {**content["state_dict"], **{f"memory {i}": m for i, m in enumerate(content["stream_memory"])}}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_losses_are_those_of_the_trainer_step_by_step(way, command, small, tmp_path):
    for words, run in ((["fit"], "trainer"), (["fabric", "fit"], "fabric")):
        done = command(*words, *small, *WAYS[way], f"--run_dir={run}")
        assert (done.returncode, done.stderr) == (0, "")
    ours = figures(tmp_path / "fabric")
    assert sum(name == "train/loss" for _, name in ours) == 12
    assert ours == figures(tmp_path / "trainer")
    assert_equal(state(tmp_path / "fabric"), state(tmp_path / "trainer"))
    assert {p.name for p in (tmp_path / "fabric/checkpoints").iterdir()} == {
        p.name for p in (tmp_path / "trainer/checkpoints").iterdir()
    }
    assert (tmp_path / "fabric/plots/run.png").is_file()
    tested = [command(*words, "test", "--run=fabric") for words in ([], ["fabric"])]
    assert [done.stderr for done in tested] == ["", ""]
    shown = [done.stdout.splitlines()[:2] for done in tested]
    assert shown[0] == shown[1]
    assert shown[0][0].startswith("test/loss")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [("fit", "fabric fit"), ("fabric fit", "fit")])
def test_a_run_begun_by_one_is_ended_by_the_other(first, then, command, small, tmp_path):
    signal = {"class_path": "signaller.SignalAt", "init_args": {"step": 6, "name": "SIGTERM"}}
    callbacks = [{"class_path": f"lmrecipes.callbacks.{name}"} for name in ("BestCheckpoint", "LastCheckpoint")]
    options = [*small, "--batch.micro_batch_size=2", f"--trainer.callbacks={json.dumps([*callbacks, signal])}"]
    assert command("fit", *options, "--run_dir=alone").returncode == 0
    stopped = command(*first.split(), *options, "--run_dir=run", SEND="1")
    assert stopped.returncode == 143, stopped.stdout + stopped.stderr
    resumed = command(*then.split(), "--resume=run")
    assert resumed.returncode == 0, resumed.stderr
    assert_equal(state(tmp_path / "run"), state(tmp_path / "alone"))
    again, alone = figures(tmp_path / "run"), figures(tmp_path / "alone")
    assert {k: v for k, v in again.items() if k[1] == "val/loss"} == {
        k: v for k, v in alone.items() if k[1] == "val/loss"
    }


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "fabric run"])
def test_two_nodes_train_as_one_process(launcher, command, small, tmp_path):
    assert command("fit", *small, "--run_dir=alone", "--model.config.dropout=0").returncode == 0
    script, port = lmrecipes.fabric.__file__, str(free_port())
    words = ["fit", *small, "--run_dir=run", "--trainer.accelerator=cpu", "--model.config.dropout=0"]
    nodes = []
    for rank in ("0", "1"):
        if launcher == "torchrun":
            begin = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nnodes=2",
                "--nproc-per-node=1",
                f"--node-rank={rank}",
            ]
            begin += ["--master-addr=127.0.0.1", f"--master-port={port}", "--rdzv-id=test", "-m", "lmrecipes", "fabric"]
            more = ["--trainer.num_nodes=2", "--trainer.strategy=ddp"]
        else:
            begin = [
                str(Path(sys.executable).with_name("fabric")),
                "run",
                "--accelerator=cpu",
                "--strategy=ddp",
                "--devices=1",
            ]
            begin += ["--num-nodes=2", f"--node-rank={rank}", "--main-address=127.0.0.1", f"--main-port={port}", script]
            more = []
        nodes.append(
            subprocess.Popen(
                [*begin, *words, *more],
                cwd=tmp_path,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "done at step 12" in said[0]
    alone = state(tmp_path / "alone")
    for name, value in state(tmp_path / "run").items():
        torch.testing.assert_close(value, alone[name], atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "lmrecipes fabric got nothing; it takes one of fit, validate, test"),
        (["train"], "lmrecipes fabric got train; it takes one of fit, validate, test"),
        (
            ["fit", "--config=transformer_xl/tiny", "--trainer.strategy=fsdp2"],
            "trainer.strategy is fsdp2; under Fabric",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fabric", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.yaml"))
