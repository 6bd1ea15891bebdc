"""Sources of questions: files in SQuAD format, local or on the hub, in one or more languages; synthetic ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmrecipes.data.corpora.hub import file_identity, local_file
from lmrecipes.data.embedded.squad import make_squad
from lmrecipes.data.tasks.squad.files import OnMalformed, Question, SquadFile, read_content, read_squad
from lmrecipes.runtime.path_names import check_plain

_LANGUAGE = "{language}"
_EMBEDDED = "embedded:"
_ANSWERED = "1.1/"
# A generative model must learn to copy first, so it gets more questions.
_PASSAGES = {"train": 4000, "val": 100, "test": 100, "1.1/train": 12_000, "1.1/val": 100, "1.1/test": 100}


@dataclass(frozen=True)
class SquadSource:
    """A file in SQuAD format, or one per language."""

    path: str
    """A file in SQuAD format (.json, .parquet, also .gz), `hf://datasets/OWNER/NAME/FILE` on the Hugging Face hub, or
    synthetic ones: `embedded:train`, `embedded:val`, `embedded:test`, and `embedded:1.1/train` and so on, in which all
    questions have an answer; with {language} one file per language."""
    on_malformed: OnMalformed = "refuse"
    languages: tuple[str, ...] = ()
    """Languages whose files are read, in order; empty: one file is read."""

    @classmethod
    def of(
        cls, path: str, language: str | None, languages: Sequence[str] | None, on_malformed: OnMalformed
    ) -> SquadSource:
        """The source of a file whose name may contain {language}."""
        if _LANGUAGE in path and languages:
            return cls(path, on_malformed, tuple(languages))
        return cls(path.replace(_LANGUAGE, str(language)), on_malformed)

    @property
    def _files(self) -> dict[str, str]:
        """Each file, by its language."""
        codes = self.languages or ("",)
        return {code: self.path.replace(_LANGUAGE, code) if code else self.path for code in codes}

    def describe(self) -> dict[str, Any]:
        """What identifies the questions.

        Raises:
            ValueError: if a file does not exist.
        """
        names = ("path", "size", "time")
        files = [
            {"path": path, "on_malformed": self.on_malformed, **dict(zip(names, file_identity(path), strict=False))}
            for path in self._files.values()
        ]
        return {"languages": list(self.languages), "files": files} if self.languages else files[0]

    def read(self) -> SquadFile:
        """The questions.

        Raises:
            ValueError: for a file that cannot be loaded or read, or is malformed.
        """
        if not self.languages:
            return self._read(self.path)
        questions: list[Question] = []
        skipped: Counter[str] = Counter()
        repaired: Counter[str] = Counter()
        for code, path in self._files.items():
            file = self._read(path)
            # The same questions have the same ids in every language.
            questions += [replace(q, id=f"{code}:{q.id}", language=code) for q in file.questions]
            skipped.update(file.skipped)
            repaired.update(file.repaired)
        return SquadFile(tuple(questions), skipped, repaired)

    def _read(self, path: str) -> SquadFile:
        if path.startswith(_EMBEDDED):
            name = path.removeprefix(_EMBEDDED)
            if name not in _PASSAGES:
                raise ValueError(f"{path} does not exist; embedded are {', '.join(_EMBEDDED + s for s in _PASSAGES)}")
            unanswerable = not name.startswith(_ANSWERED)
            content = make_squad(name.removeprefix(_ANSWERED), _PASSAGES[name], unanswerable=unanswerable)
            return read_content(content, path)
        return read_squad(local_file(path), self.on_malformed)


def check_languages(files: Mapping[str, str | None], language: str | None, languages: Sequence[str] | None) -> None:
    """Checks that languages fit the names of the files, by split; only val and test may have several languages.

    Raises:
        ValueError: naming the field and what would work.
    """
    for code in languages or ():
        check_plain("data.languages", code, "de")
    if language is not None:
        check_plain("data.language", language, "de")
    for split, file in files.items():
        if _LANGUAGE in (file or "") and language is None and (split == "train" or not languages):
            raise ValueError(f"data.{split} is {file}, which needs data.language, such as de")
    if languages is not None and (language is not None or not languages or len(set(languages)) < len(languages)):
        raise ValueError(
            f"data.languages is {list(languages)} with data.language {language}; give one of the two, each "
            f"language once"
        )
