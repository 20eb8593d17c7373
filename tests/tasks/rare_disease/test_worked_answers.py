"""Worked answers follow their writers' habits, and name what speaks for what."""

import json

import numpy as np
import pytest

from rft_jax.tasks.rare_disease import prompts, ranking, simulate
from rft_jax.tasks.rare_disease.worked_answers import (
    LISTED,
    POINTS_FROM,
    Habits,
    direct_answer,
    work_answer,
)


@pytest.fixture
def simulator(ontology, annotations):
    return simulate.build_simulator(ontology, annotations)


@pytest.fixture
def evidence(ontology, annotations):
    return ranking.build_evidence(ontology, annotations)


def patients_of(simulator, gene="GENEA", count=300):
    return simulate.simulate(simulator, gene, count, prompts.PromptOptions())


def work(simulator, evidence, patients, habits):
    rng = np.random.default_rng(0)
    return [work_answer(simulator.ontology, evidence, p, habits, rng) for p in patients]


def share_right(patients, answers):
    return np.mean([p.gene == a.genes[0] for p, a in zip(patients, answers, strict=True)])


def test_without_noise_the_list_is_the_annotations_ranking(simulator, evidence):
    patients = patients_of(simulator)
    score = ranking.scores(evidence, [p.present for p in patients], [p.absent for p in patients])
    answers = work(simulator, evidence, patients, Habits(noise=0.0))
    for answer, row in zip(answers, score, strict=True):
        column = [evidence.genes.index(gene) for gene in answer.genes]
        assert sorted(row[column].tolist(), reverse=True) == row[column].tolist()
        assert row[column[0]] == row.max()


def test_noise_spoils_the_ranking_by_degrees(simulator, evidence):
    patients = [p for gene in evidence.genes for p in patients_of(simulator, gene)]
    right = [
        share_right(patients, work(simulator, evidence, patients, Habits(noise=noise)))
        for noise in (0.0, 2.0, 100.0)
    ]
    assert right[0] > right[1] > right[2]
    assert right[2] == pytest.approx(1 / 3, abs=0.06)


def test_noise_of_one_draws_from_the_posterior(simulator, evidence):
    (patient,) = patients_of(simulator, count=1)
    answers = work(simulator, evidence, [patient] * 20_000, Habits(noise=1.0))
    score = ranking.scores(evidence, [patient.present], [patient.absent])[0].astype(np.float64)
    posterior = np.exp(score) / np.exp(score).sum()
    first = np.mean([[a.genes[0] == gene for gene in evidence.genes] for a in answers], axis=0)
    np.testing.assert_allclose(first, posterior, atol=0.015)


def test_who_weighs_everything_and_who_cites_what_is_rare_ranks_better(simulator, evidence):
    patients = [p for gene in evidence.genes for p in patients_of(simulator, gene)]

    def right(**habits):
        chosen = Habits(noise=0.5, cited=(1, 1), **habits)
        return share_right(patients, work(simulator, evidence, patients, chosen))

    assert right(thorough=1.0) > right(thorough=0.0, specificity=3.0)
    assert right(thorough=0.0, specificity=3.0) > right(thorough=0.0, specificity=-3.0)


def test_the_thought_names_findings_of_the_patient_and_genes_that_they_speak_for(
    simulator, evidence
):
    ontology = simulator.ontology
    patients = patients_of(simulator)
    answers = work(simulator, evidence, patients, Habits())
    index = {label: i for i, label in enumerate(ontology.labels)}

    def speaks_for(label, gene):
        return evidence.present[index[label], evidence.genes.index(gene)] >= POINTS_FROM

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
                assert speaks_for(label, first)
        else:
            assert answer.explanation == f"No finding points to {answer.genes[0]}."
        for sentence in filter(None, answer.thought.rstrip(".").split(". ")):
            label, genes = sentence.split(": ")
            assert index[label] in patient.present
            assert all(speaks_for(label, gene) for gene in genes.split(", "))


def test_a_direct_answer_names_the_right_gene_then_the_annotations_ranking(
    simulator, evidence, annotations
):
    ontology = simulator.ontology
    annotated = ranking.annotated_findings(ontology, annotations)
    for gene in evidence.genes:
        for number, patient in enumerate(patients_of(simulator, gene, 50)):
            length = 1 + number % LISTED
            answer = direct_answer(ontology, evidence, annotated[gene], patient, length)
            content = json.loads(answer.message()["content"])
            assert list(content) == ["genes", "explanation"]
            first, *others = content["genes"]
            assert first == gene and len(content["genes"]) == min(length, len(evidence.genes))
            score = ranking.scores(evidence, [patient.present], [patient.absent])[0]
            order = [score[evidence.genes.index(other)] for other in others]
            assert set(others) <= {*evidence.genes} - {gene} and order == sorted(order)[::-1]
            left_out = set(evidence.genes) - set(content["genes"])
            assert not others or max(
                [score[evidence.genes.index(g)] for g in left_out], default=-np.inf
            ) <= min(order)
            named = content["explanation"].rstrip(".").partition(" fits ")[2]
            known = {ontology.labels[t] for t in patient.present if t in annotated[gene]}
            assert set(filter(None, named.split(" and "))) <= known
            assert bool(named) == bool(known)


def test_findings_of_a_gene_are_its_annotations_and_what_is_more_general(ontology, annotations):
    annotated = ranking.annotated_findings(ontology, annotations)
    labels = {ontology.labels[t] for t in annotated["GENEC"]}
    assert {"Green eye", "Abnormal eye"} <= labels and "Square pupil" not in labels
