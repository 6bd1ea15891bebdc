"""Packing corrupted texts into rows of fixed size: row boundaries are computed once, from lengths alone.

A split's documents are concatenated. A row is a range of their tokens: whole documents, and parts of those that do not
fit. It belongs to one source, and holds as much text as fits input and target.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmrecipes.data.objectives.span_corruption import SpanCorruption
from lmrecipes.data.prepared.corpus import mapped
from lmrecipes.data.prepared.lock import find_or_make
from lmrecipes.runtime.atomic_write import replacing, write_text
from lmrecipes.runtime.file_lock import locked
from lmrecipes.runtime.open_file import read_json

Ints = NDArray[Any]
# Minimum tokens of a piece cut from a document.
_SHORTEST = 8
_CHUNK = 1 << 16
# Documents per source that are sampled to choose the target width.
_TRIED = 2000
_MULTIPLE = 8


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Sizes of rows, and what fills them."""

    corruption: SpanCorruption
    """How a text becomes a pair."""
    input_len: int
    """Maximum tokens of a row's inputs."""
    target_len: int
    """Maximum tokens of a row's targets."""
    n_sentinels: int = 100
    """Maximum spans of a pair."""
    packed: bool = True
    """Whether a row holds several pairs, or one."""


@dataclass
class Filling:
    """How full some rows are."""

    rows: int = 0
    pairs: int = 0
    inputs: int = 0
    """Tokens of all inputs."""
    targets: int = 0
    """Tokens of all targets."""

    def waste(self, packing: Packing) -> float:
        """Share of the rows that is padding."""
        return 1 - (self.inputs + self.targets) / max(self.rows * (packing.input_len + packing.target_len), 1)


def row_starts(lengths: Iterable[int], packing: Packing, filling: Filling | None = None) -> Iterator[int]:
    """Row boundaries in the concatenated tokens of documents.

    Args:
        lengths: tokens of the documents.
        packing: sizes.
        filling: counts pairs and tokens of the rows.
    """
    filling = Filling() if filling is None else filling
    longest = packing.corruption.longest_text(packing.input_len, packing.target_len, packing.n_sentinels)
    sizes = np.arange(longest + 1)
    inputs, targets = (np.where(sizes > 0, x, 0) for x in packing.corruption.pair_lengths(sizes))
    # The longest text that still fits.
    by_input, by_target = (
        (np.searchsorted(cost, np.arange(room + 1), side="right") - 1).tolist()
        for cost, room in ((inputs, packing.input_len), (targets, packing.target_len))
    )
    input_cost, target_cost = inputs.tolist(), targets.tolist()
    at = input_room = target_room = 0
    for length in lengths:
        remaining = length
        while remaining:
            take = min(remaining, by_input[input_room], by_target[target_room])
            if (take < remaining and take < _SHORTEST) or not take:
                # Also the start of the first row.
                yield at
                filling.rows += 1
                input_room, target_room = packing.input_len, packing.target_len
                take = min(remaining, longest)
            filling.pairs += 1
            filling.inputs += input_cost[take]
            filling.targets += target_cost[take]
            at, remaining = at + take, remaining - take
            input_room, target_room = input_room - input_cost[take], target_room - target_cost[take]
            if remaining or not packing.packed:
                # Adjacent pieces of one document would merge into one text.
                input_room = target_room = 0


def choose_target_len(samples: Sequence[Ints], packing: Packing) -> Packing:
    """The same with the target width that leaves the least padding, estimated on a sample.

    Args:
        samples: lengths of some documents of each source.
        packing: the maximum sizes.
    """
    longest = packing.corruption.longest_text(packing.input_len, packing.target_len, packing.n_sentinels)
    least = int(packing.corruption.pair_lengths(np.array([longest]))[1][0])
    widths = [*range(-(-least // _MULTIPLE) * _MULTIPLE, packing.target_len, _MULTIPLE), packing.target_len]

    def cells(width: int) -> int:
        candidate = replace(packing, target_len=min(width, packing.target_len))
        rows = sum(1 for lengths in samples for _ in row_starts(lengths.tolist(), candidate))
        return rows * (candidate.input_len + candidate.target_len)

    return replace(packing, target_len=min(widths, key=lambda width: (cells(width), width))) if samples else packing


@dataclass(frozen=True)
class Rows:
    """The rows of a split."""

    bounds: Ints
    """Where each row begins among the split's tokens, and where the last ends, (rows + 1,)."""
    counts: list[int]
    """Rows of each source, which follow one another."""
    packing: Packing
    filling: Filling

    def __len__(self) -> int:
        """Rows."""
        return len(self.bounds) - 1


def index_rows(path: Path, starts: Ints, documents: Sequence[int], packing: Packing) -> Rows:
    """Computes or finds the stored row boundaries; of two processes one works and the other waits.

    Args:
        path: file for the result, without a suffix.
        starts: where each document begins among the tokens, and where the last ends.
        documents: number in each source; the sources follow one another.
        packing: sizes; targets may become narrower.
    """
    index = _beside(path, "json")
    find_or_make(index.is_file, lambda: _write(path, starts, documents, packing), locked(_beside(path, "lock")))
    info = read_json(index)
    bounds = mapped(_beside(path, "bin"), np.int64)
    if len(bounds) != sum(info["counts"]) + 1:
        raise ValueError(f"prepared data {_beside(path, 'bin')} is damaged; move it and {index.name} away")
    packing = replace(packing, target_len=info["target_len"])
    return Rows(bounds, info["counts"], packing, Filling(**info["filling"]))


def _write(path: Path, starts: Ints, documents: Sequence[int], packing: Packing) -> None:
    first = np.concatenate([[0], np.cumsum(documents)]).tolist()
    if packing.packed:
        ends = [min(begin + _TRIED, end) for begin, end in pairwise(first)]
        pairs = zip(first[:-1], ends, strict=True)
        packing = choose_target_len([np.diff(starts[a : b + 1]) for a, b in pairs if b > a], packing)
    counts, filling = [], Filling()
    with replacing(_beside(path, "bin"), "wb", part=_beside(path, "bin.part"), durable=True) as file:
        for begin, end in pairwise(first):
            before = filling.rows
            boundaries = row_starts(_lengths(starts, begin, end), packing, filling)
            while len(chunk := np.fromiter(islice(boundaries, _CHUNK), dtype=np.int64)):
                file.write((chunk + int(starts[begin])).data)
            counts.append(filling.rows - before)
        file.write(np.asarray(starts[-1:], dtype=np.int64).tobytes())
    info = {"counts": counts, "target_len": packing.target_len, "filling": asdict(filling)}
    write_text(_beside(path, "json"), json.dumps(info), part=_beside(path, "json.part"))


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}.{ending}")


def _lengths(starts: Ints, begin: int, end: int) -> Iterator[int]:
    for at in range(begin, end, _CHUNK):
        yield from np.diff(starts[at : min(at + _CHUNK, end) + 1]).tolist()
