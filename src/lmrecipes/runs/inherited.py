"""What a run takes from an earlier one: its weights, its vocabulary, and the base of its adapters."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from lmrecipes.checkpoints.weights import SelectsWeights
from lmrecipes.config import catalog
from lmrecipes.config.arguments import class_of
from lmrecipes.config.errors import ConfigError
from lmrecipes.data.tokenizers.loading import is_reproducible
from lmrecipes.runs.checkpoint_choice import checkpoint_of, is_checkpoint
from lmrecipes.runs.run_dir import CONFIG, VOCABULARY, find_run
from lmrecipes.runtime.path_names import check_length


def init_checkpoint(config: Namespace) -> Path:
    """The checkpoint that --init_from names: of a run the best one, or the last if its optimizer state is loaded too.

    Raises:
        ConfigError: if there is none, or the optimizer state is of another optimizer.
    """
    name = config.init_from
    if is_checkpoint(Path(name)):
        return Path(name)
    run = find_run(name, root=Path(config.runs_root))
    if not config.init_optimizer:
        return checkpoint_of(run, "best")
    run_optimizer = catalog.read_yaml(run / CONFIG)["model"]["init_args"]["optimizer"]["class_path"]
    optimizer = config.model.init_args.optimizer.class_path
    if optimizer != run_optimizer:
        raise ConfigError(f"--init_optimizer: model.optimizer is {optimizer}, but that of {run} is {run_optimizer}")
    return checkpoint_of(run, "last")


def check_source_model(config: Namespace) -> None:
    """Refuses --init_from a run of another model, before the mismatch shows in its vocabulary or its weights.

    Raises:
        ConfigError: naming both.
    """
    name = config.get("init_from")
    if name is None:
        return
    check_length("--init_from", name)
    if is_checkpoint(Path(name)):
        return
    run = find_run(name, root=Path(config.runs_root))
    source, target = catalog.read_yaml(run / CONFIG)["model"]["class_path"], config.model.class_path
    if source != target and not isinstance(class_of(target), SelectsWeights) and not _are_related(source, target):
        source, target = (path.rpartition(".")[2] for path in (source, target))
        raise ConfigError(f"--init_from {name} is a run of {source}, but model is {target}; name a run of {target}")


def _are_related(source: str, target: str) -> bool:
    """Whether one class inherits from the other; true if the source cannot be imported any more."""
    try:
        one, other = class_of(source), class_of(target)
    except (ImportError, AttributeError):
        return True
    return issubclass(one, other) or issubclass(other, one)


def inherit_vocabulary(config: Namespace, run_dir: Path | None, *, resumed: bool) -> None:
    """Sets data.vocabulary_dir to the vocabulary of an earlier run, where the recipe does not name one.

    With --init_from that is the source run's vocabulary; a resumed run keeps its own if learning it again could give
    another. Every run has a copy, which stands in for a named vocabulary that no longer exists.
    """
    arguments = config.data.get("init_args") if "data" in config else None
    if arguments is None or "vocabulary_dir" not in arguments:
        return
    named, copy = arguments.vocabulary_dir, run_dir / VOCABULARY if run_dir else None
    source = config.get("init_from")
    if named is not None:
        if copy is not None and copy.is_dir() and not Path(named).is_dir():
            arguments.vocabulary_dir = str(copy)
    elif resumed and copy is not None and not is_reproducible(copy):
        arguments.vocabulary_dir = str(copy)
    elif source is not None and not is_checkpoint(Path(source)):
        saved = find_run(source, root=Path(config.runs_root)) / VOCABULARY
        if saved.is_dir():
            arguments.vocabulary_dir = str(saved.resolve())


def inherit_base(config: Namespace) -> None:
    """Records the checkpoint of --init_from as the base of adapters, which are saved without it."""
    tuning = config.model.get("init_args", {}).get("tuning") if "model" in config else None
    if tuning is not None and tuning.kind != "full" and tuning.base is None and config.get("init_from"):
        tuning.base = str(init_checkpoint(config).resolve())
