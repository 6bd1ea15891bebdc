"""Hugging Face folders: comparing a published one with a network, and checking a written one."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file
from torch import Tensor

from lmrecipes.runtime.file_faults import CARRIES_CODE, fault_of
from lmrecipes.runtime.open_file import read_json

# Files of weights by preference.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


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
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{source} cannot be used: {reason}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
        ValueError: if it is missing or holds no configuration.
    """
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path.name} holds no configuration")
    return config


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .bin file that torch wrote, mapped into memory where possible.

    Raises:
        ValueError: if it cannot be read, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # The format before torch 1.6 cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        weights = torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path.name}: {fault_of(path, CARRIES_CODE)}") from error
    except Exception as error:
        raise ValueError(f"{path.name}: {fault_of(path)}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path.name}: it holds no tensors by name")
    return weights


def weight_files(folder: Path) -> list[Path]:
    """The files with a folder's weights: one, or those that an index names.

    Raises:
        ValueError: if there is none, or the index names none.
    """
    for name in WEIGHT_FILES:
        if os.path.lexists(folder / name):
            return [folder / name]
        if (index := folder / f"{name}.index.json").is_file():
            listed = read_json(index)
            parts = listed.get("weight_map") if isinstance(listed, dict) else None
            if not isinstance(parts, dict) or not all(Path(str(part)).name == part for part in parts.values()):
                raise ValueError(f"{index.name} names no files of this folder in weight_map")
            return [folder / part for part in sorted(set(parts.values()))]
    raise ValueError(f"it holds neither {' nor '.join(WEIGHT_FILES)}")


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder.

    Raises:
        ValueError: naming the file that cannot be read.
    """
    return {name: value for path in weight_files(folder) for name, value in read_weights(path).items()}


def check_files(folder: Path) -> None:
    """Checks that the configuration and the weights of a folder can be read.

    Raises:
        ValueError: naming the file that cannot.
    """
    read_config(folder)
    for path in weight_files(folder):
        read_weights(path)


def check_type(published: Mapping[str, Any], *known: str) -> str:
    """The model_type of a folder's configuration.

    Raises:
        ValueError: if it is none of those known.
    """
    kind = published.get("model_type")
    if kind not in known:
        raise ValueError(f"its model_type is {kind}, not {' or '.join(known)}")
    return str(kind)


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
