"""Masks follow the published rules, one sequence at a time."""

import numpy as np
import pytest

from lmrecipes.data.objectives.masking import Masking, mask
from lmrecipes.data.sampling.counter_random import keys, uniforms

CLS, SEP, MASK = 1, 2, 3


def sequences(n=40, length=128, seed=0):
    generator = np.random.default_rng(seed)
    ids = generator.integers(4, 100, (n, length))
    lengths = generator.integers(5, length + 1, n)
    lengths[0], lengths[1] = 5, length
    for row, end in enumerate(lengths):
        ids[row, [0, end // 2, end - 1]] = CLS, SEP, SEP
        ids[row, end:] = 0
    ids[2, 3] = MASK
    return ids, lengths


def masked(ids, lengths, key, masking=None, most=19):
    masking = masking or Masking()
    return mask(ids, lengths, key, masking=masking, most=most, kept=(CLS, SEP, MASK), mask_id=MASK)


def step_by_step(ids, length, random, most, p=0.15, replaced=0.85):
    """One sequence by the rules as they are told."""
    candidates = [i for i in range(length) if ids[i] not in (CLS, SEP, MASK)]
    n = max(1, min(most, round(length * p)))
    after, positions = list(ids), []
    for draw in range(n):
        position = candidates[int(random[draw] * len(candidates))]
        positions.append(position)
        if random[most + draw] < replaced:
            after[position] = MASK
    return after, positions


@pytest.mark.parametrize(("p", "most"), [(0.15, 19), (0.25, 32)])
def test_masks_are_those_of_the_rules_step_by_step(p, most):
    (ids, lengths), key = sequences(), keys(1, np.arange(40))
    found = masked(ids, lengths, key, Masking(mask_prob=p), most)
    random = uniforms(key, 2 * most)
    for row in range(len(ids)):
        after, positions = step_by_step(ids[row].tolist(), int(lengths[row]), random[row], most, p)
        assert found.input_ids[row].tolist() == after
        assert found.positions[row].tolist() == positions + [0] * (most - len(positions))
        assert found.originals[row].tolist() == [ids[row, i] for i in positions] + [0] * (most - len(positions))
        assert found.weights[row].tolist() == [1.0] * len(positions) + [0.0] * (most - len(positions))


def test_published_numbers_of_predictions():
    assert [Masking().most_predictions(length) for length in (128, 512)] == [19, 79]
    assert Masking(mask_prob=0.25).most_predictions(512) == 130


def test_shares_are_the_published_ones_and_draws_repeat():
    ids, lengths = np.full((4000, 128), 50), np.full(4000, 128)
    ids[:, 0], ids[:, 60], ids[:, 127] = CLS, SEP, SEP
    found = masked(ids, lengths, keys(9, np.arange(4000)))
    assert (found.weights.sum(1) == 19).all()
    counts = np.bincount(found.positions.ravel(), minlength=128)
    assert counts[[0, 60, 127]].sum() == 0
    expected = 4000 * 19 / 125
    assert ((counts[counts > 0] - expected) ** 2 / expected).sum() < 190  # uniform over 125 candidates
    distinct = np.mean([len(set(row)) for row in found.positions.tolist()])
    assert distinct == pytest.approx(125 * (1 - (1 - 1 / 125) ** 19), rel=0.01)  # with replacement
    replaced = (found.input_ids == MASK).sum() / 4000
    assert replaced == pytest.approx(125 * (1 - (1 - 0.85 / 125) ** 19), rel=0.01)


def test_a_sequence_has_its_mask_whatever_batch_it_is_in():
    ids, lengths = sequences()
    key = keys(1, np.arange(40))
    whole = masked(ids, lengths, key)
    some = masked(ids[[7, 3]], lengths[[7, 3]], key[[7, 3]])
    for one, other in zip(some, whole, strict=True):
        assert np.array_equal(one, other[[7, 3]])
    padded = masked(np.pad(ids, ((0, 0), (0, 32))), lengths, key)
    assert np.array_equal(padded.positions, whole.positions)
    other = masked(ids, lengths, keys(2, np.arange(40)))
    assert not np.array_equal(other.positions, whole.positions)


def test_nothing_is_predicted_where_there_is_nothing_to_predict():
    ids = np.array([[CLS, SEP, 0, 0], [CLS, 9, SEP, 0]])
    found = masked(ids, np.array([2, 3]), keys(1, np.arange(2)), most=2)
    assert found.weights.tolist() == [[0, 0], [1, 0]]
    assert found.positions[1].tolist() == [1, 0]


@pytest.mark.parametrize("field", ["mask_prob", "replace_prob"])
@pytest.mark.parametrize("value", [0.0, 1.5])
def test_shares_that_cannot_be_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"data.objective.masking.{field} is {value}; it must be above 0"):
        Masking(**{field: value})
