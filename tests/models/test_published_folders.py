"""A published folder is computed as transformers computes it, or refused by the field, file or tensor at fault."""

import json
import warnings

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_electra import SMALL as SMALL_ELECTRA
from small_electra import V, small_config
from small_mt5 import GOOGLE, SMALL

from lmrecipes.models.electra import Electra, ElectraReader, ReaderConfig
from lmrecipes.models.electra import hf as electra
from lmrecipes.models.mt5 import MT5, MT5Config
from lmrecipes.models.mt5.hf import load_published

T = 12
IDS = torch.arange(2 * T).view(2, T) * 7 % V
# How far logits may be from transformers'.
NEAR = {"atol": 1e-4, "rtol": 1e-4}


def edit(folder, **fields):
    """Sets fields of a folder's configuration; leaves those out that are ...."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def spread(model):
    """Weights that are large enough, and norms that are not plain."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + float("orm" in name and parameter.ndim == 1))
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders that transformers wrote, by name."""
    folder = tmp_path_factory.mktemp("published")
    sizes = small_config()
    models = {
        "discriminator": transformers.ElectraForPreTraining(sizes.transformers()),
        "generator": transformers.ElectraForMaskedLM(sizes.generator_transformers()),
        "reader": transformers.ElectraForQuestionAnswering(sizes.transformers()),
    }
    config = MT5Config(**{**SMALL, **GOOGLE})
    shape = {
        **{"vocab_size": config.n_embeddings, "d_model": config.d_model, "d_kv": config.d_head, "d_ff": config.d_ff},
        **{"num_layers": config.n_layers, "num_heads": config.n_heads, "feed_forward_proj": "gated-gelu"},
        "relative_attention_num_buckets": config.n_buckets,
        "relative_attention_max_distance": config.max_distance,
    }
    models["mt5"] = transformers.MT5ForConditionalGeneration(transformers.MT5Config(**shape))
    models["t5"] = transformers.T5ForConditionalGeneration(transformers.T5Config(**shape))
    for name, model in models.items():
        spread(model).save_pretrained(folder / name)
    embeddings = models["discriminator"].electra.embeddings.state_dict()
    models["generator"].electra.embeddings.load_state_dict(embeddings)
    models["generator"].save_pretrained(folder / "generator")
    return folder


CLASSES = {
    "discriminator": transformers.ElectraForPreTraining,
    "generator": transformers.ElectraForMaskedLM,
    "reader": transformers.ElectraForQuestionAnswering,
    "mt5": transformers.MT5ForConditionalGeneration,
    "t5": transformers.T5ForConditionalGeneration,
}


@torch.no_grad()
def theirs(kind, folder):
    """Logits of transformers; None if it cannot use the folder."""
    inputs = {"input_ids": IDS} | ({"decoder_input_ids": IDS[:, :8]} if kind in ("mt5", "t5") else {})
    try:
        out = CLASSES[kind].from_pretrained(folder, dtype=torch.float32).eval()(**inputs)
    except Exception:
        return None
    return out[0] if isinstance(out, tuple) else out["start_logits" if kind == "reader" else "logits"]


@torch.no_grad()
def ours(kind, folder, others):
    """Logits of our network.

    Args:
        kind: of the folder.
        folder: the folder.
        others: folders of the other networks.

    Raises:
        ValueError: if the folder is refused.
    """
    if kind in ("mt5", "t5"):
        network = MT5(MT5Config(**{**SMALL, **GOOGLE})).eval()
        load_published(network, str(folder))
        encoded, pairs = network.encode(IDS, torch.ones_like(IDS))
        cache = network.begin(pairs, 8)
        steps = [network.step(IDS[:, i : i + 1], cache, None if i else encoded) for i in range(8)]
        return torch.stack(steps, 1)
    packing = electra.Packing.of(torch.full((2,), T), torch.device("cpu"))
    ids, types = packing.pack(IDS), packing.pack(torch.zeros_like(IDS))
    if kind == "reader":
        reader = ElectraReader(ReaderConfig(**SMALL_ELECTRA)).eval()
        electra.load_reader(reader, str(folder))
        hidden = packing.pad(
            electra.encode(reader.electra, electra.embed(reader.electra, ids, types, packing), packing)
        )
        return reader.head.logits(hidden, torch.ones(2, T, dtype=torch.bool))[0]
    network = Electra(small_config()).eval()
    paths = {"discriminator": others / "discriminator", "generator": others / "generator", kind: folder}
    electra.load_pretraining(network, electra.Pretrained(**{name: str(path) for name, path in paths.items()}))
    if kind == "discriminator":
        return packing.pad(network.discriminator_logits(ids, types, packing))
    return packing.pad(network.generator_logits(ids, types, packing, torch.arange(len(ids))))


def copied(folders, kind, folder):
    """A copy of a folder whose weights are those of the original."""
    folder.mkdir()
    (folder / "config.json").write_text((folders / kind / "config.json").read_text())
    (folder / "model.safetensors").symlink_to(folders / kind / "model.safetensors")
    return folder


def equal(actual, expected):
    return torch.allclose(actual, expected[..., : actual.shape[-1]], **NEAR)


def test_what_these_tests_change_is_computed_as_transformers_does_before(folders):
    for kind in CLASSES:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            actual = ours(kind, folders / kind, folders)
        assert equal(actual, theirs(kind, folders / kind)), kind
        assert actual.std() > 0.1


# Values to try of fields that are no numbers, and fields of older versions.
WORDS = {
    "hidden_act": ["relu", "gelu_new", "silu", "gelu_pytorch_tanh"],
    "feed_forward_proj": ["relu", "gelu", "gated-silu", "gated-relu", "gated-gelu_new", "gated-gelu_pytorch_tanh"],
    "dense_act_fn": ["relu", "silu", "gelu"],
    "summary_type": ["last"],
    "summary_activation": ["tanh"],
    "dtype": ["bfloat16"],
    "id2label": [{str(i): f"L{i}" for i in range(5)}],
    "architectures": [["Other"]],
    "problem_type": ["regression"],
    "model_type": ["bert", "umt5"],
    "_name_or_path": ["somewhere/else"],
    "transformers_version": ["4.2.0"],
}
EARLIER = {
    "position_embedding_type": ["relative_key"],
    "tie_word_embeddings": [False, True],
    "pruned_heads": [{"0": [1]}],
}


def other_values(name, value):
    """Values unlike a field's own."""
    if name in WORDS:
        return WORDS[name]
    if isinstance(value, bool):
        return [not value, ...]
    if isinstance(value, int):
        return [value + 2, ...]
    if isinstance(value, float):
        return [value * 1000 or 0.5, ...]
    return [3, ...]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CLASSES)
def test_every_field_of_transformers_configuration_is_computed_or_refused_by_name(kind, folders, tmp_path):
    """Also where the field is left out; that which changes nothing is not refused."""
    defaults = CLASSES[kind].config_class().to_dict()
    config = {**defaults, **json.loads((folders / kind / "config.json").read_text())}
    before = theirs(kind, folders / kind)
    tried, refused = [], set()
    fields = {**{name: other_values(name, value) for name, value in config.items()}, **EARLIER}
    for name, values in fields.items():
        for value in values:
            if value is ... and config[name] == defaults.get(name):
                continue
            folder = copied(folders, kind, tmp_path / str(len(tried)))
            edit(folder, **{name: value})
            tried.append(name)
            try:
                actual = ours(kind, folder, folders)
            except ValueError as error:
                message = str(error)
                assert "\n" not in message
                # Sizes that change a tensor's shape may be named by another.
                assert f"its {name} is {value if value is not ... else ''}" in message, message
                assert str(folder) in message
                if value is not ...:
                    refused.add(name)
                continue
            expected = theirs(kind, folder)
            # What transformers itself cannot use, it did not take from the field.
            expected = before if expected is None else expected
            assert equal(actual, expected), f"{name}: {value}"
    assert set(defaults) <= set(tried)
    assert not refused & MUST_BE_TAKEN, refused


# Published and fine-tuned folders differ in these: they must not be refused.
MUST_BE_TAKEN = {
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate", "classifier_dropout", "initializer_range"),
    *("initializer_factor", "use_cache", "architectures", "id2label", "dtype", "summary_type", "transformers_version"),
    *("output_hidden_states", "return_dict", "pad_token_id", "eos_token_id", "chunk_size_feed_forward", "problem_type"),
}


def weights_of(folders, kind, folder, change):
    """A copy of a folder whose tensors are changed."""
    copied(folders, kind, folder)
    (folder / "model.safetensors").unlink()
    state = change(dict(load_file(folders / kind / "model.safetensors")))
    save_file({name: value.clone().contiguous() for name, value in state.items()}, folder / "model.safetensors")
    return folder


OTHER = torch.randn(256, 32, generator=torch.Generator().manual_seed(5)) * 0.2
TABLES = {
    "tied by the input's name": lambda state: {k: v for k, v in state.items() if k != "lm_head.weight"},
    "tied by both names": lambda state: {**state, "lm_head.weight": state["shared.weight"]},
    "tied by the encoder's name": lambda state: {
        **{k: v for k, v in state.items() if k != "shared.weight"},
        "encoder.embed_tokens.weight": state["shared.weight"],
    },
    "under all names": lambda state: {
        **state,
        **dict.fromkeys(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), state["shared.weight"]),
    },
    "untied": lambda state: {**state, "lm_head.weight": OTHER},
    "in half precision": lambda state: {name: value.bfloat16() for name, value in state.items()},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["mt5", "t5"])
@pytest.mark.parametrize("tables", TABLES)
@pytest.mark.parametrize("flag", [True, False, ...])
def test_tables_of_input_and_output_are_as_transformers_has_them(kind, tables, flag, folders, tmp_path):
    folder = weights_of(folders, kind, tmp_path / "one", TABLES[tables])
    edit(folder, tie_word_embeddings=flag, scale_decoder_outputs=...)
    if flag is False and "lm_head.weight" not in load_file(folder / "model.safetensors"):
        with pytest.raises(ValueError, match=r"its tie_word_embeddings is False, but it lacks lm_head\.weight"):
            ours(kind, folder, folders)
        return
    assert equal(ours(kind, folder, folders), theirs(kind, folder))


def test_the_output_of_a_tied_t5_is_scaled(folders, tmp_path):
    """So that the test of tables is not one of two that do nothing."""
    plain = copied(folders, "t5", tmp_path / "plain")
    edit(plain, scale_decoder_outputs=False)
    scaled = ours("t5", folders / "t5", folders)
    torch.testing.assert_close(scaled * SMALL["d_model"] ** 0.5, ours("t5", plain, folders), **NEAR)


def test_tables_that_should_be_one_and_differ_are_refused(folders, tmp_path):
    folder = weights_of(folders, "mt5", tmp_path / "one", lambda s: {**s, "decoder.embed_tokens.weight": OTHER})
    with pytest.raises(ValueError, match=r"its shared.weight and decoder.embed_tokens.weight differ"):
        ours("mt5", folder, folders)


def test_the_original_t5_is_refused_by_its_activation(folders, tmp_path):
    for value in ("relu", ...):
        folder = copied(folders, "t5", tmp_path / str(value))
        edit(folder, feed_forward_proj=value, dense_act_fn=..., is_gated_act=...)
        with pytest.raises(ValueError, match="its feed_forward_proj is relu") as caught:
            ours("t5", folder, folders)
        assert "only gated-gelu" in str(caught.value)
        assert ("(transformers' default)" in str(caught.value)) == (value is ...)


@pytest.mark.parametrize("kind", ["t5", "reader"])
def test_unknown_fields_are_warned_of_by_name_and_known_ones_are_not(kind, folders, tmp_path):
    folder = copied(folders, kind, tmp_path / "one")
    edit(folder, sliding_window=7, empty=None, off=False, num_beams=4, task_specific_params={"x": 1})
    with pytest.warns(UserWarning, match=f"{folder}: .* not known here and left out: sliding_window$"):
        ours(kind, folder, folders)


def sharded(folders, kind, folder):
    """A copy of a folder in several files."""
    CLASSES[kind].from_pretrained(folders / kind).save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


@pytest.mark.parametrize("kind", ["mt5", "discriminator"])
def test_sharded_folders_load_and_a_broken_or_missing_part_is_named(kind, folders, tmp_path):
    folder = sharded(folders, kind, tmp_path / "one")
    assert equal(ours(kind, folder, folders), theirs(kind, folders / kind))
    part = sorted(folder.glob("model-*.safetensors"))[1]
    good = part.read_bytes()
    broken = [(good[: len(good) // 2], "cut short"), (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull")]
    for content, words in broken:
        part.write_bytes(content)
        with pytest.raises(ValueError, match=words) as caught:
            ours(kind, folder, folders)
        assert part.name in str(caught.value)
        assert str(folder) in str(caught.value)
    part.unlink()
    with pytest.raises(ValueError, match=f"{part.name}: it cannot be opened"):
        ours(kind, folder, folders)
    for listed in ([], {}, {"weight_map": []}, {"weight_map": {"w": "../one"}}):
        (folder / "model.safetensors.index.json").write_text(json.dumps(listed))
        with pytest.raises(ValueError, match="names no files of this folder"):
            ours(kind, folder, folders)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_folder_without_weights_or_with_others_is_refused_in_one_line(kind, folders, tmp_path):
    folder = copied(folders, kind, tmp_path / "one")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds neither model.safetensors nor pytorch_model.bin"):
        ours(kind, folder, folders)
    parts = ("dense.weight", "relative_attention_bias")
    name = next(k for k in load_file(folders / kind / "model.safetensors") if any(part in k for part in parts))
    folder = weights_of(folders, kind, tmp_path / "two", lambda state: {**state, name: torch.ones(3, 5)})
    with pytest.raises(ValueError, match=rf"{name} has shape \((3, 5|5, 3)\), not") as caught:
        ours(kind, folder, folders)
    assert str(folder) in str(caught.value)


def test_a_pointer_that_is_not_needed_is_not_read(folders, tmp_path):
    folder = copied(folders, "discriminator", tmp_path / "one")
    (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert equal(ours("discriminator", folder, folders), theirs("discriminator", folders / "discriminator"))


def test_a_generator_with_embeddings_of_its_own_is_warned_of(folders, tmp_path):
    name = "electra.embeddings.position_embeddings.weight"
    folder = weights_of(folders, "generator", tmp_path / "one", lambda state: {**state, name: state[name] + 1})
    with pytest.warns(UserWarning, match=r"has other embeddings.position_embeddings.weight than the discriminator"):
        ours("generator", folder, folders)
