"""The probes find graders that pay for nothing, and leave sound ones in peace."""

import contextlib
import json
import math

import jax.numpy as jnp
import pytest

from rft_jax.graders import Items, build_grader, device_grader, load_grader
from rft_jax.graders.probe import Probe, probe, warnings
from rft_jax.graders.protocols import HostNode
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


def test_where_no_answer_earns_anything_only_that_is_said():
    probes = [Probe("right", 0.0, 0.0, 0.0), Probe("nothing", 0.0, 0.0, 0.0)]
    (sentence,) = warnings(probes)
    assert "the reference answer itself earns only 0.000" in sentence


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
    assert any("'the prompt' earns 1.000, of a range that ends at 1;" in s for s in found)
    assert "the commonest reference" not in rewards


def test_a_grader_that_fails_is_named_and_opened_once():
    opened = []

    class Failing(HostNode):
        name = type_name = "failing"
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


def test_the_majority_of_a_choice_is_named():
    spec = {
        "type": "choice",
        "input": "{{sample.output_text}}",
        "choices": ["billing", "technical"],
        "reference": "{{item.answer}}",
    }
    rewards, found = probes_of(spec, items(["billing"] * 9 + ["technical"]))
    assert rewards["right"] == 1 and rewards["the commonest reference"] == pytest.approx(0.9)
    assert any("'the commonest reference' earns 0.900" in sentence for sentence in found)


@device_grader(answer="{{sample.output_text}}", wanted="{{item.answer}}")
def first_letter(answer, wanted):
    return (answer.bytes[:, 0] == wanted.bytes[:, 0]) & (answer.length > 0)


@device_grader(answer="{{sample.output_text}}")
def not_a_number(answer):
    return jnp.where(answer.length > 0, jnp.nan, 0.0)


def test_function_graders_are_probed_through_their_templates():
    rewards, found = warnings_of(first_letter, items(["ab", "ac", "bc", "ad"]))
    assert "right" not in rewards and rewards["each item's own reference"] == 1
    assert rewards["the commonest reference"] == pytest.approx(0.75)
    sentence = "'the commonest reference' earns 0.750, while each item's own reference earns 1.000"
    assert any(sentence in s for s in found)


def test_a_score_that_is_no_number_is_told():
    probes = probe(build_grader(not_a_number), DISTINCT)
    by_name = {p.name: p for p in probes}
    assert math.isnan(by_name["the prompt"].reward) and by_name["nothing"].reward == 0
    assert by_name["the prompt"].failures == {"other_error": 30}
    assert "the commonest reference" not in by_name
    assert any("no finite number (NaN or infinity), or took" in s for s in warnings(probes))


def test_of_several_nodes_that_read_one_field_the_best_answer_is_right():
    spec = {
        "type": "multi",
        "calculate_output": "yes * p_yes + no * (1 - p_yes)",
        "graders": {
            "yes": check("eq", "output_json.x", "yes"),
            "no": check("eq", "output_json.x", "no"),
            "p_yes": check("eq", "output_text", "x") | {"input": "{{item.answer}}"},
        },
    }
    rewards, found = probes_of(spec, items(["x", "y", "y", "y"]))
    assert rewards["right"] == 1 and rewards["the commonest reference"] == pytest.approx(0.75)
    assert not any("the reference answer itself" in sentence for sentence in found)


@pytest.mark.slow
def test_an_answer_that_a_regex_captures_is_tried():
    spec = {
        "type": "regex",
        "input": "{{sample.output_text}}",
        "pattern": r"(?s)\{.*\}",
        "group": 0,
        "grader": check("eq"),
    }
    rewards, found = probes_of(spec, DISTINCT)
    assert rewards["right"] == 1 and found == []
    rewards, _ = probes_of(spec | {"pattern": "<a>(.*)</a>", "group": 1}, DISTINCT)
    assert "right" not in rewards and "the commonest reference" not in rewards


def test_each_kind_of_a_switch_is_probed_with_its_own_fields():
    spec = {
        "type": "switch",
        "on": "{{item.kind}}",
        "graders": {"a": check("eq", "output_text"), "b": check("eq", "x", "{{item.other}}")},
    }
    spec["graders"]["b"]["input"] = "{{sample.output_json.x}}"
    rows = items(["q", "r"], kind="a").rows + [
        {"messages": [{"role": "user", "content": "?"}], "other": "s", "kind": "b"}
    ]
    rewards, _ = probes_of(spec, Items(rows, "train.jsonl"))
    assert rewards["right"] == 1


def test_without_a_right_answer_the_grader_tells_it_or_there_is_none():
    nobody_knows = [None] * 30
    for spec in (check("eq"), check("ne")):
        grader = build_grader(load_grader(spec))
        assert probe(grader, DISTINCT, nobody_knows) == probe(grader, DISTINCT)
    assert "right" not in {p.name for p in probe(grader, DISTINCT, nobody_knows)}


def test_right_answers_can_be_given():
    class Own(HostNode):
        type_name = "own"
        name = "own"
        parse = classmethod(lambda cls, name, fields: cls())

        def check(self, items):
            pass

        def open(self, options):
            return contextlib.nullcontext(self)

        def grade_batch(self, samples, items, rows):
            return [
                HostScore(float(sample.output_text == items.rows[n]["answer"]))
                for sample, n in zip(samples, rows, strict=True)
            ]

    right = [*[f"name{n}" for n in range(29)], None]
    probes = probe(build_grader(Own()), DISTINCT, right)
    assert (probes[0].name, probes[0].reward, probes[0].answers) == ("right", 1, 29)
    assert warnings(probes) == []


@pytest.mark.parametrize(
    ("spec", "answers"),
    [
        ({"type": "number", "which": "marked", "marker": "####"}, ["12", "7"]),
        ({"type": "number", "which": "marked", "marker": "[[", "end": "]]"}, ["12", "7"]),
        ({"type": "number", "which": "marked", "marker": "<answer>"}, ["12", "7"]),
        ({"type": "math"}, ["yes", "(1, 2)"]),
        ({"type": "math", "marker": "[[", "end": "]]"}, ["yes", "(1, 2)"]),
        ({"type": "math", "marker": "\\boxed{"}, ["yes", "(1, 2)"]),
    ],
)
def test_a_right_answer_stands_in_its_marker(spec, answers):
    sides = {"input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
    rewards, _ = probes_of(spec | sides, items(answers))
    assert rewards["right"] == 1 and rewards["the prompt"] == 0
