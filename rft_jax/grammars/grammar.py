"""A response format for a tokenizer: tables for the device, kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from rft_jax.config import RolloutConfig
from rft_jax.grammars.response_format import ResponseFormat, read_response_format
from rft_jax.grammars.token_tables import CounterTables, GrammarTables, Vocabulary, build_tables
from rft_jax.tokenizers import Tokenizer, thought_end
from rft_jax.utils.compilation_cache import folder
from rft_jax.utils.errors import InputError
from rft_jax.utils.files import write_atomically
from rft_jax.utils.types import JsonMapping

_VERSION = 1  # of the tables; another one when what is built changes
_MOST_BYTES_KEPT = 1 << 30  # on disk, of all grammars


def grammar_of(config: RolloutConfig, tokenizer: Tokenizer) -> GrammarTables | None:
    """The tables of a rollout's response format, if it has one.

    Raises:
        InputError: It cannot be read or enforced, or not within `completion_tokens`.
    """
    if not config.response_format:
        return None
    tables = open_grammar(config.response_format, tokenizer, "rollout.response_format")
    if tables is None:
        return None
    ending = len(thought_end(tokenizer))
    thought = config.thinking_tokens + ending if ending else 0
    needed = thought + tables.least_tokens
    if needed > config.max_completion_tokens:
        before = f" after {thought} of the thought and its end" if thought else ""
        raise InputError(
            f"rollout.max_completion_tokens: {config.max_completion_tokens} are too few for "
            f"the response format, whose shortest answer takes {tables.least_tokens}{before}; "
            f"set it to at least {needed}"
        )
    return tables


def open_grammar(
    response_format: str | JsonMapping, tokenizer: Tokenizer, place: str = "response_format"
) -> GrammarTables | None:
    """The tables of a response format, from the disk if they were built before.

    Args:
        response_format: As for `read_response_format`.
        place: Where it stands, for messages.

    Returns:
        None where answers may be any text.

    Raises:
        ResponseFormatError: It cannot be read or enforced.
    """
    wanted = read_response_format(response_format, place)
    if wanted is None:
        return None
    vocabulary = Vocabulary.of(tokenizer)
    directory = folder("grammars")
    file = directory and directory / f"{_key(wanted, vocabulary)}.npz"
    if file and (kept := _load(file)):
        return kept
    automaton = wanted.automaton(vocabulary.separator)
    tables = build_tables(automaton, vocabulary, wanted.place)
    if file:
        _save(tables, file)
    return tables


def _key(wanted: ResponseFormat, vocabulary: Vocabulary) -> str:
    described = [_VERSION, wanted.text, vocabulary.stop_ids, vocabulary.separator]
    digest = hashlib.sha256(json.dumps(described).encode())
    for array in (*vocabulary.pieces, vocabulary.written_V):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


def _save(tables: GrammarTables, file: Path) -> None:
    arrays = tables._replace(counters=None)._asdict()
    del arrays["counters"]
    counters = tables.counters._asdict() if tables.counters else {}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, **counters)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, buffer.getvalue())
    _remove_oldest(file.parent)


def _remove_oldest(directory: Path) -> None:
    """Removes what was not read for longest, down to `_MOST_BYTES_KEPT`; others may do so, too."""
    found = []
    for file in directory.glob("*.npz"):
        with contextlib.suppress(OSError):
            found.append((file.stat().st_mtime, file.stat().st_size, file))
    total = sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if total <= _MOST_BYTES_KEPT:
            break
        file.unlink(missing_ok=True)
        total -= size


def _load(file: Path) -> GrammarTables | None:
    """The kept tables; None if there are none that can be read."""
    try:
        with np.load(file) as kept:
            arrays = dict(kept)
        os.utime(file)
        counters = {name: arrays.pop(name) for name in CounterTables._fields if name in arrays}
        return GrammarTables(**arrays, counters=CounterTables(**counters) if counters else None)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        return None
