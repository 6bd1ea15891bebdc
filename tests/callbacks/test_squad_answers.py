"""SquadAnswers logs and writes the official metrics, for any number of ranks, before checkpoints are chosen."""

import json
import subprocess
from pathlib import Path

import pytest
from random_answers import RandomAnswers, cpu_trainer, evaluate_on, squad_data

import warm
from conftest import environment
from lmrecipes.__main__ import main
from lmrecipes.callbacks import BestCheckpoint, SquadAnswers
from lmrecipes.data.embedded.squad import make_squad
from lmrecipes.data.tasks.squad.answers import Candidate, Evidence
from lmrecipes.data.tasks.squad.files import Answer, Question

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ("predictions.json", "nbest_predictions.json", "null_odds.json", "unthresholded_predictions.json")


@pytest.fixture
def file(tmp_path):
    content = make_squad("val", 7)
    paragraphs = content["data"][0]["paragraphs"]
    while sum(len(p["qas"]) for p in paragraphs) % 3 == 0:
        paragraphs[-1]["qas"].pop()
    (tmp_path / "dev.json").write_text(json.dumps(content))
    return str(tmp_path / "dev.json")


def run_evaluate(capsys, *arguments):
    capsys.readouterr()
    assert main(["evaluate", "squad", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_logged_metrics_match_the_written_files(file, tmp_path, capsys):
    data = squad_data(file, str(tmp_path / "cache"))
    (logged,) = cpu_trainer(str(tmp_path)).test(RandomAnswers(), data, verbose=False)
    assert len(data.prepared("test").pieces) > 1.5 * len(data.questions("test"))
    folder = tmp_path / "answers/test"
    official = run_evaluate(capsys, "--data", file, "--predictions", str(folder / "predictions.json"))
    assert 0 < official["HasAns_f1"] < 100
    assert 0 < official["NoAns_exact"] < 100
    expected = {name: value for name, value in official.items() if not name.endswith("total")}
    expected["exact_match"] = expected.pop("exact")
    odds = ("--null-odds", str(folder / "null_odds.json"))
    best = run_evaluate(capsys, "--data", file, "--predictions", str(folder / "unthresholded_predictions.json"), *odds)
    expected |= {name: value for name, value in best.items() if name.startswith("best_")}
    assert logged == pytest.approx({f"squad/{name}": value for name, value in expected.items()}, rel=1e-6)
    assert best["best_f1"] > official["f1"] - 1e-9
    # Answers are spans of their contexts, and the best of the n best.
    answers, nbest = (json.loads((folder / name).read_text()) for name in NAMES[:2])
    assert list(answers) == [q.id for q in data.questions("test")]
    for question in data.questions("test"):
        rows = nbest[question.id]
        assert len(rows) <= 6
        assert all(row["text"] in question.context for row in rows)
        assert answers[question.id] in ("", next(row["text"] for row in rows if row["text"]))


def test_answers_that_cannot_be_written_cost_no_metrics(file, tmp_path, monkeypatch):
    def refuse(folder, *_, **__):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("lmrecipes.callbacks.squad_answers.write_answers", refuse)
    trainer = cpu_trainer(str(tmp_path))
    (logged,) = trainer.test(RandomAnswers(), squad_data(file, str(tmp_path / "cache")), verbose=False)
    assert "squad/f1" in logged
    answers = next(one for one in trainer.callbacks if isinstance(one, SquadAnswers))
    assert answers.unwritten == f"answers were not written to {tmp_path}/answers/test: Permission denied"


@pytest.mark.slow
def test_one_rank_and_three_give_the_same_metrics_and_files(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = Path(__file__).with_name("random_answers.py")
    done = subprocess.run(
        [warm.python(), program, file, "cache3", "ranks3", "3"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    evaluate_on(file, "cache1", str(tmp_path / "ranks1"), 1)
    metrics = [
        tmp_path / rank_folder for rank_folder in ("ranks1/rank0", "ranks3/rank0", "ranks3/rank1", "ranks3/rank2")
    ]
    assert len({path.with_suffix(".json").read_text() for path in metrics}) == 1
    for name in NAMES:
        one, three = (tmp_path / f"ranks{devices}/answers/val/{name}" for devices in "13")
        assert one.read_bytes() == three.read_bytes(), name


def test_the_best_checkpoint_can_be_chosen_by_f1(file, tmp_path):
    best = BestCheckpoint("squad/f1", "max")
    best.dirpath = str(tmp_path)
    trainer = cpu_trainer(
        str(tmp_path),
        callbacks=[best, SquadAnswers()],
        max_steps=4,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=1,
    )
    metrics = []
    module = RandomAnswers()
    module.on_validation_end = lambda: metrics.append(float(trainer.callback_metrics["squad/f1"]))
    trainer.fit(module, squad_data(file, str(tmp_path / "cache")))
    metrics = metrics[1:]  # the first is of the sanity check before training
    assert len(metrics) == 4
    assert len(set(metrics)) > 1
    assert float(best.best_model_score) == pytest.approx(max(metrics))
    assert Path(best.best_model_path).name == f"best-step={1 + metrics.index(max(metrics))}.ckpt"


def test_fabric_gives_the_same_metrics(file, tmp_path):
    from types import SimpleNamespace

    from lmrecipes.fabric.loop import Loop

    data = squad_data(file, str(tmp_path / "cache"))
    (expected,) = cpu_trainer(str(tmp_path)).test(RandomAnswers(), data, verbose=False)
    settings = SimpleNamespace(limit_test_batches=1.0, max_steps=1, log_every_n_steps=1, precision="32-true")
    loop = Loop(data, settings, [SquadAnswers()], tmp_path / "loop", accelerator="cpu", devices=1)
    assert loop.measure(RandomAnswers(), None, "test") == pytest.approx(expected)
    for name in NAMES:
        assert (tmp_path / "loop/answers/test" / name).read_bytes() == (tmp_path / "answers/test" / name).read_bytes()


def test_predict_answers_questions(file, tmp_path):
    data = squad_data(file, str(tmp_path / "cache"))
    data.ask([Question("mine", "Who is the mayor?", "The mayor is Ada Holt. " * 5)])
    callback = SquadAnswers()
    cpu_trainer(str(tmp_path), callbacks=[callback]).predict(RandomAnswers(), data, return_predictions=False)
    assert list(callback.answered) == ["mine"]
    assert not (tmp_path / "answers").exists()
    assert callback.answered["mine"].best in data.questions("predict")[0].context


class Quoting:
    """A DataModule whose questions are answered with free text."""

    def __init__(self, inner) -> None:
        self._inner = inner
        self.language, self.null_threshold, self.n_best = None, None, 1
        self.writes_texts = False

    def questions(self, split):
        return [Question("q", "?", "The Norman 10th", (Answer("x", 0), Answer("10th", 11)))]

    def may_lack(self, split):
        return False

    def evidence(self, split, output):
        return {"q": Evidence((Candidate(output, 0.0, 0.0),))}


def test_any_answering_model_works_and_the_best_gold_answer_counts(tmp_path):
    from types import SimpleNamespace

    logged = {}
    trainer = SimpleNamespace(datamodule=Quoting(None), default_root_dir=str(tmp_path), is_global_zero=True)
    module = SimpleNamespace(log_dict=lambda metrics, batch_size: logged.update(metrics))
    callback = SquadAnswers()
    callback.on_validation_epoch_start(trainer, module)
    callback.on_validation_batch_end(trainer, module, "the 10th.", None, 0)
    callback.on_validation_epoch_end(trainer, module)
    assert {name: float(value) for name, value in logged.items()} == {"squad/exact_match": 100.0, "squad/f1": 100.0}
    assert json.loads((tmp_path / "answers/val/predictions.json").read_text()) == {"q": "the 10th."}
    assert not (tmp_path / "answers/val/null_odds.json").exists()
    with pytest.raises(ValueError, match="the model's val step returns nothing"):
        callback.on_validation_batch_end(trainer, module, None, None, 0)
    trainer.datamodule = object()
    with pytest.raises(ValueError, match="SquadAnswers is for a DataModule of questions"):
        callback.on_validation_batch_end(trainer, module, "x", None, 0)
