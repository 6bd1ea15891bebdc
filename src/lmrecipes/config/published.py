"""Published results as data: the results of a recipe's paper or repository, next to the measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Target:
    """One published result and the settings that it was obtained with."""

    metric: str
    """Name under which we log the same figure, such as test/perplexity."""
    value: float
    """The published figure."""
    source: str
    """Where it is published."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """Settings behind the figure by their dotted names, such as {trainer.max_steps: 40000}."""


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted names as typed on the command line (`init_args.` left out)."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value and key != "published":
            flat.update(flatten(value, name))
        else:
            flat[name] = value
    return flat


def differences(target: Target, settings: Mapping[str, Any]) -> list[str]:
    """The conditions in which a run with these flat settings differs from the published one, a phrase each."""
    differing = []
    for name, published in target.conditions.items():
        ours = settings.get(name)
        if isinstance(published, str) and isinstance(ours, str):
            same = ours == published or ours.rsplit(".", 1)[-1] == published
        else:
            same = ours == published
        if not same:
            differing.append(f"{name} {ours} (published: {published})")
    return differing


def compare(targets: list[Target], measured: Mapping[str, float], settings: Mapping[str, Any]) -> list[str]:
    """Lines with each published result next to the measured one, and the conditions that differ."""
    lines = []
    for target in targets:
        if target.metric not in measured:
            continue
        ours = measured[target.metric]
        lines.append(f"{target.metric}: measured {ours:.2f}, published {target.value:g} ({target.source})")
        lines.extend(f"  conditions differ: {difference}" for difference in differences(target, settings))
    return lines
