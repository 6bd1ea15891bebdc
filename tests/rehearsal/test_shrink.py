"""A recipe shrunk to toy size keeps all of its features."""

from copy import deepcopy
from dataclasses import replace

import pytest
import yaml

from conftest import prepare_here
from lmrecipes.cli import open_recipe
from lmrecipes.commands import rehearse, test
from lmrecipes.config import catalog
from lmrecipes.data.corpora import synthetic_text
from lmrecipes.data.corpora.text_source import Folder
from lmrecipes.models.common import tiny_config as tiny_sizes
from lmrecipes.models.electra import ElectraConfig, ReaderConfig
from lmrecipes.models.mt5 import MT5Config
from lmrecipes.models.transformer_xl import TransformerXLConfig
from lmrecipes.rehearsal import shrink as shrinking
from lmrecipes.rehearsal.shrink import Spread, full_size_on_cpu, n_devices, shrink, smallest_spread
from lmrecipes.strategies import FSDP2Strategy

pytestmark = pytest.mark.filterwarnings("ignore")
# Settings to shrink in addition to the sizes that every model has.
CHANGED = {
    MT5Config: {"vocab_size", "vocab_multiple", "n_buckets", "max_distance"},
    TransformerXLConfig: {"vocab_size", "cutoffs"},
    ElectraConfig: {"vocab_size", "d_embedding", "generator_size", "generator_d_head"},
    ReaderConfig: {"vocab_size", "d_embedding"},
}
RECIPES = [name for name in catalog.recipe_paths() if not name.startswith("overlays/")]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def settings_of(name, *options):
    return yaml.safe_load(open_recipe(rehearse.COMMAND, ["--config", name, "--no_runtime_tuning", *options]).settings())


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_at_full_and_at_toy_size(name, tmp_path):
    settings = settings_of(name)
    before = deepcopy(settings)
    (tmp_path / "full.yaml").write_text(yaml.safe_dump(full_size_on_cpu(settings)))
    built = open_recipe(test.COMMAND, ["--config", "full.yaml", "--no_runtime_tuning"])
    plan, ranks = built.config_init.batch, built.trainer.world_size
    assert ranks == settings["trainer"]["devices"] * settings["trainer"]["num_nodes"]
    assert all(plan.for_split(split).batch_size % ranks == 0 for split in ("val", "test"))
    smallest_mesh = smallest_spread(built.trainer.strategy, settings["trainer"]["strategy"], ranks, 1)
    # Two processes along each axis.
    splits_layers = "tensor_parallel_size" in str(settings["trainer"]["strategy"])
    assert smallest_mesh.devices == min(ranks, 2) * (2 if splits_layers else 1)
    small = shrink(settings, smallest_mesh, 1, tmp_path / "text", tmp_path / "cache")
    assert settings == before
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    rebuilt = open_recipe(test.COMMAND, ["--config", "small.yaml", "--no_runtime_tuning"])
    assert rebuilt.trainer.world_size == smallest_mesh.devices
    write = getattr(built.datamodule, "write_synthetic", synthetic_text.write_synthetic)
    write(tmp_path / "text")
    prepare_here(rebuilt.datamodule)
    assert small["data"]["class_path"] == settings["data"]["class_path"]
    assert small["model"]["init_args"]["optimizer"] == settings["model"]["init_args"]["optimizer"]
    kept = [callback["class_path"] for callback in small["trainer"]["callbacks"]]
    assert kept[:-1] == [callback["class_path"] for callback in settings["trainer"]["callbacks"]]
    full, tiny = (s["model"]["init_args"]["config"] for s in (settings, small))
    sizes = replace(rebuilt.model.config, vocab_size=rebuilt.datamodule.vocab_size)
    assert sizes.n_params() < 1_000_000
    same = set(full) - set(tiny_sizes.LARGEST) - CHANGED[type(sizes)]
    assert {name: tiny[name] for name in same} == {name: full[name] for name in same}
    if isinstance(sizes, TransformerXLConfig):
        assert len(tiny["cutoffs"]) == len(full["cutoffs"])
    if isinstance(sizes, ElectraConfig):
        assert (sizes.generator_heads > 1) == (built.model.config.generator_heads > 1)


def test_the_smallest_mesh_has_the_same_axes():
    def smallest_mesh(strategy, requested, devices, nodes):
        result = smallest_spread(strategy, requested, devices, nodes)
        arguments = result.strategy.get("init_args", {}) if isinstance(result.strategy, dict) else {}
        # The requested options give the same mesh with expected processes.
        if arguments:
            assert FSDP2Strategy(**arguments).data_parallel_size(result.devices, 1) == result.data_ranks
        return result.devices, result.data_ranks, arguments

    assert smallest_mesh(object(), "ddp", 16, 8) == (2, 2, {})
    assert smallest_mesh(object(), "auto", 1, 1) == (1, 1, {})
    whole = {"tensor_parallel_size": 1, "shard_size": 2}
    assert smallest_mesh(FSDP2Strategy(), "fsdp2", 8, 1) == (2, 2, whole)
    tensors = FSDP2Strategy(tensor_parallel_size="auto")
    assert smallest_mesh(tensors, "fsdp2_tp", 8, 1) == (2, 1, {"tensor_parallel_size": 2, "shard_size": 1})
    assert smallest_mesh(tensors, "fsdp2_tp", 8, 4) == (4, 2, {"tensor_parallel_size": 2, "shard_size": 2})
    requested = {"class_path": "FSDP2Strategy", "init_args": {"shard_size": "node", "activation_checkpointing": True}}
    result = smallest_mesh(FSDP2Strategy(**requested["init_args"]), requested, 8, 4)
    assert result == (4, 4, {"tensor_parallel_size": 1, "shard_size": 2, "activation_checkpointing": True})


def test_accumulation_is_kept_only_if_the_recipe_accumulates():
    settings = settings_of("transformer_xl/wt103_base")
    for accumulation, expected in ((1, 1), (2, 2), (8, 2)):
        small = shrink(settings, Spread("ddp", 2, 2), accumulation, "text", "cache")["batch"]
        assert small["global_batch_size"] == 2 * small["micro_batch_size"] * expected
        assert small["seq_len"] == small["mem_len"] == 8
        assert small["test"]["same_length"] is True
        assert small["test"]["clamp_len"] > 0


@pytest.mark.parametrize(
    ("requested", "small"), [("16-mixed", "bf16-mixed"), ("bf16-mixed", "bf16-mixed"), ("32-true", "32-true")]
)
def test_only_a_precision_without_cpu_support_is_changed(requested, small):
    settings = settings_of("transformer_xl/wt103_base", f"--trainer.precision={requested}")
    assert full_size_on_cpu(settings)["trainer"]["precision"] == small


def test_devices_are_counted_in_every_notation():
    requested = [8, "8", [0, 1, 3], "0,1", "3,", "auto", -1]
    assert [n_devices(a, "gpu") for a in requested] == [8, 8, 3, 2, 1, 2, 2]
    assert n_devices("auto", "cpu") == 1


def test_a_warm_up_beyond_the_end_stays_beyond_it():
    assert shrinking.tiny_schedule({"warmup_steps": 1000, "min_lr": 0.1}, 40000) == {"warmup_steps": 2, "min_lr": 0.1}
    assert shrinking.tiny_schedule({"warmup_steps": 1000}, 500) == {"warmup_steps": shrinking.STEPS}
    assert shrinking.tiny_schedule({"warmup_steps": 10, "max_steps": 50}, 20) == {"warmup_steps": 2, "max_steps": 6}


def test_callbacks_run_at_toy_intervals_and_do_not_stop_the_run():
    saving = {"class_path": "A", "init_args": {"every_n_steps": 500, "monitor": "val/loss"}}
    assert shrinking.tiny_callback(saving)["init_args"] == {"every_n_steps": 2, "monitor": "val/loss"}
    assert shrinking.tiny_callback({"class_path": "A", "init_args": {"patience": 1}})["init_args"]["patience"] == 6
    assert shrinking.tiny_callback({"class_path": "A"}) == {"class_path": "A"}


def test_a_single_callback_is_accepted_as_a_list():
    one = "--trainer.callbacks={class_path: lmrecipes.callbacks.LossGuard}"
    settings = settings_of("transformer_xl/tiny", one)
    assert isinstance(settings["trainer"]["callbacks"], dict)
    kept = shrink(settings, Spread("ddp", 2, 2), 1, "text", "cache")["trainer"]["callbacks"]
    assert [callback["class_path"].rpartition(".")[2] for callback in kept] == ["LossGuard", "KillAtStep"]


@pytest.mark.parametrize("words", [(), ("only", "these")])
def test_a_synthetic_text_has_every_word_in_the_training_split(tmp_path, words):
    synthetic_text.write_synthetic(tmp_path, words)
    result = {split: set((tmp_path / f"{split}.txt").read_text().split()) for split in ("train", "valid", "test")}
    assert result["valid"] | result["test"] <= result["train"]
    assert result["train"] == set(words) or (not words and len(result["train"]) > 20)


def test_a_sample_is_the_beginning_of_the_recipes_text(tmp_path, small_corpus):
    synthetic_text.write_sample(tmp_path, Folder(small_corpus))
    assert (small_corpus / "train.txt").read_text().startswith((tmp_path / "train.txt").read_text().rstrip())
    (tmp_path / "valid.txt").unlink()
    with pytest.raises(ValueError, match="no val text"):
        synthetic_text.write_sample(tmp_path / "other", Folder(tmp_path))
