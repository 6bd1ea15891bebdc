"""Protocols between commands, models and data, and the one-line errors when they are not met."""

import ast
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule

import lmrecipes
from lmrecipes.__main__ import COMMANDS, main
from lmrecipes.batches import BatchPlan, EvalBatchPlan
from lmrecipes.checkpoints.io import load_checkpoint
from lmrecipes.data.corpora.documents import DocumentSource
from lmrecipes.datamodules import DocumentsDataModule, MC4DataModule, SquadDataModule, TextFolder, XNLIDataModule
from lmrecipes.datamodules import protocols as data_protocols
from lmrecipes.models.common import protocols
from lmrecipes.models.electra import ElectraModule, ElectraReaderModule
from lmrecipes.models.mt5 import MT5Module
from lmrecipes.models.transformer_xl import TransformerXLModule

SOURCE = Path(lmrecipes.__file__).parent
HAS = {
    TransformerXLModule: {"Countable", "Generates", "ScoresText", "ExportsPrograms", "ExportsWeights", "Rehearses"},
    ElectraModule: {"Countable", "ExportsHF", "ExportsWeights", "Rehearses"},
    ElectraReaderModule: {"Countable", "ExportsHF", "ExportsWeights", "SelectsWeights", "Rehearses"},
    MT5Module: {
        *("Countable", "Generates", "ExportsHF", "ExportsWeights", "SelectsWeights", "ChecksPrecision", "Rehearses"),
    },
}


def small_plan(**more):
    return BatchPlan(global_batch_size=4, seq_len=64, **more)


def build_model(kind):
    """A model of these sizes, without its network."""
    from lmrecipes.models.electra import ElectraConfig, ReaderConfig
    from lmrecipes.models.mt5 import MT5Config
    from lmrecipes.models.transformer_xl import TransformerXLConfig

    configs = {
        TransformerXLModule: TransformerXLConfig,
        ElectraModule: ElectraConfig,
        ElectraReaderModule: ReaderConfig,
        MT5Module: MT5Config,
    }
    sizes = {"n_layers": 1, "d_model": 8, "n_heads": 1, "d_head": 8, "d_ff": 8} if kind is TransformerXLModule else {}
    return kind(configs[kind](**sizes), torch.optim.Adam, None, small_plan())


@pytest.mark.parametrize("kind", HAS)
def test_a_model_has_the_protocols_that_its_commands_need(kind):
    everyone = {"Parallelizable", "ReadsBatchPlan", "TypesBatches"}
    names = {name for name, value in vars(protocols).items() if getattr(value, "_is_protocol", False)} - {"Protocol"}
    assert {name for name in names if isinstance(build_model(kind), getattr(protocols, name))} == HAS[kind] | everyone


def test_data_has_the_protocols_that_its_commands_need(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("a b\n")
    datamodules = {
        "text": TextFolder(small_plan(), path=str(tmp_path)),
        "documents": DocumentsDataModule(small_plan(), [DocumentSource(name="embedded")]),
        "mc4": MC4DataModule(small_plan(target_len=32), ["en"]),
        "squad": SquadDataModule(small_plan(), train="embedded:train", max_query_len=16),
        "xnli": XNLIDataModule(small_plan(), train="embedded:train"),
    }
    for name, data in datamodules.items():
        assert isinstance(data, data_protocols.EvaluatesWith), name
        assert isinstance(data, data_protocols.Rehearses), name
        assert isinstance(data, data_protocols.AnswersQuestions) == (name == "squad"), name
        assert isinstance(data, data_protocols.PreparesInShards) == (name in ("mc4", "documents")), name


def test_commands_check_models_and_data_only_by_protocol():
    for file in [*(SOURCE / "commands").rglob("*.py"), SOURCE / "cli.py"]:
        calls = [
            node.func.id
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        assert "hasattr" not in calls, file


def test_shared_modules_name_no_command():
    tree = ast.parse((SOURCE / "cli.py").read_text())
    compared = {
        item.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for item in ast.walk(node)
        if isinstance(item, ast.Constant)
    }
    assert not compared & set(COMMANDS)


def test_score_rejects_a_model_that_is_not_causal_before_loading_anything(tmp_path, monkeypatch, capsys):
    run = Path(__file__).with_name("earlier_runs") / "mt5_squad"
    monkeypatch.chdir(tmp_path)
    assert main(["score", f"--run={run}", "--text=a b"]) == 2
    assert "score needs a causal language model; MT5Module is not one" in capsys.readouterr().err


def test_predict_rejects_a_model_that_does_not_generate(tmp_path, monkeypatch, capsys):
    run = Path(__file__).with_name("earlier_runs") / "electra_pretrain"
    monkeypatch.chdir(tmp_path)
    assert main(["predict", f"--run={run}", "--text=a b"]) == 2
    assert "ElectraModule neither generates text nor answers questions" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["torch_export", "aot_inductor"])
def test_export_names_the_formats_that_a_model_supports(form, tmp_path, monkeypatch, capsys):
    run = Path(__file__).with_name("earlier_runs") / "mt5_mc4"
    monkeypatch.chdir(tmp_path)
    assert main(["export", f"--run={run}", f"--format={form}", "--output=out"]) == 2
    assert f"--format {form} is not for MT5Module; --format hf or state_dict is" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["validate", "test"])
def test_exported_programs_are_rejected_for_a_model_without_them(command, tmp_path, monkeypatch, capsys):
    run = Path(__file__).with_name("earlier_runs") / "mt5_mc4"
    monkeypatch.chdir(tmp_path)
    assert main([command, f"--run={run}", "--exported=somewhere"]) == 2
    assert "--exported is somewhere, but MT5Module is not exported as programs" in capsys.readouterr().err


# Fields of the batch plan.


@pytest.mark.parametrize(
    ("recipe", "option", "field"),
    [
        ("transformer_xl/tiny", "--batch.target_len=5", "batch.target_len is 5"),
        ("electra/tiny_pretrain", "--batch.mem_len=5", "batch.mem_len is 5"),
        ("electra/tiny_squad", "--batch.target_len=5", "batch.target_len is 5"),
        ("mt5/tiny_mc4", "--batch.same_length=true", "batch.same_length is True"),
        ("mt5/tiny_squad", "--batch.test.clamp_len=5", "batch.test.clamp_len is 5"),
    ],
)
def test_a_batch_field_that_nothing_reads_is_rejected_by_name(recipe, option, field, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", recipe, option]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"error: {field}, but neither " in line
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.parametrize(
    ("recipe", "data", "message"),
    [
        (
            "electra/tiny_pretrain",
            "embedded_text",
            "EmbeddedText, whose batches are of type StreamBatch, but ElectraModule",
        ),
        ("mt5/tiny_mc4", "embedded_squad", "SpanBatch, but MT5Module reads TextPairBatch"),
        ("electra/tiny_squad", "embedded_squad_text", "TextPairBatch, but ElectraReaderModule reads SpanBatch"),
    ],
)
def test_data_of_another_kind_of_batch_is_rejected(recipe, data, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    extra = ["--data.sentencepiece=null"] if recipe == "mt5/tiny_mc4" else []
    assert main(["fit", f"--config={recipe}", f"--data={data}", *extra]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.yaml"))


def test_prepare_rejects_a_field_that_nothing_reads_and_a_missing_length(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *small, "--batch.target_len=9"]) == 2
    assert "batch.target_len is 9, but neither TransformerXLModule nor" in capsys.readouterr().err
    assert main(["prepare", "--config=electra/tiny_squad", "--batch.seq_len=null"]) == 2
    assert "batch.seq_len is missing" in capsys.readouterr().err


def test_seq_len_is_required_only_by_data_that_reads_it():
    plan = BatchPlan(global_batch_size=4, val=EvalBatchPlan(batch_size=2))
    plan.check_read({"Speech": frozenset()})
    assert (plan.accumulation(2), plan.for_split("val").batch_size) == (1, 2)
    with pytest.raises(ValueError, match=r"batch.seq_len is missing, which WikiText103 reads"):
        plan.check_read({"WikiText103": frozenset(("seq_len",))})
    with pytest.raises(ValueError, match=r"batch.seq_len is missing"):
        plan.sequence_length  # noqa: B018


def test_there_is_one_file_for_each_command_and_one_folder_for_each_model():
    assert {path.stem for path in (SOURCE / "commands").glob("*.py")} == {*COMMANDS, "__init__"}
    assert [path.name for path in (SOURCE / "models").glob("*.py")] == ["__init__.py"]


def test_init_from_a_run_of_another_model_is_rejected_naming_both(small, tmp_path, capsys):
    run = Path(__file__).with_name("earlier_runs") / "electra_pretrain"
    assert main(["fit", *small, f"--run_dir={tmp_path}/new", f"--init_from={run}"]) == 2
    assert "is a run of ElectraModule, but model is TransformerXLModule" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_run_of_a_subclass_gives_its_weights(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = (
        "from lmrecipes.models.transformer_xl import TransformerXLModule as Ours\n\n\nclass Mine(Ours):\n    pass\n"
    )
    (tmp_path / "subclass_of_ours.py").write_text(module)
    assert main(["fit", *small, "--run_dir=first", "--trainer.max_steps=3"]) == 0
    config = tmp_path / "first/config.yaml"
    config.write_text(
        config.read_text().replace("lmrecipes.models.transformer_xl.TransformerXLModule", "subclass_of_ours.Mine")
    )
    assert main(["fit", *small, "--run_dir=second", "--trainer.max_steps=3", "--init_from=first"]) == 0


@pytest.mark.parametrize("command", [["fit"], ["fabric", "fit"]])
@pytest.mark.parametrize(
    ("callback", "model", "message"),
    [
        ("SquadAnswers", None, "SquadAnswers is for a DataModule of questions, such as SquadDataModule, not"),
        (
            "Throughput",
            "Uncounted",
            "Throughput needs a model with count() and flops_per_token(), which Uncounted lacks",
        ),
    ],
)
def test_a_callback_that_does_not_fit_is_rejected_in_one_line(
    command, callback, model, message, small, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = (
        "from lmrecipes.models.transformer_xl import TransformerXLModule\n\n\nclass Uncounted(TransformerXLModule):\n"
    )
    (tmp_path / "uncounted.py").write_text(module + "    count = None\n")
    words = [*small, f"--trainer.callbacks=[{{class_path: lmrecipes.callbacks.{callback}}}]"]
    if model is not None:
        words.append(f"--model=uncounted.{model}")
    assert main([*command, *words, "--run_dir=run"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run/checkpoints").exists()


def test_fabric_explains_itself(capsys):
    assert main(["fabric", "--help"]) == 0
    assert "{fit,validate,test} --config RECIPE" in capsys.readouterr().out


# An evaluation of nothing but warm-up segments.


def test_a_test_that_scores_no_token_is_rejected_and_a_validation_warns(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # As of data that does not say how many batches are not scored.
    monkeypatch.setattr("lmrecipes.datamodules.text.TextDataModule.warm_up_batches", lambda *_: 0)
    one = ["--trainer.limit_val_batches=1", "--trainer.max_steps=6"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["fit", *small, *one, "--run_dir=run", "--batch.val.mem_len=16"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "undefined" in line or "``compute``" in line]
    assert len(lines) == 1
    assert lines[0].startswith("warning: val/loss is undefined: no token of the evaluated batches is scored")
    assert main(["test", "--run=run", "--trainer.limit_test_batches=1"]) == 2
    error = capsys.readouterr().err
    assert "test/loss is undefined" in error
    assert "raise trainer.limit_test_batches" in error
    assert not (tmp_path / "run/results.json").exists()


# Work that is done only once.


def test_a_start_prepares_and_hashes_its_data_once(small, tmp_path, monkeypatch):
    from lmrecipes.data.tokenizers.words import WordVocabulary
    from lmrecipes.datamodules import prepared

    monkeypatch.chdir(tmp_path)
    counts = {"found": 0, "hashed": 0}
    find, content = prepared.recall, WordVocabulary._content

    def counting_find(*what):
        counts["found"] += 1
        return find(*what)

    def counting_content(self):
        counts["hashed"] += 1
        return content(self)

    assert main(["prepare", *small]) == 0
    monkeypatch.setattr(prepared, "recall", counting_find)
    monkeypatch.setattr(WordVocabulary, "_content", counting_content)
    assert main(["fit", *small, "--run_dir=run", "--trainer.max_steps=6"]) == 0
    # Once for the hash, once for the copy that is kept with the run.
    assert counts == {"found": 1, "hashed": 2}


def test_a_resume_reads_its_checkpoint_once(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *small, "--run_dir=run", "--trainer.max_steps=6"]) == 0
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda file, **how: read.append(str(file)) or load(file, **how))
    assert main(["fit", "--resume=run", "--trainer.max_steps=12"]) == 0
    assert len(read) == 1


def test_a_checkpoint_that_changed_after_it_was_checked_is_read_again(tmp_path):
    from lmrecipes.checkpoints.io import check

    path = tmp_path / "last-step=1.ckpt"
    torch.save({"state_dict": {}, "global_step": 1}, path)
    check(path, keep=True)
    torch.save({"state_dict": {}, "global_step": 2, "more": 0}, path)
    assert load_checkpoint(path)["global_step"] == 2


def test_a_plain_lightning_module_has_no_protocol_by_accident():
    names = {name for name, value in vars(protocols).items() if getattr(value, "_is_protocol", False)} - {"Protocol"}
    assert not [name for name in names if isinstance(LightningModule(), getattr(protocols, name))]
