"""A run's network is exported to files, and evaluating these gives the run's own results."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
import yaml

from conftest import requires
from lmrecipes.__main__ import main
from lmrecipes.cli import RecipeCLI
from lmrecipes.models.transformer_xl import TransformerXL, TransformerXLConfig

pytestmark = pytest.mark.filterwarnings("ignore")
COMPILER = requires(bool(shutil.which("g++")), "needs a C++ compiler")
TEXT = ["--text", "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16 w17 w18 w19 w20"]


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["fit", *small, f"--run_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def exported_programs(trained, tmp_path_factory):
    """Folder of the run's exported programs in a format; exported on first use."""
    folders = {}

    def export(form):
        if form not in folders:
            folders[form] = tmp_path_factory.mktemp("exported") / form
            assert main(["export", f"--run={trained}", f"--format={form}", f"--output={folders[form]}"]) == 0
        return folders[form]

    return export


def losses(run):
    return [result["metrics"]["test/loss"] for result in json.loads((run / "results.json").read_text())]


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    ["torch_export", pytest.param("aot_inductor", marks=[pytest.mark.exhaustive, COMPILER])],
)
def test_exported_programs_give_the_loss_of_the_network(form, trained, exported_programs, capsys):
    runtime_option = f"--exported={exported_programs(form)}"
    (trained / "results.json").unlink(missing_ok=True)
    for runtime in ([], [runtime_option]):
        assert main(["test", f"--run={trained}", *runtime]) == 0, capsys.readouterr().err
    network, exported = losses(trained)
    assert exported == pytest.approx(network, rel=1e-5)
    scores = []
    for runtime in ([], [runtime_option]):
        capsys.readouterr()
        assert main(["score", f"--run={trained}", *TEXT, *runtime]) == 0
        scores.append(float(re.search(r"loss ([\d.]+)", capsys.readouterr().out).group(1)))
    assert scores[1] == pytest.approx(scores[0], abs=1.1e-4)


@pytest.mark.slow
def test_programs_reject_settings_they_were_not_exported_for(trained, exported_programs, capsys):
    folder = exported_programs("torch_export")
    assert main(["score", f"--run={trained}", *TEXT, f"--exported={folder}", "--batch.test.mem_len=12"]) == 2
    assert f"batch.test.mem_len is 12, but {folder} was exported for 16" in capsys.readouterr().err
    assert main(["validate", f"--run={trained}", f"--exported={folder}", "--batch.val.mem_len=12"]) == 2
    assert f"batch.val.mem_len is 12, but {folder} was exported for 16" in capsys.readouterr().err


def test_a_folder_without_programs_is_rejected(trained, tmp_path, capsys):
    assert main(["score", f"--run={trained}", *TEXT, f"--exported={tmp_path}"]) == 2
    assert f"{tmp_path} holds no exported programs" in capsys.readouterr().err


def test_a_state_dict_loads_into_the_network_without_lightning(trained, tmp_path):
    assert main(["export", f"--run={trained}", "--format=state_dict", f"--output={tmp_path}"]) == 0
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    sizes = yaml.safe_load((trained / "config.yaml").read_text())["model"]["init_args"]["config"]
    sizes["vocab_size"] = sum(table.shape[0] for name, table in weights.items() if name.startswith("vocabulary.tables"))
    TransformerXL(TransformerXLConfig(**sizes)).load_state_dict(weights)


def test_a_state_dict_that_gives_other_outputs_is_rejected(trained, tmp_path, monkeypatch, capsys):
    another = RecipeCLI.another_model

    def build_with_other_layers(cli):
        model = another(cli)
        model.config = replace(model.config, pre_norm=not model.config.pre_norm)
        return model

    monkeypatch.setattr(RecipeCLI, "another_model", build_with_other_layers)
    assert main(["export", f"--run={trained}", "--format=state_dict", f"--output={tmp_path}"]) == 2
    assert "does not compute what the run's does" in capsys.readouterr().err
