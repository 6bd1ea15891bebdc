"""Whether this machine has what a recipe's trainer asks for."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.accelerators import (
    Accelerator,
    CPUAccelerator,
    CUDAAccelerator,
    MPSAccelerator,
    XLAAccelerator,
)

from lmrecipes.config_errors import ConfigError

_ACCELERATORS: dict[str, list[type[Accelerator]]] = {
    "auto": [CUDAAccelerator, MPSAccelerator, XLAAccelerator, CPUAccelerator],
    "gpu": [CUDAAccelerator, MPSAccelerator],
    "cuda": [CUDAAccelerator],
    "mps": [MPSAccelerator],
    "tpu": [XLAAccelerator],
    "cpu": [CPUAccelerator],
}


def check_hardware(accelerator: Any, devices: Any, precision: Any) -> None:
    """Refuses accelerators, numbers of devices and precisions that this machine has not.

    Args:
        accelerator: trainer.accelerator of a recipe.
        devices: trainer.devices, of one node.
        precision: trainer.precision.

    Raises:
        ConfigError: naming the setting and what would work.
    """
    if not isinstance(accelerator, str):
        return
    if accelerator not in _ACCELERATORS:
        raise ConfigError(f"trainer.accelerator is {accelerator!r}; it must be one of {', '.join(_ACCELERATORS)}")
    found = next((kind for kind in _ACCELERATORS[accelerator] if kind.is_available()), None)
    if found is None:
        raise ConfigError(
            f"trainer.accelerator is {accelerator}, but this machine has none; --config overlays/cpu goes without"
        )
    on_cpu = found is CPUAccelerator
    if str(precision) in ("16", "16-mixed") and on_cpu:
        raise ConfigError(f"trainer.precision is {precision}, which a CPU cannot do; bf16-mixed and 32-true work")
    if isinstance(devices, list) or "," in str(devices) or devices == "auto":
        return
    try:
        number = int(devices)
    except ValueError:
        raise ConfigError(f"trainer.devices is {devices!r}; it must be a number, a list of devices, or auto") from None
    if number == -1 and not on_cpu:
        return
    if number < 1:
        raise ConfigError(f"trainer.devices is {number}; it must be 1 or more")
    if not on_cpu and number > found.auto_device_count():
        raise ConfigError(f"trainer.devices is {number}, but this machine has {found.auto_device_count()}")
