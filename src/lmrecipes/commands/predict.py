"""`lmrecipes predict`: continues given texts with a run's model."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lmrecipes.cli import open_recipe
from lmrecipes.commands.say import say
from lmrecipes.commands.trained import load_trained, texts_of
from lmrecipes.models.common.generation import PromptBatch, Sampling


def run(argv: list[str]) -> int:
    """Prints each text with its continuation."""
    cli = open_recipe("predict", argv)
    texts = texts_of(cli)
    sampling = Sampling(
        max_new_tokens=cli.config.max_new_tokens, temperature=cli.config.temperature, top_k=cli.config.top_k
    )
    trained = load_trained(cli)
    trained.module.sampling = sampling
    nothing = len(trained.vocabulary.encode(""))
    prompts = [PromptBatch(torch.tensor([trained.vocabulary.encode(text)])) for text in texts]
    if any(prompt.input_ids.shape[1] <= nothing for prompt in prompts):
        raise ValueError("the text has no token to continue")
    trainer = Trainer(
        accelerator=cli.config.trainer.accelerator,
        devices=1,
        precision=cli.config.trainer.precision,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader: DataLoader[PromptBatch] = DataLoader(prompts, batch_size=None)  # type: ignore[arg-type]
    for ids in trainer.predict(trained.module, loader) or []:
        say(trained.vocabulary.decode(ids[0].tolist()).strip())
    return 0
