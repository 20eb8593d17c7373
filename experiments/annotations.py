"""Rare disease without a model: how far the annotations' ranking goes, by list and by cleaning.

    python experiments/annotations.py --archive all_phenopackets.zip

HPO's annotations cite publications, often those of the very cases that are evaluated. On the cases
of `rare_disease.py`, present findings only, the right gene's rank is counted

- with rows dropped that cite a publication of a case to be evaluated or to be trained on; once
  without those of the cases of seen genes, as the run of 2026-11-26 had it;
- with those rows counted anew from the archive's cases of the other publications that they cite;
  once without those of unseen genes, as it is with genes of which the archive has no case;
- with each case's own publications alone taken out, the others counted anew: what could be known of
  a new patient;

among all genes that are annotated (open), and among those of the archive's cases (closed). A second
table has all of the archive's cases, the third cleaning and the open list, by how many other
publications have cases of the gene. Needs `pip install -e '.[rare-disease]'` and 4 GB.
`--exclude-pmids FILE` leaves out publications that are set aside.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from rft_jax.evaluation.bootstrap import Column, intervals, numbered
from rft_jax.tasks.rare_disease import evidence, hpo, phenopackets, prompts, ranking
from rft_jax.tasks.rare_disease.candidates import CandidateRanker
from rft_jax.tasks.rare_disease.patients import Patients
from rft_jax.tasks.rare_disease.phenopackets import Case
from rft_jax.tasks.rare_disease.prepare import read_pmids
from rft_jax.tasks.rare_disease.splits import Split, split

TOP = (1, 5, 10)
OTHERS = {"0": (0, 0), "1 or 2": (1, 2), "3 to 5": (3, 5), "6 to 10": (6, 10), "more": (11, 10**9)}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--archive", required=True)
    parser.add_argument("--exclude-pmids", default="")
    parser.add_argument("--valid-cases", type=int, default=200)
    options = parser.parse_args()
    ontology = hpo.load_ontology()
    cases = phenopackets.relabel(phenopackets.load_cases(options.archive), ontology.labels_by_id())
    excluded = read_pmids(options.exclude_pmids)
    parts = split(cases, len(cases), options.valid_cases, excluded)
    found = Ranks(ontology, hpo.load_table(ontology), cases, parts, excluded)
    print("\n".join(lines_of(found.by_cleaning(), parts)), end="\n\n")
    scorable = [case for case in cases if case.scorable]
    for line in lines_by_publications(found.one_by_one(scorable), scorable, parts):
        print(line)


class Ranks:
    """The rank of every held-out case's gene, by cleaning and list; 0 where it has none."""

    def __init__(
        self,
        ontology: hpo.Ontology,
        table: hpo.AnnotationTable,
        cases: Sequence[Case],
        parts: Split,
        excluded: frozenset[str],
    ) -> None:
        self._ontology, self._table, self._cases = ontology, table, cases
        self._parts, self._excluded = parts, excluded
        self._held_out = (*parts.valid, *parts.seen)
        self._index = {label: n for n, label in enumerate(ontology.labels)}
        self._closed = {case.gene for case in cases if case.scorable}
        self._ranker = CandidateRanker(ontology, table, cases)
        self._pmids_of: dict[str, set[str]] = defaultdict(set)
        for case in cases:
            self._pmids_of[parts.cluster_of[case.case_id]].update(case.pmids)

    def by_cleaning(self) -> dict[tuple[str, str], np.ndarray]:
        """Ranks (int [cases]) by cleaning and list."""
        train = frozenset(pmid for case in self._parts.train for pmid in case.pmids)
        held_out = self._excluded | self._parts.held_out_pmids | train
        of_seen = frozenset(pmid for case in self._parts.seen for pmid in case.pmids)
        unseen = {case.gene for case in self._parts.valid}
        elsewhere = [case for case in self._cases if not unseen & {*case.genes}]
        present = [self._present(case) for case in self._held_out]
        found: dict[tuple[str, str], np.ndarray] = {}
        for cleaning, pmids, known in (
            ("dropped, but for seen genes", held_out - of_seen, ()),
            ("dropped", held_out, ()),
            ("counted anew, no case of an unseen gene", held_out, elsewhere),
            ("counted anew", held_out, self._cases),
        ):
            patients = Patients(known, self._ontology.index)
            whole = ranking.build_evidence(self._ontology, self._table.annotations(pmids, patients))
            score = ranking.scores(whole, present)
            found |= self._both_lists(cleaning, whole.genes, score)
        score = np.stack([self._score(case) for case in self._held_out])
        return found | self._both_lists("by case", self._ranker.genes, score)

    def one_by_one(self, cases: Sequence[Case]) -> np.ndarray:
        """Ranks (int [cases]) of any of the archive's cases, cleaned by case, open list."""
        ranks = [
            rank_of(self._ranker.genes, self._score(case)[None], [case.gene]) for case in cases
        ]
        return np.concatenate(ranks)

    def _present(self, case: Case) -> list[int]:
        labels = prompts.shown(case, evidence.PROMPT).present
        return [self._index[label] for label in labels if label in self._index]

    def _score(self, case: Case) -> np.ndarray:
        """What each of the ranker's genes scores without the case's publications, float [genes]."""
        own = frozenset(self._pmids_of[self._parts.cluster_of[case.case_id]])
        return self._ranker.support(self._present(case), own).sum(axis=0)

    def _both_lists(
        self, cleaning: str, genes: Sequence[str], score: np.ndarray
    ) -> dict[tuple[str, str], np.ndarray]:
        right = [case.gene for case in self._held_out]
        closed = [n for n, gene in enumerate(genes) if gene in self._closed]
        of_list = {"open": list(range(len(genes))), "closed": closed}
        return {
            (cleaning, f"{name}, {len(kept):,}"): rank_of(
                [genes[n] for n in kept], score[:, kept], right
            )
            for name, kept in of_list.items()
        }


def rank_of(genes: Sequence[str], score: np.ndarray, right: Sequence[str]) -> np.ndarray:
    """The rank of each case's gene, ties against it; 0 if it is not in the list.

    Args:
        genes: The list.
        score: Float [cases, genes].
        right: The cases' genes.
    """
    column = {gene: n for n, gene in enumerate(genes)}
    ranks = [
        int((of_case >= of_case[column[gene]]).sum()) if gene in column else 0
        for of_case, gene in zip(score, right, strict=True)
    ]
    return np.array(ranks)


def lines_of(ranks: Mapping[tuple[str, str], np.ndarray], parts: Split) -> list[str]:
    """The table: top@1 with its interval, top@5 and top@10 of both kinds of genes, in %."""
    kinds = {"unseen genes": parts.valid, "seen genes": parts.seen}
    heads = [f"{kind} ({len(of)}), top@1 / 5 / 10" for kind, of in kinds.items()]
    lines = [_row("annotations", "list, genes", *heads), _row(*["---"] * 4)]
    for (cleaning, name), rank in ranks.items():
        cells, start = [], 0
        for of in kinds.values():
            mine = rank[start : start + len(of)]
            start += len(of)
            cells.append(_rates(mine, [parts.cluster_of[case.case_id] for case in of]))
        lines.append(_row(cleaning, name, *cells))
    return lines


def lines_by_publications(ranks: np.ndarray, cases: Sequence[Case], parts: Split) -> list[str]:
    """The table of cases by how many other clusters of publications have their gene, in %.

    Args:
        ranks: Int [cases].
        cases: All scorable ones of the archive.
        parts: Those of the split whose cases of seen genes are counted beside them.
    """
    clusters: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        clusters[case.gene].add(parts.cluster_of[case.case_id])
    heads = ("other publications of the gene", "cases", "genes", "top@1 / 5 / 10")
    lines = [_row(*heads, f"of the {len(parts.seen)} cases of seen genes"), _row(*["---"] * 5)]
    for name, (low, high) in OTHERS.items():
        genes = {gene for gene, of in clusters.items() if low <= len(of) - 1 <= high}
        chosen = np.array([case.gene in genes for case in cases])
        if not chosen.any():
            continue
        names = [parts.cluster_of[case.case_id] for case in cases if case.gene in genes]
        seen = sum(case.gene in genes for case in parts.seen)
        rates = _rates(ranks[chosen], names)
        lines.append(_row(name, f"{chosen.sum():,}", f"{len(genes)}", rates, f"{seen}"))
    return lines


def _rates(rank: np.ndarray, clusters: Sequence[str]) -> str:
    first, *others = (((rank > 0) & (rank <= k)).astype(float) for k in TOP)
    column = Column(first, np.ones(len(first)))
    (low, high) = intervals({"top1": column}, cluster_M=numbered(clusters))["top1"]
    cells = [f"{100 * first.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"]
    return " / ".join([*cells, *(f"{100 * of.mean():.1f}" for of in others)])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
