"""Counter-based random numbers are uniform, and permutations are bijective."""

import numpy as np
import pytest

from lmrecipes.data.sampling.counter_random import keys, permuted, uniforms
from lmrecipes.data.sampling.mixture import Mixture


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 10, 16, 17, 100, 1000, 4097, 65_537])
def test_a_permutation_visits_every_index_once(size):
    for seed in range(5):
        result = permuted(np.arange(size), size, keys(seed))
        assert np.array_equal(np.sort(result), np.arange(size))


def test_a_slice_of_a_permutation_equals_the_slice_of_the_whole():
    size, key = 100_003, keys(7, 3)
    all_indices = permuted(np.arange(size), size, key)
    indices = np.random.default_rng(0).integers(0, size, 1000)
    assert np.array_equal(permuted(indices, size, key), all_indices[indices])


@pytest.mark.parametrize("size", [4, 10, 37])
def test_every_index_is_mapped_to_every_index_equally_often(size):
    n = 4000
    result = np.stack([permuted(np.arange(size), size, keys(1, i)) for i in range(n)])
    for index in (0, size // 2, size - 1):
        counts = np.bincount(result[:, index], minlength=size)
        assert ((counts - n / size) ** 2 / (n / size)).sum() < 2.5 * size + 15  # chi-squared test


def test_neighbours_are_scattered_and_epochs_differ():
    size = 1_000_000
    one, other = (permuted(np.arange(size), size, keys(1, epoch)) for epoch in (0, 1))
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.005
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.005
    assert (one == other).sum() < 20


def test_uniforms_are_uniform_and_depend_on_every_counter():
    numbers = uniforms(keys(3, 1, np.arange(1000)), 100)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 100
    assert abs(np.corrcoef(numbers[:, 0], numbers[:, 1])[0, 1]) < 0.1
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.1
    for other in (keys(4, 1, np.arange(1000)), keys(3, 2, np.arange(1000)), keys(3, 1, np.arange(1000, 2000))):
        assert not np.isclose(uniforms(other, 1)[:, 0], numbers[:, 0]).any()


def test_an_examples_random_numbers_do_not_depend_on_its_batch():
    assert np.array_equal(uniforms(keys(3, 1, np.array([5])), 7)[0], uniforms(keys(3, 1, np.arange(10)), 7)[5])


def test_an_epoch_repeats_each_example_by_the_weight_of_its_source():
    counts, weights = [10, 6, 8], [1.0, 2.5, 0.5]
    mixture = Mixture(counts, weights, seed=5)
    assert len(mixture) == 10 + 15 + 4
    first, second = ([*mixture.draw(epoch, np.arange(len(mixture)))] for epoch in (0, 1))
    assert first != second
    for epoch in (first, second):
        times = np.bincount(epoch, minlength=24)
        assert (times[:10] == 1).all()
        assert set(times[10:16]) == {2, 3}
        assert sum(times[10:16]) == 15
        assert set(times[16:]) == {0, 1}
    # Weight 2.5: two epochs together repeat each example exactly five times.
    assert (np.bincount(first + second, minlength=24)[10:16] == 5).all()
    assert np.bincount(first + second, minlength=24)[16:].tolist() == [1] * 8


def test_indices_can_be_computed_one_at_a_time():
    mixture = Mixture([1000, 300], [1.0, 1.5], seed=5)
    all_indices = mixture.draw(3, np.arange(len(mixture)))
    assert np.array_equal(mixture.draw(3, np.array([900, 7])), all_indices[[900, 7]])
    assert not np.array_equal(Mixture([1000, 300], [1.0, 1.5], seed=6).draw(3, np.arange(len(mixture))), all_indices)
