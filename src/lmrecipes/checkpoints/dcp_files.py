"""The parts of sharded checkpoints that import torch's distributed checkpointing (DCP), which is slow to import."""

from __future__ import annotations

import pickle
from pathlib import PosixPath
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata

from lmrecipes.checkpoints.write_errors import sendable

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
    """The pickled form of an enumeration member in some Pythons, restricted: the original returns any attribute."""
    if kind is not dcp.metadata._MEM_FORMAT_ENCODING or name not in kind.__members__:
        raise pickle.UnpicklingError("builtins.getattr")
    return kind[name]


# Allowlist of the classes in DCP's index, by module and name; nothing else is looked up or imported.
_INDEX: dict[tuple[str, str], Any] = {
    **{(kind.__module__, kind.__name__): kind for kind in _INDEX_CLASSES},
    **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype | torch.layout)},
    **{(module, "PosixPath"): PosixPath for module in ("pathlib", "pathlib._local")},
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("builtins", "getattr"): _memory_format,
}


class IndexUnpickler(pickle.Unpickler):
    """Reads DCP's index, and refuses any class that does not belong in one."""

    def find_class(self, module: str, name: str) -> Any:
        """A class that the index names, if it is allowed."""
        try:
            return _INDEX[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None


class Writer(dcp.FileSystemWriter):
    """A FileSystemWriter that raises picklable errors."""

    def write_data(self, plan: Any, planner: Any) -> Any:
        """Writes this process's shards."""
        try:
            return super().write_data(plan, planner)
        except Exception as error:
            raise sendable(error) from error

    def finish(self, metadata: Metadata, results: Any) -> None:
        """Writes the index."""
        try:
            super().finish(metadata, results)
        except Exception as error:
            raise sendable(error) from error
