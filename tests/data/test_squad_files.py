"""Files in SQuAD format are read completely; malformed data is named by file and question."""

import copy
import gzip
import json
import os
from pathlib import Path

import pytest

from conftest import requires
from lmrecipes.data.corpora.hub import local_file
from lmrecipes.data.embedded.squad import make_squad
from lmrecipes.data.tasks.squad.files import Answer, Question, read_content, read_squad
from lmrecipes.data.tasks.squad.source import SquadSource

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))
real_data = requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
CONTEXT = "Köln liegt am Rhein. Bonn auch."
GOOD = {"id": "good", "question": "Where?", "answers": [{"text": "Bonn", "answer_start": 21}], "is_impossible": False}


def content(*questions, context=CONTEXT):
    return {"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def malformed(**changes):
    """A question with some fields replaced; ... removes a field."""
    return {key: value for key, value in {**copy.deepcopy(GOOD), "id": "bad", **changes}.items() if value is not ...}


def write(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_questions_are_read_from_json_gz_and_parquet_alike(tmp_path):
    import pyarrow
    from pyarrow import parquet

    impossible = malformed(id="none", answers=[], is_impossible=True)
    file = write(tmp_path / "a.json", content(GOOD, impossible))
    packed = tmp_path / "a.json.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    rows = [
        {"id": q["id"], "title": "T", "context": CONTEXT, "question": q["question"]}
        | {"answers": {key: [a[key] for a in q["answers"]] for key in ("text", "answer_start")}}
        for q in (GOOD, impossible)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    expected = (
        Question("good", "Where?", CONTEXT, (Answer("Bonn", 21),), False, "T"),
        Question("none", "Where?", CONTEXT, (), True, "T"),
    )
    for name in ("a.json", "a.json.gz", "a.parquet"):
        assert read_squad(tmp_path / name).questions == expected, name


WRONG = {
    "missing key": malformed(question=...),
    "wrong type": malformed(answers="Bonn"),
    "answer not at answer_start": malformed(answers=[{"text": "Bonn", "answer_start": 3}]),
    "empty question": malformed(question=" "),
    "empty text": malformed(answers=[{"text": "", "answer_start": 0}]),
    "no answer": malformed(answers=[]),
    "impossible with answers": malformed(is_impossible=True),
    "duplicate id": malformed(id="good"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_malformed_question_is_rejected_by_id_or_skipped_and_counted(tmp_path, kind):
    wrong = WRONG[kind]
    file = write(tmp_path / "a.json", content(GOOD, wrong, malformed(id="last")))
    with pytest.raises(ValueError, match=rf"a\.json: question {wrong['id']}: ") as refused:
        read_squad(file)
    assert "\n" not in str(refused.value)
    read = read_squad(file, "skip")
    assert [q.id for q in read.questions] == ["good", "last"]
    assert read.skipped == {kind: 1}
    assert read.complaint("a.json") == f"a.json: of its malformed questions 1 skipped (1 x {kind})"


@pytest.mark.parametrize(
    ("wrong", "position", "kind"),
    [
        (malformed(id=...), r"data\[0\]\.paragraphs\[0\]\.qas\[1\]: it has no id", "missing key"),
        (malformed(id=7.5), r"question 7.5: id is 7.5, not a string", "wrong type"),
        (
            malformed(question="a \ud800 b"),
            r"question bad: its question has half a character, \\ud800, at 2",
            "half a character",
        ),
        ("text", r"qas\[1\]: question is \"text\", not an object", "wrong type"),
        (malformed(answers=[{"text": "Bonn"}]), 'question bad: the answer "Bonn" has no answer_start', "missing key"),
        (
            malformed(answers=[{"text": "Bonn", "answer_start": "21"}]),
            'question bad: answer_start is "21"',
            "wrong type",
        ),
        (
            malformed(answers=[{"text": "Köln", "answer_start": -31}]),
            "at answer_start -31",
            "answer not at answer_start",
        ),
    ],
)
def test_questions_without_an_id_are_named_by_position(tmp_path, wrong, position, kind):
    file = write(tmp_path / "a.json", content(GOOD, wrong))
    with pytest.raises(ValueError, match=position):
        read_squad(file)
    assert read_squad(file, "skip").skipped == {kind: 1}


def test_paragraphs_without_a_context_count_each_of_their_questions(tmp_path):
    value = content(GOOD)
    value["data"][0]["paragraphs"] += [{"qas": [malformed(id="x"), malformed(id="y")]}, {"context": "c"}, 3]
    value["data"].append({"title": "no paragraphs"})
    value["data"].append({"paragraphs": [{"context": " ", "qas": [malformed(id="z")]}]})
    file = write(tmp_path / "a.json", value)
    with pytest.raises(ValueError, match="question x: its paragraph has no context"):
        read_squad(file)
    assert read_squad(file, "skip").skipped == {"missing key": 4, "wrong type": 1, "empty context": 1}


def test_repair_moves_answers_to_the_nearest_match_and_numbers_duplicates(tmp_path):
    moved = malformed(id="moved", answers=[{"text": "n", "answer_start": 22}])
    missing = malformed(id="gone", answers=[{"text": "Mainz", "answer_start": 0}])
    file = write(tmp_path / "a.json", content(GOOD, malformed(id="good"), moved, missing))
    read = read_squad(file, "repair")
    assert [q.id for q in read.questions] == ["good", "good#2", "moved"]
    assert read.questions[2].answers == (Answer("n", 23),)
    assert read.repaired == {"duplicate id": 1, "answer not at answer_start": 1}
    assert read.skipped == {"answer not at answer_start": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"data": [\n  {"title": }]}', r"a\.json:2:13 is not valid JSON"),
        (b'{"data": "\xff"}', "not UTF-8 text"),
        (b"[]", "has no question"),
        (b'"text"', 'must be an object with a list "data", or a question per record'),
        (b'{"data": ' + b"[" * 100_000, "nested too deep"),
        (b'{"data": []}', "has no question"),
    ],
)
def test_a_file_not_in_squad_format_is_rejected_under_every_option(tmp_path, text, message):
    (tmp_path / "a.json").write_bytes(text)
    for option in ("refuse", "skip", "repair"):
        with pytest.raises(ValueError, match=message):
            read_squad(tmp_path / "a.json", option)


def test_damaged_files_are_rejected(tmp_path):
    whole = gzip.compress(json.dumps(content(GOOD)).encode())
    (tmp_path / "a.json.gz").write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="damaged or truncated"):
        read_squad(tmp_path / "a.json.gz")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        read_squad(tmp_path / "a.parquet")


def test_questions_for_prediction_need_no_answers(tmp_path):
    file = write(tmp_path / "a.json", content({"id": "q", "question": "Where?"}))
    with pytest.raises(ValueError, match="question q: it has no answers"):
        read_squad(file)
    (question,) = read_squad(file, need_answers=False).questions
    assert question == Question("q", "Where?", CONTEXT, title="T")


def test_a_hub_file_is_downloaded_by_its_address(monkeypatch, tmp_path):
    requests = []

    def download(repository, file, *, repo_type, revision):
        requests.append((repository, file, repo_type, revision))
        return str(tmp_path / "there")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert local_file("hf://datasets/google/xquad/xquad.de/validation.parquet") == tmp_path / "there"
    assert local_file("hf://datasets/a/b@v1/c.json") == tmp_path / "there"
    assert requests == [
        ("google/xquad", "xquad.de/validation.parquet", "dataset", None),
        ("a/b", "c.json", "dataset", "v1"),
    ]
    with pytest.raises(ValueError, match="hf://datasets/a is not an address on the hub"):
        local_file("hf://datasets/a")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: 1 / 0)
    with pytest.raises(ValueError, match="could not be loaded from the Hugging Face hub"):
        local_file("hf://datasets/a/b/c.json")


def entities_and_templates(questions):
    """Entities that a split's questions are about, and the question templates with the entity removed."""
    capital = [[w.strip("?:,") for w in q.question.split()[1:] if w[0].isupper()] for q in questions]
    split_entities = {" ".join(words) for words in capital}
    templates = {
        " ".join("_" if word.strip("?:,") in names else word for word in q.question.split())
        for q, names in zip(questions, capital, strict=True)
    }
    return split_entities, templates


def test_embedded_questions_are_valid_and_splits_do_not_overlap():
    splits = {name: read_content(make_squad(name, n), name).questions for name, n in (("train", 300), ("val", 60))}
    splits["test"] = read_content(make_squad("test", 60), "test").questions
    entities, templates = zip(*map(entities_and_templates, splits.values()), strict=True)
    assert len(entities[0]) > 400
    assert not entities[0] & (entities[1] | entities[2])
    assert not entities[1] & entities[2]
    assert not templates[0] & (templates[1] | templates[2])
    for questions in splits.values():
        assert 0.2 < sum(q.is_impossible for q in questions) / len(questions) < 0.4
        # Distractors: the passage often states the same attribute of another entity, so the question type alone
        # does not give the answer away.
        assert len({q.context for q in questions}) >= 60
    assert make_squad("val", 5) == make_squad("val", 5)
    assert make_squad("val", 5) != make_squad("val", 5, seed=2)
    answerable = read_content(make_squad("train", 30, unanswerable=False), "train").questions
    assert not any(q.is_impossible for q in answerable)
    named = {name: SquadSource(f"embedded:{name}").read().questions for name in ("val", "1.1/val")}
    assert any(q.is_impossible for q in named["val"])
    assert not any(q.is_impossible for q in named["1.1/val"])
    with pytest.raises(ValueError, match=r"embedded:1.1/dev does not exist; embedded are embedded:train, .*1.1/test"):
        SquadSource("embedded:1.1/dev").read()


@real_data
def test_real_files_are_read_completely(tmp_path):
    for language in ("en", "de", "es", "zh", "hi"):
        assert len(read_squad(REAL / f"xquad/xquad.{language}.json").questions) == 1190
    two = read_squad(REAL / "squad/dev-v2.0.part.json").questions
    assert (len(two), sum(q.is_impossible for q in two)) == (6078, 3168)
    tydi = REAL / "tydiqa/tydiqa.goldp.en.train.json.gz"
    # Its questions are numbered within their articles.
    with pytest.raises(ValueError, match=r"question 0: another question has the same id .*skip"):
        read_squad(tydi)
    read = read_squad(tydi, "repair")
    assert len(read.questions) == len({q.id for q in read.questions}) == 3696
    assert read.repaired == {"duplicate id": 3607}


def test_numbers_are_ids_and_an_empty_answer_of_an_impossible_question_is_none(tmp_path):
    empty = [malformed(id=n, answers=[{"text": "", "answer_start": n - 1}], is_impossible=True) for n in (0, 1)]
    questions = read_squad(write(tmp_path / "a.json", content({**GOOD, "id": 38544}, *empty))).questions
    assert [(q.id, len(q.answers), q.is_impossible) for q in questions] == [
        ("38544", 1, False),
        ("0", 0, True),
        ("1", 0, True),
    ]
    # Without the mark it is not clear what is meant.
    with pytest.raises(ValueError, match="question bad: its text is empty"):
        read_squad(write(tmp_path / "a.json", content(malformed(answers=[{"text": "", "answer_start": -1}]))))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "data.json", "lines.json", "a.jsonl.gz", "a.parquet"])
def test_a_question_per_record_is_read_as_the_hub_and_to_json_write_it(tmp_path, name):
    records = [
        {"id": "a", "title": "T", "context": CONTEXT, "question": "Where?"}
        | {"answers": {"text": ["Bonn"], "answer_start": [21]}},
        {"id": "b", "title": "T", "context": CONTEXT, "question": "Who?", "answers": {"text": [], "answer_start": []}},
    ]
    path = tmp_path / name
    if name.endswith("parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif name in ("a.json", "data.json"):
        write(path, records if name == "a.json" else {"data": records})
    else:
        lines = "".join(f"{json.dumps(record)}\n" for record in records).encode()
        path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    assert read_squad(path).questions == (
        Question("a", "Where?", CONTEXT, (Answer("Bonn", 21),), False, "T"),
        Question("b", "Who?", CONTEXT, (), True, "T"),
    )


@pytest.mark.parametrize(
    ("context", "text", "start", "found", "why"),
    [
        ("on 14\u00a0May", "14 May", 3, "14\u00a0May", "character 3, NO-BREAK SPACE and SPACE"),
        ("the Cafe\u0301 Sud", "Caf\u00e9", 4, "Cafe\u0301", "character 4, LATIN SMALL LETTER E and LATIN SMALL"),
        ("a zero\u200bwidth b", "zerowidth", 2, "zero\u200bwidth", "character 5, ZERO WIDTH SPACE and"),
        ("thin\u2009space", "thin space", 0, "thin\u2009space", "character 5, THIN SPACE and SPACE"),
    ],
)
def test_texts_that_look_the_same_are_told_apart_and_repaired(tmp_path, context, text, start, found, why):
    question = malformed(answers=[{"text": text, "answer_start": start}])
    path = write(tmp_path / "a.json", content(question, context=context))
    with pytest.raises(ValueError, match=f"they differ at {why}") as refused:
        read_squad(path)
    assert str(refused.value).replace(str(path), "").isascii() or "\u00e9" in text
    assert read_squad(path, "repair").questions[0].answers == (Answer(found, start),)


def test_repair_does_not_leave_out_every_question_without_an_answer(tmp_path):
    contradictory = [malformed(id=f"i{n}", is_impossible=True) for n in range(3)]
    path = write(tmp_path / "a.json", content(GOOD, *contradictory))
    with pytest.raises(ValueError, match="none of its 3 questions without an answer would be left"):
        read_squad(path, "repair")
    assert len(read_squad(path, "skip").questions) == 1
