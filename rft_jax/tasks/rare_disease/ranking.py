"""Ranks genes by the annotations alone: a naive-Bayes-like score of a patient's findings.

The score is the baseline that a model is held against, and, with noise, the order of the genes in
the worked answers that it is pre-trained on.

For a finding t, a gene g and the background b (all diseases):

    S(t, g) = log((1 - noise) * P(t | g) / P(t | b) + noise)

P(t | g) is the annotated frequency, ancestors included (a noisy-or over the annotated findings
below t). A finding more specific than the annotation backs off to the closest annotated ancestor a:
P(t | g) >= P(a | g) * P(t | b) / P(a | b). A finding that is absent counts
log((1 - weight * P(t | g)) / (1 - weight * P(t | b))).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rft_jax.tasks.rare_disease import prompts
from rft_jax.tasks.rare_disease.hpo import Annotations, Ontology

NOISE_FRACTION = 0.1  # findings that have nothing to do with the gene
ABSENT_WEIGHT = 0.5  # a finding called absent may not have been looked for with care
BEST = "the findings best"  # what the explanation of a ranking says a gene fits
_MAX_FREQUENCY = 0.98  # no finding is obligate: one missing sign never rules a gene out


@dataclass(frozen=True)
class Evidence:
    """What each finding says for or against each gene, in nats (float32).

    Attributes:
        genes: The candidates, in the order of the columns.
        present: [terms, genes], for a finding that is present.
        absent: [terms, genes], for a finding that is absent.
        background: [terms] how common each finding is over all diseases.
    """

    genes: tuple[str, ...]
    present: np.ndarray
    absent: np.ndarray
    background: np.ndarray


def build_evidence(
    ontology: Ontology, annotations: Annotations, genes: Sequence[str] | None = None
) -> Evidence:
    """Computes the evidence of all findings for the candidates `genes` (None: all annotated)."""
    closure = closures(ontology)
    propagated = [
        propagate(closure, t, f)
        for t, f in zip(annotations.terms, annotations.frequencies, strict=True)
    ]
    terms = len(ontology.ids)
    background = np.zeros(terms, np.float64)
    for at, frequency in propagated:
        background[at] += frequency
    # One pseudo-patient spread over all diseases keeps ratios finite for unannotated findings;
    # a parent is never rarer than its child, so the back-off below never gains.
    background = (background + 0.5) / (len(propagated) + 1.0)
    for i in range(terms - 1, 0, -1):
        parents = ontology.parents[i]
        background[parents] = np.maximum(background[parents], background[i])

    wanted = set(annotations.genes if genes is None else genes)
    columns = [i for i, gene in enumerate(annotations.genes) if gene in wanted]
    frequency = np.zeros((terms, len(columns)), np.float32)
    for column, gene in enumerate(columns):
        for disease in annotations.gene_diseases[gene]:
            at, values = propagated[disease]
            frequency[at, column] = np.maximum(frequency[at, column], values)
    bg = background.astype(np.float32)[:, None]
    absent = np.log1p(-ABSENT_WEIGHT * frequency) - np.log1p(-ABSENT_WEIGHT * bg)
    ratio = frequency / bg
    for i in range(1, terms):  # parents come first; a ratio is inherited as it is
        np.maximum(ratio[i], ratio[ontology.parents[i]].max(axis=0), out=ratio[i])
    present = np.log((1 - NOISE_FRACTION) * ratio + NOISE_FRACTION, out=ratio)
    names = tuple(annotations.genes[i] for i in columns)
    return Evidence(names, present, absent.astype(np.float32), background.astype(np.float32))


def annotated_findings(ontology: Ontology, annotations: Annotations) -> dict[str, frozenset[int]]:
    """The findings of each gene that it is annotated with, and what is more general than these."""
    of_disease = [
        frozenset(t for term in terms.tolist() for t in (term, *ontology.ancestors[term]))
        for terms in annotations.terms
    ]
    return {
        gene: frozenset().union(*(of_disease[d] for d in diseases))
        for gene, diseases in zip(annotations.genes, annotations.gene_diseases, strict=True)
    }


def closures(ontology: Ontology) -> list[np.ndarray]:
    """Each finding itself and its ancestors (int32)."""
    return [np.array([i, *a], np.int32) for i, a in enumerate(ontology.ancestors)]


def propagate(
    closure: Sequence[np.ndarray], terms: np.ndarray, frequencies: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of a disease's findings and of all their ancestors, by noisy-or."""
    if not len(terms):
        return np.zeros(0, np.int32), np.zeros(0, np.float32)
    reached = np.concatenate([closure[t] for t in terms])
    log_missing = np.log1p(-np.minimum(frequencies, _MAX_FREQUENCY))
    at, inverse = np.unique(reached, return_inverse=True)
    spread = np.repeat(log_missing, [len(closure[t]) for t in terms])
    frequency = -np.expm1(np.bincount(inverse, spread))
    return at, np.minimum(frequency, _MAX_FREQUENCY).astype(np.float32)


def scores(
    evidence: Evidence,
    present: Sequence[Sequence[int]],
    absent: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:
    """Scores every candidate for every patient.

    Args:
        present: For each of N patients the indices of the findings that are present.
        absent: Likewise those that are absent; None leaves them out.
    Returns:
        float32 [N, genes] in nats; higher is likelier.
    """
    total = np.zeros((len(present), len(evidence.genes)), np.float32)
    for row, terms in enumerate(present):
        evidence.present[list(terms)].sum(axis=0, out=total[row])
    for row, terms in enumerate(absent or ()):
        total[row] += evidence.absent[list(terms)].sum(axis=0)
    return total


def naive_bayes(
    ontology: Ontology, cases: Sequence[Sequence[int]], genes: Sequence[str]
) -> Evidence:
    """Evidence from solved cases alone, for the genes that they have.

    P(t | g) = (n(t, g) + P(t)) / (n(g) + 1): of the n(g) cases of gene g, n(t, g) have the finding
    t or one below it, and one more is added that is like all cases together.

    Args:
        cases: For each of N cases the indices of the findings that are present.
        genes: The N right genes.
    """
    names = tuple(sorted(set(genes)))
    column = {gene: i for i, gene in enumerate(names)}
    count = np.zeros((len(ontology.ids), len(names)), np.float32)
    for terms, gene in zip(cases, genes, strict=True):
        implied = frozenset(terms).union(*(ontology.ancestors[t] for t in terms))
        count[list(implied), column[gene]] += 1
    background = (count.sum(axis=1) + 0.5) / (len(cases) + 1)
    cases_of = np.bincount([column[gene] for gene in genes], minlength=len(names))
    frequency = (count + background[:, None]) / (cases_of + 1)
    present = np.log(frequency / background[:, None])
    absent = np.log1p(-ABSENT_WEIGHT * frequency) - np.log1p(-ABSENT_WEIGHT * background)[:, None]
    return Evidence(names, present, absent, background)


def answers(genes: Sequence[str], score: np.ndarray) -> list[str]:
    """Rankings as answers in the task's format.

    Args:
        genes: The candidates.
        score: Float [N, genes]; higher is likelier.
    """
    best = np.argsort(-score, axis=1, kind="stable")[:, : prompts.MAX_GENES]
    return [
        prompts.answer(f"{genes[row[0]]} fits {BEST}.", [genes[int(g)] for g in row])
        for row in best
    ]


def ranks(evidence: Evidence, score: np.ndarray, genes: Sequence[str]) -> np.ndarray:
    """Rank (1 is best) of each patient's gene; 0 if it is no candidate. Ties count against it.

    Args:
        score: Float [N, genes].
        genes: The N right genes.
    """
    column = {gene: i for i, gene in enumerate(evidence.genes)}
    found = np.array([column.get(gene, -1) for gene in genes])
    own = score[np.arange(len(genes)), np.maximum(found, 0)]
    return np.where(found < 0, 0, (score >= own[:, None]).sum(axis=1))


def hit_rates(ranks: np.ndarray) -> dict[str, float]:
    """Share of ranks within the first 1, 5, 10 and 20; rank 0 is a miss."""
    return {
        f"top{k}": round(float(((ranks > 0) & (ranks <= k)).mean()), 4) if len(ranks) else 0.0
        for k in (1, 5, 10, 20)
    }
