"""Questions as text to text: input texts and answers to generate."""

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
    """Maximum tokens of an input."""
    target_len: int
    """Maximum tokens of an answer, </s> included."""
    prompt: Prompt = "nemo"
    """`nemo`: Title, Paragraph and Question, by these names. `google`: question and context, as for T5 and mT5."""
    every_answer: bool = False
    """Whether every answer makes a pair, as for training, or only the first."""
    input_eos: bool = True
    """Whether an input ends with </s>."""

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
        """Tokenizes questions; a context that is too long is truncated."""
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
            head, tail = _prompted(question, self.prompt)
            for answer in answers if self.every_answer else answers[:1]:
                yield TextPair(head, tail, _on_one_line(answer), number, languages.index(question.language))


def _prompted(question: Question, prompt: Prompt) -> tuple[str, str]:
    """The input in two parts: one that may be truncated, and one that may not."""
    title, context, text = map(_on_one_line, (question.title, question.context, question.question))
    if prompt == "nemo":
        return f"Title: {title} Paragraph: {context}", f" Question: {text}"
    return f"question: {text} context: {context}", ""


def _on_one_line(text: str) -> str:
    return text.replace("\n", "\\n")
