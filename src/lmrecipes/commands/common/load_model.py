"""The model of a run with its weights and vocabulary, for commands that use it without a corpus."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmrecipes import runs
from lmrecipes.checkpoints.weights import check_weights, weights_for
from lmrecipes.cli import RecipeCLI
from lmrecipes.commands.common.options import check_text
from lmrecipes.data import Vocabulary, load_vocabulary
from lmrecipes.models.common.protocols import ExportsPrograms
from lmrecipes.runtime.console import quoted


@dataclass(frozen=True)
class Trained:
    """A model ready for inference."""

    module: Any
    vocabulary: Vocabulary


def load_trained(cli: RecipeCLI) -> Trained:
    """Builds the run's network and loads its checkpoint.

    Raises:
        ValueError: if there is no run, vocabulary or checkpoint, or the weights are from a different architecture.
    """
    if cli.run_dir is None:
        raise ValueError(f"lmrecipes {cli.command.name} needs a run: --run RUN")
    vocabulary = load_vocabulary(cli.run_dir / runs.VOCABULARY)
    module = built(cli.model, vocabulary)
    path = cli.checkpoint()
    source = f"--checkpoint {quoted(path)}"
    weights = weights_for(module, path, source)
    check_weights(weights, module.state_dict(), source)
    module.load_state_dict(weights)
    return Trained(module, vocabulary)


def built(module: Any, vocabulary: Vocabulary) -> Any:
    """A model with a network of the vocabulary's size, in evaluation mode."""
    module.config = replace(module.config, vocab_size=vocabulary.size)
    module.configure_model()
    return module.eval()


def texts_of(cli: RecipeCLI) -> list[str]:
    """What --text and --file give.

    Raises:
        ValueError: if neither is given, the text is no UTF-8, or the file cannot be read.
    """
    check_text("--text", cli.config.text)
    texts = [cli.config.text] if cli.config.text is not None else []
    if cli.config.file is not None:
        try:
            with open(cli.config.file, encoding="utf-8-sig") as file:
                texts.append(file.read())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"--file {cli.config.file} cannot be read: {reason}") from None
    if not texts:
        raise ValueError(f'lmrecipes {cli.command.name} needs a text: --text "..." or --file FILE')
    return texts


def use_exported(module: Any, folder: str, split: str = "test") -> None:
    """Replaces the network by exported programs for a split.

    Raises:
        ValueError: if the model has none, or the folder holds none of this model.
    """
    if not isinstance(module, ExportsPrograms):
        raise ValueError(
            f"--exported is {folder}, but {type(module).__name__} is not exported as programs; leave it out"
        )
    module.use_programs(Path(folder), split)
