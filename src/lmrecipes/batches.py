"""The contract between data and models: the typed batch of each objective, and the batch plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from torch import Tensor

from lmrecipes.config.validation import at_least, nearest_divisor


class StreamBatch(NamedTuple):
    """A segment of several parallel token streams (language modelling with memory)."""

    input_ids: Tensor
    """Tokens, int64 of shape (streams, length)."""
    targets: Tensor
    """The same streams one token later, int64 of shape (streams, length)."""
    chunk: int = 0
    """Number of the micro-batch within a step of gradient accumulation; each micro-batch has its own memory."""
    restart: bool = False
    """Whether the streams restart here, so that the memory must be cleared."""
    scored: bool = True
    """False for warm-up segments of an evaluation, which fill the memory and are excluded from the loss."""


class MaskedBatch(NamedTuple):
    """Sequences with masked positions to predict (masked language modelling, replaced token detection)."""

    input_ids: Tensor
    """Tokens after masking, int64 of shape (sequences, length); 0 beyond a sequence's end."""
    token_type_ids: Tensor
    """0 in the first segment, 1 in the second, int64 of shape (sequences, length)."""
    lengths: Tensor
    """Tokens of each sequence without padding, int64 of shape (sequences,)."""
    positions: Tensor
    """Positions to predict, int64 of shape (sequences, predictions); 0 in padding."""
    originals: Tensor
    """Original tokens at these positions, int64 of shape (sequences, predictions)."""
    weights: Tensor
    """1 for a prediction, 0 in padding, float32 of shape (sequences, predictions)."""

    def to(self, device: Any, non_blocking: bool = False) -> MaskedBatch:
        """Moves the batch to a device, except tensors from which sizes are read, to avoid synchronizing."""
        return MaskedBatch(*_to_device(self, device, non_blocking, keep=("lengths", "weights")))


class SpanBatch(NamedTuple):
    """Windows of question and context, with the position of the answer (extractive question answering)."""

    input_ids: Tensor
    """[CLS] question [SEP] context [SEP], int64 of shape (windows, length); 0 beyond a window's end."""
    token_type_ids: Tensor
    """1 in the context and its [SEP], int64 of shape (windows, length)."""
    lengths: Tensor
    """Tokens of each window without padding, int64 of shape (windows,)."""
    allowed: Tensor
    """Where an answer may begin or end: the context's tokens and [CLS], bool of shape (windows, length)."""
    starts: Tensor
    """Position of the answer's first token, 0 ([CLS]) if the window has none, int64 of shape (windows,)."""
    ends: Tensor
    """Position of the answer's last token, 0 ([CLS]) if the window has none, int64 of shape (windows,)."""
    impossible: Tensor
    """1 if there is no answer, by the recipe's rule for windows, float32 of shape (windows,)."""
    windows: Tensor
    """Number of each window in its split, int64 of shape (windows,); -1 for padding."""
    n_best: int = 20
    """Spans to find in each window."""
    max_answer_len: int = 30
    """Maximum tokens of a span."""

    def to(self, device: Any, non_blocking: bool = False) -> SpanBatch:
        """Moves the batch to a device, except tensors from which sizes are read, to avoid synchronizing."""
        return SpanBatch(*_to_device(self, device, non_blocking, keep=("lengths", "n_best", "max_answer_len")))


class SpanScores(NamedTuple):
    """Candidate spans in the windows of a SpanBatch with their scores, and no-answer scores.

    Evaluation steps return this. Invalid spans (an end before the start, too long, outside the context, or with a
    start that another window sees with more context) are dropped later, so a head may return them. A head of two
    logits per token gets all of this from `data.tasks.squad.best_spans`.
    """

    windows: Tensor
    """Number of each window in its split, from SpanBatch, int64 of shape (windows,)."""
    starts: Tensor
    """Position in its window of each span's first token, int64 of shape (windows, spans), in any order."""
    ends: Tensor
    """Position of each span's last token, int64 of shape (windows, spans)."""
    start_scores: Tensor
    """Logit or log-probability of each start, of shape (windows, spans); -inf for padding."""
    end_scores: Tensor
    """Logit or log-probability of each end, of shape (windows, spans). A span's score is the sum of the two."""
    null: Tensor
    """No-answer score, of shape (windows,)."""
    null_is_odds: bool
    """True: `null` is the log odds of a classifier. False: a score comparable to those of the spans."""


def _to_device(batch: Any, device: Any, non_blocking: bool, keep: tuple[str, ...]) -> list[Any]:
    tensors = batch._asdict().items()
    return [x if name in keep else x.to(device, non_blocking=non_blocking) for name, x in tensors]


class TextPairBatch(NamedTuple):
    """Input and target texts of an encoder-decoder, one or several pairs packed into each row."""

    input_ids: Tensor
    """Tokens of the input texts one after the other, int64 of shape (rows, input length); 0 at the end of a row."""
    input_pairs: Tensor
    """Pair that each token belongs to, from 1 in each row, int64 of shape (rows, input length); 0 in padding."""
    decoder_input_ids: Tensor
    """Target texts after the start token, int64 of shape (rows, target length)."""
    targets: Tensor
    """Target texts with their end, one token before decoder_input_ids, int64 of shape (rows, target length)."""
    target_pairs: Tensor
    """Pair that each target belongs to, from 1 in each row, int64 of shape (rows, target length); 0 in padding."""
    languages: Tensor
    """Number of the language of each row's first pair in the DataModule's list, int64 of shape (rows,)."""
    questions: Tensor
    """Number of each row's first pair in its split, int64 of shape (rows,); evaluation has one pair a row."""


class WrittenTexts(NamedTuple):
    """Texts generated for the rows of a TextPairBatch; evaluation steps return this."""

    questions: Tensor
    """Number of each row's question, from the batch, int64 of shape (rows,); -1 for padding."""
    tokens: Tensor
    """Generated tokens without the start token, int64 of shape (rows, length); tokens after the first end of a text are
    ignored."""
    scores: Tensor
    """Log-probability of each text, of shape (rows,)."""


@dataclass(frozen=True)
class TextStatistics:
    """Size of a text in several units."""

    tokens: int
    """Tokens of the vocabulary, end-of-line tokens included."""
    words: int
    """Words between white space, and one for every line's end."""
    characters: int
    """Characters, line ends included."""
    spells: bool = True
    """Whether the vocabulary can spell every text, as characters and bytes can; a word vocabulary has <unk>."""


# Tokens; far beyond what attention can be computed over.
_LONGEST = 2**31 - 1
# Fields of a BatchPlan that only some data and models read, and declare as `batch_fields`.
OPTIONAL_FIELDS = frozenset(("seq_len", "mem_len", "clamp_len", "same_length", "target_len"))


@dataclass(frozen=True, kw_only=True)
class EvalBatchPlan:
    """How data is batched for evaluation; missing fields are as in training."""

    batch_size: int = 16
    """Parallel streams over all devices."""
    seq_len: int | None = None
    """Tokens predicted per segment."""
    mem_len: int | None = None
    """Tokens of memory per layer; by default seq_len + mem_len is as in training."""
    clamp_len: int | None = None
    """Greater relative distances are clamped to it; 0 for no limit."""
    same_length: bool | None = None
    """Whether every token attends to the same number of tokens before it, mem_len."""


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """A split's batch plan with every field resolved."""

    batch_size: int
    """Parallel streams over all devices."""
    seq_len: int
    """Tokens predicted per segment."""
    mem_len: int
    """Tokens of memory per layer."""
    clamp_len: int = 0
    """Greater relative distances are clamped to it; 0 for no limit."""
    same_length: bool = False
    """Whether every token attends to the same number of tokens before it, mem_len."""


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How data is batched: the `batch:` group of a recipe, shared by data and model."""

    global_batch_size: int
    """Sequences per optimizer step, over all devices and micro-batches."""
    seq_len: int | None = None
    """Tokens predicted per sequence and step; absent for data without such a length."""
    micro_batch_size: int | None = None
    """Sequences of a micro-batch, on each device; accumulation follows from it. Default: a device's whole share."""
    mem_len: int = 0
    """Tokens of memory per layer carried from segment to segment."""
    clamp_len: int = 0
    """Greater relative distances are clamped to it; 0 for no limit."""
    same_length: bool = False
    """Whether every token attends to the same number of tokens before it, mem_len."""
    target_len: int | None = None
    """Maximum tokens of a target text of an encoder-decoder; default: a quarter of seq_len, as published."""
    val: EvalBatchPlan = field(default_factory=EvalBatchPlan)
    """How validation data is batched."""
    test: EvalBatchPlan = field(default_factory=EvalBatchPlan)
    """How test data is batched."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field and what would work.
        """
        at_least(
            self, "batch.", global_batch_size=1, seq_len=1, micro_batch_size=1, mem_len=0, clamp_len=0, target_len=1
        )
        for split, evaluation in (("val", self.val), ("test", self.test)):
            at_least(evaluation, f"batch.{split}.", batch_size=1, seq_len=1, mem_len=0, clamp_len=0)
        plans: tuple[tuple[str, Any], ...] = (("", self), ("val.", self.val), ("test.", self.test))
        for prefix, plan in plans:
            for name in ("seq_len", "mem_len", "clamp_len", "target_len"):
                if (getattr(plan, name, None) or 0) > _LONGEST:
                    raise ValueError(f"batch.{prefix}{name} is {getattr(plan, name)}; it must be {_LONGEST} or less")

    @property
    def sequence_length(self) -> int:
        """`seq_len`, which must be set.

        Raises:
            ValueError: if it is absent.
        """
        if self.seq_len is None:
            raise ValueError("batch.seq_len is missing; give the tokens of a sequence, such as 512")
        return self.seq_len

    @property
    def max_target_len(self) -> int:
        """Maximum number of tokens of a target text."""
        return max(self.sequence_length // 4, 1) if self.target_len is None else self.target_len

    def check_read(self, readers: Mapping[str, frozenset[str]]) -> None:
        """Refuses fields that nothing reads, and a missing field that something needs.

        Args:
            readers: which of `seq_len, mem_len, clamp_len, same_length, target_len` each reads, by its name.

        Raises:
            ValueError: naming the field.
        """
        read = frozenset().union(*readers.values())
        for prefix, plan in (("", self), ("val.", self.val), ("test.", self.test)):
            for one in fields(plan):
                value = getattr(plan, one.name)
                if one.name in OPTIONAL_FIELDS - read and value != one.default:
                    who = " nor ".join(readers)
                    raise ValueError(f"batch.{prefix}{one.name} is {value}, but neither {who} reads it; leave it out")
        if self.seq_len is None and "seq_len" in read:
            name = next(name for name, own in readers.items() if "seq_len" in own)
            raise ValueError(
                f"batch.seq_len is missing, which {name} reads; give the tokens of a sequence, such as 512"
            )

    def accumulation(self, world_size: int) -> int:
        """Micro-batches per optimizer step on each of `world_size` devices.

        Raises:
            ValueError: if global_batch_size does not divide evenly, naming sizes that would.
        """
        if self.global_batch_size % world_size:
            raise ValueError(
                f"batch.global_batch_size is {self.global_batch_size} and is not divisible by {world_size} devices "
                f"(trainer.devices on each of trainer.num_nodes); "
                f"{_nearest_multiple(self.global_batch_size, world_size)} would"
            )
        share = self.global_batch_size // world_size
        micro = share if self.micro_batch_size is None else self.micro_batch_size
        if share % micro:
            raise ValueError(
                f"batch.micro_batch_size is {micro} and does not divide the {share} sequences of each device "
                f"(global_batch_size {self.global_batch_size} over {world_size}); "
                f"{nearest_divisor(share, micro)} would"
            )
        return share // micro

    def for_split(self, split: str) -> SplitPlan:
        """The plan of `split` (train, val or test) with every field resolved."""
        train = SplitPlan(
            batch_size=self.global_batch_size,
            seq_len=self.seq_len or 0,
            mem_len=self.mem_len,
            clamp_len=self.clamp_len,
            same_length=self.same_length,
        )
        if split == "train":
            return train
        plan = {"val": self.val, "test": self.test}[split]
        seq_len = train.seq_len if plan.seq_len is None else plan.seq_len
        mem_len = max(self.mem_len + train.seq_len - seq_len, 0) if self.mem_len else 0
        return replace(
            train,
            batch_size=plan.batch_size,
            seq_len=seq_len,
            mem_len=mem_len if plan.mem_len is None else plan.mem_len,
            clamp_len=self.clamp_len if plan.clamp_len is None else plan.clamp_len,
            same_length=self.same_length if plan.same_length is None else plan.same_length,
        )


def _nearest_multiple(value: int, of: int) -> int:
    return max(of, round(value / of) * of)
