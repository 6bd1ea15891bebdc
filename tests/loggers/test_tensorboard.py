"""TensorBoard has the steps and metrics of the CSV log, across resumes."""

import csv
import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def curve(run, name):
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return events, [(event.step, event.value) for event in events.Scalars(name)]


@pytest.mark.slow
def test_tensorboard_equals_the_csv_log_also_after_repeated_steps(command, small, tmp_path):
    run, kept = tmp_path / "run", tmp_path / "kept"
    first = command("fit", *small, "--trainer.logger=tensorboard", "--run_dir=run", "--trainer.max_steps=6")
    assert first.returncode == 0, first.stderr
    shutil.copytree(run / "checkpoints", kept)
    for _ in range(2):
        # The second time, as if killed after step 6.
        shutil.rmtree(run / "checkpoints")
        shutil.copytree(kept, run / "checkpoints")
        onward = command("fit", "--resume=run", "--trainer.max_steps=12")
        assert onward.returncode == 0, onward.stderr
    with (run / "metrics.csv").open() as file:
        rows = [(int(row["step"]), float(row["train/loss"])) for row in csv.DictReader(file) if row["train/loss"]]
    events, seen = curve(run, "train/loss")
    assert seen == [(step, pytest.approx(loss)) for step, loss in rows]
    assert [step for step, _ in seen] == list(range(1, 13))
    text = events.Tensors("config/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "      max_steps: 12" in text
