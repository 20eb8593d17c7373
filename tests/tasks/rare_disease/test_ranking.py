"""The annotations' score equals its formula, and ranks as a reader would."""

import math

import numpy as np
import pytest

from rft_jax.tasks.rare_disease import ranking


def reference_evidence(ontology, annotations):
    """The formulas of the module in plain Python, one number at a time."""
    by_disease = []
    for terms, frequencies in zip(annotations.terms, annotations.frequencies, strict=True):
        missing = {}
        for term, f in zip(terms.tolist(), frequencies.tolist(), strict=True):
            for at in {term} | ontology.ancestors[term]:
                missing[at] = missing.get(at, 1.0) * (1 - min(f, 0.98))
        by_disease.append({at: min(1 - m, 0.98) for at, m in missing.items()})
    n = len(ontology.ids)
    background = [
        (sum(d.get(t, 0) for d in by_disease) + 0.5) / (len(by_disease) + 1) for t in range(n)
    ]
    present, absent = {}, {}
    for gene, diseases in zip(annotations.genes, annotations.gene_diseases, strict=True):
        for t in range(n):
            f = {a: max(by_disease[d].get(a, 0.0) for d in diseases) for a in range(n)}
            ratio = max(f[a] / background[a] for a in {t} | ontology.ancestors[t])
            present[t, gene] = math.log(0.9 * ratio + 0.1)
            absent[t, gene] = math.log((1 - 0.5 * f[t]) / (1 - 0.5 * background[t]))
    return present, absent


def test_evidence_equals_its_formula(ontology, annotations):
    evidence = ranking.build_evidence(ontology, annotations)
    present, absent = reference_evidence(ontology, annotations)
    for column, gene in enumerate(evidence.genes):
        for t in range(len(ontology.ids)):
            assert evidence.present[t, column] == pytest.approx(present[t, gene], abs=1e-5)
            assert evidence.absent[t, column] == pytest.approx(absent[t, gene], abs=1e-5)


def test_a_score_is_the_sum_of_its_evidence(ontology, annotations):
    evidence = ranking.build_evidence(ontology, annotations)
    present, absent = [[1, 3], [2], []], [[2], [], [4]]
    score = ranking.scores(evidence, present, absent)
    for row, (seen, missing) in enumerate(zip(present, absent, strict=True)):
        expected = sum(evidence.present[t] for t in seen) + sum(evidence.absent[t] for t in missing)
        np.testing.assert_allclose(score[row], np.broadcast_to(expected, 3), rtol=1e-6)


def test_the_gene_with_the_finding_comes_first_even_for_a_more_specific_one(ontology, annotations):
    evidence = ranking.build_evidence(ontology, annotations)
    patients = [["HP:5", "HP:6"], ["HP:9", "HP:10"], ["HP:8"]]
    score = ranking.scores(evidence, [ontology.indices(p) for p in patients])
    assert ranking.ranks(evidence, score, ["GENEA", "GENEB", "GENEC"]).tolist() == [1, 1, 1]


def test_only_candidates_are_ranked(ontology, annotations):
    evidence = ranking.build_evidence(ontology, annotations, ["GENEB", "NEVERHEARD"])
    assert evidence.genes == ("GENEB",)
    score = ranking.scores(evidence, [[1], [1]])
    assert ranking.ranks(evidence, score, ["GENEB", "GENEA"]).tolist() == [1, 0]


def test_ties_count_against_the_right_gene(ontology, annotations):
    evidence = ranking.build_evidence(ontology, annotations)
    score = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert ranking.ranks(evidence, score, ["GENEA", "GENEC"]).tolist() == [2, 3]
