"""Shared fixtures: a small corpus, options that shrink a recipe, and the command as a process."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from inspect import signature
from pathlib import Path

# Before torch is imported: one thread makes sums reproducible, here and in the commands that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
# No network access.
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import pytest

import warm

# Commands started by tests handle Ctrl-C even if the tests run in the background, where shells ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Busy machines are slow; that is not an error.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def requires(condition: bool, reason: str):
    """Skips a test with its reason unless the condition holds."""
    return pytest.mark.skipif(not condition, reason=reason)


def wait_until(what: str, holds: Callable[[], object], seconds: float) -> None:
    """Waits until a condition holds.

    Raises:
        TimeoutError: naming what did not happen.
    """
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} in {seconds:g} s")
        time.sleep(0.1)


def prepare_here(corpus) -> None:
    """Prepares a corpus in this process alone: worker processes would take seconds to start."""
    alone = {"workers": 1} if "workers" in signature(corpus.prepare).parameters else {}
    corpus.prepare(progress=False, **alone)


# Processes started since the test began.
_started: list[str] = []


def _record_start(event: str, arguments: tuple) -> None:
    if event in ("subprocess.Popen", "os.fork", "os.forkpty"):
        _started.append(f"{event} {arguments[:2]}")


sys.addaudithook(_record_start)


@pytest.fixture(autouse=True)
def only_slow_tests_start_processes(request):
    """Keeps `make test-fast` fast: a test that starts a process must be marked slow."""
    _started.clear()
    yield
    if _started and request.node.get_closest_marker("slow") is None:
        pytest.fail(f"starts a process ({_started[0]}); mark it as slow")


def pytest_terminal_summary(terminalreporter) -> None:
    """Prints the time of tests and their fixtures by folder."""
    seconds: dict[str, float] = defaultdict(float)
    tests: dict[str, set[str]] = defaultdict(set)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                folder = report.nodeid.partition("::")[0].rpartition("/")[0]
                seconds[folder] += report.duration
                tests[folder].add(report.nodeid)
    terminalreporter.section("seconds by folder")
    for folder in sorted(seconds, key=lambda folder: -seconds[folder]):
        terminalreporter.line(f"{seconds[folder]:7.1f}  {len(tests[folder]):4} tests  {folder}")
    terminalreporter.line(f"{sum(seconds.values()):7.1f}  {sum(map(len, tests.values())):4} tests  all")


@pytest.fixture(autouse=True)
def restore_environment():
    """Undoes a test's changes of environment variables."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory) -> Path:
    """A folder with a few thousand words of seeded random text in three splits."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = random.Random(0)
    words = [f"w{i}" for i in range(60)]
    for split, n_lines in (("train", 300), ("valid", 40), ("test", 40)):
        lines = (" ".join(generator.choices(words, weights=range(60, 0, -1), k=12)) for _ in range(n_lines))
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def small(small_corpus, tmp_path_factory) -> list[str]:
    """Options that let transformer_xl/tiny train on the small corpus within a second."""
    return [
        *("--config", "transformer_xl/tiny", "--data", "text_folder", f"--data.path={small_corpus}"),
        f"--data.cache_dir={tmp_path_factory.mktemp('cache')}",
        *("--batch.global_batch_size=4", "--batch.seq_len=8", "--batch.mem_len=8", "--batch.val.batch_size=4"),
        *("--batch.test.batch_size=4", "--batch.test.seq_len=8", "--batch.test.mem_len=16"),
        *("--model.config.n_layers=2", "--model.config.d_model=16", "--model.config.n_heads=2"),
        *("--model.config.d_head=8", "--model.config.d_ff=32", "--model.config.cutoffs=[20,40]"),
        *("--model.schedule.warmup_steps=2", "--trainer.max_steps=12", "--trainer.log_every_n_steps=1"),
        *("--trainer.val_check_interval=6", "--trainer.num_sanity_val_steps=0"),
    ]


@pytest.fixture(scope="session")
def cluster():
    """A two-node SLURM cluster, shared by all tests."""
    from cluster import running_cluster

    with running_cluster() as running:
        yield running


@pytest.fixture
def group():
    """A process group of this process alone, on the CPU."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def environment(**more: str) -> dict[str, str]:
    """Environment of a process that runs the command; it finds this source and the tests' own callbacks."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}
    variables.pop("LMRECIPES_RUN_DIR", None)
    return variables


@pytest.fixture
def command(tmp_path):
    """Runs `lmrecipes ...` as a process in an empty folder; returns the finished process."""

    def run(*arguments: str, seconds: float = 300, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [warm.python(), "-m", "lmrecipes", *arguments],
            cwd=tmp_path,
            env=environment(**more),
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    return run
