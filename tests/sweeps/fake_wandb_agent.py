"""`wandb agent` against a fake server: wandb's real agent tries the points that a test has written.

Points are files in a folder (SCRIPTED_POINTS), each used once; a file `stop` there stops the run, as Hyperband does.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import wandb
from wandb import wandb_agent
from wandb.apis.public import sweeps


class Server:
    """Answers an agent's requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sweep(self, *arguments: Any, **more: Any) -> dict[str, Any]:
        return {"config": (self.folder / "sweep.yaml").read_text()}

    def register(self, *arguments: Any, **more: Any) -> dict[str, Any]:
        return {"id": "agent"}

    def heartbeat(self, api: Any, agent: str, metrics: Any, running: dict[str, bool]) -> list[dict[str, Any]]:
        if running:
            return [{"type": "stop", "run_id": run} for run in running if (self.folder / "stop").exists()]
        for path in sorted(self.folder.glob("*.json")):
            taken = path.rename(path.with_suffix(".taken"))
            values = json.loads(taken.read_text())
            arguments = {name: {"value": value} for name, value in values.items()}
            return [{"type": "run", "run_id": path.stem, "program": "lmrecipes", "args": arguments}]
        return [{"type": "exit"}]


def main() -> None:
    server = Server(Path(os.environ["SCRIPTED_POINTS"]))
    sweeps._sweep_with_runs, sweeps._register_agent = server.sweep, server.register
    sweeps._agent_heartbeat = server.heartbeat
    wandb.Api = object
    wandb_agent.Agent.POLL_INTERVAL = 1
    assert sys.argv[1] == "agent"
    count = int(sys.argv[sys.argv.index("--count") + 1]) if "--count" in sys.argv else None
    wandb_agent.run_agent(sys.argv[-1], count=count, forward_signals="--forward-signals" in sys.argv)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
