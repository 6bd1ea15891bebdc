"""Invalid input is reported in one line that names it, with exit code 2, and leaves no files behind."""

import csv
import json
import re
import subprocess
import sys

import pytest
import yaml
from lightning.pytorch.accelerators import CUDAAccelerator

from lmrecipes.__main__ import main
from lmrecipes.checkpoints.io import load_checkpoint
from lmrecipes.config import catalog
from lmrecipes.config.errors import ConfigError
from lmrecipes.config.hardware import check_hardware
from lmrecipes.models.transformer_xl.memory import StreamMemory

pytestmark = pytest.mark.filterwarnings("ignore")
FIT = ["fit", "--config", "transformer_xl/tiny"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def error_line(capsys, arguments):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, lines
    assert not any("Traceback" in line for line in lines)
    return errors[0]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["ft"], ["no command 'ft'", "'fit'"]),
        (["fit"], ["--config RECIPE", "--resume RUN", "lmrecipes list"]),
        (["fit", "--config", "transformer_xl/tyni"], ["no recipe 'transformer_xl/tyni'", "transformer_xl/tiny"]),
        ([*FIT, "--trainer.max_step", "3"], ["trainer.max_step'", "did you mean 'trainer.max_steps'"]),
        ([*FIT, "--model.config.n_layer", "3"], ["model.config.n_layer'", "did you mean 'model.config.n_layers'"]),
        ([*FIT, "--batch.seq_le", "3"], ["batch.seq_le'", "did you mean 'batch.seq_len'"]),
        ([*FIT, "--model.schedule.warmup_step", "3"], ["warmup_step'", "did you mean 'model.schedule.warmup_steps'"]),
        ([*FIT, "--model.config.n_layers", "many"], ["n_layers", "int", "many"]),
        ([*FIT, "--model.config.d_model", "15"], ["model.config.d_model is 15; it must be even"]),
        ([*FIT, "--batch.seq_len", "0"], ["batch.seq_len is 0; it must be 1 or more"]),
        ([*FIT, "--batch.val.batch_size", "0"], ["batch.val.batch_size is 0; it must be 1 or more"]),
        ([*FIT, "--batch.test.seq_len", "-1"], ["batch.test.seq_len is -1; it must be 1 or more"]),
        ([*FIT, "--batch.test.mem_len", "-1"], ["batch.test.mem_len is -1; it must be 0 or more"]),
        ([*FIT, "--batch.val.clamp_len", "-1"], ["batch.val.clamp_len is -1; it must be 0 or more"]),
        ([*FIT, "--batch.micro_batch_size", "5"], ["batch.micro_batch_size is 5", "4 would"]),
        (
            [*FIT, "--trainer.accumulate_grad_batches", "2"],
            ["trainer.accumulate_grad_batches", "batch.micro_batch_size"],
        ),
        ([*FIT, "--model.optimizer", "torch.optim.Adamm"], ["Adamm"]),
        ([*FIT, "--trainer.strategy", "dpp"], ["dpp"]),
        ([*FIT, "--trainer.accelerator", "tpuu"], ["trainer.accelerator is 'tpuu'", "cpu"]),
        (
            [*FIT, "--trainer.accelerator", "tpu"],
            ["trainer.accelerator is tpu", "this machine has none", "overlays/cpu"],
        ),
        ([*FIT, "--trainer.devices", "0"], ["trainer.devices is 0; it must be 1 or more"]),
        ([*FIT, "--trainer.devices", "-3"], ["trainer.devices is -3; it must be 1 or more"]),
        ([*FIT, "--trainer.devices", "0,"], ["trainer.devices is '0,'", "the number of processes, such as 1"]),
        ([*FIT, "--trainer.devices", "[0,0]"], ["trainer.devices is [0, 0]", "the number of processes, such as 1"]),
        ([*FIT, "--trainer.log_every_n_steps", "-1"], ["trainer.log_every_n_steps is -1", "0 (never) or more"]),
        ([*FIT, "--trainer.val_check_interval", "0"], ["trainer.val_check_interval is 0", "above 0"]),
        ([*FIT, "--trainer.limit_train_batches", "3"], ["trainer.limit_train_batches is 3", "trainer.max_steps"]),
        ([*FIT, "--trainer.overfit_batches", "0.5"], ["trainer.overfit_batches is 0.5", "a number of batches"]),
        ([*FIT, "--trainer.devices", "many"], ["trainer.devices is 'many'", "a number"]),
        ([*FIT, "--trainer.precision", "bf17"], ["trainer.precision", "bf16-mixed", "32-true", "bf17"]),
        ([*FIT, "--trainer.precision", "16-mixed"], ["trainer.precision is 16-mixed", "bf16-mixed and 32-true work"]),
        ([*FIT, "--trainer.precision", "16-true"], ["trainer.precision is 16-true", "bf16-mixed and 32-true work"]),
        ([*FIT, "--trainer.strategy", "fsdp"], ["fsdp", "requires a GPU"]),
        (
            [*FIT, "--trainer.strategy", "deepspeed_stage_3"],
            ["deepspeed_stage_3", "a GPU; deepspeed_zero2 works"],
        ),
        (
            [*FIT, "--trainer.strategy", "DeepSpeedStrategy", "--trainer.strategy.stage", "2"],
            ["is DeepSpeedStrategy", "deepspeed_zero2 works"],
        ),
        ([*FIT, "--trainer.strategy", "ddp_spawn"], ["trainer.strategy is ddp_spawn", "ddp works"]),
        ([*FIT, "--trainer.strategy", "ddp_notebook_find_unused_parameters_true"], ["begin by fork", "ddp works"]),
        pytest.param(
            [*FIT, "--trainer.strategy", "DDPStrategy", "--trainer.strategy.start_method", "spawn"],
            ["trainer.strategy is DDPStrategy", "ddp works"],
            marks=pytest.mark.slow,
        ),
        ([*FIT, "--trainer.max_steps", "-5"], ["max_steps", "-5"]),
        ([*FIT, "--trainer.limit_val_batches", "-1"], ["limit_val_batches", "-1"]),
        ([*FIT, "--trainer.val_check_interval", "x"], ["val_check_interval", "'x'"]),
        ([*FIT, "--trainer.gradient_clip_algorithm", "x"], ["gradient_clip_algorithm", "'norm'"]),
        ([*FIT, "--trainer.gradient_clip_val", "x"], ["trainer.gradient_clip_val: expected int or float, got x"]),
        ([*FIT, "--data", "nowhere.yaml"], ["no datamodule preset 'nowhere.yaml'"]),
        ([*FIT, "--data", "text_folder"], ["data.path is missing"]),
        ([*FIT, "--data", "text_folder", "--data.path", "nowhere"], ["data.path nowhere is not a folder"]),
        ([*FIT, "--data", "enwik8"], ["--data.path FOLDER"]),
        ([*FIT, "--init_from", "nowhere"], ["no run 'nowhere'"]),
        (["fit", "--resume", "nowhere"], ["no run 'nowhere'"]),
        (["test", "--run", "nowhere"], ["no run 'nowhere'"]),
        (["test", "--config", "transformer_xl/tiny"], ["--run RUN"]),
        ([*FIT, "--data", "textfolder"], ["no datamodule preset 'textfolder'", "did you mean text_folder"]),
        ([*FIT, "--model.config.d_inner", "3"], ["'model.config.d_inner'; did you mean 'model.config.d_ff'"]),
        ([*FIT, "--model.config.n_head", "3"], ["did you mean 'model.config.n_heads'"]),
        ([*FIT, "--batch.tgt_len", "3"], ["did you mean 'batch.seq_len'"]),
        ([*FIT, "--model.config.dropatt", "3"], ["did you mean 'model.config.attention_dropout'"]),
        ([*FIT, "--model.config.nonsense", "3"], ["unknown key 'model.config.nonsense'"]),
        ([*FIT, "--model.optimizer", "Adamm"], ["model.optimizer: there is no class Adamm", "torch.optim.Adam?"]),
        (
            [*FIT, "--model.optimizer", "torch.nn.Linear"],
            ["error: model.optimizer: torch.nn.Linear is not a subclass of Optimizer"],
        ),
        ([*FIT, "--model.optimizer.lr", "fast"], ["error: model.optimizer.lr: expected float, got fast"]),
        ([*FIT, "--model.schedule", "lmrecipes.optim.Cosinus"], ["model.schedule", "lmrecipes.optim.Cosine?"]),
        ([*FIT, "--model.config", "5"], ["model.config: expected a group of keys and values, got 5"]),
        ([*FIT, "--data.tokenizing.kind", "wrd"], ["expected one of 'word', 'char', 'byte'", "got wrd"]),
        ([*FIT, "--trainer.max_steps=0"], ["trainer.max_steps is 0; it must be 1 or more"]),
        (["fit", "--config", str(catalog.root() / "recipes/transformer_xl/tiny")], ["did you mean", "tiny.yaml?"]),
        (["plot"], ["error: name a run", "lmrecipes plot RUN"]),
        (["plot", "nowhere"], ["no run 'nowhere'"]),
        (["list", "nowhere"], ["nowhere"]),
        (
            ["fit", "--config", "mt5/tiny_mc4", "--trainer.precision=16-mixed"],
            ["mT5's activations overflow", "bf16-mixed"],
        ),
        (["list", "--words"], ["unrecognized arguments: --words; see lmrecipes list --help"]),
        (["rehearse", "--stage_timeout_s", "x"], ["--stage_timeout_s: invalid float value: 'x'"]),
        (["evaluate"], ["error: the following arguments are required: squad; see lmrecipes evaluate --help"]),
        (["evaluate", "squad", "--data", "x"], ["required: --predictions; see lmrecipes evaluate squad --help"]),
        ([*FIT, "--data", "text_folder", "--data.pathh", "x"], ["'data.pathh'; did you mean 'data.path'?"]),
        ([*FIT, "--data", "documents_folder", "--data.path", "x"], ["'data.path'; did you mean 'data.paths'?"]),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else None,
)
def test_bad_input_takes_one_line(arguments, parts, capsys, tmp_path):
    message = error_line(capsys, arguments)
    for part in parts:
        assert part in message, message
    assert len(message) < 600, message
    assert "Namespace" not in message
    assert "typing." not in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda r: r.update(bacth=r.pop("batch")), ["unknown key 'bacth'", "'batch'"]),
        (lambda r: r["trainer"].update(max_step=3), ["trainer.max_step'", "trainer.max_steps"]),
        (lambda r: r["model"]["init_args"]["config"].update(n_layer=3), ["n_layer'", "model.config.n_layers"]),
        (lambda r: r.update(config="base.yaml"), ["a second --config"]),
        (lambda r: r["model"].update(class_path="lmrecipes.models.transformer_xl.Nothing"), ["Nothing"]),
        (
            lambda r: r["model"]["init_args"]["optimizer"].update(class_path="torch.optim.Adamm"),
            ["error: model.optimizer: there is no class torch.optim.Adamm; did you mean torch.optim.Adam?"],
        ),
        (
            lambda r: r["model"]["init_args"].update(optimizer=5),
            ["error: model.optimizer: expected a class_path, got 5"],
        ),
        (lambda r: r.update(trainer=5), ["mine.yaml: trainer is 5; it must be a group"]),
        (lambda r: r.update(batch=[1]), ["mine.yaml: batch is [1]; it must be a group"]),
        (lambda r: r.update(model=5), ["mine.yaml: model is 5; it must be a group"]),
        (lambda r: r.update(data=None), ["mine.yaml: data is None; it must be a group"]),
        (lambda r: r.pop("model"), ["mine.yaml has no model group", "lmrecipes list"]),
        (lambda r: r.pop("data"), ["mine.yaml has no data group", "lmrecipes list"]),
    ],
    ids=[
        "group",
        "trainer key",
        "model key",
        "nested config",
        "class",
        *["optimizer"] * 2,
        *["no mapping"] * 4,
        "no model",
        "no data",
    ],
)
def test_bad_recipes_take_one_line(change, parts, capsys, tmp_path):
    recipe = yaml.safe_load(catalog.recipe_paths()["transformer_xl/tiny"].read_text())
    recipe["data"] = {"class_path": "lmrecipes.datamodules.EmbeddedText"}
    recipe["trainer"].pop("callbacks")
    change(recipe)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    message = error_line(capsys, ["fit", "--config", "mine.yaml"])
    for part in parts:
        assert part in message, message
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_duplicate_key_is_named_with_its_line(tmp_path, capsys):
    recipe = catalog.recipe_paths()["transformer_xl/tiny"].read_text() + "  max_steps: 7\n"
    (tmp_path / "mine.yaml").write_text(recipe)
    number = len(recipe.splitlines())
    message = error_line(capsys, ["fit", "--config", "mine.yaml"])
    assert f"mine.yaml:{number}:3: the key 'max_steps' is given twice, first in line " in message
    (tmp_path / "mine.yaml").write_text("trainer: {max_steps: 1, max_steps: 2}")
    assert "mine.yaml:1:25: the key 'max_steps'" in error_line(capsys, ["fit", "--config", "mine.yaml"])


def test_an_unwritable_folder_is_named_by_its_option(small, tmp_path, capsys):
    (tmp_path / "file").touch()
    message = error_line(capsys, ["prepare", *small, "--data.cache_dir=file"])
    assert "data.cache_dir file cannot be written to" in message
    assert main(["fit", *small, "--run_dir=a", "--trainer.max_steps=3"]) == 0
    for form in ("torch_export", "state_dict"):
        message = error_line(capsys, ["export", "--run=a", f"--format={form}", "--output=file"])
        assert "file cannot be written to" in message
        assert "--output" in message


def test_errors_in_the_text_are_reported_and_no_run_is_left(small, small_corpus, tmp_path, capsys):
    for options, part in (
        (["--model.config.cutoffs=[20,4000]"], "beyond the vocabulary of 62"),
        (["--batch.global_batch_size=4000"], "too few for 4000 parallel streams"),
        (["--model.config.vocab_size=99"], "model.config.vocab_size is 99, but the corpus has 62"),
    ):
        assert part in error_line(capsys, ["fit", *small, *options])
        assert not list(tmp_path.glob("runs/*/*/*"))


@pytest.mark.parametrize("sanity_steps", [0, 1])
@pytest.mark.parametrize(
    ("callback", "settings"),
    [
        ("lmrecipes.callbacks.BestCheckpoint", {}),
        ("lightning.pytorch.callbacks.ModelCheckpoint", {"save_top_k": 1}),
        ("lightning.pytorch.callbacks.EarlyStopping", {}),
    ],
)
def test_a_monitored_metric_that_is_never_logged_is_named(small, capsys, tmp_path, callback, settings, sanity_steps):
    callbacks = json.dumps([{"class_path": callback, "init_args": {"monitor": "val/lass", **settings}}])
    options = [f"--trainer.callbacks={callbacks}", f"--trainer.num_sanity_val_steps={sanity_steps}", "--run_dir=a"]
    message = error_line(capsys, ["fit", *small, *options])
    assert f"{callback.rsplit('.')[-1]}.monitor is 'val/lass', which is not logged; logged: " in message
    assert "val/loss" in message
    assert (tmp_path / "a").exists() == (sanity_steps == 0)


@pytest.mark.parametrize("callback", ["ModelCheckpoint", "EarlyStopping"])
def test_a_monitored_metric_that_training_never_logs_is_named(small, capsys, callback):
    callbacks = [{"class_path": f"lightning.pytorch.callbacks.{callback}", "init_args": {"monitor": "train/lass"}}]
    message = error_line(capsys, ["fit", *small, f"--trainer.callbacks={json.dumps(callbacks)}"])
    assert "'train/lass'" in message
    assert "train/loss" in message


def test_a_metric_that_training_logs_can_be_monitored(small):
    callbacks = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"monitor": "train/loss"}}
    options = [f"--trainer.callbacks={json.dumps([callbacks])}", "--trainer.num_sanity_val_steps=1"]
    assert main(["fit", *small, *options]) == 0


def test_more_devices_than_available_are_reported(monkeypatch):
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", staticmethod(lambda: 2))
    for fine in (1, 2, "2", "auto", -1, [0, 1], "0,1"):
        check_hardware("gpu", fine, "16-mixed")
    with pytest.raises(ConfigError, match=r"trainer.devices is 8, but this machine has 2"):
        check_hardware("gpu", 8, "bf16-mixed")


def test_no_run_is_overwritten(small, capsys):
    assert main(["fit", *small, "--run_dir=a", "--trainer.max_steps=3"]) == 0
    assert "holds a run already" in error_line(capsys, ["fit", *small, "--run_dir=a"])
    assert main(["test", "--run=a", "--checkpoint=last"]) == 0
    assert "--checkpoint x is not a checkpoint" in error_line(capsys, ["test", "--run=a", "--checkpoint=x"])


@pytest.mark.slow
def test_incompatible_weights_are_rejected_by_name(small, capsys):
    assert main(["fit", *small, "--run_dir=a", "--trainer.max_steps=3"]) == 0
    assert main(["fit", *small, "--run_dir=b", "--trainer.max_steps=3", "--init_from=a"]) == 0
    assert "has shape" in error_line(capsys, ["fit", *small, "--run_dir=c", "--init_from=a", "--model.config.d_ff=64"])
    assert "a different architecture" in error_line(
        capsys, ["fit", *small, "--run_dir=d", "--init_from=a", "--model.config.n_layers=3"]
    )


@pytest.fixture
def trained(small, in_an_empty_folder, tmp_path):
    assert main(["fit", *small, "--run_dir=a", "--trainer.max_steps=3"]) == 0
    return tmp_path / "a"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--model.config.d_ff=64"], ["--resume a/checkpoints/last-step=3.ckpt: network.", "has shape"]),
        (["--model.config.n_layers=3"], ["missing key network.layers", "a different architecture"]),
        (["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=1"], ["--resume cannot change model.optimizer"]),
        (["--trainer.max_steps=3", "--model.optimizer.lr=1"], []),
        (["--trainer.max_steps=2"], ["trainer.max_steps is 2, but a is at step 3 already"]),
        (["--batch.global_batch_size=8"], ["cannot change batch.global_batch_size from 4 to 8", "--init_from a"]),
        (["--batch.seq_len=4"], ["cannot change batch.seq_len from 8 to 4", "--init_from a"]),
        (["--init_from=a"], ["--resume", "and --init_from are mutually exclusive"]),
        (["--run_dir=b"], ["--resume", "and --run_dir are mutually exclusive"]),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else None,
)
def test_a_run_that_fails_to_resume_keeps_its_settings(trained, capsys, options, parts):
    before = (trained / "config.yaml").read_text()
    if parts:
        message = error_line(capsys, ["fit", "--resume=a", *options])
        for part in parts:
            assert part in message, message
    else:
        assert main(["fit", "--resume=a", *options]) == 0
    assert (trained / "config.yaml").read_text() == before
    assert not list(trained.glob("config.*.yaml"))


def test_a_resumed_run_keeps_both_settings(trained):
    before = (trained / "config.yaml").read_text()
    assert main(["fit", "--resume=a", "--trainer.max_steps=4"]) == 0
    assert yaml.safe_load((trained / "config.yaml").read_text())["trainer"]["max_steps"] == 4
    assert (trained / "config.1.yaml").read_text() == before


def test_a_run_resumes_with_another_accumulation_and_a_shorter_memory(trained):
    options = ["--batch.micro_batch_size=2", "--batch.mem_len=4", "--trainer.max_steps=4"]
    kept = load_checkpoint(trained / "checkpoints/last-step=3.ckpt")["stream_memory"]
    assert {tuple(layer.shape) for layer in kept} == {(4, 8, 16)}
    lengths = []
    original_read = StreamMemory.read

    def read(self, batch):
        memory = original_read(self, batch)
        lengths.append(None if memory is None else [layer.shape[:2] for layer in memory])
        return memory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamMemory, "read", read)
        assert main(["fit", "--resume=a", *options]) == 0
    assert lengths[:2] == [[(2, 4)] * len(kept)] * 2


def test_sizes_that_differ_from_the_checkpoint_are_named(trained, capsys):
    for command in (["test"], ["validate"], ["score", "--text=w1 w2"]):
        for option, part in (("d_ff=64", "has shape"), ("n_layers=1", "a different architecture")):
            message = error_line(capsys, [*command, "--run=a", f"--model.config.{option}"])
            assert message.startswith("error: --checkpoint a/checkpoints/last-step=3.ckpt"), message
            assert part in message


def test_an_evaluation_without_batches_is_rejected(trained, capsys):
    for command, split in (("validate", "val"), ("test", "test")):
        for nothing in ("0", "0.0"):
            message = error_line(capsys, [command, "--run=a", f"--trainer.limit_{split}_batches={nothing}"])
            assert f"trainer.limit_{split}_batches is 0" in message


def test_the_throughput_of_an_evaluation_counts_only_its_own_tokens(trained, monkeypatch):
    # Two segments of 8 tokens in 4 streams, in the time that the whole evaluation takes.
    monkeypatch.setattr("lmrecipes.commands.common.evaluation.time.perf_counter", iter([0.0, 2.0] * 9).__next__)
    assert main(["validate", "--run=a", "--trainer.limit_val_batches=3"]) == 0
    (result,) = json.loads((trained / "results.json").read_text())
    assert result["metrics"]["val/tokens_per_s"] == 2 * 8 * 4 / 2


def test_a_text_without_tokens_is_rejected(trained, capsys):
    for command in ("score", "predict"):
        assert "the text is empty after tokenization" in error_line(capsys, [command, "--run=a", "--text="])


def test_a_text_of_bytes_that_are_no_utf8_is_rejected(trained, capsys):
    for command in ("score", "predict"):
        message = error_line(capsys, [command, "--run=a", "--text=w1 \udce9"])
        assert message == "error: --text has the byte 0xE9 at position 3, which is not UTF-8 text"


def test_a_run_shorter_than_its_logging_interval_ends_without_a_warning(small, capsys, tmp_path):
    options = ["--trainer.max_steps=4", "--trainer.log_every_n_steps=10", "--run_dir=a"]
    assert main(["fit", *small, *options]) == 0
    printed = capsys.readouterr()
    assert "metrics.csv" not in printed.err + printed.out


def test_the_rate_in_a_line_is_the_logged_one(small, capsys):
    assert main(["fit", *small, "--run_dir=b", "--trainer.max_steps=4"]) == 0
    shown = re.findall(r"\| lr (\S+) \|", capsys.readouterr().out)
    with open("b/metrics.csv") as file:
        logged = [f"{float(row['train/lr']):.3e}" for row in csv.DictReader(file) if row["train/lr"]]
    assert shown[-4:] == logged


def test_a_file_of_a_run_in_place_of_the_run_is_reported(trained, capsys):
    message = error_line(capsys, ["fit", "--resume=a/checkpoints/last-step=3.ckpt"])
    assert message.endswith("last-step=3.ckpt is inside a run; give the run's directory: a")


@pytest.mark.slow
def test_list_imports_nothing_heavy():
    code = "import sys; from lmrecipes.__main__ import main; main(['list']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("False")
    assert "transformer_xl/wt103_base" in done.stdout


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("fit", "(--config RECIPE | --resume RUN) [--init_from INIT_FROM]"),
        ("score", "(--config RECIPE | --run RUN) [--checkpoint CHECKPOINT] [--text TEXT]"),
        ("prepare", "--config RECIPE [--shard SHARD]"),
    ],
)
def test_help_begins_with_the_commands_own_options_and_what_it_does(command, usage, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert words.startswith(f"usage: lmrecipes {command} {usage}")
    assert "Lightning Trainer command line tool" not in words
