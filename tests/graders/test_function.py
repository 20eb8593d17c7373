"""A jnp function as a grader, in a notebook and in an experiment."""

import jax.numpy as jnp
import pytest

from rft_jax.graders import build_grader, device_grader, grade_texts, load_grader
from rft_jax.strings import case_fold, contains
from rft_jax.utils.errors import InputError


@device_grader(answer="{{ sample.output_text }}", wanted="{{ item.city }}")
def names_the_city(answer, wanted):
    return contains(case_fold(answer), case_fold(wanted))


@device_grader(digits="{{sample.output_json.code}}")
def share_of_zeros(digits):
    inside = jnp.arange(digits.bytes.shape[1]) < digits.length[:, None]
    return ((digits.bytes == ord("0")) & inside).sum(axis=1) / jnp.maximum(digits.length, 1)


not_a_grader = 3


@pytest.mark.parametrize("placement", ["device", "host"])
def test_a_function_grades_texts(placement):
    texts, items = (
        ["It is PARIS.", "Lyon", "Zürich"],
        [{"city": c} for c in ("Paris", "Bonn", "zÜ")],
    )
    grade = grade_texts(build_grader(names_the_city, placement), texts, items)
    assert grade.reward.tolist() == [1, 0, 1]
    assert grade.scores["names_the_city"].tolist() == [1, 0, 1]
    texts = ['{"code": "0010"}', '{"code": ""}', "{}", "no"]
    grade = grade_texts(build_grader(share_of_zeros, placement), texts, [{}] * 4)
    assert grade.reward.tolist() == [0.75, 0, 0, 0]
    assert grade.errors["invalid_variable_error"].tolist() == [False, False, True, False]
    assert grade.errors["sample_parse_error"].tolist() == [False, False, False, True]


def test_an_experiment_names_it_by_module():
    grader = load_grader(f"{__name__}:names_the_city")
    assert grader is names_the_city
    for name, sentence in {
        f"{__name__}:not_a_grader": "is no grader",
        f"{__name__}:missing": "has no missing",
        "no_such_module:x": "cannot be imported",
    }.items():
        with pytest.raises(InputError, match=sentence):
            load_grader(name)


def test_mistakes_get_a_sentence():
    with pytest.raises(InputError, match=r"f\.x: a '{{' is not closed"):
        named(x="{{ item.a")
    for wrong in ({}, {"y": "a"}, {"x": "a", "y": "b"}):
        with pytest.raises(InputError, match="f: takes x, but there are templates for"):
            named(**wrong)
    wide = named(lambda x: x.bytes, x="{{sample.output_text}}")
    with pytest.raises(InputError, match="f: returned an array of shape"):
        grade_texts(build_grader(wide), ["a"], [{}])


def named(function=lambda x: x.length, **templates):
    function.__name__ = "f"
    return device_grader(**templates)(function)
