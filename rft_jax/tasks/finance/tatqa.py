"""TAT-QA, questions on tables and paragraphs of annual reports: numbers, spans and scales.

The data are `dataset_raw/tatqa_dataset_{train,dev,test_gold}.json` of
https://github.com/NExTplusplus/TAT-QA (data CC BY 4.0; https://arxiv.org/abs/2105.07624). The
official metric is in `official`.

Questions of one context share table and text: the split is by context. The gold answers of the test
file are public since January 2024.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rft_jax.tasks.finance import official
from rft_jax.tasks.release import ReleaseData, messages, read_text, worked
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

SCALES = ("", "thousand", "million", "billion", "percent")
NUMERIC = ("arithmetic", "count")
INSTRUCTIONS = (
    "You are given a table and paragraphs of a company's annual report, and a question. Answer "
    'with one JSON object and nothing else: {"answer": ["..."], "scale": "..."}. answer has the '
    "spans of the report that answer the question, word for word, or one number that you computed, "
    'rounded to two decimals; scale is that of the number: "", "thousand", "million", "billion" or '
    '"percent".'
)


@dataclass(frozen=True)
class TatqaData(ReleaseData):
    """The questions as items, with the keys `answer` (texts), `scale`, `kind` and `uid`.

    `kind` is `number` or `span`; of a number, `number` is its value in its scale, and `fraction`
    what percent mean.

    Attributes:
        instructions: Open with a developer message, which a general model needs.
        source: `train`, validated on `dev`; or `dev`, split by context, where the training file is
            not at hand.
        valid_contexts: So many contexts for `valid`, of 278 in `dev`.
        data_seed: The seed of the split.
    """

    instructions: bool = True
    source: Literal["train", "dev"] = "train"
    valid_contexts: int = 78
    data_seed: int = 0

    def rows(
        self, release: Path, directory: Path | None = None
    ) -> Mapping[str, Sequence[JsonObject]]:
        """See `ReleaseData.rows`."""
        del directory
        dev = load_contexts(release, "dev")
        order = random.Random(f"tatqa {self.data_seed}").sample(range(len(dev)), len(dev))
        if not 0 < self.valid_contexts <= len(dev) - (self.source == "dev"):
            raise InputError(f"data.valid_contexts: must be from 1 to {len(dev) - 1}")
        valid = [dev[i] for i in order[: self.valid_contexts]]
        others = [dev[i] for i in order[self.valid_contexts :]]
        train = load_contexts(release, "train") if self.source == "train" else others
        items = [item for context in train for item in self.items(context)]
        return {
            "train": items,
            "valid": [item for context in valid for item in self.items(context)],
            "answers": [worked(item, right_answer(item)) for item in items],
        }

    def items(self, context: JsonObject) -> list[JsonObject]:
        """The questions of one context."""
        rows = (
            " | ".join(" ".join(cell.split()) for cell in row) for row in context["table"]["table"]
        )
        texts = [p["text"] for p in sorted(context["paragraphs"], key=lambda p: p["order"])]
        report = "\n".join([*rows, "", *texts])
        return [
            {
                "messages": messages(
                    f"{report}\n\nQuestion: {question['question']}",
                    INSTRUCTIONS if self.instructions else "",
                ),
                "uid": question["uid"],
                "context": context["table"]["uid"],
                **_reference(question),
            }
            for question in context["questions"]
        ]


def load_contexts(release: Path, split: str) -> list[JsonObject]:
    """The contexts of `train`, `dev` or `test_gold`: a table, paragraphs and questions each.

    Raises:
        InputError: The file is missing or is no JSON of this form.
    """
    path = release / "dataset_raw" / f"tatqa_dataset_{split}.json"
    try:
        contexts = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: is not JSON; download it again") from None
    for number, context in enumerate(contexts, 1):
        if not isinstance(context, dict) or {"table", "paragraphs", "questions"} - context.keys():
            raise InputError(f"{path}: context {number} lacks table, paragraphs or questions")
    return contexts


def right_answer(item: JsonObject) -> str:
    """The answer's JSON as it is asked for."""
    return json.dumps({"answer": item["answer"], "scale": item["scale"]}, ensure_ascii=False)


def grader() -> JsonObject:
    """The value of a number, the overlap of spans, and the scale.

    Without the right scale a right number keeps 0.3 and spans earn nothing. A number within 5 % has
    up to 0.3, and a fraction where percent are asked for is right, as in the official metric.
    """
    given = "{{sample.output_json.answer[0]}}"

    def number(name: str, reference: str, **tolerance: float) -> JsonObject:
        fields = {"type": "number", "name": name, "which": "first", "accounting": True}
        return fields | {"percent": "number", "input": given, "reference": reference} | tolerance

    parts: JsonObject = {
        "scale": {
            "type": "string_check",
            "name": "scale",
            "operation": "eq",
            "input": "{{sample.output_json.scale}}",
            "reference": "{{item.scale}}",
        },
        "exact": number("exact", "{{item.number}}", absolute=0.005),
        "near": number("near", "{{item.number}}", absolute=0.005, partial_relative=0.05),
        "fraction": number("fraction", "{{item.fraction}}", absolute=0.00005),
    }
    spans: JsonObject = {
        "overlap": {
            "type": "list_overlap",
            "name": "overlap",
            "input": "{{sample.output_json.answer}}",
            "reference": "{{item.answer}}",
            "metric": "f1",
        },
        "words": {
            "type": "text_similarity",
            "name": "words",
            "evaluation_metric": "rouge_1",
            "input": "{{sample.output_json.answer}}",
            "reference": "{{item.text}}",
        },
    }
    numbers = {
        "type": "multi",
        "name": "number",
        "calculate_output": "(0.3 + 0.7 * scale) * max(exact, fraction) + "
        "scale * 0.3 * near * (1 - max(exact, fraction))",
        "graders": parts,
    }
    texts = {
        "type": "multi",
        "name": "span",
        "calculate_output": "scale * max(overlap, 0.9 * words)",
        "graders": {"scale": parts["scale"]} | spans,
    }
    kinds = {"number": numbers, "span": texts}
    return {"type": "switch", "name": "tatqa", "on": "{{item.kind}}", "graders": kinds}


def official_grader() -> JsonObject:
    """The exact match of `official`, on the host, for `audit_grader`."""
    source = Path(official.__file__).read_text(encoding="utf-8")
    return {"type": "python", "name": "exact_match", "source": source}


def _reference(question: JsonObject) -> JsonObject:
    """What the grader and the official metric compare with."""
    answer, kind, scale = question["answer"], question["answer_type"], question["scale"]
    own = {"question": question["question"], "answer_type": kind, "scale": scale}
    if kind not in NUMERIC:
        texts = [str(text) for text in (answer if isinstance(answer, list) else [answer])]
        return own | {"kind": "span", "answer": texts, "text": " ".join(texts)}
    value = float(answer[0] if isinstance(answer, list) else answer)
    fraction = value / 100 if scale == "percent" else value
    text = f"{value:.10g}"
    return own | {"kind": "number", "answer": [text], "number": value, "fraction": fraction}
