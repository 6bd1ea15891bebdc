"""`lmrecipes evaluate squad` prints the output of the official scripts, fast, and rejects unreadable input."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import naive_squad as naive
import pytest

from conftest import environment, requires
from lmrecipes.__main__ import main

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))
real_data = requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")


def data(*questions, version="1.1"):
    """Questions as (id, answers); in version 2.0 each says whether it is unanswerable."""
    qas = [
        {"id": id, "question": "?", "answers": [{"text": text, "answer_start": 0} for text in answers]}
        | ({"is_impossible": not answers} if version == "2.0" else {})
        for id, answers in questions
    ]
    return {"version": version, "data": [{"title": "T", "paragraphs": [{"context": "c", "qas": qas}]}]}


@pytest.fixture
def write_json(tmp_path):
    def write(name, content):
        path = tmp_path / name
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
        return str(path)

    return write


def evaluate(*arguments):
    return main(["evaluate", "squad", *arguments])


def test_squad_11_prints_one_line_and_warns_of_missing_predictions(write_json, capsys):
    file = write_json("d.json.gz", data(("a", ["The cat"]), ("b", ["dog"])))
    assert evaluate("--data", file, "--predictions", write_json("p.json", {"a": "cat!"})) == 0
    out, errors = capsys.readouterr()
    assert out == '{"exact_match": 50.0, "f1": 50.0}\n'
    assert errors == "warning: no prediction for 1 of 2 questions, which will receive score 0: b\n"
    assert evaluate("--data", file, "--predictions", write_json("p.json", {"z": "cat!"})) == 2
    assert "answers no question of" in capsys.readouterr().err


def test_squad_20_prints_the_official_metrics(write_json, tmp_path, capsys):
    questions = [("a", ["cat"]), ("b", []), ("c", ["a dog", "dogs"])]
    file = write_json("d.json", data(*questions, version="2.0"))
    predictions, odds = {"a": "cat", "b": "x", "c": "the dog barks"}, {"c": -3, "b": 0.5, "a": 1.5}
    options = ("--data", file, "--predictions", write_json("p.json", predictions))
    assert evaluate(*options) == 0
    out, _ = capsys.readouterr()
    assert out == json.dumps(naive.squad_20(questions, predictions), indent=2) + "\n"
    more = ("--null-odds", write_json("o.json", odds), "--na-threshold", "0", "--output", str(tmp_path / "out.json"))
    assert evaluate(*options, *more) == 0
    out, _ = capsys.readouterr()
    assert out == json.dumps(naive.squad_20(questions, predictions, odds, 0.0), indent=2) + "\n"
    assert (tmp_path / "out.json").read_text() == out


def test_answers_are_normalized_by_language_as_in_mlqa(write_json, capsys):
    options = (
        "--data",
        write_json("d.json", data(("a", ["Der Rhein"]))),
        "--predictions",
        write_json("p.json", {"a": "Rhein"}),
    )
    assert evaluate(*options) == 0
    assert json.loads(capsys.readouterr().out)["exact_match"] == 0
    assert evaluate(*options, "--language", "de") == 0
    assert json.loads(capsys.readouterr().out)["exact_match"] == 100


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"p.json": b'{"a":\n 1,}'}, (), r"p.json:2:4 is not valid JSON"),
        ({"p.json": []}, (), "holds list; it must be an object with an answer's text by question id"),
        ({"p.json": {"a": 7}}, (), "question a has 7, which is not an answer's text"),
        (
            {"d.json": {"data": [{"paragraphs": [{"qas": [{"id": "a"}]}]}]}},
            (),
            "answers: text): key 'answers' is missing",
        ),
        ({"d.json": b"\xff\xfe"}, (), "d.json is not UTF-8 text"),
        ({"o.json": {"a": 1}}, ("--null-odds", "o.json"), "--null-odds is an option of SQuAD 2.0"),
        ({"d.json": {"data": []}}, (), "d.json has no question to evaluate"),
        ({}, ("--data", "nowhere.json"), "nowhere.json cannot be read: No such file"),
    ],
)
def test_invalid_input_is_rejected_in_one_line(write_json, tmp_path, monkeypatch, capsys, files, options, message):
    monkeypatch.chdir(tmp_path)
    for name, content in {"d.json": data(("a", ["cat"])), "p.json": {"a": "cat"}, **files}.items():
        write_json(name, content)
    assert evaluate("--data", "d.json", "--predictions", "p.json", *options) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors


@pytest.mark.slow
def test_it_starts_without_torch(write_json):
    file, predictions = write_json("d.json", data(("a", ["cat"]))), write_json("p.json", {"a": "cat"})
    program = (
        "import sys; from lmrecipes.__main__ import main; "
        f"code = main(['evaluate', 'squad', '--data', {file!r}, '--predictions', {predictions!r}]); "
        "sys.exit(code or 'torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


@real_data
def test_gold_answers_score_100_on_real_questions(write_json, capsys):
    file = REAL / "squad/dev-v2.0.part.json"
    qas = [qa for a in json.loads(file.read_text())["data"] for p in a["paragraphs"] for qa in p["qas"]]
    predictions = {qa["id"]: qa["answers"][-1]["text"] if qa["answers"] else "" for qa in qas}
    for qa in qas[::3]:
        predictions[qa["id"]] = qa["question"]
    assert evaluate("--data", str(file), "--predictions", write_json("p.json", predictions)) == 0
    questions = [(qa["id"], [a["text"] for a in qa["answers"]]) for qa in qas]
    assert json.loads(capsys.readouterr().out) == naive.squad_20(questions, predictions)


def test_missing_predictions_of_squad_20_are_refused_or_count_as_wrong(write_json, capsys):
    file = write_json("d.json", data(("a", ["cat"]), ("b", []), version="2.0"))
    options = ("--data", file, "--predictions", write_json("p.json", {"a": "cat"}))
    assert evaluate(*options) == 2
    assert "p.json has no prediction for 1 of 2 questions: b; --missing wrong" in capsys.readouterr().err
    assert evaluate(*options, "--missing", "wrong") == 0
    assert json.loads(capsys.readouterr().out)["exact"] == 50.0


def test_predictions_and_odds_that_cannot_be_are_refused_by_name(write_json, capsys):
    file = write_json("d.json", data(("a", ["cat"]), version="2.0"))
    for name, content, message in (
        ("twice.json", b'{"a": "cat", "a": "dog"}', "twice.json has 'a' twice"),
        ("deep.json", b"[" * 100_000, "deep.json is nested too deep"),
    ):
        assert evaluate("--data", file, "--predictions", write_json(name, content)) == 2
        assert message in capsys.readouterr().err
    predictions = write_json("p.json", {"a": "cat"})
    assert (
        evaluate("--data", file, "--predictions", predictions, "--null-odds", write_json("o.json", b'{"a": NaN}')) == 2
    )
    assert "o.json: question a has NaN, which is not a number" in capsys.readouterr().err
    assert evaluate("--data", write_json("n.json", data(("a", [7]))), "--predictions", predictions) == 2
    assert "question a has an answer whose text is not a string" in capsys.readouterr().err
