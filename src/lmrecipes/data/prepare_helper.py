"""A process that helps another one to prepare examples: `python -m lmrecipes.data.prepare_helper FOLDER INDEX N`."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from lmrecipes.data.prepare_examples import Share, help_with


def _end_with_the_other() -> None:
    """Ends this process when the one that started it closes its input, or is killed."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_other, daemon=True).start()
    help_with(Path(sys.argv[1]), Share(int(sys.argv[2]), int(sys.argv[3])))
