"""Exact match and F1, written directly from the definitions in the SQuAD and MLQA papers.

A reference for tests: question by question, sharing no code with the package.
"""

import string
import unicodedata

ARTICLES = {
    None: ["a", "an", "the"],
    "en": ["a", "an", "the"],
    "de": ["ein", "eine", "einen", "einem", "eines", "einer", "der", "die", "das", "den", "dem", "des"],
    "es": ["un", "una", "unos", "unas", "el", "la", "los", "las"],
}


def words(text, language=None):
    characters = []
    for character in text.lower():
        if character in string.punctuation:
            continue
        if language is not None and unicodedata.category(character)[0] == "P":
            continue
        characters.append(character)
    text = "".join(characters)
    # An article is a whole word, between non-word characters.
    pieces, word = [], ""
    for character in text + " ":
        if character.isalnum() or character == "_":
            word += character
        else:
            pieces.append(" " if word in ARTICLES.get(language, []) else word)
            pieces.append(character)
            word = ""
    text = "".join(pieces)
    if language == "zh":
        text = "".join(f" {c} " if "\u4e00" <= c <= "\u9fa5" else c for c in text)
    return text.split()


def overlap(predicted, gold):
    left = list(gold)
    common = 0
    for word in predicted:
        if word in left:
            left.remove(word)
            common += 1
    if common == 0:
        return 0
    precision, recall = common / len(predicted), common / len(gold)
    return 2 * precision * recall / (precision + recall)


def squad_11(questions, predictions, language=None):
    exact = f1 = 0
    for id, golds in questions:
        if id in predictions:
            predicted = words(predictions[id], language)
            exact += max(words(gold, language) == predicted for gold in golds)
            f1 += max(overlap(predicted, words(gold, language)) for gold in golds)
    return {"exact_match": 100.0 * exact / len(questions), "f1": 100.0 * f1 / len(questions)}


def squad_20_of_one_question(prediction, golds):
    predicted = words(prediction)
    golds = [words(gold) for gold in golds if words(gold)] or [[]]
    exact = max(int(predicted == gold) for gold in golds)
    f1 = max(overlap(predicted, gold) if predicted and gold else int(predicted == gold) for gold in golds)
    return exact, f1


def squad_20(questions, predictions, odds=None, threshold=1.0):
    chosen = [(id, golds) for id, golds in questions if id in predictions]
    scores = {id: squad_20_of_one_question(predictions[id], golds) for id, golds in chosen}
    metrics = {}
    for prefix, wanted in (("", None), ("HasAns_", True), ("NoAns_", False)):
        group = [(id, golds) for id, golds in chosen if wanted is None or bool(golds) == wanted]
        for index, name in enumerate(("exact", "f1")):
            values = []
            for id, golds in group:
                silent = (0.0 if odds is None else odds[id]) > threshold
                values.append(float(len(golds) == 0) if silent else scores[id][index])
            if group:
                metrics[prefix + name] = 100.0 * sum(values) / len(group)
        if group:
            metrics[prefix + "total"] = len(group)
    if odds is not None:
        has = {id: bool(golds) for id, golds in questions}
        for index, name in enumerate(("exact", "f1")):
            # Start with everything unanswered, then answer the questions one by one by rising odds.
            score = best = len([1 for answered in has.values() if not answered])
            best_threshold = 0.0
            for id, value in sorted(odds.items(), key=lambda item: item[1]):
                if id in scores:
                    score += scores[id][index] if has[id] else (-1 if predictions[id] else 0)
                    if score > best:
                        best, best_threshold = score, value
            metrics[f"best_{name}"], metrics[f"best_{name}_thresh"] = 100.0 * best / len(scores), best_threshold
    return metrics
