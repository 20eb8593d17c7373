"""Patients simulated from the annotations.

`simulate` draws the patients of one gene; they depend on (seed, gene) alone.

Recipe (found to carry over to real cases): diseases weigh min(number of findings, 10), half that
for Orphanet's; findings are drawn by frequency without replacement; 30 % move to an ancestor
(geometric, 0.5), 5 % to a child; 15 % come from elsewhere; what is an ancestor of another finding
is dropped.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rft_jax.tasks.rare_disease import prompts
from rft_jax.tasks.rare_disease.hpo import Annotations, Ontology

MOVED_UP, MOVED_DOWN, FROM_ELSEWHERE = 0.30, 0.05, 0.15
STEP_UP_ENDS = 0.5

# Sizes, sexes and ages near those of phenopacket-store, capped by publication and gene: 8 findings
# present in the median patient (4 and 13 the quartiles), 4 absent (1 and 9), a fifth with none; sex
# unknown in 5 % and age in 17 %; median age 12 years (5 and 28). More are drawn than remain: small
# profiles run out, and ancestors of other findings are dropped.
SHARE_OF_RECIPE_SIZES = 0.3  # patients with the 6 to 8 findings of the recipe; others as below
PRESENT_MEDIAN, PRESENT_SPREAD = 13.0, 0.75
NO_ABSENT, ABSENT_MEDIAN, ABSENT_SPREAD = 0.2, 6.0, 1.0
ABSENT_OF_DISEASE = 0.4  # of the absent findings: known for the disease; the rest from elsewhere
SEX_UNKNOWN, AGE_UNKNOWN = 0.05, 0.17
AGE_MEDIAN, AGE_SPREAD, YEARS_SINCE_ONSET = 12.0, 1.2, 8.0
MAX_AGE = 90.0

MALE_ONLY, FEMALE_ONLY = "HP:0010461", "HP:0010460"  # abnormality of the male/female genitalia


@dataclass(frozen=True)
class Patient:
    """A simulated patient; findings are indices into the ontology, in random order."""

    gene: str
    sex: str
    age_years: float | None
    present: tuple[int, ...]
    absent: tuple[int, ...]


@dataclass(frozen=True)
class Simulator:
    """The ontology and the annotations, laid out for drawing.

    Attributes:
        parent_starts, parents: the parents of term t are parents[starts[t]:starts[t + 1]]; the
            root is left out, so that a finding never becomes "Phenotypic abnormality".
        child_starts, children: likewise.
        usage: cumulative share of each term among all annotations (float64 [terms]).
    """

    ontology: Ontology
    annotations: Annotations
    parent_starts: np.ndarray
    parents: np.ndarray
    child_starts: np.ndarray
    children: np.ndarray
    usage: np.ndarray


def build_simulator(ontology: Ontology, annotations: Annotations) -> Simulator:
    """Prepares for `simulate`."""
    usage = np.zeros(len(ontology.ids))
    for terms, frequencies in zip(annotations.terms, annotations.frequencies, strict=True):
        usage[terms] += frequencies
    parents = [p[p > 0] for p in ontology.parents]
    return Simulator(
        ontology,
        annotations,
        *_flatten(parents),
        *_flatten(ontology.children),
        np.cumsum(usage) / usage.sum(),
    )


def _flatten(lists: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    starts = np.concatenate([[0], np.cumsum([len(values) for values in lists])])
    return starts, np.concatenate([np.zeros(0, np.int32), *lists])


def generator(seed: int, gene: str, purpose: str) -> np.random.Generator:
    """Random numbers that depend on these three and on nothing else."""
    return np.random.default_rng([seed, zlib.crc32(f"{purpose} {gene}".encode())])


def simulate(
    simulator: Simulator,
    gene: str,
    patients: int,
    options: prompts.PromptOptions,
    seed: int = 0,
    purpose: str = "patients",
) -> list[Patient]:
    """Draws patients of one gene.

    Args:
        gene: a symbol of `simulator.annotations.genes`.
        patients: how many.
        options: caps on the number of findings; without absent findings if `present_only`.
        seed, purpose: with the gene, fix the patients.
    """
    rng = generator(seed, gene, purpose)
    annotations = simulator.annotations
    of_gene = annotations.gene_diseases[annotations.genes.index(gene)]
    weights = [
        min(len(annotations.terms[d]), 10) * (0.5 if annotations.diseases[d][:4] == "ORPH" else 1)
        for d in of_gene
    ]
    weights = np.array(weights, np.float64)
    if not weights.sum():
        return []
    disease = rng.choice(of_gene, patients, p=weights / weights.sum())
    recipe = rng.integers(6, 9, patients)
    varied = rng.lognormal(np.log(PRESENT_MEDIAN), PRESENT_SPREAD, patients).round().astype(int)
    size = np.where(rng.random(patients) < SHARE_OF_RECIPE_SIZES, recipe, varied)
    size = np.clip(size, 1, options.max_present)
    absent_size = rng.lognormal(np.log(ABSENT_MEDIAN), ABSENT_SPREAD, patients).round().astype(int)
    absent_size = np.where(rng.random(patients) < NO_ABSENT, 0, absent_size)
    absent_size = np.clip(absent_size, 0, 0 if options.present_only else options.max_absent)
    from_elsewhere = np.minimum(rng.binomial(size, FROM_ELSEWHERE), size - 1)
    return [
        _patient(simulator, rng, gene, *row)
        for row in zip(
            disease.tolist(),
            (size - from_elsewhere).tolist(),
            from_elsewhere.tolist(),
            absent_size.tolist(),
            strict=True,
        )
    ]


def _patient(
    simulator: Simulator,
    rng: np.random.Generator,
    gene: str,
    disease: int,
    own: int,
    elsewhere: int,
    absent_size: int,
) -> Patient:
    terms = simulator.annotations.terms[disease]
    frequencies = simulator.annotations.frequencies[disease]
    # Gumbel keys: the first k in order are k draws without replacement, by frequency.
    order = np.argsort(-(np.log(frequencies) + rng.gumbel(size=len(terms))))
    drawn = np.concatenate([terms[order[:own]], _from_usage(simulator, rng, elsewhere)])
    present = _drop_ancestors(simulator.ontology, _blur(simulator, rng, drawn))
    absent = _absent(simulator, rng, disease, present, absent_size)
    sex = _sex(simulator, rng, disease, present)
    rng.shuffle(present)
    rng.shuffle(absent)
    return Patient(gene, sex, _age(simulator, rng, disease), tuple(present), tuple(absent))


def _from_usage(simulator: Simulator, rng: np.random.Generator, count: int) -> np.ndarray:
    """Findings as common as they are among all annotations."""
    drawn = np.searchsorted(simulator.usage, rng.random(count), side="right")
    return np.minimum(drawn, len(simulator.usage) - 1).astype(np.int32)


def _blur(simulator: Simulator, rng: np.random.Generator, terms: np.ndarray) -> np.ndarray:
    """Moves some findings to an ancestor, a few to a child: observers differ in precision."""
    terms = terms.astype(np.int64)
    fate = rng.random(len(terms))
    climbing = fate < MOVED_UP
    while climbing.any():
        terms = _step(rng, terms, climbing, simulator.parent_starts, simulator.parents)
        climbing &= rng.random(len(terms)) >= STEP_UP_ENDS
    falling = fate > 1 - MOVED_DOWN
    return _step(rng, terms, falling, simulator.child_starts, simulator.children)


def _step(
    rng: np.random.Generator,
    terms: np.ndarray,
    moving: np.ndarray,
    starts: np.ndarray,
    neighbors: np.ndarray,
) -> np.ndarray:
    """Moves the chosen terms to one of their neighbors; those without any stay."""
    count = starts[terms + 1] - starts[terms]
    place = starts[terms] + (rng.random(len(terms)) * count).astype(np.int64)
    moved = neighbors[np.minimum(place, len(neighbors) - 1)]
    return np.where(moving & (count > 0), moved, terms)


def _drop_ancestors(ontology: Ontology, terms: np.ndarray) -> list[int]:
    unique = sorted(set(terms.tolist()))
    implied = frozenset().union(*(ontology.ancestors[t] for t in unique))
    return [t for t in unique if t not in implied]


def _absent(
    simulator: Simulator,
    rng: np.random.Generator,
    disease: int,
    present: Sequence[int],
    size: int,
) -> list[int]:
    """Findings looked for and not found: some that the disease can have, some from elsewhere."""
    if not size:
        return []
    terms = simulator.annotations.terms[disease]
    missing = 1.01 - simulator.annotations.frequencies[disease]
    order = np.argsort(-(np.log(missing) + rng.gumbel(size=len(terms))))
    own = rng.binomial(size, ABSENT_OF_DISEASE)
    elsewhere = _from_usage(simulator, rng, size - own)
    # What is present, and what that implies, cannot be absent.
    implied = frozenset(present).union(*(simulator.ontology.ancestors[t] for t in present))
    possible = [t for t in terms[order].tolist() if t not in implied][:own]
    return sorted(set(possible) | (set(elsewhere.tolist()) - implied))


def _sex(
    simulator: Simulator, rng: np.random.Generator, disease: int, present: Sequence[int]
) -> str:
    known, draw = rng.random() >= SEX_UNKNOWN, rng.random()
    sex = "male" if draw < simulator.annotations.male_share[disease] else "female"
    implied = frozenset(present).union(*(simulator.ontology.ancestors[t] for t in present))
    for term_id, only in ((MALE_ONLY, "male"), (FEMALE_ONLY, "female")):
        if simulator.ontology.index.get(term_id) in implied:
            sex = only
    return sex if known else ""


def _age(simulator: Simulator, rng: np.random.Generator, disease: int) -> float | None:
    known, spread = rng.random() >= AGE_UNKNOWN, np.exp(AGE_SPREAD * rng.standard_normal())
    if not known:
        return None
    onset = float(simulator.annotations.onset_years[disease])
    years = AGE_MEDIAN * spread if np.isnan(onset) else onset + YEARS_SINCE_ONSET * spread
    return float(min(years, MAX_AGE))


def messages(
    ontology: Ontology, patient: Patient, options: prompts.PromptOptions
) -> list[dict[str, str]]:
    """The prompt of a simulated patient, in the format of the real ones."""
    return prompts.render(
        patient.sex,
        prompts.age_text(patient.age_years),
        [ontology.labels[t] for t in patient.present],
        [ontology.labels[t] for t in patient.absent],
        options,
    )
