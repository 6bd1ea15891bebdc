"""Checks of a recipe's trainer settings against this machine's hardware."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.accelerators import (
    Accelerator,
    CPUAccelerator,
    CUDAAccelerator,
    MPSAccelerator,
    XLAAccelerator,
)
from lightning.pytorch.strategies import DeepSpeedStrategy, StrategyRegistry

from lmrecipes.config.errors import ConfigError

_ACCELERATORS: dict[str, list[type[Accelerator]]] = {
    "auto": [CUDAAccelerator, MPSAccelerator, XLAAccelerator, CPUAccelerator],
    "gpu": [CUDAAccelerator, MPSAccelerator],
    "cuda": [CUDAAccelerator],
    "mps": [MPSAccelerator],
    "tpu": [XLAAccelerator],
    "cpu": [CPUAccelerator],
}


def check_hardware(accelerator: Any, devices: Any, precision: Any, strategy: Any = "auto") -> None:
    """Refuses accelerators, device counts, precisions and strategies that this machine cannot run.

    Args:
        accelerator: trainer.accelerator of a recipe.
        devices: trainer.devices, of one node.
        precision: trainer.precision.
        strategy: trainer.strategy, a name or a class with its arguments.

    Raises:
        ConfigError: naming the setting and what would work.
    """
    if not isinstance(accelerator, str):
        return
    if accelerator not in _ACCELERATORS:
        raise ConfigError(f"trainer.accelerator is {accelerator!r}; it must be one of {', '.join(_ACCELERATORS)}")
    accelerator_class = next((kind for kind in _ACCELERATORS[accelerator] if kind.is_available()), None)
    if accelerator_class is None:
        raise ConfigError(f"trainer.accelerator is {accelerator}, but this machine has none; add --config overlays/cpu")
    on_cpu = accelerator_class is CPUAccelerator
    if str(precision) in ("16", "16-mixed", "16-true") and on_cpu:
        raise ConfigError(f"trainer.precision is {precision}, which a CPU cannot do; bf16-mixed and 32-true work")
    _check_strategy(strategy, on_cpu)
    if isinstance(devices, list) or "," in str(devices):
        if on_cpu:
            raise ConfigError(
                f"trainer.devices is {devices!r}, which lists GPUs; on a CPU it is the number of processes, such as 1"
            )
        return
    if devices == "auto":
        return
    try:
        number = int(devices)
    except ValueError:
        raise ConfigError(f"trainer.devices is {devices!r}; it must be a number, a list of devices, or auto") from None
    if number == -1 and not on_cpu:
        return
    if number < 1:
        raise ConfigError(f"trainer.devices is {number}; it must be 1 or more")
    if not on_cpu and number > accelerator_class.auto_device_count():
        raise ConfigError(f"trainer.devices is {number}, but this machine has {accelerator_class.auto_device_count()}")


def _check_strategy(strategy: Any, on_cpu: bool) -> None:
    """Refuses Lightning's own strategies that would fail only once processes were started.

    Raises:
        ConfigError: naming one that works.
    """
    if isinstance(strategy, str):
        # The registry's own `get` would instantiate it.
        named = dict(StrategyRegistry).get(strategy.lower(), {})
        kind, arguments = named.get("strategy"), named.get("init_params", {})
    else:
        kind, arguments = strategy.class_path.rpartition(".")[2], strategy.get("init_args") or {}
    name = strategy if isinstance(strategy, str) else kind
    if on_cpu and kind in (DeepSpeedStrategy, DeepSpeedStrategy.__name__):
        raise ConfigError(f"trainer.strategy is {name}, which needs a GPU; deepspeed_zero2 works on a CPU too")
    if (method := arguments.get("start_method") or "popen") != "popen":
        raise ConfigError(
            f"trainer.strategy is {name}, whose processes begin by {method} and cannot be given a run's parts; "
            "ddp works"
        )
