"""A run in Weights & Biases: one wandb run across all resumes, offline if there is no server."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import WandbLogger as Lightnings
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from lmrecipes import runs
from lmrecipes.loggers.run_logger import RunLogger, require
from lmrecipes.resilience import signals
from lmrecipes.runtime import launcher
from lmrecipes.runtime.console import quoted
from lmrecipes.runtime.open_file import read_json
from lmrecipes.runtime.path_names import check_plain

# File with the id of a run directory's wandb run.
KEPT = "wandb.json"
# SLURM leaves 120 s between the signal and the kill.
_FINISH_SECONDS = 60
_PROBE_SECONDS = 10


class WandbLogger(RunLogger, Lightnings):
    """Logs to the wandb run that belongs to the run directory, from the first rank only."""

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        offline: bool = False,
    ) -> None:
        """Names the wandb run.

        Args:
            project: default: WANDB_PROJECT, or lmrecipes; in a sweep the sweep's.
            entity: user or team; default: that of the API key.
            name: default: recipe and time of the run.
            group: name shared by the runs of one experiment.
            tags: tags of the run.
            notes: a longer description.
            offline: write files only, for a later upload.
        """
        require("wandb", "logger WandbLogger")
        project = project or os.environ.get("WANDB_PROJECT") or "lmrecipes"
        super().__init__(project=project, name=name, entity=entity, group=group, tags=tags, notes=notes)
        # A removed setting, about which wandb warns.
        self._wandb_init.pop("anonymous", None)
        self._asked_offline = offline
        self._config: dict[str, Any] = {}
        self._given_up = False

    def begin(self, run_dir: Path, config: str) -> None:
        """Determines the wandb run: by WANDB_RUN_ID (an agent's or the user's), the run's earlier one, or a new one.

        Raises:
            ValueError: if its record in the run directory is damaged.
        """
        self._config = yaml.safe_load(config)
        path = run_dir / KEPT
        try:
            kept = read_json(path) if path.is_file() else {}
        except ValueError as error:
            raise ValueError(f"{path} is damaged; remove it to start a new wandb run: {error}") from error
        run_id = os.environ.get("WANDB_RUN_ID")
        if run_id and run_id != kept.get("id"):
            kept = {"id": run_id}
        self._id = kept.setdefault("id", secrets.token_hex(4))
        check_plain("WANDB_RUN_ID" if run_id == self._id else f"id in {path}", str(self._id), "k3x9a")
        self._save_dir = str(run_dir)
        self._wandb_init.update(kept, dir=self._save_dir)
        self._wandb_init["name"] = self._name or os.environ.get("WANDB_NAME") or f"{run_dir.parent.name}/{run_dir.name}"
        runs.note(run_dir / "wandb")
        if launcher.is_main_process():
            # Written before training, so that a run killed early keeps its id.
            runs.write_text(path, json.dumps(kept) + "\n")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The wandb run with the whole configuration; a placeholder on other ranks."""
        if self._experiment is None:
            self._experiment = self._start()
        return self._experiment

    def _start(self) -> Any:
        # wandb prints a greeting and prompts for a key.
        os.environ.setdefault("WANDB_SILENT", "true")
        # Silence wandb's own reports: its process may end before ours.
        for noisy in ("opentelemetry", "asyncio"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        import wandb

        mode = os.environ.get("WANDB_MODE") or "online"
        reason = "as WANDB_MODE says" if mode in ("offline", "dryrun") else ""
        if self._asked_offline:
            reason = "as the recipe says"
        if mode == "online" and not reason:
            reason = _unusable(wandb)
        # Flush often: SLURM may kill wandb's process with the job.
        settings = wandb.Settings(silent=True, finish_timeout=_FINISH_SECONDS, x_transaction_log_flush_interval=1)
        if not reason:
            try:
                return self._describe(wandb.init(**self._wandb_init, settings=settings))
            except wandb.Error as error:
                wandb.teardown()
                reason = f"as the server refuses: {' '.join(str(error).split())}"
        run = self._describe(wandb.init(**self._wandb_init, settings=settings, mode="offline"))
        folders = f"{quoted(Path(os.path.relpath(self._save_dir or '.')) / 'wandb')}/offline-run-*"
        print(f"wandb: offline, {reason}; upload the run later with: wandb sync {folders}", flush=True)
        return run

    def _describe(self, run: Any) -> Any:
        """Sends the configuration to the wandb run, and records where it is."""
        run.config.update(self._config, allow_val_change=True)
        kept = {key: value for key in ("id", "project", "entity") if (value := getattr(run, key, None))}
        if not run.disabled:
            runs.write_text(Path(self._save_dir or ".") / KEPT, json.dumps(kept) + "\n")
        if url := run.url:
            print(f"wandb: {url}", flush=True)
        return run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs metrics; Lightning passes the number of steps completed before this one."""
        if self._given_up:
            return
        try:
            # An explicit step keeps offline parts of a resumed run aligned.
            self.experiment.log(dict(metrics), step=None if step is None else step + 1)
        except Exception as error:
            self._give_up(error)

    def log_hyperparams(self, params: Any) -> None:
        """No-op: the whole configuration is logged already."""

    def finalize(self, status: str) -> None:
        """Finishes the wandb run, which a resumed run reopens."""
        self.close(0 if status == "success" else 1)

    @rank_zero_only
    def close(self, exit_code: int) -> None:
        """Finishes the wandb run: until then, much of an offline run is only in memory."""
        if self._experiment is None or self._given_up:
            return
        try:
            self._experiment.finish(exit_code=exit_code)
        except Exception as error:
            self._give_up(error)
        self._given_up = True

    def _give_up(self, error: Exception) -> None:
        """Continues training without wandb: logging must not end a run."""
        self._given_up = True
        if not signals.noted():
            print(f"wandb: connection lost, {' '.join(str(error).split())}; metrics.csv has everything", flush=True)
        import wandb

        with contextlib.suppress(Exception):
            # Prevent wandb's atexit hook from retrying with a traceback.
            wandb.teardown()


def _unusable(wandb: Any) -> str:
    """The reason why wandb's server cannot be used; empty if it can."""
    try:
        if not wandb.login(prompt=False, verify=False):
            return "as there is no API key (wandb login, or WANDB_API_KEY)"
    except wandb.Error as error:
        return f"as the API key cannot be used: {' '.join(str(error).split())}"
    server = wandb.setup().settings.base_url
    return "" if _answers(server) else f"as {server} cannot be reached"


def _answers(url: str) -> bool:
    """Whether the server answers, possibly through a proxy."""
    try:
        with urllib.request.urlopen(url, timeout=_PROBE_SECONDS):
            return True
    except (urllib.error.HTTPError, http.client.HTTPException):
        return True
    except urllib.error.URLError as error:
        # Certificates are wandb's business.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError):
        return False
