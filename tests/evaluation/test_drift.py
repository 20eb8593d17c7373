"""How answers grow alike, in figures."""

import pytest

from rft_jax.evaluation.drift import describe_answers


def test_the_form_of_answers_in_figures():
    found = describe_answers(
        [
            '{"a": 1}',
            '{"a": 1} ',
            "é",
            "the same words again",
            "the same words, or not",
            "so so so so so",
        ]
    )
    sizes = [8, 9, 2, 20, 22, 14]
    assert found["answers/bytes_mean"] == pytest.approx(sum(sizes) / 6)
    assert found["answers/json_fraction"] == pytest.approx(2 / 6)
    assert found["answers/same_opening_fraction"] == pytest.approx(2 / 6)
    assert found["answers/repeated_fraction"] == pytest.approx(1 / 2 / 6)  # one of two 4-grams


def test_one_empty_answer_is_one_answer():
    found = describe_answers([""])
    assert found == {
        "answers/bytes_mean": 0,
        "answers/same_opening_fraction": 1,
        "answers/json_fraction": 0,
        "answers/repeated_fraction": 0,
    }
