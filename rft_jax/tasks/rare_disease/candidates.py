"""Candidate genes of a real case, ranked by annotations that do not have its own publication.

What goes into a prompt is cleaned for each case: only the publications of the case's own cluster
are taken out of the annotations, since what others have published can be known of a new patient.
(What goes into weights is cleaned of the publications of all cases that are evaluated: `prepare`.)
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from rft_jax.tasks.rare_disease import ranking
from rft_jax.tasks.rare_disease.hpo import AnnotationTable, Ontology
from rft_jax.tasks.rare_disease.patients import Patients
from rft_jax.tasks.rare_disease.phenopackets import Case
from rft_jax.tasks.rare_disease.worked_answers import POINTS_FROM


class Candidate(NamedTuple):
    """A gene that may be to blame.

    Attributes:
        gene: Its symbol.
        score: What all findings say for it, in nats.
        support: The findings that point to it, with what each says in nats.
    """

    gene: str
    score: float
    support: dict[int, float]


class CandidateRanker:
    """Ranks every gene that the ontology annotates, for one case after another."""

    def __init__(self, ontology: Ontology, table: AnnotationTable, cases: Iterable[Case]) -> None:
        """Computes the evidence of all findings once; each case then changes what it has to.

        Args:
            ontology: The table's.
            table: The annotations' rows.
            cases: Those by which rows are counted anew that cite other publications too.
        """
        annotations = table.annotations()
        self._ontology, self._table = ontology, table
        self._patients = Patients(cases, ontology.index)
        self._closure = ranking.closures(ontology)
        self._evidence = ranking.build_evidence(ontology, annotations)
        self._column = {gene: n for n, gene in enumerate(self._evidence.genes)}
        self._diseases: dict[str, list[str]] = defaultdict(list)
        for gene, of in zip(annotations.genes, annotations.gene_diseases, strict=True):
            self._diseases[gene] = [annotations.diseases[n] for n in of]

    @property
    def background(self) -> np.ndarray:
        """How common each finding is over all diseases (float32 [terms])."""
        return self._evidence.background

    @property
    def genes(self) -> tuple[str, ...]:
        """All genes that can be a candidate, in the order of `support`."""
        return self._evidence.genes

    def support(self, present: Sequence[int], own_pmids: frozenset[str]) -> np.ndarray:
        """What each finding says for each gene, in nats.

        Args:
            present: Indices of the T findings that the case has.
            own_pmids: The publications of the case's cluster.

        Returns:
            float32 [T, genes].
        """
        support_TG = self._evidence.present[list(present)]
        diseases = self._table.diseases_citing(own_pmids)
        for gene in set().union(*(self._table.genes_of(disease) for disease in diseases)):
            if gene in self._column:
                support_TG[:, self._column[gene]] = self._without(gene, present, own_pmids)
        return support_TG

    def rank(
        self, present: Sequence[int], own_pmids: frozenset[str], count: int
    ) -> list[Candidate]:
        """The likeliest genes, so many, the likeliest first; arguments as for `support`."""
        support_TG = self.support(present, own_pmids)
        score_G = support_TG.sum(axis=0)
        best = np.argsort(-score_G, kind="stable")[:count]
        return [
            Candidate(
                self._evidence.genes[g],
                float(score_G[g]),
                {
                    term: float(nats)
                    for term, nats in zip(present, support_TG[:, g], strict=True)
                    if nats >= POINTS_FROM
                },
            )
            for g in best.tolist()
        ]

    def _without(self, gene: str, present: Sequence[int], own_pmids: frozenset[str]) -> np.ndarray:
        """What each finding says for the gene without the publications, as `build_evidence`."""
        ratio = np.zeros(len(self._ontology.ids), np.float32)
        for disease in self._diseases[gene]:
            found, _, _ = self._table.without(disease, own_pmids, self._patients)
            pairs = sorted((term, share) for term, share in found.items() if share > 0)
            at, values = ranking.propagate(
                self._closure,
                np.array([term for term, _ in pairs], np.int32),
                np.array([share for _, share in pairs], np.float32),
            )
            ratio[at] = np.maximum(ratio[at], values / self.background[at])
        closest = np.array([ratio[self._closure[term]].max() for term in present], np.float32)
        return np.log((1 - ranking.NOISE_FRACTION) * closest + ranking.NOISE_FRACTION)
