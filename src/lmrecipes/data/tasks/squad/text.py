"""Questions as text to text: what a model reads, and the answer that it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lmrecipes.data.tasks.squad.files import Question
from lmrecipes.data.tasks.text_pairs import TextPair, TextPairs, tokenized
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece

Prompt = Literal["nemo", "google"]


@dataclass(frozen=True, kw_only=True)
class TextLayout:
    """How questions become texts."""

    seq_len: int
    """Tokens of an input at most."""
    target_len: int
    """Tokens of an answer at most, with its end."""
    prompt: Prompt = "nemo"
    """`nemo`: Title, Paragraph and Question, by these names. `google`: question and context, as for T5 and mT5."""
    every_answer: bool = False
    """Whether each answer is a pair of its own, as for training, or the first counts alone."""
    input_eos: bool = True
    """Whether an input ends with the end of a text."""

    @property
    def pieces(self) -> type[TextPairs]:
        """What `cut` returns."""
        return TextPairs

    def cut(
        self,
        questions: Sequence[Question],
        vocabulary: SentencePiece,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> TextPairs:
        """The questions as tokens; a context too long loses its end."""
        return tokenized(
            list(self._pairs(questions)),
            vocabulary,
            self.seq_len,
            self.target_len,
            input_eos=self.input_eos,
            progress=progress,
        )

    def _pairs(self, questions: Sequence[Question]) -> Iterator[TextPair]:
        languages = list(dict.fromkeys(question.language for question in questions))
        for number, question in enumerate(questions):
            # An unanswerable question has an empty target.
            answers = [answer.text for answer in question.answers] or [""]
            head, tail = _asked(question, self.prompt)
            for answer in answers if self.every_answer else answers[:1]:
                yield TextPair(head, tail, _on_one_line(answer), number, languages.index(question.language))


def _asked(question: Question, prompt: Prompt) -> tuple[str, str]:
    """The input in two parts: what may be truncated, and what may not."""
    title, context, asked = map(_on_one_line, (question.title, question.context, question.question))
    if prompt == "nemo":
        return f"Title: {title} Paragraph: {context}", f" Question: {asked}"
    return f"question: {asked} context: {context}", ""


def _on_one_line(text: str) -> str:
    return text.replace("\n", "\\n")
