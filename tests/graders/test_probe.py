"""The probes find graders that pay for nothing, and leave sound ones in peace."""

import contextlib
import json

import pytest

from rft_jax.graders import Items, build_grader, load_grader
from rft_jax.graders.probe import probe, warnings
from rft_jax.graders.types import HostScore


def check(operation, path="output_json.answer", reference="{{ item.answer }}"):
    return {
        "type": "string_check",
        "operation": operation,
        "input": f"{{{{ sample.{path} }}}}",
        "reference": reference,
    }


def items(answers, **more):
    return Items(
        [
            {"messages": [{"role": "user", "content": f"q {a}"}], "answer": a, **more}
            for a in answers
        ],
        "train.jsonl",
    )


def probes_of(spec, rows):
    return warnings_of(load_grader(spec), rows)


def warnings_of(grader, rows=None):
    probes = probe(build_grader(grader), rows or DISTINCT)
    return {p.name: p.reward for p in probes}, warnings(probes)


DISTINCT = items([f"name{n}" for n in range(30)])


def test_a_sound_grader_raises_no_warning():
    rewards, found = probes_of(check("eq"), DISTINCT)
    assert found == []
    assert rewards.pop("right") == 1
    assert rewards.pop("the commonest reference") == pytest.approx(1 / 30)
    assert set(rewards.values()) == {0}


@pytest.mark.parametrize(
    ("spec", "rows", "lazy"),
    [
        (check("ne"), DISTINCT, "the format without content"),
        (check("ilike", "output_text"), DISTINCT, "the prompt"),
        (check("like"), items(["yes", "no"] * 9), "the commonest references joined"),
        (check("eq"), items(["yes"] * 9 + ["no"] * 3), "the commonest reference"),
        (check("like", "output_text", "{{ item.answer }}"), items(["a"] * 5), "a very long text"),
    ],
)
def test_what_pays_without_skill_is_named(spec, rows, lazy):
    rewards, found = probes_of(spec, rows)
    assert rewards[lazy] > 0.25
    assert any(f"always answers '{lazy}'" in sentence for sentence in found)


def test_ranked_lists_are_probed_as_lists():
    spec = {"type": "rank", "input": "{{sample.output_json.genes}}", "reference": "{{item.answer}}"}
    rewards, found = probes_of(spec, DISTINCT)
    assert rewards["right"] == 1 and found == []
    assert 0.05 < rewards["the commonest references joined"] < 0.25  # 20 of 30 in one list
    _, found = probes_of(spec, items(["a", "b"] * 5))
    assert any("'the commonest references joined' earns 0.850" in sentence for sentence in found)


def test_nested_paths_are_filled():
    spec = {
        "type": "multi",
        "calculate_output": "(first + second) / 2",
        "graders": {
            "first": check("eq", "output_json.a.b[1]"),
            "second": check("eq", "output_json.a.c", "{{item.number}}"),
        },
    }
    rewards, _ = probes_of(spec, items(["x", "y"], number=2.5))
    assert rewards["right"] == 1


def test_rewards_out_of_range_and_wrong_right_answers_are_named():
    spec = {"type": "multi", "calculate_output": "3 * a - 1", "graders": {"a": check("eq")}}
    probes = probe(build_grader(load_grader(spec)), DISTINCT)
    assert any("outside of 0 .. 1" in sentence for sentence in warnings(probes))
    assert not any("outside" in sentence for sentence in warnings(probes, -1, 2))
    _, found = probes_of(spec | {"calculate_output": "a / 2"}, DISTINCT)
    assert any("the reference answer itself earns only 0.500" in sentence for sentence in found)


def test_probes_are_the_same_on_the_host():
    spec = load_grader(check("like"))
    rows = items(["a", "bc"])
    device, host = (probe(build_grader(spec, place), rows) for place in ("device", "host"))
    assert json.dumps(device, default=vars) == json.dumps(host, default=vars)


def test_where_the_right_answer_cannot_be_written_the_range_is_the_measure():
    spec = {"type": "regex", "input": "{{sample.output_text}}", "pattern": "[a-z]"}
    rewards, found = probes_of(spec, DISTINCT)
    assert "right" not in rewards
    assert any("cannot be told from this grader" in sentence for sentence in found)
    assert any("'the prompt' earns 1.000, while the right answer earns 1.000" in s for s in found)


def test_a_grader_that_fails_is_named_and_opened_once():
    opened = []

    class Failing:
        name = "failing"
        parse = classmethod(lambda cls, name, fields: cls())

        def check(self, items):
            pass

        def open(self, options):
            opened.append(self)
            return contextlib.nullcontext(self)

        def grade_batch(self, samples, items, rows):
            return [HostScore(0.0, frozenset({"python_grader_runtime_error"}))] * len(samples)

    _, found = warnings_of(Failing())
    assert "the grader itself failed on 100% of the items" in found[0]
    assert len(opened) == 1


def test_a_marker_stands_before_the_right_number():
    spec = {"type": "number", "input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
    rewards, _ = probes_of(spec | {"which": "marked", "marker": "####"}, items(["12", "7"]))
    assert rewards["right"] == 1 and rewards["the prompt"] == 0
