"""Reads what a run logged offline, from wandb's own records of every part of a resumed run."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK = 32768


class Part:
    """One `offline-run-*` folder."""

    def __init__(self, path: Path) -> None:
        self.id = ""
        self.project = ""
        self.configs: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.exit_code: int | None = None
        for record in _records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.id, self.project = record.run.run_id, record.run.project
                self._config(record.run.config)
            elif kind == "config":
                self._config(record.config)
            elif kind == "history":
                items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                self.history.append(items)
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    def _config(self, record: Any) -> None:
        config = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.update}
        config.pop("_wandb", None)
        if config:
            self.configs.append(config)

    def metric(self, name: str) -> dict[int, float]:
        """Values of a metric by step."""
        return {row["_step"]: row[name] for row in self.history if name in row}


def parts(run: Path) -> list[Part]:
    """The parts of a run in the order of time."""
    return [Part(path) for path in sorted(run.glob("wandb/offline-run-*/run-*.wandb"))]


def _records(path: Path) -> Iterator[Any]:
    """Records in LevelDB's log format, after a header of seven bytes."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, payload = 7, b""
    while at + 7 <= len(data):
        left = _BLOCK - at % _BLOCK
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if left < 7 or kind == 0:
            at += left
            continue
        payload += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(payload)
            payload = b""
            yield record
