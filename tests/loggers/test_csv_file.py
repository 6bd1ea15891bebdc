"""The CSV log of a killed run has no half-written lines."""

import pytest

from lmrecipes.loggers import RunCSVLogger


@pytest.mark.parametrize("end", ["12,0,2.5", "1", ""], ids=["within the metrics", "within the step", "no line"])
def test_an_incomplete_line_is_dropped(tmp_path, end):
    complete = "step,epoch,train/loss,val/loss\n10,0,2.75,\n11,0,2.625,2.5\n"
    (tmp_path / "metrics.csv").write_text(complete + end)
    logger = RunCSVLogger(tmp_path)
    logger.forget_after(12)
    assert (tmp_path / "metrics.csv").read_text().split() == complete.split()
    logger.log_metrics({"epoch": 0, "train/loss": 2.25}, 11)
    logger.save()
    assert (tmp_path / "metrics.csv").read_text().split() == [*complete.split(), "12,0,2.25,"]
