"""A pretrained run fills blanks, a fine-tuned one answers questions, and both export a state dict."""

import json

import pytest

from lmrecipes.__main__ import main
from lmrecipes.data.embedded.squad import make_squad

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = [
    *("--model.config.d_model=16", "--model.config.n_layers=1", "--model.config.n_heads=2", "--model.config.d_head=8"),
    *("--model.config.d_ff=16", "--batch.seq_len=96", "--batch.target_len=32", "--batch.global_batch_size=4"),
    *("--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--data.sentencepiece.vocab_size=300"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text("\n".join(f"number {i} has {i % 7} ships and a boat" for i in range(400)))
    for split in ("train", "val", "test"):
        (folder / f"{split}.json").write_text(json.dumps(make_squad(split, 3, unanswerable=False)))
    common = [*SMALL, f"--data.cache_dir={folder}/cache"]
    blanks = ["--data.languages=[en]", f"--data.path={folder}/text.txt", "--data.held_out=0.1"]
    assert main(["fit", "--config", "mt5/tiny_mc4", *blanks, *common, f"--run_dir={folder}/blanks"]) == 0
    files = [f"--data.{split}={folder}/{split}.json" for split in ("train", "val", "test")]
    started = [f"--init_from={folder}/blanks", f"--run_dir={folder}/reader"]
    assert main(["fit", "--config", "mt5/tiny_squad", *files, *common, *started]) == 0
    return folder


def test_blanks_are_filled(runs, capsys):
    text = "number <mask> has 3 ships"
    for run in ("blanks", "reader"):
        assert main(["predict", f"--run={runs}/{run}", f"--text={text}", "--max_new_tokens=5"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["prompt"] == text
        assert 1 <= len(result["completion"]["tokens"]) <= 5


def test_a_fine_tuned_run_answers_questions(runs, capsys):
    arguments = ["predict", f"--run={runs}/reader", "--question=Who has what?", "--context=Ada has three ships."]
    assert main([*arguments, "--max_new_tokens=3"]) == 0, capsys.readouterr().err
    answer, best = capsys.readouterr().out.splitlines()
    assert best[5:] == f"  {answer}"
    # After two steps of training answers are arbitrary.
    assert 0 <= float(best[:5]) < 0.9
    assert main(["predict", f"--run={runs}/reader", f"--file={runs}/test.json"]) == 0, capsys.readouterr().err
    written = json.loads((runs / "reader/answers/predict/test/predictions.json").read_text())
    (runs / "test.de.json").write_text((runs / "test.json").read_text())
    assert main(["predict", f"--run={runs}/reader", f"--file={runs}/test.de.json"]) == 0, capsys.readouterr().err
    assert (runs / "reader/answers/predict/test.de/predictions.json").exists()
    paragraphs = json.loads((runs / "test.json").read_text())["data"][0]["paragraphs"]
    assert set(written) == {qa["id"] for paragraph in paragraphs for qa in paragraph["qas"]}


@pytest.mark.parametrize(
    ("run", "options", "message"),
    [
        ("blanks", ["--question=Who?", "--context=Ada."], "--question is for a model that answers questions"),
        ("reader", ["--question=Who?", "--text=Ada"], "--question and --text are both given"),
        ("reader", ["--question=Who?"], "--context is missing"),
        ("blanks", ["--text=<mask>"], "the text has nothing but blanks"),
        ("reader", ["--question=Who?", "--context=Ada.", "--temperature=-1"], "error: --temperature is -1.0; it must"),
        ("blanks", ["--text=a <mask>", "--top_k=5"], "error: --top_k is 5, but temperature 0 decodes greedily"),
    ],
)
def test_unsupported_exports_are_rejected(runs, capsys, run, options, message):
    assert main(["predict", f"--run={runs}/{run}", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("run", ["blanks", "reader"])
def test_an_exported_state_dict_gives_the_same_loss(runs, capsys, run):
    assert main(["export", f"--run={runs}/{run}", "--format=state_dict"]) == 0, capsys.readouterr().err
