"""`lmrecipes score`: loss and perplexity of a given text under a run's model."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from lmrecipes.batches import Segmenting
from lmrecipes.cli import open_recipe
from lmrecipes.commands.common.load_model import load_trained, texts_of
from lmrecipes.runtime.console import say


def run(argv: list[str]) -> int:
    """Prints number of tokens, loss and perplexity of each text."""
    cli = open_recipe("score", argv)
    texts = texts_of(cli)
    trained = load_trained(cli)
    if not hasattr(trained.module, "sampling"):
        raise ValueError(
            f"lmrecipes score reads a text from left to right, and {type(trained.module).__name__} does not; "
            f"`lmrecipes test --run RUN` evaluates it"
        )
    if cli.config.runtime is not None:
        trained.module.use_programs(Path(cli.config.runtime))
    plan = trained.module.batch_plan.segmenting("test")
    for text in texts:
        ids = trained.vocabulary.encode(text)
        loss = score_tokens(trained.module.network, ids, plan)
        shown = text if len(text) < 60 else text[:57] + "..."
        say(f"{shown!r}: {len(ids) - 1} tokens, loss {loss:.4f}, perplexity {math.exp(loss):.3f}")
        if unknown := ids[1:].count(trained.vocabulary.unknown):
            say(f"  {unknown} of them are not in the vocabulary")
    return 0


@torch.inference_mode()
def score_tokens(network: torch.nn.Module, ids: list[int], plan: Segmenting) -> float:
    """Mean negative log-likelihood, in nats, of every token but the first, segment by segment with memory.

    Args:
        network: takes (input_ids, targets, memory) as TransformerXL does.
        ids: the text's tokens.
        plan: how the text is cut.

    Raises:
        ValueError: for fewer than two tokens.
    """
    if len(ids) < 2:
        raise ValueError("the text has no token to score")
    tokens = torch.tensor([ids])
    memory, total = None, 0.0
    for start in range(0, len(ids) - 1, plan.seq_len):
        end = min(start + plan.seq_len, len(ids) - 1)
        nll, memory = network(
            tokens[:, start:end],
            tokens[:, start + 1 : end + 1],
            memory,
            mem_len=plan.mem_len,
            clamp_len=plan.clamp_len,
            same_length=plan.same_length,
        )
        total += nll.double().sum().item()
    return total / (len(ids) - 1)
