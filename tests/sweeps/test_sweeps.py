"""The shipped sweeps: wandb accepts them, and every command line made from them trains with its values."""

import csv
import functools
import itertools
import json
import os
import random
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

import warm
from conftest import environment
from lmrecipes.__main__ import main
from lmrecipes.config import catalog
from lmrecipes.config.published import flatten
from wandb_files import parts

# Read from wandb's sweeps package, which is installed without its dependencies (an older NumPy) and cannot be imported.
SCHEMA = json.loads(distribution("sweeps").read_text("../sweeps/config/schema.json") or "")
SWEEPS = {path.stem: yaml.safe_load(path.read_text()) for path in (catalog.root() / "recipes/sweeps").glob("*.yaml")}
FEW = ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--model.schedule=lmrecipes.optim.Constant"]


def values(parameter):
    """Values that a sweep may try for a parameter: each listed value, or the ends of a range and a point within."""
    if "values" in parameter:
        return parameter["values"]
    if "value" in parameter:
        return [parameter["value"]]
    low, high = parameter["min"], parameter["max"]
    if parameter["distribution"].startswith("int"):
        return [low, (low + high) // 2, high]
    return [low, random.Random(0).uniform(low, high), high]


def points(sweep):
    """Points that cover every value of every parameter; all combinations of a grid."""
    names = list(sweep["parameters"])
    choices = [values(sweep["parameters"][name]) for name in names]
    if sweep["method"] == "grid":
        return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*choices)]
    longest = max(map(len, choices))
    return [{n: c[i % len(c)] for n, c in zip(names, choices, strict=True)} for i in range(longest)]


def command_line(sweep, point):
    """The command line that wandb's agent runs for a point."""
    expanded = create_sweep_command_args({"args": {name: {"value": value} for name, value in point.items()}})
    words = []
    for word in create_sweep_command(list(sweep["command"])):
        words += ["/usr/bin/env"] if word == "${env}" else expanded[word[2:-1]] if word.startswith("${") else [word]
    return words


POINTS = [(name, point) for name, sweep in SWEEPS.items() for point in points(sweep)]


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Many runs in one process: wandb's service process would outlive each.
    monkeypatch.setenv("WANDB_MODE", "disabled")


def test_there_is_a_sweep_of_each_kind():
    assert {sweep["method"] for sweep in SWEEPS.values()} == {"grid", "random", "bayes"}
    ended_early = [sweep["early_terminate"]["type"] for sweep in SWEEPS.values() if "early_terminate" in sweep]
    assert ended_early == ["hyperband"]


@pytest.mark.parametrize("name", SWEEPS)
def test_wandb_accepts_a_sweep(name):
    validator = Draft7Validator(SCHEMA)
    assert [error.message for error in validator.iter_errors(SWEEPS[name])] == []
    # The schema does reject invalid sweeps.
    assert list(validator.iter_errors(SWEEPS[name] | {"method": "guess"}))
    assert list(validator.iter_errors(SWEEPS[name] | {"parameters": {"lr": {"valuse": [1]}}}))


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_runs_lmrecipes_and_documents_how_to_start_it(name):
    text = (catalog.root() / f"recipes/sweeps/{name}.yaml").read_text()
    assert f"wandb sweep recipes/sweeps/{name}.yaml" in text
    assert SWEEPS[name]["command"][:4] == ["${env}", "lmrecipes", "fit", "--config"]
    catalog.find_recipe(SWEEPS[name]["command"][4])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("in_an_empty_folder")
@pytest.mark.parametrize(("name", "point"), POINTS)
def test_every_point_trains_with_the_values_it_names(name, point, small, tmp_path, capsys):
    words = command_line(SWEEPS[name], point)
    assert words[:3] == ["/usr/bin/env", "lmrecipes", "fit"]
    # As small as the test's text; the point's own values come last.
    sizes = [word for word in small[2:] if word.split("=")[0] not in [f"--{parameter}" for parameter in point]]
    cut = next(i for i, word in enumerate(words) if word.startswith("--model.") or word.startswith("--trainer.gr"))
    arguments = [*words[3:cut], *sizes, *FEW, *words[cut:]]
    arguments = [word for word in arguments if not word.startswith("--model.schedule.")]
    if "model.config.cutoffs" in point:
        arguments.append(f"--model.config.cutoffs={[n // 100 for n in point['model.config.cutoffs']]}")
    assert main(["fit", *arguments, "--run_dir=run"]) == 0, capsys.readouterr().err
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    saved = {key.replace(".init_args", ""): value for key, value in flatten(config).items()}
    for key, value in flatten(point).items():
        if key not in ("model.config.cutoffs",) and not key.startswith("model.schedule."):
            assert saved[key.replace(".init_args", "")] == pytest.approx(value), key
    # The metric that the sweep minimizes and Hyperband watches is logged at every validation.
    with (tmp_path / "run/metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row[SWEEPS[name]["metric"]["name"]]] == ["1", "2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point_values", "read"),
    [
        ({"model.config.cutoffs": [10, 30]}, {"model.config.cutoffs": [10, 30]}),
        ({"model.config.tie_projections": [True, False, True]}, {"model.config.tie_projections": [True, False, True]}),
        ({"model.config.pre_norm": True, "model.config.tie_weights": False}, {"model.config.pre_norm": True}),
        ({"trainer.gradient_clip_val": None}, {"trainer.gradient_clip_val": None}),
        ({"model.optimizer.lr": 3e-05}, {"model.optimizer.lr": 3e-05}),
        # Nested parameters of a sweep arrive as one value and leave the other settings unchanged.
        (
            {"model": {"config": {"n_layers": 3, "cutoffs": [7]}, "optimizer": {"lr": 1e-06, "betas": [0.5, 0.9]}}},
            {"model.config.n_layers": 3, "model.config.cutoffs": [7], "model.optimizer.betas": [0.5, 0.9]}
            | {"model.optimizer.lr": 1e-06, "model.config.d_model": 16},
        ),
        (
            {"trainer": {"gradient_clip_val": None, "log_every_n_steps": 7}},
            {"trainer.gradient_clip_val": None, "trainer.log_every_n_steps": 7, "trainer.max_steps": 2},
        ),
        (
            {"model.optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"fused": None, "amsgrad": True}}},
            {"model.optimizer.class_path": "torch.optim.AdamW", "model.optimizer.amsgrad": True},
        ),
        ({"model.optimizer": "torch.optim.SGD"}, {"model.optimizer.class_path": "torch.optim.SGD"}),
    ],
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("in_an_empty_folder")
def test_lists_booleans_and_nested_values_pass_through_an_agent(point_values, read, small, tmp_path, capsys):
    arguments = create_sweep_command_args({"args": {key: {"value": value} for key, value in point_values.items()}})[
        "args"
    ]
    assert main(["fit", *small, *FEW, *arguments, "--run_dir=run"]) == 0, capsys.readouterr().err
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    saved = {key.replace(".init_args", ""): value for key, value in flatten(config).items()}
    assert {key: saved[key] for key in read} == read


def scripted(folder: Path, sweep, tried) -> dict[str, str]:
    """Sets up `wandb` and `lmrecipes` commands, a sweep and its points; returns the environment to run them with."""
    programs, script = folder / "bin", Path(__file__).with_name("fake_wandb_agent.py")
    programs.mkdir()
    for name, program in (("wandb", str(script)), ("lmrecipes", "-m lmrecipes")):
        (programs / name).write_text(f'#!/bin/bash\nexec {warm.python()} {program} "$@"\n')
        (programs / name).chmod(0o755)
    queue = folder / "points"
    queue.mkdir()
    (queue / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    for name, point in tried.items():
        (queue / f"{name}.json").write_text(json.dumps(point))
    path = f"{programs}:{os.environ['PATH']}"
    return {"PATH": path, "SCRIPTED_POINTS": str(queue), "HOME": str(folder), "WANDB_SILENT": "true"}


@pytest.mark.slow
def test_an_agent_gives_every_point_its_own_run(small, tmp_path):
    sweep = SWEEPS["transformer_xl_grid"]
    command = [*sweep["command"][:-1], *small[2:], *FEW, "${args}"]
    tried = {"aa": {"model.config.n_layers": 1}, "bb": {"model.config.n_layers": 2}}
    variables = scripted(tmp_path, sweep | {"command": command}, tried)
    # Within one SLURM step all would have the same job id.
    variables |= {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "interactive"}
    run = functools.partial(subprocess.run, cwd=tmp_path, env=environment(**variables), timeout=200)
    done = run(["wandb", "agent", "me/mine/sw"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs = tmp_path / "runs/transformer_xl/tiny"
    assert {path.name for path in runs.iterdir()} == {"sweep-sw-aa", "sweep-sw-bb"}, done.stdout + done.stderr
    for name, point in tried.items():
        (part,) = parts(runs / f"sweep-sw-{name}")
        assert part.id == name
        config = yaml.safe_load((runs / f"sweep-sw-{name}/config.yaml").read_text())
        assert config["model"]["init_args"]["config"]["n_layers"] == point["model.config.n_layers"]


@pytest.mark.slow
def test_a_run_stopped_by_its_sweep_is_saved_and_not_failed(small, tmp_path):
    sweep = SWEEPS["transformer_xl_bayes"]
    steps = ["--config", "transformer_xl/tiny", "--trainer.max_steps=100000", "--trainer.val_check_interval=5000"]
    command = ["${env}", "lmrecipes", "fit", *small, *steps[2:], "--trainer.logger=wandb", "${args}"]
    variables = scripted(tmp_path, sweep | {"command": command}, {"aa": {"model.config.dropout": 0.1}})
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    output = ""
    command = ["wandb", "agent", "--count", "1", "sw"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(**variables), **streams) as agent:
        for line in agent.stdout:
            output += line
            if "| step 20 |" in line:
                (tmp_path / "points/stop").touch()
    assert agent.returncode == 0, output
    run = tmp_path / "runs/transformer_xl/tiny/sweep-sw-aa"
    assert "its sweep stopped it; continue with: lmrecipes fit --resume" in output
    assert list((run / "checkpoints").glob("last-*.ckpt"))
    # Runs stopped by Hyperband are not failures to the search.
    assert parts(run)[0].exit_code == 0
