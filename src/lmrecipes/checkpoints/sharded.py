"""Sharded checkpoints: a folder to which every process writes its shards, by torch's distributed checkpointing (DCP).

The folder holds DCP's files with all tensors by name, `rest.pt` with everything else, and `manifest.json` with size and
checksum of each file, which is written last. It takes its name once it is complete.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from lmrecipes.checkpoints import listing
from lmrecipes.checkpoints.checksum import checksum
from lmrecipes.checkpoints.write_errors import sendable
from lmrecipes.runtime.atomic_write import discard, replace_path, replacing, sync_folder, write_text
from lmrecipes.runtime.dtensor import is_split
from lmrecipes.runtime.file_faults import CARRIES_CODE, fault_of
from lmrecipes.runtime.open_file import parse_json

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

# DCP and DTensor are imported lazily: they would delay the start of every command by most of a second.

# Prefixes of weights and optimizer state; the key for tied weights in rest.pt.
WEIGHTS = "state_dict."
STATES = "optimizer."
ALIASES = "aliases"
MANIFEST = "manifest.json"
REST = "rest.pt"
_METADATA = ".metadata"


def write(tensors: Mapping[str, Tensor], rest: Mapping[str, Any], path: Path, group: dist.ProcessGroup) -> None:
    """Writes a checkpoint; called by all processes together.

    Args:
        tensors: by name; of a DTensor every process writes its shard, a replicated tensor is written by one process.
        rest: tensors and plain values; rank 0's are written.
        path: the checkpoint's folder.
        group: the processes that write; its backend must work on the CPU.

    Raises:
        OSError: on all processes, if one of them could not write.
    """
    import torch.distributed.checkpoint as dcp

    from lmrecipes.checkpoints.dcp_files import Writer

    part = path.with_name(f".{path.name}.part")
    rank = dist.get_rank(group)

    def begin() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        begin_writing(path)
        part.mkdir()

    def write_part() -> dict[str, list[int]]:
        return {file.name: _checksum(file) for file in sorted(part.glob(f"__{rank}_*"))}

    def end(files: list[dict[str, list[int]]]) -> None:
        with replacing(part / REST, "wb", durable=True) as file:
            torch.save(dict(rest), file)
        listed = {name: check for one in files for name, check in one.items()}
        listed |= {name: _checksum(part / name) for name in (REST, _METADATA)}
        write_text(part / MANIFEST, json.dumps(listed, indent=1), durable=True)
        sync_folder(part)
        put_in_place(part, path)

    try:
        _on_all_ranks(begin if rank == 0 else lambda: None, group)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer = Writer(part, sync_files=True)
            dcp.save(dict(tensors), storage_writer=writer, process_group=group)
        files = _on_all_ranks(write_part, group)
        _on_all_ranks(lambda: end(files) if rank == 0 else None, group)
    except BaseException as error:
        if rank == 0:
            discard(part)
        if isinstance(error, dcp.api.CheckpointException):
            causes = [cause for cause, _ in error.failures.values()]
            written = next((cause for cause in causes if isinstance(cause, OSError)), None)
            raise (written or OSError(str(causes[0]) if causes else str(error))) from error
        raise


def put_in_place(part: Path, path: Path) -> None:
    """Renames a complete checkpoint, plain or sharded, over an earlier one of its name; files of others are kept."""
    if path.is_dir() and not _has_only_own_files(path):
        listing.keep(path)
    replace_path(part, path)


def remove(path: Path) -> None:
    """Removes a checkpoint, plain or sharded, if it exists; foreign files in its folder stay."""
    if not path.is_dir() or path.is_symlink():
        discard(path)
        return
    if _has_only_own_files(path):
        # Rename first, so that a kill leaves no partial checkpoint.
        doomed = path.with_name(f".{path.name}.part")
        discard(doomed)
        path.rename(doomed)
        discard(doomed)
    else:
        for name in _files(path):
            (path / name).unlink(missing_ok=True)


def _has_only_own_files(path: Path) -> bool:
    files = _files(path)
    return all(file.name in files for file in path.iterdir())


def _files(path: Path) -> list[str]:
    """The files of a sharded checkpoint, the manifest first; none if it is incomplete."""
    with suppress(OSError, ValueError):
        listed = parse_json((path / MANIFEST).read_text(encoding="utf-8"))
        return [MANIFEST, *(name for name in listed if Path(name).name == name)] if isinstance(listed, dict) else []
    return []


def begin_writing(path: Path) -> None:
    """Makes room for a checkpoint: foreign files are renamed, leftovers of a kill removed."""
    for name in listing.written(path.parent):
        for leftover in (f".{name}.part", f".{name}.former.part"):
            discard(path.with_name(leftover))
    listing.make_way(path)
    if os.path.lexists(part := path.with_name(f".{path.name}.part")):
        listing.keep(part)
    # Record it first, so that leftovers of a kill are recognized as ours.
    listing.note(path.parent, [path.name])


def _on_all_ranks(work: Any, group: dist.ProcessGroup) -> list[Any]:
    """Runs work on every rank and returns all results; raises everywhere if one rank raised."""
    result, error = None, None
    try:
        result = work()
    except Exception as caught:
        error = sendable(caught)
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, (result, error), group=group)
    for _, failed in everyone:
        if failed is not None:
            raise failed
    return [returned for returned, _ in everyone]


def _checksum(file: Path) -> list[int]:
    return [file.stat().st_size, checksum(file)]


def verify(path: Path) -> None:
    """Verifies a checkpoint's files against its checksums.

    Raises:
        ValueError: if it is absent, incomplete or damaged, or carries code.
    """
    try:
        listed = parse_json((path / MANIFEST).read_text(encoding="utf-8"))
        for name, (size, check) in listed.items():
            file = path / name
            if not file.is_file() or file.stat().st_size != size:
                raise ValueError(f"checkpoint {path} cannot be read: {name} is incomplete")
            if _checksum(file) != [size, check]:
                raise ValueError(f"checkpoint {path} cannot be read: {name} is damaged")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError, AttributeError) as error:
        which = f"{MANIFEST} is damaged" if (path / MANIFEST).is_file() else "it is incomplete"
        raise ValueError(f"checkpoint {path} cannot be read: {which}") from error
    _index(path)


def _index(path: Path) -> Metadata:
    from lmrecipes.checkpoints.dcp_files import IndexUnpickler, Metadata

    try:
        with (path / _METADATA).open("rb") as file:
            index = IndexUnpickler(file).load()
    except Exception as error:
        raise _refusal(path, _METADATA, error) from error
    if not isinstance(index, Metadata):
        raise ValueError(f"checkpoint {path} cannot be read: {_METADATA} is not a checkpoint index")
    for about in (index.storage_data or {}).values():
        if Path(name := about.relative_path).name != name:
            raise ValueError(f"checkpoint {path} cannot be read: {_METADATA} names {name}, which is outside of it")
    return index


def sizes(path: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of every tensor in a checkpoint."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    entries = _index(path).state_dict_metadata.items()
    return {name: (e.size, e.properties.dtype) for name, e in entries if isinstance(e, TensorStorageMetadata)}


def read_rest(path: Path) -> dict[str, Any]:
    """Everything but the tensors by name.

    Raises:
        ValueError: if it cannot be read, or holds code.
    """
    try:
        rest: dict[str, Any] = torch.load(path / REST, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _refusal(path, REST, error) from error
    if not isinstance(rest, dict):
        raise ValueError(f"checkpoint {path} cannot be read: {REST} holds no settings")
    return rest


def _refusal(path: Path, name: str, error: Exception) -> ValueError:
    """The error about a file of a checkpoint."""
    reason = fault_of(path / name, *([CARRIES_CODE] if isinstance(error, pickle.UnpicklingError) else []))
    return ValueError(f"checkpoint {path} cannot be read: {name}: {reason}")


def _check_shards(path: Path, index: Metadata) -> None:
    """Reads every tensor of a checkpoint that could not be loaded.

    Raises:
        ValueError: naming the first file that cannot be read.
    """
    for about in (index.storage_data or {}).values():
        try:
            with (path / about.relative_path).open("rb") as file:
                file.seek(about.offset)
                torch.load(io.BytesIO(file.read(about.length)), map_location="cpu", weights_only=True)
        except Exception as error:
            raise _refusal(path, about.relative_path, error) from error


def read_into(tensors: Mapping[str, Tensor], path: Path, group: dist.ProcessGroup | None) -> None:
    """Loads into sharded or plain tensors, however they were sharded when saved.

    Args:
        tensors: by name; of a DTensor this process's part is loaded.
        path: the checkpoint.
        group: processes that load together; None reads in this process alone.

    Raises:
        ValueError: if a file cannot be read, or holds code.
    """
    import torch.distributed.checkpoint as dcp

    index = _index(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = dcp.FileSystemReader(path)
        try:
            dcp.load(dict(tensors), storage_reader=reader, process_group=group, no_dist=group is None)
        except dcp.api.CheckpointException:
            _check_shards(path, index)
            raise


def read_whole(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """All tensors whose name begins with `prefix`, in full, on the CPU."""
    chosen = ((name, shape) for name, shape in sizes(path).items() if name.startswith(prefix))
    tensors = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in chosen}
    read_into(tensors, path, None)
    return tensors


@torch.no_grad()
def fill(target: Tensor, whole: Tensor) -> None:
    """Copies a full tensor into one that may be sharded."""
    if not is_split(target):
        target.copy_(whole)
        return
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
    local = tuple(slice(start, start + length) for start, length in zip(offset, shape, strict=True))
    target.to_local().copy_(whole[local])


def staged(tensor: Tensor, room: Tensor | None = None) -> Tensor:
    """A copy in CPU memory, for an asynchronous write.

    Args:
        tensor: of a DTensor, this process's shard is copied.
        room: an earlier copy to overwrite if it fits: allocating costs more than copying.
    """
    tensor = tensor.detach()
    local = tensor.to_local() if is_split(tensor) else tensor
    earlier = room.to_local() if is_split(room) else room
    if earlier is not None and (earlier.shape, earlier.dtype) == (local.shape, local.dtype):
        copy = earlier.copy_(local)
    else:
        copy = local.to("cpu", copy=True)
    return type(tensor)(copy, tensor._spec, requires_grad=False) if is_split(tensor) else copy
