"""ELECTRA in Hugging Face's form: published folders as a start, and folders that transformers loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmrecipes.models.common import hf as common
from lmrecipes.models.common.unpadded import Packing
from lmrecipes.models.electra.config import EncoderConfig
from lmrecipes.models.electra.encoder import embed, encode
from lmrecipes.models.electra.heads import SimpleHead
from lmrecipes.models.electra.network import Electra
from lmrecipes.models.electra.reader import ElectraReader

# transformers' fields that define shapes, each with the field of ours that sets it.
_FIELDS = {
    "vocab_size": "n_embeddings",
    "embedding_size": "d_embedding",
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "d_ff",
    "max_position_embeddings": "max_positions",
}
_GENERATOR_FIELDS = {
    **_FIELDS,
    "hidden_size": "generator_size",
    "num_hidden_layers": "generator_layers",
    "num_attention_heads": "generator_d_head",
    "intermediate_size": "generator_size",
}


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Published networks to initialize pretraining from."""

    discriminator: str
    """Folder or hub name."""
    generator: str
    """Folder or hub name."""


def load_pretraining(network: Electra, pretrained: Pretrained) -> None:
    """Loads published weights into both networks.

    Raises:
        ValueError: if a folder cannot be read, or is of another size or kind.
    """
    config = network.config
    expected = config.generator_transformers()
    state = _read(pretrained.generator, "model.pretrained.generator", "MaskedLM", expected, _GENERATOR_FIELDS)
    weights = state.electra.state_dict()
    network.generator.load_state_dict({k: v for k, v in weights.items() if not k.startswith("embeddings.")})
    network.generator_head.load_state_dict(state.generator_predictions.state_dict())
    with torch.no_grad():
        network.generator_bias.copy_(state.generator_lm_head.bias)
    expected = config.transformers()
    state = _read(pretrained.discriminator, "model.pretrained.discriminator", "PreTraining", expected)
    network.discriminator.load_state_dict(state.electra.state_dict())
    network.discriminator_head.load_state_dict(state.discriminator_predictions.state_dict())


def load_reader(network: ElectraReader, name: str) -> None:
    """Loads the published encoder, and a simple head if the folder has one.

    Raises:
        ValueError: if the folder cannot be read, or is of another size.
    """
    expected = network.config.transformers()
    state = _read(name, "model.pretrained", "QuestionAnswering", expected, optional="qa_outputs.")
    network.electra.load_state_dict(state.electra.state_dict())
    if isinstance(network.head, SimpleHead) and not state.lmrecipes_new_head:
        network.head.outputs.load_state_dict(state.qa_outputs.state_dict())


def _read(
    name: str, field: str, task: str, expected: Any, fields: dict[str, str] = _FIELDS, optional: str = "\0"
) -> Any:
    """A network of a folder or hub name, checked.

    Args:
        name: folder or hub name.
        field: which of the recipe's fields names it.
        task: transformers' class, without ElectraFor.
        expected: transformers' configuration of the network here.
        fields: what must agree.
        optional: how names of parameters begin that may be missing.
    """
    kind = f"ElectraFor{task}"
    with common.reading(f"{field} {name}"), common.quietly():
        if (folder := Path(name).expanduser()).is_dir():
            common.check_files(folder)
        stored = common.transformers().PreTrainedConfig.get_config_dict(name)[0]
        defaults = {**common.transformers().ElectraConfig().to_dict(), "model_type": None}
        common.check_config({**defaults, **stored}, expected.to_dict(), fields)
        model, info = getattr(common.transformers(), kind).from_pretrained(name, output_loading_info=True)
    missing = [parameter for parameter in info["missing_keys"] if not parameter.startswith(optional)]
    if missing:
        raise ValueError(f"{field} {name} lacks {min(missing)}: it is not an {kind}")
    model.lmrecipes_new_head = bool(info["missing_keys"])
    return model


@torch.no_grad()
def write_pretraining(network: Electra, folder: Path, vocabulary: Any) -> list[Path]:
    """Writes `discriminator` and `generator`, reads them again and compares.

    Raises:
        ValueError: if transformers computes other outputs from them than the network.
    """
    config, paths = network.config, [folder / "discriminator", folder / "generator"]
    ids_N, types_N, packing = _packed_text(network)
    discriminator = common.transformers().ElectraForPreTraining(config.transformers())
    discriminator.electra.load_state_dict(network.discriminator.state_dict())
    discriminator.discriminator_predictions.load_state_dict(network.discriminator_head.state_dict())
    logits = packing.pad(network.discriminator_logits(ids_N, types_N, packing))
    _write(discriminator, paths[0], vocabulary, config, {"logits": logits})
    generator = common.transformers().ElectraForMaskedLM(config.generator_transformers())
    shared = network.discriminator.embeddings.state_dict(prefix="embeddings.")
    generator.electra.load_state_dict({**network.generator.state_dict(), **shared})
    generator.generator_predictions.load_state_dict(network.generator_head.state_dict())
    generator.generator_lm_head.load_state_dict(
        {"weight": shared["embeddings.word_embeddings.weight"], "bias": network.generator_bias}
    )
    logits = packing.pad(network.generator_logits(ids_N, types_N, packing, torch.arange(len(ids_N))))
    _write(generator, paths[1], vocabulary, config, {"logits": logits})
    return paths


@torch.no_grad()
def write_reader(network: ElectraReader, folder: Path, vocabulary: Any) -> list[Path]:
    """Writes one folder, of question answering with the simple head.

    Raises:
        ValueError: if the head is a joint one, or what is read does not compute what the network does.
    """
    config = network.config
    if not isinstance(network.head, SimpleHead):
        raise ValueError(
            f"--format hf: transformers has no model with the joint head {config.head}; --format state_dict writes it"
        )
    ids_N, types_N, packing = _packed_text(network)
    hidden = packing.pad(encode(network.electra, embed(network.electra, ids_N, types_N, packing), packing))
    start, end = network.head.logits(hidden, hidden.new_ones(packing.shape, dtype=torch.bool))
    exported = common.transformers().ElectraForQuestionAnswering(config.transformers())
    exported.electra.load_state_dict(network.electra.state_dict())
    exported.qa_outputs.load_state_dict(network.head.outputs.state_dict())
    _write(exported, folder, vocabulary, config, {"start_logits": start, "end_logits": end})
    return [folder]


def _packed_text(network: Electra | ElectraReader) -> tuple[Tensor, Tensor, Packing]:
    """Synthetic tokens (N,), their segments (N,) and their packing, for comparing networks."""
    ids = common.made_up(network.config)
    packing = Packing.of(torch.full((2,), ids.shape[1]), ids.device)
    return packing.pack(ids), packing.pack(torch.zeros_like(ids)), packing


def _write(model: nn.Module, folder: Path, vocabulary: Any, config: EncoderConfig, expected: dict[str, Tensor]) -> None:
    if not hasattr(vocabulary, "fast"):
        raise ValueError(f"--format hf needs a WordPiece vocabulary, and the run's is of kind {vocabulary.kind}")
    tokenizer = vocabulary.fast
    tokenizer.model_max_length = config.max_positions
    with common.quietly():
        model.save_pretrained(folder)  # type: ignore[operator]
        tokenizer.save_pretrained(folder)
    kind = type(model).__name__.replace("Electra", "AutoModel")
    common.check_written(folder, kind, {"input_ids": common.made_up(config)}, expected)
