"""Hugging Face folders: comparing a published one with a network, and checking a written one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor


def transformers() -> Any:
    """The transformers package; imported lazily, as that takes seconds."""
    import transformers

    return transformers


def is_fresh_start(module: LightningModule) -> bool:
    """Whether a module is built for training from step 0, rather than to load the weights of a run."""
    if module._fabric is not None:
        return True
    trainer = module._trainer
    return trainer is not None and trainer.state.fn == "fit" and trainer.ckpt_path is None


@contextmanager
def quietly() -> Iterator[None]:
    """Silences transformers' progress bars and its warnings about heads that it does not load."""
    logging = transformers().logging
    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Names the field and the folder in errors of reading it.

    Raises:
        ValueError: in one line, for any error that a missing, broken or unsuitable folder causes.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{source} cannot be used: {reason}") from error


def check_config(published: Mapping[str, Any], expected: Mapping[str, Any], fields: Mapping[str, str]) -> None:
    """Compares a folder's configuration with that of a network; sizes that it leaves out are not compared.

    Args:
        published: the content of its config.json.
        expected: the same of the network.
        fields: transformers' fields to compare, each with the field of ours that sets it.

    Raises:
        ValueError: naming the first field that differs.
    """
    if published.get("model_type") != expected["model_type"]:
        raise ValueError(f"its model_type is {published.get('model_type')}, not {expected['model_type']}")
    for theirs, ours in fields.items():
        if published.get(theirs) not in (None, expected[theirs]):
            raise ValueError(f"its {theirs} is {published[theirs]}, but model.config.{ours} makes {expected[theirs]}")


def made_up(config: Any) -> Tensor:
    """Synthetic tokens of two texts, for comparing networks: int64 (2, T)."""
    length = min(16, config.max_positions)
    return (torch.arange(2 * length).view(2, length) * 7) % config.vocab_size


@torch.no_grad()
def check_written(
    folder: Path, kind: str, inputs: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: Any = ...
) -> None:
    """Loads a folder with transformers and compares its outputs with the network's.

    Args:
        folder: the folder.
        kind: the class of transformers that loads it.
        inputs: arguments of one call.
        expected: outputs of the network by transformers' names.
        where: index of the elements of each output that are compared; default: all.

    Raises:
        ValueError: if they differ by more than rounding.
    """
    with quietly():
        loaded = getattr(transformers(), kind).from_pretrained(folder).eval()
    out = loaded(**inputs)
    for name, value in expected.items():
        if not torch.allclose(out[name][where].float(), value.float(), atol=1e-3, rtol=1e-3):
            raise ValueError(f"transformers loads {folder} with outputs that differ from those of the run's network")
