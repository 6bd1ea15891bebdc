"""Segment pairs follow the published algorithm exactly and respect every limit."""

import random
from itertools import chain

import pytest

from lmrecipes.data.objectives.electra_segments import build_segments, with_special_tokens


class Published:
    """The published algorithm, one sentence at a time."""

    def __init__(self, longest, generator):
        self.longest, self.generator = longest, generator
        self.sentences = []
        self.new_target()

    def new_target(self):
        self.target = self.longest
        if self.generator.random() < 0.05:
            self.target = self.generator.randint(5, self.longest)

    def add(self, sentence):
        self.sentences += [sentence]
        return self.flush() if sum(len(s) for s in self.sentences) >= self.target else None

    def flush(self):
        first_target = (self.target - 3) // 2
        if self.generator.random() < 0.1:
            first_target = 100_000
        segments = [[], []]
        for sentence in self.sentences:
            one, two = segments
            if len(one) == 0 or len(one) + len(sentence) < first_target:
                one.extend(sentence)
            elif len(two) > 0 or len(one) >= first_target:
                two.extend(sentence)
            else:
                segments[0 if self.generator.random() < 0.5 else 1].extend(sentence)
        del segments[0][self.longest - 2 :]
        del segments[1][max(self.longest - len(segments[0]) - 3, 0) :]
        self.sentences = []
        self.new_target()
        return tuple(segments)


def published(document, longest, generator):
    builder = Published(longest, generator)
    examples = [builder.add(sentence) for sentence in document]
    if builder.sentences:
        examples.append(builder.flush())
    return [example for example in examples if example is not None]


def documents(n, generator):
    """Documents whose tokens are numbered consecutively."""
    for _ in range(n):
        position, document = 0, []
        for _ in range(generator.randint(1, 60)):
            length = generator.choice([1, 5, 12, 20, 30, 200])
            document.append(list(range(position, position + length)))
            position += length
        yield document


@pytest.mark.parametrize("longest", [8, 64, 128, 512])
def test_examples_equal_those_of_the_published_algorithm(longest):
    for seed, document in enumerate(documents(200, random.Random(longest))):
        built = list(build_segments(document, longest, random.Random(seed)))
        expected = published(document, longest, random.Random(seed))
        assert [(example.first, example.second) for example in built] == expected


def test_every_example_respects_the_length_limit_and_text_order():
    generator = random.Random(1)
    for document in documents(300, generator):
        last = -1
        for example in build_segments(document, 128, generator):
            tokens, begins = with_special_tokens(example, -1, -2)
            assert 3 <= len(tokens) <= 128
            assert tokens[0] == -1
            assert tokens[begins - 1] == tokens[-1] == -2
            assert tokens.count(-2) == (2 if example.second else 1)
            assert (begins == len(tokens)) == (not example.second)
            text = [token for token in tokens if token >= 0]
            assert sorted(example.first) == example.first
            assert sorted(example.second) == example.second
            assert min(text) > last  # no token repeated, none out of order
            last = max(text)


def test_a_tenth_of_examples_have_one_segment_and_a_twentieth_are_short():
    generator = random.Random(2)
    document = [[1] * 10 for _ in range(200_000)]
    built = list(build_segments(document, 128, generator))
    single = sum(not example.second for example in built) / len(built)
    short = sum(len(example.first) + len(example.second) < 100 for example in built) / len(built)
    assert 0.095 < single < 0.12  # some short ones have a single sentence
    assert 0.03 < short < 0.05
    halves = [len(example.first) for example in built if example.second]
    assert 55 < sum(halves) / len(halves) < 65


def test_examples_never_mix_documents_and_lose_only_trimmed_tokens():
    document = [[1, 2, 3], [], [4], [5, 6]]
    (example,) = build_segments(document, 128, random.Random(3))
    assert list(chain(*example)) == [1, 2, 3, 4, 5, 6]
    assert list(build_segments([], 128, random.Random(3))) == []
    assert list(build_segments([[]], 128, random.Random(3))) == []
