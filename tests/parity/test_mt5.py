"""mT5 equals transformers' model (google family) and a naive version of NeMo's (nemo family)."""

import pytest
import torch
import transformers
from naive_mt5 import naive_losses
from small_mt5 import GOOGLE, SMALL, network_inputs, pair_batch, small_network
from transformers_mt5 import transformers_model

from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.spm_trainer import learn_pieces
from lmrecipes.models.mt5 import MT5, MT5Config
from lmrecipes.models.mt5.hf import load_published, published_names, write_published

BATCH = pair_batch([[(40, 9)], [(25, 12)], [(7, 3)]])


def test_google_family_losses_and_gradients_equal_transformers():
    network = small_network(**GOOGLE)
    model = transformers_model(network)
    out = network(**network_inputs(BATCH))
    out.loss.backward()
    theirs = model(
        input_ids=BATCH.input_ids,
        attention_mask=BATCH.input_pairs.clamp(max=1),
        decoder_input_ids=BATCH.decoder_input_ids,
        labels=BATCH.targets.masked_fill(BATCH.target_pairs == 0, -100),
    )
    theirs.loss.backward()
    torch.testing.assert_close(out.loss, theirs.loss)
    named = dict(model.named_parameters())
    assert {name for _, name in published_names(network.config)} == named.keys()
    for ours, name in published_names(network.config):
        expected = named[name].grad
        expected = expected.T if ours.endswith("distances") else expected
        torch.testing.assert_close(network.get_parameter(ours).grad, expected, atol=1e-5, rtol=1e-4, msg=ours)


def test_google_family_decoding_logits_equal_transformers():
    network = small_network(**GOOGLE).eval()
    model = transformers_model(network)
    with torch.no_grad():
        theirs = model(
            input_ids=BATCH.input_ids,
            attention_mask=BATCH.input_pairs.clamp(max=1),
            decoder_input_ids=BATCH.decoder_input_ids,
        ).logits[..., : network.config.vocab_size]
        encoded, _ = network.encode(BATCH.input_ids, BATCH.input_pairs)
        cache = network.begin(BATCH.input_pairs, BATCH.targets.shape[1])
        for i in range(BATCH.targets.shape[1]):
            logits = network.step(BATCH.decoder_input_ids[:, i : i + 1], cache, None if i else encoded)
            torch.testing.assert_close(logits, theirs[:, i], atol=1e-5, rtol=1e-4)


def test_nemo_family_losses_equal_the_naive_reference():
    network = small_network()
    batch = pair_batch([[(20, 8), (11, 5)], [(33, 13)]])
    weights = {name: value.detach().double() for name, value in network.state_dict().items()}
    losses = network(**network_inputs(batch)).losses
    for row in range(2):
        for pair in (1, 2):
            input_mask, target_mask = batch.input_pairs[row] == pair, batch.target_pairs[row] == pair
            if target_mask.any():
                texts = (
                    batch.input_ids[row, input_mask],
                    batch.decoder_input_ids[row, target_mask],
                    batch.targets[row, target_mask],
                )
                expected = naive_losses(weights, network.config, *texts)
                torch.testing.assert_close(losses[row, target_mask].double(), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_published_folder_is_loaded_and_transformers_loads_our_export(file, tmp_path):
    network = small_network(**GOOGLE).eval()
    write_published(network, tmp_path, vocabulary=None)
    if file.endswith("bin"):
        # Google's own folders store the shared embedding under all its names.
        weights = transformers_model(network).state_dict()
        assert {"encoder.embed_tokens.weight", "lm_head.weight"} <= weights.keys()
        (tmp_path / "model.safetensors").unlink()
        torch.save(weights, tmp_path / file)
    again = small_network(seed=1, **GOOGLE)
    load_published(again, str(tmp_path))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, msg=name)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert model.lm_head.weight is not model.shared.weight
    assert model.encoder.embed_tokens.weight is model.shared.weight is model.decoder.embed_tokens.weight


def test_an_exported_folder_has_a_transformers_tokenizer_with_the_same_tokens(tmp_path):
    texts = ["Anna drinks tea.", "Peter reads a book about the sea."]
    vocabulary = SentencePiece(learn_pieces(texts, 320, 1.0))
    write_published(small_network(**GOOGLE).eval(), tmp_path, vocabulary)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in texts:
        assert theirs.encode(text) == [*vocabulary.encode(text), vocabulary.eos_id]
    assert theirs.encode("Anna <extra_id_1>")[-2] == vocabulary.sentinel(1)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({**GOOGLE, "d_ff": 64}, ["its d_ff is 48", "model.config.d_ff makes 64"]),
        ({**GOOGLE, "n_layers": 3}, ["its num_layers is 2", "n_layers makes 3"]),
        ({}, ["family is nemo", "set family google"]),
    ],
)
def test_a_folder_of_another_size_is_rejected_by_name(settings, parts, tmp_path):
    write_published(small_network(**GOOGLE).eval(), tmp_path, vocabulary=None)
    with pytest.raises(ValueError, match=parts[0]) as error:
        load_published(MT5(MT5Config(**{**SMALL, **settings})), str(tmp_path))
    assert all(part in str(error.value) for part in parts)
    assert "\n" not in str(error.value)


def test_the_nemo_family_cannot_be_exported_to_transformers(tmp_path):
    with pytest.raises(ValueError, match=r"--format hf: .* --format state_dict writes it"):
        write_published(small_network(), tmp_path, vocabulary=None)
