"""`lmrecipes export`: a run's network as files that need none of its training code."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

import torch
from torch import nn

from lmrecipes.cli import EXPORTED, open_recipe
from lmrecipes.commands.say import say, short
from lmrecipes.commands.trained import load_trained
from lmrecipes.models.common.programs import COMPILED

WEIGHTS = "weights.pt"


def run(argv: list[str]) -> int:
    """Writes what --format names, loads it again and compares before saying so."""
    cli = open_recipe("export", argv)
    if cli.run_dir is not None:
        folder = Path(cli.config.output) if cli.config.output else cli.run_dir / EXPORTED
        _check_writable(folder)
    trained = load_trained(cli)
    assert cli.run_dir is not None
    form = cli.config.format
    if form == "state_dict":
        path = write_weights(trained.module.network, folder)
        say(f"{short(path)}: {len(trained.module.network.state_dict())} tensors, loaded again and compared")
        return 0
    if form == "hf":
        write = getattr(trained.module, "export_hf", None)
        if write is None:
            raise ValueError(f"--format hf: transformers has no {type(trained.module.network).__name__}")
        for path in write(folder, trained.vocabulary):
            say(f"{short(path)}: a folder for transformers, loaded again and compared with the network")
        return 0
    if form == COMPILED:
        say("compiling, which takes a minute or so")
    trained.module.export(folder, form)
    say(f"{short(folder)}: programs for inference, loaded again and compared with the network")
    for command in ("test --run RUN", 'score --run RUN --text "..."'):
        say(f"use them with: lmrecipes {command.replace('RUN', short(cli.run_dir))} --runtime {short(folder)}")
    return 0


def _check_writable(folder: Path) -> None:
    """Makes the folder.

    Raises:
        ValueError: if it cannot be made or written to, naming the option.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder} cannot be written to ({error.strerror}); name another with --output") from error


def write_weights(network: nn.Module, folder: Path) -> Path:
    """One file of plain tensors by parameter name, for `torch.load(..., weights_only=True)`.

    Raises:
        ValueError: if what is read back differs from what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WEIGHTS
    weights = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    torch.save(weights, path)
    again = torch.load(path, weights_only=True, map_location="cpu")
    if weights.keys() != again.keys() or not all(torch.equal(again[name], value) for name, value in weights.items()):
        raise ValueError(f"{path} does not hold what was written to it; is the disk sound?")
    return path
