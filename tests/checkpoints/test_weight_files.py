"""Weights load from whatever file people have; one that is of another network is named by what differs."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lmrecipes.__main__ import main
from lmrecipes.callbacks import InitWeights
from lmrecipes.checkpoints.io import load_checkpoint, newest_readable
from lmrecipes.checkpoints.weights import load_optimizer_state, load_weights, weights_for
from lmrecipes.models.common.peft import load_base
from lmrecipes.strategies.sharded import ShardedCheckpoints

pytestmark = pytest.mark.filterwarnings("ignore")


class Network(nn.Module):
    """Layers of which two share a table."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.layers = nn.ModuleList([nn.Linear(3, 3)])
        self.out = nn.Linear(3, 5)
        self.out.weight = self.embedding.weight


class Module(nn.Module):
    """Holds a network, as the recipes' modules do."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.network = Network()


def weights(prefix="network.", dtype=torch.float32):
    state = Module().network.state_dict()
    return {f"{prefix}{name}": value.to(dtype) for name, value in state.items()}


def without_second_name(state):
    return {name: value for name, value in state.items() if not name.endswith("out.weight")}


def torch_file(content, name="w.pt"):
    def write(folder):
        torch.save(content, folder / name)
        return folder / name

    return write


def safetensors_file(state, name="w.safetensors"):
    def write(folder):
        save_file({key: value.clone() for key, value in state.items()}, folder / name)
        return folder / name

    return write


PREFIXES = [
    *("", "module.", "model.", "network.", "_orig_mod.", "module.network.", "model.module.network.", "module.module."),
    *("network._orig_mod.", "_orig_mod.module.network.", "network.module.", "_forward_module.network._orig_mod."),
    "_fsdp_wrapped_module.network._fsdp_wrapped_module.",
]
FILES = {
    "a checkpoint of Lightning": torch_file({"state_dict": weights(), "epoch": 0, "optimizer_states": []}, "a.ckpt"),
    "a state_dict alone": torch_file({"state_dict": weights()}),
    "a state_dict of bare names": torch_file({"state_dict": weights("")}),
    "in a dict under model": torch_file({"model": weights(""), "step": 3}),
    "in a dict under model_state_dict": torch_file({"model_state_dict": weights("module."), "optimizer": {}}),
    "bare": torch_file(weights("")),
    "parameters": torch_file({name: nn.Parameter(value) for name, value in weights("").items()}),
    "half": torch_file(weights(dtype=torch.float16)),
    "bfloat16": torch_file(weights(dtype=torch.bfloat16)),
    "double": torch_file(weights(dtype=torch.float64)),
    "safetensors": safetensors_file(weights("")),
    "safetensors of modules": safetensors_file(weights("module.")),
    "safetensors by another name": safetensors_file(weights(), "w.bin"),
    "a shared table by one name": torch_file(without_second_name(weights())),
    "a shared table by one name in safetensors": safetensors_file(without_second_name(weights(""))),
    "a shared table by its other name": torch_file({k: v for k, v in weights().items() if "embedding" not in k}),
    "a layer compiled by itself": torch_file({k.replace("s.0.", "s.0._orig_mod."): v for k, v in weights().items()}),
    **{f"names beginning with {prefix}": torch_file(weights(prefix)) for prefix in PREFIXES},
    **{f"a file called *{end}": torch_file(weights(), f"w{end}") for end in (".pt", ".pth", ".bin", ".ckpt", "")},
}


@pytest.mark.parametrize("file", FILES)
def test_weights_load_from(file, tmp_path):
    path, module = FILES[file](tmp_path), Module(seed=1)
    load_weights(module, path, "--init_from w")
    rough = {"half": 1e-3, "bfloat16": 1e-2}.get(file, 0)
    for name, value in weights().items():
        torch.testing.assert_close(module.state_dict()[name], value, atol=rough, rtol=rough)


def test_a_module_that_is_compiled_itself_loads_plain_names(tmp_path):
    module = Module(seed=1)
    module.network = torch.compile(module.network)
    assert all("_orig_mod" in name for name in module.state_dict())
    load_weights(module, torch_file(weights(""))(tmp_path), "--init_from w")
    assert torch.equal(module.network.layers[0].weight, weights()["network.layers.0.weight"])


def changed(**changes):
    state = {**weights(), **{f"network.{name.replace('__', '.')}": value for name, value in changes.items()}}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(out__bias=None, extra=torch.ones(1)), "missing key network.out.bias and unexpected key network.extra"),
        (changed(out__bias=None), "missing key network.out.bias: "),
        (changed(extra=torch.ones(1)), "unexpected key network.extra: "),
        ({"unlike": torch.ones(1)}, "missing key network.embedding.weight and unexpected key network.unlike"),
        (changed(out__bias=torch.ones(7)), r"network.out.bias has shape \(7,\), but this recipe's network has \(5,\)"),
        (changed(out__weight=torch.ones(5, 3)), "network.embedding.weight and network.out.weight differ"),
        (changed(out__bias=torch.ones(5, dtype=torch.int8)), "network.out.bias is of type torch.int8"),
        ({"state_dict": changed(out__bias=3)}, "network.out.bias is of type int, not a tensor"),
    ],
)
def test_weights_of_another_network_are_named_by_what_differs(content, words, tmp_path):
    path = torch_file(content)(tmp_path)
    with pytest.raises(ValueError, match=f"^--init_from w: {words}") as caught:
        load_weights(Module(), path, "--init_from w")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"step": 3}, "it has no state_dict, and step is of type int"),
        ({}, "it is empty"),
        ({0: torch.ones(1)}, "it has no state_dict, and 0 is not a name"),
        ([torch.ones(2)], "it is of type list"),
        (torch.ones(2), "it is of type Tensor"),
        ({"state_dict": None}, "it has no state_dict, and state_dict is of type NoneType"),
    ],
)
def test_a_file_without_weights_is_named(content, words, tmp_path):
    path = torch_file(content)(tmp_path)
    with pytest.raises(ValueError, match=r"w\.pt cannot be read: ") as caught:
        weights_for(Module(), path, "--init_from w")
    assert words in str(caught.value)


BROKEN = {
    "a pickle": (lambda good: pickle.dumps({"w": 1}), "refusing to unpickle"),
    "torch's format before 1.6": (None, "as torch wrote files before 1.6; save it again"),
    "cut": (lambda good: good[: len(good) // 2], "cut short"),
    "empty": (lambda good: b"", "it is empty"),
    "a pointer": (lambda good: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
}


@pytest.mark.parametrize("end", [".pt", ".safetensors"])
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_of_weights_is_named_with_what_is_wrong(fault, end, tmp_path):
    path = (safetensors_file if end == ".safetensors" else torch_file)(weights(), f"w{end}")(tmp_path)
    make, words = BROKEN[fault]
    if make is None:
        torch.save(weights(), path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(make(path.read_bytes()))
    with pytest.raises(ValueError, match=words) as caught:
        weights_for(Module(), path, "--init_from w")
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_alone_are_no_checkpoint_to_resume_from(tmp_path):
    path = torch_file(weights(), "last-step=1.ckpt")(tmp_path)
    with pytest.raises(ValueError, match="it has no state_dict"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [weights(), {"state_dict": weights()}])
def test_moments_that_a_file_lacks_are_named(content, tmp_path):
    path, module = torch_file(content)(tmp_path), Module()
    optimizer = torch.optim.Adam(module.parameters())
    with pytest.raises(ValueError, match=r"--init_optimizer: .*w.pt has no optimizer state .*leave --init_optimizer"):
        load_optimizer_state(module, optimizer, path)


def test_moments_without_names_are_named_with_the_file(tmp_path):
    module = Module()
    optimizer = torch.optim.Adam(module.parameters())
    content = {"state_dict": weights(), "optimizer_states": [optimizer.state_dict()]}
    with pytest.raises(ValueError, match=r"--init_optimizer: .*w.pt: .*optimizer_parameters.*leave --init_optimizer"):
        load_optimizer_state(module, optimizer, torch_file(content)(tmp_path))


def test_weights_from_a_gpu_load_without_one(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        path = torch_file(weights())(tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path)
    module = Module(seed=1)
    load_weights(module, path, "--init_from w")
    assert all(torch.equal(module.state_dict()[name], value) for name, value in weights().items())


class Sharded(ShardedCheckpoints):
    """What loads a checkpoint under the strategies that shard a module."""

    def __init__(self, module):
        self.lightning_module, self.optimizers, self.broadcast = module, [], str


@pytest.mark.parametrize("file", ["bare", "safetensors", "a shared table by one name"])
def test_strategies_that_shard_take_weights_alone(file, tmp_path):
    module = Module(seed=1)
    Sharded(module).load_checkpoint(FILES[file](tmp_path))
    assert all(torch.equal(module.state_dict()[name], value) for name, value in weights().items())
    path = torch_file(changed(out__bias=None, extra=torch.ones(1)), "other.pt")(tmp_path)
    with pytest.raises(ValueError, match=r"missing key network.out.bias and unexpected key network.extra"):
        Sharded(module).load_checkpoint(path)


@pytest.mark.parametrize("file", ["bare", "safetensors", "a checkpoint of Lightning", "names beginning with module."])
def test_the_base_of_adapters_may_be_weights_alone(file, tmp_path):
    network = Module(seed=1).network
    load_base(network, str(FILES[file](tmp_path)))
    assert all(torch.equal(network.state_dict()[name], value) for name, value in weights("").items())


# A run of a small network, in this process.


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A run, and the folder of files that hold its weights."""
    folder = tmp_path_factory.mktemp("run")
    more = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    assert main(["fit", *small, *more, f"--run_dir={folder}/r"]) == 0
    assert main(["export", f"--run={folder}/r", "--format=state_dict"]) == 0
    state = load_checkpoint(newest_readable(folder / "r/checkpoints", "best-*.ckpt"))["state_dict"]
    torch.save({f"module.{name}": value for name, value in state.items()}, folder / "ddp.bin")
    bare = {name.removeprefix("network."): value for name, value in state.items()}
    distinct = {value.data_ptr(): name for name, value in bare.items()}
    save_file({name: bare[name] for name in distinct.values()}, folder / "w.safetensors")
    return folder


SOURCES = ["r/exported/weights.pt", "ddp.bin", "w.safetensors"]


def figure(output, name):
    return next(line for line in output.splitlines() if line.startswith(name))


COMMANDS = {
    "test": (["test"], "test/loss"),
    "validate": (["validate"], "val/loss"),
    "fabric test": (["fabric", "test"], "test/loss"),
    "score": (["score", "--text=w1 w2 w3 w4"], "'w1 w2 w3 w4': 4 tokens, loss"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_take_weights_alone_and_give_the_runs_figures(command, run, capsys):
    words, name = COMMANDS[command]
    assert main([*words, f"--run={run}/r"]) == 0
    own = figure(capsys.readouterr().out, name)
    for source in SOURCES:
        assert main([*words, f"--run={run}/r", f"--checkpoint={run}/{source}"]) == 0, capsys.readouterr().err
        assert figure(capsys.readouterr().out, name) == own, source


def test_a_recipe_without_a_run_is_tested_with_weights_alone(run, small, capsys):
    assert main(["test", f"--run={run}/r"]) == 0
    own = figure(capsys.readouterr().out, "test/loss")
    for source in SOURCES[1:]:
        assert main(["test", *small, f"--checkpoint={run}/{source}"]) == 0, capsys.readouterr().err
        assert figure(capsys.readouterr().out, "test/loss") == own


def test_commands_name_what_differs(run, capsys):
    bad = torch.load(run / "r/exported/weights.pt")
    first = next(iter(bad))
    torch.save({**{name: value for name, value in bad.items() if name != first}, "x": torch.ones(1)}, run / "bad.pt")
    for words in (*(words for words, _ in COMMANDS.values()), ["export", "--format=state_dict"]):
        assert main([*words, f"--run={run}/r", f"--checkpoint={run}/bad.pt"]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        assert f"bad.pt: missing key network.{first} and unexpected key network.x" in error


def test_a_run_starts_from_weights_alone(run, small, monkeypatch, capsys, tmp_path):
    begin, seen = InitWeights.on_fit_start, {}

    def look(self, trainer, module):
        begin(self, trainer, module)
        seen.update({name: value.clone() for name, value in module.state_dict().items()})

    monkeypatch.setattr(InitWeights, "on_fit_start", look)
    words = ["fit", *small, f"--init_from={run}/w.safetensors", "--trainer.max_steps=1", f"--run_dir={tmp_path}/r"]
    assert main(words) == 0, capsys.readouterr().err
    best = load_checkpoint(newest_readable(run / "r/checkpoints", "best-*.ckpt"))["state_dict"]
    assert seen.keys() == best.keys()
    assert all(torch.equal(seen[name], value) for name, value in best.items())
    capsys.readouterr()
    assert main([*words[:-1], f"--run_dir={tmp_path}/s", "--init_optimizer=true"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "has no optimizer state" in error
    assert json.dumps(str(run / "w.safetensors"))[1:-1] in error
