"""Parameter-efficient fine-tuning: prompt tuning, p-tuning and LoRA on a frozen base; or full fine-tuning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrecipes.checkpoints.weights import check_weights, weights_for
from lmrecipes.config.validation import at_least
from lmrecipes.models.common.linear import Linear, linear
from lmrecipes.models.common.parallel_plan import ParallelPlan

_PREFIX = "network."
# Kinds of tuning that read a setting.
_READ_BY = {
    "virtual_tokens": ("prompt", "p_tuning"),
    "encoder_hidden": ("p_tuning",),
    "init_std": ("p_tuning",),
    "rank": ("lora",),
    "alpha": ("lora",),
}
# Prompts are initialized from the embeddings of the most frequent tokens (Lester et al. 2021).
_FREQUENT = 5000


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What is trained; all kinds but `full` freeze the base, and checkpoints hold only the adapter weights."""

    kind: Literal["full", "prompt", "p_tuning", "lora"] = "full"
    """full: everything. prompt: vectors before every input (Lester et al. 2021, arXiv:2104.08691). p_tuning: the same,
    made by a small network (Liu et al. 2021, arXiv:2103.10385). lora: a low-rank sum to queries and values (Hu et al.
    2021, arXiv:2106.09685)."""
    base: str | None = None
    """Checkpoint whose weights are the base; left out, what --init_from or model.pretrained names."""
    virtual_tokens: int = 100
    """Vectors before every input."""
    encoder_hidden: int = 2048
    """Inner width of p_tuning's network."""
    init_std: float = 0.023
    """Standard deviation of the first weights of p_tuning's network."""
    rank: int = 8
    """Rank of LoRA's sums."""
    alpha: float = 16.0
    """LoRA's sums are multiplied by alpha / rank."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field.
        """
        at_least(self, "model.tuning.", virtual_tokens=1, encoder_hidden=1, rank=1)
        for setting in fields(self):
            kinds, value = _READ_BY.get(setting.name), getattr(self, setting.name)
            if kinds is not None and self.kind not in kinds and value != setting.default:
                raise ValueError(
                    f"model.tuning.{setting.name} is {value}, but model.tuning.kind is {self.kind}, and only "
                    f"{' and '.join(kinds)} reads it; leave it out"
                )

    @property
    def in_part(self) -> bool:
        """Whether a base stays as it is."""
        return self.kind != "full"


class PromptTable(nn.Module):
    """The vectors themselves."""

    def __init__(self, n: int, embedding: Tensor) -> None:
        super().__init__()
        rows = torch.randint(min(_FREQUENT, len(embedding)), (n,))
        self.table = nn.Parameter(embedding.detach()[rows.to(embedding.device)].clone())

    def forward(self) -> Tensor:
        """(virtual tokens, D)."""
        return self.table


class PromptEncoder(nn.Module):
    """Vectors from a table through two layers, as NeMo's tpmlp."""

    def __init__(self, n: int, width: int, hidden: int, std: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(n, width) * std)
        self.inner, self.outer = Linear(width, hidden), Linear(hidden, width)
        for layer in (self.inner, self.outer):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self) -> Tensor:
        """(virtual tokens, D)."""
        out: Tensor = self.outer(F.gelu(self.inner(self.table)))
        return out


class LoraLinear(Linear):
    """A linear layer whose weight stays, and a product of two thin matrices that is added to it."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias, self.scale = layer.weight, layer.bias, scale
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) * layer.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return super().forward(x) + linear(linear(x, self.down), self.up) * self.scale


def initialize(network: nn.Module, tuning: Tuning, load_published: Callable[[], None] | None, *, fresh: bool) -> None:
    """Loads the weights that the recipe names into a new network, then freezes all but the adapter.

    Args:
        network: just built.
        tuning: what is trained.
        load_published: loads published weights into the network; None if the recipe names none.
        fresh: whether training starts here. Otherwise a checkpoint is loaded next, which lacks a frozen base only.
    """
    if load_published is not None and (fresh or tuning.in_part):
        load_published()
    if tuning.in_part and tuning.base is not None:
        load_base(network, tuning.base)
    has_base = load_published is not None or tuning.base is not None
    if tuning.in_part and not has_base and fresh:
        warnings.warn(
            f"model.tuning.kind is {tuning.kind}, but the frozen network has random weights: give a base with "
            f"--init_from RUN",
            stacklevel=2,
        )
    tune(network, tuning, has_base=has_base)


def select_weights(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, tuning: Tuning
) -> dict[str, Tensor]:
    """Another run's weights to start from: all of them, or none if they are the frozen base, which is loaded already.

    Args:
        weights: the other run's.
        expected: the module's, without a frozen base.
        source: what the user gave, for messages.
        tuning: what is trained.

    Raises:
        ValueError: if they are from a different architecture.
    """
    if tuning.in_part and not expected.keys() & weights.keys():
        return {}
    check_weights(weights, expected, source)
    return dict(weights)


def tuned_plan(plan: ParallelPlan, tuning: Tuning) -> ParallelPlan:
    """The plan of a tuned network: with LoRA no layer is split, as its matrices are whole."""
    return replace(plan, split={}) if tuning.kind == "lora" else plan


def tune(network: nn.Module, tuning: Tuning, *, has_base: bool) -> None:
    """Freezes the network and adds the adapter.

    Args:
        network: with the base's weights; its `embedding` is that of its tokens, and what its `prompt` gives precedes
            the embedded input.
        tuning: what is trained; with `full` nothing happens.
        has_base: whether the base is kept elsewhere: from now on `state_dict` then holds only what is added.
    """
    if not tuning.in_part:
        return
    frozen = {name for name, _ in network.named_parameters()}
    network.requires_grad_(False)
    embedding = network.get_parameter("embedding.weight")
    width = embedding.shape[1]
    if tuning.kind == "prompt":
        network.prompt = PromptTable(tuning.virtual_tokens, embedding)
    elif tuning.kind == "p_tuning":
        network.prompt = PromptEncoder(tuning.virtual_tokens, width, tuning.encoder_hidden, tuning.init_std)
    else:
        for module in list(network.modules()):
            for name in ("query", "value"):
                if isinstance(layer := getattr(module, name, None), nn.Linear):
                    setattr(module, name, LoraLinear(layer, tuning.rank, tuning.alpha / tuning.rank))

    if not has_base:
        return

    def leave_out(_: nn.Module, state: dict[str, Any], prefix: str, __: Any) -> None:
        for name in frozen:
            state.pop(f"{prefix}{name}", None)

    def miss_nothing(_: nn.Module, incompatible: Any) -> None:
        incompatible.missing_keys[:] = [
            name for name in incompatible.missing_keys if name.removeprefix(_PREFIX) not in frozen
        ]

    network.register_state_dict_post_hook(leave_out)
    network.register_load_state_dict_post_hook(miss_nothing)


def load_base(network: nn.Module, path: str) -> None:
    """Fills a network with the weights of a checkpoint of ours, before it is tuned.

    Raises:
        ValueError: if it is gone, or of another network.
    """
    source = f"model.tuning.base {path}"
    if not Path(path).exists():
        raise ValueError(f"{source} no longer exists; give the base's checkpoint with --model.tuning.base")
    weights = weights_for(network, Path(path), source)
    check_weights(weights, network.state_dict(), source)
    network.load_state_dict(weights)


@torch.no_grad()
def merged(network: nn.Module) -> Mapping[str, Tensor]:
    """All weights of the plain network that computes the same.

    Raises:
        ValueError: if there is none, as with a prompt.
    """
    if getattr(network, "prompt", None) is not None:
        raise ValueError(
            "--format hf: transformers' networks have no virtual tokens; --format state_dict writes what was trained"
        )
    weights = {name: p.detach() for name, p in network.named_parameters() if not name.endswith((".up", ".down"))}
    for name, module in network.named_modules():
        if isinstance(module, LoraLinear):
            weights[f"{name}.weight"] = module.weight + module.scale * (module.up @ module.down)
    return weights
