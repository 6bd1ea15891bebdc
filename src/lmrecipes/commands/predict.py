"""`lmrecipes predict`: continues given texts, or answers questions, with a run's model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lmrecipes.callbacks import SquadAnswers
from lmrecipes.cli import RecipeCLI, open_recipe
from lmrecipes.commands.say import say, short
from lmrecipes.commands.trained import load_trained, texts_of
from lmrecipes.data.answers import write_answers
from lmrecipes.data.squad import Question, local_file, read_squad
from lmrecipes.models.common.generation import PromptBatch, Sampling


def run(argv: list[str]) -> int:
    """Prints each text with its continuation, or the answers to questions."""
    cli = open_recipe("predict", argv)
    if hasattr(cli.datamodule, "ask"):
        return _answer(cli)
    for name in ("question", "context"):
        if cli.config[name] is not None:
            raise ValueError(f"--{name} is for a model that answers questions; {type(cli.model).__name__} takes --text")
    return _continue(cli)


def _continue(cli: RecipeCLI) -> int:
    texts = texts_of(cli)
    sampling = Sampling(
        max_new_tokens=cli.config.max_new_tokens, temperature=cli.config.temperature, top_k=cli.config.top_k
    )
    trained = load_trained(cli)
    if not hasattr(trained.module, "sampling"):
        raise ValueError(f"lmrecipes predict continues texts, and {type(trained.module).__name__} cannot")
    trained.module.sampling = sampling
    nothing = len(trained.vocabulary.encode(""))
    prompts = [PromptBatch(torch.tensor([trained.vocabulary.encode(text)])) for text in texts]
    if any(prompt.input_ids.shape[1] <= nothing for prompt in prompts):
        raise ValueError("the text has no token to continue")
    loader: DataLoader[PromptBatch] = DataLoader(prompts, batch_size=None)  # type: ignore[arg-type]
    for ids in _trainer(cli).predict(trained.module, loader) or []:
        say(trained.vocabulary.decode(ids[0].tolist()).strip())
    return 0


def _answer(cli: RecipeCLI) -> int:
    questions = _questions(cli)
    trained = load_trained(cli)
    cli.datamodule.evaluate_with(trained.vocabulary, "predict")
    cli.datamodule.ask(questions)
    answers = SquadAnswers()
    trainer = _trainer(cli, callbacks=[answers], default_root_dir=cli.run_dir, use_distributed_sampler=False)
    trainer.predict(trained.module, cli.datamodule, return_predictions=False)
    if cli.config.file is not None:
        assert cli.run_dir is not None
        folder = cli.run_dir / "answers" / "predict" / Path(cli.config.file).name.partition(".")[0]
        write_answers(folder, answers.answered, may_lack=cli.datamodule.may_lack("predict"))
        say(f"{len(answers.answered):,} answers: {short(folder)}")
        return 0
    (answered,) = answers.answered.values()
    say(answered.text or "no answer")
    for candidate in answered.nbest[:3]:
        say(f"{candidate['probability']:.3f}  {candidate['text'] or 'no answer'}")
    return 0


def _questions(cli: RecipeCLI) -> tuple[Question, ...]:
    """What --question and --context, or --file, ask.

    Raises:
        ValueError: if neither is given, or both.
    """
    asked, context, file = cli.config.question, cli.config.context, cli.config.file
    if cli.config.text is not None:
        raise ValueError("--text is for a model that continues texts; give --question and --context, or --file")
    if (file is None) == (asked is None and context is None):
        raise ValueError('give --question "..." and --context "...", or --file with a file in SQuAD format')
    if file is not None:
        found = read_squad(local_file(file), cli.datamodule.on_malformed, need_answers=False)
        if complaint := found.complaint(file):
            print(f"warning: {complaint}", file=sys.stderr)
        return found.questions
    if asked is None or context is None:
        raise ValueError(f"--{'question' if asked is None else 'context'} is missing: it takes both of them")
    return (Question(id="asked", question=asked, context=context),)


def _trainer(cli: RecipeCLI, **more: Any) -> Trainer:
    return Trainer(
        accelerator=cli.config.trainer.accelerator,
        devices=1,
        precision=cli.config.trainer.precision,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **more,
    )
