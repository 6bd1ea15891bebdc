"""Masks follow the published algorithm."""

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


def masked(ids, lengths, key, masking=None, max_predictions=19):
    masking = masking or Masking()
    return mask(ids, lengths, key, masking=masking, most=max_predictions, kept=(CLS, SEP, MASK), mask_id=MASK)


def mask_one_sequence(ids, length, random, max_predictions, p=0.15, replaced=0.85):
    """The published algorithm for one sequence, unvectorized."""
    candidates = [i for i in range(length) if ids[i] not in (CLS, SEP, MASK)]
    n = max(1, min(max_predictions, round(length * p)))
    after, positions = list(ids), []
    for draw in range(n):
        position = candidates[int(random[draw] * len(candidates))]
        positions.append(position)
        if random[max_predictions + draw] < replaced:
            after[position] = MASK
    return after, positions


@pytest.mark.parametrize(("p", "max_predictions"), [(0.15, 19), (0.25, 32)])
def test_masks_equal_those_of_the_unvectorized_algorithm(p, max_predictions):
    (ids, lengths), key = sequences(), keys(1, np.arange(40))
    result = masked(ids, lengths, key, Masking(mask_prob=p), max_predictions)
    random = uniforms(key, 2 * max_predictions)
    for row in range(len(ids)):
        after, positions = mask_one_sequence(ids[row].tolist(), int(lengths[row]), random[row], max_predictions, p)
        assert result.input_ids[row].tolist() == after
        assert result.positions[row].tolist() == positions + [0] * (max_predictions - len(positions))
        assert result.originals[row].tolist() == [ids[row, i] for i in positions] + [0] * (
            max_predictions - len(positions)
        )
        assert result.weights[row].tolist() == [1.0] * len(positions) + [0.0] * (max_predictions - len(positions))


def test_the_number_of_predictions_is_as_published():
    assert [Masking().most_predictions(length) for length in (128, 512)] == [19, 79]
    assert Masking(mask_prob=0.25).most_predictions(512) == 130


def test_masking_probabilities_are_as_published_and_reproducible():
    ids, lengths = np.full((4000, 128), 50), np.full(4000, 128)
    ids[:, 0], ids[:, 60], ids[:, 127] = CLS, SEP, SEP
    result = masked(ids, lengths, keys(9, np.arange(4000)))
    assert (result.weights.sum(1) == 19).all()
    counts = np.bincount(result.positions.ravel(), minlength=128)
    assert counts[[0, 60, 127]].sum() == 0
    expected = 4000 * 19 / 125
    assert ((counts[counts > 0] - expected) ** 2 / expected).sum() < 190  # uniform over 125 candidates
    distinct = np.mean([len(set(row)) for row in result.positions.tolist()])
    assert distinct == pytest.approx(125 * (1 - (1 - 1 / 125) ** 19), rel=0.01)  # with replacement
    replaced = (result.input_ids == MASK).sum() / 4000
    assert replaced == pytest.approx(125 * (1 - (1 - 0.85 / 125) ** 19), rel=0.01)


def test_a_sequences_mask_does_not_depend_on_its_batch():
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


def test_sequences_without_maskable_tokens_have_no_predictions():
    ids = np.array([[CLS, SEP, 0, 0], [CLS, 9, SEP, 0]])
    result = masked(ids, np.array([2, 3]), keys(1, np.arange(2)), max_predictions=2)
    assert result.weights.tolist() == [[0, 0], [1, 0]]
    assert result.positions[1].tolist() == [1, 0]


@pytest.mark.parametrize("field", ["mask_prob", "replace_prob"])
@pytest.mark.parametrize("value", [0.0, 1.5])
def test_invalid_probabilities_are_rejected(field, value):
    with pytest.raises(ValueError, match=rf"data.objective.masking.{field} is {value}; it must be above 0"):
        Masking(**{field: value})
