"""TAT-QA's own metric: exact match and F1 of answers with their scales, in percent.

    python -m rft_jax.tasks.finance.official --gold dataset_raw/tatqa_dataset_dev.json \
        --predictions sample_prediction.json

Predictions are `{uid: [answer, scale]}`, an answer a text, a number or a list. As `tatqa_eval.py`
of https://github.com/NExTplusplus/TAT-QA defines it, with DROP's bags of words
(https://arxiv.org/abs/1903.00161); its peculiarities are kept: all spans of an answer are sorted
and joined to one text, and F1 is rounded to two decimals.

This file is also the source of a `python` grader (`tatqa.official_grader`): it runs in the sandbox,
where nothing of rft_jax is, and imports the standard library only.
"""

import argparse
import json
import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

JsonObject: TypeAlias = dict[str, Any]  # as in rft_jax.utils.types

_SCALES = {"hundred": 100, "thousand": 1e3, "million": 1e6, "billion": 1e9, "percent": 0.01}
_NOT_IN_NUMBERS = str.maketrans("", "", "'\"\\$€£¥%(),[]")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Match(NamedTuple):
    """Exact match and F1 of one question, or the mean of several, from 0 to 1."""

    exact: float
    f1: float


def evaluate(contexts: Iterable[JsonObject], predictions: Mapping[str, Sequence[object]]) -> Match:
    """The means over all questions; one without a prediction counts as 0.

    Args:
        contexts: As `tatqa.load_contexts` returns them.
        predictions: Answer and scale by the question's `uid`.
    """
    found: list[Match] = []
    for question in (question for context in contexts for question in context["questions"]):
        answer, scale = predictions.get(question["uid"], ("", ""))
        found.append(match(answer, scale, question))
    exact, f1 = (sum(values) / max(1, len(found)) for values in zip(*found, strict=True))
    return Match(exact, f1)


def match(prediction: object, scale: object, question: JsonObject) -> Match:
    """How well an answer fits a question's.

    Args:
        prediction: A text, a number or a list of them; empty: none.
        scale: `""`, `thousand`, `million`, `billion` or `percent`.
        question: With `answer`, `answer_type` and `scale`, of the release or of `tatqa`'s items.
    """
    predicted = prediction if isinstance(prediction, list) else [prediction]
    if not prediction:
        return Match(0, 0)
    kind, gold = question["answer_type"], question["answer"]
    gold = gold if isinstance(gold, list) else [gold]
    if kind == "count":
        gold = [int(gold[0])]
    wanted = _text_of(gold, question["scale"])
    given = [_text_of(predicted, str(scale or ""))]
    # 0.2342 without a scale is right where 23.42 percent are.
    only = str(predicted[0])
    if len(predicted) == 1 and not scale and "%" not in only and _is_number(only):
        if (value := _to_number(only)) is not None:
            given.append(f"{value:.4f}")
    best = max(_compare(text, wanted) for text in given)
    return Match(best.exact, best.exact) if kind in ("arithmetic", "count") else best


def grade(sample: JsonObject, item: JsonObject) -> float:
    """The exact match of an answer in the JSON that `tatqa` asks for; 0 for any other."""
    given = sample["output_json"]
    if not isinstance(given, dict):
        return 0.0
    return match(given.get("answer"), given.get("scale"), item).exact


def _text_of(answers: Sequence[object], scale: str) -> str:
    """The answers, sorted, with their scale: numbers multiplied by it, other texts before it."""
    texts = []
    # A list of numbers and texts cannot be sorted there; here it can.
    for answer in sorted(
        answers, key=lambda a: (isinstance(a, str), a if isinstance(a, str) else str(a))
    ):
        text = str(answer)
        number = _to_number(text) if _is_number(text) else None
        if number is None:
            texts.append(f"{text} {scale}" if scale else text)
        elif "%" in text:
            texts.append(f"{number:.4f}")
        else:
            texts.append(f"{round(number, 2) * _scale_of(scale):.4f}")
    return " ".join(texts)


def _compare(predicted: str, gold: str) -> Match:
    predicted, gold = _normalize(predicted), _normalize(gold)
    bags = set(predicted.split()), set(gold.split())
    common = len(bags[0] & bags[1])
    precision, recall = (common / len(bag) if bag else 1.0 for bag in bags)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return Match(float(predicted == gold), round(f1, 2))


def _normalize(text: str) -> str:
    """Words in lower case without punctuation and articles, numbers as Python writes them."""
    words = (_normalize_word(word) for word in text.lower().split(" "))
    return " ".join(word for word in words if word)


def _normalize_word(word: str) -> str:
    word = word if _is_number(word) else word.translate(_PUNCTUATION)
    if _is_number(word):
        word = str(_to_number(word))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", word).split())


def _is_number(text: str) -> bool:
    """Whether the first word is a number and the second, if there is one, a scale."""
    words = " ".join(word.translate(_NOT_IN_NUMBERS) for word in text.split()).split()
    try:
        number = float(words[0]) if words else math.nan
    except ValueError:
        return False
    return not math.isnan(number) and (len(words) < 2 or _scale_of(words[1]) != 1)


def _to_number(text: str) -> float | int | None:
    """The first number, with its scale, (12) negative and 12% divided by 100; to four decimals."""
    digits = re.search(r"([+-]?\d+(\.\d+)?)|([+-]?\.\d+)", text.translate(_NOT_IN_NUMBERS))
    if digits is None or not digits[1]:
        return None
    value = float(digits[1]) if "." in digits[1] else int(digits[1])
    word = re.search(r"[\d.]+\s?[a-zA-Z]+", text)
    scale = _scale_of(word[0]) if word else 1
    sign = -1 if re.search(r"\([\d.\s]+\)", text.strip()) else 1
    percent = 0.01 if re.search(r"[\d.\s]+%", text.strip()) else 1
    return round(value * scale * sign * percent, 4)


def _scale_of(text: str) -> float:
    return next((value for name, value in _SCALES.items() if name in text.lower()), 1)


def main() -> None:
    """Prints the metric of a file of predictions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gold", required=True, type=Path)
    parser.add_argument("--predictions", required=True, type=Path)
    options = parser.parse_args()
    contexts = json.loads(options.gold.read_text(encoding="utf-8"))
    found = evaluate(contexts, json.loads(options.predictions.read_text(encoding="utf-8")))
    print(json.dumps({"exact_match": 100 * found.exact, "f1": 100 * found.f1}))


if __name__ == "__main__":
    main()
