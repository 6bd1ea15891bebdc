"""Examples on disk: concatenated tokens, where each example begins, and where its second segment does."""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lmrecipes.data.prepared.corpus import Prepared, mapped
from lmrecipes.runtime.atomic_write import replacing

_BUFFERED = 1 << 20


class ExampleWriter:
    """Writes examples; created by `writing`."""

    def __init__(self, files: Sequence[IO[bytes]], dtype: np.dtype[Any]) -> None:
        self._files = files
        self._tokens, self._lengths, self._seconds = (array(np.dtype(kind).char) for kind in (dtype, "u4", "u4"))
        self.examples = self.tokens = 0

    def add(self, tokens: Sequence[int], second: int) -> None:
        """Adds an example: its tokens, and the position of the second segment."""
        self._tokens.extend(tokens)
        self._lengths.append(len(tokens))
        self._seconds.append(second)
        self.examples += 1
        self.tokens += len(tokens)
        if len(self._tokens) >= _BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Writes buffered examples to the files."""
        for values, file in zip((self._tokens, self._lengths, self._seconds), self._files, strict=True):
            values.tofile(file)
            del values[:]


@contextmanager
def writing(stem: Path, dtype: np.dtype[Any]) -> Iterator[ExampleWriter]:
    """Writes examples to files that are joined later; they appear at the end, and not after an error."""
    with ExitStack() as stack:
        files = [stack.enter_context(replacing(name, "wb", durable=True)) for name in _part_files(stem)]
        writer = ExampleWriter(files, dtype)
        yield writer
        writer.flush()


def _part_files(stem: Path) -> list[Path]:
    return [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("tokens", "lengths", "seconds")]


def join(stems: Sequence[Path], folder: Path, split: str) -> dict[str, int]:
    """Concatenates the examples of several writers into a split.

    Returns:
        Names and sizes of the files.
    """
    names = [folder / f"{split}.{suffix}" for suffix in ("bin", "starts.bin", "seconds.bin")]
    n_tokens = 0
    with ExitStack() as stack:
        tokens, starts, seconds = (
            stack.enter_context(replacing(name, "wb", part=name.with_suffix(".part"), durable=True)) for name in names
        )
        np.zeros(1, dtype=np.int64).tofile(starts)
        for stem in stems:
            of_tokens, of_lengths, of_seconds = _part_files(stem)
            for name, file in ((of_tokens, tokens), (of_seconds, seconds)):
                with name.open("rb") as part:
                    shutil.copyfileobj(part, file, 1 << 22)
            ends = n_tokens + np.cumsum(np.fromfile(of_lengths, dtype=np.uint32), dtype=np.int64)
            ends.tofile(starts)
            n_tokens = int(ends[-1]) if len(ends) else n_tokens
    return {name.name: name.stat().st_size for name in names}


class Examples:
    """The examples of a split, mapped into memory."""

    def __init__(self, prepared: Prepared, split: str) -> None:
        self.counts: list[int] = prepared.split(split)["examples"]
        """Number of examples of each source; they are stored source by source."""
        self._tokens = prepared.tokens(split)
        self.starts = mapped(prepared.folder / f"{split}.starts.bin", np.int64)
        """Where each example begins among the tokens, and where the last ends."""
        self._seconds = mapped(prepared.folder / f"{split}.seconds.bin", np.uint32)

    def __len__(self) -> int:
        """Examples."""
        return len(self.starts) - 1

    def read(self, numbers: NDArray[np.int64], length: int = 0) -> tuple[NDArray[np.int64], ...]:
        """Tokens of examples, padded with 0; their types (1 in the second segment) and lengths.

        Args:
            numbers: of the examples.
            length: to pad to; 0 pads to the longest, rounded up to a multiple of 8.
        """
        starts = self.starts[numbers]
        lengths = self.starts[numbers + 1] - starts
        length = length or -(-int(lengths.max()) // 8) * 8
        columns = np.arange(length)
        mask = columns < lengths[:, None]
        positions = np.minimum(starts[:, None] + columns, len(self._tokens) - 1)
        tokens = np.where(mask, self._tokens[positions], 0).astype(np.int64)
        types = (mask & (columns >= self._seconds[numbers][:, None])).astype(np.int64)
        return tokens, types, lengths
