"""`lmrecipes score`: loss and perplexity of a text under a run of a causal language model."""

from __future__ import annotations

import math

import torch
from lightning.pytorch.cli import LightningArgumentParser

from lmrecipes.cli import Command, open_recipe
from lmrecipes.commands.common.load_model import load_trained, texts_of, use_exported
from lmrecipes.commands.common.options import add_exported, add_run, add_text
from lmrecipes.models.common.protocols import ScoresText
from lmrecipes.runtime.console import say


def _add_options(parser: LightningArgumentParser) -> None:
    add_run(parser)
    add_text(parser)
    add_exported(parser)


COMMAND = Command(
    name="score",
    description=__doc__,
    add_options=_add_options,
    builds=frozenset(("model",)),
    uses_devices=False,
)


def run(argv: list[str]) -> int:
    """Prints number of tokens, loss and perplexity of each text."""
    cli = open_recipe(COMMAND, argv)
    if not isinstance(cli.model, ScoresText):
        raise ValueError(
            f"score needs a causal language model; {type(cli.model).__name__} is not one. "
            f"`lmrecipes test --run RUN` evaluates it"
        )
    texts = texts_of(cli)
    trained = load_trained(cli)
    if cli.config.exported is not None:
        use_exported(trained.module, cli.config.exported)
    for text in texts:
        ids = trained.vocabulary.encode(text)
        with torch.no_grad():
            loss = trained.module.score_tokens(ids)
        shown = text if len(text) < 60 else text[:57] + "..."
        say(f"{shown!r}: {len(ids) - 1} tokens, loss {loss:.4f}, perplexity {math.exp(loss):.3f}")
        if unknown := ids[1:].count(trained.vocabulary.unknown):
            say(f"  {unknown} of them are unknown to the vocabulary")
    return 0
