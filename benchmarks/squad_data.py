"""Questions for a benchmark, in a file."""

import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lmrecipes.data.tasks.squad.files import Answer, Question
from lmrecipes.data.tasks.squad.source import SquadSource

# Of XQuAD's English contexts the middle one has 152 tokens, a twentieth under 86, a twentieth over 293; an invented
# passage has 37. There are 5 questions on a context.
PASSAGES_OF_A_CONTEXT, SPREAD, QUESTIONS_ON_ONE = 4.1, 0.4, 5


def read(source: str) -> list[Question]:
    """The questions of a file; embedded ones on contexts as long as XQuAD's."""
    questions = SquadSource(source).read().questions
    return list(joined(questions) if source.startswith("embedded:") else questions)


def joined(questions: Iterable[Question]) -> Iterator[Question]:
    """The same on longer contexts: several are put together to one, with some of their questions."""
    chance = random.Random(0)
    asked: dict[str, list[Question]] = {}
    for question in questions:
        asked.setdefault(question.context, []).append(question)
    contexts = list(asked)
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
                for question in asked[part]
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
