"""`lmrecipes rehearse` passes for every recipe, names the stage that fails, and leaves no files behind."""

import os
import tempfile

import pytest
import yaml

from conftest import environment
from lmrecipes.__main__ import main
from lmrecipes.commands.rehearse import _Rehearsal
from lmrecipes.config import catalog
from lmrecipes.rehearsal import stages
from lmrecipes.rehearsal.stages import StageError, Stages
from lmrecipes.runtime.launcher import forget_launcher

STAGES = [
    *("configuration", "data", "steps, validation, save", "kill in a step", "resume to the end"),
    *("bit-identical weights", "test", "export"),
]
FSDP2 = ["--trainer.strategy=fsdp2", "--trainer.devices=4", "--batch.micro_batch_size=2"]


def recipes_to_rehearse():
    """All recipes; `make test` runs the first of every kind, as the others differ only in sizes and text."""
    first, names = {}, []
    for name, path in catalog.recipe_paths().items():
        if not name.startswith("overlays/"):
            recipe = yaml.safe_load(path.read_text())
            model, trainer = recipe["model"], recipe["trainer"]
            strategy, sizes = trainer.get("strategy"), model["init_args"]["config"]
            if isinstance(strategy, dict):
                strategy = (strategy["class_path"], *sorted(strategy["init_args"]))
            clusters = (bool(sizes.get("cutoffs")), sizes.get("div_val", 1) > 1)
            kind = (model["class_path"], strategy, trainer["devices"] > 1, *clusters)
            one_more = first.setdefault(kind, name) != name
            names.append(pytest.param(name, marks=pytest.mark.exhaustive) if one_more else name)
    return names


@pytest.fixture
def rehearse(command, tmp_path):
    """Rehearses with temporary files in a separate folder; returns the process and its table."""

    def run(*arguments):
        (tmp_path / "temporary").mkdir(exist_ok=True)
        # electra/small is compiled, which takes minutes.
        done = command("rehearse", *arguments, seconds=1500, TMPDIR=str(tmp_path / "temporary"))
        rows = dict.fromkeys(STAGES)
        for line in done.stdout.splitlines():
            name = next((stage for stage in STAGES if line.startswith(f"{stage}  ")), None)
            if name is not None:
                rows[name] = line[len(name) :].split()[0]
        return done, rows

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes_to_rehearse())
def test_a_recipe_passes_its_rehearsal(name, rehearse, tmp_path):
    done, rows = rehearse("--config", name)
    assert (done.returncode, set(rows.values())) == (0, {"ok"}), done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("8 of 8 stages passed")
    # Neither an empty runs/ nor temporary files remain, except torch's compile cache.
    left = [path for path in tmp_path.rglob("*") if "/torchinductor_" not in str(path)]
    assert left == [tmp_path / "temporary"]


@pytest.mark.slow
def test_any_strategy_can_be_rehearsed_by_an_override(rehearse):
    done, rows = rehearse("--config", "transformer_xl/tiny", *FSDP2)
    assert (done.returncode, set(rows.values())) == (0, {"ok"}), done.stdout + done.stderr
    assert "fsdp2 over 2 of 4 processes, 32-true, accumulating 2 of 2 micro-batches" in done.stdout


@pytest.mark.slow
def test_a_failing_stage_is_named_and_its_files_are_kept(rehearse, tmp_path):
    recipe = yaml.safe_load(catalog.recipe_paths()["transformer_xl/tiny"].read_text())
    recipe["data"] = {"class_path": "lmrecipes.datamodules.EmbeddedText"}
    recipe["trainer"]["callbacks"] = [
        {"class_path": "lmrecipes.callbacks.LastCheckpoint"},
        {"class_path": "lmrecipes.callbacks.BestCheckpoint", "init_args": {"monitor": "val/nothing"}},
    ]
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(recipe))
    done, rows = rehearse("--config", "broken.yaml")
    assert done.returncode == 1
    assert list(rows.values()) == ["ok", "ok", "FAILED", *["not"] * 5]
    assert "val/nothing" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("2 of 8 stages passed, 1 failed, 5 not run")
    kept = next(line for line in done.stdout.splitlines() if line.startswith("files of the rehearsal: "))
    assert os.path.isfile(os.path.join(kept.partition(": ")[2], "recipe.yaml"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "option",
    [
        *("--batch.global_batch_size=250", "--batch.test.batch_size=20"),
        *("--model.config.n_heads=9 --trainer.strategy=fsdp2_tp", "--data.path=nowhere"),
    ],
)
def test_errors_of_the_full_size_recipe_are_found(option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(["rehearse", "--config", "transformer_xl/wt103_base", *option.split()]) == 1
    out = capsys.readouterr().out
    assert "configuration               FAILED" in out
    assert option.partition("=")[0].lstrip("-") in out
    assert out.splitlines()[-1].startswith("0 of 8 stages passed, 1 failed, 7 not run")


@pytest.mark.filterwarnings("ignore")
def test_an_unreadable_recipe_is_rejected_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments in (
        [],
        ["--config", "transformer_xl/tinny"],
        ["--config", "transformer_xl/tiny", "--batch.seqlen=3"],
    ):
        assert main(["rehearse", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failing_stage_skips_the_later_ones(capsys):
    def fail():
        raise StageError("why\nhow")

    def crash():
        raise KeyError("of a class of one's own")

    for failing, shown in ((fail, "    why\n    how\n"), (crash, 'KeyError: "of a class of one\'s own"')):
        table = Stages(10)
        table.run("one", lambda: "a note")
        table.run("two", failing)
        table.run("three", fail)
        assert (table.passed, table.failed, table.skipped) == (1, 1, 1)
        out = capsys.readouterr().out
        assert shown in out
        assert "a note" in out.splitlines()[0]
        assert out.splitlines()[-1].split() == ["three", "not", "run"]


@pytest.mark.slow
def test_a_hanging_stage_is_killed(monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho started\nsleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr(stages.sys, "executable", str(python))
    with pytest.raises(StageError, match=r"started\nlmrecipes fit: took longer than 0.5 s"):
        Stages(0.5).command("fit")


def test_a_stage_does_not_inherit_the_slurm_job(monkeypatch):
    for name in ("SLURM_JOB_ID", "RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "LMRECIPES_RUN_DIR"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MINE", "1")
    forget_launcher()
    assert {"SLURM_JOB_ID", "RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "LMRECIPES_RUN_DIR"}.isdisjoint(os.environ)
    assert environment()["MINE"] == "1"


def test_a_model_that_is_not_exported_is_rehearsed_without_its_export(tmp_path):
    settings = {"model": {"class_path": "lightning.pytorch.LightningModule"}}
    assert _Rehearsal(settings, tmp_path, Stages(1.0))._export().startswith("skipped: LightningModule is not exported")
