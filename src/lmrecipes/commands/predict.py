"""`lmrecipes predict`: continues given texts with a run's model, or fills their blanks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lmrecipes.cli import open_recipe
from lmrecipes.commands.say import say
from lmrecipes.commands.trained import load_trained, texts_of
from lmrecipes.models.common.generation import PromptBatch


def run(argv: list[str]) -> int:
    """Prints what the model writes for each text, in the form that the model gives it."""
    cli = open_recipe("predict", argv)
    texts = texts_of(cli)
    names = ("max_new_tokens", "temperature", "top_k")
    given = {name: value for name in names if (value := cli.config[name]) is not None}
    if not hasattr(cli.model, "sampling"):
        raise ValueError(f"{type(cli.model).__name__} writes no text; predict is for models that do")
    # Refused before anything is loaded.
    sampling = replace(cli.model.sampling, **given)
    trained = load_trained(cli)
    trained.module.sampling = sampling
    ask, show = getattr(trained.module, "prompt", _prompt), getattr(trained.module, "shown", _shown)
    prompts = [PromptBatch(torch.tensor([ask(text, trained.vocabulary)])) for text in texts]
    trainer = Trainer(
        accelerator=cli.config.trainer.accelerator,
        devices=1,
        precision=cli.config.trainer.precision,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader: DataLoader[PromptBatch] = DataLoader(prompts, batch_size=None)  # type: ignore[arg-type]
    for text, output in zip(texts, trainer.predict(trained.module, loader) or [], strict=True):
        say(show(text, trained.vocabulary, output))
    return 0


def _prompt(text: str, vocabulary: Any) -> list[int]:
    """A text as the beginning of one.

    Raises:
        ValueError: if nothing is left of it.
    """
    ids: list[int] = vocabulary.encode(text)
    if len(ids) <= len(vocabulary.encode("")):
        raise ValueError("the text has no token to continue")
    return ids


def _shown(text: str, vocabulary: Any, ids: torch.Tensor) -> str:
    """The text with its continuation."""
    return str(vocabulary.decode(ids[0].tolist())).strip()
