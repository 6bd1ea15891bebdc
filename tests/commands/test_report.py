"""Test results are printed in two columns."""

from types import SimpleNamespace

import pytest

from lmrecipes.commands.common.report import report


def test_a_long_metric_name_does_not_touch_its_value(capsys):
    cli = SimpleNamespace(settings=lambda: "{}", config_init=SimpleNamespace(published=[]), run_dir=None)
    report(cli, "test", {"squad/exact_string_match_de": 1.0, "test/loss": 2.0}, None, 1.0)  # type: ignore[arg-type]
    names, values = zip(*(line.split() for line in capsys.readouterr().out.splitlines()), strict=True)
    assert (names, values) == (("squad/exact_string_match_de", "test/loss"), ("1.0000", "2.0000"))


def test_metrics_of_a_run_that_cannot_be_written_are_printed_and_the_file_is_named(capsys, tmp_path, monkeypatch):
    def read_only(path, text):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("lmrecipes.runs.run_dir.atomic_write.write_text", read_only)
    config = SimpleNamespace(exported=None)
    cli = SimpleNamespace(
        settings=lambda: "{}", config_init=SimpleNamespace(published=[]), run_dir=tmp_path, config=config
    )
    with pytest.raises(ValueError, match=rf"could not be written to {tmp_path}/results.json: Permission denied"):
        report(cli, "test", {"test/loss": 2.0}, None, 1.0)  # type: ignore[arg-type]
    assert "test/loss" in capsys.readouterr().out


def test_answers_that_were_not_written_are_named_after_the_metrics(capsys, tmp_path):
    unwritten = SimpleNamespace(unwritten="answers were not written to there: No space left on device")
    trainer = SimpleNamespace(callbacks=[unwritten])
    init = SimpleNamespace(published=[], trainer=trainer)
    cli = SimpleNamespace(
        settings=lambda: "{}", config_init=init, run_dir=tmp_path, config=SimpleNamespace(exported=None)
    )
    with pytest.raises(ValueError, match="metrics above are complete, but answers were not written to there"):
        report(cli, "test", {"test/loss": 2.0}, None, 1.0)  # type: ignore[arg-type]
    assert "test/loss" in capsys.readouterr().out
