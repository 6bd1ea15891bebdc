"""Transformer-XL as exported programs: one for the beginning of a text, one that goes on from memory."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from lmrecipes.batches import SplitPlan
from lmrecipes.models.common.exported_program import (
    Program,
    check_outputs,
    load_programs,
    read_manifest,
    write_programs,
)
from lmrecipes.models.transformer_xl.network import TransformerXL

BEGIN, GO_ON = "begin", "go_on"


class _Likelihood(nn.Module):
    """The network under one evaluation plan, as exported."""

    def __init__(self, network: TransformerXL, plan: SplitPlan) -> None:
        super().__init__()
        self.network = network
        self.settings = settings_of(plan)

    def forward(
        self, input_ids: Tensor, targets: Tensor, memory: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """See `TransformerXL.forward`."""
        nll, memory = self.network(input_ids, targets, memory, **self.settings)
        return nll, memory


def settings_of(plan: SplitPlan) -> dict[str, int | bool]:
    """The settings that are constants in a program."""
    return {name: value for name, value in asdict(plan).items() if name not in ("batch_size", "seq_len")}


def export(network: TransformerXL, plan: SplitPlan, folder: Path, form: str) -> None:
    """Writes the network's programs for one evaluation plan, loads them and compares their outputs with the network's.

    Raises:
        ValueError: if they cannot be made, or compute something else.
    """
    written = programs(network, plan)
    write_programs(written, folder, form, settings_of(plan))
    loaded = ExportedTransformerXL(folder)
    for program in written.values():
        with torch.no_grad():
            check_outputs(loaded(*program.example), program.network(*program.example), folder)


def example(network: TransformerXL, plan: SplitPlan) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Synthetic tokens, targets and memory of one call."""
    device = network.content_bias.device
    # torch.export specializes sizes 0 and 1, and aliases an argument given twice.
    size = (2, max(plan.seq_len, 2))
    tokens, targets = (torch.randint(network.config.vocab_size, size, device=device) for _ in range(2))
    memory = [
        torch.randn(2, max(plan.mem_len, 2), network.config.d_model, device=device)
        for _ in range(network.config.n_layers if plan.mem_len else 0)
    ]
    return tokens, targets, memory


def programs(network: TransformerXL, plan: SplitPlan) -> dict[str, Program]:
    """The network's programs for any number of sequences, length of segment and memory."""
    tokens, targets, memory = example(network, plan)
    likelihood = _Likelihood(network, plan).eval()
    batch, length, memory_length = Dim.DYNAMIC, Dim.DYNAMIC, Dim.DYNAMIC
    of_tokens = {0: batch, 1: length}
    programs_by_name = {BEGIN: Program(network=likelihood, example=(tokens, targets), dynamic=(of_tokens, of_tokens))}
    if memory:
        dynamic = (of_tokens, of_tokens, [{0: batch, 1: memory_length} for _ in memory])
        programs_by_name[GO_ON] = Program(network=likelihood, example=(tokens, targets, memory), dynamic=dynamic)
    return programs_by_name


class ExportedTransformerXL(nn.Module):
    """Replaces `TransformerXL` in evaluation by exported programs."""

    def __init__(self, folder: Path, split: str = "test") -> None:
        """Loads the programs.

        Args:
            folder: the folder of checkpoints.
            split: whose batch plan they are used with, for messages.
        """
        super().__init__()
        self.folder, self.split = folder, split
        manifest = read_manifest(folder)
        self.settings, self.device = manifest["settings"], torch.device(manifest["device"])
        self.programs = load_programs(folder, manifest["form"])

    def forward(
        self, input_ids: Tensor, targets: Tensor, memory: list[Tensor] | None = None, **settings: int | bool
    ) -> tuple[Tensor, list[Tensor]]:
        """See `TransformerXL.forward`.

        Raises:
            ValueError: if the settings or the device are not those that the programs were made for.
        """
        for name, value in settings.items():
            if value != self.settings[name]:
                raise ValueError(
                    f"batch.{self.split}.{name} is {value}, but {self.folder} was exported for {self.settings[name]}; "
                    f"give that, or export again with --batch.test.{name} {value}"
                )
        if input_ids.device.type != self.device.type:
            raise ValueError(
                f"trainer.accelerator is {input_ids.device.type}, but {self.folder} was exported for {self.device.type}"
            )
        # AOTInductor assumes contiguous arguments.
        tokens = (input_ids.contiguous(), targets.contiguous())
        nll, memory = self.programs[GO_ON](*tokens, memory) if memory else self.programs[BEGIN](*tokens)
        return nll, [layer[:, -self.settings["mem_len"] :].contiguous() for layer in memory]
