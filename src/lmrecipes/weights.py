"""Whether the weights of a checkpoint are those of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from lmrecipes.checkpoint_io import load_checkpoint


def check_weights(found: Mapping[str, Tensor], own: Mapping[str, Tensor], given: str) -> None:
    """Compares a checkpoint's weights with a network's.

    Args:
        found: the checkpoint's.
        own: the network's.
        given: what the user gave, for the message.

    Raises:
        ValueError: naming the first that is missing, unknown or of another shape.
    """
    missing, unknown = own.keys() - found.keys(), found.keys() - own.keys()
    if missing or unknown:
        name = min(missing or unknown)
        where = "lacks" if missing else "has an unknown"
        raise ValueError(f"{given} {where} weight {name}: it is of another network")
    for name, weight in own.items():
        if weight.shape != found[name].shape:
            raise ValueError(
                f"{given}: {name} has shape {tuple(found[name].shape)}, "
                f"but this recipe's network has {tuple(weight.shape)}"
            )


@contextmanager
def naming_misfits(module: nn.Module, checkpoint: Path | None, given: str) -> Iterator[None]:
    """Where torch refuses the checkpoint's weights, says so in one line.

    Raises:
        ValueError: as `check_weights`.
    """
    try:
        yield
    except RuntimeError as error:
        if checkpoint is not None and "loading state_dict" in str(error):
            check_weights(load_checkpoint(checkpoint)["state_dict"], module.state_dict(), given)
        raise
