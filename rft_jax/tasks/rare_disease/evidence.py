"""A case with the evidence beside it: candidate genes under letters, and what points to each.

    female, 6 years
    present: High forehead; Pes planus

    Candidates:
    A. FBN1: Pes planus
    B. KMT2D: High forehead; Pes planus

Letters are dealt at random: in the ranker's order, "A, B, C, ..." would earn what the ranker earns
without any model. Absent findings and counts of patients are not shown. What a model has to be
ahead of is the ranker's own order, not its base; `copies_ranker` says how often its answers begin
with the ranker's first.
"""

import hashlib
import json
import random
from collections.abc import Sequence

from rft_jax.graders.rank import CREDIT
from rft_jax.tasks.rare_disease.candidates import Candidate
from rft_jax.tasks.rare_disease.hpo import Ontology
from rft_jax.tasks.rare_disease.phenopackets import Case
from rft_jax.tasks.rare_disease.prompts import PromptOptions, case_messages, shown
from rft_jax.utils.types import JsonObject

LETTERS = "ABCDEFGHIJKLMNOPQRST"
# The right answer where the gene is no candidate, which none gives: such a case is a miss.
NO_LETTER = "(the gene is no candidate)"
INSTRUCTIONS = (
    "You are given a patient with a suspected rare monogenic disease, and candidate genes, each "
    "with the patient's findings that are known of it. The candidates are in random order. Weigh "
    "how specific the findings are, what is missing, and what you know of the genes. Answer with "
    'one JSON object and nothing else: {"explanation": "...", "ranking": ["...", ...]}, where '
    "explanation is brief and ranking lists candidates by their letters, the likeliest first."
)
PROMPT = PromptOptions(present_only=True)


def dealt(case: Case, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates in the order of their letters; the same case has the same."""
    seed = hashlib.sha256(f"letters\0{case.case_id}".encode()).digest()
    # Sorted first, so that the ranker's order plays no part.
    by_name = sorted(candidates, key=lambda candidate: candidate.gene)
    return random.Random(seed).sample(by_name, len(by_name))


def item(
    case: Case, candidates: Sequence[Candidate], ontology: Ontology, instructions: bool = True
) -> JsonObject:
    """The row of a case.

    Args:
        case: A scorable one.
        candidates: The likeliest first; at most as many as there are letters.
        ontology: Has the findings' labels.
        instructions: Open with a developer message that states task and answer format.

    Returns:
        The messages; `gene`; its `letter`, `NO_LETTER` if it is no candidate; `ranked`, the letters
        in the ranker's order, and `ranker_first`, the first of them.
    """
    placed = dealt(case, candidates)
    letter_of = {c.gene: letter for letter, c in zip(LETTERS, placed, strict=False)}
    visible = shown(case, PROMPT).present
    lines = []
    for candidate in placed:
        pointing = {ontology.labels[term] for term in candidate.support}
        named = [label for label in visible if label in pointing]
        findings = "; ".join(named) or "none of the findings"
        lines.append(f"{letter_of[candidate.gene]}. {candidate.gene}: {findings}")
    (user,) = case_messages(case, PROMPT)
    prompt = user | {"content": "\n".join([user["content"], "", "Candidates:", *lines])}
    developer = [{"role": "developer", "content": INSTRUCTIONS}] if instructions else []
    ranked = [letter_of[candidate.gene] for candidate in candidates]
    return {
        "messages": [*developer, prompt],
        "gene": case.gene,
        "letter": letter_of.get(case.gene, NO_LETTER),
        "ranked": ranked,
        "ranker_first": ranked[0],
        "case_id": case.case_id,
        "pmid": " ".join(case.pmids),
    }


def answer(explanation: str, ranking: Sequence[str]) -> str:
    """The answer's JSON."""
    return json.dumps({"explanation": explanation, "ranking": list(ranking)})


def grader() -> JsonObject:
    """Partial credit by the rank of the right letter in a list; `copies_ranker` is only told."""
    rank = {
        "type": "rank",
        "name": "letter",
        "input": "{{sample.output_json.ranking}}",
        "reference": "{{item.letter}}",
        "credit": list(CREDIT[: len(LETTERS)]),
        "max_items": len(LETTERS),
    }
    copies = {
        "type": "string_check",
        "name": "copies_ranker",
        "operation": "eq",
        "input": "{{sample.output_json.ranking[0]}}",
        "reference": "{{item.ranker_first}}",
    }
    return {
        "type": "multi",
        "name": "evidence",
        "calculate_output": "letter",
        "graders": {"letter": rank, "copies_ranker": copies},
    }


def official_grader() -> JsonObject:
    """The right gene first, 1 or 0, for `audit_grader`."""
    return grader()["graders"]["letter"] | {"name": "first", "credit": [1.0]}
