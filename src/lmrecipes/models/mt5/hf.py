"""Google's mT5 in Hugging Face's form: published folders as a start, and folders that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmrecipes.models.common.hf import quietly, transformers
from lmrecipes.models.common.peft import merged
from lmrecipes.models.mt5.config import MT5Config
from lmrecipes.models.mt5.network import MT5

# Shape-defining fields: ours, and transformers'.
_SIZES = {
    "n_embeddings": "vocab_size",
    "d_model": "d_model",
    "n_layers": "num_layers",
    "n_heads": "num_heads",
    "d_head": "d_kv",
    "d_ff": "d_ff",
    "n_buckets": "relative_attention_num_buckets",
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


def _turned(name: str, value: Tensor) -> Tensor:
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
    try:
        published = _weights_of(_check(config, _folder(name)))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{source} cannot be used: {reason}") from error
    state = network.state_dict()
    for ours, theirs in published_names(config):
        if theirs not in published:
            raise ValueError(f"{source} lacks {theirs}: it is not an mT5 with an untied output embedding")
        value = _turned(ours, published[theirs])
        if value.shape != state[ours].shape:
            raise ValueError(f"{source}: {theirs} has shape {tuple(value.shape)}, not {tuple(state[ours].shape)}")
        state[ours].copy_(value)


def _folder(name: str) -> Path:
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ValueError("no such folder")
    # Needed for hub names only, and slow to import.
    from huggingface_hub import snapshot_download

    files = ["config.json", *_WEIGHTS, *(f"{file}.index.json" for file in _WEIGHTS), "model-*.safetensors"]
    return Path(snapshot_download(name, allow_patterns=files))


def _check(config: MT5Config, folder: Path) -> Path:
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if about.get("model_type") != "mt5":
        raise ValueError(f"its model is {about.get('model_type')}, not mt5")
    for ours, theirs in _SIZES.items():
        if theirs in about and about[theirs] != getattr(config, ours):
            raise ValueError(f"its {theirs} is {about[theirs]}, but model.config.{ours} makes {getattr(config, ours)}")
    decoder = about.get("num_decoder_layers")
    if decoder not in (None, config.n_layers):
        raise ValueError(f"its decoder has {decoder} layers, but model.config.n_layers is {config.n_layers}")
    return folder


def _weights_of(folder: Path) -> Mapping[str, Tensor]:
    # Not by transformers' class, whose versions tie the output table to the input's, or the other way round.
    for name in _WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return _read(folder / name)
        if index.is_file():
            parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            return {key: value for part in parts for key, value in _read(folder / part).items()}
    raise ValueError(f"{folder} holds neither {' nor '.join(_WEIGHTS)}")


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    weights: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    return weights


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
    published = transformers().MT5Config(
        **{theirs: getattr(config, ours) for ours, theirs in _SIZES.items()},
        relative_attention_max_distance=config.max_distance,
        dropout_rate=config.dropout,
        eos_token_id=getattr(vocabulary, "eos_id", 1),
        pad_token_id=getattr(vocabulary, "pad_id", 0),
        decoder_start_token_id=getattr(vocabulary, "pad_id", 0),
        architectures=["MT5ForConditionalGeneration"],
    )
    about = published.to_dict()
    folder.mkdir(parents=True, exist_ok=True)
    # transformers sets this flag regardless; the weights are not tied.
    (folder / "config.json").write_text(json.dumps({**about, "tie_word_embeddings": False}, indent=2) + "\n")
    state = merged(network)
    weights = {
        theirs: _turned(ours, state[ours]).detach().cpu().contiguous() for ours, theirs in published_names(config)
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if hasattr(vocabulary, "write_published"):
        vocabulary.write_published(folder)
    _compare(network, folder)
    return [folder]


def made_up(config: MT5Config) -> Tensor:
    """Tokens of two texts, to compare networks by: int64 (2, T)."""
    length = min(16, config.max_positions)
    return (torch.arange(2 * length).view(2, length) * 7) % config.vocab_size


@torch.no_grad()
def _compare(network: MT5, folder: Path) -> None:
    ids = made_up(network.config)
    with quietly():
        again = transformers().AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    theirs = again(input_ids=ids, decoder_input_ids=ids[:, :8]).logits[:, -1].float()
    pairs = torch.ones_like(ids)
    encoded, pairs = network.encode(ids, pairs)
    ours = network.step(ids[:, :8], network.begin(pairs, 8), encoded)
    if not torch.allclose(theirs[:, : ours.shape[1]], ours, atol=1e-3, rtol=1e-3):
        raise ValueError(f"what transformers loads from {folder} does not compute what the run's network does")
