"""`json_object`: what is accepted are objects as `json.dumps` writes them, to a stated depth."""

import json

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.grammars import build_tables
from rft_jax.grammars.any_json import DEPTH, object_automaton

from .test_token_tables import STYLES
from .tools import STOP, TOKENS, decode, padded, sample_without_model, vocabulary

AUTOMATON = object_automaton("\n\n")
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=5)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars.filter(lambda value: value not in (float("inf"), float("-inf"))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


def depth(value):
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def dumps(value):
    return json.dumps(value, ensure_ascii=False).encode()


@given(st.dictionaries(texts, values, max_size=3), st.sampled_from(["", "\n\n"]))
def test_objects_are_accepted_to_the_stated_depth(value, before):
    accepted = AUTOMATON.accepts(before.encode() + dumps(value))
    assert accepted == (depth(value) <= DEPTH)


@given(values.filter(lambda value: not isinstance(value, dict)))
def test_nothing_but_an_object_is_accepted(value):
    assert not AUTOMATON.accepts(dumps(value))


def test_the_deepest():
    for open_, close in (("[", "]"), ('{"": ', "}")):
        for levels in (DEPTH - 1, DEPTH):
            text = '{"a": ' + open_ * levels + "0" + close * levels + "}"
            assert AUTOMATON.accepts(text.encode()) == (levels < DEPTH)


@settings(max_examples=4)
@given(st.sampled_from(STYLES), st.sampled_from([0.1, 4.0]))
def test_every_sample_parses(style, scale):
    tables = build_tables(AUTOMATON, vocabulary(style), "response_format")
    tables = padded(tables, states=1400, classes=512, rows=1400)
    tokens = np.asarray(sample_without_model(tables, jax.random.key(0), 8, TOKENS, scale))
    for row in tokens:
        text = decode(vocabulary(style), row[: list(row).index(STOP)])
        assert isinstance(json.loads(text), dict)
