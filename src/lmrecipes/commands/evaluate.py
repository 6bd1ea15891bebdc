"""`lmrecipes evaluate squad`: the official metrics of a predictions file, without a model."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from lmrecipes.commands.common.parser import Arguments
from lmrecipes.metrics.squad import LANGUAGES, Gold, squad11, squad20
from lmrecipes.runtime.atomic_write import write_text
from lmrecipes.runtime.open_file import parse_json, read_json


def run(argv: list[str]) -> int:
    """Prints the metrics as JSON, formatted like the official script of the data's version."""
    options = _parser().parse_args(argv)
    if options.output is not None:
        _check_replaceable(options.output)
    data, predictions = _read(options.data), _numbered(options.predictions, str, "an answer's text")
    golds = _golds(data, options.data)
    if not golds:
        raise ValueError(f"{options.data} has no question to evaluate; give a file in SQuAD format with some")
    version = options.version or _version(data)
    _check_predicted(golds, predictions, options, version)
    if version == "1.1":
        for option, value in (("--null-odds", options.null_odds), ("--na-threshold", options.na_threshold)):
            if value is not None:
                raise ValueError(
                    f"{option} is an option of SQuAD 2.0, but {options.data} is evaluated as 1.1; leave it out"
                )
        text = json.dumps(squad11(golds, predictions, options.language))
    else:
        odds = None if options.null_odds is None else _numbered(options.null_odds, float, "a number")
        threshold = 1.0 if options.na_threshold is None else options.na_threshold
        wrong = options.missing == "wrong"
        figures = squad20(golds, predictions, odds, threshold, options.language, missing_are_wrong=wrong)
        text = json.dumps(figures, indent=2)
    print(text)
    if options.output is not None:
        try:
            write_text(options.output.resolve(), text + "\n")
        except OSError as error:
            raise ValueError(f"--output {options.output} cannot be written: {error.strerror}") from None
    return 0


def _check_replaceable(output: Path) -> None:
    """Refuses to overwrite a file that is not an earlier evaluation.

    Raises:
        ValueError: naming it.
    """
    if not output.is_file() or not output.stat().st_size:
        return
    try:
        content = parse_json(output.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or "f1" not in content or not {"exact", "exact_match"} & content.keys():
        raise ValueError(f"--output {output} exists and is not an earlier evaluation; name another file")


def _check_predicted(golds: list[Gold], predictions: dict[str, Any], options: argparse.Namespace, version: str) -> None:
    """Warns of questions without predictions, which score 0.

    Raises:
        ValueError: if no question has one; for SQuAD 2.0 if any has none, as in the official script, unless they are
            to count as wrong.
    """
    without = [gold.id for gold in golds if gold.id not in predictions]
    if golds and len(without) == len(golds):
        raise ValueError(
            f"{options.predictions} answers no question of {options.data}; give the predictions for that file"
        )
    if not without:
        return
    named = ", ".join(without[:3]) + (", ..." if len(without) > 3 else "")
    share = f"{len(without):,} of {len(golds):,} questions"
    if version == "2.0" and options.missing != "wrong":
        raise ValueError(
            f"{options.predictions} has no prediction for {share}: {named}; --missing wrong counts them as wrong"
        )
    print(f"warning: no prediction for {share}, which will receive score 0: {named}", file=sys.stderr)


def _parser() -> Arguments:
    parser = Arguments(prog="lmrecipes evaluate", description="Official metrics of a predictions file.")
    kinds = parser.add_subparsers(dest="kind", metavar="squad", required=True)
    squad = kinds.add_parser("squad", help="exact match and F1 of SQuAD 1.1, 2.0 and XQuAD files")
    squad.add_argument("--data", type=Path, required=True, help="file in SQuAD format, or .gz of one")
    squad.add_argument("--predictions", type=Path, required=True, help="JSON: answer by question id")
    squad.add_argument("--null-odds", type=Path, help="JSON: no-answer odds by question id")
    squad.add_argument("--na-threshold", type=float, help="odds above which a question is left unanswered (1.0)")
    squad.add_argument(
        "--missing",
        choices=("refuse", "wrong"),
        default="refuse",
        help="SQuAD 2.0: what to do about questions without a prediction (SQuAD 1.1 always counts them as wrong)",
    )
    squad.add_argument(
        "--language",
        choices=sorted(LANGUAGES),
        help="normalize as MLQA does for this language (default: as SQuAD does, for English)",
    )
    squad.add_argument("--version", choices=("1.1", "2.0"), help="default: detected from the data")
    squad.add_argument(
        "--output", type=Path, help="also write the metrics to this file (a new one, or that of an earlier evaluation)"
    )
    return parser


def _read(path: Path, *, distinct: bool = False) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        distinct: whether a key that is given twice is an error.

    Raises:
        ValueError: if it cannot be read, naming line and column.
    """
    try:
        return read_json(path, distinct=distinct)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None


def _numbered(path: Path, kind: type, what: str) -> dict[str, Any]:
    """What a file holds by question id."""
    content = _read(path, distinct=True)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}; it must be an object with {what} by question id")
    accepted: Any = (int, float) if kind is float else kind
    for id, value in content.items():
        if not isinstance(value, accepted) or isinstance(value, bool) or not (kind is str or math.isfinite(value)):
            raise ValueError(f"{path}: question {id} has {json.dumps(value)[:60]}, which is not {what}")
    return content


def _questions(data: Any) -> list[Any]:
    return [qa for article in data["data"] for paragraph in article["paragraphs"] for qa in paragraph["qas"]]


def _golds(data: Any, path: Path) -> list[Gold]:
    """The gold answers; no other part of the data file is read."""
    try:
        golds = [Gold(str(qa["id"]), tuple(a["text"] for a in qa["answers"])) for qa in _questions(data)]
        if wrong := next((gold for gold in golds if not all(isinstance(text, str) for text in gold.answers)), None):
            raise ValueError(f"{path}: question {wrong.id} has an answer whose text is not a string")
        return golds
    except (KeyError, TypeError) as error:
        reason = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} is not in SQuAD format (data: paragraphs: qas: id, answers: text): {reason}"
        ) from None


def _version(data: Any) -> str:
    """2.0 if questions may have no answer."""
    return "2.0" if any("is_impossible" in qa or not qa["answers"] for qa in _questions(data)) else "1.1"
