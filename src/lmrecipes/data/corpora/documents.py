"""Sources of documents, and a corpus of several, in parts that can be read independently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from lmrecipes.config.validation import at_least
from lmrecipes.data.corpora.document_files import ENDINGS, Boundaries, Span, form, read_documents, readable, spans
from lmrecipes.data.corpora.folder_files import FolderFiles, counted, files_below, matching, no_data, omissions
from lmrecipes.data.corpora.hub import download, newest_commit, repository_files
from lmrecipes.data.corpora.malformed import Flaws, OnMalformedLine
from lmrecipes.data.corpora.python_text import PythonText
from lmrecipes.data.embedded.languages import DIGEST, sentences_of
from lmrecipes.data.embedded.squad import Invented, InventedFacts, InventedPassages
from lmrecipes.runtime.open_file import PACKED

EMBEDDED: dict[str, type[PythonText] | type[Invented]] = {
    "embedded": PythonText,
    "facts": InventedFacts,
    "passages": InventedPassages,
}
EMBEDDED_LANGUAGE = "embedded:"
PART_BYTES = 32 << 20
# Settings added later, the last fields.
_ADDED = 3


@dataclass(frozen=True, kw_only=True)
class DocumentSource:
    """A source of documents: local files, a repository on the hub, or embedded text."""

    name: str
    """Name of the source. Without path and repository, `embedded` is English text that comes with Python, `passages`
    are synthetic passages as in embedded_squad's training split, and `facts` single facts of that kind."""
    weight: float = 1.0
    """Epochs over this source per training epoch; 2.5 = every example twice plus a fresh random half. Span corruption,
    which samples sources by a power of their size, multiplies the sampling probability by it."""
    path: str | None = None
    """File, folder or pattern of local files: text, JSON lines (.jsonl, .json) or parquet; also .gz and .zst. Of a
    folder and those below it all such files are read, except hidden ones and those that describe a data set. Or
    embedded:LANGUAGE for synthetic sentences, embedded:passages or embedded:facts."""
    repository: str | None = None
    """Repository on the Hugging Face hub with such files, such as wikimedia/wikipedia; unused with a path."""
    config: str | None = None
    """Folder of the repository, such as 20231101.en."""
    revision: str | None = None
    """Branch, tag or commit of the repository; left out, the newest."""
    documents: Boundaries | None = None
    """What ends a document: a `line` (or row), a `blank_line`, or the `file`; left out, blank_line for text files and
    line for other formats."""
    wrapped: bool = False
    """Whether lines are wrapped within sentences, so that only a blank line ends a paragraph (books as text)."""
    key: str = "text"
    """Key or column of the text, in JSON lines and parquet."""
    files_named: str | None = None
    """Pattern that a repository's files must match, such as c4-de.tfrecord-*.json.gz; left out, those for training."""
    max_files: int | None = None
    """Maximum number of a repository's files, read in order; left out, all."""
    on_malformed: OnMalformedLine = "refuse"
    """What to do about lines that are not JSON, have no text, or are truncated: refuse with file and line, or skip."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"the weight of source {self.name} is {self.weight}; it must be above 0")
        at_least(self, f"source {self.name}: ", max_files=1)

    def check(self) -> None:
        """Checks that there is something to read.

        Raises:
            ValueError: if neither path nor repository is given.
        """
        if self.path is None and self.repository is None and self.name not in EMBEDDED:
            raise ValueError(
                f"source {self.name} has neither path nor repository; give local files with "
                f"--data.paths.{self.name} FOLDER, or a path or repository in data.sources"
            )

    @property
    def local(self) -> Path | None:
        """Path or pattern of its files, if they are local."""
        return None if self.path is None or self.embedded else Path(self.path).expanduser().absolute()

    @property
    def embedded(self) -> str | None:
        """The embedded corpus that a path names, such as a language of the synthetic sentences."""
        path = self.path or ""
        return path.removeprefix(EMBEDDED_LANGUAGE) if path.startswith(EMBEDDED_LANGUAGE) else None

    @property
    def _generated(self) -> str | None:
        """The key in EMBEDDED, if it is one of them."""
        name = self.embedded if self.path is not None or self.repository is not None else self.name
        return name if name in EMBEDDED else None

    @property
    def gone(self) -> bool:
        """Whether its files are local, and none of them exists."""
        return self.local is not None and not matching(self.local)

    def describe(self) -> dict[str, Any]:
        """What identifies its documents: settings, and names, sizes and times of local files.

        Raises:
            ValueError: if there are no files.
        """
        settings = {name: value for name, value in asdict(self).items() if name not in ("path", "weight")}
        for later in fields(self)[-_ADDED:]:
            # Described only if set, so that existing caches are still found.
            if later.default is not MISSING and settings[later.name] == later.default:
                del settings[later.name]
        if self._generated:
            return settings | EMBEDDED[self._generated]().describe()
        if self.embedded:
            return settings | {"embedded": self.embedded, "digest": DIGEST}
        if self.local is not None:
            stats = {str(path.resolve()): path.stat() for path in self._local_files()}
            return settings | {"files": {name: [s.st_size, s.st_mtime_ns] for name, s in stats.items()}}
        return settings

    def commit(self) -> str | None:
        """The commit of its repository; None for local files, or if the hub cannot be reached."""
        remote = self.local is None and self.repository is not None
        return newest_commit(str(self.repository), self.revision) if remote else None

    def boundaries(self, name: str) -> Boundaries:
        """Where documents of a file end."""
        return self.documents or ("blank_line" if form(name) == ".txt" else "line")

    def listing(self, documents: int | None = None) -> str | None:
        """What is read of local files, by folder, and what is passed over; None for sources without local files.

        Args:
            documents: how many there are, if that is known.
        """
        if self.local is None or self.gone:
            return None
        files = self._local_files()
        n_documents = "" if documents is None else f", {counted(documents, 'document')}"
        if not self.local.is_dir():
            return f"source {self.name}: {self.path}: {counted(len(files), 'file')}{n_documents}"
        folders = Counter(str(path.parent.relative_to(self.local)) for path in files)
        by_folder = ", ".join(f"{n:,} in {self.path if name == '.' else name + '/'}" for name, n in folders.items())
        left_out = omissions(self._folder_files().passed_over)
        return f"source {self.name}: {self.path}: {counted(len(files), 'file')} ({by_folder}){n_documents}{left_out}"

    def _folder_files(self) -> FolderFiles:
        assert self.local is not None
        return files_below(self.local, readable, "not a document file")

    def _local_files(self) -> Sequence[Path]:
        assert self.local is not None
        if self.local.is_dir():
            folder = self._folder_files()
            if not folder.read:
                raise ValueError(
                    f"source {self.name}: {self.local} has no files that end in {', '.join(ENDINGS)} (also packed, "
                    f"{' or '.join(PACKED)}); name them by a pattern such as {self.local}/*"
                    f"{omissions(folder.passed_over)}"
                )
            return folder.read
        files = [path for path in matching(self.local) if path.is_file()]
        if not files:
            raise ValueError(
                f"source {self.name}: {self.local} is not a file, folder or pattern that matches files; "
                f"give one with --data.paths.{self.name}"
            )
        return files

    def files(self, commit: str | None) -> list[tuple[str, int]]:
        """Name and bytes of every file."""
        if self.local is not None:
            return [(str(path), path.stat().st_size) for path in self._local_files()]
        if self.repository is not None and not self.embedded:
            listed = repository_files(self.repository, self.config, commit or self.revision, self.files_named)
            files = [file for file in listed if readable(file[0]) and no_data(Path(file[0]).name) is None]
            if not files:
                raise ValueError(
                    f"source {self.name}: {self.repository} ({self.config}) has no files named "
                    f"{self.files_named or 'for training'}"
                )
            return files[: self.max_files]
        return [(self.embedded or self.name, 1)]

    def parts(self, commit: str | None) -> Iterator[list[Span]]:
        """Its files in parts of about PART_BYTES, joining small files.

        Raises:
            ValueError: if it has no text.
        """
        files = self.files(commit)
        if not sum(size for _, size in files):
            location = self.path or f"{self.repository} ({self.config})"
            raise ValueError(f"source {self.name} is empty: {location} has no text")
        part: list[Span] = []
        part_size = 0
        for name, size in files:
            file_spans = list(spans(name, size, self.boundaries(name), PART_BYTES))
            for span in file_spans:
                if part and part_size + size / len(file_spans) > PART_BYTES:
                    yield part
                    part, part_size = [], 0
                part.append(span)
                part_size += size // len(file_spans)
        if part:
            yield part

    def read(self, part: Sequence[Span], commit: str | None, flaws: Flaws | None = None) -> Iterator[list[str]]:
        """Paragraphs of every document of a part.

        Args:
            part: of the files.
            commit: of the repository.
            flaws: collects malformed lines; left out, they are refused.

        Raises:
            ValueError: for malformed text, with file and line.
        """
        if self._generated:
            for _, paragraphs in EMBEDDED[self._generated]().documents():
                yield paragraphs
            return
        if self.embedded:
            for sentence in sentences_of(self.embedded):
                yield [sentence]
            return
        for span in part:
            local = self.local is not None
            path = Path(span.file) if local else download(str(self.repository), span.file, commit or self.revision)
            for text in read_documents(path, span, self.boundaries(span.file), self.key, flaws):
                yield self._paragraphs(text)

    def _paragraphs(self, text: str) -> list[str]:
        if not self.wrapped:
            return text.split("\n")
        paragraphs: list[list[str]] = [[]]
        for line in text.split("\n"):
            if line.strip():
                paragraphs[-1].append(line.strip())
            elif paragraphs[-1]:
                paragraphs.append([])
        return [" ".join(lines) for lines in paragraphs if lines]


class Part(NamedTuple):
    """A unit of preparation."""

    source: int
    """Number of the source."""
    spans: list[Span]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Sources and the settings that identify their preparation."""

    sources: Sequence[DocumentSource]
    seq_len: int
    """Maximum tokens of an example."""
    held_out: float = 0.01
    """Share of the documents for validation, and as many again for the test."""
    seed: int = 1111
    commits: Sequence[str | None] = field(default=(), compare=False)
    """Commit of each source on the hub, once known."""

    def describe(self) -> dict[str, Any]:
        """What identifies the examples; weights do not, they apply when examples are sampled."""
        return {
            "sources": [source.describe() for source in self.sources],
            "seq_len": self.seq_len,
            "held_out": self.held_out,
            "seed": self.seed,
        }

    def parts(self) -> list[Part]:
        """All parts, source by source."""
        pairs = zip(self.sources, self.commits, strict=True)
        return [Part(number, part) for number, (source, commit) in enumerate(pairs) for part in source.parts(commit)]

    def read(self, part: Part, flaws: Flaws | None = None) -> Iterator[list[str]]:
        """Paragraphs of every document of a part."""
        return self.sources[part.source].read(part.spans, self.commits[part.source], flaws)
