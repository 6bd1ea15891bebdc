"""List presets build on one another."""

import pytest
import yaml

from lmrecipes.cli import open_recipe
from lmrecipes.commands import test as test_command
from lmrecipes.config import catalog
from lmrecipes.config.presets import with_lists_flattened

THROUGHPUT = "lmrecipes.callbacks.Throughput"
BEST = "lmrecipes.callbacks.BestCheckpoint"


def flat(entries):
    return with_lists_flattened({"trainer": {"callbacks": entries}})["trainer"]["callbacks"]


def test_a_list_file_in_a_list_stands_for_its_entries():
    default = yaml.safe_load(catalog.preset_paths("callbacks")["default"].read_text())
    assert flat(["default.yaml", {"class_path": "A"}]) == [*default, {"class_path": "A"}]


def test_an_entry_of_the_same_class_takes_the_place_of_an_inherited_one_and_keeps_its_arguments(tmp_path):
    first = tmp_path / "first.yaml"
    first.write_text("- {class_path: A, init_args: {x: 1, y: 2}}\n- {class_path: B}\n")
    assert flat([str(first), {"class_path": "A", "init_args": {"y": 3}}, {"class_path": "B"}, {"class_path": "B"}]) == [
        {"class_path": "A", "init_args": {"x": 1, "y": 3}},
        {"class_path": "B", "init_args": {}},
        {"class_path": "B"},
    ]


def test_a_list_file_names_others_by_their_place_beside_it(tmp_path):
    (tmp_path / "one.yaml").write_text("- two.yaml\n- {class_path: A}\n")
    (tmp_path / "two.yaml").write_text("- {class_path: B}\n")
    assert flat([str(tmp_path / "one.yaml")]) == [{"class_path": "B"}, {"class_path": "A"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [("- one.yaml\n", "one.yaml names itself"), ("{a: 1}\n", "one.yaml holds dict"), ("- nowhere.yaml\n", "nowhere")],
)
def test_a_list_file_that_does_not_work_is_named(text, message, tmp_path):
    (tmp_path / "one.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        flat([str(tmp_path / "one.yaml")])


@pytest.mark.parametrize(
    ("recipe", "first", "monitor"),
    [
        ("electra/tiny_squad", "SquadAnswers", "squad/f1"),
        ("mt5/xnli_3b", "TextAccuracy", "xnli/accuracy"),
        ("mt5/tiny_mc4", "LanguageTokens", "val/loss"),
    ],
)
def test_task_presets_add_to_the_default_callbacks(recipe, first, monitor):
    callbacks = yaml.safe_load(_settings(["--config", recipe]))["trainer"]["callbacks"]
    names = [entry["class_path"].rpartition(".")[2] for entry in callbacks]
    default = yaml.safe_load(catalog.preset_paths("callbacks")["default"].read_text())
    assert names == [first, *(entry["class_path"].rpartition(".")[2] for entry in default)]
    assert callbacks[names.index("BestCheckpoint")]["init_args"]["monitor"] == monitor


def test_a_list_in_an_overlay_and_on_the_command_line_may_name_list_files(tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("trainer: {callbacks: [default.yaml, {class_path: lightning.pytorch.callbacks.Timer}]}\n")
    written = "[default.yaml, {class_path: lightning.pytorch.callbacks.Timer}]"
    recipe = ["--config", "transformer_xl/tiny"]
    for words in (["--config", str(overlay)], ["--trainer.callbacks", written]):
        callbacks = yaml.safe_load(_settings([*recipe, *words]))["trainer"]["callbacks"]
        assert callbacks[0]["class_path"] == THROUGHPUT
        assert callbacks[-1]["class_path"].endswith("Timer")


def _settings(words):
    from lmrecipes.commands.rehearse import COMMAND

    return open_recipe(COMMAND, [*words, "--no_runtime_tuning"]).settings()


def test_validation_counts_steps_of_the_whole_training_unless_it_is_a_share_of_an_epoch(small):
    built = open_recipe(test_command.COMMAND, [*small, "--no_runtime_tuning"])
    assert (built.trainer.check_val_every_n_epoch, built.trainer.val_check_interval) == (None, 6)
    built = open_recipe(test_command.COMMAND, [*small, "--no_runtime_tuning", "--trainer.val_check_interval=0.5"])
    assert (built.trainer.check_val_every_n_epoch, built.trainer.val_check_interval) == (1, 0.5)
