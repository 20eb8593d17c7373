"""Worked answers, from which a base model learns what belongs to which gene, and the format.

A writer cites a few findings with genes that they point to, then ranks genes by the annotations.
Writers differ, and most need not be good: some cite what is common and so says little, some weigh
only what they cite, and all of them rank with noise. A model that learns from them knows the
associations and has seen every habit; which habits lead to the right gene is left for reinforcement
to teach.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np

from rft_jax.tasks.rare_disease import prompts
from rft_jax.tasks.rare_disease.hpo import Ontology
from rft_jax.tasks.rare_disease.ranking import Evidence
from rft_jax.tasks.rare_disease.simulate import Patient

_NONE = "No finding points to "

# What an answer's text has between findings and genes.
FIXED = ('{"explanation": "', '", "genes": ["', '", "', '"]}', " fits ", " and ", ": ", "; ", ", ")
# The same of a direct answer, and what its prompt has.
FIXED_OF_DIRECT = (
    *('{"genes": ["', '", "', '"], "explanation": "', " fits ", " and ", '."}'),
    *(_NONE, "present: ", "; ", ", ", "female", "male", " years", " months"),
)
# Genes of a direct answer: one in this fraction, else from two to so many, any number as often.
NAMES_ONE, LISTED = 0.4, 10

# A finding points to a gene from so many nats on: e times as common as in all diseases together.
POINTS_FROM = 1.0


@dataclass(frozen=True)
class Habits:
    """How the writers of worked answers are distributed.

    Attributes:
        specificity: Mean of the preference for citing rare findings: a finding is cited in
            proportion to its background frequency ** -specificity. Below 0: common ones.
        specificity_spread: Its standard deviation over writers.
        thorough: Fraction of the writers who weigh all findings; the others weigh what they cite.
        noise: Gumbel noise on the scores that rank genes, in nats: at 1 a thorough writer draws
            from the posterior without replacement (https://arxiv.org/abs/1903.06059), at 0 the
            list is the best ranking by what is weighed.
        cited: Fewest and most findings cited.
        listed: Fewest and most genes listed.
    """

    specificity: float = 1.0
    specificity_spread: float = 0.0
    thorough: float = 1.0
    noise: float = 2.0
    cited: tuple[int, int] = (2, 4)
    listed: tuple[int, int] = (5, 9)


@dataclass(frozen=True)
class WorkedAnswer:
    """A thought, an explanation and a ranked list of symbols."""

    thought: str
    explanation: str
    genes: tuple[str, ...]
    genes_first: bool = False

    def message(self) -> dict[str, str]:
        """The assistant's message of a supervised item."""
        return {
            "role": "assistant",
            "content": prompts.answer(self.explanation, self.genes, self.genes_first),
            "reasoning_content": self.thought,
        }


def work_answer(
    ontology: Ontology,
    evidence: Evidence,
    patient: Patient,
    habits: Habits,
    rng: np.random.Generator,
) -> WorkedAnswer:
    """Writes a worked answer, by a writer of its own.

    Args:
        evidence: What findings say for and against the candidate genes.
        rng: Consumed.
    """
    present = np.array(patient.present)
    specificity = habits.specificity + habits.specificity_spread * rng.standard_normal()
    key = -specificity * np.log(evidence.background[present]) + rng.gumbel(size=len(present))
    cited = present[np.argsort(-key)][: int(rng.integers(habits.cited[0], habits.cited[1] + 1))]
    if rng.random() < habits.thorough:
        score = evidence.present[present].sum(axis=0)
        score = score + evidence.absent[list(patient.absent)].sum(axis=0)
    else:
        score = evidence.present[cited].sum(axis=0)
    score = score + habits.noise * rng.gumbel(size=len(score))
    length = min(int(rng.integers(habits.listed[0], habits.listed[1] + 1)), len(score))
    best = np.argpartition(-score, length - 1)[:length]
    best = best[np.argsort(-score[best])]
    first = best[0]
    speaks_for = evidence.present[present, first]
    fitting = [t for t, nats in zip(present, speaks_for, strict=True) if nats >= POINTS_FROM]
    fitting = sorted(fitting, key=lambda t: -evidence.present[t, first])
    findings = " and ".join(ontology.labels[t] for t in fitting[: int(rng.integers(1, 3))])
    gene = evidence.genes[first]
    return WorkedAnswer(
        thought=" ".join(_lines(ontology, evidence, cited, score)),
        explanation=f"{gene} fits {findings}." if findings else f"{_NONE}{gene}.",
        genes=tuple(evidence.genes[g] for g in best),
    )


def direct_length(rng: np.random.Generator) -> int:
    """How many genes a direct answer names.

    Of a list the first gene alone is new, the others are what the annotations rank best anyhow, and
    they take most of the tokens that are learned.
    """
    return 1 if rng.random() < NAMES_ONE else int(rng.integers(2, LISTED + 1))


def direct_answer(
    ontology: Ontology, evidence: Evidence, annotated: Set[int], patient: Patient, length: int
) -> WorkedAnswer:
    """Names genes at once, the patient's own before those that the annotations rank best.

    The explanation comes behind them: the two findings that speak most for the gene, of those
    that are annotated to it. A model that learns from many patients so learns how likely each gene
    is with such findings, in one prediction.

    Args:
        evidence: What findings say for and against the candidate genes.
        annotated: The findings that the patient's gene is known for.
        length: How many genes, at most as many as there are.
    """
    present = list(patient.present)
    score = evidence.present[present].sum(axis=0)
    score = score + evidence.absent[list(patient.absent)].sum(axis=0)
    length = min(length, len(score))
    best = np.argpartition(-score, length - 1)[:length]
    ranked = (evidence.genes[g] for g in best[np.argsort(-score[best])])
    genes = [patient.gene, *(gene for gene in ranked if gene != patient.gene)]
    fitting = [t for t in present if t in annotated]
    if patient.gene in evidence.genes:
        column = evidence.genes.index(patient.gene)
        fitting.sort(key=lambda t: -evidence.present[t, column])
    findings = " and ".join(ontology.labels[t] for t in fitting[:2])
    fits = f"{patient.gene} fits {findings}." if findings else f"{_NONE}{patient.gene}."
    return WorkedAnswer("", fits, tuple(genes[:length]), genes_first=True)


def _lines(
    ontology: Ontology, evidence: Evidence, cited: np.ndarray, score: np.ndarray
) -> list[str]:
    """For each finding that points to genes, those two that the writer also ranks high."""
    lines = []
    for term in cited:
        points_to = evidence.present[term]
        key = np.where(points_to >= POINTS_FROM, points_to + 0.5 * score, -np.inf)
        top = np.argpartition(-key, min(1, len(key) - 1))[:2]
        named = [evidence.genes[g] for g in top[np.argsort(-key[top])] if np.isfinite(key[g])]
        if named:
            lines.append(f"{ontology.labels[term]}: {', '.join(named)}.")
    return lines


def symbols(
    findings: Iterable[str], genes: Iterable[str], fixed: Sequence[str] = FIXED
) -> list[str]:
    """What a tokenizer should keep whole of answers that name these."""
    return [*findings, *genes, *fixed]
