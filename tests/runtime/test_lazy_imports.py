"""Heavy packages are imported at their first use, and then behave as usual."""

import json
import subprocess
import sys

import pytest
import torch

from conftest import environment
from lmrecipes.runtime import lazy_imports

# Packages that take seconds to import, each with a module that is only present once it is imported.
HEAVY = {
    *("transformers", "huggingface_hub.hf_api", "tokenizers", "datasets", "pyarrow", "pandas", "scipy"),
    *("matplotlib", "sympy", "tensorboard", "wandb", "deepspeed", "onnx"),
    *("torch._dynamo.eval_frame", "torch._inductor", "torch.fx.experimental.symbolic_shapes"),
    *("torch.distributed.tensor", "torch.distributed.fsdp", "torch.distributed.checkpoint.filesystem"),
}


def run(*words, folder, **variables):
    """A finished new Python process, which starts with nothing imported."""
    return subprocess.run(
        [sys.executable, *words],
        **{"cwd": folder, "env": environment(**variables), "capture_output": True, "text": True, "timeout": 300},
        check=True,
    )


@pytest.mark.slow
def test_a_training_step_of_transformer_xl_imports_nothing_heavy(small, tmp_path):
    imported = tmp_path / "imported.json"
    leave = "--trainer.callbacks+=import_recorder.ExitAfterOneStep"
    run("-m", "lmrecipes", "fit", *small, leave, folder=tmp_path, IMPORTED=str(imported))
    assert not HEAVY & set(json.loads(imported.read_text()))


MISSPELT = """
import sys
from lmrecipes.__main__ import main
from lmrecipes.runtime.lazy_imports import postpone

postpone()
for recipe in sys.argv[1].split():
    assert main(["fit", "--config", recipe, "--model.config.n_layer", "2"]) == 2
print(*sys.modules)
"""


@pytest.mark.slow
def test_a_misspelt_key_is_reported_without_heavy_imports_for_every_model(tmp_path):
    recipes = "transformer_xl/tiny electra/tiny_pretrain electra/tiny_squad mt5/tiny_mc4 mt5/tiny_squad"
    done = run("-c", MISSPELT, recipes, folder=tmp_path)
    assert done.stderr.count("did you mean 'model.config.n_layers'?") == 5
    assert not HEAVY & set(done.stdout.split())


SCORE = """
def score(folder):
    from torchmetrics.functional.text import bert_score
    from torchmetrics.text import BERTScore

    texts = ["a small cat", "a big dog"], ["a big cat", "a big dog"]
    metric = BERTScore(folder, num_layers=1, max_length=8)
    metric.update(*texts)
    function = bert_score(*texts, model_name_or_path=folder, num_layers=1, max_length=8)
    return [figures["f1"].tolist() for figures in (metric.compute(), function)]
"""
USER = (
    SCORE
    + """
import json, sys
from lmrecipes.runtime.lazy_imports import postpone

postpone()
import lightning.pytorch, torchmetrics

def heavy():
    return [name for name in ("transformers", "matplotlib") if name in sys.modules]

at_first = heavy()
metric = torchmetrics.MeanMetric()
metric.update(2.0)
figure, axes = metric.plot()
with_a_plot = heavy()
scores = score(sys.argv[1])
print(json.dumps([at_first, with_a_plot, heavy(), [type(figure).__name__, axes.get_ylabel()], scores]))
"""
)


@pytest.fixture
def bert(tmp_path):
    """A folder with a tiny BERT saved by transformers."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "small", "big", "cat", "dog"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(tmp_path / "bert")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_text_metrics_and_plots_of_torchmetrics_still_work(bert, tmp_path):
    done = run("-c", USER, bert, folder=tmp_path)
    at_first, with_a_plot, at_last, figure, scores = json.loads(done.stdout.splitlines()[-1])
    assert (at_first, with_a_plot, at_last) == ([], ["matplotlib"], ["transformers", "matplotlib"])
    assert figure == ["Figure", "MeanMetric"]
    here = {}
    exec(SCORE, here)
    assert scores == here["score"](bert)


COMPILED = """
import sys
from lmrecipes.runtime.lazy_imports import NoCompiler, postpone

postpone()
import torch
import lightning.pytorch as L
from lightning.fabric.wrappers import OptimizedModule
from torch.utils.data import DataLoader

compiled = []

def backend(graph, inputs):
    compiled.append(graph)
    return graph.forward

class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)

def fit(model):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(model, DataLoader(torch.arange(8.0).view(4, 2), batch_size=2))

plain = Model()
fit(plain)
assert isinstance(sys.modules["torch._dynamo"], NoCompiler)
assert "torch._dynamo.eval_frame" not in sys.modules
assert not isinstance(plain, OptimizedModule)

# A part of the compiler brings the whole, once.
import torch._dynamo.utils
assert torch._dynamo is sys.modules["torch._dynamo"] and not isinstance(torch._dynamo, NoCompiler)
assert torch._dynamo.utils is sys.modules["torch._dynamo.utils"]
assert torch._dynamo.utils.__spec__.origin == torch._dynamo.utils.__file__

model = Model()
wrapped = torch.compile(model, backend=backend)
assert isinstance(wrapped, OptimizedModule) and issubclass(type(wrapped), OptimizedModule)
fit(wrapped)
assert compiled and torch.equal(model.layer.weight, plain.layer.weight)

# What optimizers keep from the compiler is kept from it still, since they were made without one.
optimizer = plain.configure_optimizers()
compiled.clear()

@torch.compile(backend=backend)
def around_an_optimizer(number):
    number = number + 1
    optimizer.zero_grad()
    return number * 2

assert around_an_optimizer(torch.ones(())) == 4
calls = [[node.target.__name__ for node in graph.graph.nodes if node.op == "call_function"] for graph in compiled]
assert calls == [["add"], ["mul"]], calls
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_model_compiled_after_uncompiled_steps_trains_the_same(tmp_path):
    run("-W", "ignore", "-c", COMPILED, folder=tmp_path)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A package to import lazily, and a function that writes and imports a module that uses it."""
    (tmp_path / "late_package").mkdir()
    (tmp_path / "late_package/__init__.py").write_text(
        "class Thing:\n    made = 3\n\n\ndef twice(number):\n    return lambda of: lambda *given: number * of(*given)\n"
    )
    (tmp_path / "late_package/part.py").write_text("class Other:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lazy_imports, "_POSTPONED", {"early_module": "late_package"})
    monkeypatch.setattr(sys, "meta_path", [lazy_imports._Finder(), *sys.meta_path])

    def early(text):
        (tmp_path / "early_module.py").write_text(text)
        return __import__("early_module")

    yield early
    for name in ("early_module", "late_package", "late_package.part"):
        sys.modules.pop(name, None)


EARLY = """
import late_package.part as part
from late_package import Thing, twice

@twice(2)
def add(a: Thing, b: part.Other | None):
    return a + b

def is_thing(value):
    return isinstance(value, (int, Thing))

def new():
    class Own(Thing):
        pass
    return Own

def other():
    return part.Other
"""


def test_a_package_is_imported_on_first_attribute_access(packages):
    early = packages(f"from __future__ import annotations\n{EARLY}")
    assert early.is_thing(3)
    assert not early.is_thing("3")
    assert "late_package" not in sys.modules
    assert early.add(2, 3) == 10
    assert "late_package" in sys.modules
    assert early.new().made == early.Thing.made == 3
    assert early.is_thing(early.Thing())
    assert early.other() is sys.modules["late_package.part"].Other


def test_a_module_that_needs_a_package_while_importing_gets_it(packages):
    early = packages("from late_package import Thing\nassert Thing.made + 1 == 4\n")
    assert early.Thing is sys.modules["late_package"].Thing


def test_a_failing_import_raises_its_own_error(packages):
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        packages("from late_package import Thing\nimport nowhere\n")


def test_the_finder_is_installed_once():
    before = list(sys.meta_path)
    try:
        lazy_imports.postpone()
        lazy_imports.postpone()
        assert len(sys.meta_path) == len(before) + 1
    finally:
        sys.meta_path[:] = before
