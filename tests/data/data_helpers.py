"""Inverts span corruption, and measures the share of padding in batches."""

import numpy as np

from lmrecipes.data.objectives.span_corruption import corrupt_pieces
from lmrecipes.data.sampling.counter_random import keys
from lmrecipes.data.sampling.length_buckets import width


def corrupt(tokens, corruption, *, seed, number, sentinels, eos_id):
    """Corrupts a text that fits into one piece."""
    bounds = np.array([0, len(tokens)])
    return corrupt_pieces(tokens, bounds, corruption, keys(seed, number), sentinels=sentinels, eos_id=eos_id)[0]


def restore(inputs, targets, sentinels, eos_id):
    """The original text of a pair: each sentinel replaced by the tokens that follow it in the target."""
    marks = set(map(int, sentinels))
    spans, at = {}, -1
    for token in map(int, targets):
        if token in marks:
            at = token
            spans[at] = []
        elif token != eos_id:
            spans[at].append(token)
    text = []
    for token in map(int, inputs):
        text += spans[token] if token in marks else [] if token == eos_id else [token]
    return text


def padding_share(lengths, batches, max_len):
    """Share of padding tokens in all tokens of these batches."""
    padded = sum(len(rows) * width(lengths[rows], max_len) for rows in batches if len(rows))
    return 1 - sum(int(lengths[rows].sum()) for rows in batches) / padded
