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


def test_the_usual_mistakes_get_their_remedy():
    def called(function, sentence):
        grader = named(function, x="{{sample.output_text}}", y="{{item.a}}")
        for placement in ("device", "host"):
            with pytest.raises(InputError, match=sentence) as error:
                grade_texts(build_grader(grader, placement), ["a"], [{"a": "abc"}])
            assert "\n" not in str(error.value)

    line = r"f: failed at line \d+ of test_function.py"
    called(lambda x, y: x == y, r"equal")
    called(lambda x, y: jnp.float32(x == y), "equal")
    called(lambda x, y: x.lower(), rf"{line} \(AttributeError: .*use case_fold\(text\) of rft_jax")
    called(lambda x, y: x.lengths, rf"{line} .*use text.length")
    called(lambda x, y: 1.0 if x in y else 0.0, "contains")
    called(lambda x, y: True, "f: returned the Python bool True; one score for each")
    called(lambda x, y: "yes", "f: returned a str; one score for each of the")
    called(lambda x, y: None, "f: returned nothing")
    called(lambda x, y: x, "f: returned texts; one score")
    called(lambda x, y: float(x.length[0]), rf"{line} .*jnp.where|the Python float")
    called(lambda x, y: 1 / 0, rf"{line} \(ZeroDivisionError: division by zero\); correct it")


def test_a_broken_grader_leaves_the_others_of_its_module_usable(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "half_broken.py").write_text(
        "from rft_jax.graders import device_grader\n"
        "@device_grader(a='{{sample.output_text}}')\ndef good(a): return a.length\n"
        "@device_grader(b='{{sample.output_text}}')\ndef bad(a): return a.length\n"
    )
    assert load_grader("half_broken:good").name == "good"
    with pytest.raises(InputError, match="^half_broken: bad: takes a, but there are templates"):
        load_grader("half_broken:bad")
    with pytest.raises(InputError, match=r"has no other \(its graders are good, bad\)"):
        load_grader("half_broken:other")
    (tmp_path / "raises.py").write_text("x = 1\ny = x + ''\n")
    with pytest.raises(InputError, match=r"raises: cannot be imported \(TypeError: .*line 2 of"):
        load_grader("raises:x")
    for name in ("half_broken.py:good", "half_broken.py"):
        with pytest.raises(InputError, match=r"named without .py; write half_broken:(good|NAME)"):
            load_grader(name)
    with pytest.raises(InputError, match="write half_broken:NAME"):
        load_grader("half_broken")


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
