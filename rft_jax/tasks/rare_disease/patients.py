"""Patients by the publications that report them, to count a finding anew without some of them.

A row of HPO's annotations pools the patients of all publications that it cites. Where one of these
must not be seen, because its patients are to be evaluated, the row can be had without it: by
counting the known patients of the others.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import NamedTuple

from rft_jax.tasks.rare_disease.phenopackets import Case


class Count(NamedTuple):
    """Patients who have a finding, and those of whom it is known whether they have it."""

    positive: int
    assessed: int


@dataclass(frozen=True)
class _Patient:
    genes: frozenset[str]
    pmids: frozenset[str]
    present: frozenset[int]
    absent: frozenset[int]


class Patients:
    """Cases, looked up by publication."""

    def __init__(self, cases: Iterable[Case], index: Mapping[str, int]) -> None:
        """Indexes the cases.

        Args:
            cases: Those that may be counted.
            index: That of findings, by HPO id (`Ontology.index`); other findings are left out.
        """
        self._by_pmid: dict[str, list[_Patient]] = defaultdict(list)
        for case in cases:
            present, absent = (
                frozenset(index[term_id] for term_id, _ in terms if term_id in index)
                for terms in (case.present, case.absent)
            )
            patient = _Patient(frozenset(case.genes), frozenset(case.pmids), present, absent)
            for pmid in patient.pmids:
                self._by_pmid[pmid].append(patient)

    def count(self, term: int, genes: Set[str], pmids: Iterable[str], exclude: Set[str]) -> Count:
        """Patients of these genes and publications, each once.

        Args:
            term: Index of the finding, which counts as it is: not what lies below it.
            genes: Symbols, one of which a patient must have.
            pmids: Publications.
            exclude: Who is reported in one of these too is left out.
        """
        found = {id(p): p for pmid in pmids for p in self._by_pmid.get(pmid, ())}.values()
        counted = [p for p in found if p.genes & genes and not p.pmids & exclude]
        positive = sum(term in p.present for p in counted)
        return Count(positive, positive + sum(term in p.absent for p in counted))
