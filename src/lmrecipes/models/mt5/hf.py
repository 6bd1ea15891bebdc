"""Google's mT5 in Hugging Face's form: published folders as a start, and folders that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lmrecipes.models.common import hf as common
from lmrecipes.models.common.folder_config import Fields
from lmrecipes.models.common.peft import merged
from lmrecipes.models.mt5.config import MT5Config
from lmrecipes.models.mt5.network import MT5

# transformers' fields, by what they do to the network here.
_FIELDS = Fields(
    sizes={
        "vocab_size": "n_embeddings",
        "d_model": "d_model",
        "num_layers": "n_layers",
        "num_decoder_layers": "n_layers",
        "num_heads": "n_heads",
        "d_kv": "d_head",
        "d_ff": "d_ff",
        "relative_attention_num_buckets": "n_buckets",
        "relative_attention_max_distance": "max_distance",
    },
    fixed={
        # Three names of one function, gelu by tanh.
        "feed_forward_proj": ("gated-gelu", "gated-gelu_new", "gated-gelu_pytorch_tanh"),
        "dense_act_fn": ("gelu_new", "gelu_pytorch_tanh"),
        "is_gated_act": (True,),
        "layer_norm_epsilon": (1e-6,),
        "is_encoder_decoder": (True,),
    },
    # Whether tables are tied, and the output scaled, is seen to when the weights are loaded.
    free=frozenset(
        (
            *("decoder_start_token_id", "dropout_rate", "initializer_factor", "n_positions"),
            *("scale_decoder_outputs", "tie_word_embeddings"),
        )
    ),
    derived=frozenset(("dense_act_fn", "is_gated_act", "num_decoder_layers", "scale_decoder_outputs")),
)
# transformers' classes by model_type: T5 1.1 is the same network.
_CONFIGS = {"mt5": "MT5Config", "t5": "T5Config"}
_INPUT, _OUTPUT = "shared.weight", "lm_head.weight"
_INPUT_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}
_FF = {"gate": "wi_0", "up": "wi_1", "down": "wo"}


def published_names(config: MT5Config) -> Iterator[tuple[str, str]]:
    """Names of our parameters, each with transformers'."""
    yield "embedding.weight", "shared.weight"
    yield "head.weight", "lm_head.weight"
    for stack in ("encoder", "decoder"):
        first = f"{stack}.block.0.layer.0.SelfAttention"
        yield f"{stack}.distances", f"{first}.relative_attention_bias.weight"
        yield f"{stack}.norm.weight", f"{stack}.final_layer_norm.weight"
        attentions = [("attention", "SelfAttention")]
        attentions += [("input", "EncDecAttention")] if stack == "decoder" else []
        for i in range(config.n_layers):
            ours, theirs = f"{stack}.layers.{i}", f"{stack}.block.{i}.layer"
            for number, (name, kind) in enumerate(attentions):
                yield f"{ours}.{name}_norm.weight", f"{theirs}.{number}.layer_norm.weight"
                whole = "attention" if name == "attention" else "input_attention"
                for part, short in _ATTENTION.items():
                    yield f"{ours}.{whole}.{part}.weight", f"{theirs}.{number}.{kind}.{short}.weight"
            last = f"{theirs}.{len(attentions)}"
            yield f"{ours}.ff_norm.weight", f"{last}.layer_norm.weight"
            for part, short in _FF.items():
                yield f"{ours}.ff.{part}.weight", f"{last}.DenseReluDense.{short}.weight"


def _transposed(name: str, value: Tensor) -> Tensor:
    # Heads come first here, for tensor parallelism.
    return value.t() if name.endswith("distances") else value


@torch.no_grad()
def load_published(network: MT5, name: str) -> None:
    """Fills the network with what a folder, or a repository on the hub, holds.

    Raises:
        ValueError: if it cannot be read, or is of another kind or size.
    """
    config, source = network.config, f"model.pretrained {name}"
    if not config.is_google or config.positions != "relative":
        raise ValueError(
            f"{source} is Google's mT5, but model.config.family is {config.family} with {config.positions} positions; "
            f"set family google and positions relative"
        )
    with common.reading(source):
        folder = _folder(name)
        stored = common.read_config(folder)
        kind = common.check_type(stored, *_CONFIGS)
        # Not by transformers' class, whose versions tie the output table to the input's, or the other way round.
        published = common.read_folder(folder)
        defaults = getattr(common.transformers(), _CONFIGS[kind])().to_dict()
        _FIELDS.check(stored, _sizes(config), defaults, source)
        published = _with_tables(published, stored)
    state = network.state_dict()
    for ours, theirs in published_names(config):
        if theirs not in published:
            raise ValueError(f"{source} lacks {theirs}: it is not an mT5 or a T5 1.1")
        value = _transposed(ours, published[theirs])
        if value.shape != state[ours].shape:
            raise ValueError(f"{source}: {theirs} has shape {tuple(value.shape)}, not {tuple(state[ours].shape)}")
        state[ours].copy_(value)


def _with_tables(published: Mapping[str, Tensor], stored: Mapping[str, Any]) -> dict[str, Tensor]:
    """A folder's tensors with both tables, of input and output, and the output's as it is applied.

    Args:
        published: the tensors, with the input's table under any of its names; without the output's, if that is tied.
        stored: the folder's configuration.

    Raises:
        ValueError: if a table is missing, or names of one have different values.
    """
    named = {name: published[name] for name in (_INPUT, *_INPUT_ALIASES) if name in published}
    if not named:
        raise ValueError(f"it lacks {_INPUT}")
    (first, table), *others = named.items()
    for name, other in others:
        if not torch.equal(other, table):
            raise ValueError(f"its {first} and {name} differ, but the encoder and the decoder share one table here")
    is_tied = stored.get("tie_word_embeddings") is not False
    if _OUTPUT not in published and not is_tied:
        raise ValueError(f"its tie_word_embeddings is False, but it lacks {_OUTPUT}")
    output = published.get(_OUTPUT, table)
    # Of T5 alone, transformers scales what a tied table multiplies; scaling the table is the same.
    if stored["model_type"] == "t5" and stored.get("scale_decoder_outputs", is_tied):
        output = output.float() * output.shape[1] ** -0.5
    return {**published, _INPUT: table, _OUTPUT: output}


def _sizes(config: MT5Config) -> dict[str, int]:
    return {theirs: getattr(config, ours) for theirs, ours in _FIELDS.sizes.items()}


def _folder(name: str) -> Path:
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ValueError("no such folder")
    # Needed for hub names only, and slow to import.
    from huggingface_hub import snapshot_download

    files = [
        "config.json",
        *common.WEIGHT_FILES,
        *(f"{file}.index.json" for file in common.WEIGHT_FILES),
        "model-*.safetensors",
        "pytorch_model-*.bin",
    ]
    return Path(snapshot_download(name, allow_patterns=files))


@torch.no_grad()
def write_published(network: MT5, folder: Path, vocabulary: Any) -> list[Path]:
    """Writes a folder, reads it again with transformers and compares.

    Raises:
        ValueError: if the network is not Google's, or what is read does not compute what it does.
    """
    config = network.config
    if not config.is_google or config.positions != "relative":
        raise ValueError(
            f"--format hf: transformers has no mT5 of the family {config.family} with {config.positions} positions; "
            f"--format state_dict writes it"
        )
    published = common.transformers().MT5Config(
        **_sizes(config),
        dropout_rate=config.dropout,
        eos_token_id=getattr(vocabulary, "eos_id", 1),
        pad_token_id=getattr(vocabulary, "pad_id", 0),
        decoder_start_token_id=getattr(vocabulary, "pad_id", 0),
        architectures=["MT5ForConditionalGeneration"],
    )
    folder.mkdir(parents=True, exist_ok=True)
    # transformers sets this flag regardless; the weights are not tied.
    settings = {**published.to_dict(), "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    state = merged(network)
    weights = {
        theirs: _transposed(ours, state[ours]).detach().cpu().contiguous() for ours, theirs in published_names(config)
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if hasattr(vocabulary, "write_published"):
        vocabulary.write_published(folder)
    ids = common.made_up(config)
    inputs = {"input_ids": ids, "decoder_input_ids": ids[:, :8]}
    encoded, pairs = network.encode(ids, torch.ones_like(ids))
    logits = network.step(ids[:, :8], network.begin(pairs, 8), encoded)
    last = (slice(None), -1, slice(logits.shape[1]))
    common.check_written(folder, "AutoModelForSeq2SeqLM", inputs, {"logits": logits}, last)
    return [folder]
