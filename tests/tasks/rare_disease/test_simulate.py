"""Simulated patients are consistent, reproducible, and answered in the right format."""

import pytest

from rft_jax.tasks.rare_disease import prompts, ranking, simulate

OPTIONS = prompts.PromptOptions()


@pytest.fixture
def simulator(ontology, annotations):
    return simulate.build_simulator(ontology, annotations)


@pytest.fixture
def evidence(ontology, annotations):
    return ranking.build_evidence(ontology, annotations)


def patients_of(simulator, gene="GENEA", count=300, options=OPTIONS, seed=0):
    return simulate.simulate(simulator, gene, count, options, seed)


def test_seed_and_gene_fix_the_patients(simulator):
    assert patients_of(simulator) == patients_of(simulator)
    assert patients_of(simulator) != patients_of(simulator, seed=1)


def test_findings_do_not_contradict_each_other(simulator, ontology):
    for gene in simulator.annotations.genes:
        for patient in patients_of(simulator, gene):
            implied = set(patient.present)
            for term in patient.present:
                assert not ontology.ancestors[term] & set(patient.present)
                implied |= ontology.ancestors[term]
            assert not implied & set(patient.absent)
            assert 0 not in patient.present + patient.absent
            assert patient.present


def test_caps_hold(simulator):
    options = prompts.PromptOptions(max_present=2, max_absent=1)
    for patient in patients_of(simulator, options=options):
        assert 1 <= len(patient.present) <= 2
        assert len(patient.absent) <= 1
    only = prompts.PromptOptions(present_only=True)
    assert not any(patient.absent for patient in patients_of(simulator, options=only))


def test_common_findings_are_drawn_more_often(simulator, ontology):
    options = prompts.PromptOptions(max_present=1)
    drawn = [p.present[0] for p in patients_of(simulator, "GENEB", 3000, options)]
    often, seldom = (drawn.count(ontology.index[i]) for i in ("HP:10", "HP:9"))
    # Of three findings with frequencies 1, 1 and 0.5, one is drawn: twice as often as the rare one.
    assert 1.6 < often / seldom < 2.5


def test_sex_follows_the_inheritance_and_the_anatomy(simulator, ontology):
    patients = patients_of(simulator, "GENEB", 2000)
    male_only = ontology.index[simulate.MALE_ONLY]
    assert all(p.sex != "female" for p in patients if male_only in p.present)
    known = [p.sex for p in patients if p.sex]
    assert known.count("male") / len(known) > 0.85
    assert 0.03 < 1 - len(known) / len(patients) < 0.07


def test_prompts_look_like_real_ones(simulator, ontology):
    for patient in patients_of(simulator, count=50):
        (message,) = simulate.messages(ontology, patient, OPTIONS)
        head, present, *absent = message["content"].split("\n")
        assert present == "present: " + "; ".join(ontology.labels[t] for t in patient.present)
        assert len(absent) == bool(patient.absent)
        assert patient.gene not in message["content"]
