"""Whether explanations hold: are the findings that they name those of the gene that they name?

    python -m rft_jax.tasks.rare_disease.explanations --workdir runs/rare_disease --stage genes_seen

An explanation of a direct answer reads "GENE fits FINDING and FINDING." It holds if GENE is the
first of the answer's list, each finding is the patient's, and each is annotated to the gene, itself
or as what is more general than an annotation. The annotations are those that the run learned from,
in `WORKDIR/data/annotated.jsonl`; the answers are those in `WORKDIR/STAGE/cases.jsonl`.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Literal

from rft_jax.tasks.rare_disease.ranking import BEST
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonMapping

Verdict = Literal["holds", "not_annotated", "not_of_patient", "other_gene", "names_nothing"]


def judge(answer: str, present: Set[str], annotated: Mapping[str, Set[str]]) -> Verdict:
    """Judges the explanation of one answer.

    Args:
        answer: Its text; one that is not the task's JSON names nothing.
        present: Labels of the findings that the prompt shows.
        annotated: Labels of the findings of each gene.
    """
    try:
        parsed = json.loads(answer)
        first, text = str(parsed["genes"][0]), str(parsed["explanation"])
    except (ValueError, TypeError, KeyError, IndexError):
        return "names_nothing"
    gene, fits, findings = text.rstrip(".").partition(" fits ")
    # A label can have the word "and" itself.
    named = _split(findings, present)
    if not fits or not named or findings == BEST:  # a baseline's
        return "names_nothing"
    if gene != first:
        return "other_gene"
    if not named <= present:
        return "not_of_patient"
    return "holds" if named <= annotated.get(gene, set()) else "not_annotated"


def _split(findings: str, present: Set[str]) -> set[str]:
    parts = findings.split(" and ")
    ways = [(" and ".join(parts[:n]), " and ".join(parts[n:])) for n in range(1, len(parts) + 1)]
    found = [{label for label in way if label} for way in ways]
    return next((labels for labels in found if labels <= present), found[0] - {""})


def judge_cases(
    cases: Iterable[JsonMapping], annotated: Mapping[str, Set[str]]
) -> dict[str, Counter[Verdict]]:
    """Counts the verdicts of each model's answers.

    Args:
        cases: Rows with model, prompt and answer, as an evaluation of a run writes them.
    """
    verdicts: dict[str, Counter[Verdict]] = defaultdict(Counter)
    for case in cases:
        _, _, findings = str(case["prompt"][-1]["content"]).partition("present: ")
        present = set(findings.partition("\n")[0].split("; "))
        verdicts[str(case["model"])][judge(str(case["answer"]), present, annotated)] += 1
    return dict(verdicts)


def main() -> None:
    """Prints, for each model, the share of its explanations with each verdict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--stage", required=True, help="an evaluation of the run")
    options = parser.parse_args()
    known = _rows(options.workdir / "data" / "annotated.jsonl")
    annotated = {str(row["gene"]): set(row["findings"]) for row in known}
    cases = _rows(options.workdir / options.stage / "cases.jsonl")
    for model, verdicts in judge_cases(cases, annotated).items():
        answers = verdicts.total()
        shares = {name: round(n / answers, 4) for name, n in verdicts.most_common()}
        print(json.dumps({"model": model, "answers": answers} | shares))


def _rows(path: Path) -> list[JsonMapping]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error}); name a run of experiments/rare_disease.py and one "
            "of its evaluations"
        ) from error


if __name__ == "__main__":
    main()
