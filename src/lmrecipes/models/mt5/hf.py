"""Google's mT5 in Hugging Face's form: published folders as a start, and folders that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmrecipes.models.common import hf as common
from lmrecipes.models.common.peft import merged
from lmrecipes.models.mt5.config import MT5Config
from lmrecipes.models.mt5.network import MT5
from lmrecipes.runtime.open_file import read_json

# transformers' fields that define shapes, each with the field of ours that sets it.
_FIELDS = {
    "vocab_size": "n_embeddings",
    "d_model": "d_model",
    "num_layers": "n_layers",
    "num_decoder_layers": "n_layers",
    "num_heads": "n_heads",
    "d_kv": "d_head",
    "d_ff": "d_ff",
    "relative_attention_num_buckets": "n_buckets",
}
_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}
_FF = {"gate": "wi_0", "up": "wi_1", "down": "wo"}
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


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
        stored = read_json(folder / "config.json")
        common.check_config(stored, {"model_type": "mt5", **_sizes(config)}, _FIELDS)
        published = _weights_of(folder)
    state = network.state_dict()
    for ours, theirs in published_names(config):
        if theirs not in published:
            raise ValueError(f"{source} lacks {theirs}: it is not an mT5 with an untied output embedding")
        value = _transposed(ours, published[theirs])
        if value.shape != state[ours].shape:
            raise ValueError(f"{source}: {theirs} has shape {tuple(value.shape)}, not {tuple(state[ours].shape)}")
        state[ours].copy_(value)


def _sizes(config: MT5Config) -> dict[str, int]:
    return {theirs: getattr(config, ours) for theirs, ours in _FIELDS.items()}


def _folder(name: str) -> Path:
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ValueError("no such folder")
    # Needed for hub names only, and slow to import.
    from huggingface_hub import snapshot_download

    files = ["config.json", *_WEIGHTS, *(f"{file}.index.json" for file in _WEIGHTS), "model-*.safetensors"]
    return Path(snapshot_download(name, allow_patterns=files))


def _weights_of(folder: Path) -> Mapping[str, Tensor]:
    # Not by transformers' class, whose versions tie the output table to the input's, or the other way round.
    for name in _WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return _read(folder / name)
        if index.is_file():
            parts = sorted(set(read_json(index)["weight_map"].values()))
            return {key: value for part in parts for key, value in _read(folder / part).items()}
    raise ValueError(f"{folder} holds neither {' nor '.join(_WEIGHTS)}")


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    weights: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    return weights


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
        relative_attention_max_distance=config.max_distance,
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
