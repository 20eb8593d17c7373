"""The claims leave something to learn: no constant earns much, the right answers earn all."""

import collections
import importlib.util
import itertools
import json
from pathlib import Path

import pytest

from rft_jax.graders import Items, build_grader, grade_texts, load_grader
from rft_jax.graders.constant import best_constant

CLAIMS = Path(__file__).parents[1] / "experiments" / "claims"
FILES = ("train", "valid", "supervised")


def read(name):
    return [json.loads(line) for line in (CLAIMS / f"{name}.jsonl").open(encoding="utf-8")]


def right(item):
    return json.dumps({"decision": item["decision"], "reason": item["reason"]})


@pytest.fixture(scope="module")
def grader():
    return build_grader(load_grader(str(CLAIMS / "grader.json")))


@pytest.fixture(scope="module")
def make_data():
    spec = importlib.util.spec_from_file_location("make_data", CLAIMS / "make_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_script_writes(make_data, tmp_path, monkeypatch):
    monkeypatch.setattr(make_data, "__file__", str(tmp_path / "make_data.py"))
    make_data.main()
    for name in FILES:
        assert (tmp_path / f"{name}.jsonl").read_text() == (CLAIMS / f"{name}.jsonl").read_text()


def test_no_claim_is_in_two_files_or_twice_in_one():
    prompts = [row["messages"][0]["content"] for name in FILES for row in read(name)]
    assert len(set(prompts)) == len(prompts)


def test_the_grader_pays_references_in_full_and_the_trainee_less_than_a_constant(grader, make_data):
    items = read("valid")
    assert (grade_texts(grader, [right(item) for item in items], items).reward == 1).all()
    claims = make_data.draw(make_data.random.Random(0))["supervised"]
    references = [make_data.answer(claim.reason) for claim in claims]
    answers = [row["messages"][1]["content"] for row in read("supervised")]
    assert 0.2 < grade_texts(grader, answers, references).reward.mean() < 0.3


@pytest.mark.parametrize("name", ["train", "valid"])
def test_no_constant_earns_much_and_the_best_is_found(name, grader):
    items = read(name)
    decisions = collections.Counter(item["decision"] for item in items)
    reasons = collections.Counter(item["reason"] for item in items)
    rewards = {
        json.dumps({"decision": decision, "reason": reason}): 0.6 * some + 0.4 * others
        for (decision, some), (reason, others) in itertools.product(
            decisions.items(), reasons.items()
        )
    }
    best = best_constant(grader, Items(items, name), rewards)
    assert best.reward == pytest.approx(max(rewards.values()) / len(items))
    assert best.reward < 0.37


def test_the_documented_prompts_are_not_trained_on():
    prompts = {item["messages"][0]["content"]: item["decision"] for item in read("valid")}
    assert prompts["stolen camera, 1500 EUR, reported after 9 days, receipts: no"] == "deny"
    assert prompts["broken ski, 300 EUR, reported after 9 days, receipts: yes"] == "deny"
