"""Question answering with any model: exact match, F1, and prediction files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer

from lmrecipes.callbacks.evaluation_outputs import EvaluationOutputs
from lmrecipes.data.tasks.squad.answers import Answered, Evidence, answer, merged, write_answers
from lmrecipes.data.tasks.squad.files import Question
from lmrecipes.metrics.squad import LANGUAGES, Gold, exact_string_match, squad11, squad20


@runtime_checkable
class Questions(Protocol):
    """A DataModule with questions."""

    language: str | None
    """How answers are normalized; see `metrics.squad.normalizer`."""
    null_threshold: float | None
    """Odds above which a question is left unanswered; None: never."""
    n_best: int
    """Candidates kept per question."""

    @property
    def writes_texts(self) -> bool:
        """Whether answers are generated texts, for which exact string match is logged too."""

    def questions(self, split: str) -> Sequence[Question]:
        """The questions of a split."""

    def may_lack(self, split: str) -> bool:
        """Whether some questions may have no answer."""

    def evidence(self, split: str, output: Any) -> Mapping[str, Evidence]:
        """Evidence about questions in a step's output, by question id."""


class SquadAnswers(EvaluationOutputs):
    """Logs exact match and F1 and writes the answers, from what evaluation steps return.

    The model is independent of it: its step returns an output, which the DataModule turns into evidence for
    questions. Evidence is merged over windows and ranks before each question is answered, once.

    Logs `squad/exact_match` and `squad/f1`, and for generated answers `squad/exact_string_match`; for questions in
    several languages their mean, and each language's as `squad/f1_de`. If questions may have no answer,
    also `squad/HasAns_*`, `squad/NoAns_*`, and `squad/best_*`, the best over all thresholds for
    `unthresholded_predictions.json`.
    `answers/val/` and `answers/test/` of the run hold predictions.json, nbest_predictions.json and null_odds.json as
    the official scripts read and write them, in a folder for each language if there are several.
    """

    def __init__(self) -> None:
        self.answered: dict[str, Answered] = {}
        """What the questions of the last evaluation or prediction are answered with, by their ids."""
        self.unwritten = ""
        """Why the answers of the last evaluation are not on disk; empty if they are."""
        self._found: list[Mapping[str, Evidence]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that the DataModule has questions.

        Raises:
            ValueError: if it does not.
        """
        _questions_of(trainer)

    def begin(self) -> None:
        """Discards the answers of an earlier evaluation."""
        self._found = []

    def add(self, trainer: Trainer, split: str, outputs: Any) -> None:
        """Adds the spans or texts of one step."""
        if outputs is None:
            raise ValueError(
                f"SquadAnswers: the model's {split} step returns nothing; it must return SpanScores or WrittenTexts"
            )
        self._found.append(_questions_of(trainer).evidence(split, outputs))

    def _answers(self, data: Questions, split: str) -> dict[str, Answered]:
        """The answers of all ranks, by question in the order of the file; the same on every rank."""
        local = merged(self._found, data.n_best)
        self._found = []
        everything = _of_all_ranks(local, data.n_best)
        may_lack = data.may_lack(split)
        return {
            question.id: answer(everything[question.id], data.null_threshold, may_lack=may_lack)
            for question in data.questions(split)
            if question.id in everything
        }

    def conclude(self, trainer: Trainer, module: LightningModule, split: str) -> None:
        """Logs the metrics and writes the answers; under `predict` keeps them in `answered`."""
        if split == "predict":
            self.answered = self._answers(_questions_of(trainer), split)
            return
        data = _questions_of(trainer)
        questions, may_lack = data.questions(split), data.may_lack(split)
        answered = self.answered = self._answers(data, split)
        evaluated = [question for question in questions if question.id in answered]
        if not evaluated:
            raise ValueError(f"SquadAnswers: no question of {split} was answered")
        metrics = metrics_by_language(
            evaluated, answered, may_lack=may_lack, language=data.language, written=data.writes_texts
        )
        # Already reduced over ranks; float64 keeps the official scripts' last digits.
        logged = {f"squad/{name}": torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
        module.log_dict(logged, batch_size=1)
        if getattr(trainer, "sanity_checking", False):
            return
        if len(evaluated) < len(questions):
            warnings.warn(f"squad metrics cover {len(evaluated)} of {len(questions)} {split} questions", stacklevel=2)
        try:
            _write(trainer, split, answered, may_lack, questions)
            self.unwritten = ""
        except OSError as error:
            # The figures are worth more than the files.
            self.unwritten = f"answers were not written to {error.filename}: {error.strerror}"
            if trainer.state.fn == "fit":
                warnings.warn(f"{self.unwritten}; training goes on", stacklevel=2)


def metrics_by_language(
    questions: Sequence[Question],
    answered: Mapping[str, Answered],
    *,
    may_lack: bool,
    language: str | None = None,
    written: bool = False,
) -> dict[str, float]:
    """Metrics by their logged names, without the prefix: of each language, and their mean over languages.

    Args:
        questions: each with its language, if there are several.
        answered: by question id.
        may_lack: whether they are evaluated as SQuAD 2.0.
        language: of all questions; see `metrics.squad.normalizer`.
        written: whether answers are also compared verbatim.
    """
    by_language: dict[str, list[Question]] = {}
    for question in questions:
        by_language.setdefault(question.language, []).append(question)
    metrics: dict[str, dict[str, float]] = {}
    for code, in_language in by_language.items():
        golds = [Gold(q.id, tuple(a.text for a in q.answers)) for q in in_language]
        normalized = (code if code in LANGUAGES else None) if code else language
        predictions = {q.id: answered[q.id] for q in in_language}
        metrics[code] = squad_metrics(golds, predictions, may_lack=may_lack, language=normalized)
        if written:
            metrics[code]["exact_string_match"] = exact_string_match(
                golds, {id: a.text for id, a in predictions.items()}
            )
    if list(metrics) == [""]:
        return metrics[""]
    mean = {name: sum(of[name] for of in metrics.values()) / len(metrics) for name in next(iter(metrics.values()))}
    return mean | {f"{name}_{code}": value for code, of in metrics.items() for name, value in of.items()}


def squad_metrics(
    golds: Sequence[Gold], answered: Mapping[str, Answered], *, may_lack: bool, language: str | None = None
) -> dict[str, float]:
    """Metrics of answers by their logged names, without the prefix.

    Args:
        golds: the questions.
        answered: by question id.
        may_lack: whether they are evaluated as SQuAD 2.0.
        language: see `metrics.squad.normalizer`.
    """
    predictions = {id: answer.text for id, answer in answered.items()}
    if not may_lack:
        return squad11(golds, predictions, language)
    metrics = squad20(golds, predictions, language=language)
    named = {"exact_match": metrics.pop("exact"), **metrics}
    odds = {id: answer.null_odds for id, answer in answered.items() if answer.null_odds is not None}
    if len(odds) == len(answered):
        best = squad20(golds, {id: answer.best for id, answer in answered.items()}, odds, language=language)
        named |= {name: value for name, value in best.items() if name.startswith("best_")}
    return {name: float(value) for name, value in named.items() if not name.endswith("total")}


def _questions_of(trainer: Trainer) -> Questions:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, Questions):
        raise ValueError(
            f"SquadAnswers is for a DataModule of questions, such as SquadDataModule, not {type(data).__name__}; "
            f"leave it out of trainer.callbacks"
        )
    return data


def _of_all_ranks(local: Mapping[str, Evidence], n_best: int) -> Mapping[str, Evidence]:
    if not (dist.is_available() and dist.is_initialized()):
        return local
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, local)
    return merged(gathered, n_best)


def _write(
    trainer: Trainer, split: str, answered: Mapping[str, Answered], may_lack: bool, questions: Sequence[Question]
) -> None:
    if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
        return
    folder = Path(trainer.default_root_dir) / "answers" / split
    by_language: dict[str, dict[str, Answered]] = {}
    for question in questions:
        if question.id in answered:
            # Strip the language prefix: files of one language use the original ids.
            id = question.id.removeprefix(f"{question.language}:") if question.language else question.id
            by_language.setdefault(question.language, {})[id] = answered[question.id]
    for code, answers in by_language.items():
        write_answers(folder / code if code else folder, answers, may_lack=may_lack)
