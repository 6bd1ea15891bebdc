"""What an option that takes a text, a file or a folder is given is that word, whatever YAML would make of it."""

import importlib

import pytest

from lmrecipes.cli import RecipeParser, open_recipe
from lmrecipes.commands import doctor
from lmrecipes.commands.common.options import check_text
from lmrecipes.config.arguments import expand_names

WORDS = ["# 1 in the list", "#4", "null", "~", "None", "true", "0.10", "a: b", "[a", "{'a': None}", "2024-02-01", ""]
OPTIONS = {
    "fit": ("resume", "init_from", "run_dir", "runs_root"),
    "predict": ("run", "checkpoint", "text", "file", "question", "context"),
    "score": ("run", "text", "file", "exported"),
    "export": ("run", "output"),
    "prepare": ("shard",),
}


@pytest.mark.parametrize("command", OPTIONS)
def test_words_for_a_command_are_words(command):
    parser = RecipeParser(parser_mode="recipe")
    parser.add_argument("--runs_root", type=str, default="runs")
    importlib.import_module(f"lmrecipes.commands.{command}").COMMAND.add_options(parser)
    for option in OPTIONS[command]:
        for word in WORDS:
            for argv in ([f"--{option}", word], [f"--{option}={word}"]):
                assert parser.parse_args(expand_names(argv))[option] == word, argv
        if option not in ("checkpoint", "runs_root"):
            assert parser.parse_args([])[option] is None


def settings(*words):
    recipe = ("--config", "electra/text_cpu", "--data", "documents_folder", "--data.paths.mine", "d")
    return open_recipe(doctor.COMMAND, [*recipe, *words]).config.data.init_args


def test_null_for_an_optional_option_of_a_recipe_takes_its_value_away_as_in_a_file(tmp_path):
    file = tmp_path / "overlay.yaml"
    file.write_text("data: {init_args: {cache_dir: null, wordpiece: {name: null}}}\n")
    given = ("--data.cache_dir=c", "--data.wordpiece.name=w")
    for words in (("--config", str(file)), ("--data.cache_dir", "null", "--data.wordpiece.name", "null")):
        taken = settings(*given, *words)
        assert (taken.cache_dir, taken.wordpiece.name) == (None, None), words
    (source,) = settings("--data.sources", '[{name: mine, path: null, key: "a=None"}]').sources
    assert (source.path, source.key) == (None, "a=None")
    assert settings("--data.paths.mine", "a=None").paths == {"mine": "a=None"}
    with pytest.raises(ValueError, match=r"data.paths: expected str, got {'mine': None}"):
        settings("--data.paths.mine", "null")


def test_a_path_of_a_recipe_may_begin_with_a_number_sign():
    taken = settings("--data.cache_dir", "#c", "--data.paths.mine", "#p", "--data.wordpiece.name", "#w 1")
    assert (taken.cache_dir, taken.paths, taken.wordpiece.name) == ("#c", {"mine": "#p"}, "#w 1")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("the caf\udce9", "--text has the byte 0xE9 at position 7"),
        ("a \ud83d b", r"--text has half a character, '\\ud83d', at position 2"),
    ],
)
def test_a_text_of_bytes_that_are_no_utf8_is_refused_by_its_option(text, problem):
    with pytest.raises(ValueError, match=problem):
        check_text("--text", text)
    check_text("--text", None)
