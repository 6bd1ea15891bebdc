"""ELECTRA in Hugging Face's form: published folders as a start, and folders that transformers loads."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmrecipes.models.common import hf as common
from lmrecipes.models.common.folder_config import Fields
from lmrecipes.models.common.unpadded import Packing
from lmrecipes.models.electra.config import EncoderConfig
from lmrecipes.models.electra.encoder import embed, encode
from lmrecipes.models.electra.heads import SimpleHead
from lmrecipes.models.electra.network import Electra
from lmrecipes.models.electra.reader import ElectraReader

# transformers' fields, by what they do to the networks here.
_FIELDS = Fields(
    sizes={
        "vocab_size": "n_embeddings",
        "embedding_size": "d_embedding",
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "d_ff",
        "max_position_embeddings": "max_positions",
    },
    fixed={
        "hidden_act": ("gelu",),
        "layer_norm_eps": (1e-12,),
        "type_vocab_size": (2,),
        "position_embedding_type": ("absolute",),
        "is_encoder_decoder": (False,),
    },
    # The dropout is the recipe's; the summary is of heads that classify texts; only the generator has a table to tie.
    free=frozenset(
        (
            *("attention_probs_dropout_prob", "hidden_dropout_prob", "initializer_range", "tie_word_embeddings"),
            *("summary_activation", "summary_last_dropout", "summary_type", "summary_use_proj"),
        )
    ),
)
_GENERATOR_FIELDS = replace(
    _FIELDS,
    sizes={
        **_FIELDS.sizes,
        "hidden_size": "generator_size",
        "num_hidden_layers": "generator_layers",
        "num_attention_heads": "generator_d_head",
        "intermediate_size": "generator_size",
    },
    fixed={**_FIELDS.fixed, "tie_word_embeddings": (True,)},
)


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
    generator = _read(pretrained.generator, "model.pretrained.generator", "MaskedLM", expected, _GENERATOR_FIELDS)
    expected = config.transformers()
    discriminator = _read(pretrained.discriminator, "model.pretrained.discriminator", "PreTraining", expected)
    network.discriminator.load_state_dict(discriminator.electra.state_dict())
    network.discriminator_head.load_state_dict(discriminator.discriminator_predictions.state_dict())
    weights = generator.electra.state_dict()
    network.generator.load_state_dict({k: v for k, v in weights.items() if not k.startswith("embeddings.")})
    network.generator_head.load_state_dict(generator.generator_predictions.state_dict())
    with torch.no_grad():
        network.generator_bias.copy_(generator.generator_lm_head.bias)
    shared = discriminator.electra.state_dict()
    differing = [k for k, v in weights.items() if k.startswith("embeddings.") and not torch.equal(v, shared[k])]
    if differing:
        warnings.warn(
            f"model.pretrained.generator {pretrained.generator} has other {differing[0]} than the discriminator, whose "
            f"embeddings both networks have here: the generator begins with those",
            stacklevel=2,
        )


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


def _read(name: str, field: str, task: str, expected: Any, fields: Fields = _FIELDS, optional: str = "\0") -> Any:
    """A network of a folder or hub name, checked.

    Args:
        name: folder or hub name.
        field: which of the recipe's fields names it.
        task: transformers' class, without ElectraFor.
        expected: transformers' configuration of the network here.
        fields: what is compared.
        optional: how names of parameters begin that may be missing.
    """
    kind = f"ElectraFor{task}"
    source = f"{field} {name}"
    with common.reading(source), common.quietly():
        if (folder := Path(name).expanduser()).is_dir():
            common.check_files(folder)
        stored = common.transformers().PreTrainedConfig.get_config_dict(name)[0]
        common.check_type(stored, "electra")
        fields.check(stored, expected.to_dict(), common.transformers().ElectraConfig().to_dict(), source)
        # Not in the type that the folder names: the files may be more exact. The labels are start and end.
        model, info = getattr(common.transformers(), kind).from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, num_labels=2
        )
        for parameter, theirs, ours in sorted(info["mismatched_keys"]):
            raise ValueError(f"its {parameter} has shape {tuple(theirs)}, not {tuple(ours)}")
    missing = [parameter for parameter in info["missing_keys"] if not parameter.startswith(optional)]
    if missing:
        raise ValueError(f"{source} lacks {min(missing)}: it is not an {kind}")
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
