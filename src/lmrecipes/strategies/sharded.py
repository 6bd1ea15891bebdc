"""What sharding strategies share: sharded checkpoints, written asynchronously."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lmrecipes.checkpoints import sharded
from lmrecipes.checkpoints.io import BY_NAME, load_checkpoint, size_of, warn_unwritten
from lmrecipes.checkpoints.optimizer_state import NamedStates, fill_states, states_of
from lmrecipes.checkpoints.sharded import ALIASES, STATES, WEIGHTS, remove
from lmrecipes.checkpoints.weight_files import matched
from lmrecipes.checkpoints.weights import check_weights, own_weights
from lmrecipes.runtime.disk_space import refusal


class CheckpointWriter:
    """Writes one sharded checkpoint at a time, optionally in a background thread."""

    def __init__(self, background: bool, timeout: timedelta | None = None) -> None:
        """Creates the writer; called by all processes together.

        Args:
            background: whether checkpoints are written while training continues.
            timeout: how long processes wait for each other; by default torch's.
        """
        self.background = background
        # A separate process group: the writer thread's collectives must not interleave with training's.
        self._group = dist.new_group(backend="gloo", timeout=timeout)
        self._thread: threading.Thread | None = None
        # Staging buffers, reused from save to save.
        self._copies: dict[str, Tensor] = {}
        self._path: Path | None = None
        self._written = True
        self._size = 0
        self._error: BaseException | None = None
        # Called when the pending write has completed, and when it has failed.
        self._afterwards: list[tuple[Callable[[], None], Callable[[], None]]] = []

    @property
    def group(self) -> Any:
        """The processes that write, connected over the CPU."""
        return self._group

    def write(self, tensors: dict[str, Tensor], rest: dict[str, Any], path: Path) -> None:
        """Writes a checkpoint, once the previous one is complete."""
        self.finish()
        self._path, self._written, self._size = path, False, size_of(tensors)
        if not self.background:
            self._write(tensors, rest, path)
            self._done()
            return
        earlier = self._copies
        self._copies = {name: sharded.staged(value, earlier.get(name)) for name, value in tensors.items()}
        self._thread = threading.Thread(
            target=self._write, args=(self._copies, deepcopy(rest), path), name="checkpoint"
        )
        self._thread.start()

    def _write(self, tensors: dict[str, Tensor], rest: dict[str, Any], path: Path) -> None:
        try:
            sharded.write(tensors, rest, path, self._group)
            self._written = True
        except BaseException as error:
            self._error = error

    def _done(self) -> None:
        error, afterwards, path = self._error, self._afterwards, self._path
        self._thread, self._path, self._error, self._afterwards = None, None, None, []
        for arrived, failed in afterwards:
            (arrived if error is None else failed)()
        if error is None:
            return
        if (refused := refusal(error)) is None:
            raise error
        if dist.get_rank(self._group) == 0 and path is not None:
            warn_unwritten(path, refused, self._size)

    def finish(self) -> None:
        """Waits for the pending write to complete or fail.

        Raises:
            Exception: the error of a failed write, except for a full disk, which is warned about.
        """
        if self._thread is not None:
            self._thread.join()
            self._done()

    def settle(self) -> None:
        """Runs the callbacks of a completed or failed write, without waiting for a pending one.

        Raises:
            Exception: as `finish`.
        """
        if self._thread is not None and not self._thread.is_alive():
            self.finish()

    def is_writing(self, path: Path) -> bool:
        """Whether this checkpoint is being written."""
        return self._thread is not None and self._path == path

    def after_saving(self, arrived: Callable[[], None], failed: Callable[[], None]) -> None:
        """Calls one of two functions when the last write completes or fails, at once if it already has."""
        if self._thread is not None:
            self._afterwards.append((arrived, failed))
        else:
            (arrived if self._written else failed)()


class ShardedCheckpoints:
    """The part of a strategy that saves folders instead of files."""

    lightning_module: Any
    global_rank: int
    broadcast: Any
    optimizers: Any
    _timeout: timedelta | None
    _writer: CheckpointWriter | None = None

    def open_writer(self, background: bool) -> None:
        """Creates the writer; called by all processes together."""
        self._writer = CheckpointWriter(background, self._timeout)

    @property
    def writer(self) -> CheckpointWriter:
        """The checkpoint writer."""
        assert self._writer is not None
        return self._writer

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Writes a sharded checkpoint: every process writes its shards."""
        states = {name: state for one in checkpoint.pop("optimizer_states", []) for name, state in one.items()}
        module = self.lightning_module
        parameters = distinct(module)
        saved = checkpoint.pop("state_dict")
        tensors = {f"{WEIGHTS}{name}": saved[name] for name in parameters if name in saved}
        for name, state in states.items():
            tensors |= {f"{STATES}{name}.{key}": value for key, value in state.items()}
        rest = {**checkpoint, ALIASES: aliases(module)}
        self.writer.write(tensors, rest, Path(self.broadcast(str(filepath))))

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads model and optimizer from a sharded or plain checkpoint, saved by any number of processes.

        Raises:
            ValueError: if the checkpoint belongs to another model.
        """
        self.finish_saving()
        path = Path(self.broadcast(str(checkpoint_path)))
        return self.load_folder(path) if path.is_dir() else self.load_whole(path)

    def load_whole(self, path: Path) -> dict[str, Any]:
        """Loads from a checkpoint that is read in full on every process; returns the rest of it."""
        checkpoint = load_checkpoint(path, or_weights=True)
        module, source = self.lightning_module, f"checkpoint {path}"
        weights = matched(checkpoint.pop("state_dict"), module, source)
        check_weights(weights, own_weights(module), source)
        by_name = checkpoint.pop(BY_NAME, False)
        states = states_of(checkpoint, by_name) if self.optimizers else {}
        checkpoint.pop("optimizer_states", None)
        for name, parameter in distinct(module).items():
            self.set_weight(parameter, weights[name])
        if states:
            self.set_states(states)
        return checkpoint

    load_folder = load_whole
    """Loads from a sharded checkpoint."""

    def set_weight(self, parameter: Tensor, value: Tensor) -> None:
        """Sets a parameter, of which this process may hold a shard, to a full tensor."""
        sharded.fill(parameter, value)

    def set_states(self, states: NamedStates) -> None:
        """Sets the optimizers' states from full tensors by parameter name."""
        for optimizer in self.optimizers:
            fill_states(self.lightning_module, optimizer, states)

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Removes a checkpoint once its successor is complete."""
        if self.global_rank == 0:
            self.writer.after_saving(lambda: remove(Path(filepath)), lambda: None)

    def after_saving(self, arrived: Callable[[], None], failed: Callable[[], None] = lambda: None) -> None:
        """Calls one function once the last checkpoint is complete, or another if it failed."""
        self.writer.after_saving(arrived, failed)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Removes a replaced checkpoint soon after its successor is complete, rather than before the next one."""
        self.writer.settle()
        super().on_train_batch_start(batch, batch_idx)  # type: ignore[misc]

    def is_writing(self, path: Path) -> bool:
        """Whether a checkpoint is being written."""
        return self.writer.is_writing(path)

    def finish_saving(self) -> None:
        """Waits for the checkpoint that is being written."""
        if self._writer is not None:
            self._writer.finish()

    def teardown(self) -> None:
        """Waits for the last checkpoint."""
        self.finish_saving()
        super().teardown()  # type: ignore[misc]


def distinct(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; shared ones under their first name."""
    taken: dict[int, str] = {}
    return {
        name: value
        for name, value in module.state_dict(keep_vars=True).items()
        if taken.setdefault(id(value), name) == name
    }


def aliases(module: nn.Module) -> dict[str, str]:
    """Other names of shared parameters, each with the first."""
    taken: dict[int, str] = {}
    named = module.state_dict(keep_vars=True).items()
    return {name: first for name, value in named if (first := taken.setdefault(id(value), name)) != name}


def check_names(path: Path, expected: Mapping[str, torch.Size], saved: Mapping[str, torch.Size]) -> None:
    """Compares the tensors of a model with those of a checkpoint.

    Raises:
        ValueError: naming a missing tensor, or one of another shape.
    """
    for name, size in expected.items():
        if name not in saved:
            raise ValueError(f"checkpoint {path} lacks {name}: it belongs to another model or optimizer")
        if tuple(saved[name]) != tuple(size):
            raise ValueError(
                f"checkpoint {path} has {name} with shape {tuple(saved[name])}, but this model's is {tuple(size)}"
            )
