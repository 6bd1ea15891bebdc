"""Options that several commands have."""

from __future__ import annotations

from lightning.pytorch.cli import LightningArgumentParser


def add_run(parser: LightningArgumentParser) -> None:
    """Which run, and which of its checkpoints."""
    parser.add_argument("--run", type=str, help="Run to use, by directory or by its recipe's name.")
    parser.add_argument("--checkpoint", type=str, default="best", help="best, last, or a path.")


def add_text(parser: LightningArgumentParser) -> None:
    """A text, or a file with one."""
    parser.add_argument("--text", type=str, help="Input text.")
    parser.add_argument("--file", type=str, help="Input file: text, or questions in SQuAD format.")


def add_exported(parser: LightningArgumentParser) -> None:
    """Exported programs in place of the network."""
    parser.add_argument("--exported", type=str, help="Folder of exported programs to use instead of the network.")


def check_text(option: str, text: str | None) -> None:
    """Checks that the text of an option is made of whole characters.

    A shell passes on any bytes; those that are not UTF-8 arrive as surrogates, which no vocabulary can encode.

    Raises:
        ValueError: naming the option.
    """
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        is_byte = 0xDC80 <= ord(half) <= 0xDCFF
        what = f"the byte 0x{ord(half) - 0xDC00:02X}" if is_byte else f"half a character, {half!r},"
        raise ValueError(f"{option} has {what} at position {error.start}, which is not UTF-8 text") from None
