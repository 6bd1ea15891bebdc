"""Settings that could once be given and failed later, or not at all, are refused by their name."""

from __future__ import annotations

import json
import math

import pytest
import yaml

from lmrecipes.__main__ import main
from lmrecipes.config import catalog
from lmrecipes.config.validation import nearest_divisor
from lmrecipes.config.values import check_values
from lmrecipes.models.electra.config import ReaderConfig

pytestmark = pytest.mark.filterwarnings("ignore")
BEST = "lmrecipes.callbacks.BestCheckpoint"
LONG = "x" * 300


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refusal(capsys, *arguments):
    """The one line of an error; nothing else is printed to stderr, no file is left."""
    assert main([*arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def callback(name, **arguments):
    entries = json.dumps([{"class_path": f"lmrecipes.callbacks.{name}", "init_args": arguments}])
    return f"--trainer.callbacks={entries.replace('NaN', '.nan').replace('Infinity', '.inf')}"


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ("--data=", ["--data is empty"]),
        ("--trainer.callbacks=os.system", ["trainer.callbacks: expected classes", "os.system"]),
        pytest.param(
            "--model.optimizer=os.system",
            ["model.optimizer: os.system is not a subclass of Optimizer"],
            marks=pytest.mark.slow,
        ),
        (f"--run_dir={LONG}", ["--run_dir is xxx", "300 characters"]),
        (f"--init_from={LONG}", ["--init_from is xxx", "300 characters"]),
        ("--batch.mem_len=1000000000000", ["batch.mem_len is 1000000000000", "or less"]),
        ("--batch.val.seq_len=1000000000000", ["batch.val.seq_len is 1000000000000", "or less"]),
        (f"--batch.seq_len={10**30}", ["error: batch.seq_len is 1e+30", "9.22e+18"]),
        ("--model.optimizer.lr=-1", ["model.optimizer.lr is -1.0"]),
        ("--model.optimizer.eps=-1", ["model.optimizer.eps is -1.0"]),
        ("--model.optimizer.betas=[2,0.9]", ["model.optimizer.betas is 2"]),
        ("--model.optimizer.lr=.nan", ["model.optimizer.lr is nan; it must be a finite number"]),
        ("--model.schedule.warmup_steps=-1", ["model.schedule.warmup_steps is -1; it must be 0 or more"]),
        ("--model.config.init_std=-1", ["model.config.init_std is -1"]),
        ("--model.config.d_model=1000000000", ["model.config", "d_model (1000000000)", "GB of memory"]),
        ("--model.config.n_layers=1000000000000", ["model.config", "n_layers (1000000000000)", "GB of memory"]),
        ("--trainer.gradient_clip_val=-1", ["trainer.gradient_clip_val is -1"]),
        ("--trainer.max_time=x", ["trainer.max_time is 'x'", "00:12:00:00"]),
        ("--trainer.max_time=-1:00:00:00", ["trainer.max_time is '-1:00:00:00'"]),
        ("--trainer.max_time={a: 1}", ["trainer.max_time has a: 1", "hours"]),
        ("--trainer.num_nodes=1000000000000", ["trainer.num_nodes is 1000000000000"]),
        ("--trainer.max_epochs=-2", ["trainer.max_epochs is -2"]),
        ("--seed_everything=-1", ["seed_everything is -1; it must be from 0 to 4294967295"]),
        ("--seed_everything=99999999999", ["seed_everything is 99999999999"]),
        ("--group_timeout_minutes=1e30", ["--group_timeout_minutes is 1e+30"]),
        ("--data.cache_dir=/proc/x", ["data.cache_dir /proc/x cannot be written to"]),
        ("--data.path=", ["data.path is empty"]),
        ("--data.vocabulary_dir=nowhere", ["data.vocabulary_dir: no vocabulary in nowhere"]),
        (callback("LastCheckpoint", every_minutes=0), ["LastCheckpoint.every_minutes is 0"]),
        (callback("LastCheckpoint", every_minutes=-1), ["LastCheckpoint.every_minutes is -1"]),
        (callback("LastCheckpoint", every_minutes=float("nan")), ["LastCheckpoint.every_minutes is nan"]),
        (callback("Watchdog", timeout_minutes=float("inf")), ["Watchdog.timeout_minutes is inf"]),
        (callback("Watchdog", timeout_minutes=10**12), ["Watchdog.timeout_minutes is 1e+12"]),
        (callback("BestCheckpoint", monitor=""), ["BestCheckpoint.monitor is empty"]),
        (callback("LossGuard", spike_window_steps=10**12), ["LossGuard.spike_window_steps is 1000000000000"]),
        (callback("Throughput", window_steps=None), ["Throughput.window_steps is null"]),
        (
            f'--trainer.callbacks=[{{class_path: {BEST}, init_arg: {{monitor: "val/loss"}}}}]',
            [f"{BEST}: unknown key 'init_arg'; did you mean 'init_args'?"],
        ),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else None,
)
def test_a_setting_that_cannot_work_is_refused_by_its_name(small, capsys, tmp_path, option, parts):
    line = refusal(capsys, "fit", *small, option)
    for part in parts:
        assert part in line, line
    assert len(line) < 400
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "0"])
def test_a_rehearsal_has_a_time_limit(capsys, seconds):
    line = refusal(capsys, "rehearse", "--config", "transformer_xl/tiny", f"--stage_timeout_s={seconds}")
    assert f"--stage_timeout_s is {seconds}; it must be a number of seconds above 0" in line


def test_a_run_with_a_name_that_no_folder_can_have_is_refused(capsys):
    assert "300 characters" in refusal(capsys, "test", "--run", LONG)


def recipe(**changes):
    content = yaml.safe_load(catalog.recipe_paths()["transformer_xl/tiny"].read_text())
    content["data"] = {"class_path": "lmrecipes.datamodules.EmbeddedText"}
    content["trainer"].pop("callbacks")
    return yaml.safe_dump({**content, **changes})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a: " + "{a: " * 3000 + "}" * 3000, ["mine.yaml is nested more than 50 levels deep"]),
        ("a: " + "[" * 3000 + "]" * 3000, ["mine.yaml is nested more than 50 levels deep"]),
        ("a\0b: 1", ["mine.yaml is not valid YAML: it has the character U+0000 at position 1"]),
        (recipe(data="nowhere.yaml"), ["mine.yaml: data is nowhere.yaml, but there is no file"]),
        (recipe(model="nowhere.yaml"), ["mine.yaml: model is nowhere.yaml, but there is no file"]),
        (recipe(trainer={"callbacks": "nowhere.yaml"}), ["trainer.callbacks is nowhere.yaml, but there is no file"]),
        (recipe(data=LONG), ["mine.yaml: data is xxx", "300 characters"]),
        (recipe(trainer=LONG), ["mine.yaml: trainer is 'xxx", "it must be a group"]),
    ],
    ids=lambda value: value[:10] if isinstance(value, str) else None,
)
def test_a_recipe_file_that_cannot_be_used_is_named(capsys, tmp_path, text, parts):
    (tmp_path / "mine.yaml").write_text(text)
    line = refusal(capsys, "fit", "--config", "mine.yaml")
    for part in parts:
        assert part in line, line
    assert len(line) < 500


def test_a_recipe_names_a_preset_as_the_command_line_does(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text(recipe(data="embedded_text", trainer={"max_steps": 3, "callbacks": "default"}))
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "mine.yaml", "--print_config"])
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["class_path"] == "lmrecipes.datamodules.EmbeddedText"
    assert BEST in [entry["class_path"] for entry in printed["trainer"]["callbacks"]]


def test_a_folder_in_place_of_a_list_file_is_named(small, capsys, tmp_path):
    (tmp_path / "mine.yaml").mkdir()
    for value in ("mine.yaml", "[mine.yaml]"):
        assert "mine.yaml is a folder" in refusal(capsys, "fit", *small, f"--trainer.callbacks={value}")


def test_a_misspelt_key_is_named_rather_than_the_one_that_is_missing_for_it(capsys, tmp_path):
    batch = {"global_batch_siz": 8, "seq_len": 8}
    (tmp_path / "mine.yaml").write_text(recipe(batch=batch))
    line = refusal(capsys, "fit", "--config", "mine.yaml")
    assert "unknown key 'batch.global_batch_siz'; did you mean 'batch.global_batch_size'?" in line


def test_sequences_longer_than_electras_positions_are_refused():
    with pytest.raises(ValueError, match=r"batch.seq_len is 65, but model.config.max_positions is 64"):
        ReaderConfig(max_positions=64).check_length(65)
    ReaderConfig(max_positions=64).check_length(64)


def test_pretraining_longer_than_the_positions_is_refused_by_name(capsys):
    line = refusal(capsys, "fit", "--config", "electra/tiny_pretrain", "--model.config.max_positions=16")
    assert "model.config.max_positions is 16" in line


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.train=nowhere.json", "data.train: nowhere.json is not a file"),
        ("--data.vocabulary_dir=nowhere", "data.vocabulary_dir: nowhere holds no WordPiece vocabulary"),
        ("--data.wordpiece.name=nowhere", "data.wordpiece.name: nowhere holds no WordPiece vocabulary"),
        ("--model.config.init_std=0", "model.config.init_std is 0.0; it must be above 0"),
    ],
)
def test_what_a_fine_tuning_reads_is_named_by_its_setting(capsys, option, message):
    line = refusal(capsys, "fit", "--config", "electra/tiny_squad", "--data.cache_dir=cache", option)
    assert message in line


def test_the_nearest_divisor_of_a_huge_number_is_found_at_once():
    assert nearest_divisor(12, 5) == 4
    assert nearest_divisor(10**18, 7) == 8
    assert all(nearest_divisor(n, n) == n for n in range(1, 50))


def test_what_a_class_of_ones_own_takes_is_its_own_affair():
    def entry(class_path):
        return {"trainer": {"callbacks": [{"class_path": class_path, "init_args": {"limit": math.inf}}]}}

    check_values(entry("mine.Callback"), {})
    with pytest.raises(ValueError, match="limit is inf; it must be a finite number"):
        check_values(entry("lmrecipes.callbacks.Throughput"), {})
