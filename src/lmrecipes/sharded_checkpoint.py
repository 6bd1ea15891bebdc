"""A checkpoint as a folder: every process writes its part, by torch's distributed checkpointing (DCP).

The folder holds DCP's files with all tensors by name, `rest.pt` with everything else, and `manifest.json` with size and
checksum of each file, which is written last. It becomes visible under its name when it is whole.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PosixPath
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from lmrecipes.ledger import discard

# How the names of weights and of the optimizer's states begin; and in the rest, which weights have further names.
WEIGHTS = "state_dict."
STATES = "optimizer."
ALIASES = "aliases"
MANIFEST = "manifest.json"
REST = "rest.pt"
_METADATA = ".metadata"
_CODE = "checkpoint {path} cannot be read: it holds more than tensors and plain values"
_PIECE = 2**24
# What a kill leaves of a checkpoint that was being written or removed.
_LEFTOVER = re.compile(r"\..*step=\d+.*\.ckpt(\.former)?\.part")
_INDEX_CLASSES = (
    dcp.filesystem._StorageInfo,
    dcp.metadata._MEM_FORMAT_ENCODING,
    dcp.metadata.ChunkStorageMetadata,
    dcp.metadata.Metadata,
    dcp.metadata.MetadataIndex,
    dcp.metadata.StorageMeta,
    dcp.metadata.TensorProperties,
    dcp.metadata.TensorStorageMetadata,
)


def _memory_format(kind: Any, name: str) -> Any:
    """How some Pythons write a member of an enumeration; theirs would give any attribute of anything."""
    if kind is not dcp.metadata._MEM_FORMAT_ENCODING or name not in kind.__members__:
        raise pickle.UnpicklingError("builtins.getattr")
    return kind[name]


# What DCP's index consists of, by module and name; nothing else is looked up, let alone imported.
_INDEX: dict[tuple[str, str], Any] = {
    **{(kind.__module__, kind.__name__): kind for kind in _INDEX_CLASSES},
    **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype | torch.layout)},
    **{(module, "PosixPath"): PosixPath for module in ("pathlib", "pathlib._local")},
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("builtins", "getattr"): _memory_format,
}


def write(tensors: Mapping[str, Tensor], rest: Mapping[str, Any], path: Path, group: dist.ProcessGroup) -> None:
    """Writes a checkpoint; called by all processes at once.

    Args:
        tensors: by name; of a DTensor every process writes its part, of a plain one that several hold, one of them.
        rest: tensors and plain values; the first process's is written.
        path: the checkpoint's folder.
        group: processes that take part; its backend must work on the CPU.

    Raises:
        OSError: in all processes, if one of them could not write.
    """
    part = path.with_name(f".{path.name}.part")
    rank = dist.get_rank(group)

    def begin() -> None:
        discard_leftovers(path)
        part.mkdir(parents=True)

    def write_part() -> dict[str, list[int]]:
        return {file.name: _checksum(file) for file in sorted(part.glob(f"__{rank}_*"))}

    def end(files: list[dict[str, list[int]]]) -> None:
        with (part / REST).open("wb") as file:
            torch.save(dict(rest), file)
            _sync(file.fileno())
        listed = {name: check for one in files for name, check in one.items()}
        listed |= {name: _checksum(part / name) for name in (REST, _METADATA)}
        with (part / MANIFEST).open("w", encoding="utf-8") as text:
            json.dump(listed, text, indent=1)
            text.flush()
            _sync(text.fileno())
        discard(path)
        os.replace(part, path)

    try:
        _together(begin if rank == 0 else _nothing, group)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer = _Writer(part, sync_files=True)
            dcp.save(dict(tensors), storage_writer=writer, process_group=group)
        files = _together(write_part, group)
        _together((lambda: end(files)) if rank == 0 else _nothing, group)
    except BaseException as error:
        if rank == 0:
            discard(part)
        if isinstance(error, dcp.api.CheckpointException):
            causes = [cause for cause, _ in error.failures.values()]
            written = next((cause for cause in causes if isinstance(cause, OSError)), None)
            raise (written or OSError(str(causes[0]) if causes else str(error))) from error
        raise


def discard_leftovers(path: Path) -> None:
    """Removes what a kill has left of this checkpoint and of other steps' beside it; other files are not ours."""
    own = {f".{path.name}.part", f".{path.name}.former.part"}
    for leftover in sorted(path.parent.glob(".*.part")):
        if leftover.name in own or _LEFTOVER.fullmatch(leftover.name):
            discard(leftover)


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it follows from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _sendable(error: Exception) -> OSError:
    """An error in a form that arrives in other processes: what it follows from is lost on the way.

    torch reports a full disk in words of its own, with the system's error behind them.
    """
    numbered = (cause for cause in causes(error) if isinstance(cause, OSError) and cause.errno)
    for cause in numbered:
        return OSError(cause.errno, cause.strerror, cause.filename)
    return OSError(f"{type(error).__name__}: {error}")


class _Writer(dcp.FileSystemWriter):
    """Fails by errors that arrive in other processes."""

    def write_data(self, plan: Any, planner: Any) -> Any:
        try:
            return super().write_data(plan, planner)
        except Exception as error:
            raise _sendable(error) from error

    def finish(self, metadata: Metadata, results: Any) -> None:
        try:
            super().finish(metadata, results)
        except Exception as error:
            raise _sendable(error) from error


def _nothing() -> None:
    return None


def _together(work: Any, group: dist.ProcessGroup) -> list[Any]:
    """Does something in every process, and gives all what each returned, or raises what one of them raised."""
    result, error = None, None
    try:
        result = work()
    except Exception as caught:
        error = _sendable(caught)
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, (result, error), group=group)
    for _, failed in everyone:
        if failed is not None:
            raise failed
    return [returned for returned, _ in everyone]


def _sync(handle: int) -> None:
    os.fsync(handle)


def _checksum(file: Path) -> list[int]:
    check = 0
    with file.open("rb") as content:
        while piece := content.read(_PIECE):
            check = zlib.crc32(piece, check)
    return [file.stat().st_size, check]


def verify(path: Path) -> None:
    """Looks whether a checkpoint is whole, by reading everything.

    Raises:
        ValueError: if it is absent, incomplete or damaged, or carries code.
    """
    try:
        listed = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, (size, check) in listed.items():
            file = path / name
            if not file.is_file() or file.stat().st_size != size:
                raise ValueError(f"checkpoint {path} cannot be read: {name} is incomplete")
            if _checksum(file) != [size, check]:
                raise ValueError(f"checkpoint {path} cannot be read: {name} is damaged")
    except (OSError, json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ValueError(f"checkpoint {path} cannot be read: it is incomplete") from error
    _index(path)


class _IndexUnpickler(pickle.Unpickler):
    """Reads DCP's index, and refuses anything that is no part of one."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _INDEX[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None


def _index(path: Path) -> Metadata:
    try:
        with (path / _METADATA).open("rb") as file:
            index = _IndexUnpickler(file).load()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{_CODE.format(path=path)} ({error}), which is not loaded") from error
    except Exception as error:
        raise ValueError(f"checkpoint {path} cannot be read: its index is broken") from error
    if not isinstance(index, Metadata):
        raise ValueError(f"checkpoint {path} cannot be read: its index is none")
    return index


def sizes(path: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of every tensor in a checkpoint."""
    entries = _index(path).state_dict_metadata.items()
    return {name: (e.size, e.properties.dtype) for name, e in entries if isinstance(e, TensorStorageMetadata)}


def read_rest(path: Path) -> dict[str, Any]:
    """Everything but the tensors by name.

    Raises:
        ValueError: if it holds code.
    """
    try:
        rest: dict[str, Any] = torch.load(path / REST, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{_CODE.format(path=path)}, which is not loaded") from error
    return rest


def read_into(tensors: Mapping[str, Tensor], path: Path, group: dist.ProcessGroup | None) -> None:
    """Fills tensors, split as they are now, whatever they were when saved.

    Args:
        tensors: those wanted, by name; DTensors take their part.
        path: the checkpoint.
        group: processes that do so at once; None reads in this process alone.
    """
    _index(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = dcp.FileSystemReader(path)
        dcp.load(dict(tensors), storage_reader=reader, process_group=group, no_dist=group is None)


def read_whole(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """All tensors whose name begins with `prefix`, whole, on the CPU."""
    chosen = ((name, of) for name, of in sizes(path).items() if name.startswith(prefix))
    wanted = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in chosen}
    read_into(wanted, path, None)
    return wanted


@torch.no_grad()
def fill(target: Tensor, whole: Tensor) -> None:
    """Copies a whole tensor into one of which this process may hold a part only."""
    if not isinstance(target, DTensor):
        target.copy_(whole)
        return
    shape, offset = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
    here = tuple(slice(start, start + length) for start, length in zip(offset, shape, strict=True))
    target.to_local().copy_(whole[here])


def staged(tensor: Tensor, room: Tensor | None = None) -> Tensor:
    """A copy in the CPU's memory, to be written while training goes on.

    Args:
        tensor: of a DTensor, this process's part is copied.
        room: an earlier copy, that is written over if it fits: fresh memory costs more than copying.
    """
    tensor = tensor.detach()
    own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    earlier = room.to_local() if isinstance(room, DTensor) else room
    if earlier is not None and (earlier.shape, earlier.dtype) == (own.shape, own.dtype):
        copy = earlier.copy_(own)
    else:
        copy = own.to("cpu", copy=True)
    return DTensor(copy, tensor._spec, requires_grad=False) if isinstance(tensor, DTensor) else copy
