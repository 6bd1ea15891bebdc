"""Whatever a command removes or replaces it has made itself: other people's files stay, byte for byte."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from foreign_files import everything, put_files
from lmrecipes import failures, runs, sharded_checkpoint
from lmrecipes.__main__ import main
from lmrecipes.callbacks import FailTogether
from lmrecipes.checkpoint_io import AtomicCheckpointIO, remove, remove_others
from lmrecipes.cli import open_recipe
from lmrecipes.data.locks import locked
from lmrecipes.exports import exporting
from lmrecipes.lifeline import End
from lmrecipes.loggers import RunCSVLogger, WandbLogger

pytestmark = pytest.mark.filterwarnings("ignore")
FITS = [["fit"], ["fabric", "fit"]]
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "WANDB_SWEEP_ID")
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_RESTART_COUNT", runs.RUN_DIR_VARIABLE)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder to work in, as a process that nobody launched."""
    monkeypatch.chdir(tmp_path)
    for name in (*RANKS, *SLURM):
        monkeypatch.delenv(name, raising=False)
    runs.forget()
    return tmp_path


def refused(capsys, arguments):
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


# Runs.

MISTAKES = {
    "key": ["--model.config.n_layer=2"],
    "data": ["--data=text_folder", "--data.path=nowhere"],
    "source": ["--init_from=nowhere"],
    "schedule": ["--model.schedule.warmup_steps=99"],
    "loop": ["--model.config.cutoffs=[20,4000]"],
}


@pytest.mark.parametrize("how", FITS, ids=" ".join)
@pytest.mark.parametrize("mistake", [*MISTAKES, None])
@pytest.mark.parametrize("name", ["thesis", "."])
def test_a_folder_with_files_is_refused_and_left_as_it_is(how, mistake, name, small, here, capsys, monkeypatch):
    (here / "thesis").mkdir()
    put_files(here / "thesis")
    before = everything(here)
    if name == ".":
        monkeypatch.chdir("thesis")
    message = refused(capsys, [*how, *small, *MISTAKES.get(mistake, ()), f"--run_dir={name}"])
    if mistake is None:
        assert message == (
            f"error: run directory {name} is not empty and holds no run; name a new or an empty one with --run_dir"
        )
    assert everything(here) == before


@pytest.mark.parametrize("how", FITS, ids=" ".join)
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", ["empty", "linked", "new/deep/run"])
def test_of_a_refused_run_nothing_is_left_and_an_empty_folder_stays(how, mistake, name, small, here, capsys):
    (here / "empty").mkdir()
    (here / "linked").symlink_to("empty")
    before = everything(here)
    logging = ["--trainer.logger=tensorboard"]
    refused(capsys, [*how, *small, *logging, *MISTAKES[mistake], f"--run_dir={name}"])
    assert everything(here) == before


def test_an_empty_folder_is_trained_into(small, here):
    (here / "empty").mkdir()
    assert main(["fit", *small, "--trainer.max_steps=3", "--run_dir=empty"]) == 0
    assert (here / "empty/checkpoints/last-step=3.ckpt").is_file()


def test_what_was_put_into_a_new_run_meanwhile_stays(here, monkeypatch):
    run_dir = runs.new_run_dir("r", root=here, asked=here / "new/run")
    runs.write_text(run_dir / runs.CONFIG, "ours")
    monkeypatch.setitem(os.environ, "WANDB_MODE", "offline")
    WandbLogger().begin(run_dir, "{}")
    (run_dir / "wandb/run-1").mkdir(parents=True)
    (run_dir / "wandb/run-1/log").write_text("ours")
    RunCSVLogger(run_dir).log_hyperparams({"ours": 1})
    (run_dir / "errors").mkdir()
    (run_dir / "errors/.said-x").touch()
    assert (run_dir / "hparams.yaml").is_file()
    are_there = put_files(run_dir)
    runs.discard_if_unused()
    assert are_there()
    assert {path.name for path in run_dir.iterdir()} == {"notes.txt", "figures", ".hidden", "mine.part", "link"}


def test_what_ranks_left_of_an_error_stays_with_the_run(here):
    run_dir = runs.new_run_dir("r", root=here)
    runs.write_text(run_dir / runs.CONFIG, "ours")
    (run_dir / "errors").mkdir()
    (run_dir / "errors/rank1.txt").write_text("why")
    before = everything(here)
    runs.discard_if_unused()
    assert everything(here) == before


def test_a_refusal_by_another_rank_leaves_nothing_either(here, monkeypatch):
    (here / "empty").mkdir()
    run_dir = runs.new_run_dir("r", root=here, asked=here / "empty")
    runs.write_text(run_dir / runs.CONFIG, "ours")
    codes = []
    monkeypatch.setattr(failures, "leave", codes.append)
    callback = FailTogether()
    strategy = SimpleNamespace(launcher=SimpleNamespace(procs=[]))
    callback._trainer = SimpleNamespace(strategy=strategy, loggers=[], global_rank=0, local_rank=0, global_step=0)
    callback._other_ended(End(rank=1, host="", code=failures.REFUSED, stacks=False))
    assert codes == [failures.REFUSED]
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
    monkeypatch.setenv(runs.RUN_DIR_VARIABLE, str(here / "precious"))
    before = everything(here)
    command = 1 if arguments[0] != "fabric" else 2
    words = [*arguments[:command], *([] if "--run=nowhere" in arguments else small), *arguments[command:]]
    if "--help" in words:
        with pytest.raises(SystemExit):
            main(words)
    else:
        refused(capsys, words)
    assert {path: content for path, content in everything(here).items() if path.parts[-1] != "runs"} == before


def test_a_run_that_inherits_a_directory_has_one_of_its_own(small, here, monkeypatch):
    (here / "precious").mkdir()
    put_files(here / "precious")
    before = everything(here / "precious")
    monkeypatch.setenv(runs.RUN_DIR_VARIABLE, str(here / "precious"))
    assert main(["fit", *small, "--trainer.max_steps=3"]) == 0
    assert everything(here / "precious") == before
    assert len(list(here.glob("runs/transformer_xl/tiny/*/config.yaml"))) == 1


def test_no_failure_is_written_into_an_inherited_run_directory(here, monkeypatch):
    monkeypatch.setenv(runs.RUN_DIR_VARIABLE, str(here / "precious"))
    with pytest.raises(ValueError, match="name a recipe"):
        open_recipe("validate", [])
    assert failures.folder() is None


def test_all_ranks_of_a_launcher_take_its_directory_and_not_an_inherited_one(here, monkeypatch):
    monkeypatch.setenv(runs.RUN_DIR_VARIABLE, str(here / "precious"))
    for name, value in {"RANK": "1", "TORCHELASTIC_RUN_ID": "mine", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert runs.new_run_dir("r", root=here) == here / "r/torchrun-mine"


def test_a_rank_that_finds_what_the_first_has_written_goes_on(here, monkeypatch):
    run_dir = runs.new_run_dir("r", root=here, asked=here / "run")
    runs.write_text(run_dir / runs.CONFIG, "ours")
    monkeypatch.setenv("RANK", "1")
    assert runs.new_run_dir("r", root=here, asked=here / "run") == run_dir


@pytest.mark.parametrize("how", FITS, ids=" ".join)
def test_a_run_that_cannot_be_continued_stays_whole(how, small, here, capsys):
    assert main(["fit", *small, "--run_dir=a", "--trainer.max_steps=3"]) == 0
    for path in [*(here / "a/checkpoints").iterdir(), here / "a/metrics.csv"]:
        path.unlink()
    (here / "a/checkpoints").rmdir()
    before = everything(here)
    assert "has no readable checkpoint" in refused(capsys, [*how, "--resume=a"])
    refused(capsys, [*how, "--resume=a", "--model.config.n_layer=2"])
    assert everything(here) == before


def test_of_two_runs_that_start_in_one_folder_the_second_is_refused_and_takes_nothing_away(small, here, capsys):
    runs.new_run_dir("r", root=here, asked=here / "run")
    before = everything(here)
    for more in ([], ["--init_from=nowhere"]):
        assert "run directory run is taken by a run that is starting" in refused(
            capsys, ["fit", *small, *more, "--run_dir=run"]
        )
    assert everything(here) == before


def test_a_requeued_job_begins_anew_in_its_own_run_only(here, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    run_dir = runs.new_run_dir("r", root=here, asked=here / "run")
    for name in (runs.CONFIG, "metrics.csv", "wandb.json"):
        runs.write_text(run_dir / name, "of the first start")
    (here / "other").mkdir()
    (here / "other" / runs.CONFIG).write_text("somebody's")
    before = everything(here)
    runs.forget()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(ValueError, match="holds a run already"):
        runs.new_run_dir("r", root=here, asked=here / "other")
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    with pytest.raises(ValueError, match="holds a run already"):
        runs.new_run_dir("r", root=here, asked=run_dir)
    assert everything(here) == before
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert runs.new_run_dir("r", root=here, asked=run_dir) == run_dir
    assert {path.name for path in run_dir.iterdir()} == {runs.ABOUT, "wandb.json"}
    # Refused this time, it may still begin anew the next.
    runs.write_text(run_dir / runs.CONFIG, "of the second start")
    runs.write_text(run_dir / "wandb.json", "of the second start")
    runs.discard_if_unused()
    assert {path.name for path in run_dir.iterdir()} == {runs.ABOUT, "wandb.json"}
    assert runs.new_run_dir("r", root=here, asked=run_dir) == run_dir


def test_settings_that_a_continued_run_had_before_replace_no_file(small, here):
    assert main(["fit", *small, "--run_dir=a", "--trainer.max_steps=3"]) == 0
    first = (here / "a/config.yaml").read_text()
    (here / "a/config.2.yaml").write_text("mine")
    assert main(["fit", "--resume=a", "--trainer.max_steps=4"]) == 0
    second = (here / "a/config.yaml").read_text()
    assert main(["fit", "--resume=a", "--trainer.max_steps=5"]) == 0
    kept = [(here / f"a/config.{number}.yaml").read_text() for number in (1, 2, 3)]
    assert kept == [first, "mine", second]


# Checkpoints.

NAMES = (
    *("my-best.ckpt", "best-of-all.ckpt", "last-good.ckpt", "best-step=2-copy.ckpt", "notes.txt", ".mine.part"),
    *("last-words.ckpt/a", ".best-of-all.ckpt.part"),
)


@pytest.mark.parametrize("how", FITS, ids=" ".join)
def test_files_beside_checkpoints_stay_when_these_are_replaced(how, small, here):
    callbacks = [
        {"class_path": "lmrecipes.callbacks.BestCheckpoint"},
        {"class_path": "lmrecipes.callbacks.LastCheckpoint", "init_args": {"every_n_steps": 2}},
    ]
    often = [f"--trainer.callbacks={json.dumps(callbacks)}", "--trainer.val_check_interval=2"]
    assert main([*how, *small, *often, "--run_dir=a", "--trainer.max_steps=3"]) == 0
    are_there = put_files(here / "a/checkpoints", *NAMES)
    assert main([*how, "--resume=a", "--trainer.max_steps=8"]) == 0
    assert are_there()
    assert [path.name for path in (here / "a/checkpoints").glob("last-step=*")] == ["last-step=8.ckpt"]


def test_only_leftovers_of_checkpoints_are_removed_beside_a_new_one(here):
    folder = here / "checkpoints"
    are_there = put_files(folder, *NAMES)
    leftovers = [".last-step=1.ckpt.part", ".epoch=0-step=2.ckpt.part", ".last-step=3.ckpt.former.part"]
    for name in leftovers[1:]:
        (folder / name).mkdir()
    (folder / leftovers[0]).touch()
    (folder / ".last-step=4.ckpt.part").symlink_to("link")
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, folder / "last-step=3.ckpt")
    assert are_there()
    assert not list(folder.glob(".*step*"))


def test_a_link_in_the_place_of_a_checkpoint_is_not_followed(here):
    are_there = put_files(here / "checkpoints")
    one, other = (here / "checkpoints" / f"last-step={step}.ckpt" for step in (1, 2))
    for replace in (
        lambda: remove(one),
        lambda: remove_others(other),
        lambda: AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, one),
        lambda: sharded_checkpoint.discard(one),
    ):
        one.unlink(missing_ok=True)
        one.symlink_to("link")
        replace()
        assert not one.is_symlink()
    assert are_there()


# Prepared data; that of other kinds is tested beside them.


def test_a_cache_in_a_folder_with_files_leaves_them(small, here):
    are_there = put_files(here / "stuff", "notes.txt", "train.bin", "manifest.json", ".lock", "mine.part", "a/.lock")
    words = [*small, "--trainer.max_steps=3", "--data.cache_dir=stuff"]
    assert main(["prepare", *small, "--data.cache_dir=stuff"]) == 0
    assert main(["fit", *words, "--run_dir=a"]) == 0
    assert main(["test", "--run=a"]) == 0
    assert are_there()


def test_a_lock_empties_no_file(here):
    (here / "lock").write_text("mine")
    with locked(here / "lock"):
        pass
    assert (here / "lock").read_text() == "mine"


# Exports, and files that are named by an option.


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["fit", *small, f"--run_dir={folder}", "--trainer.max_steps=3"]) == 0
    return folder


@pytest.mark.parametrize("form", ["torch_export", "state_dict"])
def test_an_export_into_a_folder_with_files_is_refused_before_it_is_made(form, trained, here, capsys, monkeypatch):
    put_files(here / "models", "weights.pt", "config.json", "begin.pt2")
    before = everything(here)
    monkeypatch.setattr("lmrecipes.commands.export.load_trained", lambda _: pytest.fail("the network is built"))
    message = refused(capsys, ["export", f"--run={trained}", f"--format={form}", "--output=models"])
    assert message.startswith("error: models is not empty and holds no earlier export; name a new or an empty folder")
    assert everything(here) == before


def test_an_export_replaces_an_earlier_one_and_leaves_what_else_is_there(trained, here):
    words = ["export", f"--run={trained}", "--format=state_dict", "--output=new/exported"]
    assert main(words) == 0
    are_there = put_files(here / "new/exported")
    (here / "new/exported/weights.pt").write_text("old")
    assert main(words) == 0
    assert torch.load(here / "new/exported/weights.pt", weights_only=True)
    assert are_there()


def export(form, fails="", **files):
    with exporting(Path("exported"), form) as part:
        for name, text in files.items():
            (part / name).parent.mkdir(exist_ok=True)
            (part / name).write_text(text)
        if fails:
            raise ValueError(f"{part / fails} does not compute")


def test_a_file_in_the_way_of_an_export_is_named_and_nothing_is_replaced(here):
    export("hf", a="1")
    are_there = put_files(here / "exported", "weights.pt", "b/c")
    before = everything(here)
    for name in ("weights.pt", "b", "link/precious.txt", "link/new"):
        with pytest.raises(ValueError, match=rf"^exported/{name} is of no earlier export"):
            export("hf", **{"a": "2", name: "2"})
        assert everything(here) == before
    export("hf", a="2")
    assert are_there()


def test_an_export_replaces_the_files_of_its_form_only(here):
    export("hf", a="1", **{"part/b": "1"})
    export("state_dict", c="1")
    (here / "exported/part/mine").write_text("mine")
    export("hf", a="2", d="2")
    assert {path.relative_to("exported").as_posix() for path in Path("exported").rglob("*") if path.is_file()} == {
        *("a", "c", "d", "export.json", "part/mine")
    }
    assert Path("exported/a").read_text() == "2"


@pytest.mark.parametrize("earlier", [False, True])
def test_an_export_that_fails_leaves_what_was_there(earlier, here):
    if earlier:
        export("hf", a="1")
    before = everything(here)
    with pytest.raises(ValueError, match=r"^exported/a does not compute"):
        export("hf", a="2", fails="a")
    assert everything(here) == before


def test_figures_are_not_drawn_over_other_files(trained, here, capsys):
    for name in ("thesis.png", "runs.png", "thesis.pdf"):
        (here / name).write_bytes(b"mine")
    before = everything(here)
    for words in (
        [f"{trained}", "--output=thesis.png"],
        [f"{trained}", f"{trained}"],
        [f"{trained}", "--output=thesis.pdf"],
    ):
        assert "was not drawn by lmrecipes" in refused(capsys, ["plot", *words])
    assert everything(here) == before
    for name in ("a.pdf", "a"):
        for _ in range(2):
            assert main(["plot", f"{trained}", f"--output={name}"]) == 0


def test_figures_of_an_evaluation_are_not_written_over_other_files(here, capsys):
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
        message = refused(capsys, [*words, f"--output={name}"])
        assert message.startswith(f"error: --output {name} is there and holds no figures")
    assert everything(here) == before
    for version in ("1.1", "2.0", "1.1"):
        assert main([*words, f"--version={version}", "--output=figures.json"]) == 0
