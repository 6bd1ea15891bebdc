"""What data is checked by: the text that a corrupted pair was made of, and the share of padding in batches."""

import numpy as np

from lmrecipes.data.objectives.span_corruption import corrupt_pieces
from lmrecipes.data.sampling.counter_random import keys
from lmrecipes.data.sampling.length_buckets import width


def corrupt(tokens, how, *, seed, number, sentinels, eos_id):
    """A text of one piece, corrupted."""
    bounds = np.array([0, len(tokens)])
    return corrupt_pieces(tokens, bounds, how, keys(seed, number), sentinels=sentinels, eos_id=eos_id)[0]


def restored(inputs, targets, sentinels, eos_id):
    """The original text of a pair: each sentinel replaced by the tokens after it in the target."""
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


def padding_share(lengths, batches, most):
    """Share of padding in all tokens of these batches."""
    padded = sum(len(rows) * width(lengths[rows], most) for rows in batches if len(rows))
    return 1 - sum(int(lengths[rows].sum()) for rows in batches) / padded
