"""Shrinks a recipe for its rehearsal: the same configuration with toy sizes, on CPU processes."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import StrategyRegistry

from lmrecipes.config.arguments import class_of
from lmrecipes.config.presets import as_list
from lmrecipes.datamodules.protocols import Rehearses as RehearsesData
from lmrecipes.models.common.protocols import Rehearses as RehearsesModel
from lmrecipes.models.common.tiny_config import tiny
from lmrecipes.strategies import FSDP2Strategy
from lmrecipes.strategies.fsdp2 import MeshShape

# Total steps; steps between checkpoints and validations; steps before the kill.
STEPS, EVERY, KILLED_AFTER = 6, 2, 5
_PASSES, _COLUMNS = 2, 2
_LENGTHS = {"seq_len": 8, "mem_len": 8, "clamp_len": 4}
_NO_HALVES = {"16-mixed": "bf16-mixed", "16": "bf16-mixed", "16-true": "bf16-true", "transformer-engine": "bf16-mixed"}
_NO_HALVES["transformer-engine-float16"] = "bf16-mixed"
# Limits that the rehearsal sets itself.
_UNSET = (
    *("max_epochs", "min_epochs", "min_steps", "max_time", "limit_train_batches", "limit_predict_batches"),
    *("check_val_every_n_epoch", "profiler"),
)


@dataclass(frozen=True)
class Spread:
    """The processes that a recipe uses."""

    strategy: str | dict[str, Any]
    """trainer.strategy."""
    devices: int
    """Processes of each node."""
    data_ranks: int
    """Processes that read different data, over all nodes."""


def full_size_on_cpu(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe at full size, except for settings that need its hardware."""
    on_cpu = deepcopy(dict(settings))
    trainer = on_cpu["trainer"]
    precision = str(trainer["precision"])
    trainer["devices"] = n_devices(trainer["devices"], trainer["accelerator"])
    trainer["accelerator"] = "cpu"
    trainer["precision"] = _NO_HALVES.get(precision, trainer["precision"])
    return on_cpu


def n_devices(requested: Any, accelerator: str) -> int:
    """Devices of a node; `auto` counts as two."""
    if isinstance(requested, list):
        return len(requested)
    text = str(requested).strip()
    if "," in text:
        return len([index for index in text.split(",") if index.strip()])
    if text in ("auto", "-1"):
        return 1 if accelerator == "cpu" else 2
    return int(text)


def smallest_spread(strategy: Any, requested: str | dict[str, Any], devices: int, nodes: int) -> Spread:
    """The fewest processes on one node that still have every kind of parallelism of the recipe.

    Args:
        strategy: the recipe's, built at full size.
        requested: trainer.strategy, as it is in the configuration.
        devices: processes of each of the recipe's nodes.
        nodes: the recipe's nodes.

    Returns:
        At most two processes; with a mesh, two along each axis with more than one.
    """
    if not isinstance(strategy, FSDP2Strategy):
        few = min(devices * nodes, 2)
        return Spread(requested, few, few)
    small = MeshShape(*(min(size, 2) for size in strategy.mesh_shape(devices, nodes)))
    config: dict[str, Any] = requested if isinstance(requested, dict) else _registered(requested)
    sizes = {"tensor_parallel_size": small.tensor, "shard_size": small.shard}
    exact = {**config, "init_args": {**(config.get("init_args") or {}), **sizes}}
    return Spread(exact, small.data * small.tensor, small.data)


def _registered(name: str) -> dict[str, Any]:
    return {"class_path": "lmrecipes.strategies.FSDP2Strategy", "init_args": StrategyRegistry[name]["init_params"]}


def shrink(settings: Mapping[str, Any], spread: Spread, accumulation: int, text: Path, cache: Path) -> dict[str, Any]:
    """The recipe at toy size, with all of its features.

    Args:
        settings: the full configuration.
        spread: processes to train on.
        accumulation: micro-batches per optimizer step of the recipe.
        text: folder of a small text.
        cache: folder for prepared data.
    """
    small = full_size_on_cpu(settings)
    model, data = small["model"]["init_args"], small["data"]["init_args"]
    kind, corpus = (class_of(small[part]["class_path"]) for part in ("model", "data"))
    lengths = {**_LENGTHS, **(corpus.tiny_lengths if isinstance(corpus, RehearsesData) else {})}
    small["batch"] = tiny_batch(small["batch"], spread.data_ranks, min(accumulation, _PASSES), lengths)
    model["config"] = (kind.tiny_config if isinstance(kind, RehearsesModel) else tiny)(model["config"])
    if "pretrained" in model:
        # Published weights do not fit the toy sizes, and may not be on this machine.
        model["pretrained"] = None
    if isinstance(model.get("schedule"), dict):
        model["schedule"]["init_args"] = tiny_schedule(
            model["schedule"].get("init_args") or {}, small["trainer"]["max_steps"]
        )
    data.update((corpus.tiny_data if isinstance(corpus, RehearsesData) else _tiny_data)(data, text))
    if "cache_dir" in data:
        data["cache_dir"] = str(cache)
    trainer = small["trainer"]
    trainer.update(dict.fromkeys(_UNSET))
    trainer.update(
        strategy=spread.strategy,
        devices=spread.devices,
        num_nodes=1,
        max_steps=STEPS,
        val_check_interval=EVERY,
        limit_val_batches=2,
        limit_test_batches=2,
        log_every_n_steps=1,
        accumulate_grad_batches=1,
        fast_dev_run=False,
    )
    trainer["callbacks"] = [*map(tiny_callback, as_list(trainer["callbacks"])), _sudden_end()]
    small["published"] = []
    return small


def _tiny_data(data: Mapping[str, Any], text: Path) -> dict[str, Any]:
    """Settings that read a folder of text instead of the corpus."""
    return {name: value for name, value in (("path", str(text)), ("revision", None)) if name in data}


def _sudden_end() -> dict[str, Any]:
    return {"class_path": "lmrecipes.callbacks.fault_injection.KillAtStep", "init_args": {"after_step": KILLED_AFTER}}


def tiny_batch(
    batch: Mapping[str, Any], data_ranks: int, accumulation: int, lengths: Mapping[str, int]
) -> dict[str, Any]:
    """A batch of a few short sequences per process, accumulated if the recipe's is.

    Args:
        batch: the recipe's.
        data_ranks: data-parallel processes.
        accumulation: micro-batches per step.
        lengths: maximum of each length, by its name.
    """
    small = {**batch, **_short(batch, lengths)}
    columns = _COLUMNS if batch["micro_batch_size"] is None else min(batch["micro_batch_size"], _COLUMNS)
    small["global_batch_size"] = data_ranks * columns * accumulation
    small["micro_batch_size"] = None if batch["micro_batch_size"] is None else columns
    for split in ("val", "test"):
        small[split] = {**batch[split], **_short(batch[split], lengths), "batch_size": data_ranks * _COLUMNS}
    return small


def _short(plan: Mapping[str, Any], lengths: Mapping[str, int]) -> dict[str, int]:
    return {name: min(plan[name], longest) for name, longest in lengths.items() if isinstance(plan.get(name), int)}


def tiny_schedule(arguments: Mapping[str, Any], max_steps: int) -> dict[str, Any]:
    """A schedule that goes through all of its phases within the few steps, if it did within max_steps."""
    end = arguments.get("max_steps") or max_steps
    small = dict(arguments)
    for name, value in arguments.items():
        if name == "max_steps" and isinstance(value, int):
            small[name] = STEPS
        elif name.endswith("_steps") and isinstance(value, int):
            small[name] = min(value, EVERY) if value < end or end < 0 else STEPS
    return small


def tiny_callback(callback: Mapping[str, Any]) -> dict[str, Any]:
    """A callback that acts within the few steps, and does not stop training."""
    arguments = dict(callback.get("init_args") or {})
    for name in ("every_n_steps", "every_n_train_steps"):
        if isinstance(arguments.get(name), int) and arguments[name] > EVERY:
            arguments[name] = EVERY
    if isinstance(arguments.get("patience"), int):
        arguments["patience"] = max(arguments["patience"], STEPS)
    return {**callback, **({"init_args": arguments} if arguments else {})}
