"""What the README tells to type works."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from conftest import requires
from lmrecipes.__main__ import main

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text() if (ROOT / "Makefile").is_file() else ""
README = (ROOT / "README.md").read_text()
# What makes any recipe train two steps on a small text.
OVERLAYS = ["--config", "overlays/debug", "--config", "overlays/cpu"]
SHORT = ["--trainer.max_steps=2", "--trainer.val_check_interval=1"]
SMALL = [
    *("--model.config.n_layers=2", "--model.config.d_model=16", "--model.config.n_heads=2", "--model.config.d_head=8"),
    *("--model.config.d_ff=32", "--model.config.vocab_size=0", "--model.config.cutoffs=[10,20,30]"),
    *("--trainer.accelerator=cpu", "--trainer.precision=32-true", *SHORT),
]


def commands():
    """Every command of the README's fences, in order, continued lines joined and comments dropped."""
    for fence in re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
        for line in fence.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] in (["make"], ["lmrecipes"]):
                yield words


def of_make(target):
    """The `lmrecipes` commands of a target."""
    (body,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE)
    return [shlex.split(line.split("lmrecipes", 1)[1]) for line in body.splitlines() if "/lmrecipes " in line]


def made_small(arguments, corpus, folder):
    """The same command, trained for two steps on the small corpus."""
    words = []
    for word in arguments:
        if "<time>" in word or word.endswith("*"):
            words += sorted(str(p.relative_to(folder)) for p in folder.glob(word.replace("<time>", "*")))
        else:
            words.append(str(corpus) if word == "FOLDER" else word)
    if "--config" not in words:
        return words
    recipe = words.index("--config") + 2
    cache = f"--data.cache_dir={folder}/cache"
    if words[recipe - 1].startswith("electra/tiny"):
        return [*words, cache, *SHORT]
    own_data = [] if "--data.path" in words else [f"--data.path={corpus}"]
    own_size = [*SMALL, "--batch.micro_batch_size=2", "--batch.global_batch_size=4"] if words[0] == "fit" else []
    return [*words[:recipe], *OVERLAYS, *words[recipe:], *own_data, cache, *own_size]


def test_the_readme_shows_every_command_in_fences_that_are_read():
    seen = {words[1] for words in commands() if words[0] == "lmrecipes"}
    assert seen >= {"list", "prepare", "fit", "test", "score", "predict", "plot"}
    assert ["make", "demo"] in list(commands())


@requires(bool(MAKEFILE), "the Makefile is not here")
def test_every_target_that_the_readme_names_is_there():
    named = set(re.findall(r"`(?:\w+=\S+ )*make (\w+)`", README)) | {w[1] for w in commands() if w[0] == "make"}
    assert named >= {"demo", "bench"}
    assert named <= set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))


@pytest.mark.slow
@requires(bool(MAKEFILE), "the Makefile is not here")
def test_the_readmes_commands_run(command, small_corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in commands():
        asked = of_make(words[1]) if words[0] == "make" else [words[1:]]
        for arguments in asked:
            small = made_small(arguments, small_corpus, tmp_path)
            if "--trainer.devices" in small:
                # Leaves with its other processes.
                assert command(*small).returncode == 0, arguments
            else:
                assert main(small) == 0, arguments
                assert capsys.readouterr().out, arguments


@pytest.mark.filterwarnings("ignore")
def test_the_readmes_python_runs(small_corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMRECIPES_CACHE", str(tmp_path / "cache"))
    shutil.copytree(small_corpus, tmp_path / "my_text")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE))
    sizes = "n_layers=4, d_model=256, n_heads=4, d_head=64, d_ff=1024"
    for shown, small in (
        (sizes, "n_layers=1, d_model=16, n_heads=2, d_head=8, d_ff=32"),
        ("max_steps=400", "max_steps=22, accelerator='cpu', logger=False, enable_progress_bar=False"),
        ("val_check_interval=200", "val_check_interval=22, enable_checkpointing=False"),
    ):
        assert shown in code
        code = code.replace(shown, small)
    names: dict = {}
    exec(code, names)
    assert names["trainer"].callback_metrics["test/loss"] > 0
    assert names["nll"].shape[0] == 16
