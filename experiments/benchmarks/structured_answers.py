"""Structured answers: that no sample breaks its schema, and what the mask costs.

    python -m experiments.benchmarks.structured_answers [--schemas 200 --samples 100]

From the repository's root, whose tests have the random schemas. One JSON object a line:

- `samples`: so many answers of a small model of random weights to each of so many random schemas,
  half of them at temperature 2, and how many jsonschema refuses (none);
- `build`: seconds and bytes of the tables of a schema of about 200 states, by size of the
  vocabulary, whose tokens are runs of characters of Python's own library;
- `rollout`: seconds a token of all completions, with the mask and without, in turn, the best of
  some rounds; for the quickstart's model, and for a small one with 150,000 tokens.

With no options ten minutes on two idle CPU cores; `--only NAME` does one of the three.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import random
import sysconfig
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jsonschema
import numpy as np

from rft_jax import quickstart
from rft_jax.config import ModelConfig, RolloutConfig
from rft_jax.grammars import GrammarTables, Vocabulary, build_tables
from rft_jax.grammars.json_schema import schema_automaton
from rft_jax.models import Params, build_model
from rft_jax.rollout import LogitMask, Prompts, Rollout, completion_keys, rollout
from rft_jax.tokenizers.device_decode import DropSpace, Kind, Repair, make_table
from tests.grammars.tools import (
    MARKER,
    PAD,
    STOP,
    decode,
    padded,
    random_schema,
    strict,
    vocabulary,
)

TINY = ModelConfig(
    num_layers=1, hidden_size=32, num_heads=2, num_kv_heads=2, head_dim=16, intermediate_size=64
)
TOKENS = 128  # of the random schemas' answers
SCHEMA = strict(
    name={"type": "string", "minLength": 1, "maxLength": 10_000},
    date={"type": "string", "format": "date-time"},
    size={"type": "integer", "minimum": -5, "maximum": 1234},
    note={"type": ["string", "null"]},
    tags={"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 8},
    rest={"type": "array", "items": {"type": "string"}},
)


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def complete(
    model: Any,
    params: Params,
    prompts: Prompts,
    keys_BG: jax.Array,
    grammar: GrammarTables | None,
    config: RolloutConfig,
    marker: int | None,
) -> Rollout:
    """Completions of prompts."""
    mask = LogitMask((PAD,), marker, 4, grammar, config.max_completion_tokens)
    return rollout(model, params, prompts, keys_BG, mask, config, stop_ids=(STOP,), pad_id=PAD)


def inputs(prompts: int, group: int, tokens: int, vocab_size: int) -> tuple[Prompts, jax.Array]:
    """Random prompts, and the keys of their completions."""
    shape = prompts, tokens
    tokens_BP = np.random.default_rng(0).integers(3, vocab_size, shape, np.int32)
    ids = jnp.arange(prompts)
    keys_BG = completion_keys(jnp.uint32(0), jnp.int32(0), ids, ids, group)
    return Prompts(jnp.asarray(tokens_BP), jnp.full(prompts, tokens)), keys_BG


def check_samples(schemas: int, samples: int) -> Iterator[dict[str, Any]]:
    """Answers to random schemas."""
    words = vocabulary()
    model = build_model(TINY, len(words.written_V))
    rng, refused, cut, kept = random.Random(0), 0, 0, 0
    prompts, keys_BG = inputs(samples // 2, 2, 8, len(words.written_V))
    while kept < schemas:
        schema = random_schema(rng)
        tables = build_tables(schema_automaton(schema, "schema"), words, "schema")
        if tables.least_tokens + 5 > TOKENS:
            continue
        kept += 1
        params = model.init(jax.random.key(kept))
        params = jax.tree.map(lambda x: x * 10 if float(jnp.ptp(x)) > 0 else x, params)
        config = RolloutConfig(max_completion_tokens=TOKENS, temperature=1.0 + kept % 2)
        found = jax.device_get(
            complete(model, params, prompts, keys_BG, padded(tables), config, MARKER)
        )
        checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        cut += int((~found.stopped_BG).sum())
        for b, g in np.ndindex(found.length_BG.shape):
            answer = slice(found.answer_start_BG[b, g], found.answer_end_BG[b, g])
            text = decode(words, found.tokens_BGT[b, g, answer])
            refused += not _is_valid(checker, text)
    yield {"what": "samples", "schemas": kept, "samples": kept * found.length_BG.size,
           "refused": refused, "cut": cut}  # fmt: skip


def _is_valid(checker: jsonschema.Draft202012Validator, text: bytes) -> bool:
    try:
        return checker.is_valid(json.loads(text))
    except ValueError:
        return False


@functools.cache
def library() -> bytes:
    """Python's own source, and JSON of many scripts."""
    files = sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "Größe 日本語 Ελληνικά русский 😀 "
    return (
        b"".join(file.read_bytes() for file in files)
        + 2000
        * json.dumps(
            [{"name": text, "age": 12.5, "tags": ["a", "b"], "none": None, "yes": True}],
            ensure_ascii=False,
        ).encode()
    )


@functools.cache
def large_vocabulary(size: int) -> Vocabulary:
    """Bytes, long runs of spaces, and runs of bytes of the library."""
    rng, text = np.random.default_rng(0), library()
    tokens = dict.fromkeys(bytes([byte]) for byte in range(256))
    tokens |= dict.fromkeys(b" " * count for count in range(2, 129))
    while len(tokens) < size - 3:
        starts = rng.integers(len(text), size=10_000)
        lengths = 2 + np.minimum(rng.exponential(4.0, size=10_000), 30).astype(int)
        pairs = zip(starts, lengths, strict=True)
        tokens |= dict.fromkeys(text[start : start + length] for start, length in pairs)
    surfaces = [b"", b"", b"", *list(tokens)[: size - 3]]
    kinds = [Kind.SILENT] * 3 + [Kind.RAW] * (size - 3)
    pieces = make_table(surfaces, kinds, DropSpace.NEVER, Repair.SUBPART)
    return Vocabulary(pieces, np.asarray(pieces.length_V) > 0, (STOP,), "")


def build_seconds() -> Iterator[dict[str, Any]]:
    """How long tables take, and how large they are."""
    for size in (1100, 32_000, 151_936, 262_144):
        words = large_vocabulary(size)
        began, cpu = time.perf_counter(), time.process_time()
        automaton = schema_automaton(SCHEMA, "schema")
        tables = build_tables(automaton, words, "schema")
        yield {
            "what": "build", "vocabulary": size, "states": automaton.states,
            "classes": len(tables.next_KS), "rows": len(tables.bits_RW),
            "seconds": round(time.perf_counter() - began, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2), "bytes": tables.bytes,
        }  # fmt: skip


def rollout_seconds(rounds: int) -> Iterator[dict[str, Any]]:
    """A token of all completions with the mask and without."""
    cases = {
        "quickstart": (quickstart.SMALL, 1100, 16, 8, 64),
        "150k tokens": (dataclasses.replace(quickstart.SMALL, hidden_size=512), 151_936, 2, 8, 48),
    }  # fmt: skip
    for name, (config, size, count, group, tokens) in cases.items():
        words = large_vocabulary(size)
        tables = build_tables(schema_automaton(SCHEMA, "schema"), words, "schema")
        model = build_model(config, size)
        params = model.init(jax.random.key(0))
        settings = RolloutConfig(max_completion_tokens=max(tokens, tables.least_tokens + 16))
        prompts, keys_BG = inputs(count, group, 48, size)
        best = {}
        for _ in range(rounds + 1):
            for grammar in (None, jax.device_put(tables)):
                began = time.perf_counter()
                found = complete(model, params, prompts, keys_BG, grammar, settings, None)
                steps = int(found.length_BG.max())
                seconds = (time.perf_counter() - began) / steps
                key = "without" if grammar is None else "with"
                best.setdefault(key, []).append(seconds)
        least = {key: min(seconds[1:]) for key, seconds in best.items()}  # the first compiles
        yield {
            "what": "rollout", "case": name, "vocabulary": size, "completions": count * group,
            "states": len(tables.least_S), "bytes": tables.bytes,
            **{f"ms_per_token_{key}": round(1e3 * value, 3) for key, value in least.items()},
            "ratio": round(least["with"] / least["without"], 3),
        }  # fmt: skip


def main() -> None:
    """Prints all figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--samples", type=int, default=100, help="of each schema")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("samples", "build", "rollout"))
    options = parser.parse_args()
    parts = {
        "build": build_seconds,
        "rollout": lambda: rollout_seconds(options.rounds),
        "samples": lambda: check_samples(options.schemas, options.samples),
    }
    for name, part in parts.items():
        if options.only in (None, name):
            for row in part():
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
