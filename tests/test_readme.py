"""Commands in README.md and docs/ work, and their links, paths and option names exist."""

import json
import random
import re
import shlex
import shutil
import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from conftest import requires
from lmrecipes.__main__ import COMMANDS, main
from lmrecipes.cli import RecipeCLI, open_recipe
from lmrecipes.commands.common.parser import Arguments
from lmrecipes.config import catalog
from lmrecipes.config.errors import known_options
from lmrecipes.data.embedded.squad import make_squad
from lmrecipes.models.common import protocols

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lmrecipes"
MAKEFILE = (ROOT / "Makefile").read_text() if (ROOT / "Makefile").is_file() else ""
README = (ROOT / "README.md").read_text()
DOCS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
PAGES = {"README.md": README, **DOCS}
# Programs whose commands are neither run nor parsed here, and why.
NOT_RUN = {
    "sbatch": "needs a SLURM controller; tests/slurm runs the scripts, and here their recipes are parsed",
    "srun": "needs a SLURM controller; the command behind it is parsed",
    "torchrun": "needs a second node; the command behind it is parsed",
    "fabric": "needs a second node; the command behind it is parsed",
    "wandb": "needs wandb's server; tests/sweeps runs agents without it",
    "tensorboard": "is a server",
}
# Placeholders for the reader's own values.
PLACEHOLDERS = {"RECIPE": "transformer_xl/tiny", "FOLDER": "folder", "FILE": "file", "NAME": "name"}
# Commands with one of these in a word are only parsed, not run at toy size:
PARSED_ONLY = {
    "electra/base_phase": "needs Wikipedia; tests/recipes trains it at toy size",
    "electra/squad11_base": "needs SQuAD; tests/recipes trains it at toy size",
    "mt5/google_small": "needs mC4 and a published model",
    "mt5/squad_ptuning_390m": "needs SQuAD and a run of mt5/390m",
    "wandb": "starts wandb's service; tests/loggers runs it",
    "weights.": "needs weights from elsewhere; tests/checkpoints/test_weight_files.py loads them",
}
# Options that make any recipe train two steps on a small text.
OVERLAYS = ["--config", "overlays/debug", "--config", "overlays/cpu"]
SHORT = ["--trainer.max_steps=2", "--trainer.val_check_interval=1"]
SMALL = [
    *("--model.config.n_layers=2", "--model.config.d_model=16", "--model.config.n_heads=2", "--model.config.d_head=8"),
    *("--model.config.d_ff=32", "--model.config.vocab_size=0", "--model.config.cutoffs=[10,20,30]"),
    *("--trainer.accelerator=cpu", "--trainer.precision=32-true", *SHORT),
]


def lines(page):
    """The lines of a page's `sh` fences as words, in order, with continued lines joined and comments dropped."""
    for fence in re.findall(r"^```sh\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE):
        for line in fence.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def commands(pages=PAGES):
    """Every `lmrecipes` and `make` command in the fences."""
    return [words for page in pages for words in lines(page) if words[0] in ("make", "lmrecipes")]


def inline(page):
    """The words of complete commands (those with options) within sentences."""
    prose = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`([^`]+)`", prose):
        words = shlex.split(code)
        if words[:1] == ["lmrecipes"] and "--config" in words:
            yield words


def unwrapped(words):
    """The `lmrecipes` command that a launcher starts, if it starts one."""
    if words[0] == "sbatch":
        script = next(i for i, word in enumerate(words) if word.endswith(".sbatch"))
        name = Path(words[script]).stem
        recipe = ["fit"] if name != "fabric" else ["fabric", "fit"]
        return None if name == "sweep" else ["lmrecipes", *recipe, "--config", *words[script + 1 :]]
    if "lmrecipes" in words:
        return words[words.index("lmrecipes") :]
    if (script := "src/lmrecipes/fabric/__main__.py") in words:
        return ["lmrecipes", "fabric", *words[words.index(script) + 1 :]]
    return None


class ParsedCLI(RecipeCLI):
    """Parses a command line; creates no run and instantiates nothing."""

    def before_instantiate_classes(self):
        """Nothing."""

    def instantiate_classes(self):
        """Nothing."""


class RecipeArguments(Exception):  # noqa: N818
    """Raised with the arguments that a command without a model of its own passes on to the recipe."""


def parsed(words):
    """Options known to the parser of a command, which has accepted these words.

    Raises:
        ValueError: from the command's parser, for words it does not accept.
    """
    name, rest = words[1], [PLACEHOLDERS.get(word, word).replace("<time>", "now") for word in words[2:]]
    module = import_module(f"lmrecipes.commands.{name if name != 'fabric' else rest.pop(0)}")
    if not hasattr(module, "COMMAND") or name in ("doctor", "rehearse"):
        try:
            module.run(rest)
        except RecipeArguments as left:
            rest = left.args[0]
        if not rest or not hasattr(module, "COMMAND"):
            assert not rest, f"{name} takes no {rest[0]}"
            return set()
    command = module.COMMAND
    if "--run" in rest or "--resume" in rest:
        # The other options are those of the recipe.
        option = "--run" if "--run" in rest else "--resume"
        at = rest.index(option)
        recipe = re.sub(r"^runs/|/now$", "", rest[at + 1])
        rest += ["--config", recipe]
        command = replace(command, run_option="")
    cli = open_recipe(command, ["--no_runtime_tuning", *rest], ParsedCLI)
    return known_options(cli.config.as_dict())


@pytest.fixture
def parsing_only(monkeypatch, tmp_path):
    """Stops commands without a model once their options are parsed."""

    def parse_known_args(self, args=None, namespace=None):
        raise RecipeArguments(parse(self, args, namespace)[1])

    parse = Arguments.parse_known_args
    monkeypatch.setattr(Arguments, "parse_known_args", parse_known_args)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_on_a_page_parses(page, parsing_only):
    for words in [*lines(page), *inline(page)]:
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", MAKEFILE, re.MULTILINE) or not MAKEFILE, words
            continue
        assert words[0] == "lmrecipes" or words[0] in NOT_RUN, f"{words[0]}: run it, or say in NOT_RUN why not"
        command = words if words[0] == "lmrecipes" else unwrapped(words)
        if command is not None:
            try:
                parsed(command)
            except ValueError as error:
                pytest.fail(f"{page}: {shlex.join(words)}: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", catalog.recipe_paths())
def test_every_command_in_a_recipes_header_parses(recipe, parsing_only):
    header = "\n".join(re.findall(r"^#(.*)", catalog.recipe_paths()[recipe].read_text(), re.MULTILINE))
    # Text after two spaces explains the command.
    for line in re.findall(r"^ {3}(lmrecipes .*)", re.sub(r"\\\n *", "", header), re.MULTILINE):
        try:
            parsed(shlex.split(line.split("    ")[0]))
        except ValueError as error:
            pytest.fail(f"{recipe}: {line}: {error}")


def test_a_misspelt_option_or_value_is_detected(parsing_only):
    for words in (
        "lmrecipes fit --config transformer_xl/tiny --model.config.n_layer 4",
        "lmrecipes fit --config transformer_xl/tiny --trainer.max_step 4",
        "lmrecipes fit --config mt5/tiny_mc4 --model.config.family googel",
        "lmrecipes test --run transformer_xl/tiny --runtime FOLDER",
        "lmrecipes rehearse --config transformer_xl/tiny --kept",
        "lmrecipes evaluate squad --data FILE --prediction FILE",
        "lmrecipes plot transformer_xl/tiny --out FILE",
    ):
        with pytest.raises((ValueError, AssertionError)):
            parsed(words.split())


def test_every_option_named_in_a_sentence_exists(parsing_only):
    # Options of sbatch, and of parsers without a configuration.
    known = {"nodes", "ntasks-per-node", "config", "data", "group_timeout_minutes"}
    for recipe in ("transformer_xl/tiny", "electra/tiny_squad", "electra/google_base", "mt5/tiny_mc4"):
        known |= parsed(["lmrecipes", "fit", "--config", recipe])
    for name in ("test", "predict", "prepare", "export"):
        known |= parsed(["lmrecipes", name, "--config", "transformer_xl/tiny"])
    # Groups that a recipe leaves unset are known once one of their values is given.
    extra = "--trainer.logger wandb", "--data text_folder --data.tokenizing.kind char", "--data xquad"
    for options in extra:
        known |= parsed(["lmrecipes", "fit", "--config", "transformer_xl/tiny", *options.split()])
    tuned = ["--model.tuning.kind", "lora", "--model.decoding.beams", "2"]
    known |= parsed(["lmrecipes", "fit", "--config", "mt5/tiny_squad", *tuned])
    for page, text in PAGES.items():
        prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        for code in re.findall(r"`([^`]+)`", prose):
            for option in re.findall(r"(?:^| )--([\w.-]+)", code) if code.startswith("--") else ():
                assert re.sub(r"^data\.paths\.\w+$", "data.paths", option) in known, f"{page}: --{option}"


def test_all_fences_are_of_a_checked_kind():
    for page, text in PAGES.items():
        kinds = re.findall(r"^```(\w*)\n.*?^```$", text, re.DOTALL | re.MULTILINE)
        assert set(kinds) <= {"sh", "text", "python", "yaml"}, page
    seen = {words[1] for words in commands() if words[0] == "lmrecipes"}
    assert seen == set(COMMANDS)
    assert ["make", "demo"] in commands()


def test_every_unchecked_program_is_used_on_a_page():
    assert {words[0] for page in PAGES for words in lines(page)} - {"make", "lmrecipes"} == set(NOT_RUN)


@requires(bool(MAKEFILE), "the Makefile is not here")
def test_every_make_target_in_the_readme_exists():
    named = set(re.findall(r"`(?:\w+=\S+ )*make (\w+)`", README)) | {w[1] for w in commands() if w[0] == "make"}
    assert named >= {"demo", "bench"}
    assert named <= set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))


# Links and paths.

GUIDES = ["CONTRIBUTING.md", "recipes/README.md", "slurm/README.md", "src/lmrecipes/README.md"]
GUIDES += ["src/lmrecipes/models/README.md"]


def anchors(text):
    """Anchors of a page's headings, as GitHub generates them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *GUIDES])
def test_every_link_on_a_page_has_a_target(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target.read_text()), f"{page}: {link}"


@pytest.mark.parametrize("page", [*PAGES, *GUIDES])
def test_every_path_on_a_page_exists(page):
    for code in re.findall(r"`([^`\n]+)`", (ROOT / page).read_text()):
        if re.fullmatch(
            r"(src|recipes|slurm|tests|benchmarks|callbacks|loggers|datamodules|docs|models)/[\w./-]+", code
        ):
            assert any((base / code).exists() for base in (ROOT, SOURCE, ROOT / page)), f"{page}: {code}"


@pytest.mark.parametrize("page", PAGES)
def test_every_recipe_and_preset_on_a_page_ships(page):
    names = set(catalog.recipe_paths())
    folders = {name.partition("/")[0] for name in names}
    for code in re.findall(r"`([^`\n]+)`", PAGES[page]):
        if re.fullmatch(r"[a-z0-9_]+/[a-z0-9_]+", code) and code.partition("/")[0] in folders:
            assert code in names, f"{page}: {code}"
    data = set(catalog.preset_paths("datamodules"))
    for name in re.findall(r"--data ([a-z0-9_]+)(?![\w.])", PAGES[page]):
        assert name in data, f"{page}: --data {name}"


def test_every_recipe_in_the_readmes_table_ships():
    table = README.partition("## Recipes")[2].partition("## Commands")[0]
    listed = set()
    for row in table.splitlines():
        first, *more = re.findall(r"`([^`]+)`", row.split("|")[1]) if row.startswith("| `") else [""]
        listed |= {first} | {name if "/" in name else f"{first.partition('/')[0]}/{name}" for name in more}
    listed -= {""}
    assert len(listed) > 30
    assert listed <= set(catalog.recipe_paths())


def test_the_readme_is_short():
    assert len(README.splitlines()) < 200


def packages(folder):
    """Packages and modules directly in a folder."""
    return {p.name for p in folder.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()} - {"__init__.py"}


def rows(text):
    """The names in the first cells of a page's tables, in order."""
    return re.findall(r"^\| `([\w./]+)`", text, re.MULTILINE)


def test_every_package_has_a_row_in_the_source_readme():
    inside = {f"data/{name}" for name in packages(SOURCE / "data")}
    modules = {f"datamodules/{name}" for name in packages(SOURCE / "datamodules")}
    assert set(rows((SOURCE / "README.md").read_text())) == packages(SOURCE) | inside | modules


def test_the_source_readme_is_in_the_order_of_the_import_contracts():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    whole, data = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    named = [name.removesuffix(".py") for name in rows((SOURCE / "README.md").read_text())]
    for layers, prefix in ((whole, ""), (data, "data/")):
        levels = {prefix + name: level for level, layer in enumerate(layers) for name in layer.split(" | ")}
        depths = [levels[name] for name in named if name in levels]
        assert depths == sorted(depths)
        assert len(depths) == len(levels)


def test_every_file_of_a_model_has_a_row_in_the_models_readme():
    text = (SOURCE / "models" / "README.md").read_text()
    named = {name for name in rows(text) if name.endswith(".py")}
    common = {f"common/{path.name}" for path in (SOURCE / "models/common").glob("*.py")} - {"common/__init__.py"}
    models = {
        path.name for folder in (SOURCE / "models").iterdir() if folder.name != "common" for path in folder.glob("*.py")
    }
    assert named == common | models


def test_every_protocol_of_a_model_is_in_the_models_readme():
    text = (SOURCE / "models" / "README.md").read_text()
    named = {name for name in rows(text) if name[0].isupper()}
    assert named == {name for name, kind in vars(protocols).items() if getattr(kind, "_is_protocol", False)} - {
        "Protocol"
    }


def test_the_model_of_the_models_guide_trains_resumes_and_is_tested(tmp_path, monkeypatch, capsys):
    text = (SOURCE / "models" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "gru_of_the_guide.py").write_text(code)
    recipe = recipe.replace("lmrecipes.models.gru.", "gru_of_the_guide.").replace("../..", str(ROOT))
    (tmp_path / "gru.yaml").write_text(recipe)
    (tmp_path / "text").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / "text" / f"{split}.txt").write_text("the cat sat on the mat and the dog on the log\n" * 300)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--data.path=text", "--data.cache_dir=cache", "--trainer.val_check_interval=20", "--run_dir=run"]
    assert main(["fit", "--config=gru.yaml", *options, "--trainer.max_steps=40"]) == 0
    assert main(["fit", "--resume=run", "--trainer.max_steps=60"]) == 0
    assert main(["test", "--run=run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    loss = next(float(line.split()[1]) for line in lines if line.startswith("test/loss"))
    assert loss < 1
    assert main(["fit", "--config=gru.yaml", *options[:-1], "--run_dir=other", "--batch.target_len=3"]) == 2


# Commands that are really run.


def make_commands(target):
    """The `lmrecipes` commands of a make target."""
    (body,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE)
    return [shlex.split(line.split("lmrecipes", 1)[1]) for line in body.splitlines() if "/lmrecipes " in line]


def shrink(arguments, corpus, folder):
    """The same command, trained for two steps on the small corpus."""
    words: list[str] = []
    for word in arguments:
        if word == "FOLDER" and words[-1] == "--data.paths.mine":
            words.append("corpus")
        elif "<time>" in word or word.endswith("*"):
            words += sorted(str(p.relative_to(folder)) for p in folder.glob(word.replace("<time>", "*")))
        else:
            words.append(str(corpus) if word == "FOLDER" else word)
    if words[:1] == ["fabric"]:
        return ["fabric", *shrink(words[1:], corpus, folder)]
    if "--config" not in words:
        return words
    recipe = words.index("--config") + 2
    cache = f"--data.cache_dir={folder}/cache"
    if words[recipe - 1].startswith(("electra/", "mt5/")):
        return [*words, cache, *(SHORT if words[0] == "fit" else [])]
    own_data = [] if "--data.path" in words else [f"--data.path={corpus}"]
    own_size = [*SMALL, "--batch.micro_batch_size=2", "--batch.global_batch_size=4"] if words[0] == "fit" else []
    return [*words[:recipe], *OVERLAYS, *words[recipe:], *own_data, cache, *own_size]


def write_files(folder):
    """Writes the files that commands on the pages name: documents in two languages, questions, predictions."""
    generator = random.Random(0)
    for language in ("de", "en"):
        texts = [" ".join(f"w{generator.randrange(60)}" for _ in range(60)) for _ in range(4000)]
        (folder / "corpus" / language).mkdir(parents=True)
        (folder / "corpus" / language / "texts.jsonl").write_text("\n".join(json.dumps({"text": x}) for x in texts))
    questions = make_squad("val", 3)
    (folder / "dev.json").write_text(json.dumps(questions))
    ids = [qa["id"] for article in questions["data"] for part in article["paragraphs"] for qa in part["qas"]]
    (folder / "predictions.json").write_text(json.dumps(dict.fromkeys(ids, "Red Hill")))


@pytest.mark.slow
@requires(bool(MAKEFILE), "the Makefile is not here")
def test_the_commands_on_the_pages_run(command, small_corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    seen = []
    for words in commands():
        # `--run RECIPE` on a page means that page's run; only tiny runs occur twice.
        again = words in seen and not {"fit", "transformer_xl/tiny"} <= set(words)
        if again or any(part in word for part in PARSED_ONLY for word in words):
            continue
        seen.append(words)
        for arguments in make_commands(words[1]) if words[0] == "make" else [words[1:]]:
            small = shrink(arguments, small_corpus, tmp_path)
            if "--trainer.devices" in small:
                # Exits together with its child processes.
                assert command(*small).returncode == 0, arguments
            else:
                assert main(small) == 0, (arguments, capsys.readouterr().err)
                assert capsys.readouterr().out, arguments


def test_every_only_parsed_pattern_is_still_used():
    words = [word for line in commands() for word in line]
    assert all(any(part in word for word in words) for part in PARSED_ONLY)


@pytest.mark.filterwarnings("ignore")
def test_the_python_examples_on_the_pages_run(small_corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMRECIPES_CACHE", str(tmp_path / "cache"))
    shutil.copytree(small_corpus, tmp_path / "my_text")
    fences = [re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE) for text in PAGES.values()]
    code = "\n".join(fence for page in fences for fence in page)
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
