"""Candidates are cleaned case by case, letters are dealt, and the experiment goes to its end."""

import dataclasses
import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest

from rft_jax import build_grader, grade_texts
from rft_jax.config import MeshConfig, ModelConfig
from rft_jax.config.overrides import apply_overrides
from rft_jax.tasks.rare_disease import (
    candidates,
    evidence,
    evidence_baselines,
    hpo,
    ranking,
)
from rft_jax.tasks.rare_disease.candidates import Candidate, CandidateRanker
from rft_jax.tasks.rare_disease.evidence_data import EvidenceData, build
from rft_jax.tasks.rare_disease.patients import Patients
from rft_jax.tasks.rare_disease.phenopackets import load_cases
from rft_jax.utils.errors import InputError

from ...small_checkpoint import write_small

EXPERIMENT = Path(__file__).parents[3] / "experiments" / "evidence.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("evidence", EXPERIMENT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _few_diseases(monkeypatch):
    """Among four diseases no finding is e times as common in one as in all."""
    monkeypatch.setattr(candidates, "POINTS_FROM", 0.5)


def indices(ontology, *ids):
    return [ontology.index[term_id] for term_id in ids]


def test_candidates_are_ranked_by_all_annotations_but_the_cases_own(ontology, table):
    ranker = CandidateRanker(ontology, table, [])
    present = indices(ontology, "HP:4", "HP:8")
    whole = ranking.build_evidence(ontology, table.annotations())
    (score,) = ranking.scores(whole, [present])
    found = ranker.rank(present, frozenset(), 3)
    assert [(c.gene, c.score) for c in found] == [
        (whole.genes[g], pytest.approx(float(score[g]))) for g in np.argsort(-score)
    ]
    # HP:8 of GENEC is known from PMID:401 alone.
    without = {c.gene: c for c in ranker.rank(present, frozenset({"PMID:401"}), 3)}
    assert ontology.index["HP:8"] in {c.gene: c for c in found}["GENEC"].support
    assert not without["GENEC"].support
    assert without["GENEA"].score == pytest.approx({c.gene: c for c in found}["GENEA"].score)


@pytest.mark.parametrize("pmid", ["PMID:101", "PMID:102", "PMID:202"])
def test_a_cleaned_case_is_as_annotations_without_its_publication(ontology, table, pmid):
    own = frozenset({pmid})
    cleaned = ranking.build_evidence(ontology, table.annotations(own, Patients((), {})))
    ranker = CandidateRanker(ontology, table, [])
    # How common a finding is stays that of all annotations; here it must not make a difference.
    ranker._evidence = dataclasses.replace(ranker._evidence, background=cleaned.background)
    changed = set().union(*(table.genes_of(d) for d in table.diseases_citing(own)))
    assert changed
    for term in range(1, len(ontology.ids)):
        found = {c.gene: c.score for c in ranker.rank([term], own, 3)}
        for gene in changed:
            nats = cleaned.present[term, cleaned.genes.index(gene)]
            assert found[gene] == pytest.approx(float(nats), abs=1e-5)


@pytest.fixture
def archive(write_archive, make_packet):
    packets = []
    for n in range(27):
        gene = ("GENEA", "GENEB", "GENEC")[n % 3]
        term = {
            "GENEA": ("HP:5", "Small hole in heart"),
            "GENEB": ("HP:9", "Square pupil"),
            "GENEC": ("HP:8", "Green eye"),
        }[gene]
        packets.append(
            make_packet(f"case {n}", gene, f"PMID:{900 + n}", present=(term,), variant=f"{n}")
        )
    return str(write_archive(packets))


def test_letters_tell_nothing_and_the_right_one_is_known(archive, ontology, table):
    ranker = CandidateRanker(ontology, table, [])
    case, *_ = load_cases(archive)
    found = ranker.rank(indices(ontology, "HP:5"), frozenset(), 3)
    firsts = []
    for n in range(200):
        other = dataclasses.replace(case, case_id=f"case {n}")
        row = evidence.item(other, found, ontology)
        lines = row["messages"][-1]["content"].split("Candidates:\n")[1].splitlines()
        genes = {line[0]: line[3:].partition(":")[0] for line in lines}
        assert genes[row["letter"]] == case.gene and genes[row["ranker_first"]] == found[0].gene
        assert [genes[letter] for letter in row["ranked"]] == [c.gene for c in found]
        firsts.append(row["ranker_first"])
        shuffled = random.Random(n).sample(found, len(found))
        assert [c.gene for c in evidence.dealt(other, shuffled)] == list(genes.values())
    assert all(40 < firsts.count(letter) < 95 for letter in "ABC")


def test_the_prompt_has_matching_findings_and_no_absent_one(archive, ontology, table):
    ranker = CandidateRanker(ontology, table, [])
    case, *_ = load_cases(archive)
    row = evidence.item(case, ranker.rank(indices(ontology, "HP:5"), frozenset(), 3), ontology)
    developer, user = row["messages"]
    assert developer["content"] == evidence.INSTRUCTIONS
    assert "GENEA: Small hole in heart" in user["content"]
    assert "GENEB: none of the findings" in user["content"]
    assert "absent" not in user["content"] and "Square pupil" not in user["content"]
    gone = dataclasses.replace(case, genes=("GENEX",))
    found = ranker.rank(indices(ontology, "HP:5"), frozenset(), 3)
    assert evidence.item(gone, found, ontology)["letter"] == evidence.NO_LETTER


def test_what_an_answer_earns():
    item = {"letter": "C", "ranker_first": "A"}
    texts = [evidence.answer("", of) for of in (["C"], ["A", "C"], ["A", "B"])] + ["C"]
    grade = grade_texts(build_grader(evidence.grader(), "host"), texts, [item] * 4)
    assert grade.reward == pytest.approx([1, 0.7, 0, 0])
    assert grade.scores["copies_ranker"][:3].tolist() == [0, 1, 1]
    texts = [*texts, evidence.answer("", ["-"]), evidence.answer("", ["A", "-"])]
    gone = item | {"letter": evidence.NO_LETTER}
    missed = grade_texts(build_grader(evidence.grader(), "host"), texts, [gone] * 6)
    assert missed.reward.tolist() == [0] * 6


def test_fusion_and_logit():
    assert evidence_baselines.fusion([[3, 1, 2], [0, 1, 9], [5, 4, 6]]) == [2, 0, 1]
    background = np.array([0.5, 0.01, 0.2], np.float32)
    strong, weak = Candidate("S", 1.0, {1: 3.0}), Candidate("W", 1.0, {0: 1.0})
    cases = [[strong, weak], [weak, strong]] * 5
    features = [[evidence_baselines.features(c, 2, background) for c in of] for of in cases]
    rank = evidence_baselines.fit_logit(features, [0, 1] * 5)
    assert [rank(of) for of in features[:2]] == [[0, 1], [1, 0]]


def test_files_and_baselines(archive, ontology, table):
    data = EvidenceData(archive=archive, candidates=2, valid_cases=3)
    made = build(data, ontology, table)
    assert {len(made.files[f"valid{kind}"]) for kind in ("", ".chance", ".ranker", ".logit")} == {
        len(made.files["valid"])
    }
    for row, answer in zip(made.files["valid"], made.files["valid.ranker"], strict=True):
        assert json.loads(answer["output_text"])["ranking"] == row["ranked"]
    genes = {row["gene"] for row in made.files["valid"]}
    assert genes and not genes & {row["gene"] for row in made.files["train"]}
    for row, right in zip(made.files["train"], made.files["answers"], strict=True):
        assert json.loads(right["messages"][-1]["content"])["ranking"] == [row["letter"]]


@pytest.mark.parametrize(
    ("settings", "says"),
    [({}, "data.archive: is empty"), ({"archive": "x", "candidates": 1}, "from 2 to 20")],
)
def test_unfit_options_are_named(settings, says, tmp_path):
    with pytest.raises(InputError, match=says):
        EvidenceData(**settings).materialize(tmp_path / "data")


def test_a_base_at_chance_is_not_reinforced(script):
    script.check_gate({"base": {"top1": 0.21}, "chance": {"top1": 0.1}})
    with pytest.raises(InputError, match=r"first in 19\.0 % and chance in 10\.0 %"):
        script.check_gate({"base": {"top1": 0.19}, "chance": {"top1": 0.1}})


@pytest.mark.slow
def test_the_experiment_goes_to_its_end(
    archive, script, ontology, table, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(hpo, "load_ontology", lambda: ontology)
    monkeypatch.setattr(hpo, "load_table", lambda ontology: table)
    source = write_small(tmp_path / "checkpoint", max_position_embeddings=4096)
    tiny = {
        "tensorboard": False,
        "stages.sft.steps": 2, "stages.sft.gradient_accumulation": 1,
        "stages.sft.optimizer.warmup_steps": 0,
        "stages.rft.steps": 1, "stages.rft.batch_size": 8, "stages.rft.rollout.group_size": 2,
        "stages.rft.policy_loss.gradient_accumulation": 1,
        "stages.rft.optimizer.warmup_steps": 0,
        "stages.rft.rollout.max_completion_tokens": 24,
        "stages.rft.rollout.reasoning_effort": 8,
    }  # fmt: skip
    whole = script.get_config

    def small(*args):
        return apply_overrides(whole(*args), {name: str(value) for name, value in tiny.items()})

    monkeypatch.setattr(script, "get_config", small)
    data = EvidenceData(archive=archive, candidates=2, valid_cases=3)
    arguments = data, ModelConfig(source=str(source)), MeshConfig(), tmp_path / "evidence"
    with pytest.raises(InputError, match="so there is nothing to reinforce"):
        script.run(*arguments)  # a random model is at chance, or below
    monkeypatch.setattr(script, "LEAST_TIMES_CHANCE", 0)
    script.run(*arguments)
    table_of = (tmp_path / "evidence" / "evidence.md").read_text()
    for name in ("base", "sft", "rft", *script.BASELINES):
        assert f"| {name} |" in table_of
    assert "genes_seen" in table_of and capsys.readouterr().out.endswith(table_of)
