"""Filters for warnings that a user cannot act on; the others are printed in one line."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any, TextIO

# Message patterns, each with the reason why a user cannot act on it.
_POINTLESS = {
    r".*LeafSpec.*": "inside lightning, from torch 2.13 on",
    r".*does not have many workers.*": "our loaders take microseconds",
    r".*ended before the epoch ended and your dataloader is not resumable.*": "ours begins at the optimizer's step",
    r".*number of training batches .* is smaller than the logging interval.*": "runs are measured in steps",
    r".*srun. command is available on your system but is not used.*": "a local run on a cluster is fine",
    r".*Checkpoint directory .* exists and is not empty.*": "a continued run",
    r".*GPU available but not used.*": "the recipe says which accelerator",
    r".*isinstance.treespec.*": "inside lightning, from torch 2.13 on",
    r".*Experiment logs directory .* exists and is not empty.*": "our logger continues the file",
    r".*ModelCheckpoint.monitor.* could not find the monitored key.*": "the first validation comes later",
    r".*torch.distributed.*deprecat.*": "inside lightning",
    r".*recommended to use .self.log.*sync_dist=True.*": "our metrics are of all ranks before they are logged",
}


def quiet() -> None:
    """Applies the filters to this process."""
    # LightningCLI uses what jsonargparse removes in version 5, which pyproject.toml excludes.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for pattern in _POINTLESS:
        warnings.filterwarnings("ignore", message=pattern)
    warnings.showwarning = _one_line
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: Any = None,
) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=file or sys.stderr)
