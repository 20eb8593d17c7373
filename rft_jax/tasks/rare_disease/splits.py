"""Splits cases by publication first and by gene second, never by case, and caps what is drawn.

Cases of one publication resemble each other (one curator, one table, often one family), and one
gene's cases share its profile; a random split therefore flatters every method.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rft_jax.tasks.rare_disease.phenopackets import Case
from rft_jax.utils.errors import InputError

# Few genes have publications to spare, so that more cases of each are taken than for training.
SEEN_PER_PUBLICATION, SEEN_PER_GENE = 4, 10


@dataclass(frozen=True)
class Split:
    """Training and validation cases without a gene or a cluster of publications in common.

    Attributes:
        seen: Cases of the training genes from clusters of neither; for a second validation.
        held_out_pmids: Every publication of the clusters that cases of `valid` and `seen`, or
            those of an evaluation elsewhere, belong to.
        cluster_of: By each case's id that of the first case in its cluster of publications.
    """

    train: tuple[Case, ...]
    valid: tuple[Case, ...]
    seen: tuple[Case, ...]
    held_out_pmids: frozenset[str]
    cluster_of: Mapping[str, str]


def publication_clusters(cases: Sequence[Case]) -> list[int]:
    """Numbers the clusters of publications that report the same patients.

    Two cases fall together if they share a publication, or if they look like one patient reported
    twice: the same gene, variants, sex and age (all known). A false match only makes the split
    coarser, so the test errs on that side. A case without a publication is its own.

    Args:
        cases: Any cases.
    Returns:
        A cluster number for each case.
    """
    parent: dict[Hashable, Hashable] = {}

    def find(node: Hashable) -> Hashable:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def join(a: Hashable, b: Hashable) -> None:
        parent[find(a)] = find(b)

    for case in cases:
        for pmid in case.pmids:
            join(("case", case.case_id), ("publication", pmid))
        if case.genes and case.variants and case.sex and case.age_years is not None:
            patient = ("patient", case.genes, case.variants, case.sex, round(case.age_years, 3))
            join(("case", case.case_id), patient)
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(find(("case", c.case_id)), len(numbers)) for c in cases]


def capped(
    cases: Iterable[Case], per_publication: int = 2, per_gene: int = 6, seed: int = 0
) -> list[Case]:
    """Draws cases in random order as long as their publications and gene have room.

    Args:
        cases: Scorable cases.
    Returns:
        The chosen cases in the order drawn.
    """
    order = sorted(cases, key=lambda c: c.case_id)
    random.Random(f"capped {seed}").shuffle(order)
    of_publication: Counter[str] = Counter()
    of_gene: Counter[str] = Counter()
    chosen = []
    for case in order:
        publications = case.pmids or (case.case_id,)
        if any(of_publication[p] >= per_publication for p in publications):
            continue
        if of_gene[case.gene] >= per_gene:
            continue
        of_publication.update(publications)
        of_gene[case.gene] += 1
        chosen.append(case)
    return chosen


def split(
    cases: Sequence[Case],
    train_cases: int,
    valid_cases: int,
    exclude_pmids: frozenset[str] = frozenset(),
    seed: int = 0,
    evaluation: Sequence[Case] = (),
) -> Split:
    """Draws a capped training set and a validation set with other publications and other genes.

    Clusters that touch `exclude_pmids` or have cases of an evaluation elsewhere take no part.
    Genes are drawn for validation until their cases suffice; what shares a cluster with a
    validation case, or its gene, is lost to training.

    Args:
        cases: All cases; those that are not scorable serve to join publications only.
        train_cases: At most so many training cases.
        valid_cases: At most so many validation cases.
        evaluation: Cases from elsewhere, scorable or not, that are evaluated on.
    Raises:
        InputError: Nothing is left to train on, or to validate on.
    """
    everything = (*cases, *evaluation)
    cluster_of = {
        case.case_id: number
        for case, number in zip(everything, publication_clusters(everything), strict=True)
    }
    pmids_of: dict[int, set[str]] = defaultdict(set)
    for case in everything:
        pmids_of[cluster_of[case.case_id]].update(case.pmids)
    evaluated = {cluster_of[case.case_id] for case in evaluation}
    usable = [
        case
        for case in cases
        if case.scorable
        and cluster_of[case.case_id] not in evaluated
        and not pmids_of[cluster_of[case.case_id]] & exclude_pmids
    ]
    pool = capped(usable, seed=seed)

    genes = sorted({case.gene for case in pool})
    random.Random(f"genes {seed}").shuffle(genes)
    by_gene: dict[str, list[Case]] = defaultdict(list)
    for case in pool:
        by_gene[case.gene].append(case)
    valid: list[Case] = []
    for gene in genes:
        if len(valid) >= valid_cases:
            break
        valid += by_gene[gene]
    valid = valid[:valid_cases]

    valid_genes = {case.gene for case in valid}
    valid_clusters = {cluster_of[case.case_id] for case in valid}
    train = [
        case
        for case in pool
        if case.gene not in valid_genes and cluster_of[case.case_id] not in valid_clusters
    ][:train_cases]
    if (train_cases and not train) or (valid_cases and not valid):
        raise InputError(
            f"split: {len(usable)} usable cases of {len(genes)} genes leave {len(train)} for "
            f"training and {len(valid)} for validation; give more cases or ask for fewer "
            "validation cases."
        )
    train_genes = {case.gene for case in train}
    known_clusters = valid_clusters | {cluster_of[case.case_id] for case in train}
    others = [
        case
        for case in usable
        if case.gene in train_genes and cluster_of[case.case_id] not in known_clusters
    ]
    seen = capped(others, SEEN_PER_PUBLICATION, SEEN_PER_GENE, seed)[:valid_cases]
    held_out = valid_clusters | evaluated | {cluster_of[case.case_id] for case in seen}
    held_out_pmids = frozenset().union(*(pmids_of[number] for number in held_out))
    first_of: dict[int, str] = {}
    for case_id, number in sorted(cluster_of.items()):
        first_of.setdefault(number, case_id)
    named = {case_id: first_of[number] for case_id, number in sorted(cluster_of.items())}
    return Split(tuple(train), tuple(valid), tuple(seen), held_out_pmids, named)
