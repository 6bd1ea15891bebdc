"""Curves of runs from their metrics.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from lmrecipes.runtime.atomic_write import replacing

# Room for titles and labels, in parts of the figure. matplotlib's own layouts measure every tick, which takes as long
# as drawing.
_ROOM = {"left": 0.07, "right": 0.98, "bottom": 0.07, "top": 0.9, "hspace": 0.33, "wspace": 0.2}
_PANELS = (
    ("loss (nats per token)", ("train/loss", "val/loss"), "linear"),
    ("perplexity", ("train/perplexity", "val/perplexity"), "log"),
    ("learning rate", ("train/lr",), "linear"),
    ("throughput (tokens/s)", ("throughput/tokens_per_s",), "linear"),
)
# Metadata that marks our own plots, in the formats that support it.
_MARK = "lmrecipes plot"
_LARGEST = 2**26
_MARKED = ("png", "pdf", "svg", "ps", "eps")


def check_replaceable(path: Path) -> None:
    """Refuses to overwrite a file that is not one of our plots.

    Raises:
        ValueError: naming it.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name another file with --output")
    if path.is_file() and (path.stat().st_size > _LARGEST or _MARK.encode() not in path.read_bytes()):
        raise ValueError(f"{path} exists and is not a plot by lmrecipes; move it, or name another file with --output")


def read_metrics(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Every logged metric of a run by its name, as (step, value).

    Raises:
        ValueError: if there is no metrics.csv, or nothing in it.
    """
    path = run_dir / "metrics.csv"
    if not path.is_file():
        raise ValueError(f"{run_dir} has no metrics.csv; is it a run directory?")
    series: dict[str, list[tuple[int, float]]] = {}
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                step = int(row.pop("step") or 0)
                for name, value in row.items():
                    if name and value not in ("", None):
                        series.setdefault(name, []).append((step, float(value)))
            except (KeyError, ValueError, TypeError):
                raise ValueError(f"{path}:{number} is not a row of metrics") from None
    if not series:
        raise ValueError(f"{path} holds no metrics yet")
    return series


def plot_runs(run_dirs: Sequence[Path], output: Path) -> Path:
    """Draws loss, perplexity, learning rate and throughput of one or more runs into a PNG.

    Raises:
        ValueError: if a run has no metrics, or the file exists and is not one of our plots.
    """
    check_replaceable(output)
    from matplotlib.figure import Figure

    runs = {_label(run_dir, run_dirs): read_metrics(run_dir) for run_dir in run_dirs}
    figure = Figure(figsize=(11, 7))
    for axes, (title, names, scale) in zip(figure.subplots(2, 2, gridspec_kw=_ROOM).flat, _PANELS, strict=True):
        for color, (label, series) in enumerate(runs.items()):
            for name in names:
                if name in series:
                    steps, values = zip(*series[name], strict=True)
                    validation = name.startswith("val/")
                    kind = name.split("/")[0] if len(names) > 1 else ""
                    text = " ".join(filter(None, (label if len(runs) > 1 else "", kind)))
                    shade = color + (len(runs) if validation and len(runs) == 1 else 0)
                    style = "o-" if validation else "-"
                    axes.plot(
                        steps,
                        values,
                        style,
                        markersize=4,
                        linewidth=1.5,
                        color=f"C{shade % 10}",
                        label=text or None,
                    )
        axes.set(title=title, xlabel="optimizer step", yscale=scale)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=8)
    figure.suptitle(next(iter(runs)) if len(runs) == 1 else f"{len(runs)} runs")
    output.parent.mkdir(parents=True, exist_ok=True)
    # Given a name without suffix, matplotlib would write another file than the one asked for.
    form = output.suffix[1:] or "png"
    # Write through a symlink.
    with replacing(output.resolve(), "wb") as file:
        figure.savefig(file, dpi=110, format=form, metadata={"Creator": _MARK} if form in _MARKED else None)
    return output


def _label(run_dir: Path, others: Sequence[Path]) -> str:
    parts = run_dir.resolve().parts
    for depth in range(1, len(parts)):
        label = "/".join(parts[-depth:])
        if len({"/".join(other.resolve().parts[-depth:]) for other in others}) == len(others) and depth >= 2:
            return label
    return str(run_dir)
