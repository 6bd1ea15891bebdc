"""Corrupted texts can be restore, and have the published noise density and lengths."""

import itertools
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_helpers import corrupt, restore
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import requires
from lmrecipes.data.objectives.span_corruption import SpanCorruption

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))
SENTINELS = np.arange(250_099, 249_999, -1)
EOS = 1
GOOGLE, NEMO = SpanCorruption(), SpanCorruption(spans="nemo", input_eos=False)
BOTH = pytest.mark.parametrize("corruption", [GOOGLE, NEMO], ids=["google", "nemo"])


def corrupted(tokens, corruption, number=0, seed=1):
    return corrupt(np.asarray(tokens), corruption, seed=seed, number=number, sentinels=SENTINELS, eos_id=EOS)


def span_lengths(pair):
    """Lengths of the spans, read from the target."""
    marks = np.flatnonzero(np.isin(pair.targets, SENTINELS) | (pair.targets == EOS))
    return np.diff(marks) - 1


@BOTH
@settings(max_examples=150, deadline=None)
@given(length=st.integers(1, 560), number=st.integers(0, 2**40), seed=st.integers(0, 2**31))
def test_input_and_target_restore_the_text(corruption, length, number, seed):
    text = np.arange(1000, 1000 + length)
    pair = corrupted(text, corruption, number, seed)
    assert restore(pair.inputs, pair.targets, SENTINELS, EOS) == text.tolist()
    n = len(span_lengths(pair))
    # Both have the first n sentinels, each once, in order of falling ids.
    for tokens in pair:
        assert tokens[np.isin(tokens, SENTINELS)].tolist() == SENTINELS[:n].tolist()
    assert pair.targets[0] == SENTINELS[0]
    assert pair.targets[-1] == EOS
    assert (pair.inputs[-1] == EOS) == corruption.input_eos
    promised = [int(x[0]) for x in corruption.pair_lengths(np.array([length]))]
    assert [len(pair.inputs), len(pair.targets)] == promised
    if length > 1:
        assert len(pair.inputs) - n - corruption.input_eos > 0


@BOTH
def test_the_same_seed_and_number_give_the_same_corruption(corruption):
    text = np.arange(500)
    once, again, other = corrupted(text, corruption, 7), corrupted(text, corruption, 7), corrupted(text, corruption, 8)
    assert np.array_equal(once.inputs, again.inputs)
    assert not np.array_equal(once.inputs, other.inputs)
    assert not np.array_equal(once.inputs, corrupted(text, corruption, 7, seed=2).inputs)


@pytest.mark.parametrize(
    ("corruption", "sizes", "text", "used"),
    [
        # As published for T5: 568 tokens give 512 and 114.
        (GOOGLE, (512, 128), 568, (512, 114)),
        (GOOGLE, (1024, 256), 1137, (1024, 229)),
        (NEMO, (512, 128), 580, (512, 107)),
        (GOOGLE, (512, 64), 316, None),
    ],
)
def test_the_longest_text_fills_the_input(corruption, sizes, text, used):
    assert corruption.longest_text(*sizes) == text
    inputs, targets = corruption.pair_lengths(np.array([text, text + 1]))
    assert inputs[0] <= sizes[0]
    assert targets[0] <= sizes[1]
    assert inputs[1] > sizes[0] or targets[1] > sizes[1]
    if used:
        assert (inputs[0], targets[0]) == used


@BOTH
def test_density_and_mean_span_are_as_published(corruption):
    lengths = np.concatenate([span_lengths(corrupted(np.arange(1000, 1512), corruption, i)) for i in range(300)])
    assert abs(lengths.sum() / (300 * 512) - 0.15) < 0.002
    assert abs(lengths.mean() - corruption.mean) < 0.03 * corruption.mean
    assert corruption.mean == (3.0 if corruption is GOOGLE else pytest.approx(4.4631, abs=1e-4))
    if corruption is NEMO:
        # Geometric with p = 0.2, clipped at 10; conditioning on the sum changes it little.
        shares = np.bincount(lengths, minlength=11)[1:] / len(lengths)
        published = [0.2 * 0.8**i for i in range(9)] + [0.8**9]
        assert np.abs(shares - published).max() < 0.02


def test_google_begins_outside_a_span_and_ends_inside_one():
    for number in range(50):
        pair = corrupted(np.arange(1000, 1100), GOOGLE, number)
        assert pair.inputs[0] == 1000
        assert pair.inputs[-2] in SENTINELS


def test_nemo_begins_and_ends_with_either():
    pairs = [corrupted(np.arange(1000, 1012), NEMO, number) for number in range(300)]
    assert {pair.inputs[0] in SENTINELS for pair in pairs} == {True, False}
    assert {pair.inputs[-1] in SENTINELS for pair in pairs} == {True, False}


def observed_patterns(corruption, length, n=6000):
    """How often each segmentation occurs."""
    text = np.arange(1000, 1000 + length)
    counts = Counter()
    for number in range(n):
        remaining = set(corrupted(text, corruption, number).inputs.tolist())
        counts["".join("." if token in remaining else "x" for token in text.tolist())] += 1
    return {pattern: count / n for pattern, count in counts.items()}


def test_every_segmentation_is_as_likely_as_in_the_published_code():
    # 14 tokens at density 0.5: 7 noise tokens in 2 spans; 6 segmentations of the noise times 6 of the rest.
    corruption = SpanCorruption(density=0.5, mean_span=3.5)
    expected = {}
    for a, b in itertools.product(range(1, 7), repeat=2):
        expected["." * a + "x" * b + "." * (7 - a) + "x" * (7 - b)] = 1 / 36
    frequencies = observed_patterns(corruption, 14)
    assert set(frequencies) == set(expected)
    assert max(abs(frequencies[pattern] - share) for pattern, share in expected.items()) < 0.009


def test_nemo_draws_span_lengths_conditioned_on_their_sum():
    # Expected by hand: all pairs of 1 to 4 tokens whose sum is 5, weighted by the clipped geometric distribution.
    corruption = SpanCorruption(spans="nemo", density=0.25, geometric_p=0.3, longest_span=4, input_eos=False)
    length, left_out = 20, 5
    assert [int(x[0]) for x in corruption.counts(np.array([length]))] == [left_out, 2]
    chance = {1: 0.3, 2: 0.21, 3: 0.147, 4: 0.343}
    weights = {(a, 5 - a): chance[a] * chance[5 - a] for a in range(1, 5)}
    total = sum(weights.values())
    frequencies = Counter()
    for pattern, share in observed_patterns(corruption, length).items():
        frequencies[tuple(map(len, pattern.replace(".", " ").split()))] += share
    assert set(frequencies) == set(weights)
    assert max(abs(frequencies[pattern] - weight / total) for pattern, weight in weights.items()) < 0.025


def test_invalid_span_settings_are_rejected():
    with pytest.raises(ValueError, match=r"data.corruption.density is 0.9; it must be 0.01 to 0.5"):
        SpanCorruption(density=0.9)
    with pytest.raises(
        ValueError,
        match=r"batch.seq_len 2 and batch.target_len 2 have no room for a text; they must be 2 and 3 or more",
    ):
        GOOGLE.longest_text(2, 2)


def test_every_length_has_as_many_spans_as_fit():
    for corruption in (
        GOOGLE,
        NEMO,
        SpanCorruption(density=0.5, mean_span=1),
        SpanCorruption(spans="nemo", density=0.5),
    ):
        lengths = np.arange(1, 1200)
        left_out, n = corruption.counts(lengths)
        assert (n >= 1).all()
        assert (left_out >= n).all()
        assert (lengths[1:] - left_out[1:] >= 1).all()
        inputs, targets = corruption.pair_lengths(lengths)
        assert (np.diff(inputs) >= 0).all()
        assert (np.diff(targets) >= 0).all()
        assert math.isclose(left_out[-1] / lengths[-1], corruption.density, rel_tol=0.01)


@requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
@BOTH
def test_real_sentences_are_restored(corruption):
    for file in sorted((REAL / "languages").glob("*.txt")):
        for number, line in enumerate(file.read_text("utf-8").split("\n")[:20]):
            text = np.array([ord(character) + 3 for character in line])
            if len(text):
                pair = corrupted(text, corruption, number)
                assert restore(pair.inputs, pair.targets, SENTINELS, EOS) == text.tolist()
