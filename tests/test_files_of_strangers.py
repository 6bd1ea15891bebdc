"""No file that is opened runs code that it carries; one that cannot be read is refused in one line that names it."""

import contextlib
import json
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from lmrecipes import runs
from lmrecipes.__main__ import main
from lmrecipes.checkpoints import sharded
from lmrecipes.checkpoints.io import AtomicCheckpointIO, load_checkpoint
from lmrecipes.data import load_vocabulary
from lmrecipes.data.prepared.corpus import find_prepared
from lmrecipes.data.tasks.squad.windows import Windows
from lmrecipes.data.tokenizers.sentencepiece_config import load_sentencepiece
from lmrecipes.data.tokenizers.wordpiece_config import load_wordpiece
from lmrecipes.models.common import hf
from lmrecipes.models.common.exported_program import GRAPH, Program, load_programs, write_programs
from lmrecipes.runs.checkpoint_choice import checkpoint_of

WEIGHTS = {"w": torch.arange(30.0)}
CONTENT = {"state_dict": WEIGHTS, "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}], "global_step": 1}


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def plain(folder, group):
    path = folder / "last-step=1.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    return path, lambda: load_checkpoint(path)


def of_a_run(folder, group):
    path, _ = plain(folder / "run/checkpoints", group)
    return path, lambda: checkpoint_of(folder / "run", "last")


def sharded_file(pattern):
    def make(folder, group):
        path = folder / "last-step=1.ckpt"
        sharded.write({"state_dict.w": WEIGHTS["w"]}, {"global_step": 1}, path, group)
        [file] = path.glob(pattern)

        def load():
            # The checksums are those of what is there: whoever puts code into a file can correct them.
            if file.name != sharded.MANIFEST:
                listed = {one.name: sharded._checksum(one) for one in path.iterdir() if one.name != sharded.MANIFEST}
                (path / sharded.MANIFEST).write_text(json.dumps(listed))
            return load_checkpoint(path)

        return file, load

    return make


def published(name):
    def make(folder, group):
        (folder / "config.json").write_text('{"model_type": "mt5"}')
        path = folder / name
        if path.suffix == ".bin":
            torch.save(WEIGHTS, path)
        else:
            save_file(WEIGHTS, folder / "model.safetensors")

        def load():
            with hf.reading(f"model.pretrained {folder}"):
                hf.check_files(folder)

        return path, load

    return make


def weights_alone(name):
    def make(folder, group):
        path = folder / name
        if path.suffix == ".safetensors":
            save_file(WEIGHTS, path)
        else:
            torch.save(WEIGHTS, path)
        return path, lambda: load_checkpoint(path, or_weights=True)

    return make


def array(folder, group):
    path = folder / "starts.npy"
    for name in Windows.__dataclass_fields__:
        np.save(folder / f"{name}.npy", np.arange(5))
    path = next(folder.glob("*.npy"))
    return path, lambda: Windows.load(folder)


def vocabulary(folder, group):
    path = folder / "vocabulary.json"
    path.write_text(json.dumps({"kind": "char", "symbols": ["97"]}))
    return path, lambda: load_vocabulary(folder)


def tokenizer(name, load):
    def make(folder, group):
        return folder / name, lambda: load(str(folder / name))

    return make


def results(folder, group):
    path = folder / runs.RESULTS
    path.write_text("[]")
    return path, lambda: runs.results(folder)


def manifest(folder, group):
    path = folder / "manifest.json"
    path.write_text("{}")
    return path, lambda: find_prepared(folder)


def program(name):
    def make(folder, group):
        network = torch.nn.Linear(2, 2).eval()
        programs = {"x": Program(network=network, example=(torch.ones(3, 2),), dynamic=(None,))}
        write_programs(programs, folder, GRAPH, {})
        return folder / name, lambda: load_programs(folder, GRAPH)

    return make


KINDS = {
    "checkpoint": plain,
    "checkpoint of a run": of_a_run,
    "index of a sharded checkpoint": sharded_file(".metadata"),
    "shard": sharded_file("*.distcp"),
    "settings of a sharded checkpoint": sharded_file("rest.pt"),
    "checksums of a sharded checkpoint": sharded_file("manifest.json"),
    "pytorch_model.bin": published("pytorch_model.bin"),
    "model.safetensors": published("model.safetensors"),
    "config.json": published("config.json"),
    "weights alone": weights_alone("weights.pt"),
    "weights alone in safetensors": weights_alone("weights.safetensors"),
    "prepared array": array,
    "vocabulary of a run": vocabulary,
    "tokenizer.json": tokenizer("tokenizer.json", load_wordpiece),
    "tokenizer.json of pieces": tokenizer("tokenizer.json", load_sentencepiece),
    "vocab.txt": tokenizer("vocab.txt", load_wordpiece),
    "spiece.model": tokenizer("spiece.model", load_sentencepiece),
    "results": results,
    "manifest of prepared data": manifest,
    "exported program": program("x.pt2"),
    "manifest of exported programs": program("programs.json"),
}


def saved_by_torch(good, marker, folder):
    torch.save({"state_dict": {"w": Payload(marker)}}, folder / "payload")
    return (folder / "payload").read_bytes()


FAULTS = {
    "pickle": lambda good, marker, _: pickle.dumps(Payload(marker)),
    "pickle in text": lambda good, marker, _: pickle.dumps({"state_dict": Payload(marker)}, protocol=0),
    "saved by torch": saved_by_torch,
    "cut": lambda good, *_: good[: len(good) // 2] or b"\x80",
    "empty": lambda *_: b"",
    "text": lambda *_: b"Some plain text,\nand more.\n",
    "git-lfs pointer": lambda *_: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
}


def refusal(load, name):
    """The error's text, which must be one line that names the file."""
    with pytest.raises((ValueError, OSError)) as caught:
        load()
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_with_code_or_damage_runs_nothing_and_is_refused_in_one_line(kind, fault, tmp_path, group):
    folder = tmp_path / "files"
    folder.mkdir()
    path, load = KINDS[kind](folder, group)
    marker = tmp_path / "marker"
    good = path.read_bytes() if path.exists() else b"{}"
    path.write_bytes(FAULTS[fault](good, marker, tmp_path))
    refusal(load, path.name)
    assert not marker.exists()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "okenizer" not in kind and "spiece" not in kind])
def test_what_these_tests_damage_can_be_read_before(kind, tmp_path, group):
    if kind in ("vocab.txt", "manifest of prepared data"):
        pytest.skip("made of nothing")
    KINDS[kind](tmp_path, group)[1]()


def test_code_in_the_parts_of_an_archive_does_not_run(tmp_path, group):
    """In every entry of an archive of torch, and as an object beside tensors."""
    marker = tmp_path / "marker"
    (tmp_path / "program").mkdir()
    for make in (program("x.pt2"), plain):
        folder = tmp_path / make.__qualname__.split(".")[0]
        folder.mkdir(exist_ok=True)
        path, load = make(folder, group)
        good = path.read_bytes()
        (tmp_path / "good").write_bytes(good)
        with zipfile.ZipFile(tmp_path / "good") as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        payloads = [pickle.dumps(Payload(marker)), saved_by_torch(None, marker, tmp_path)]
        for name in contents:
            for payload in payloads:
                with zipfile.ZipFile(path, "w") as archive:
                    for one, content in contents.items():
                        archive.writestr(one, payload if one == name else content)
                with contextlib.suppress(ValueError):
                    load()
                assert not marker.exists(), name


def test_the_payload_of_these_tests_would_run(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").is_dir()
    torch.save(Payload(tmp_path / "another"), tmp_path / "x.pt")
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "another").is_dir()


EVIL = "from pathlib import Path\nPath({marker!r}).mkdir()\nclass Callback: pass\n"


@pytest.fixture
def marked(tmp_path, monkeypatch):
    """A module that can be imported, and makes a folder when it is; returns the folder."""
    marker = tmp_path / "marker"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/evil_callbacks.py").write_text(EVIL.format(marker=str(marker)))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield marker
    sys.modules.pop("evil_callbacks", None)


@pytest.mark.parametrize("use", ["fit --config {}/config.yaml", "test --run {}", "plot {}", "fit --resume {}"])
@pytest.mark.parametrize(
    "content",
    [
        "!!python/object/apply:os.mkdir [{}]",
        "model: !!python/object/apply:os.mkdir [{}]",
        "model: {{class_path: !!python/name:os.mkdir '', init_args: [{}]}}",
    ],
)
def test_tags_of_python_objects_in_a_recipe_run_nothing(content, use, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(content.format(tmp_path / "marker"))
    assert main(use.format("run").split()) == 2
    assert not (tmp_path / "marker").exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_plot_builds_nothing_that_a_runs_recipe_names_and_test_does(small, marked, tmp_path, monkeypatch, capsys):
    """As SECURITY.md says: a recipe is code, also that of a run."""
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *small, "--run_dir=run", "--trainer.max_steps=4"]) == 0
    config = tmp_path / "run/config.yaml"
    recipe = yaml.safe_load(config.read_text())
    recipe["trainer"]["callbacks"] = [{"class_path": "evil_callbacks.Callback"}]
    config.write_text(yaml.safe_dump(recipe))
    assert main(["plot", "run"]) == 0
    assert not marked.exists()
    assert main(["test", "--run=run"]) == 2
    assert marked.exists()


def test_no_file_of_a_run_and_no_report_holds_a_secret(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for variable in ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(variable, "s3cret-0123456789")
    assert main(["fit", *small, "--run_dir=run", "--trainer.max_steps=4"]) == 0
    main(["doctor", "--config", "transformer_xl/tiny"])
    said = capsys.readouterr()
    assert "s3cret" not in said.out + said.err
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if b"s3cret" in path.read_bytes()]
