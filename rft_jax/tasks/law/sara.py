"""SARA, statutory reasoning in tax law: what a taxpayer owes, and whether a statement holds.

The data are in https://nlp.jhu.edu/law/sara/sara.tar.gz (https://arxiv.org/abs/2005.05257; MIT by
LegalBench's READMEs): 100 sums (`cases/tax_case_7.pl`), 276 statements that the facts of a case
entail or contradict (`cases/s151_a_pos.pl`), nine sections of an edited tax code
(`statutes/source/section151`), and the split (`splits/train`, or `dataset/{train,test}.tsv` in the
repository's history).

Sums count in SARA where they are within 10 % or $5,000 (`code/train.py`). Always answering 0 passes
this on a quarter of them: it is a criterion to report (`official_grader`), not to train on.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rft_jax.tasks.release import ReleaseData, messages, read_text, worked
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

LABELS = ("Entailment", "Contradiction")
INSTRUCTIONS = (
    "You are given sections of a tax statute, the facts of a case, and a question or a statement. "
    "Apply the statute as it is written here; it differs from the law in force. Of a question give "
    "the amount in dollars; of a statement say whether it follows from statute and facts "
    "(Entailment) or not (Contradiction). Reason briefly and end with one line, `Answer: ` and the "
    "amount or the word."
)
_PART = re.compile(r"^% (Text|Question|Facts|Test)[ \t]*$", re.MULTILINE)
_SECTION = re.compile(r"^s(\d+)")


@dataclass(frozen=True)
class SaraData(ReleaseData):
    """The cases as items: `kind` is `sum` with an `amount`, or `statement` with a `label`.

    Attributes:
        instructions: Open with a developer message, which a general model needs.
        kinds: The cases to take.
        statutes: Before a statement the section that it is about (`cited`, 0.4 to 7 kB) or all nine
            (`all`, 26 kB); a sum needs all of them and has them in both; `none` of them.
    """

    instructions: bool = True
    kinds: Literal["both", "sum", "statement"] = "both"
    statutes: Literal["cited", "all", "none"] = "cited"

    def rows(self, release: Path) -> Mapping[str, Sequence[JsonObject]]:
        """See `ReleaseData.rows`."""
        sections = {
            path.name.removeprefix("section"): read_text(path).strip()
            for path in sorted((release / "statutes" / "source").glob("section*"))
        }
        if not sections:
            raise InputError(f"{release}/statutes/source: has no section; is the release complete?")
        files = sorted((release / "cases").glob("*.pl"))
        items = [self._item(path, sections) for path in files]
        is_test = _read_split(release)
        split: dict[str, list[JsonObject]] = {"train": [], "valid": []}
        for item in items:
            if self.kinds in ("both", item["kind"]):
                split["valid" if is_test(item) else "train"].append(item)
        answers = [worked(item, f"Answer: {right_answer(item)}") for item in split["train"]]
        return split | {"answers": answers}

    def _item(self, path: Path, sections: Mapping[str, str]) -> JsonObject:
        facts, question = _text_and_question(path)
        item: JsonObject = {"case": path.stem, "text": facts}
        if path.stem.startswith("tax_case"):
            asked, _, amount = question.rpartition("$")
            if not re.fullmatch(r"[\d,]+", amount):
                raise InputError(f"{path}: the question does not end with an amount of dollars")
            item |= {"kind": "sum", "asked": asked.strip(), "amount": int(amount.replace(",", ""))}
            shown = sections
        else:
            asked, _, label = question.rpartition(" ")
            cited = _SECTION.match(path.stem)
            if label not in LABELS or cited is None or cited[1] not in sections:
                raise InputError(f"{path}: is neither a sum nor a statement of a known section")
            item |= {"kind": "statement", "asked": asked, "label": label, "section": cited[1]}
            shown = {cited[1]: sections[cited[1]]} if self.statutes == "cited" else sections
        law = [] if self.statutes == "none" else ["\n\n".join(shown.values())]
        asks = "Question" if item["kind"] == "sum" else "Statement"
        prompt = "\n\n".join([*law, f"Facts: {facts}", f"{asks}: {item['asked']}"])
        return {"messages": messages(prompt, INSTRUCTIONS if self.instructions else ""), **item}


def right_answer(item: JsonObject) -> str:
    """What should stand behind the marker."""
    return f"${item['amount']}" if item["kind"] == "sum" else item["label"]


def grader() -> JsonObject:
    """Sums: 0.7 within a dollar and 0.3 that falls to 0 at 10 %; statements: the right word."""
    sums = {
        "type": "multi",
        "name": "sum",
        "calculate_output": "0.7 * exact + 0.3 * near",
        "graders": {
            "exact": _NUMBER | {"name": "exact", "absolute": 1},
            "near": _NUMBER | {"name": "near", "absolute": 1, "partial_relative": 0.1},
        },
    }
    return _by_kind(sums)


def official_grader() -> JsonObject:
    """SARA's own criterion of sums, for `audit_grader`; statements by accuracy."""
    return _by_kind(_NUMBER | {"name": "official", "absolute": 5000, "relative": 0.1})


_NUMBER: JsonObject = {
    "type": "number",
    "input": "{{sample.output_text}}",
    "reference": "{{item.amount}}",
    "which": "marked",
    "marker": "Answer:",
}


def _by_kind(sums: JsonObject) -> JsonObject:
    statements = {
        "type": "choice",
        "name": "statement",
        "input": "{{sample.output_text}}",
        "choices": list(LABELS),
        "reference": "{{item.label}}",
        "ignore_case": True,
    }
    kinds = {"sum": sums, "statement": statements}
    return {"type": "switch", "name": "sara", "on": "{{item.kind}}", "graders": kinds}


def _text_and_question(path: Path) -> tuple[str, str]:
    parts = _PART.split(read_text(path))
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    if not {"Text", "Question"} <= found.keys():
        raise InputError(f"{path}: has no '% Text' or no '% Question'; is it a case of SARA's?")
    text, question = (
        " ".join(line.removeprefix("%").strip() for line in found[name].splitlines()).strip()
        for name in ("Text", "Question")
    )
    return text, question


class _Split:
    """Whether a case is a test case: by its name (`splits/`) or its texts (`dataset/`)."""

    def __init__(self, names: set[str], texts: set[tuple[str, str]]) -> None:
        self._names, self._texts = names, texts

    def __call__(self, item: JsonObject) -> bool:
        return item["case"] in self._names or (item["text"], item["asked"]) in self._texts


def _read_split(release: Path) -> _Split:
    if (named := release / "splits" / "test").is_file():
        return _Split({Path(name).stem for name in read_text(named).split()}, set())
    table = read_text(release / "dataset" / "test.tsv")
    fields = [line.split("\t") for line in table.splitlines() if line]
    return _Split(set(), {(of[0].strip(), _asked(of[1], of[2])) for of in fields if len(of) == 3})


def _asked(question: str, answer: str) -> str:
    return question.strip().removesuffix(answer).strip()
