"""Options that several commands have."""

from __future__ import annotations

from lightning.pytorch.cli import LightningArgumentParser


def add_run(parser: LightningArgumentParser) -> None:
    """Which run, and which of its checkpoints."""
    parser.add_argument("--run", type=str | None, help="Run to use, by directory or by its recipe's name.")
    parser.add_argument("--checkpoint", type=str, default="best", help="best, last, or a path.")


def add_text(parser: LightningArgumentParser) -> None:
    """A text, or a file with one."""
    parser.add_argument("--text", type=str | None, help="Input text.")
    parser.add_argument("--file", type=str | None, help="Input file: text, or questions in SQuAD format.")


def add_exported(parser: LightningArgumentParser) -> None:
    """Exported programs in place of the network."""
    parser.add_argument(
        "--exported", type=str | None, help="Folder of exported programs to use instead of the network."
    )
