"""Writes benchmark results with the conditions they were measured under."""

import json
import platform
import subprocess
import time
from pathlib import Path

import torch


def write_json(path: Path | None, results: dict) -> None:
    """Writes results with date, commit, device, threads and torch version; does nothing without a path."""
    if path is None:
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "device": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    path.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")
