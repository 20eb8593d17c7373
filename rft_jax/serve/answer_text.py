"""Tokens of one answer to text for a client: in whole characters, up to a stop text.

    text = AnswerText(TokenTexts.of(tokenizer), stops=("\\n",))
    text.add(token, logprob)
    text.take()                      # what can be sent already
    text.finish(); text.take()       # the rest

The text is what the tokenizer's own `decode` gives. The tokens' bytes, joined, are its UTF-8.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rft_jax.tokenizers import Tokenizer
from rft_jax.tokenizers.device_decode import DropSpace, Kind, Repair
from rft_jax.utils.types import JsonObject

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TokenTexts:
    """The bytes of a tokenizer's tokens, and its rules."""

    def __init__(self, tokenizer: Tokenizer):
        table = tokenizer.piece_table()
        self._bytes = np.asarray(table.bytes_S).tobytes()
        # Lists, whose elements are found faster than those of arrays.
        self._offset_V = np.asarray(table.offset_V).tolist()
        self._length_V = np.asarray(table.length_V).tolist()
        kinds = {int(kind): kind for kind in Kind}
        self._kind_V = [kinds[kind] for kind in np.asarray(table.kind_V).tolist()]
        self.drop_space = DropSpace(int(table.drop_space))
        self.repair = Repair(int(table.repair))
        self.longest = max(1, max(self._length_V))  # bytes of a token
        self.strips_newlines = bool(tokenizer.answer_separator)

    def surface(self, token: int) -> bytes:
        """A token's bytes; none of special ones."""
        offset = self._offset_V[token]
        return self._bytes[offset : offset + self._length_V[token]]

    def kind(self, token: int) -> Kind:
        """How they enter the text."""
        return self._kind_V[token]

    def describe(self, token: int, logprob: float) -> JsonObject:
        """A token and its log-probability, as OpenAI's API writes it."""
        surface = self.surface(token)
        if not surface:
            return {"token": f"<token {token}>", "logprob": logprob, "bytes": []}
        shown = surface.decode(errors="replace")
        return {"token": shown, "logprob": logprob, "bytes": list(surface)}


@dataclass
class TokenLogprob:
    """The log-probability of a token of the answer, and of the most probable ones there."""

    token: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()
    data: bytes = b""  # its part of the text

    def to_json(self, texts: TokenTexts) -> JsonObject:
        """As OpenAI's API writes it."""
        return {
            "token": self.data.decode(errors="replace"),
            "logprob": self.logprob,
            "bytes": list(self.data),
            "top_logprobs": [texts.describe(token, logprob) for token, logprob in self.top],
        }


@dataclass
class _Unit:
    """Tokens whose bytes together are whole characters."""

    text: str
    tokens: list[TokenLogprob]


@dataclass
class Piece:
    """A part of an answer."""

    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)


class AnswerText:
    """The text of one answer while it grows.

    Attributes:
        stopped: A stop text came; the answer ends in front of it.
    """

    def __init__(self, texts: TokenTexts, stops: Sequence[str] = ()):
        self.stopped = False
        self._texts, self._stops = texts, [stop for stop in stops if stop]
        self._at_start = True  # of what the tokenizer decodes
        self._before_text = texts.strips_newlines  # of what the client gets
        self._run: list[TokenLogprob] = []  # tokens whose characters are not whole yet
        self._buffer, self._decoded = b"", ""  # of the run
        self._held: list[_Unit] = []  # what a stop text may begin in
        self._ready = Piece()

    def add(self, token: TokenLogprob) -> None:
        """Takes the next token of the answer, which is no stop token."""
        kind, data = self._texts.kind(token.token), self._texts.surface(token.token)
        if kind is not Kind.RAW and kind is not Kind.SKIPPED:
            self._end_run()
        if not data or self.stopped:
            return
        token.data = self._without_space(kind, data)
        self._run.append(token)
        self._buffer += token.data
        if kind is not Kind.RAW:
            self._end_run()
        elif self._texts.repair is not Repair.RUN:
            self._decode(final=False)
            if not self._buffer:
                self._end_unit()

    def finish(self) -> None:
        """There are no more tokens."""
        self._end_run()
        for unit in self._held:
            self._release(unit)
        self._held = []

    def take(self) -> Piece:
        """What has become ready since the last time."""
        piece, self._ready = self._ready, Piece()
        return piece

    def _without_space(self, kind: Kind, data: bytes) -> bytes:
        rule, at_start = self._texts.drop_space, self._at_start
        if rule is DropSpace.TEXT:
            return data  # see `_end_unit`
        drops = at_start and kind is Kind.SPACED and rule is not DropSpace.NEVER
        passed = kind is Kind.SPACED and len(data) == 1 and rule is DropSpace.LEADING
        self._at_start = at_start and passed
        return data[1:] if drops else data

    def _end_run(self) -> None:
        if self._run:
            self._decode(final=True)
            self._end_unit()

    def _decode(self, final: bool) -> None:
        """Decodes what is whole, and with `final` the rest too."""
        by_run = self._texts.repair is Repair.RUN
        while self._buffer:
            try:
                text, used = codecs.utf_8_decode(self._buffer, "strict", final)
            except UnicodeDecodeError as error:
                if by_run:
                    text, used = _REPLACEMENT * len(self._buffer), len(self._buffer)
                else:
                    bad = error.end - error.start
                    marks = 1 if self._texts.repair is Repair.SUBPART else bad
                    text = self._buffer[: error.start].decode() + _REPLACEMENT * marks
                    used = error.end
            if not used:
                return
            self._decoded += text
            self._buffer = self._buffer[used:]

    def _end_unit(self) -> None:
        unit = _Unit(self._decoded, self._run)
        if b"".join(token.data for token in unit.tokens) != unit.text.encode():
            for token in unit.tokens[:-1]:
                token.data = b""
            unit.tokens[-1].data = unit.text.encode()
        self._run, self._decoded = [], ""
        if self._at_start and self._texts.drop_space is DropSpace.TEXT:
            self._at_start = False
            if unit.text.startswith(" "):
                unit = _without_first(unit, 1)
        if self._before_text:
            unit = _without_first(unit, len(unit.text) - len(unit.text.lstrip("\n")))
            self._before_text = not unit.text
        if unit.text:
            self._held.append(unit)
            self._look_for_stops()

    def _look_for_stops(self) -> None:
        text = "".join(unit.text for unit in self._held)
        found = [index for stop in self._stops if (index := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._release_up_to(min(found), whole=False)
            self._held = []
        else:
            self._release_up_to(len(text) - _possible_beginning(text, self._stops), whole=True)

    def _release_up_to(self, size: int, whole: bool) -> None:
        """Releases so many held characters; if units must be whole, those that fit."""
        while self._held and size:
            unit = self._held[0]
            if len(unit.text) > size:
                if not whole:
                    self._release(_first_of(unit, size))
                return
            self._release(self._held.pop(0))
            size -= len(unit.text)

    def _release(self, unit: _Unit) -> None:
        self._ready.text += unit.text
        self._ready.tokens += unit.tokens


def _without_first(unit: _Unit, characters: int) -> _Unit:
    """The unit without its first characters, and tokens that are left without bytes."""
    if not characters:
        return unit
    drop = len(unit.text[:characters].encode())
    for token in unit.tokens:
        cut = min(drop, len(token.data))
        token.data, drop = token.data[cut:], drop - cut
    return _Unit(unit.text[characters:], [token for token in unit.tokens if token.data])


def _first_of(unit: _Unit, characters: int) -> _Unit:
    """The unit's first characters."""
    left = len(unit.text[:characters].encode())
    for token in unit.tokens:
        token.data = token.data[:left]
        left -= len(token.data)
    return _Unit(unit.text[:characters], [token for token in unit.tokens if token.data])


def _possible_beginning(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of a stop."""
    longest = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:size]):
                longest = size
                break
    return longest
