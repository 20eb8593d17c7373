"""Tables over tokens: what may come next is what the bytes say, and every way comes to its end."""

import json
import os
import random

import jax
import jax.numpy as jnp
import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.config import RolloutConfig
from rft_jax.grammars import build_tables, grammar, grammar_of, open_grammar, table_bytes
from rft_jax.grammars.byte_automaton import BASE, DEAD
from rft_jax.grammars.json_schema import schema_automaton
from rft_jax.grammars.response_format import ResponseFormat
from rft_jax.rollout import grammar_mask
from rft_jax.tokenizers.device_decode import DropSpace, Kind
from rft_jax.utils.errors import InputError

from .tools import (
    MARKER,
    STOP,
    TOKENS,
    decode,
    padded,
    random_schema,
    sample_without_model,
    strict,
    surfaces_of,
    vocabulary,
)

STYLES = ("byte_level", "sentencepiece")
SAMPLES = 8


class Prefix:
    """A text that is read byte by byte, with its counts: an automaton's plain reading."""

    def __init__(self, automaton, state=None, count=0):
        self.automaton, self.count = automaton, count
        self.state = automaton.start if state is None else state

    def after(self, data: bytes):
        """The prefix with more bytes; None if none of the language begins so."""
        automaton, state, count = self.automaton, self.state, self.count
        low_S, high_S = automaton.bounds()
        for byte in data:
            target = int(automaton.next_SC[state, automaton.class_of[byte]])
            inside, stays = automaton.stretch_S[state] >= 0, automaton.stretch_S[target] >= 0
            if target == DEAD or (inside and not stays and count < low_S[state]):
                return None
            if inside and stays:
                count += automaton.place_S[state] == BASE
            elif stays:
                count = 0
            if stays and count > high_S[target]:
                return None
            state = target
        return Prefix(automaton, state, int(count))


@jax.jit
def _replayed(tables, tokens):
    states = grammar_mask.replay(tables, tokens, jnp.ones(tokens.shape, bool))
    allowed = grammar_mask.allowed(tables, states, len(tables.class_V))
    return states, allowed, grammar_mask.next_on_way(tables, states)


def built(seed, style):
    rng = random.Random(seed)
    schema = random_schema(rng)
    automaton = schema_automaton(schema, "schema")
    return schema, automaton, build_tables(automaton, vocabulary(style), "schema")


def samples(tables, scale=3.0, budget=TOKENS):
    return np.asarray(
        sample_without_model(padded(tables), jax.random.key(0), SAMPLES, budget, scale)
    )


@settings(max_examples=10)
@given(st.integers(0, 2**32), st.sampled_from(STYLES))
def test_allowed_are_the_tokens_whose_bytes_can_go_on(seed, style):
    _, automaton, tables = built(seed, style)
    surfaces, words = surfaces_of(vocabulary(style)), vocabulary(style)
    tokens = samples(tables)
    _, allowed, _ = jax.device_get(_replayed(padded(tables), tokens))
    drops = words.pieces.drop_space == DropSpace.FIRST
    for row, allowed_TV in zip(tokens, allowed, strict=True):
        prefix = Prefix(automaton)
        for t, token in enumerate(row[:40]):
            if token == STOP:
                assert allowed_TV[t, STOP] and automaton.accepts_S[prefix.state]
                break
            for v in range(t % 7, len(surfaces), 7):
                surface = surfaces[v]
                if drops and t == 0 and words.pieces.kind_V[v] == Kind.SPACED:
                    surface = surface[1:]
                can = bool(surfaces[v]) and prefix.after(surface) is not None
                can = automaton.accepts_S[prefix.state] if v == STOP else can
                assert allowed_TV[t, v] == can, (surfaces[:v], surfaces[v])
            spaced = drops and t == 0 and words.pieces.kind_V[token] == Kind.SPACED
            prefix = prefix.after(surfaces[token][int(spaced) :])


@settings(max_examples=10)
@given(st.integers(0, 2**32), st.sampled_from(STYLES), st.sampled_from([0.1, 2.0]))
def test_every_sample_is_an_instance_and_ends(seed, style, scale):
    schema, _, tables = built(seed, style)
    if tables.least_tokens > TOKENS:
        return
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    tokens = samples(tables, scale=scale)
    for row in tokens:
        assert STOP in row
        text = decode(vocabulary(style), row[: list(row).index(STOP)])
        checker.validate(json.loads(text))


EVERY = strict(
    name={"type": "string", "minLength": 9, "maxLength": 12},
    tags={"type": "array", "items": {"enum": ["red", "green", "blau"]}, "minItems": 1},
    size={"anyOf": [{"type": "integer"}, strict(x={"type": "number"}, y={"type": "number"})]},
)


@pytest.mark.parametrize("style", STYLES)
def test_any_budget_is_enough_from_the_least_on(style):
    automaton = schema_automaton(EVERY, "schema")
    tables = build_tables(automaton, vocabulary(style), "schema")
    for budget in (tables.least_tokens, tables.least_tokens + 1, tables.least_tokens + 7):
        tokens = samples(tables, budget=budget)
        assert (tokens[:, :budget] == STOP).any(axis=1).all()
        for row in tokens:
            text = decode(vocabulary(style), row[: list(row).index(STOP)])
            assert jsonschema.Draft202012Validator(EVERY).is_valid(json.loads(text)), text


@settings(max_examples=5)
@given(st.integers(0, 2**32), st.sampled_from(STYLES))
def test_the_way_is_as_long_as_it_says(seed, style):
    _, automaton, tables = built(seed, style)
    text, state = [], grammar_mask.start(tables, jnp.ones((), bool))
    for left in range(int(tables.least_S[tables.start]), -1, -1):
        token = int(grammar_mask.next_on_way(tables, state))
        assert (token == STOP) == (left == 0)
        text.append(token)
        state = grammar_mask.advance(tables, state, jnp.int32(token), jnp.zeros((), bool))
    assert automaton.accepts(decode(vocabulary(style), text[:-1]))


def test_tables_come_from_the_disk_the_second_time(tmp_path, monkeypatch):
    class Tokenizer:
        """What the tables need of one."""

        forbidden_ids, stop_ids, end_of_think_id, answer_separator = (0,), (STOP,), MARKER, "\n\n"
        lead_ids = (3, 4)

        def piece_table(self):
            return vocabulary().pieces

    monkeypatch.setattr(grammar, "folder", lambda name: tmp_path / name)
    first = open_grammar(EVERY, Tokenizer())
    monkeypatch.setattr(ResponseFormat, "automaton", None)
    jax.tree.map(np.testing.assert_array_equal, first, open_grammar(EVERY, Tokenizer()))
    config = RolloutConfig(response_format=EVERY, reasoning_effort=5)
    needed = 5 + 3 + first.least_tokens  # the thought, what ends it, the answer
    assert grammar_of(RolloutConfig(), Tokenizer()) is None
    assert grammar_of(config, Tokenizer()) is not None
    (file,) = (tmp_path / "grammars").iterdir()
    short = RolloutConfig(
        response_format=EVERY, reasoning_effort=5, max_completion_tokens=needed - 1
    )  # fmt: skip
    with pytest.raises(InputError, match=f"completion_tokens: .* set it to at least {needed}"):
        grammar_of(short, Tokenizer())
    assert grammar_of(RolloutConfig(response_format={"type": "text"}), Tokenizer()) is None
    file.write_bytes(b"damaged")
    with pytest.raises(TypeError):  # built again
        open_grammar(EVERY, Tokenizer())


def test_the_disk_keeps_what_was_read_last(tmp_path, monkeypatch):
    tables = build_tables(schema_automaton(EVERY, "schema"), vocabulary(), "schema")
    files = [tmp_path / f"{name}.npz" for name in "abc"]
    grammar._save(tables, files[0])
    monkeypatch.setattr(grammar, "_MOST_BYTES_KEPT", 5 * files[0].stat().st_size // 2)
    for age, file in enumerate(files[:2]):
        grammar._save(tables, file)
        os.utime(file, (1000 + age, 1000 + age))
    assert grammar._load(files[0]) is not None  # after the other
    grammar._save(tables, files[2])
    assert [file.exists() for file in files] == [True, False, True]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("schema", [EVERY, {"type": "number", "minimum": 3}])
def test_the_closed_form_is_the_arrays_bytes(schema, style):
    tables = build_tables(schema_automaton(schema, "schema"), vocabulary(style), "schema")
    (classes, states), rows = tables.next_KS.shape, len(tables.bits_RW)
    counters = tables.counters
    most = None if counters is None else counters.room_SX.shape[1] - 1
    # Not every number of characters up to G need be had by one token.
    spare = 0 if counters is None else 4 * (counters.room_SX.shape[1] - len(counters.adding_G))
    size = len(tables.class_V)
    assert table_bytes(states, classes, rows, size, most) == tables.bytes + spare
    leaves = jax.tree.leaves(jax.device_put(tables))
    assert sum(leaf.nbytes for leaf in leaves) == tables.bytes  # no type is another on the device


def test_a_tokenizer_that_cannot_spell_is_refused():
    words = vocabulary()
    quotes = [b'"' in surface for surface in surfaces_of(words)]
    words = words._replace(written_V=words.written_V & ~np.array(quotes))
    with pytest.raises(
        InputError, match='schema: the tokenizer cannot spell any .* no token for "'
    ):
        build_tables(schema_automaton(EVERY, "schema"), words, "schema")
    # What can be said without is left.
    automaton = schema_automaton({"type": ["string", "null"]}, "schema")
    tables = build_tables(automaton, words, "schema")
    tokens = samples(tables)
    assert {decode(words, row[: list(row).index(STOP)]) for row in tokens} == {b"null"}


def test_tables_that_are_too_large_are_refused():
    automaton = schema_automaton({"enum": [f"{n:04}" * 3 for n in range(500)]}, "schema")
    words, size = vocabulary(), 700_000
    zeros = np.zeros(size - len(words.written_V), np.int32)
    pieces = words.pieces._replace(
        **{name: np.append(getattr(words.pieces, name), zeros) for name in ("offset_V", "length_V")}
    )
    words = words._replace(pieces=pieces, written_V=np.append(words.written_V, zeros > 0))
    with pytest.raises(InputError, match="schema: needs tables of more than 128 MB"):
        build_tables(automaton, words, "schema")


@pytest.mark.slow
def test_five_hundred_samples_of_random_schemas_are_instances():
    rng, checked = random.Random(1), 0
    while checked < 500:
        schema, words = random_schema(rng), vocabulary()
        tables = build_tables(schema_automaton(schema, "schema"), words, "schema")
        if tables.least_tokens > TOKENS:
            continue
        checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        for row in samples(tables, scale=rng.choice([0.5, 4.0])):
            checker.validate(json.loads(decode(words, row[: list(row).index(STOP)])))
            checked += 1
