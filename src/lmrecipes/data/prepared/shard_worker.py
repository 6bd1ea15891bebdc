"""A worker process of a preparation: `python -m lmrecipes.data.prepared.shard_worker FOLDER INDEX N`."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from lmrecipes.data.prepared.shards import Share, help_with


def _exit_with_parent() -> None:
    """Ends this process when its parent closes its input, or is killed."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    help_with(Path(sys.argv[1]), Share(int(sys.argv[2]), int(sys.argv[3])))
