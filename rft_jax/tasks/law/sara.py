"""SARA, statutory reasoning in tax law: what a taxpayer owes, and whether a statement holds.

The data are in https://nlp.jhu.edu/law/sara/sara.tar.gz (https://arxiv.org/abs/2005.05257; MIT by
LegalBench's READMEs): 100 sums (`cases/tax_case_7.pl`), 276 statements that the facts of a case
entail or contradict (`cases/s151_a_pos.pl`), nine sections of an edited tax code
(`statutes/source/section151`), and the split (`splits/train`, or `dataset/{train,test}.tsv` in the
repository's history).

Sums count in SARA where they are within 10 % or $5,000 (`code/train.py`). Always answering 0 passes
this on a quarter of them: it is a criterion to report (`official_grader`), not to train on.

All but two of the statements cite the subsection that they apply. `kinds="citation"` leaves it out
of the statement and asks for it: a task on the same cases, with graders of its own.
"""

import json
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
CITATION_INSTRUCTIONS = (
    "You are given sections of a tax statute, the facts of a case, and a statement in which the "
    "provision that it applies is left out. The statement may be wrong of these facts; name the "
    "provision all the same, with every level down to the one that is applied. Answer with one "
    'JSON object and nothing else: {"section": "...", "subsection": "..."}, in the form of '
    '{"section": "99", "subsection": "(x)(7)(Z)"}.'
)
_CITATION = re.compile(r"([Ss]ection) (\d+)((?:\(\w+\))+)")
_PART = re.compile(r"^% (Text|Question|Facts|Test)[ \t]*$", re.MULTILINE)
_SECTION = re.compile(r"^s(\d+)")


@dataclass(frozen=True)
class SaraData(ReleaseData):
    """The cases as items: `kind` is `sum` with an `amount`, or `statement` with a `label`.

    Of the kind `citation` an item has the `section` and `subsection` that the statement cites, and
    the `parent` of the subsection, one level up: "(d)(2)" of "(d)(2)(B)", "" of "(a)".

    Attributes:
        instructions: Open with a developer message, which a general model needs.
        kinds: The cases to take: sums, statements, both, or statements to find the citation of.
        statutes: Before a statement the section that it is about (`cited`, 0.4 to 7 kB) or all nine
            (`all`, 26 kB); a sum and a citation need all of them and have them in both; `none` of
            them.
    """

    instructions: bool = True
    kinds: Literal["both", "sum", "statement", "citation"] = "both"
    statutes: Literal["cited", "all", "none"] = "cited"

    def rows(
        self, release: Path, directory: Path | None = None
    ) -> Mapping[str, Sequence[JsonObject]]:
        """See `ReleaseData.rows`."""
        del directory
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
            side = split["valid" if is_test(item) else "train"]
            if self.kinds in ("both", item["kind"]):
                side.append(item)
            elif self.kinds == "citation" and item["kind"] == "statement":
                side += self._citation(item, sections)
        answers = [worked(item, worked_answer(item)) for item in split["train"]]
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
        return self._with_prompt(item, shown, INSTRUCTIONS)

    def _citation(self, item: JsonObject, sections: Mapping[str, str]) -> list[JsonObject]:
        """The statement with its citation left out; nothing where it cites no subsection."""
        found = _CITATION.search(item["asked"])
        if found is None:
            return []
        _, section, subsection = found.groups()
        own = {
            "case": item["case"],
            "text": item["text"],
            "kind": "citation",
            "asked": _CITATION.sub(r"\1 ___", item["asked"]),
            "section": section,
            "subsection": subsection,
            # Where there is no level above, no other answer is right in part.
            "parent": subsection[: subsection.rindex("(")] or subsection,
        }
        return [self._with_prompt(own, sections, CITATION_INSTRUCTIONS)]

    def _with_prompt(
        self, item: JsonObject, shown: Mapping[str, str], instructions: str
    ) -> JsonObject:
        law = [] if self.statutes == "none" else ["\n\n".join(shown.values())]
        asks = "Question" if item["kind"] == "sum" else "Statement"
        prompt = "\n\n".join([*law, f"Facts: {item['text']}", f"{asks}: {item['asked']}"])
        return {"messages": messages(prompt, instructions if self.instructions else ""), **item}


def right_answer(item: JsonObject) -> str:
    """What should stand behind the marker; of a citation the whole answer."""
    if item["kind"] == "citation":
        return json.dumps({name: item[name] for name in ("section", "subsection")})
    return f"${item['amount']}" if item["kind"] == "sum" else item["label"]


def worked_answer(item: JsonObject) -> str:
    """The whole answer, as it is asked for."""
    right = right_answer(item)
    return right if item["kind"] == "citation" else f"Answer: {right}"


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


def citation_grader() -> JsonObject:
    """0.2 for the section; with it 0.8 for the subsection, or 0.3 for the level above it."""
    return _citations("section * (0.2 + 0.8 * exact + 0.3 * (1 - exact) * above)")


def official_citation_grader() -> JsonObject:
    """Section and subsection both right, for `audit_grader`."""
    return _citations("section * exact") | {"name": "accuracy"}


def _citations(formula: str) -> JsonObject:
    def equal(name: str, field: str, key: str) -> JsonObject:
        check = {"type": "string_check", "name": name, "operation": "eq"}
        return check | {
            "input": f"{{{{sample.output_json.{field}}}}}",
            "reference": f"{{{{item.{key}}}}}",
        }

    parts = {
        "section": equal("section", "section", "section"),
        "exact": equal("exact", "subsection", "subsection"),
        "above": equal("above", "subsection", "parent"),
    }
    return {"type": "multi", "name": "citation", "calculate_output": formula, "graders": parts}


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
