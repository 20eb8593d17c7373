"""Vocabularies, random schemas with instances, and sampling without a model, for grammars."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.grammars import Vocabulary
from rft_jax.rollout import LogitMask, logit_masks
from rft_jax.rollout.sampling import sample
from rft_jax.tokenizers.device_decode import DropSpace, Kind, Repair, make_table

PAD, STOP, MARKER = 0, 1, 2
TOKENS = 96  # of completions that are sampled without a model
_FIRST_BYTE = 3
_TEXT = json.dumps(
    [
        {"name": "Größe 日本 😀", "age": -12.5, "tags": ["red", "green"], "none": None, "y": True},
        {"date": "2024-02-29T23:59:60Z", "id": "123e4567-e89b", "text": "a\n\t\"b\" \\ café"},
        {"value": 300, "items": [[], [{}], {"a": False}], "mail": "a.b@example.org"},
    ],
    ensure_ascii=False,
)  # fmt: skip


@functools.cache
def pieces(size: int) -> tuple[bytes, ...]:
    """So many different runs of characters of a text, some across tokens of JSON."""
    rng, found = np.random.default_rng(0), {}
    while len(found) < size:
        start, length = rng.integers(len(_TEXT)), rng.integers(2, 9)
        found[_TEXT[start : start + length].encode()] = None
    for run in (" " * 4, " " * 16, "a" * 6, "\n\n", '",', '"}', '": ', "]}", '"}]}'):
        found[run.encode()] = None
    return tuple(found)


@functools.cache
def vocabulary(style: str = "byte_level", size: int = 600) -> Vocabulary:
    """A vocabulary with a token for each byte.

    Args:
        style: "byte_level", whose tokens may also be parts of characters, or "sentencepiece",
            which drops the first piece's space.
    """
    surfaces = [b"", b"", b"", *(bytes([byte]) for byte in range(256)), *pieces(size)]
    kinds = [Kind.SILENT] * 3 + [Kind.RAW] * 256
    if style == "byte_level":
        surfaces += ["é".encode()[1:] + b'"', "日".encode()[:2], "日本".encode()[2:5]]
        surfaces += ["😀".encode()[3:] + b'"']
        kinds += [Kind.RAW] * (len(surfaces) - len(kinds))
        table = make_table(surfaces, kinds, DropSpace.NEVER, Repair.SUBPART)
    else:
        surfaces += [b" {", b" [", b' "', b" 1", b" t", b" "]
        kinds += [Kind.SPACED if s[:1] == b" " else Kind.PLAIN for s in surfaces[len(kinds) :]]
        table = make_table(surfaces, kinds, DropSpace.FIRST, Repair.BYTE)
    written = np.array([len(surface) > 0 for surface in surfaces])
    assert len(surfaces) % 2 == 0  # for a mesh with a split vocabulary
    return Vocabulary(table, written, (STOP,), "")


def surfaces_of(vocabulary: Vocabulary) -> list[bytes]:
    """Every token's bytes."""
    table = vocabulary.pieces
    ends = table.offset_V + table.length_V
    return [
        table.bytes_S[a:b].tobytes() for a, b in zip(table.offset_V.tolist(), ends, strict=True)
    ]


def decode(vocabulary: Vocabulary, tokens) -> bytes:
    """The bytes of tokens; the space that the first may lose is lost."""
    table = vocabulary.pieces
    surfaces = surfaces_of(vocabulary)
    text = b"".join(surfaces[token] for token in tokens)
    spaced = len(tokens) and table.kind_V[tokens[0]] == Kind.SPACED
    return text[1:] if spaced and table.drop_space == DropSpace.FIRST else text


def strict(**properties):
    """An object's schema, as OpenAI's strict mode wants it."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_PATTERNS = [r"^[a-z]{2,5}$", r"x+y", r"^(a|bb)*[0-9]$", r"^\w+, é$", r"^[^a-m]*$"]
_VALUES = ["red", "green", "", 'q"\\\n', "日本", 0, -3, 2.5, None, True, [1, "a"], {"b": {}}]


def random_schema(rng, depth: int = 2, alone: bool = True) -> dict:
    """A schema that has instances.

    Args:
        rng: A `random.Random`.
        depth: The most of objects and arrays in each other.
        alone: It is no alternative of an anyOf, where long strings cannot be counted.
    """
    kinds = ["string", "string", "string", "integer", "number", "scalar", "enum", "pattern"]
    kinds += ["object", "object", "array", "anyOf"] * (depth > 0)
    kind = rng.choice(kinds)
    if kind == "string":
        schema = {"type": "string"}
        if rng.random() < 0.6:
            schema["minLength"] = rng.choice([0, 1, 2, 7, 40][: 5 if alone else 3])
        if rng.random() < 0.6:
            schema["maxLength"] = schema.get("minLength", 0) + rng.choice(
                [0, 1, 3, 30, 5000][: 5 if alone else 3]
            )
        return schema
    if kind == "pattern":
        if rng.random() < 0.3:
            return {"type": "string", "format": rng.choice(["date", "date-time", "email", "uuid"])}
        return {"type": "string", "pattern": rng.choice(_PATTERNS)}
    if kind in ("integer", "number"):
        schema = {"type": kind}
        low = rng.choice([-1200, -7, 0, 1, 95]) + rng.choice([0, 0, 0.25])
        if rng.random() < 0.6:
            schema[rng.choice(["minimum", "exclusiveMinimum"])] = low
        if rng.random() < 0.6:
            high = low + rng.choice([2, 30, 12345])
            schema[rng.choice(["maximum", "exclusiveMaximum"])] = high
        return schema
    if kind == "scalar":
        types = rng.sample(["boolean", "null", "integer", "string"], rng.choice([1, 1, 2]))
        return {"type": types[0] if len(types) == 1 else types}
    if kind == "enum":
        return {"enum": rng.sample(_VALUES, rng.choice([1, 2, 4]))}
    if kind == "object":
        keys = rng.sample(["name", "age", "tags", 'k"', "größe"], rng.choice([0, 1, 2, 3]))
        return strict(**{key: random_schema(rng, depth - 1, alone) for key in keys})
    if kind == "array":
        schema = {"type": "array", "items": random_schema(rng, depth - 1, alone)}
        if rng.random() < 0.6:
            schema["minItems"] = rng.choice([0, 1, 2])
        if rng.random() < 0.6:
            schema["maxItems"] = schema.get("minItems", 0) + rng.choice([0, 1, 2])
        return schema
    return {"anyOf": [random_schema(rng, depth - 1, False) for _ in range(2)]}


def random_value(rng, schema: dict):
    """A value that is often, but not always, an instance."""
    if rng.random() < 0.03:
        return rng.choice(_VALUES)
    if "anyOf" in schema:
        return random_value(rng, rng.choice(schema["anyOf"]))
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema["type"]
    kind = rng.choice(kind) if isinstance(kind, list) else kind
    if kind == "object":
        return {key: random_value(rng, member) for key, member in schema["properties"].items()}
    if kind == "array":
        low = schema.get("minItems", 0)
        return [random_value(rng, schema["items"]) for _ in range(low + rng.choice([0, 1, 2]))]
    if kind in ("integer", "number"):
        bounds = [value for key, value in schema.items() if key.endswith("imum")]
        value = rng.choice([*bounds, 0, 50]) + rng.choice([0, 0, 1, -1, 9])
        return value if kind == "number" else int(value)
    if kind == "string":
        examples = [
            "xy",
            "abc",
            "a1",
            "größe, é",
            "2023-02-28",
            "2023-02-29",
            "2000-02-29",
            "a@b.c",
        ]
        low = schema.get("minLength", 0)
        length = max(0, low + rng.choice([-1, 0, 0, 1, 2, schema.get("maxLength", 3) - low]))
        alphabet = rng.choice(["ab", 'é"\\', "日😀\n "])
        return rng.choice([*examples, "".join(rng.choice(alphabet) for _ in range(length))])
    return None if kind == "null" else rng.random() < 0.5


def padded(tables, states: int = 512, classes: int = 1024, rows: int = 1024):
    """The same tables in arrays of given sizes, so that a program serves many grammars."""

    def pad(x, *sizes):
        assert all(size >= old for size, old in zip(sizes, x.shape, strict=False)), x.shape
        return np.pad(x, [(0, s - o) for s, o in zip(sizes, x.shape, strict=False)] +
                      [(0, 0)] * (x.ndim - len(sizes)))  # fmt: skip

    counters = tables.counters
    if counters is not None:
        counters = counters._replace(
            **{name: pad(x, states) for name, x in counters._asdict().items() if name[-1] != "G"}
            | {name: pad(getattr(counters, name), classes, states)
               for name in ("added_KS", "count_KS")},
        )  # fmt: skip
    return tables._replace(
        bits_RW=pad(tables.bits_RW, rows),
        next_KS=pad(tables.next_KS, classes, states),
        **{name: pad(getattr(tables, name), states) for name in ("way_S", "least_S", "most_S")},
        counters=counters,
    )


@functools.partial(jax.jit, static_argnums=2)
def sample_without_model(tables, key, count: int, budget: int, scale: float):
    """Tokens [count, TOKENS] of random logits; PAD behind the stop, within the budget of tokens."""
    mask = LogitMask((PAD,), None, 0, tables, budget)
    size = len(tables.class_V)

    def step(carry, key):
        state, running = carry
        of_logits, of_uniform = jax.random.split(key)
        logits = scale * jax.random.normal(of_logits, (count, size))
        logits = logit_masks.policy_logits(mask, state, logits, 1.0)
        uniform = jax.random.uniform(of_uniform, (count,))
        token, _ = sample(logits, uniform, greedy=False, top_k=0, top_p=1)
        forced = logit_masks.forced(mask, state)
        token = jnp.where(forced, logit_masks.forced_token(mask, state), token)
        token = jnp.where(running, token, PAD)
        state = logit_masks.advance(mask, state, token)
        return (state, running & (token != STOP)), token

    start = logit_masks.start(mask, (count,)), jnp.ones(count, bool)
    return jax.lax.scan(step, start, jax.random.split(key, TOKENS))[1].T
