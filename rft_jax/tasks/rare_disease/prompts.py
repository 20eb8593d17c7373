"""A case as a prompt, the answer's format, and the grader that scores it.

`item` makes the JSON-lines row of a case; `render` the text that real and simulated patients share:

    female, 6 years
    present: High forehead; Pes planus
    absent: Flat face

The gene, every id, the publication and the variants stay out of `messages`. Terms are shuffled,
because their order in the file follows the curator's template.
"""

import hashlib
import json
import random
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from rft_jax.graders.rank import CREDIT
from rft_jax.tasks.rare_disease.phenopackets import Case
from rft_jax.utils.types import JsonObject

MAX_GENES = 20

INSTRUCTIONS = (
    "You are given a patient with a suspected rare monogenic disease: sex, age, findings that are "
    "present and findings that were looked for and are absent. Name the genes most likely to be "
    "responsible, the likeliest first. Answer with one JSON object and nothing else: "
    '{"explanation": "...", "genes": ["SYMBOL", ...]}, where explanation says briefly which '
    f"findings point to which gene and genes lists at most {MAX_GENES} different HGNC symbols."
)


@dataclass(frozen=True)
class PromptOptions:
    """What a prompt shows.

    Attributes:
        max_present: At most so many present findings; a fixed choice by case is shown.
        max_absent: Likewise for absent findings.
        present_only: Leave the absent findings out (they carry the curator's suspicion).
        instructions: Open with a developer message that states task and answer format, which a
            general language model needs and a model trained on this format does not.
    """

    max_present: int = 20
    max_absent: int = 10
    present_only: bool = False
    instructions: bool = False


def render(
    sex: str, age: str, present: Sequence[str], absent: Sequence[str], options: PromptOptions
) -> list[dict[str, str]]:
    """The messages for a patient, findings in the order given and already within the caps."""
    lines = [", ".join(filter(None, (sex, age))) or "patient", "present: " + "; ".join(present)]
    if absent and not options.present_only:
        lines.append("absent: " + "; ".join(absent))
    messages = [{"role": "user", "content": "\n".join(lines)}]
    if options.instructions:
        messages.insert(0, {"role": "developer", "content": INSTRUCTIONS})
    return messages


def age_text(years: float | None) -> str:
    """An age as a clinician writes it: "6 years", "5 months", "newborn"; "" if unknown."""
    if years is None:
        return ""
    months = int(years * 12 + 1e-6)
    if months == 0:
        return "newborn"
    if months < 24:
        return f"{months} month{'s' * (months > 1)}"
    return f"{months // 12} years"


class Shown(NamedTuple):
    """Labels of the findings that a prompt shows, in its order."""

    present: list[str]
    absent: list[str]


def shown(case: Case, options: PromptOptions) -> Shown:
    """What the prompt of a real case shows; the same case gives the same findings."""
    # Two ids can share a label; a finding is never called present and absent at once.
    observed = {label for _, label in case.present}
    looked_for = set() if options.present_only else {label for _, label in case.absent} - observed
    return Shown(
        _choose(case, "present", observed, options.max_present),
        _choose(case, "absent", looked_for, options.max_absent),
    )


def case_messages(case: Case, options: PromptOptions) -> list[dict[str, str]]:
    """The messages of a real case; the same case gives the same messages."""
    age = case.age_note or age_text(case.age_years)
    return render(case.sex, age, *shown(case, options), options)


def _choose(case: Case, kind: str, labels: Set[str], limit: int) -> list[str]:
    """At most `limit` labels, shuffled by the case's id; the file's order plays no part."""
    seed = hashlib.sha256(f"{kind}\0{case.case_id}".encode()).digest()
    return random.Random(seed).sample(sorted(labels), len(labels))[:limit]


def item(case: Case, options: PromptOptions, aliases: Sequence[str] = ()) -> JsonObject:
    """The row of a scorable case: messages, and what the grader and the split need beside them."""
    return {
        "messages": case_messages(case, options),
        "gene": case.gene,
        "aliases": list(aliases),
        "case_id": case.case_id,
        "pmid": " ".join(case.pmids),
    }


def answer(explanation: str, genes: Sequence[str], genes_first: bool = False) -> str:
    """The answer's JSON. The explanation is written before the genes are ranked, or else behind."""
    parts = {"explanation": explanation, "genes": list(genes)}
    if genes_first:
        parts = dict(reversed(parts.items()))
    return json.dumps(parts, ensure_ascii=False)


def grader() -> JsonObject:
    """The rank grader of this task, as the JSON that a run's configuration holds."""
    return {
        "type": "rank",
        "name": "gene_rank",
        "input": "{{sample.output_json.genes}}",
        "reference": "{{item.gene}}",
        "aliases": "{{item.aliases}}",
        "credit": list(CREDIT),
        "max_items": MAX_GENES,
        "normalize": "names",
    }
