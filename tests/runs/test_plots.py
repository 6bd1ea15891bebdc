"""`lmrecipes plot` draws what exists and reports in one line what does not."""

import pytest

from lmrecipes.__main__ import main
from lmrecipes.runs.plots import read_metrics

METRICS = "step,epoch,train/loss,val/loss\n1,0,4.5,\n2,0,4.0,\n2,0,,4.2\n"


def run_with(folder, metrics):
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    if metrics is not None:
        (folder / "metrics.csv").write_text(metrics)
    return str(folder)


def test_metrics_are_read_by_step(tmp_path):
    run_with(tmp_path / "a", METRICS)
    series = read_metrics(tmp_path / "a")
    assert series["train/loss"] == [(1, 4.5), (2, 4.0)]
    assert series["val/loss"] == [(2, 4.2)]


@pytest.mark.parametrize(
    ("metrics", "parts"),
    [
        (None, ["a has no metrics.csv", "is it a run directory?"]),
        ("", ["metrics.csv holds no metrics yet"]),
        ("step,epoch,train/loss\n", ["metrics.csv holds no metrics yet"]),
        (METRICS + "3,0,four,\n", ["metrics.csv:5 is not a row of metrics"]),
        ("epoch,train/loss\n0,4.5\n", ["metrics.csv:2 is not a row of metrics"]),
    ],
    ids=["none", "empty", "header only", "not a number", "no steps"],
)
def test_missing_metrics_are_reported_in_one_line(tmp_path, capsys, monkeypatch, metrics, parts):
    monkeypatch.chdir(tmp_path)
    run = run_with(tmp_path / "a", metrics)
    assert main(["plot", run]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    for part in parts:
        assert part in err
    assert not (tmp_path / "a/plots").exists()


def test_a_folder_that_is_not_a_run_is_rejected(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["plot", "empty"]) == 2
    assert capsys.readouterr().err == "error: empty is not a run directory: it has no config.yaml\n"


def test_several_runs_share_one_plot(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [run_with(tmp_path / "r" / name, METRICS) for name in ("a", "b")]
    assert main(["plot", *runs]) == 0
    assert capsys.readouterr().out == "written to runs.png\n"
    assert (tmp_path / "runs.png").stat().st_size > 10_000
    assert main(["plot", runs[0], "--output", "x/one.png"]) == 0
    assert (tmp_path / "x/one.png").is_file()
    assert main(["plot", runs[0], "--output", "x/one"]) == 0
    assert (tmp_path / "x/one").is_file()


def test_an_unwritable_plot_is_reported_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_with(tmp_path / "a", METRICS)
    for output, part in (
        ("a", "a is a folder"),
        ("x.docx", "'docx' is not supported"),
        ("a/config.yaml/x.png", "a/config"),
    ):
        assert main(["plot", run, "--output", output]) == 2
        err = capsys.readouterr().err
        assert part in err
        assert len(err.splitlines()) == 1
