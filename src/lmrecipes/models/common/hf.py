"""What reading and writing Hugging Face folders has in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule


def transformers() -> Any:
    """The package of that name, which takes seconds to import and is for those who read or write a folder."""
    import transformers

    return transformers


def is_fresh_start(module: LightningModule) -> bool:
    """Whether a module is built for a training from its beginning, rather than to be filled with a run's weights."""
    if module._fabric is not None:
        return True
    trainer = module._trainer
    return trainer is not None and trainer.state.fn == "fit" and trainer.ckpt_path is None


@contextmanager
def quietly() -> Iterator[None]:
    """transformers draws bars and warns of heads that it does not load."""
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
