"""`repetition` is the share of n-grams that are new."""

import random

import pytest

from rft_jax.graders import load_grader
from rft_jax.utils.errors import InputError


def spec(**fields):
    return {"type": "repetition", "name": "fresh", "input": "{{sample.output_text}}", **fields}


@pytest.fixture(scope="module")
def bigrams(parity):
    return parity(spec(n=2))


@pytest.mark.parametrize(
    "text, score",
    [
        ("", 1),
        ("a", 1),
        ("a a", 1),
        ("a b a b", 2 / 3),
        ("a a a a a", 1 / 4),
        ("the cat\nthe  cat\tthe cat", 2 / 5),
        ("The cat the cat.", 1),
        ("é x e\u0301 x", 1),
        ("😀 \x00 😀 \x00", 2 / 3),
    ],
)
def test_bigrams_that_occurred_before_cost_their_share(bigrams, text, score):
    assert bigrams.scores(text) == pytest.approx([score])


def test_the_default_is_four_words(parity):
    texts = ["a b c a b c", "a b c d a b c d", "x x x x x"]
    assert parity(spec()).scores(*texts) == pytest.approx([1, 4 / 5, 1 / 2])


def test_a_field_of_the_answers_json_can_be_looked_at(parity):
    both = parity(spec(input="{{sample.output_json.why}}", n=1))
    assert both.scores('{"why": "a a"}', '{"why": ["a"]}', "{}", "a b") == [0.5, 1, 0, 0]


def generated(rng, count):
    """Texts between all words alike and all different."""
    words = [
        "a",
        "b",
        "ab",
        "The",
        "the",
        "é",
        "e\u0301",
        "😀",
        "\u202eb",
        "\x00",
        "\ufffd",
        "日本",
    ]
    gaps = [" ", " ", " ", "\r\n", "  ", "\u2003", ""]
    for _ in range(count):
        some = rng.sample(words, rng.randint(1, len(words)))
        text = "".join(rng.choice(some) + rng.choice(gaps) for _ in range(rng.randint(0, 60)))
        yield text.encode()[: rng.randint(0, 250)].decode("utf-8", "replace"), 0


def test_generated_texts_are_graded_as_on_the_host(bigrams):
    assert bigrams.differences(generated(random.Random(0), 500)) == []


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_thousands_of_texts_are_graded_as_on_the_host(parity, n):
    pairs = list(generated(random.Random(n), 4096))
    differences = parity(spec(n=n), rows=512).differences(pairs)
    print(f"n = {n}: {len(pairs)} texts, {len(differences)} differences")
    assert differences == []


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"n": 0}, "n: must be a whole number from 1 to 16"),
        ({"n": 17}, "n: must be a whole number from 1 to 16"),
        ({"input": None}, "input: must be a string"),
        ({"penalty": 1}, "penalty: unknown field"),
    ],
)
def test_what_is_wrong_with_a_specification_is_said(fields, message):
    with pytest.raises(InputError, match=message):
        load_grader(spec(**fields))
