"""Arguments of the commands that build no model."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn


class Arguments(argparse.ArgumentParser):
    """A parser whose complaints are one line, and that takes options only in full."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **how})

    def error(self, message: str) -> NoReturn:
        """Refuses.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{message}; see {self.prog} --help")
