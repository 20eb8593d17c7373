"""The best constant answer, against counting."""

import collections
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.graders import Grader, Items, build_grader, load_grader
from rft_jax.graders.constant import MOST_CANDIDATES, best_constant
from rft_jax.logging.metrics import CompileCounter


def grader_of(operation):
    return build_grader(
        load_grader(
            {
                "type": "string_check",
                "operation": operation,
                "input": "{{ sample.output_json.label }}",
                "reference": "{{ item.label }}",
            }
        )
    )


def write(label):
    return json.dumps({"label": label})


def items_of(labels):
    return Items([{"messages": [], "label": label} for label in labels], "items.jsonl")


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from(("a", "b", "cc", "A")), min_size=6, max_size=6))
def test_under_equality_it_is_the_commonest_label(labels):
    labels = ["a", "b", "cc", "A", *labels]  # as many to try each time: one program
    best = best_constant(grader_of("eq"), items_of(labels), map(write, labels))
    label, count = collections.Counter(labels).most_common(1)[0]
    assert best.answer == write(label)
    assert best.reward == pytest.approx(count / len(labels))


def test_items_are_encoded_once_and_one_program_is_compiled(monkeypatch):
    encoded, encode = [], Grader.encode_items
    monkeypatch.setattr(Grader, "encode_items", lambda *given: encoded.append(1) or encode(*given))
    labels = [str(n) + "x" * 300 * n for n in range(4)]  # of several widths
    with CompileCounter() as compiled:
        best_constant(grader_of("like"), items_of(labels), map(write, labels))
    assert len(encoded) == 1 and compiled.count + compiled.cached <= 1


def test_under_inequality_it_is_the_rarest_label():
    labels = ["a"] * 3 + ["b"] * 2 + ["c"]
    best = best_constant(grader_of("ne"), items_of(labels), map(write, labels))
    assert best.answer == write("c") and best.reward == pytest.approx(5 / 6)


def test_the_commonest_answers_are_tried_and_no_answer_earns_nothing():
    labels = ["common"] * 2 + [f"rare{n}" for n in range(2 * MOST_CANDIDATES)]
    tried = [write(label) for label in reversed(labels)]
    assert best_constant(grader_of("eq"), items_of(labels), tried).answer == write("common")
    assert best_constant(grader_of("eq"), items_of(labels), []) == ("", 0)
