"""XNLI: whether one sentence follows from another, learned in English and tested in other languages.

Conneau et al. 2018 (arXiv:1809.05053), Williams et al. 2018 (arXiv:1704.05426).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lmrecipes.batches import BatchPlan, TextPairBatch, WrittenTexts
from lmrecipes.data.corpora.hub import file_identity
from lmrecipes.data.corpora.malformed import OnMalformedLine, complaint
from lmrecipes.data.tasks.nli import Inference, Prompt, asked, read_nli
from lmrecipes.data.tasks.nli_embedded import EMBEDDED, make_nli
from lmrecipes.data.tasks.text_pairs import TextPair, TextPairs, tokenized, written
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings
from lmrecipes.datamodules.bucketed import SPLITS, BucketedDataModule, Report, SplitExamples
from lmrecipes.runtime.path_names import check_plain

_LANGUAGE = "{language}"
_VERSION = 1


class XNLIDataModule(BucketedDataModule):
    """Pairs of sentences as text to text: MNLI to train on, XNLI in several languages to evaluate."""

    cache_name, unit, file_format = "xnli", "pairs", "a file of MNLI or XNLI"
    task = "xnli"
    batch_type = TextPairBatch
    batch_fields = frozenset(("seq_len", "target_len"))
    # Minimum lengths for two sentences.
    tiny_lengths: ClassVar[dict[str, int]] = {"seq_len": 64, "target_len": 8}

    def __init__(
        self,
        batch: BatchPlan,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        languages: Sequence[str] = ("en", "es", "de", "fr", "zh"),
        prompt: Prompt = "nemo",
        input_eos: bool = True,
        vocabulary_dir: str | None = None,
        sentencepiece: SentencePieceSettings | None = None,
        on_malformed: OnMalformedLine = "refuse",
        cache_dir: str | None = None,
        num_workers: int = 0,
        seed: int = 1234,
    ) -> None:
        """Stores the settings; nothing is read yet.

        Args:
            batch: a recipe's `batch:` group. An evaluation batch has room for batch_size inputs of full length over all
                devices, and for more if they are shorter.
            train: MNLI's training file: .tsv, .csv, .jsonl or .parquet, also .gz; hf://datasets/OWNER/NAME/FILE;
                embedded:train.
            val: file to validate on; with {language} one per language, otherwise one whose lines name the language.
            test: file to test on, likewise.
            languages: to evaluate.
            prompt: nemo: the published form, labels as words. google: premise first, labels as digits.
            input_eos: whether an input ends with </s>, as in pretraining.
            vocabulary_dir: a run, or a folder, with the vocabulary to use.
            sentencepiece: which SentencePiece vocabulary to read or learn otherwise.
            on_malformed: what to do about lines without a pair: refuse, or skip.
            cache_dir: where prepared data goes; left out, $LMRECIPES_CACHE or ~/.cache/lmrecipes.
            num_workers: processes that load batches.
            seed: for the order of training.

        Raises:
            ValueError: for settings that do not work.
        """
        if not languages or len(set(languages)) < len(languages):
            raise ValueError(f"data.languages is {list(languages)}; give one or more, each once, such as [en, de]")
        for code in languages:
            check_plain("data.languages", code, "de")
        if _LANGUAGE in (train or ""):
            raise ValueError(f"data.train is {train}; training is in one language, so name one file")
        super().__init__(
            batch,
            {"train": train, "val": val, "test": test},
            sentencepiece or SentencePieceSettings(),
            vocabulary_dir=vocabulary_dir,
            cache_dir=cache_dir,
            num_workers=num_workers,
            seed=seed,
        )
        self.languages = list(languages)
        self.prompt: Prompt = prompt
        self.input_eos = input_eos
        self.on_malformed = on_malformed

    @staticmethod
    def tiny_data(settings: Mapping[str, Any], text: Path) -> dict[str, Any]:
        """The embedded synthetic pairs, for a rehearsal."""
        files = {split: f"{EMBEDDED}{split}" for split in SPLITS if settings[split] is not None}
        return {**files, "languages": ["en", "de"], "vocabulary_dir": None, "sentencepiece": {"vocab_size": 400}}

    def write_synthetic(self, folder: Path) -> str:
        """Writes nothing: the embedded pairs are small."""
        return "embedded pairs"

    def _sources(self, split: str) -> list[tuple[str, str | None]]:
        """Files of a split, and the language to read from each."""
        file = self.file(split)
        return (
            [(file, None)] if split == "train" else [(file.replace(_LANGUAGE, code), code) for code in self.languages]
        )

    def _described(self, split: str) -> str:
        files = [[file, code, *file_identity(file)] for file, code in self._sources(split)]
        return json.dumps([_VERSION, files, self.on_malformed], sort_keys=True)

    def _read(self, split: str) -> list[Inference]:
        pairs: list[Inference] = []
        for file, code in self._sources(split):
            if file.startswith(EMBEDDED):
                pairs += make_nli(file, code)
                continue
            content = read_nli(file, self.on_malformed, language=code)
            # XNLI is published with some unlabelled pairs: no warning.
            if problems := complaint({kind: info for kind, info in content.flaws.items() if "label" not in kind}):
                warnings.warn(f"{file}: {problems}", stacklevel=2)
            pairs += content.pairs
        return pairs

    def prepare_split(self, split: str, report: Report) -> SplitExamples:
        """The pairs of a split as tokens."""
        input_len, target_len = self.batch_plan.for_split(split).seq_len, self.batch_plan.max_target_len
        vocabulary, languages = self.vocabulary, self.languages_of(split)

        def write(folder: Path) -> None:
            texts = []
            for number, pair in enumerate(self._read(split)):
                language = languages.index(pair.language) if split != "train" else 0
                texts.append(TextPair(*asked(pair, self.prompt), number, language))
            tokenized(texts, vocabulary, input_len, target_len, input_eos=self.input_eos, progress=report).save(folder)

        key = [self._described(split), vocabulary.digest(), [input_len, target_len], self.prompt, self.input_eos]
        pairs = TextPairs.load(self.cache_entry(json.dumps(key), write))
        return SplitExamples(
            pairs, pairs.lengths, lambda rows: pairs.batch(rows, input_len, target_len, vocabulary.pad_id)
        )

    def learning_key(self) -> str:
        """The training pairs and the vocabulary's settings."""
        return json.dumps([self._described("train"), self.settings.describe()])

    def learning_texts(self) -> list[str]:
        """The training pairs as model inputs."""
        return [" ".join(asked(pair, self.prompt)) for pair in self._read("train")]

    def pairs(self, split: str) -> TextPairs:
        """The texts of a split (train, val or test), tokenized."""
        pairs: TextPairs = self.examples(split).content
        return pairs

    def languages_of(self, split: str) -> list[str]:
        """The languages of a split: English to train on."""
        return ["en"] if split == "train" else self.languages

    def asked(self, split: str) -> int:
        """Texts of a split."""
        return len(self.pairs(split))

    def verdicts(self, split: str, output: WrittenTexts) -> dict[int, tuple[int, bool]]:
        """By the number of each text: the number of its language, and whether exactly the label was generated."""
        pairs, decode = self.pairs(split), self.vocabulary.decode
        return {
            number: (int(pairs.language[number]), text == decode(pairs.pair(number).targets.tolist()).strip())
            for number, text, _ in written(output, self.vocabulary)
        }
