"""mC4: web pages in many languages, as texts with corrupted spans (Xue et al. 2021, arXiv:2010.11934)."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lmrecipes.batches import BatchPlan
from lmrecipes.data.corpora.documents import EMBEDDED_LANGUAGE, DocumentSource
from lmrecipes.data.corpora.malformed import OnMalformedLine
from lmrecipes.data.embedded.languages import LANGUAGES
from lmrecipes.data.objectives.seq2seq_lm import PairTrainingBatches
from lmrecipes.data.objectives.span_corruption import SpanCorruption
from lmrecipes.data.objectives.span_corruption_lm import SpanCorruptionLM
from lmrecipes.data.prepared.shards import ALL, Share
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings
from lmrecipes.datamodules.documents import DocumentsDataModule
from lmrecipes.runtime.path_names import check_plain

_LANGUAGE = "{language}"


class MC4DataModule(DocumentsDataModule):
    """Documents by language, tokenized once, packed into rows and corrupted dynamically.

    Rows are a pure function of the optimizer step: a resumed run reads exactly what the interrupted one would have,
    with any number of workers, and with any number of ranks for the same global batch.
    """

    name = "mc4"

    def __init__(
        self,
        batch: BatchPlan,
        languages: Sequence[str] = LANGUAGES,
        path: str | None = None,
        paths: dict[str, str] | None = None,
        repository: str | None = "allenai/c4",
        revision: str | None = None,
        max_files: int | None = None,
        key: str = "text",
        alpha: float = 0.7,
        weigh_by: Literal["tokens", "documents"] = "tokens",
        corruption: SpanCorruption | None = None,
        packed: bool = True,
        sentencepiece: SentencePieceSettings | None = None,
        held_out: float = 0.0001,
        on_malformed: OnMalformedLine = "refuse",
        cache_dir: str | None = None,
        num_workers: int = 0,
        seed: int = 1234,
        vocabulary_dir: str | None = None,
    ) -> None:
        """Stores the settings; nothing is read yet.

        Args:
            batch: a recipe's `batch:` group: seq_len tokens of a row's inputs and target_len of its targets.
            languages: by code.
            path: local files in place of the hub's, with {language} for the code: a file, folder or pattern, such as
                corpus/{language} or corpus/c4-{language}.*.json.gz; JSON lines, text or parquet, also .gz and .zst.
                embedded:{language} for synthetic sentences.
            paths: files of single languages instead, by code.
            repository: repository on the Hugging Face hub with the layout of allenai/c4, English from C4 itself.
            revision: branch, tag or commit of the repository; left out, the newest.
            max_files: maximum number of the repository's files per language.
            key: key or column of the text.
            alpha: language sampling exponent: the probability of a language is proportional to its size to this power.
            weigh_by: unit of that size: tokens, as in NeMo (0.7), or documents, as in Google's (0.3).
            corruption: which spans are masked; left out, as Google's.
            packed: whether a row holds several texts, or one.
            sentencepiece: which vocabulary to make; left out, one is learned from the documents.
            held_out: share of the documents for validation, and as many again for the test.
            on_malformed: what to do about lines that are not JSON, have no text, or are truncated: refuse, or skip.
            cache_dir: where prepared data goes; left out, $LMRECIPES_CACHE or ~/.cache/lmrecipes.
            num_workers: processes that load training batches; a core makes about half a million tokens a second.
            seed: for splits, order and spans.
            vocabulary_dir: a saved vocabulary to use instead of making one.

        Raises:
            ValueError: for settings that do not work, naming the field.
        """
        if not languages or len(set(languages)) < len(languages):
            raise ValueError(f"data.languages is {list(languages)}; give one or more, each once, such as [en, de]")
        for code in languages:
            check_plain("data.languages", code, "de")
        if unknown := [code for code in paths or {} if code not in languages]:
            raise ValueError(f"data.paths names {unknown[0]}, which is none of data.languages: {', '.join(languages)}")
        if path is not None and _LANGUAGE not in path and len(languages) > 1:
            raise ValueError(f"data.path is {path}; it needs {_LANGUAGE} in place of the language's code")
        self.languages = list(languages)
        self.path = path
        common: dict[str, Any] = {"key": key, "on_malformed": on_malformed}
        sources = []
        for code in self.languages:
            local = (paths or {}).get(code) or (path and path.replace(_LANGUAGE, code))
            if local is not None:
                sources.append(DocumentSource(name=code, path=local, documents=_boundaries(local), **common))
            else:
                remote: dict[str, Any] = _in_c4(code) | {"revision": revision, "max_files": max_files}
                sources.append(DocumentSource(name=code, repository=repository, **remote, **common))
        try:
            objective = SpanCorruptionLM(corruption, packed, alpha, weigh_by)
        except ValueError as error:
            raise ValueError(str(error).replace("data.objective.", "data.")) from None
        super().__init__(
            batch,
            sources,
            objective=objective,
            sentencepiece=sentencepiece,
            held_out=held_out,
            cache_dir=cache_dir,
            num_workers=num_workers,
            seed=seed,
            vocabulary_dir=vocabulary_dir,
        )
        self._counting: PairTrainingBatches | None = None

    @staticmethod
    def tiny_data(settings: Mapping[str, Any], text: Path) -> dict[str, Any]:
        """A small corpus for a rehearsal: every line of a text is a document of each of three languages."""
        languages = list(settings["languages"])[:3]
        return {
            "languages": languages,
            "path": None,
            "paths": dict.fromkeys(languages, str(text / "train.txt")),
            "sentencepiece": {"vocab_size": 400},
            "vocabulary_dir": None,
            "held_out": 0.2,
        }

    def prepare(self, progress: bool = True, workers: int | None = None, share: Share = ALL) -> None:
        """Tokenizes the documents and packs them into rows unless that was done; training then needs no network.

        Raises:
            ValueError: if the text cannot be loaded or read; naming the language, and the line.
        """
        if self._run_vocabulary is None:
            self._check_languages()
        super().prepare(progress, workers, share)

    def _check_languages(self) -> None:
        missing = [source.name for source in self.sources if source.gone]
        # If all files are missing, the prepared corpus may still be in the cache.
        if not missing or len(missing) == len(self.sources) or self.path is None:
            return
        before, _, after = self.path.partition(_LANGUAGE)
        codes = {name[len(before) :] for name in glob.glob(f"{glob.escape(before)}*")} if after == "" else set()
        existing = sorted(codes) or [source.name for source in self.sources if not source.gone]
        raise ValueError(
            f"data.languages has {', '.join(missing)}, but {self.path} has no such files; "
            f"it has {', '.join(existing)}; leave the missing out, or give their files with data.paths"
        )

    def tokens_by_language(self, first_step: int, end: int) -> dict[str, int]:
        """Tokens of text that all ranks together read from one step to before another, by language."""
        self._counting = self._counting or self.train_batches()
        counts = self._counting.text_tokens(first_step, end, len(self.languages))
        return dict(zip(self.languages, counts.tolist(), strict=True))


def _in_c4(code: str) -> dict[str, str]:
    """Location of a language in allenai/c4: English is C4, the others are mC4."""
    if code == "en":
        return {"config": "en", "files_named": "c4-train.*.json.gz"}
    return {"config": "multilingual", "files_named": f"c4-{code}.tfrecord-*.json.gz"}


def _boundaries(path: str) -> Literal["line"] | None:
    """In plain text each line is a document; other formats mark documents themselves."""
    is_text = not path.startswith(EMBEDDED_LANGUAGE) and path.endswith((".txt", ".txt.gz", ".txt.zst"))
    return "line" if is_text else None
