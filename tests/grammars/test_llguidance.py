"""The tokens that may come next are those of llguidance, but for what is listed here."""

import json
import random

import jax
import numpy as np
import pytest

from rft_jax.grammars import build_tables
from rft_jax.grammars.json_schema import schema_automaton
from rft_jax.rollout import grammar_mask

from .tools import (
    STOP,
    TOKENS,
    padded,
    random_schema,
    sample_without_model,
    surfaces_of,
    vocabulary,
)

pytestmark = pytest.mark.oracle

SCHEMAS, PREFIXES = 100, 50

# Where both are right, or ours is what Python's regular expressions mean:
# - \w, \d and [^...] are Unicode's here, and ASCII's or without control characters there;
# - there a control character may be spelled in several ways, \n and \u000a; here in one;
# - formats: there an e-mail address may be more than ours, and a date the 31st of February;
# - bounds with a fraction: there -1199.7 is not above -1199.75.
OTHERWISE = ("pattern", "format", ".25", ".75")


class Tokens:
    """The vocabulary as llguidance wants it; texts are tokenized by bytes."""

    eos_token_id, bos_token_id, special_token_ids = STOP, None, [0, 1, 2]

    def __init__(self, surfaces):
        self.tokens = [b"\xff<0>", b"\xff<1>", b"\xff<2>", *surfaces[3:]]

    def __call__(self, text):
        return [3 + byte for byte in (text.encode() if isinstance(text, str) else text)]


def test_the_same_tokens_may_come_next():
    llguidance = pytest.importorskip("llguidance")
    llguidance_numpy = pytest.importorskip("llguidance.numpy")
    words = vocabulary()
    surfaces = surfaces_of(words)
    tokenizer = llguidance.LLTokenizer(
        llguidance.TokenizerWrapper(Tokens(surfaces)), n_vocab=len(surfaces)
    )

    @jax.jit
    def allowed_of(tables, tokens):
        states = grammar_mask.replay(tables, tokens, np.ones(tokens.shape, bool))
        return grammar_mask.allowed(tables, states, len(surfaces))

    rng, compared = random.Random(0), 0
    for number in range(SCHEMAS):
        schema = random_schema(rng)
        while any(word in str(schema) for word in OTHERWISE):
            schema = random_schema(rng)
        spaces = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
        theirs = llguidance.LLMatcher.grammar_from_json_schema(
            json.dumps(schema | {"x-guidance": spaces})
        )
        tables = padded(build_tables(schema_automaton(schema, "schema"), words, "schema"))
        tokens = sample_without_model(tables, jax.random.key(number), 6, TOKENS, 3.0)
        allowed = np.asarray(allowed_of(tables, tokens))
        prefixes = 0
        for row, ours_TV in zip(np.asarray(tokens), allowed, strict=True):
            matcher = llguidance.LLMatcher(tokenizer, theirs)
            assert not matcher.is_error(), (schema, matcher.get_error())
            for t, token in enumerate(row.tolist()):
                if prefixes == PREFIXES:
                    break
                bits = llguidance_numpy.allocate_token_bitmask(1, len(surfaces))
                llguidance_numpy.fill_next_token_bitmask(matcher, bits, 0)
                may = np.unpackbits(bits.view(np.uint8), bitorder="little")[: len(surfaces)] == 1
                for v in np.flatnonzero(may != ours_TV[t]).tolist():
                    # What only one continuation leaves, it allows in one tokenization only.
                    if ours_TV[t, v]:
                        assert matcher.validate_tokens([v]) == 1, (schema, row[:t], surfaces[v])
                    else:
                        before = b"".join(surfaces[u] for u in row[:t])
                        assert _another_spelling(before + surfaces[v]), (before, surfaces[v])
                prefixes += 1
                if token == STOP:
                    break
                assert matcher.consume_token(token)
        compared += prefixes
    assert compared > SCHEMAS * PREFIXES / 4


def _another_spelling(text: bytes) -> bool:
    """It ends with the beginning of an escape \\u00.., of which ours has less."""
    return b"\\u" in text[-8:]
