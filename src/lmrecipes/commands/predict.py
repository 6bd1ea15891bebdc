"""`lmrecipes predict`: continues texts, fills masks, or answers questions with a run."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch.utils.data import DataLoader

from lmrecipes.callbacks import SquadAnswers
from lmrecipes.cli import Command, RecipeCLI, open_recipe
from lmrecipes.commands.common.load_model import load_trained, texts_of
from lmrecipes.commands.common.options import add_run, add_text, check_text
from lmrecipes.data.corpora.hub import local_file
from lmrecipes.data.tasks.squad.answers import write_answers
from lmrecipes.data.tasks.squad.files import Question, read_squad
from lmrecipes.datamodules.protocols import AnswersQuestions
from lmrecipes.models.common.protocols import Generates
from lmrecipes.models.common.sampling import PromptBatch
from lmrecipes.runtime.console import say, short

_FORMATS = (".json", ".jsonl", ".parquet", ".gz", ".zst")


def _add_options(parser: LightningArgumentParser) -> None:
    add_run(parser)
    add_text(parser)
    parser.add_argument("--question", type=str, help="A question, for a question-answering model.")
    parser.add_argument("--context", type=str, help="The passage that contains the answer.")
    parser.add_argument("--max_new_tokens", type=int | None, help="Maximum number of tokens to generate.")
    parser.add_argument("--temperature", type=float | None, help="0 decodes greedily.")
    parser.add_argument("--top_k", type=int | None, help="Sample from the k most probable tokens; 0 samples from all.")


COMMAND = Command(
    name="predict",
    description=__doc__,
    add_options=_add_options,
    builds=frozenset(("model", "data")),
)


def run(argv: list[str]) -> int:
    """Prints what the model generates for each text, or the answers to questions."""
    cli = open_recipe(COMMAND, argv)
    answers, generates = isinstance(cli.datamodule, AnswersQuestions), isinstance(cli.model, Generates)
    if not answers and not generates:
        raise ValueError(
            f"{type(cli.model).__name__} neither generates text nor answers questions; predict needs a run of a model "
            f"that does"
        )
    if answers and not (generates and cli.config.text is not None):
        return _answer(cli)
    for name in ("question", "context"):
        if cli.config[name] is not None and answers:
            raise ValueError(f"--{name} and --text are both given; give --question and --context, or --text")
        if cli.config[name] is not None:
            raise ValueError(f"--{name} is for a model that answers questions; {type(cli.model).__name__} takes --text")
    return _generate(cli)


def _generate(cli: RecipeCLI) -> int:
    texts, sampling = texts_of(cli), _sampling(cli)
    trained = load_trained(cli)
    module = trained.module
    module.sampling = sampling
    prompts = [PromptBatch(torch.tensor([module.prompt(text, trained.vocabulary)])) for text in texts]
    loader: DataLoader[PromptBatch] = DataLoader(prompts, batch_size=None)  # type: ignore[arg-type]
    for text, output in zip(texts, _trainer(cli).predict(module, loader) or [], strict=True):
        say(module.completion(text, trained.vocabulary, output))
    return 0


def _sampling(cli: RecipeCLI) -> Any:
    """The model's sampling settings, overridden by the command line; None if it does not generate.

    Raises:
        ValueError: for invalid settings, before anything is loaded.
    """
    names = ("max_new_tokens", "temperature", "top_k")
    options = {name: value for name in names if (value := cli.config[name]) is not None}
    if isinstance(cli.model, Generates):
        try:
            return replace(cli.model.sampling, **options)
        except ValueError as error:
            message = str(error)
            for name in options:
                message = message.replace(f"model.decoding.{name} ", f"--{name} ")
            raise ValueError(message) from None
    for name in options:
        raise ValueError(f"--{name} is for a model that generates text; {type(cli.model).__name__} cannot")
    return None


def _answer(cli: RecipeCLI) -> int:
    questions, sampling = _questions(cli), _sampling(cli)
    trained = load_trained(cli)
    if sampling is not None:
        trained.module.sampling = sampling
    cli.datamodule.evaluate_with(trained.vocabulary, "predict")
    cli.datamodule.ask(questions)
    answers = SquadAnswers()
    trainer = _trainer(cli, callbacks=[answers], default_root_dir=cli.run_dir, use_distributed_sampler=False)
    trainer.predict(trained.module, cli.datamodule, return_predictions=False)
    if cli.config.file is not None:
        assert cli.run_dir is not None
        folder = answers_folder(cli.run_dir / "answers" / "predict", cli.config.file)
        write_answers(folder, answers.answered, may_lack=cli.datamodule.may_lack("predict"))
        say(f"{len(answers.answered):,} answers: {short(folder)}")
        return 0
    (answered,) = answers.answered.values()
    say(answered.text or "no answer")
    for candidate in answered.nbest[:3]:
        say(f"{candidate['probability']:.3f}  {candidate['text'] or 'no answer'}")
    return 0


def answers_folder(folder: Path, file: str) -> Path:
    """The folder for the answers to a file: named after it, with a number if another file's answers have that name."""
    source = str(Path(file).resolve()) if Path(file).exists() else file
    for number in count(1):
        candidate = folder / (_stem(file) if number == 1 else f"{_stem(file)}-{number}")
        note = candidate / "file.txt"
        if not os.path.lexists(candidate):
            candidate.mkdir(parents=True)
            note.write_text(f"{source}\n", encoding="utf-8")
        with suppress(OSError, ValueError):
            if note.read_text(encoding="utf-8") == f"{source}\n":
                return candidate
    raise AssertionError


def _stem(file: str) -> str:
    """A file's name without the extension of its format: xquad.de of xquad.de.json."""
    path = Path(file)
    while path.suffix in _FORMATS:
        path = path.with_suffix("")
    return path.name


def _questions(cli: RecipeCLI) -> tuple[Question, ...]:
    """The questions of --question and --context, or of --file.

    Raises:
        ValueError: if neither is given, or both, or they are no UTF-8.
    """
    question, context, file = cli.config.question, cli.config.context, cli.config.file
    check_text("--question", question)
    check_text("--context", context)
    if cli.config.text is not None:
        raise ValueError("--text is for a model that generates text; give --question and --context, or --file")
    if (file is None) == (question is None and context is None):
        raise ValueError('give --question "..." and --context "...", or --file with a file in SQuAD format')
    if file is not None:
        result = read_squad(local_file(file), cli.datamodule.on_malformed, need_answers=False)
        if complaint := result.complaint(file):
            print(f"warning: {complaint}", file=sys.stderr)
        return result.questions
    if question is None or context is None:
        missing = "question" if question is None else "context"
        raise ValueError(f"--{missing} is missing; give --question and --context together")
    return (Question(id="asked", question=question, context=context),)


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
