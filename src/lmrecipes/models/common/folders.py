"""Hugging Face's folders: what reading and writing them has in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import LightningModule


def begins(module: LightningModule) -> bool:
    """Whether a module is built for a training from its beginning, rather than to be filled with a run's weights."""
    if module._fabric is not None:
        return True
    trainer = module._trainer
    return trainer is not None and trainer.state.fn == "fit" and trainer.ckpt_path is None


@contextmanager
def quietly() -> Iterator[None]:
    """transformers draws bars and warns of heads that it does not load."""
    # For those who read or write a folder: the commands of every mT5 recipe import this module.
    import transformers

    level = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
