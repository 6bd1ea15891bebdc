"""Texts are packed into rows with little padding, none is lost, and rows record which pair each token belongs to."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from data_helpers import restore
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import requires
from lmrecipes.data.objectives.row_packing import Filling, Packing, index_rows, row_starts
from lmrecipes.data.objectives.seq2seq_lm import PairEvaluationBatches, PairTrainingBatches, SpanCorrupter
from lmrecipes.data.objectives.span_corruption import SpanCorruption
from lmrecipes.data.sampling.interleaving import Interleaving
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.spm_proto import model_of
from lmrecipes.data.tokenizers.spm_trainer import learn_pieces
from lmrecipes.trainer_state import DataRank

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))
GOOGLE, NEMO = SpanCorruption(), SpanCorruption(spans="nemo", input_eos=False)
PIECES = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{i}", -1.0) for i in range(5000))]
VOCABULARY = SentencePiece(model_of(PIECES))


def packing(input_len=64, target_len=32, corruption=GOOGLE, packed=True):
    return Packing(corruption=corruption, input_len=input_len, target_len=target_len, packed=packed)


def corpus(lengths, path, config, documents=None):
    """Documents of consecutive numbers, and their rows."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rows = index_rows(path / "rows", starts, documents or [len(lengths)], config)
    tokens = (np.arange(starts[-1]) % 5000 + 3).astype(np.uint32)
    return SpanCorrupter(tokens, starts, rows, VOCABULARY, seed=1), tokens, starts


def texts_in_row(batch, row):
    """The texts of a row, reconstructed from the batch's pair numbers."""
    result = []
    for pair in range(1, int(batch.input_pairs[row].max()) + 1):
        inputs = batch.input_ids[row][batch.input_pairs[row] == pair].tolist()
        targets = batch.targets[row][batch.target_pairs[row] == pair].tolist()
        before = batch.decoder_input_ids[row][batch.target_pairs[row] == pair].tolist()
        assert before == [0, *targets[:-1]]
        assert targets[-1] == 1
        result.append(restore(inputs, targets, VOCABULARY.sentinels.tolist(), 1))
    return result


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    nemo=st.booleans(),
    packed=st.booleans(),
    data=st.data(),
)
def test_every_token_is_in_exactly_one_row_within_its_length(lengths, nemo, packed, data, tmp_path_factory):
    half = data.draw(st.integers(0, len(lengths)))
    config = packing(corruption=NEMO if nemo else GOOGLE, packed=packed)
    corrupter, tokens, starts = corpus(lengths, tmp_path_factory.mktemp("rows"), config, [half, len(lengths) - half])
    n = len(corrupter)
    batch = corrupter.batch(np.arange(n), 0, np.arange(n))
    read = [text for row in range(n) for text in texts_in_row(batch, row)]
    assert [token for text in read for token in text] == tokens.tolist()
    # No text crosses a document boundary, and no row a source boundary.
    ends = set(np.cumsum([0, *(len(text) for text in read)]).tolist())
    assert set(starts.tolist()) <= ends
    assert int(starts[half]) in corrupter.rows.bounds.tolist()
    assert sum(corrupter.rows.counts) == n
    assert batch.languages.tolist() == [0] * corrupter.rows.counts[0] + [1] * corrupter.rows.counts[1]
    assert batch.questions.tolist() == list(range(n))
    filling, unused = corrupter.rows.filling, (batch.input_pairs == 0).sum() + (batch.target_pairs == 0).sum()
    assert filling.pairs == len(read)
    cells = n * (corrupter.rows.packing.input_len + corrupter.rows.packing.target_len)
    assert filling.waste(corrupter.rows.packing) == pytest.approx(int(unused) / cells)
    if not packed:
        assert int(batch.input_pairs.max()) == 1


def test_rows_are_computed_once(tmp_path):
    corpus([50, 70, 20], tmp_path, packing())
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    again, tokens, _ = corpus([50, 70, 20], tmp_path, packing())
    assert before == {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert again.rows.bounds[-1] == len(tokens)


def test_lengths_are_read_lazily():
    taken = []

    def lengths():
        for _ in range(1000):
            taken.append(1)
            yield 60

    rows = row_starts(lengths(), packing())
    for _ in range(10):
        next(rows)
    assert len(taken) < 15


def test_short_documents_are_packed_too(tmp_path):
    generator = np.random.default_rng(0)
    corrupter, *_ = corpus(generator.integers(60, 120, 400), tmp_path, packing(512, 256, NEMO))
    assert corrupter.rows.filling.waste(corrupter.rows.packing) < 0.03


@pytest.mark.parametrize("config", [packing(1024, 256, GOOGLE), packing(512, 128, NEMO)], ids=["google", "nemo"])
@requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
def test_padding_of_real_text_is_below_three_percent(config, tmp_path):
    lines = (REAL / "web/c4_300_documents.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    lengths = [len(ids) for ids in SentencePiece(learn_pieces(texts[:60], 3000, 0.999)).encode_batch(texts)]
    filling = Filling()
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rows = index_rows(tmp_path / "rows", starts, [len(texts)], config)
    assert rows.filling.waste(rows.packing) < 0.03
    assert rows.filling.inputs / (len(rows) * config.input_len) > 0.97
    list(row_starts(lengths, rows.packing, filling))
    assert filling == rows.filling


def test_every_row_is_drawn_once_before_any_repeats():
    counts, shares = [60, 7, 400], [0.3, 0.2, 0.5]
    order = Interleaving(counts, shares, seed=5)
    # In requests of any size, across block boundaries.
    drawn = np.concatenate([order.draw(np.arange(k, min(k + 37, 5000))) for k in range(0, 5000, 37)])
    assert np.array_equal(drawn, Interleaving(counts, shares, seed=5).draw(np.arange(5000)))
    for source, (n, share) in enumerate(zip(counts, shares, strict=True)):
        first = sum(counts[:source])
        draws = drawn[(drawn >= first) & (drawn < first + n)]
        assert abs(len(draws) - share * 5000) < 60
        turns = [draws[turn * n : (turn + 1) * n].tolist() for turn in range(len(draws) // n)]
        assert all(len(set(turn)) == n for turn in turns)
        assert turns[0] != turns[1]


def test_a_rare_source_is_drawn_by_its_weight():
    order = Interleaving([5, 1000], [0.0002, 0.9998], seed=1)
    drawn = order.draw(np.arange(200_000))
    assert abs(int((drawn < 5).sum()) - 40) <= 4


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 4), (2, 2), (4, 1)])
def test_a_step_has_the_same_rows_for_any_world_size_and_accumulation(world_size, accumulation, tmp_path):
    corrupter, *_ = corpus([40] * 90, tmp_path, packing())
    order = Interleaving(corrupter.rows.counts, [1.0], seed=5)

    def step(k, world_size, accumulation):
        data_ranks = [DataRank(rank, world_size) for rank in range(world_size)]
        return [
            row
            for data_rank in data_ranks
            for chunk in range(accumulation)
            for row in PairTrainingBatches(
                corrupter, order, batch_size=8, data_rank=data_rank, accumulation=accumulation
            )
            .batch(k * accumulation + chunk)
            .input_ids.tolist()
        ]

    for k in (0, 3, 40):
        assert step(k, world_size, accumulation) == step(k, 1, 1)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_reads_every_text_on_exactly_one_rank(world_size, tmp_path):
    corrupter, *_ = corpus([40, 7, 90] * 11, tmp_path, packing(packed=False))
    result, numbers = [], set()
    for rank in range(world_size):
        batches = PairEvaluationBatches(corrupter, batch_size=6, data_rank=DataRank(rank, world_size), seed=1)
        numbers.add(len(batches))
        for k in range(len(batches)):
            batch = batches.batch(k)
            result += batch.questions.tolist()
            assert batch.input_ids.shape[1] % 8 == 0
            assert int(batch.input_pairs[:, -8:].sum()) > 0
    assert sorted(result) == list(range(len(corrupter)))
    assert len(numbers) == 1
