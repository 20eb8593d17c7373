"""Rare disease without a model: how far the annotations' ranking goes, by list and by cleaning.

    python experiments/annotations.py --archive all_phenopackets.zip

HPO's annotations cite publications, often those of the very cases that are evaluated. On the cases
of `rare_disease.py`, present findings only, the right gene's rank is counted

- with rows dropped that cite a publication of a case to be evaluated or to be trained on; once
  without those of the cases of seen genes, as the run of 2026-11-26 had it;
- with those rows counted anew from the archive's cases of the other publications that they cite;
- with each case's own publications alone taken out, the others counted anew: what could be known of
  a new patient;

among all genes that are annotated (open), and among those of the archive's cases (closed). Needs
`pip install -e '.[rare-disease]'` and 4 GB. `--exclude-pmids FILE` leaves out publications that are
set aside.
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


def main() -> None:
    """Prints the table."""
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
    for line in lines_of(found.by_cleaning(), parts):
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
        index = {label: n for n, label in enumerate(ontology.labels)}
        labels = [prompts.shown(case, evidence.PROMPT).present for case in self._held_out]
        self._present = [[index[label] for label in of if label in index] for of in labels]
        self._closed = {case.gene for case in cases if case.scorable}

    def by_cleaning(self) -> dict[tuple[str, str], np.ndarray]:
        """Ranks (int [cases]) by cleaning and list."""
        train = frozenset(pmid for case in self._parts.train for pmid in case.pmids)
        held_out = self._excluded | self._parts.held_out_pmids | train
        of_seen = frozenset(pmid for case in self._parts.seen for pmid in case.pmids)
        patients = Patients(self._cases, self._ontology.index)
        found: dict[tuple[str, str], np.ndarray] = {}
        for cleaning, pmids, known in (
            ("dropped, but for seen genes", held_out - of_seen, None),
            ("dropped", held_out, None),
            ("counted anew", held_out, patients),
        ):
            annotations = self._table.annotations(pmids, known)
            whole = ranking.build_evidence(self._ontology, annotations)
            score = ranking.scores(whole, self._present)
            found |= self._both_lists(cleaning, whole.genes, score)
        found |= self._both_lists("by case", *self._per_case())
        return found

    def _per_case(self) -> tuple[tuple[str, ...], np.ndarray]:
        pmids_of: dict[str, set[str]] = defaultdict(set)
        for case in self._cases:
            pmids_of[self._parts.cluster_of[case.case_id]].update(case.pmids)
        ranker = CandidateRanker(self._ontology, self._table, self._cases)
        score = [
            ranker.support(present, frozenset(pmids_of[self._parts.cluster_of[case.case_id]])).sum(
                axis=0
            )
            for case, present in zip(self._held_out, self._present, strict=True)
        ]
        return ranker.genes, np.stack(score)

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
