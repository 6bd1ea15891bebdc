"""The wheel contains the recipes: an installed package finds them by name and trains."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import environment, requires
from lmrecipes.config import catalog

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with only what the wheel installs."""
    built, folder = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed, folder, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment() | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@requires(importlib.util.find_spec("hatchling") is not None, "building a wheel needs hatchling")
def test_the_installed_package_finds_its_recipes_and_trains(installed, small, tmp_path):
    listed = run(installed, tmp_path, "-m", "lmrecipes", "list")
    assert listed.returncode == 0, listed.stderr
    names = {line.split()[0] for line in listed.stdout.splitlines()[1:]}
    assert names == {name for name in catalog.recipe_paths() if not name.startswith("overlays/")}
    where = "from lmrecipes.config.catalog import find_recipe; print(find_recipe('transformer_xl/tiny'))"
    assert Path(run(installed, tmp_path, "-c", where).stdout.strip()).is_relative_to(installed)
    log = "--trainer.logger=loggers/tensorboard.yaml"
    fitted = run(installed, tmp_path, "-m", "lmrecipes", "fit", *small, log, "--trainer.max_steps=3", "--run_dir=a")
    assert fitted.returncode == 0, fitted.stderr
    assert (tmp_path / "a/checkpoints/last-step=3.ckpt").is_file()
    assert list((tmp_path / "a/tensorboard").iterdir())
