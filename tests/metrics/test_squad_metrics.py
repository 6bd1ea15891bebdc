"""SQuAD metrics equal a naive version of the official evaluations to the last digit."""

import math
import random
from random import Random

import naive_squad as naive
import pytest

from lmrecipes.metrics.squad import LANGUAGES, Gold, exact_match, f1, normalizer, squad11, squad20

WORDS = [
    "The",
    "a",
    "an",
    "Norman",
    "norman.",
    "10th",
    "century",
    "U.S.",
    "café",
    "“quoted”",
    "an-other",
    "der",
    "Eine",
]
WORDS += [
    "el",
    "北京",
    "大学",
    "x北y",
    "-",
    "!",
    "的",
    "la_the",
    "the,a",
    "é",
    "—",
    "Straße",
    "I\u0307",
    "$5",
    "a\u00a0the",
]


def some_data(seed, n=60, unanswerable=True):
    chance = random.Random(seed)

    def text(least=1):
        return " ".join(chance.choices(WORDS, k=chance.randint(least, 4)))

    questions, predictions, odds = [], {}, {}
    for number in range(n):
        golds = [] if unanswerable and chance.random() < 0.4 else [text() for _ in range(chance.randint(1, 3))]
        questions.append((f"q{number}", golds))
        predictions[f"q{number}"] = chance.choice([text(0), *golds, *[g.upper() for g in golds], ""])
        # Few distinct odds, so that many are tied.
        odds[f"q{number}"] = chance.choice([-2, -0.5, 0.0, 0.25, 3.5])
    shuffled = list(odds.items())
    chance.shuffle(shuffled)
    return questions, predictions, dict(shuffled)


def golds(questions):
    return [Gold(id, tuple(answers)) for id, answers in questions]


@pytest.mark.parametrize("seed", range(40))
def test_squad_20_equals_the_official_evaluation_to_the_last_digit(seed):
    questions, predictions, odds = some_data(seed)
    assert squad20(golds(questions), predictions) == naive.squad_20(questions, predictions)
    for threshold in (1.0, 0.0, -1.0):
        ours = squad20(golds(questions), predictions, odds, threshold)
        assert ours == naive.squad_20(questions, predictions, odds, threshold)
        assert list(ours) == list(naive.squad_20(questions, predictions, odds, threshold))


@pytest.mark.parametrize("seed", range(20))
def test_squad_11_equals_the_official_evaluation_to_the_last_digit(seed):
    questions, predictions, _ = some_data(seed, unanswerable=False)
    assert squad11(golds(questions), predictions) == naive.squad_11(questions, predictions)


@pytest.mark.parametrize("language", ["en", "de", "es", "zh"])
def test_other_languages_are_normalized_as_in_mlqa(language):
    for seed in range(10):
        questions, predictions, _ = some_data(seed, unanswerable=False)
        assert squad11(golds(questions), predictions, language) == naive.squad_11(questions, predictions, language)


@pytest.mark.filterwarnings("ignore")
def test_squad_11_agrees_with_torchmetrics():
    from torchmetrics.functional.text import squad

    questions, predictions, _ = some_data(3, unanswerable=False)
    # If nothing remains of an answer after normalization, torchmetrics follows SQuAD 2.0.
    questions = [(id, a) for id, a in questions if all(map(normalizer(), [*a, predictions[id]]))]
    assert len(questions) > 20
    predicted = [{"prediction_text": text, "id": id} for id, text in predictions.items() if id in dict(questions)]
    target = [{"answers": {"answer_start": [0] * len(a), "text": a}, "id": id} for id, a in questions]
    theirs = squad(predicted, target)
    ours = squad11(golds(questions), predictions)
    assert {name: float(value) for name, value in theirs.items()} == pytest.approx(ours, rel=1e-6)


def test_missing_predictions_are_wrong_in_11_and_refused_in_20_unless_they_are_to_count_as_wrong():
    questions = [Gold("a", ("x",)), Gold("b", ("y",))]
    assert squad11(questions, {"a": "x"}) == {"exact_match": 50.0, "f1": 50.0}
    with pytest.raises(ValueError, match="1 of 2 questions have no prediction: b"):
        squad20(questions, {"a": "x"})
    with pytest.raises(ValueError, match="none of the 2 questions has a prediction"):
        squad20(questions, {"other": "x"})


@pytest.mark.parametrize("seed", range(20))
def test_a_missing_prediction_counts_as_wrong_at_every_threshold(seed):
    random = Random(seed)
    questions = [Gold(str(i), () if random.random() < 0.5 else ("x",)) for i in range(30)]
    predictions = {gold.id: random.choice(["x", "y", ""]) for gold in questions if random.random() < 0.7}
    odds = {id: random.gauss(0, 1) for id in predictions}
    metrics = squad20(questions, predictions, odds, missing_are_wrong=True)
    right = sum(predictions.get(g.id, "wrong") == (g.answers[0] if g.answers else "") for g in questions)
    predicted = [gold for gold in questions if gold.id in predictions]
    best = max(
        sum(not g.answers if odds[g.id] > limit else predictions[g.id] == (*g.answers, "")[0] for g in predicted)
        for limit in (-math.inf, *odds.values())
    )
    assert metrics["total"] == 30
    assert squad20(questions, predictions, missing_are_wrong=True)["exact"] == pytest.approx(100 * right / 30)
    assert metrics["best_exact"] == pytest.approx(100 * best / 30)


def test_the_first_of_equally_good_thresholds_is_reported():
    questions = [Gold("a", ("x",)), Gold("b", ()), Gold("c", ("y",))]
    metrics = squad20(questions, {"a": "x", "b": "z", "c": "y"}, {"c": 2.0, "a": -1.0, "b": 0.5})
    # Answering only a, or all three, gets two right.
    assert metrics["best_exact"] == pytest.approx(200 / 3)
    assert metrics["best_exact_thresh"] == -1.0


def test_empty_answers_have_no_overlap_in_11_but_are_equal_in_20():
    assert exact_match("the", "a") == 1
    assert f1("the", "a") == 0
    assert squad20([Gold("q", ("the",))], {"q": ""})["f1"] == 100.0


@pytest.mark.parametrize(
    ("language", "text", "normal"),
    [
        (None, "The “Great” Wall…s", "“great” wall…s"),
        ("en", "The “Great” Wall…s", "great walls"),
        ("de", "Die Straße des 17. Juni", "straße 17 juni"),
        ("zh", "「北京」大学 ABC公司", "北 京 大 学 abc 公 司"),
        ("hi", "भारत, का।", "भारत का"),
        ("vi", "Cái nhà của tôi", "nhà tôi"),
        ("ar", "\u0627\u0644\u0643\u062a\u0627\u0628", "\u0643\u062a\u0627\u0628"),
        ("ru", "«Москва» - a город", "москва a город"),
    ],
)
def test_normalization_by_language(language, text, normal):
    assert normalizer(language)(text) == normal


def test_an_unknown_language_is_rejected_with_the_known_ones():
    with pytest.raises(ValueError, match="language is 'xx'; it must be one of ar, de") as refused:
        normalizer("xx")
    assert all(language in str(refused.value) for language in LANGUAGES)
