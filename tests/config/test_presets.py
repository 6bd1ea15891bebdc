"""Presets that are lists can include one another."""

import pytest
import yaml

from lmrecipes.cli import open_recipe
from lmrecipes.commands import test as test_command
from lmrecipes.config import catalog
from lmrecipes.config.presets import with_lists_flattened
from lmrecipes.config.recipe_files import without_empty_files

THROUGHPUT = "lmrecipes.callbacks.Throughput"
BEST = "lmrecipes.callbacks.BestCheckpoint"


def flat(entries):
    return with_lists_flattened({"trainer": {"callbacks": entries}})["trainer"]["callbacks"]


def test_a_list_file_in_a_list_is_replaced_by_its_entries():
    default = yaml.safe_load(catalog.preset_paths("callbacks")["default"].read_text())
    assert flat(["default.yaml", {"class_path": "A"}]) == [*default, {"class_path": "A"}]


def test_an_entry_of_the_same_class_overrides_the_inherited_one_and_keeps_its_arguments(tmp_path):
    first = tmp_path / "first.yaml"
    first.write_text("- {class_path: A, init_args: {x: 1, y: 2}}\n- {class_path: B}\n")
    assert flat([str(first), {"class_path": "A", "init_args": {"y": 3}}, {"class_path": "B"}, {"class_path": "B"}]) == [
        {"class_path": "A", "init_args": {"x": 1, "y": 3}},
        {"class_path": "B", "init_args": {}},
        {"class_path": "B"},
    ]


def test_list_files_of_a_recipe_are_found_beside_it(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "one.yaml").write_text("- two.yaml\n- {class_path: lightning.pytorch.callbacks.Timer}\n")
    (folder / "two.yaml").write_text(f"- {{class_path: {THROUGHPUT}}}\n")
    (folder / "overlay.yaml").write_text("trainer: {callbacks: [one.yaml]}\n")
    monkeypatch.chdir(tmp_path)
    written = _settings(["--config", "transformer_xl/tiny", "--config", "mine/overlay.yaml"])
    names = [entry["class_path"] for entry in yaml.safe_load(written)["trainer"]["callbacks"]]
    assert names == [THROUGHPUT, "lightning.pytorch.callbacks.Timer"]


def test_paths_in_a_list_file_are_relative_to_it(tmp_path):
    (tmp_path / "one.yaml").write_text("- two.yaml\n- {class_path: A}\n")
    (tmp_path / "two.yaml").write_text("- {class_path: B}\n")
    assert flat([str(tmp_path / "one.yaml")]) == [{"class_path": "B"}, {"class_path": "A"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- one.yaml\n", r"one.yaml includes itself: .*one.yaml -> .*one.yaml"),
        ("{a: 1}\n", "one.yaml holds dict"),
        ("- nowhere.yaml\n", "nowhere"),
    ],
)
def test_an_invalid_list_file_is_named(text, message, tmp_path):
    (tmp_path / "one.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        flat([str(tmp_path / "one.yaml")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- class_path: [\n", r"one.yaml:2:1 is not valid YAML"),
        ("- class_path: A\n  class_path: B\n", r"one.yaml:2:3: the key 'class_path' is given twice"),
        ("- [default.yaml]\n", r"one.yaml: entry 1 of a list of callbacks or loggers is \['default.yaml'\]"),
        ("- default.yaml\n- 5\n", r"one.yaml: entry 2 .* is 5; it must be a class_path"),
        (
            "- {class_path: lmrecipes.callbacks.Throughput, init_args: {window_step: 3}}\n",
            r"one.yaml: lmrecipes.callbacks.Throughput: unknown key 'window_step'; did you mean 'window_steps'\?",
        ),
    ],
)
@pytest.mark.parametrize("source", ["option", "in a list", "recipe"])
def test_an_error_in_a_list_file_is_reported_with_file_and_line(content, message, source, tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(content)
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("trainer: {callbacks: one.yaml}\n")
    words = {
        "option": ["--trainer.callbacks", str(path)],
        "in a list": ["--trainer.callbacks", f"[{path}]"],
        "recipe": ["--config", str(overlay)],
    }
    with pytest.raises(ValueError, match=message):
        _settings(["--config", "transformer_xl/tiny", *words[source]])


def test_the_later_of_two_list_files_overrides_the_same_class(tmp_path):
    for name, steps in (("one", 1), ("two", 2)):
        text = f"- {{class_path: A, init_args: {{{name}: {steps}, n: {steps}}}}}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    assert flat([str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml")]) == [
        {"class_path": "A", "init_args": {"one": 1, "n": 2, "two": 2}}
    ]


def test_two_callbacks_with_the_same_state_key_are_rejected(small):
    twice = "[{class_path: lmrecipes.callbacks.Throughput}, {class_path: lmrecipes.callbacks.Throughput}]"
    with pytest.raises(ValueError, match=r"trainer.callbacks has 2 Throughput with the same settings"):
        open_recipe(test_command.COMMAND, [*small, "--no_runtime_tuning", "--trainer.callbacks", twice])


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


def test_overlays_and_the_command_line_can_name_list_files(tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("trainer: {callbacks: [default.yaml, {class_path: lightning.pytorch.callbacks.Timer}]}\n")
    inline = "[default.yaml, {class_path: lightning.pytorch.callbacks.Timer}]"
    recipe = ["--config", "transformer_xl/tiny"]
    for words in (["--config", str(overlay)], ["--trainer.callbacks", inline]):
        callbacks = yaml.safe_load(_settings([*recipe, *words]))["trainer"]["callbacks"]
        assert callbacks[0]["class_path"] == THROUGHPUT
        assert callbacks[-1]["class_path"].endswith("Timer")


def _settings(words):
    from lmrecipes.commands.rehearse import COMMAND

    return open_recipe(COMMAND, [*words, "--no_runtime_tuning"]).settings()


def test_the_validation_interval_counts_steps_of_the_run_unless_it_is_a_fraction_of_an_epoch(small):
    built = open_recipe(test_command.COMMAND, [*small, "--no_runtime_tuning"])
    assert (built.trainer.check_val_every_n_epoch, built.trainer.val_check_interval) == (None, 6)
    built = open_recipe(test_command.COMMAND, [*small, "--no_runtime_tuning", "--trainer.val_check_interval=0.5"])
    assert (built.trainer.check_val_every_n_epoch, built.trainer.val_check_interval) == (1, 0.5)


def test_an_overlay_that_is_empty_changes_nothing_and_a_recipe_that_is_empty_is_named(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    for text in ("", "# trainer: {max_steps: 3}\n\n", "---\n"):
        overlay.write_text(text)
        words = ["--config", "a.yaml", f"--config={overlay}", "--config", str(overlay), "--x=1"]
        assert without_empty_files(words) == ["--config", "a.yaml", "--x=1"]
        with pytest.raises(ValueError, match=f"{overlay} is empty; see a shipped recipe"):
            without_empty_files(["--config", str(overlay)])


def test_keys_that_begin_with_x_are_a_place_for_anchors(tmp_path):
    (tmp_path / "sizes.yaml").write_text(
        "x-sizes: &sizes {n_layers: 2, d_model: 32}\nmodel: {init_args: {config: *sizes}}\n"
    )
    cli = open_recipe(
        test_command.COMMAND, ["--config", "transformer_xl/tiny", "--config", str(tmp_path / "sizes.yaml")]
    )
    assert cli.model.config.d_model == 32
    assert "x-sizes" not in cli.settings()
