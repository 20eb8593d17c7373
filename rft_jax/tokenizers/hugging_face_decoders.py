"""The decoders of tokenizer.json as rules of the detokenization table.

`decoding(decoder, place)` reads the decoder's JSON; `Decoding.surface` then tells how a token's
bytes enter the text.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rft_jax.tokenizers.device_decode import DropSpace, Kind, Repair
from rft_jax.utils.errors import InputError

_BYTE_TOKEN = re.compile(r"<0x(\+[0-9A-Fa-f]|[0-9A-Fa-f]{2})>")  # as Rust's from_str_radix reads it
_STRIP_SPACE = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


@dataclass(frozen=True)
class Decoding:
    """How a tokenizer makes text of tokens.

    Attributes:
        surface: a token's name to its kind and its bytes.
        drop_space: which leading spaces are dropped.
        repair: what bytes that are not UTF-8 become.
    """

    surface: Callable[[str], tuple[Kind, bytes]]
    drop_space: DropSpace
    repair: Repair


def decoding(decoder: Mapping[str, Any] | None, place: str) -> Decoding:
    """The rules of a decoder.

    Args:
        decoder: as tokenizer.json has it.
        place: the file, for messages.

    Raises:
        InputError: for a decoder that is neither byte-level nor SentencePiece's byte fallback.
    """
    steps = [] if decoder is None else decoder.get("decoders", [decoder])
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return Decoding(_byte_level, DropSpace.NEVER, Repair.SUBPART)
    strips = steps[-1:] == [_STRIP_SPACE]
    inner = kinds[:-1] if strips else kinds
    replacements = [_replacement(step) for step in steps[: len(inner) - 2]]
    if inner[-2:] != ["ByteFallback", "Fuse"] or None in replacements:
        raise InputError(
            f"{place}: the decoder {' + '.join(kinds) or 'null'} is not supported; use a tokenizer "
            "with ByteLevel, or with Replace, ByteFallback, Fuse and at most one leading space to "
            "Strip"
        )
    surface = functools.partial(_byte_fallback, replacements)
    return Decoding(surface, DropSpace.TEXT if strips else DropSpace.NEVER, Repair.RUN)


def _replacement(step: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a step replaces by what; None if it does something else."""
    if step["type"] != "Replace" or "String" not in step["pattern"]:
        return None
    return step["pattern"]["String"], step["content"]


def _byte_fallback(replacements: Sequence[tuple[str, str]], token: str) -> tuple[Kind, bytes]:
    for old, new in replacements:
        token = token.replace(old, new)
    if found := _BYTE_TOKEN.fullmatch(token):
        return Kind.RAW, bytes([int(found[1], 16)])
    return Kind.PLAIN, token.encode()


def _byte_level(token: str) -> tuple[Kind, bytes]:
    try:
        return Kind.RAW, bytes(_BYTE_OF[character] for character in token)
    except KeyError:  # an added token, which is written as it is
        return Kind.RAW, token.encode()


def _byte_alphabet() -> dict[str, int]:
    """The bytes of GPT-2's characters: printable Latin-1 is itself, the rest U+0100 and so on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }


_BYTE_OF = _byte_alphabet()
