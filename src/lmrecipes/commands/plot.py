"""`lmrecipes plot`: the curves of one or more runs."""

from __future__ import annotations

from pathlib import Path

from lmrecipes import runs
from lmrecipes.commands.common.parser import Arguments
from lmrecipes.runs.plots import plot_runs
from lmrecipes.runtime.console import say, short


def run(argv: list[str]) -> int:
    """Plots the runs into one figure."""
    parser = Arguments(prog="lmrecipes plot", description="Loss, perplexity, learning rate and throughput.")
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="directory of a run, or name of a recipe (its newest run)"
    )
    parser.add_argument(
        "--output", type=Path, help="the PNG to write (default: plots/run.png of the run, or ./runs.png)"
    )
    parser.add_argument("--runs_root", type=Path, default=Path("runs"), help="folder of all runs")
    options = parser.parse_args(argv)
    if not options.runs:
        raise ValueError("name a run, or several: lmrecipes plot RUN")
    run_dirs = [runs.find_run(name, root=options.runs_root) for name in options.runs]
    output = options.output or Path("runs.png")
    if options.output is None and len(run_dirs) == 1:
        output = run_dirs[0] / "plots" / "run.png"
    say(f"written to {short(plot_runs(run_dirs, output).resolve())}")
    return 0
