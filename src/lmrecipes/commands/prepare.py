"""`lmrecipes prepare`: downloads, tokenizes and caches a recipe's data; training then needs no network."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from lmrecipes.cli import Command, RecipeCLI, open_recipe
from lmrecipes.data.prepared.shards import Share
from lmrecipes.datamodules.protocols import ListsFiles, PreparesInShards
from lmrecipes.runtime.console import say


def _add_options(parser: LightningArgumentParser) -> None:
    parser.add_argument("--shard", type=str, help="Shard of this job: 1/8 to 8/8 in an array of 8.")
    parser.add_argument("--workers", type=int | None, help="Number of processes (default: one per core).")


COMMAND = Command(
    name="prepare",
    description=__doc__,
    add_options=_add_options,
    builds=frozenset(("data",)),
    uses_devices=False,
    run_option="",
)


def run(argv: list[str]) -> int:
    """Prepares the data unless it is prepared."""
    cli = open_recipe(COMMAND, argv)
    data = cli.datamodule
    data.prepare(progress=sys.stderr.isatty(), **_shard_arguments(cli))
    for line in data.listing() if isinstance(data, ListsFiles) else ():
        say(line)
    if not isinstance(data, PreparesInShards) or data.ready:
        say(f"prepared: vocabulary {data.vocab_size:,}")
    else:
        say(f"shard {cli.config.shard} is prepared; the data is ready once all are, or after a run without --shard")
    return 0


def _shard_arguments(cli: RecipeCLI) -> dict[str, Any]:
    """Arguments for data that is prepared in shards.

    Raises:
        ValueError: if this data is not, or the options are invalid.
    """
    shard, workers = cli.config.shard, cli.config.workers
    options = {"--shard": shard, "--workers": workers}
    if not isinstance(cli.datamodule, PreparesInShards):
        for option, value in options.items():
            if value is not None:
                raise ValueError(f"{option} is {value}, but this data is prepared by one process; leave it out")
        return {}
    if workers is not None and workers < 1:
        raise ValueError(f"--workers is {workers}; it must be 1 or more")
    return {"workers": workers} | ({} if shard is None else {"share": Share.parse(shard)})
