"""Simulated patients are consistent, reproducible, and answered in the right format."""

import json

import numpy as np
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


def work(simulator, evidence, patients, noise):
    rng = np.random.default_rng(0)
    return simulate.work_answers(simulator.ontology, evidence, patients, noise, rng)


def test_without_noise_the_list_is_the_annotations_ranking(simulator, evidence):
    patients = patients_of(simulator)
    present, absent = [p.present for p in patients], [p.absent for p in patients]
    score = ranking.scores(evidence, present, absent)
    for answer, row in zip(work(simulator, evidence, patients, 0.0), score, strict=True):
        column = [evidence.genes.index(gene) for gene in answer.genes]
        assert sorted(row[column].tolist(), reverse=True) == row[column].tolist()
        assert row[column[0]] == row.max()


def test_noise_spoils_the_ranking_by_degrees(simulator, evidence):
    patients = [p for gene in evidence.genes for p in patients_of(simulator, gene)]
    right = []
    for noise in (0.0, 2.0, 100.0):
        answers = work(simulator, evidence, patients, noise)
        right.append(
            np.mean([p.gene == a.genes[0] for p, a in zip(patients, answers, strict=True)])
        )
    assert right[0] > right[1] > right[2]
    assert right[2] == pytest.approx(1 / 3, abs=0.06)


def test_noise_of_one_draws_from_the_posterior(simulator, evidence):
    (patient,) = patients_of(simulator, count=1)
    answers = work(simulator, evidence, [patient] * 20_000, 1.0)
    score = ranking.scores(evidence, [patient.present], [patient.absent])[0].astype(np.float64)
    posterior = np.exp(score) / np.exp(score).sum()
    first = np.array([[a.genes[0] == gene for gene in evidence.genes] for a in answers]).mean(
        axis=0
    )
    np.testing.assert_allclose(first, posterior, atol=0.015)


def test_the_thought_names_findings_of_the_patient_and_genes_that_they_speak_for(
    simulator, evidence
):
    ontology = simulator.ontology
    patients = patients_of(simulator)
    answers = work(simulator, evidence, patients, 2.0)
    index = {label: i for i, label in enumerate(ontology.labels)}
    assert any(answer.thought for answer in answers)
    for patient, answer in zip(patients, answers, strict=True):
        assert len(set(answer.genes)) == len(answer.genes) <= prompts.MAX_GENES
        parsed = json.loads(prompts.answer(answer.explanation, answer.genes))
        assert list(parsed) == ["explanation", "genes"]
        first, _, fitting = answer.explanation.rstrip(".").partition(" fits ")
        if fitting:
            assert first == answer.genes[0]
            for label in fitting.split(" and "):
                assert index[label] in patient.present
                assert (
                    evidence.present[index[label], evidence.genes.index(first)]
                    >= simulate.POINTS_FROM
                )
        else:
            assert answer.explanation == f"No finding points to {answer.genes[0]}."
        for sentence in filter(None, answer.thought.rstrip(".").split(". ")):
            label, genes = sentence.split(": ")
            assert index[label] in patient.present
            for gene in genes.split(", "):
                assert (
                    evidence.present[index[label], evidence.genes.index(gene)]
                    >= simulate.POINTS_FROM
                )
