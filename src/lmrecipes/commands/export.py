"""`lmrecipes export`: a run as torch.export programs, plain weights, or a folder for transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LightningArgumentParser

from lmrecipes.cli import Command, RecipeCLI, open_recipe
from lmrecipes.commands.common.export_folder import exporting
from lmrecipes.commands.common.load_model import Trained, built, load_trained
from lmrecipes.commands.common.options import add_run
from lmrecipes.models.common.exported_program import COMPILED, GRAPH
from lmrecipes.models.common.protocols import ExportsHF, ExportsPrograms, ExportsWeights
from lmrecipes.runtime.console import quoted, say, short

WEIGHTS = "weights.pt"


# Default folder of a run's exports.
EXPORTED = "exported"


def _add_options(parser: LightningArgumentParser) -> None:
    add_run(parser)
    forms = Literal["torch_export", "aot_inductor", "state_dict", "hf"]
    parser.add_argument("--format", type=forms, default="torch_export", help="What to write.")
    parser.add_argument(
        "--output",
        type=str,
        help=f"New or empty folder, or that of an earlier export (default: RUN/{EXPORTED}).",
    )


COMMAND = Command(
    name="export",
    description=__doc__,
    add_options=_add_options,
    builds=frozenset(("model",)),
    uses_devices=False,
)


def run(argv: list[str]) -> int:
    """Writes the export, loads it again and compares it before reporting success."""
    cli = open_recipe(COMMAND, argv)
    if cli.run_dir is None:
        raise ValueError(f"lmrecipes {cli.command.name} needs a run: --run RUN")
    _check_format(cli.model, cli.config.format)
    folder, form = Path(cli.config.output or cli.run_dir / EXPORTED), cli.config.format
    with exporting(folder, form) as part:
        written = _write(cli, load_trained(cli), part)
    for path, what in written.items():
        say(f"{short(folder / path.relative_to(part))}: {what}")
    for command in ("test --run RUN", 'score --run RUN --text "..."') if form in (GRAPH, COMPILED) else ():
        say(f"use them with: lmrecipes {command.replace('RUN', quoted(cli.run_dir))} --exported {quoted(folder)}")
    return 0


_NEEDS = {"hf": ExportsHF, "state_dict": ExportsWeights, GRAPH: ExportsPrograms, COMPILED: ExportsPrograms}


def _check_format(model: Any, form: str) -> None:
    """Refuses a format that the model does not support.

    Raises:
        ValueError: naming the supported ones.
    """
    if not isinstance(model, _NEEDS[form]):
        forms = [name for name, protocol in _NEEDS.items() if isinstance(model, protocol)]
        name, others = type(model).__name__, f"--format {' or '.join(forms)} is" if forms else "it has none"
        raise ValueError(f"--format {form} is not for {name}; {others}")


def _write(cli: RecipeCLI, trained: Trained, folder: Path) -> dict[Path, str]:
    """Writes the export to a folder; returns a description of each path."""
    form = cli.config.format
    if form == "state_dict":
        path = write_weights(trained.module, built(cli.another_model(), trained.vocabulary), folder)
        count = len(trained.module.network.state_dict())
        return {path: f"{count} tensors, loaded again into a new network and compared with the run's"}
    if form == "hf":
        what = "a folder for transformers, loaded again and compared with the network"
        return dict.fromkeys(trained.module.export_hf(folder, trained.vocabulary), what)
    if form == COMPILED:
        say("compiling, about a minute")
    trained.module.export(folder, form)
    return {folder: "programs for inference, loaded again and compared with the network"}


def write_weights(module: Any, anew: Any, folder: Path) -> Path:
    """One file of plain tensors by parameter name, for `torch.load(..., weights_only=True)`.

    Args:
        module: the trained model, whose `example` gives the inputs of the comparison.
        anew: a second instance, into which the file's tensors are loaded.
        folder: where the file goes.

    Raises:
        ValueError: if the file differs from what was written, or a network loaded from it gives other outputs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WEIGHTS
    weights = {name: value.detach().cpu() for name, value in module.network.state_dict().items()}
    with path.open("wb") as file:
        torch.save(weights, file)
    again = torch.load(path, weights_only=True, map_location="cpu")
    if weights.keys() != again.keys() or not all(torch.equal(again[name], value) for name, value in weights.items()):
        raise ValueError(f"{path} does not contain what was written to it; check the disk")
    anew.network.load_state_dict(again)
    inputs = module.example()
    try:
        # A compiled network rounds differently.
        torch.testing.assert_close(_outputs(anew, inputs), _outputs(module, inputs), rtol=1e-3, atol=1e-3)
    except AssertionError as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"a network with the tensors of {path} does not compute what the run's does: {reason}"
        ) from error
    return path


def _outputs(module: Any, inputs: dict[str, Any]) -> Any:
    """Outputs of a model's network, with the same random numbers each time."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        return module.network(**inputs)
