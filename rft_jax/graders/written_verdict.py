"""Verdicts that a judge on the device writes: `{"result": ...}`, held to its schema by a grammar.

The judge decodes greedily, and of every token it can take only those after which a verdict is
still possible; when the tokens left would not suffice for the end, it takes the shortest way there.
So every verdict parses, is a number of the range or one of the labels, and nothing is made up for
one that does not.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.graders.types import Tokens
from rft_jax.grammars import GrammarTables, open_grammar
from rft_jax.strings import ByteString, drop_leading
from rft_jax.tokenizers import DetokenizeTable, Tokenizer, detokenize
from rft_jax.utils.types import JsonObject

_NUMBER_BYTES = len('{"result": }') + 24  # a longer number is brought to its end


@dataclass(frozen=True, eq=False)
class WrittenVerdict:
    """What a judge may write.

    Attributes:
        grammar: The schema's tables. Arrays of the compiled program, as they are small: a few dozen
            states.
        tokens: The most of a verdict.
        pieces: The tokenizer's text of tokens.
        labels: What `result` may be; empty: numbers.
    """

    grammar: GrammarTables
    tokens: int
    pieces: DetokenizeTable
    labels: tuple[str, ...] = ()

    def label_index(self, written: Tokens) -> jax.Array:
        """int32[N]: which of the labels was written."""
        texts = [_result(label).encode() for label in self.labels]
        text = self._text(written, max(map(len, texts)))
        wanted_KL = np.zeros((len(texts), text.bytes.shape[1]), np.uint8)
        for row, label in zip(wanted_KL, texts, strict=True):
            row[: len(label)] = np.frombuffer(label, np.uint8)
        same_NK = (jnp.asarray(text.bytes)[:, None] == wanted_KL).all(axis=-1)
        return jnp.argmax(same_NK, axis=-1).astype(jnp.int32)

    def number(self, written: Tokens) -> jax.Array:
        """float32[N]: the number that was written, the only thing with digits."""
        byte_NL = jnp.asarray(self._text(written, _NUMBER_BYTES).bytes).astype(jnp.int32)
        digit_NL = (byte_NL >= ord("0")) & (byte_NL <= ord("9"))
        behind_NL = jnp.cumsum(byte_NL == ord("."), axis=1) > 0
        whole_NL = digit_NL & ~behind_NL
        left_NL = whole_NL.sum(axis=1, keepdims=True) - jnp.cumsum(whole_NL, axis=1)
        place_NL = jnp.where(behind_NL, -jnp.cumsum(digit_NL & behind_NL, axis=1), left_NL)
        value_NL = (byte_NL - ord("0")) * 10.0 ** place_NL.astype(jnp.float32)
        size_N = jnp.where(digit_NL, value_NL, 0).sum(axis=1)
        return jnp.where((byte_NL == ord("-")).any(axis=1), -size_N, size_N)

    def _text(self, written: Tokens, most: int) -> ByteString:
        ids_NT = jnp.asarray(written.ids)
        start_N, end_N = jnp.zeros(len(ids_NT), jnp.int32), jnp.asarray(written.length)
        width = most + len("\n\n")  # which a format may put in front of an answer
        text, _ = detokenize(self.pieces, ids_NT, start_N, end_N, width)
        return drop_leading(text, ord("\n"))


def number_verdict(low: float, high: float, tokenizer: Tokenizer, place: str) -> WrittenVerdict:
    """Numbers of a range.

    Raises:
        InputError: The tokenizer cannot spell them.
    """
    schema = {"type": "number", "minimum": low, "maximum": high}
    return _open(schema, _NUMBER_BYTES, tokenizer, place)


def label_verdict(labels: Sequence[str], tokenizer: Tokenizer, place: str) -> WrittenVerdict:
    """One of some labels.

    Raises:
        InputError: The tokenizer cannot spell them.
    """
    longest = max(len(_result(label).encode()) for label in labels)
    verdict = _open({"enum": list(labels)}, longest, tokenizer, place)
    return replace(verdict, labels=tuple(labels))


def _open(result: JsonObject, most: int, tokenizer: Tokenizer, place: str) -> WrittenVerdict:
    schema = {
        "type": "object",
        "properties": {"result": result},
        "required": ["result"],
        "additionalProperties": False,
    }
    grammar = open_grammar(schema, tokenizer, place)
    assert grammar is not None, "a schema is no free text"
    # A token is a byte at least; behind the separator and before the stop there is one more.
    tokens = max(grammar.least_tokens, len(tokenizer.answer_separator) + most + 1)
    return WrittenVerdict(grammar, tokens, tokenizer.piece_table())


def _result(value: object) -> str:
    return json.dumps({"result": value}, ensure_ascii=False)
