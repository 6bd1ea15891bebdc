"""Fabric trains a recipe as the Trainer does, and each resumes the other's checkpoints."""

import csv
import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hook_recorder
import lmrecipes.fabric.__main__
import warm
from conftest import environment
from lmrecipes.__main__ import main
from lmrecipes.checkpoints import listing
from lmrecipes.checkpoints.io import load_checkpoint
from lmrecipes.fabric.loop import HOOKS

FIGURES = ("train/loss", "train/perplexity", "train/tokens", "val/loss", "val/perplexity")
WAYS = {
    "one process": [],
    "two ranks, two micro-batches": [
        *("--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.devices=2", "--batch.micro_batch_size=1"),
    ],
}
CLIPPED = ["--trainer.gradient_clip_algorithm=value", "--trainer.gradient_clip_val=0.001"]


def metrics(run: Path) -> dict[tuple[str, str], float]:
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
@pytest.mark.parametrize("setup", WAYS)
def test_losses_equal_those_of_the_trainer_at_every_step(setup, command, small, tmp_path):
    for words, run in ((["fit"], "trainer"), (["fabric", "fit"], "fabric")):
        done = command(*words, *small, *WAYS[setup], f"--run_dir={run}")
        assert (done.returncode, done.stderr) == (0, "")
    ours = metrics(tmp_path / "fabric")
    assert sum(name == "train/loss" for _, name in ours) == 12
    assert ours == metrics(tmp_path / "trainer")
    assert_equal(state(tmp_path / "fabric"), state(tmp_path / "trainer"))
    assert {p.name for p in (tmp_path / "fabric/checkpoints").glob("*.ckpt")} == {
        p.name for p in (tmp_path / "trainer/checkpoints").glob("*.ckpt")
    }
    assert (tmp_path / "fabric/plots/run.png").is_file()
    tested = [command(*words, "test", "--run=fabric") for words in ([], ["fabric"])]
    assert [done.stderr for done in tested] == ["", ""]
    shown = [done.stdout.splitlines()[:2] for done in tested]
    assert shown[0] == shown[1]
    assert shown[0][0].startswith("test/loss")


@pytest.mark.slow
def test_gradients_are_clipped_by_value_as_in_the_trainer(command, small, tmp_path):
    for words, run in ((["fit"], "trainer"), (["fabric", "fit"], "fabric")):
        done = command(*words, *small, *CLIPPED, f"--run_dir={run}")
        assert (done.returncode, done.stderr) == (0, "")
    assert metrics(tmp_path / "fabric") == metrics(tmp_path / "trainer")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [("fit", "fabric fit"), ("fabric fit", "fit")])
def test_fabric_and_the_trainer_resume_each_others_runs(first, then, command, small, tmp_path):
    signalled = {"class_path": "kill_callbacks.SignalAt", "init_args": {"step": 6, "name": "SIGTERM"}}
    callbacks = [{"class_path": f"lmrecipes.callbacks.{name}"} for name in ("BestCheckpoint", "LastCheckpoint")]
    options = [*small, "--batch.micro_batch_size=2", f"--trainer.callbacks={json.dumps([*callbacks, signalled])}"]
    assert command("fit", *options, "--run_dir=alone").returncode == 0
    stopped = command(*first.split(), *options, "--run_dir=run", SEND="1")
    assert stopped.returncode == 143, stopped.stdout + stopped.stderr
    resumed = command(*then.split(), "--resume=run")
    assert resumed.returncode == 0, resumed.stderr
    assert_equal(state(tmp_path / "run"), state(tmp_path / "alone"))
    again, alone = metrics(tmp_path / "run"), metrics(tmp_path / "alone")
    assert {k: v for k, v in again.items() if k[1] == "val/loss"} == {
        k: v for k, v in alone.items() if k[1] == "val/loss"
    }


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "fabric run"])
def test_two_nodes_train_like_one_process(launcher, command, small, tmp_path):
    assert command("fit", *small, "--run_dir=alone", "--model.config.dropout=0").returncode == 0
    script, port = lmrecipes.fabric.__main__.__file__, str(free_port())
    words = ["fit", *small, "--run_dir=run", "--trainer.accelerator=cpu", "--model.config.dropout=0"]
    nodes = []
    for rank in ("0", "1"):
        if launcher == "torchrun":
            launch = [
                warm.python(),
                "-m",
                "torch.distributed.run",
                "--nnodes=2",
                "--nproc-per-node=1",
                f"--node-rank={rank}",
            ]
            launch += [
                "--master-addr=127.0.0.1",
                f"--master-port={port}",
                "--rdzv-id=test",
                "-m",
                "lmrecipes",
                "fabric",
            ]
            more = ["--trainer.num_nodes=2", "--trainer.strategy=ddp"]
        else:
            launch = [
                str(Path(sys.executable).with_name("fabric")),
                "run",
                "--accelerator=cpu",
                "--strategy=ddp",
                "--devices=1",
            ]
            launch += [
                "--num-nodes=2",
                f"--node-rank={rank}",
                "--main-address=127.0.0.1",
                f"--main-port={port}",
                script,
            ]
            more = []
        nodes.append(
            subprocess.Popen(
                [*launch, *words, *more],
                cwd=tmp_path,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    output = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], output
    assert "done at step 12" in output[0]
    alone = state(tmp_path / "alone")
    for name, value in state(tmp_path / "run").items():
        torch.testing.assert_close(value, alone[name], atol=1e-4, rtol=0, msg=name)


def callbacks(*more: dict) -> str:
    kept = [{"class_path": f"lmrecipes.callbacks.{name}"} for name in ("BestCheckpoint", "LastCheckpoint", "LossGuard")]
    return f"--trainer.callbacks={json.dumps([*kept, *more])}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("first", "then"), [(["fit"], ["fabric", "fit"]), (["fabric", "fit"], ["fit"])])
def test_a_better_checkpoint_from_before_the_switch_stays_the_best(first, then, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*first, *small, callbacks(), "--run_dir=run", "--trainer.max_steps=6"]) == 0
    assert [path.name for path in Path("run/checkpoints").glob("best-*")] == ["best-step=6.ckpt"]
    # From here on the metric can only get worse.
    assert main([*then, "--resume=run", "--model.optimizer.lr=50", "--trainer.max_steps=12"]) == 0
    assert [path.name for path in Path("run/checkpoints").glob("best-*")] == ["best-step=6.ckpt"]


@pytest.mark.filterwarnings("ignore")
def test_a_changed_setting_overrides_the_checkpoint(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    optimizer = ["--model.optimizer=torch.optim.AdamW", "--model.optimizer.lr=1e-3"]
    assert main(["fit", *small, *optimizer, callbacks(), "--run_dir=run", "--trainer.max_steps=4"]) == 0
    assert main(["fabric", "fit", "--resume=run", "--model.optimizer.betas=[0.5,0.6]", "--trainer.max_steps=6"]) == 0
    assert "model.optimizer.betas" in capsys.readouterr().out
    (path,) = Path("run/checkpoints").glob("last-*")
    groups = torch.load(path, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert [tuple(group["betas"]) for group in groups] == [(0.5, 0.6)]
    assert "- 0.5" in Path("run/config.yaml").read_text()
    assert Path("run/config.1.yaml").is_file()


@pytest.mark.slow
def test_fabric_resumes_a_sharded_checkpoint(command, small, tmp_path):
    signalled = {"class_path": "kill_callbacks.SignalAt", "init_args": {"step": 5, "name": "SIGTERM"}}
    options = [*small, callbacks(signalled), "--model.optimizer=torch.optim.AdamW", "--model.optimizer.lr=1e-3"]
    options += ["--model.optimizer.eps=1e-4", "--model.config.dropout=0"]
    sharded = ["--trainer.accelerator=cpu", "--trainer.strategy=fsdp2", "--trainer.devices=2"]
    assert command("fit", *options, "--run_dir=alone").returncode == 0
    stopped = command("fit", *options, *sharded, "--run_dir=run", SEND="1")
    assert stopped.returncode == 143, stopped.stderr
    assert (tmp_path / "run/checkpoints/last-step=6.ckpt").is_dir()
    resumed = command("fabric", "fit", "--resume=run", "--trainer.strategy=auto", "--trainer.devices=1")
    assert resumed.returncode == 0, resumed.stderr
    alone = state(tmp_path / "alone")
    for name, value in state(tmp_path / "run").items():
        torch.testing.assert_close(value, alone[name], atol=1e-4, rtol=0, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("setup", WAYS)
def test_a_non_finite_loss_stops_the_run_with_one_line(setup, command, small):
    nan = {"class_path": "fault_callbacks.Fault", "init_args": {"kind": "nan", "step": 7}}
    done = command("fabric", "fit", *small, *WAYS[setup], callbacks(nan), "--run_dir=run")
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: stopped by LossGuard at step 8: the loss is nan; best-step=6 is the last good")
    assert "lmrecipes fabric fit --resume run --model.optimizer.lr" in line


@pytest.mark.slow
def test_a_failing_rank_stops_the_other_with_one_line(command, small, tmp_path):
    fault = {"class_path": "fault_callbacks.Fault", "init_args": {"kind": "raise", "step": 7, "rank": 1}}
    done = command("fabric", "fit", *small, *WAYS["two ranks, two micro-batches"], callbacks(fault), "--run_dir=run")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: rank 1 on ")
    assert "failed at step 7: RuntimeError: the disk is on fire" in line
    assert (tmp_path / "run/errors/rank1.txt").is_file()


@pytest.mark.slow
def test_the_recipes_loggers_are_used(command, small, tmp_path):
    done = command("fabric", "fit", *small, "--trainer.logger=loggers/tensorboard.yaml", "--run_dir=run")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


@pytest.mark.filterwarnings("ignore")
def test_results_are_written_next_to_the_published_ones(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    target = "--published=[{metric: test/perplexity, value: 24.0, source: a paper}]"
    assert main(["fabric", "fit", *small, target, callbacks(), "--run_dir=run"]) == 0
    capsys.readouterr()
    for words in ([], ["fabric"]):
        assert main([*words, "test", "--run=run"]) == 0
    one, other = json.loads(Path("run/results.json").read_text())
    assert {**one["metrics"], "test/tokens_per_s": 0} == {**other["metrics"], "test/tokens_per_s": 0}
    assert one["published"] == other["published"] != []
    assert main(["fabric", "test", "--run=run", "--trainer.limit_test_batches=0"]) == 2
    assert "leaves nothing to test" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "lmrecipes fabric got nothing; it takes one of fit, validate, test"),
        (["train"], "lmrecipes fabric got train; it takes one of fit, validate, test"),
        (
            ["fit", "--config=transformer_xl/tiny", "--trainer.strategy=fsdp2"],
            "trainer.strategy is fsdp2; under Fabric",
        ),
        (
            ["fit", "--config=transformer_xl/tiny", "--trainer.overfit_batches=2"],
            "trainer.overfit_batches is 2, which the Fabric loop does not support; leave it out",
        ),
        (
            ["fit", "--config=transformer_xl/tiny", "--trainer.val_check_interval=0.5"],
            "trainer.val_check_interval is 0.5; under Fabric it must be a number of steps",
        ),
        (
            ["fit", "--config=transformer_xl/tiny", "--trainer.max_steps=-1"],
            "trainer.max_steps is -1; under Fabric it must be 1 or more",
        ),
    ],
)
def test_unsupported_options_are_rejected_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fabric", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.filterwarnings("ignore")
def test_a_broken_checkpoint_is_replaced_when_its_step_is_repeated(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fabric", "fit", *small, callbacks(), "--run_dir=run", "--trainer.max_steps=6"]) == 0
    saved = Path("run/checkpoints")
    (saved / "last-step=6.ckpt").rename("whole.ckpt")
    assert main(["fabric", "fit", "--resume=run", "--trainer.max_steps=12"]) == 0
    for path in saved.glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:5000])
    Path("whole.ckpt").rename(saved / "last-step=6.ckpt")
    listing.note(saved, ["last-step=6.ckpt"])
    assert main(["fabric", "fit", "--resume=run"]) == 0
    assert load_checkpoint(saved / "last-step=12.ckpt")["global_step"] == 12
    assert not (saved / "last-step=6.ckpt").exists()


@pytest.mark.filterwarnings("ignore")
def test_callbacks_that_need_the_trainer_are_skipped_and_named(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    of_lightning = [{"class_path": name} for name in ("LearningRateMonitor", "ModelCheckpoint", "ModelSummary")]
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss"}}
    extra = callbacks(*of_lightning, stopping, {"class_path": "hook_recorder.HookRecorder"})
    assert main(["fabric", "fit", *small, extra, "--run_dir=run"]) == 0
    left_out = "LearningRateMonitor, ModelCheckpoint, ModelSummary, EarlyStopping, HookRecorder.on_train_epoch_end"
    assert f"not under Fabric: {left_out}\n" in capsys.readouterr().out
    # Training calls every advertised hook except those of a test, an exception and a resume.
    assert {hook for hook in HOOKS if "test" not in hook} - {
        *("on_exception", "state_dict", "load_state_dict", "on_load_checkpoint"),
    } == hook_recorder.CALLED


def interrupt_during_validation(command, options: list[str], rank: int) -> None:
    signalled = {"step": 6, "name": "SIGUSR1", "batch": 1, "rank": rank}
    extra = callbacks({"class_path": "kill_callbacks.SignalAt", "init_args": signalled})
    stopped = command("fabric", "fit", *options, extra, "--run_dir=run", SEND="1")
    assert stopped.returncode == 128 + signal.SIGUSR1, stopped.stderr
    assert "stopped by SIGUSR1 at step 6; last-step=6 is saved" in stopped.stdout
    assert "eval at step 6" not in stopped.stdout


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_interrupted_validation_is_repeated(command, small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fabric", "fit", *small, callbacks(), "--run_dir=alone"]) == 0
    interrupt_during_validation(command, small, rank=0)
    # Once by Fabric's loop, once by the Trainer.
    shutil.copytree("run", "other")
    for words, run in ((["fabric", "fit"], "run"), (["fit"], "other")):
        capsys.readouterr()
        assert main([*words, f"--resume={run}"]) == 0
        assert "eval at step 6" in capsys.readouterr().out
        assert_equal(state(Path(run)), state(Path("alone")))
        assert metrics(Path(run)) == metrics(Path("alone"))


@pytest.mark.slow
def test_two_ranks_interrupt_a_validation_together(command, small):
    ranks = WAYS["two ranks, two micro-batches"]
    interrupt_during_validation(command, [*small, *ranks], rank=1)
    resumed = command("fabric", "fit", "--resume=run")
    assert resumed.returncode == 0, resumed.stderr
    assert "eval at step 6" in resumed.stdout
