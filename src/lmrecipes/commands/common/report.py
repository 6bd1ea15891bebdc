"""Prints an evaluation's metrics next to the published ones and appends them to results.json."""

from __future__ import annotations

import time
from pathlib import Path

import yaml

from lmrecipes import runs
from lmrecipes.cli import RecipeCLI
from lmrecipes.config import published
from lmrecipes.config.presets import as_list
from lmrecipes.runtime import launcher
from lmrecipes.runtime.console import say, short


def check_evaluation(cli: RecipeCLI) -> None:
    """Refuses an empty evaluation, or one whose results could not be saved.

    Raises:
        ValueError: naming the setting or the file.
    """
    if cli.run_dir is not None and launcher.is_main_process():
        runs.results(cli.run_dir)
    limit = f"limit_{cli.command.split}_batches"
    if cli.config.trainer[limit] == 0:
        raise ValueError(f"trainer.{limit} is 0, which leaves nothing to {cli.command.name}; leave it out")


def report(cli: RecipeCLI, command: str, metrics: dict[str, float], checkpoint: Path | None, elapsed_s: float) -> None:
    """Prints the metrics and adds them to the run's results.

    Args:
        cli: of the recipe or run.
        command: what made the metrics.
        metrics: by their logged names.
        checkpoint: of the weights; None with exported programs.
        elapsed_s: seconds that it took.
    """
    settings = published.flatten(yaml.safe_load(cli.settings()))
    targets = list(cli.config_init.published)
    width = max((len(name) + 2 for name in metrics), default=0)
    for name, value in sorted(metrics.items()):
        say(f"{name:<{max(width, 26)}}{value:.4f}")
    for line in published.compare(targets, metrics, settings):
        say(line)
    if cli.run_dir is not None and launcher.is_main_process():
        result = {
            "command": command,
            "metrics": metrics,
            "checkpoint": short(checkpoint) if checkpoint else None,
            "exported": cli.config.exported,
            "data": {key: value for key, value in settings.items() if key.startswith("data.")},
            "batch": {key: value for key, value in settings.items() if key.startswith("batch.")},
            "published": [{**vars(t), "differences": published.differences(t, settings)} for t in targets],
            "elapsed_s": round(elapsed_s, 3),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        try:
            runs.add_result(cli.run_dir, result)
        except OSError as error:
            path = short(cli.run_dir / runs.RESULTS)
            raise ValueError(f"the metrics above could not be written to {path}: {error.strerror}") from error
        for callback in as_list(cli.config_init.trainer.callbacks):
            if unwritten := getattr(callback, "unwritten", ""):
                raise ValueError(f"the metrics above are complete, but {unwritten}")
        say(f"written to {short(cli.run_dir / runs.RESULTS)}")
