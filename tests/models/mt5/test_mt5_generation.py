"""Generated texts equal those of transformers' `generate` with the same weights; the cache changes no output."""

import pytest
import torch
from small_mt5 import FAMILIES, GOOGLE, pair_batch, small_network
from transformers_mt5 import transformers_model

from lmrecipes.models.common.generation import Decoding, generate

BATCH = pair_batch([[(24, 1)], [(15, 1)], [(7, 1)], [(11, 1)], [(4, 1)], [(9, 1)]])
PAD, END = 0, 1


def ending_network():
    """A network whose texts end after different numbers of tokens."""
    network = small_network(**{**GOOGLE, "vocab_size": 256}).eval()
    with torch.no_grad():
        network.head.weight.mul_(2)
        network.head.weight[END].mul_(3)
    return network


def ours(network, **settings):
    return generate(network, BATCH.input_ids, BATCH.input_pairs, PAD, END, Decoding(**settings))


def theirs(network, seed=0, **settings):
    model = transformers_model(network)
    torch.manual_seed(seed)
    inputs = {"input_ids": BATCH.input_ids, "attention_mask": BATCH.input_pairs}
    return model.generate(**inputs, return_dict_in_generate=True, **settings)


def texts(tokens):
    """Every text up to its end token."""
    rows = tokens.tolist()
    return [row[: row.index(END) + 1] if END in row else row for row in rows]


def test_greedy_decoding_equals_transformers():
    network = ending_network()
    generated = ours(network, max_new_tokens=20)
    expected = theirs(network, max_new_tokens=20, do_sample=False, num_beams=1)
    assert texts(generated.tokens) == texts(expected.sequences[:, 1:])
    lengths = (generated.tokens != PAD).sum(1)
    assert len(set(lengths.tolist())) > 2, "texts of one length show little"
    assert not generated.log_probs[generated.tokens == PAD].any()


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0])
@pytest.mark.parametrize("beams", [2, 4])
def test_beam_search_equals_transformers(beams, length_penalty):
    network = ending_network()
    generated = ours(network, max_new_tokens=12, beams=beams, length_penalty=length_penalty)
    expected = theirs(
        network,
        max_new_tokens=12,
        num_beams=beams,
        do_sample=False,
        length_penalty=length_penalty,
        output_scores=True,
    )
    assert texts(generated.tokens) == texts(expected.sequences[:, 1:])
    lengths = (generated.tokens != PAD).sum(1)
    torch.testing.assert_close(generated.log_probs.sum(1) / lengths**length_penalty, expected.sequences_scores)


@pytest.mark.parametrize("top_k", [0, 5])
def test_sampling_equals_transformers_with_the_same_seed(top_k):
    # Texts that never end: no row is dropped, so both draw the same random numbers.
    network, never = ending_network(), 256
    settings = {"max_new_tokens": 6, "temperature": 0.8, "top_k": top_k}
    expected = theirs(network, seed=5, do_sample=True, num_beams=1, eos_token_id=never, **settings).sequences
    torch.manual_seed(5)
    generated = generate(network, BATCH.input_ids, BATCH.input_pairs, PAD, never, Decoding(**settings))
    assert torch.equal(generated.tokens, expected[:, 1:])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_changes_no_output(family):
    network = small_network(**FAMILIES[family]).eval()
    generated = ours(network, max_new_tokens=9)
    text = torch.zeros(len(BATCH.input_ids), 1, dtype=torch.int64)
    for i in range(generated.tokens.shape[1]):
        encoded, _ = network.encode(BATCH.input_ids, BATCH.input_pairs)
        with torch.no_grad():
            logits = network.step(text, network.begin(BATCH.input_pairs, 9), encoded)
        going = generated.tokens[:, i] != PAD
        assert torch.equal(logits.argmax(-1)[going], generated.tokens[going, i])
        log_probs = logits.log_softmax(-1).gather(1, generated.tokens[:, i : i + 1])[:, 0]
        torch.testing.assert_close(log_probs[going], generated.log_probs[going, i], atol=1e-5, rtol=1e-4)
        text = torch.cat([text, generated.tokens[:, i : i + 1]], dim=1)


def test_finished_texts_are_not_computed_further():
    network = ending_network()
    rows = []
    step = network.step
    network.step = lambda new, *more: rows.append(len(new)) or step(new, *more)
    ours(network, max_new_tokens=20)
    assert rows[0] == 6
    assert rows[-1] < 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 0}, "model.decoding.beams is 0; it must be 1 or more"),
        ({"beams": 3, "temperature": 0.5}, "beam search does not sample"),
        ({"top_k": 5}, "top_k is 5, but temperature 0 decodes greedily; set temperature to 1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_contradictory_settings_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**settings)
