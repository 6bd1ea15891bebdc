"""Writes questions for a benchmark to a file."""

import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lmrecipes.data.tasks.squad.files import Answer, Question
from lmrecipes.data.tasks.squad.source import SquadSource

# XQuAD's English contexts have a median of 152 tokens (5th percentile 86, 95th 293), an embedded passage has 37. There
# are 5 questions per context.
PASSAGES_OF_A_CONTEXT, SPREAD, QUESTIONS_ON_ONE = 4.1, 0.4, 5


def read(source: str) -> list[Question]:
    """The questions of a file; embedded ones get contexts as long as XQuAD's."""
    questions = SquadSource(source).read().questions
    return list(join_contexts(questions) if source.startswith("embedded:") else questions)


def join_contexts(questions: Iterable[Question]) -> Iterator[Question]:
    """The same questions on longer contexts: several contexts are concatenated, with some of their questions."""
    chance = random.Random(0)
    by_context: dict[str, list[Question]] = {}
    for question in questions:
        by_context.setdefault(question.context, []).append(question)
    contexts = list(by_context)
    while contexts:
        n = max(1, round(chance.lognormvariate(math.log(PASSAGES_OF_A_CONTEXT), SPREAD)))
        parts, contexts = contexts[:n], contexts[n:]
        moved, begin = [], 0
        for part in parts:
            moved += [
                replace(
                    question,
                    context=" ".join(parts),
                    answers=tuple(Answer(text, begin + start) for text, start in question.answers),
                )
                for question in by_context[part]
            ]
            begin += len(part) + 1
        yield from chance.sample(moved, min(QUESTIONS_ON_ONE, len(moved)))


def write(questions: Sequence[Question], path: Path) -> str:
    """Writes a file in SQuAD format."""
    paragraphs = [
        {
            "context": q.context,
            "qas": [
                {
                    "id": q.id,
                    "question": q.question,
                    "answers": [{"text": text, "answer_start": start} for text, start in q.answers],
                    "is_impossible": q.is_impossible,
                }
            ],
        }
        for q in questions
    ]
    path.write_text(json.dumps({"data": [{"title": "", "paragraphs": paragraphs}]}), encoding="utf-8")
    return str(path)
