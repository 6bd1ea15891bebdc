"""Streams cover a text once per epoch, for any world size and accumulation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrecipes.data import Streams


def epoch(streams, number=0):
    return [streams.batch(number * len(streams) + k) for k in range(len(streams))]


@settings(max_examples=60, deadline=None)
@given(n=st.integers(30, 400), n_streams=st.sampled_from([2, 4, 8]), seq_len=st.integers(1, 50), rolled=st.booleans())
def test_every_token_of_a_stream_is_predicted_once_and_in_order(n, n_streams, seq_len, rolled):
    tokens = np.arange(n)
    streams = Streams(tokens, n_streams=n_streams, seq_len=seq_len, roll_seed=3 if rolled else None)
    batches = epoch(streams, 1)
    inputs = torch.cat([b.input_ids for b in batches], dim=1)
    targets = torch.cat([b.targets for b in batches], dim=1)
    steps = n // n_streams
    assert inputs.shape == (n_streams, steps - 1)
    for c in range(n_streams):
        column = tokens[c * steps : (c + 1) * steps].tolist()
        start = column.index(inputs[c, 0].item())
        turned = column[start:] + column[:start]
        assert rolled or start == 0
        assert inputs[c].tolist() == turned[:-1]
        assert targets[c].tolist() == turned[1:]


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 4), (2, 1), (2, 2), (4, 1)])
def test_ranks_and_micro_batches_partition_the_streams(world_size, accumulation):
    tokens = np.arange(1003)
    whole = epoch(Streams(tokens, n_streams=8, seq_len=7, roll_seed=1))
    parts = [
        epoch(
            Streams(
                tokens, n_streams=8, seq_len=7, roll_seed=1, rank=r, world_size=world_size, accumulation=accumulation
            )
        )
        for r in range(world_size)
    ]
    for i, batch in enumerate(whole):
        rows = [parts[r][i * accumulation + c].input_ids for r in range(world_size) for c in range(accumulation)]
        assert torch.equal(torch.cat(rows), batch.input_ids)
        assert [parts[0][i * accumulation + c].chunk for c in range(accumulation)] == list(range(accumulation))


def test_streams_are_rolled_by_different_amounts_given_by_the_seed():
    def first(seed, number):
        return epoch(Streams(np.arange(800), n_streams=4, seq_len=10, roll_seed=seed), number)[0].input_ids[:, 0]

    assert torch.equal(first(1, 2), first(1, 2))
    assert not torch.equal(first(1, 2), first(1, 3))
    assert not torch.equal(first(1, 2), first(2, 2))
    assert len({int(x) % 200 for x in first(1, 2)}) > 1


def test_memory_restarts_at_epochs_unless_carried():
    def restarts(carry):
        streams = Streams(np.arange(100), n_streams=4, seq_len=10, accumulation=2, carry_memory=carry)
        return [[b.restart for b in epoch(streams, e)] for e in (0, 1)]

    assert restarts(True) == [[True, True, *[False] * 4], [False] * 6]
    assert restarts(False) == [[True, True, *[False] * 4]] * 2


def test_warm_up_reads_the_text_before_each_stream_without_scoring_it():
    tokens = np.arange(100)
    batches = epoch(Streams(tokens, n_streams=4, seq_len=10, warm_up=12))
    assert [b.scored for b in batches] == [False, False, True, True, True]
    assert batches[0].restart
    for c in range(4):
        before = torch.cat([b.input_ids[c] for b in batches[:2]]).tolist()
        assert before == [(c * 25 + i) % 100 for i in range(-20, 0)]
    scored = torch.cat([b.targets for b in batches if b.scored], dim=1)
    assert scored.tolist() == [list(range(c * 25 + 1, c * 25 + 25)) for c in range(4)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_streams": 5, "world_size": 2}, "5 parallel streams are not divisible by 2 ranks x 1 micro-batches; use 4"),
        ({"n_streams": 80}, "too few for 80 parallel streams, which need 160; at most 50 would fit"),
    ],
)
def test_invalid_layouts_are_rejected_with_what_would_work(arguments, message):
    with pytest.raises(ValueError, match=message):
        Streams(np.arange(100), seq_len=5, **arguments)
