"""Checkpoints on disk: written atomically, read without running code."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import torch
import torch.distributed as dist
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from safetensors.torch import load_file

from lmrecipes.checkpoints import listing, sharded
from lmrecipes.checkpoints.checksum import ChecksummedFile, is_intact
from lmrecipes.checkpoints.sharded import ALIASES, STATES, WEIGHTS, remove
from lmrecipes.checkpoints.weight_files import as_checkpoint, is_safetensors
from lmrecipes.runtime import launcher
from lmrecipes.runtime.console import short
from lmrecipes.runtime.disk_space import explain, refusal
from lmrecipes.runtime.file_faults import CARRIES_CODE, fault_of

# Marks a checkpoint whose optimizer state is keyed by parameter name.
BY_NAME = "optimizer_states_by_name"
# A checkpoint read to check it before a resume, with its identity on disk, so that it is not read twice.
_kept: tuple[tuple[int, ...], dict[str, Any]] | None = None
# Kinds of checkpoints of which the disk did not take the last one, with its error and the size in bytes.
_refused: dict[Path, tuple[OSError, int]] = {}
# Sharded checkpoints whose checksums were verified, by their manifests.
_verified: set[tuple[int, ...]] = set()


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file and renames it, so that a kill at any moment leaves the previous checkpoint intact."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint; a disk that takes no more is warned about each time, and does not end training."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.part")
        try:
            sharded.begin_writing(target)
            with temporary.open("wb") as file:
                checked = ChecksummedFile(file)
                torch.save(checkpoint, cast(IO[bytes], checked))
                checked.finish()
                file.flush()
                os.fsync(file.fileno())
            sharded.put_in_place(temporary, target)
        except (OSError, RuntimeError) as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if (refused := refusal(error)) is None:
                raise
            warn_unwritten(target, refused, size_of(checkpoint))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Reads the checkpoint, or the weights alone, that rank 0 chose; see `load_checkpoint`."""
        message = [str(path)]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast_object_list(message, src=0)
        return load_checkpoint(Path(message[0]), map_location, or_weights=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint, plain or sharded."""
        remove(Path(path))


def warn_unwritten(path: Path, refused: OSError, needed: int) -> None:
    """Says that a checkpoint could not be written, which is tried again.

    Args:
        path: the checkpoint.
        refused: the error by which the disk takes no more.
        needed: size of the checkpoint, in bytes.
    """
    why = explain(refused, path.parent, needed)
    _refused[_series(path)] = refused, needed
    # Not a Python warning: those are shown once, and this may happen again.
    print(
        f"warning: {path.name} could not be written to {short(path.parent)}: {why}; training goes on", file=sys.stderr
    )


def size_of(content: Any) -> int:
    """Bytes of all tensors in a nested structure; tensors that share memory count once."""
    sizes: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            # A DTensor's size is that of all its shards.
            sizes[value.data_ptr() or id(value)] = value.numel() * value.element_size()
        elif isinstance(value, dict | list | tuple):
            for part in value.values() if isinstance(value, dict) else value:
                visit(part)

    visit(content)
    return sum(sizes.values())


def make_room(path: Path) -> bool:
    """Removes what a new checkpoint would replace, if it fits then and a whole checkpoint of another kind stays.

    Args:
        path: the new checkpoint, which could not be written.

    Returns:
        Whether something was removed.
    """
    refused, needed = _refused.pop(_series(path), (None, 0))
    if refused is None or refused.errno not in (errno.ENOSPC, errno.EDQUOT):
        return False
    ours = [path.with_name(name) for name in sorted(listing.written(path.parent)) if name != path.name]
    replaced = [one for one in ours if _kind(one) == _kind(path) and os.path.lexists(one)]
    freed = sum(_size_on_disk(one) for one in replaced)
    free = shutil.disk_usage(path.parent).free
    # A quota's room is not known.
    if refused.errno == errno.ENOSPC and not free < needed <= free + freed:
        return False
    if not replaced or not any(_kind(one) != _kind(path) and is_whole(one) for one in ours):
        return False
    for one in replaced:
        remove(one)
    return True


def _size_on_disk(path: Path) -> int:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _kind(path: Path) -> str:
    return path.name.split("-")[0]


def _series(path: Path) -> Path:
    """What the checkpoints of a kind have in common."""
    return path.with_name(_kind(path))


def is_whole(path: Path) -> bool:
    """Whether a checkpoint can be read completely."""
    try:
        check(path)
    except ValueError:
        return False
    return True


def remove_others(path: Path) -> None:
    """Removes this run's other checkpoints of the same kind, best or last."""
    kind = _kind(path)
    for name in sorted(listing.written(path.parent)):
        if name != path.name and re.fullmatch(rf"{kind}-step=\d+\.ckpt", name):
            remove(path.with_name(name))
    listing.forget(path.parent)


def load_checkpoint(path: Path, map_location: Any = "cpu", *, or_weights: bool = False) -> dict[str, Any]:
    """Reads a checkpoint of tensors and plain values, whatever strategy saved it.

    Args:
        path: the checkpoint.
        map_location: where the tensors go.
        or_weights: whether it may be a file that holds weights alone, of torch or safetensors; what is returned then
            has them as `state_dict`.

    Raises:
        ValueError: if it is absent, broken, or holds code.
    """
    global _kept
    if path.is_dir():
        return _load_sharded(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist")
    if _kept is not None and _kept[0] == _identity(path) and str(map_location) == "cpu":
        (_, kept), _kept = _kept, None
        return kept
    try:
        if or_weights and is_safetensors(path):
            return as_checkpoint(load_file(path), path)
        # torch.load verifies no checksum.
        if not is_intact(path):
            raise zipfile.BadZipFile(path)
        content = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"checkpoint {path} cannot be read: {CARRIES_CODE}") from error
    except Exception as error:
        raise ValueError(f"checkpoint {path} cannot be read: {fault_of(path)}") from error
    if or_weights:
        return as_checkpoint(content, path)
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"checkpoint {path} cannot be read: it has no state_dict")
    return content


def _load_sharded(path: Path) -> dict[str, Any]:
    """A sharded checkpoint in the form of a plain one, except that optimizer state stays keyed by name."""
    _verify(path)
    states: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in sharded.read_whole(path, STATES).items():
        parameter, _, key = name.removeprefix(STATES).rpartition(".")
        states.setdefault(parameter, {})[key] = value
    rest = sharded.read_rest(path)
    tensors = sharded.read_whole(path, WEIGHTS).items()
    weights = {name.removeprefix(WEIGHTS): value for name, value in tensors}
    weights |= {name: weights[first] for name, first in rest.pop(ALIASES, {}).items()}
    return {**rest, "state_dict": weights, "optimizer_states": [states] if states else [], BY_NAME: True}


def _identity(path: Path) -> tuple[int, ...]:
    about = path.stat()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def _verify(path: Path) -> None:
    """Verifies the checksums of a sharded checkpoint, once."""
    manifest = path / sharded.MANIFEST
    if not (manifest.is_file() and _identity(manifest) in _verified):
        sharded.verify(path)
        _verified.add(_identity(manifest))


def check(path: Path, *, keep: bool = False) -> None:
    """Checks that a checkpoint can be read completely.

    Args:
        path: the checkpoint.
        keep: whether it is loaded next, so that its content is kept in memory.

    Raises:
        ValueError: if it cannot.
    """
    global _kept
    if path.is_dir():
        _verify(path)
    elif keep:
        _kept = _identity(path), load_checkpoint(path)
    else:
        load_checkpoint(path)


def newest_readable(folder: Path, pattern: str = "*.ckpt", *, keep: bool = False) -> Path | None:
    """The readable checkpoint of the greatest step, None if there is none; broken ones are warned about.

    Only the main process reads them, and broadcasts its choice before anything is loaded.

    Args:
        folder: the folder of checkpoints.
        pattern: pattern of file names.
        keep: as for `check`.
    """
    path, faults = _search(folder, [pattern], keep)
    _warn(faults)
    return path


def readable_checkpoint(folder: Path, *patterns: str, keep: bool = False) -> Path:
    """The readable checkpoint of the greatest step; broken ones are warned about.

    Args:
        folder: the folder of checkpoints.
        patterns: patterns of file names, by preference.
        keep: as for `check`.

    Raises:
        ValueError: if there is none, saying what is wrong with the newest; to be continued with a hint.
    """
    path, faults = _search(folder, patterns, keep)
    if path is None:
        newest = f": {faults[max(faults, key=_age)]}" if faults else ""
        raise ValueError(f"run {short(folder.parent)} has no readable checkpoint in {folder.name}/{newest}")
    _warn(faults)
    return path


def _search(folder: Path, patterns: Sequence[str], keep: bool) -> tuple[Path | None, dict[Path, ValueError]]:
    """The first readable checkpoint, and what is wrong with those before it."""
    faults: dict[Path, ValueError] = {}
    for pattern in patterns:
        for path in sorted(folder.glob(pattern), key=_age, reverse=True):
            if path in faults:
                continue
            try:
                if launcher.is_main_process():
                    check(path, keep=keep)
                return path, faults
            except ValueError as error:
                faults[path] = error
    return None, faults


def _age(path: Path) -> tuple[int, int]:
    return step_of(path), path.stat().st_mtime_ns


def _warn(faults: Mapping[Path, ValueError]) -> None:
    for error in faults.values():
        warnings.warn(f"{error}; taking an earlier one", stacklevel=3)


def step_of(path: Path) -> int:
    """The step in a checkpoint's name; -1 if there is none."""
    match = re.search(r"step=(\d+)", path.name)
    return int(match.group(1)) if match else -1
