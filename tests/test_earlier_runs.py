"""Runs of an earlier version, whose packages had other names, resume and evaluate in this one."""

import json
import shutil
from csv import DictReader
from pathlib import Path

import pytest

from lmrecipes.config.moved import current_path, with_current_paths

RUNS = Path(__file__).with_name("earlier_runs")
NAMES = sorted(path.name for path in RUNS.iterdir())


@pytest.fixture
def run(request, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(RUNS / request.param, tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("run", NAMES, indirect=True)
def test_an_earlier_run_resumes_with_its_recorded_losses(run, command):
    done = command("fit", "--resume=run", "--trainer.max_steps=8")
    assert done.returncode == 0, done.stderr
    expected = json.loads((run / "expected.json").read_text())["val/loss"]
    with (run / "metrics.csv").open() as file:
        losses = {row["step"]: float(row["val/loss"]) for row in DictReader(file)}
    assert {step: losses[step] for step in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("run", NAMES, indirect=True)
def test_an_earlier_run_has_its_recorded_test_loss(run, command):
    done = command("test", "--run=run", "--checkpoint=last")
    assert done.returncode == 0, done.stderr
    measured = json.loads((run / "results.json").read_text())[-1]["metrics"]["test/loss"]
    assert measured == pytest.approx(json.loads((run / "expected.json").read_text())["test/loss"], rel=1e-5)


def test_class_paths_of_earlier_versions_are_translated_everywhere():
    collator = "lmrecipes.data.squad_batches.TextCollator"
    content = {"data": {"init_args": {"collators": [{"class_path": collator}]}}, "note": collator}
    (renewed,) = with_current_paths(content)["data"]["init_args"]["collators"]
    assert renewed["class_path"] == current_path(collator) != collator
    assert with_current_paths(content)["note"] == collator
    assert current_path("torch.optim.Adam") == "torch.optim.Adam"
    for earlier in ("lmrecipes.data.squad_batches", "lmrecipes.data.tasks.squad.collators"):
        assert current_path(f"{earlier}.TextCollator") == "lmrecipes.datamodules.TextCollator"


def test_every_class_path_of_an_earlier_version_maps_to_an_existing_module():
    from importlib import import_module

    from lmrecipes.config import moved

    for module in moved._MODULES.values():
        import_module(module)
    for path in moved._CLASSES.values():
        module, _, name = path.rpartition(".")
        assert hasattr(import_module(module), name), path
