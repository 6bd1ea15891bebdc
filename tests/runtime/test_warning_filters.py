"""A plain run prints only what its user can act on."""

import subprocess
import sys

import pytest

RANKS = {1: [], 2: ["--trainer.strategy=ddp", "--trainer.devices=2"]}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", RANKS)
def test_a_run_prints_only_our_own_lines(command, small, ranks):
    options = [*small, "--trainer.num_sanity_val_steps=2", "--trainer.log_every_n_steps=5", *RANKS[ranks]]
    fitted = command("fit", *options, "--run_dir=a")
    assert (fitted.returncode, fitted.stderr) == (0, "")
    begins = (
        "run directory: a",
        "epoch 0 | step ",
        "eval at step ",
        "training ran at ",
        "curves: a",
        "done at step 12",
    )
    for line in fitted.stdout.splitlines():
        assert line.startswith(begins), line
    resumed = command("fit", "--resume=a", "--trainer.max_steps=14")
    assert (resumed.returncode, resumed.stderr) == (0, "")


@pytest.mark.slow
def test_evaluations_print_only_our_own_lines(command, small):
    assert command("fit", *small, "--run_dir=a", "--trainer.max_steps=3").returncode == 0
    for subcommand in ("validate", "test"):
        done = command(subcommand, "--run=a")
        assert (done.returncode, done.stderr) == (0, "")
        assert all(line.startswith(("val/", "test/", "written to ")) for line in done.stdout.splitlines()), done.stdout
    predicted = command("predict", "--run=a", "--text=w1 w2", "--max_new_tokens=2")
    assert (predicted.returncode, predicted.stderr) == (0, "")
    assert len(predicted.stdout.splitlines()) == 1


@pytest.mark.slow
def test_a_warning_is_one_line_without_its_source_location():
    code = "import warnings; from lmrecipes.runtime import warning_filters; warning_filters.quiet(); "
    code += "warnings.warn('what\\n a user can  mend')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "warning: what a user can mend\n"
