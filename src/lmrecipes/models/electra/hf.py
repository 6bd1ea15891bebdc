"""ELECTRA in Hugging Face's form: published folders as a start, and folders that transformers loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmrecipes.models.common.hf import quietly, transformers
from lmrecipes.models.common.unpadded import Packing
from lmrecipes.models.electra.config import EncoderConfig
from lmrecipes.models.electra.encoder import embed, encode
from lmrecipes.models.electra.heads import SimpleHead
from lmrecipes.models.electra.network import Electra
from lmrecipes.models.electra.reader import ElectraReader

# Shape-defining fields: ours, and transformers'.
_SIZES = {
    "n_embeddings": "vocab_size",
    "d_embedding": "embedding_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "max_positions": "max_position_embeddings",
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
    generator = {
        "n_embeddings": config.n_embeddings,
        "d_embedding": config.d_embedding,
        "generator_size": config.generator_d_model,
        "generator_layers": config.generator_n_layers,
        "generator_d_head": config.generator_heads,
        "max_positions": config.max_positions,
    }
    sizes = {**_SIZES, "generator_size": "hidden_size", "generator_layers": "num_hidden_layers"}
    sizes["generator_d_head"] = "num_attention_heads"
    state = _read(transformers().ElectraForMaskedLM, pretrained.generator, "generator", generator, sizes)
    weights = state.electra.state_dict()
    network.generator.load_state_dict({k: v for k, v in weights.items() if not k.startswith("embeddings.")})
    network.generator_head.load_state_dict(state.generator_predictions.state_dict())
    with torch.no_grad():
        network.generator_bias.copy_(state.generator_lm_head.bias)
    state = _read(transformers().ElectraForPreTraining, pretrained.discriminator, "discriminator", _sizes(config))
    network.discriminator.load_state_dict(state.electra.state_dict())
    network.discriminator_head.load_state_dict(state.discriminator_predictions.state_dict())


def load_reader(network: ElectraReader, name: str) -> None:
    """Loads the published encoder, and a simple head if the folder has one.

    Raises:
        ValueError: if the folder cannot be read, or is of another size.
    """
    state = _read(transformers().ElectraForQuestionAnswering, name, None, _sizes(network.config), head="qa_outputs.")
    network.electra.load_state_dict(state.electra.state_dict())
    if isinstance(network.head, SimpleHead) and not state.lmrecipes_new_head:
        network.head.outputs.load_state_dict(state.qa_outputs.state_dict())


def _sizes(config: EncoderConfig) -> dict[str, int]:
    return {name: getattr(config, name) for name in _SIZES}


def _read(
    kind: Any,
    name: str,
    field: str | None,
    sizes: dict[str, int],
    theirs: dict[str, str] = _SIZES,
    head: str = "\0",
) -> Any:
    """A network of a folder, checked.

    Args:
        kind: transformers' class.
        name: folder or hub name.
        field: which of `Pretrained` names it; None where model.pretrained itself does.
        sizes: what must agree, by our names.
        theirs: transformers' names of these.
        head: how names of parameters begin that may be missing.
    """
    source = f"model.pretrained{f'.{field}' if field else ''} {name}"
    try:
        with quietly():
            published = transformers().ElectraConfig.from_pretrained(name)
            model_type = transformers().PreTrainedConfig.get_config_dict(name)[0].get("model_type")
            if model_type != "electra":
                raise ValueError(f"its model is {model_type}, not electra")
            for ours, size in sizes.items():
                its = getattr(published, theirs[ours])
                if its != size:
                    raise ValueError(f"its {theirs[ours]} is {its}, but model.config.{ours} makes {size}")
            found, about = kind.from_pretrained(name, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{source} cannot be used: {reason}") from error
    missing = [parameter for parameter in about["missing_keys"] if not parameter.startswith(head)]
    if missing:
        raise ValueError(f"{source} lacks {min(missing)}: it is no {kind.__name__}")
    found.lmrecipes_new_head = bool(about["missing_keys"])
    return found


def write_pretraining(network: Electra, folder: Path, vocabulary: Any) -> list[Path]:
    """Writes `discriminator` and `generator`, reads them again and compares.

    Raises:
        ValueError: if what is read does not compute what the network does.
    """
    config = network.config
    discriminator = transformers().ElectraForPreTraining(config.transformers())
    discriminator.electra.load_state_dict(network.discriminator.state_dict())
    discriminator.discriminator_predictions.load_state_dict(network.discriminator_head.state_dict())
    generator = transformers().ElectraForMaskedLM(config.generator_transformers())
    shared = network.discriminator.embeddings.state_dict(prefix="embeddings.")
    generator.electra.load_state_dict({**network.generator.state_dict(), **shared})
    generator.generator_predictions.load_state_dict(network.generator_head.state_dict())
    generator.generator_lm_head.load_state_dict(
        {"weight": shared["embeddings.word_embeddings.weight"], "bias": network.generator_bias.detach()}
    )
    ids, packing = _some_text(config)
    types = torch.zeros_like(ids)
    with torch.no_grad():
        embedded = embed(network.discriminator, packing.pack(ids), packing.pack(types), packing)
        expected = packing.pad(network.discriminator_head(encode(network.discriminator, embedded, packing)))
        table = network.discriminator.embeddings.word_embeddings.weight
        hidden = network.generator_head(encode(network.generator, embedded, packing))
        logits = packing.pad(hidden @ table.t() + network.generator_bias)
    paths = [folder / "discriminator", folder / "generator"]
    _write(discriminator, paths[0], vocabulary, config, "AutoModelForPreTraining", ids, [("logits", expected)])
    _write(generator, paths[1], vocabulary, config, "AutoModelForMaskedLM", ids, [("logits", logits)])
    return paths


def write_reader(network: ElectraReader, folder: Path, vocabulary: Any) -> list[Path]:
    """Writes one folder: question answering with the simple head, the encoder alone with a joint one.

    Raises:
        ValueError: if what is read does not compute what the network does.
    """
    config = network.config
    ids, packing = _some_text(config)
    with torch.no_grad():
        embedded = embed(network.electra, packing.pack(ids), packing.pack(torch.zeros_like(ids)), packing)
        hidden = packing.pad(encode(network.electra, embedded, packing))
    if not isinstance(network.head, SimpleHead):
        raise ValueError(
            f"--format hf: transformers has no model with the joint head {config.head}; --format state_dict writes it"
        )
    exported = transformers().ElectraForQuestionAnswering(config.transformers())
    exported.electra.load_state_dict(network.electra.state_dict())
    exported.qa_outputs.load_state_dict(network.head.outputs.state_dict())
    with torch.no_grad():
        start, end = network.head.logits(hidden, torch.ones_like(ids, dtype=torch.bool))
    expected = [("start_logits", start), ("end_logits", end)]
    _write(exported, folder, vocabulary, config, "AutoModelForQuestionAnswering", ids, expected)
    return [folder]


def made_up(config: EncoderConfig) -> Tensor:
    """Tokens of two texts, to compare networks by: int64 (2, T)."""
    length = min(16, config.max_positions)
    return torch.arange(2 * length).view(2, length) % config.n_embeddings


def _some_text(config: EncoderConfig) -> tuple[Tensor, Packing]:
    ids = made_up(config)
    return ids, Packing.of(torch.full((2,), ids.shape[1]), ids.device)


def _write(
    model: nn.Module,
    folder: Path,
    vocabulary: Any,
    config: EncoderConfig,
    kind: str,
    ids: Tensor,
    expected: list[tuple[str, Tensor]],
) -> None:
    if not hasattr(vocabulary, "fast"):
        raise ValueError(f"--format hf needs a WordPiece vocabulary, and the run's is of kind {vocabulary.kind}")
    with quietly():
        model.save_pretrained(folder)  # type: ignore[operator]
        tokenizer = vocabulary.fast
        tokenizer.model_max_length = config.max_positions
        tokenizer.save_pretrained(folder)
        again = getattr(transformers(), kind).from_pretrained(folder).eval()
    with torch.no_grad():
        out = again(input_ids=ids)
    for name, value in expected:
        if not torch.allclose(out[name].float(), value.float(), atol=1e-3, rtol=1e-3):
            raise ValueError(f"what transformers loads from {folder} does not compute what the run's network does")
