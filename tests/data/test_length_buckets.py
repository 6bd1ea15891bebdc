"""Length buckets: the same batches for any world size and accumulation, with little padding."""

import numpy as np
import pytest
from data_helpers import padding_share

from lmrecipes.data.sampling.length_buckets import ShuffledBuckets, budgeted, width

LENGTHS = np.random.default_rng(0).gamma(4, 40, size=5003).astype(int).clip(10, 384)


def order(**more):
    return ShuffledBuckets(LENGTHS, 32, seed=1, **more)


def global_batches(epoch, world_size, accumulation):
    ranks = [order(rank=rank, world_size=world_size, accumulation=accumulation) for rank in range(world_size)]
    n = len(ranks[0])
    micro = [[rank.rows(epoch * n + k) for rank in ranks] for k in range(n)]
    return [
        sorted(np.concatenate([rows for part in micro[step : step + accumulation] for rows in part]).tolist())
        for step in range(0, n, accumulation)
    ]


def test_global_batches_do_not_depend_on_world_size_or_accumulation():
    expected = global_batches(2, 1, 1)
    for world_size, accumulation in ((2, 1), (1, 4), (4, 2)):
        assert global_batches(2, world_size, accumulation) == expected


def test_an_epoch_skips_few_sequences_and_the_next_epoch_skips_others():
    epochs = [np.concatenate([order().rows(e * 156 + k) for k in range(156)]) for e in range(2)]
    for rows in epochs:
        assert len(rows) == len(set(rows.tolist())) == 156 * 32
    left_out = [set(range(len(LENGTHS))) - set(rows.tolist()) for rows in epochs]
    assert left_out[0] != left_out[1]
    assert not np.array_equal(*epochs)
    # Short and long batches alternate randomly, rather than being sorted.
    mean = LENGTHS[epochs[0]].reshape(156, 32).mean(1)
    assert np.abs(np.corrcoef(np.arange(156), mean)[0, 1]) < 0.2


def test_any_micro_batch_can_be_computed_by_itself():
    straight = order(rank=1, world_size=2)
    everything = [straight.rows(k) for k in range(2 * len(straight))]
    for k in (0, 7, len(straight) - 1, len(straight), 2 * len(straight) - 1):
        np.testing.assert_array_equal(order(rank=1, world_size=2).rows(k), everything[k])


def test_ranks_have_batches_of_similar_length():
    ranks = [order(rank=rank, world_size=4) for rank in range(4)]
    widest = np.array([[LENGTHS[rank.rows(k)].max() for k in range(50)] for rank in ranks])
    assert (widest.max(0) - widest.min(0)).mean() < 8


def test_batches_have_little_padding():
    epoch = [order().rows(k) for k in range(156)]
    shuffled = np.random.default_rng(0).permutation(len(LENGTHS))[: 156 * 32].reshape(156, 32)
    assert padding_share(LENGTHS, epoch, 384) < 0.08
    assert padding_share(LENGTHS, list(shuffled), 384) > 0.4
    assert padding_share(LENGTHS, budgeted(LENGTHS, 384, 32 * 384), 384) < 0.04


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_evaluation_reads_every_sequence_once_in_equally_many_batches_per_rank(world_size):
    for n in (5003, 40, 8):
        batches = budgeted(LENGTHS[:n], 384, 4096, world_size)
        assert len(batches) % world_size == 0
        assert all(len(rows) for rows in batches)
        assert sorted(np.concatenate(batches).tolist()) == list(range(n))
        assert all(len(rows) == 1 or len(rows) * width(LENGTHS[rows], 384) <= 4096 for rows in batches)


def test_with_more_ranks_than_sequences_some_batches_are_empty():
    batches = budgeted(LENGTHS[:2], 384, 4096, 3)
    assert sorted(len(rows) for rows in batches) == [0, 1, 1]


def test_widths_are_multiples_of_eight_up_to_max_len():
    assert [width(np.array([n]), 100) for n in (1, 8, 9, 97, 100)] == [8, 8, 16, 100, 100]


def test_too_few_sequences_are_rejected():
    with pytest.raises(
        ValueError,
        match=r"batch\.global_batch_size is 32, but there are only 5 training examples; it must be 5 or less",
    ):
        ShuffledBuckets(LENGTHS[:5], 32, seed=1)
