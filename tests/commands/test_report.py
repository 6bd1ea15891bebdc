"""Test results are printed in two columns."""

from types import SimpleNamespace

from lmrecipes.commands.common.report import report


def test_a_long_metric_name_does_not_touch_its_value(capsys):
    cli = SimpleNamespace(settings=lambda: "{}", config_init=SimpleNamespace(published=[]), run_dir=None)
    report(cli, "test", {"squad/exact_string_match_de": 1.0, "test/loss": 2.0}, None, 1.0)  # type: ignore[arg-type]
    names, values = zip(*(line.split() for line in capsys.readouterr().out.splitlines()), strict=True)
    assert (names, values) == (("squad/exact_string_match_de", "test/loss"), ("1.0000", "2.0000"))
