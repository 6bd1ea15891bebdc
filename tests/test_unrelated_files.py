"""Commands remove or replace only files that they wrote themselves: unrelated files stay, byte for byte."""

import errno
import json
import os
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lmrecipes import runs
from lmrecipes.__main__ import main
from lmrecipes.callbacks import FailFast
from lmrecipes.checkpoints import listing, sharded
from lmrecipes.checkpoints.io import AtomicCheckpointIO, remove_others
from lmrecipes.cli import open_recipe
from lmrecipes.commands import validate
from lmrecipes.commands.common.export_folder import exporting
from lmrecipes.commands.predict import answers_folder
from lmrecipes.loggers import RunCSVLogger, WandbLogger
from lmrecipes.resilience import failure_report
from lmrecipes.resilience.heartbeat import End
from lmrecipes.runs import run_lock
from lmrecipes.runtime import launcher
from lmrecipes.runtime.file_lock import locked
from unrelated_files import everything, put_files

pytestmark = pytest.mark.filterwarnings("ignore")
FITS = [["fit"], ["fabric", "fit"]]
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "WANDB_SWEEP_ID")
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_RESTART_COUNT", launcher.RUN_DIR_VARIABLE)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working directory, for a process that no launcher started."""
    monkeypatch.chdir(tmp_path)
    for name in (*RANKS, *SLURM):
        monkeypatch.delenv(name, raising=False)
    runs.forget()
    return tmp_path


@pytest.fixture
def warnings_given(monkeypatch):
    """The warnings that are issued."""
    messages = []
    monkeypatch.setattr(warnings, "warn", lambda message, *_, **__: messages.append(str(message)))
    return messages


def error_line(capsys, arguments):
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


# Runs.

MISTAKES = {
    "key": ["--model.config.n_layer=2"],
    "data": ["--data=text_folder", "--data.path=nowhere"],
    "source": ["--init_from=nowhere"],
    "schedule": ["--model.schedule=lmrecipes.optim.WarmupAnnealing", "--model.schedule.warmup_share=1.0"],
    "loop": ["--model.config.cutoffs=[20,4000]"],
}


@pytest.mark.parametrize("subcommand", FITS, ids=" ".join)
@pytest.mark.parametrize("mistake", [*MISTAKES, None])
@pytest.mark.parametrize("name", ["thesis", "."])
def test_a_folder_with_files_is_rejected_and_unchanged(subcommand, mistake, name, small, here, capsys, monkeypatch):
    (here / "thesis").mkdir()
    put_files(here / "thesis")
    before = everything(here)
    if name == ".":
        monkeypatch.chdir("thesis")
    message = error_line(capsys, [*subcommand, *small, *MISTAKES.get(mistake, ()), f"--run_dir={name}"])
    if mistake is None:
        assert message == (
            f"error: run directory {name} is not empty and holds no run; name a new or an empty one with --run_dir"
        )
    assert everything(here) == before


@pytest.mark.parametrize("subcommand", FITS, ids=" ".join)
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", ["empty", "linked", "new/deep/run"])
def test_a_rejected_run_leaves_nothing_and_an_empty_folder_stays(subcommand, mistake, name, small, here, capsys):
    (here / "empty").mkdir()
    (here / "linked").symlink_to("empty")
    before = everything(here)
    logging = ["--trainer.logger=tensorboard"]
    error_line(capsys, [*subcommand, *small, *logging, *MISTAKES[mistake], f"--run_dir={name}"])
    assert everything(here) == before


def test_an_empty_folder_is_accepted_as_run_directory(small, here):
    (here / "empty").mkdir()
    assert main(["fit", *small, "--trainer.max_steps=3", "--run_dir=empty"]) == 0
    assert (here / "empty/checkpoints/last-step=3.ckpt").is_file()


def test_files_added_to_a_new_run_meanwhile_stay(here, monkeypatch):
    run_dir = runs.new_run_dir("r", root=here, requested=here / "new/run")
    runs.write_text(run_dir / runs.CONFIG, "ours")
    monkeypatch.setitem(os.environ, "WANDB_MODE", "offline")
    WandbLogger().begin(run_dir, "{}")
    (run_dir / "wandb/run-1").mkdir(parents=True)
    (run_dir / "wandb/run-1/log").write_text("ours")
    RunCSVLogger(run_dir).log_hyperparams({"ours": 1})
    (run_dir / "errors").mkdir()
    (run_dir / "errors/.said-x").touch()
    assert (run_dir / "hparams.yaml").is_file()
    unchanged = put_files(run_dir)
    runs.discard_if_unused()
    assert unchanged()
    assert {path.name for path in run_dir.iterdir()} == {"notes.txt", "figures", ".hidden", "mine.part", "link"}


def test_files_that_replace_or_join_those_of_a_new_run_stay(here):
    run_dir = runs.new_run_dir("r", root=here, requested=here / "run")
    for name in (runs.CONFIG, "b.json", "c.json"):
        runs.write_text(run_dir / name, "ours")
    runs.note(run_dir / "vocabulary")
    (run_dir / "vocabulary/pieces").mkdir(parents=True)
    (run_dir / "vocabulary/pieces/a").write_text("ours")
    (run_dir / "vocabulary/words.json").write_text("ours")
    runs.seal(run_dir / "vocabulary")
    (run_dir / "vocabulary/thesis.tex").write_text("mine")
    (run_dir / runs.CONFIG).rename(run_dir / "old.yaml")
    (run_dir / runs.CONFIG).write_text("mine")
    (run_dir / "b.json").write_text("mine: b")
    runs.discard_if_unused()
    left = {path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*") if path.is_file()}
    assert left == {runs.CONFIG, "old.yaml", "b.json", "vocabulary/thesis.tex"}


def test_error_reports_of_ranks_stay_with_the_run(here):
    run_dir = runs.new_run_dir("r", root=here)
    runs.write_text(run_dir / runs.CONFIG, "ours")
    (run_dir / "errors").mkdir()
    (run_dir / "errors/rank1.txt").write_text("why")
    before = everything(here)
    runs.discard_if_unused()
    assert everything(here) == before


def test_a_rejection_by_another_rank_leaves_nothing_either(here, monkeypatch):
    (here / "empty").mkdir()
    run_dir = runs.new_run_dir("r", root=here, requested=here / "empty")
    runs.write_text(run_dir / runs.CONFIG, "ours")
    codes = []
    monkeypatch.setattr(failure_report, "leave", codes.append)
    callback = FailFast()
    strategy = SimpleNamespace(launcher=SimpleNamespace(procs=[]))
    callback._trainer = SimpleNamespace(strategy=strategy, loggers=[], global_rank=0, local_rank=0, global_step=0)
    callback._other_ended(End(rank=1, host="", code=failure_report.REFUSED, stacks=False))
    assert codes == [failure_report.REFUSED]
    assert list((here / "empty").iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "--help"],
        *(["fit", *options] for options in MISTAKES.values()),
        *(["fabric", "fit", *options] for options in MISTAKES.values()),
        ["test", "--run=nowhere"],
        ["rehearse", "--model.config.n_layer=2"],
    ],
    ids=" ".join,
)
def test_an_inherited_run_directory_is_never_touched(arguments, small, here, capsys, monkeypatch):
    (here / "precious").mkdir()
    put_files(here / "precious")
    monkeypatch.setenv(launcher.RUN_DIR_VARIABLE, str(here / "precious"))
    before = everything(here)
    command = 1 if arguments[0] != "fabric" else 2
    words = [*arguments[:command], *([] if "--run=nowhere" in arguments else small), *arguments[command:]]
    if "--help" in words:
        with pytest.raises(SystemExit):
            main(words)
    else:
        error_line(capsys, words)
    assert {path: content for path, content in everything(here).items() if path.parts[-1] != "runs"} == before


@pytest.mark.slow
def test_a_run_that_inherits_a_directory_creates_its_own(small, here, monkeypatch):
    (here / "precious").mkdir()
    put_files(here / "precious")
    before = everything(here / "precious")
    monkeypatch.setenv(launcher.RUN_DIR_VARIABLE, str(here / "precious"))
    assert main(["fit", *small, "--trainer.max_steps=3"]) == 0
    assert everything(here / "precious") == before
    assert len(list(here.glob("runs/transformer_xl/tiny/*/config.yaml"))) == 1


def test_no_failure_report_is_written_into_an_inherited_run_directory(here, monkeypatch):
    monkeypatch.setenv(launcher.RUN_DIR_VARIABLE, str(here / "precious"))
    with pytest.raises(ValueError, match="name a recipe"):
        open_recipe(validate.COMMAND, [])
    assert failure_report.folder() is None


def test_all_ranks_use_the_launchers_directory_and_not_an_inherited_one(here, monkeypatch):
    monkeypatch.setenv(launcher.RUN_DIR_VARIABLE, str(here / "precious"))
    for name, value in {"RANK": "1", "TORCHELASTIC_RUN_ID": "mine", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert runs.new_run_dir("r", root=here) == here / "r/torchrun-mine"


def test_a_rank_accepts_the_files_that_rank_0_has_written(here, monkeypatch):
    run_dir = runs.new_run_dir("r", root=here, requested=here / "run")
    runs.write_text(run_dir / runs.CONFIG, "ours")
    monkeypatch.setenv("RANK", "1")
    assert runs.new_run_dir("r", root=here, requested=here / "run") == run_dir


@pytest.mark.slow
@pytest.mark.parametrize("subcommand", FITS, ids=" ".join)
def test_a_run_that_cannot_be_resumed_stays_intact(subcommand, small, here, capsys):
    assert main(["fit", *small, "--run_dir=a", "--trainer.max_steps=3"]) == 0
    for path in [*(here / "a/checkpoints").glob("*.ckpt"), here / "a/metrics.csv"]:
        path.unlink()
    shutil.rmtree(here / "a/checkpoints")
    before = everything(here)
    assert "has no readable checkpoint" in error_line(capsys, [*subcommand, "--resume=a"])
    error_line(capsys, [*subcommand, "--resume=a", "--model.config.n_layer=2"])
    assert everything(here) == before


def test_the_second_of_two_runs_in_one_folder_is_rejected_and_removes_nothing(small, here, capsys, monkeypatch):
    runs.new_run_dir("r", root=here, requested=here / "run")
    # Another process holds it: main() would release a lock of this one.
    monkeypatch.setattr(run_lock, "_held", None)
    before = everything(here)
    for more in ([], ["--init_from=nowhere"]):
        assert "run directory run is being trained by process" in error_line(
            capsys, ["fit", *small, *more, "--run_dir=run"]
        )
    assert everything(here) == before


def test_a_requeued_job_restarts_only_in_its_own_run(here, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    run_dir = runs.new_run_dir("r", root=here, requested=here / "run")
    for name in (runs.CONFIG, "metrics.csv", "wandb.json"):
        runs.write_text(run_dir / name, "of the first start")
    (here / "other").mkdir()
    (here / "other" / runs.CONFIG).write_text("somebody's")
    before = everything(here)
    runs.forget()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(ValueError, match="holds a run already"):
        runs.new_run_dir("r", root=here, requested=here / "other")
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    with pytest.raises(ValueError, match="holds a run already"):
        runs.new_run_dir("r", root=here, requested=run_dir)
    assert everything(here) == before
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert runs.new_run_dir("r", root=here, requested=run_dir) == run_dir
    assert {path.name for path in run_dir.iterdir()} == {runs.ABOUT, "wandb.json", run_lock.LOCK}
    # After this rejection it may still restart the next time.
    runs.write_text(run_dir / runs.CONFIG, "of the second start")
    runs.write_text(run_dir / "wandb.json", "of the second start")
    runs.discard_if_unused()
    assert {path.name for path in run_dir.iterdir()} == {runs.ABOUT, "wandb.json", run_lock.LOCK}
    assert runs.new_run_dir("r", root=here, requested=run_dir) == run_dir


@pytest.mark.slow
def test_saving_the_previous_settings_of_a_resumed_run_replaces_no_file(small, here):
    assert main(["fit", *small, "--run_dir=a", "--trainer.max_steps=3"]) == 0
    first = (here / "a/config.yaml").read_text()
    (here / "a/config.2.yaml").write_text("mine")
    assert main(["fit", "--resume=a", "--trainer.max_steps=4"]) == 0
    second = (here / "a/config.yaml").read_text()
    assert main(["fit", "--resume=a", "--trainer.max_steps=5"]) == 0
    kept = [(here / f"a/config.{number}.yaml").read_text() for number in (1, 2, 3)]
    assert kept == [first, "mine", second]


# Checkpoints.

_OFTEN = [
    {"class_path": "lmrecipes.callbacks.BestCheckpoint"},
    {"class_path": "lmrecipes.callbacks.LastCheckpoint", "init_args": {"every_n_steps": 2}},
]
NAMES = (
    *("my-best.ckpt", "best-of-all.ckpt", "last-good.ckpt", "best-step=2-copy.ckpt", "notes.txt", ".mine.part"),
    *("last-words.ckpt/a", ".best-of-all.ckpt.part"),
)
LIKE_LEFTOVERS = (".thesis step=3.ckpt.part", ".last-step=40.ckpt.part", ".best-step=8.ckpt.former.part")


@pytest.mark.slow
@pytest.mark.parametrize("subcommand", FITS, ids=" ".join)
def test_files_next_to_checkpoints_stay_when_these_are_replaced(subcommand, small, here):
    often = [f"--trainer.callbacks={json.dumps(_OFTEN)}", "--trainer.val_check_interval=2"]
    assert main([*subcommand, *small, *often, "--run_dir=a", "--trainer.max_steps=3"]) == 0
    unchanged = put_files(here / "a/checkpoints", *NAMES)
    assert main([*subcommand, "--resume=a", "--trainer.max_steps=8"]) == 0
    assert unchanged()
    assert [path.name for path in (here / "a/checkpoints").glob("last-step=*")] == ["last-step=8.ckpt"]


def test_only_leftover_checkpoint_files_are_removed_next_to_a_new_one(here):
    folder = here / "checkpoints"
    unchanged = put_files(folder, *NAMES, *LIKE_LEFTOVERS)
    leftovers = [".last-step=1.ckpt.part", ".epoch=0-step=2.ckpt.part", ".last-step=3.ckpt.former.part"]
    for name in leftovers[1:]:
        (folder / name).mkdir()
    (folder / leftovers[0]).touch()
    (folder / ".last-step=4.ckpt.part").symlink_to("link")
    listing.note(folder, [f"{name}.ckpt" for name in ("last-step=1", "epoch=0-step=2", "last-step=3", "last-step=4")])
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, folder / "last-step=3.ckpt")
    assert unchanged()
    assert {path.name for path in folder.glob(".*step*")} == set(LIKE_LEFTOVERS)


def test_a_link_in_place_of_a_checkpoint_is_not_followed(here):
    unchanged = put_files(here / "checkpoints")
    one, other = (here / "checkpoints" / f"last-step={step}.ckpt" for step in (1, 2))
    listing.note(one.parent, [one.name])
    for replace in (
        lambda: sharded.remove(one),
        lambda: remove_others(other),
        lambda: AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, one),
        lambda: sharded.discard(one),
    ):
        one.unlink(missing_ok=True)
        one.symlink_to("link")
        replace()
        assert not one.is_symlink()
    assert unchanged()


OTHERS = ("last-step=2.ckpt/thesis.txt", "last-step=1.ckpt", "last-step=9.ckpt", "best-step=1.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("subcommand", FITS, ids=" ".join)
def test_checkpoints_that_the_run_did_not_write_stay_whatever_their_names(subcommand, small, here):
    often = ["--trainer.val_check_interval=2", "--trainer.callbacks=" + json.dumps(_OFTEN)]
    assert main([*subcommand, *small, *often, "--run_dir=a", "--trainer.max_steps=3"]) == 0
    unchanged = put_files(here / "a/checkpoints", *OTHERS)
    assert main([*subcommand, "--resume=a", "--trainer.max_steps=6"]) == 0
    assert unchanged()
    assert torch.load(here / "a/checkpoints/last-step=6.ckpt")["global_step"] == 6
    assert not (here / "a/checkpoints/last-step=3.ckpt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("subcommand", FITS, ids=" ".join)
def test_a_file_with_the_name_of_a_new_checkpoint_is_kept_next_to_it(subcommand, small, here, warnings_given):
    assert main([*subcommand, *small, "--run_dir=a", "--trainer.max_steps=3"]) == 0
    (here / "a/checkpoints/last-step=5.ckpt").write_text("mine")
    assert main([*subcommand, "--resume=a", "--trainer.max_steps=5"]) == 0
    assert any(
        "holds what this run has not written; it is now last-step=5.ckpt.kept" in messages
        for messages in warnings_given
    )
    assert (here / "a/checkpoints/last-step=5.ckpt.kept").read_text() == "mine"
    assert torch.load(here / "a/checkpoints/last-step=5.ckpt")["global_step"] == 5


def test_files_inside_a_sharded_checkpoint_stay_when_it_is_removed_or_replaced(here, group):
    one, other = (here / "checkpoints" / f"last-step={step}.ckpt" for step in (1, 2))
    for path in (one, other):
        sharded.write({"w": torch.ones(3)}, {}, path, group)
        (path / "notes.txt").write_text("mine")
    remove_others(other)
    assert [path.name for path in one.iterdir()] == ["notes.txt"]
    with pytest.warns(UserWarning, match=r"is now last-step=2\.ckpt\.kept"):
        sharded.write({"w": torch.ones(3)}, {}, other, group)
    assert (here / "checkpoints/last-step=2.ckpt.kept/notes.txt").read_text() == "mine"
    assert not (other / "notes.txt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("subcommand", FITS, ids=" ".join)
def test_a_run_of_an_earlier_version_still_keeps_one_checkpoint_of_each_kind(subcommand, small, here):
    often = ["--trainer.val_check_interval=2", "--trainer.callbacks=" + json.dumps(_OFTEN)]
    assert main([*subcommand, *small, *often, "--run_dir=a", "--trainer.max_steps=3"]) == 0
    (here / "a/checkpoints" / listing.FILE).unlink()
    assert main([*subcommand, "--resume=a", "--trainer.max_steps=6"]) == 0
    kinds = sorted(path.name.partition("-")[0] for path in (here / "a/checkpoints").glob("*.ckpt"))
    assert kinds == ["best", "last"]
    assert [path.name for path in here.iterdir()] == ["a"]


# Processes that only look like ranks.


@pytest.mark.parametrize("subcommand", FITS, ids=" ".join)
@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_a_variable_of_another_launcher_does_not_allow_writing_into_a_folder_with_files(
    subcommand, name, small, here, capsys, monkeypatch
):
    (here / "victim").mkdir()
    put_files(here / "victim", "config.yaml", "run.json", "checkpoints/last-step=2.ckpt")
    before = everything(here)
    monkeypatch.setenv(name, "1")
    assert f"the environment has {name}=1" in error_line(capsys, [*subcommand, *small, "--run_dir=victim"])
    monkeypatch.setenv(launcher.RUN_DIR_VARIABLE, str(here / "victim"))
    assert f"unset {name}" in error_line(capsys, [*subcommand, *small])
    assert everything(here) == before


# Prepared data; other kinds are tested with their own DataModules.


@pytest.mark.slow
def test_a_cache_in_a_folder_with_files_leaves_them(small, here):
    unchanged = put_files(here / "stuff", "notes.txt", "train.bin", "manifest.json", ".lock", "mine.part", "a/.lock")
    words = [*small, "--trainer.max_steps=3", "--data.cache_dir=stuff"]
    assert main(["prepare", *small, "--data.cache_dir=stuff"]) == 0
    assert main(["fit", *words, "--run_dir=a"]) == 0
    assert main(["test", "--run=a"]) == 0
    assert unchanged()


def test_a_lock_truncates_no_file(here):
    (here / "lock").write_text("mine")
    with locked(here / "lock"):
        pass
    assert (here / "lock").read_text() == "mine"


# Exports, and files named by an option.


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["fit", *small, f"--run_dir={folder}", "--trainer.max_steps=3"]) == 0
    return folder


@pytest.mark.parametrize("form", ["torch_export", "state_dict"])
def test_an_export_into_a_folder_with_files_is_rejected_before_it_starts(form, trained, here, capsys, monkeypatch):
    put_files(here / "models", "weights.pt", "config.json", "begin.pt2")
    before = everything(here)
    monkeypatch.setattr("lmrecipes.commands.export.load_trained", lambda _: pytest.fail("the network is built"))
    message = error_line(capsys, ["export", f"--run={trained}", f"--format={form}", "--output=models"])
    assert message.startswith("error: models is not empty and holds no earlier export; name a new or an empty folder")
    assert everything(here) == before


def test_an_export_replaces_an_earlier_one_and_keeps_other_files(trained, here):
    words = ["export", f"--run={trained}", "--format=state_dict", "--output=new/exported"]
    assert main(words) == 0
    unchanged = put_files(here / "new/exported")
    (here / "new/exported/weights.pt").write_text("old")
    assert main(words) == 0
    assert torch.load(here / "new/exported/weights.pt", weights_only=True)
    assert unchanged()


def export(form, fails="", **files):
    with exporting(Path("exported"), form) as part:
        for name, text in files.items():
            (part / name).parent.mkdir(exist_ok=True)
            (part / name).write_text(text)
        if fails:
            raise ValueError(f"{part / fails} does not compute")


def test_a_file_that_blocks_an_export_is_named_and_nothing_is_replaced(here):
    export("hf", a="1")
    unchanged = put_files(here / "exported", "weights.pt", "b/c")
    before = everything(here)
    for name in ("weights.pt", "b", "link/precious.txt", "link/new"):
        with pytest.raises(ValueError, match=rf"^exported/{name} belongs to no earlier export"):
            export("hf", **{"a": "2", name: "2"})
        assert everything(here) == before
    export("hf", a="2")
    assert unchanged()


def test_an_export_replaces_only_files_of_its_format(here):
    export("hf", a="1", **{"part/b": "1"})
    export("state_dict", c="1")
    (here / "exported/part/mine").write_text("mine")
    export("hf", a="2", d="2")
    assert {path.relative_to("exported").as_posix() for path in Path("exported").rglob("*") if path.is_file()} == {
        *("a", "c", "d", "export.json", "part/mine")
    }
    assert Path("exported/a").read_text() == "2"


@pytest.mark.parametrize("earlier", [False, True])
def test_a_failed_export_keeps_the_previous_one(earlier, here):
    if earlier:
        export("hf", a="1")
    before = everything(here)
    with pytest.raises(ValueError, match=r"^exported/a does not compute"):
        export("hf", a="2", fails="a")
    assert everything(here) == before


def test_plots_do_not_overwrite_other_files(trained, here, capsys):
    for name in ("thesis.png", "runs.png", "thesis.pdf"):
        (here / name).write_bytes(b"mine")
    before = everything(here)
    for words in (
        [f"{trained}", "--output=thesis.png"],
        [f"{trained}", f"{trained}"],
        [f"{trained}", "--output=thesis.pdf"],
    ):
        assert "is not a plot by lmrecipes" in error_line(capsys, ["plot", *words])
    assert everything(here) == before
    for name in ("a.pdf", "a"):
        for _ in range(2):
            assert main(["plot", f"{trained}", f"--output={name}"]) == 0


def test_evaluation_results_do_not_overwrite_other_files(here, capsys):
    data = {
        "version": "1.1",
        "data": [
            {
                "title": "t",
                "paragraphs": [
                    {
                        "context": "a b",
                        "qas": [{"id": "1", "question": "q", "answers": [{"text": "a", "answer_start": 0}]}],
                    }
                ],
            }
        ],
    }
    (here / "data.json").write_text(json.dumps(data))
    (here / "answers.json").write_text(json.dumps({"1": "a"}))
    (here / "notes.txt").write_text("mine")
    (here / "table.json").write_text(json.dumps({"f1": 0.5, "recall": 0.25}))
    before = everything(here)
    words = ["evaluate", "squad", "--data=data.json", "--predictions=answers.json"]
    for name in ("answers.json", "data.json", "notes.txt", "table.json"):
        message = error_line(capsys, [*words, f"--output={name}"])
        assert message.startswith(f"error: --output {name} exists and is not an earlier evaluation")
    assert everything(here) == before
    for version in ("1.1", "2.0", "1.1"):
        assert main([*words, f"--version={version}", "--output=figures.json"]) == 0


# Unrelated files inside a run directory.


def test_the_plot_of_a_run_overwrites_no_other_file(trained, here, capsys, warnings_given):
    shutil.copytree(trained, here / "a")
    (here / "a/plots/run.png").unlink()
    for put in (lambda path: path.write_bytes(b"mine"), lambda path: path.symlink_to(here / "thesis.png")):
        (here / "thesis.png").write_bytes(b"mine")
        put(here / "a/plots/run.png")
        assert "is not a plot by lmrecipes; move it" in error_line(capsys, ["plot", "a"])
        assert main(["fit", "--resume=a", f"--trainer.max_steps={4 + len(list(here.glob('a/config.*')))}"]) == 0
        assert any("the run's plot was not drawn" in messages for messages in warnings_given)
        warnings_given.clear()
        assert (here / "a/plots/run.png").read_bytes() == (here / "thesis.png").read_bytes() == b"mine"
        (here / "a/plots/run.png").unlink()


def test_an_unwritable_plot_keeps_the_previous_one(trained, here, capsys, monkeypatch):
    assert main(["plot", f"{trained}", "--output=a.png"]) == 0
    before = everything(here)

    def raise_disk_full(self, file, **_):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", raise_disk_full)
    assert "No space left" in error_line(capsys, ["plot", f"{trained}", "--output=a.png"])
    assert everything(here) == before


def test_a_failed_write_of_a_small_file_leaves_nothing(here, monkeypatch):
    def raise_disk_full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    runs.write_text(here / "a.json", "1")
    monkeypatch.setattr(os, "replace", raise_disk_full)
    with pytest.raises(OSError, match="No space"):
        runs.write_text(here / "a.json", "2")
    assert everything(here) == {here / "a.json": b"1"}


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"mine", b"a,b\n1,2\n", b"\x89PNG\r\n"])
@pytest.mark.parametrize("subcommand", FITS, ids=" ".join)
def test_other_files_named_like_the_metrics_are_not_appended_to(subcommand, content, trained, here, capsys):
    shutil.copytree(trained, here / "a")
    (here / "a/metrics.csv").write_bytes(content)
    before = everything(here)
    assert "metrics.csv holds no metrics of a run" in error_line(
        capsys, [*subcommand, "--resume=a", "--trainer.max_steps=4"]
    )
    assert everything(here) == before


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"mine", b'{"mine": 1}', b"[1]", b"\x89PNG\r\n"])
@pytest.mark.parametrize("subcommand", [["test"], ["fabric", "validate"]], ids=" ".join)
def test_other_files_named_like_the_results_are_reported_before_the_evaluation(
    subcommand, content, trained, here, capsys, monkeypatch
):
    shutil.copytree(trained, here / "a")
    (here / "a/results.json").write_bytes(content)
    before = everything(here)
    monkeypatch.setattr("lmrecipes.commands.common.report.report", lambda *_: pytest.fail("it is evaluated"))
    assert "results.json is not a list of results; move it" in error_line(capsys, [*subcommand, "--run=a"])
    assert everything(here) == before


def test_answers_to_different_files_of_the_same_name_have_different_folders(here):
    for name in ("q.json", "other/q.json", "q.jsonl"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    unchanged = put_files(here / "predict/q", "predictions.json")
    for _ in range(2):
        folders = [answers_folder(here / "predict", name).name for name in ("q.json", "other/q.json", "q.jsonl")]
        assert folders == ["q-2", "q-3", "q-4"]
    assert unchanged()


@pytest.mark.parametrize("name", ["train.bin", "state.part", "state.json", "manifest.part", "notes.txt"])
def test_a_cache_entry_that_was_not_prepared_is_rejected(name, small, here, capsys):
    assert main(["prepare", *small, "--data.cache_dir=cache"]) == 0
    (entry,) = (path for path in (here / "cache").iterdir() if path.is_dir())
    shutil.rmtree(entry)
    unchanged = put_files(entry, name)
    message = error_line(capsys, ["prepare", *small, "--data.cache_dir=cache"])
    assert message.endswith(f"{entry.name} is not empty and holds no prepared data; move it away")
    assert unchanged()


def test_an_unreadable_preparation_state_is_named(small, here, capsys):
    assert main(["prepare", *small, "--data.cache_dir=cache"]) == 0
    (entry,) = (path for path in (here / "cache").iterdir() if path.is_dir())
    (entry / "manifest.json").unlink()
    (entry / "state.json").write_text("mine")
    assert f"{entry.name}/state.json cannot be read; move" in error_line(
        capsys, ["prepare", *small, "--data.cache_dir=cache"]
    )
    assert (entry / "state.json").read_text() == "mine"
