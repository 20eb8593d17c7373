"""`detokenize` equals `SentencePieceProcessor.decode`, the library itself, for every sequence."""

import io
import itertools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.tokenizers import SentencePieceTokenizer, detokenize
from rft_jax.tokenizers.device_decode import DropSpace, Kind
from rft_jax.tokenizers.spm import CONTROL_SYMBOLS

N, T, L = 16, 24, 640
CORPUS = ["Observed: Seizure; Ataxia.   Absent: Größe 日本", ' {"genes": ["SCN1A", "COL2A1"]}'] * 3
# Symbols that begin with spaces of both kinds, that are nothing else, and that hold several bytes.
USER_DEFINED = [
    "\u2581",
    "\u2581\u2581",
    "\u2581\u2581x",
    "<tool>",
    " literal",
    "é\u2581é",
    "\ufffd",
]

# The settings on which the library's leading-space rule and surfaces depend.
MODELS = {
    "ours": dict(add_dummy_prefix=False, remove_extra_whitespaces=False),
    "dummy_prefix": dict(add_dummy_prefix=True, remove_extra_whitespaces=False),
    "remove_extra": dict(add_dummy_prefix=False, remove_extra_whitespaces=True),
    "library_default": dict(add_dummy_prefix=True, remove_extra_whitespaces=True),
    "suffix": dict(add_dummy_prefix=True, treat_whitespace_as_suffix=True),
    "unk_surface": dict(add_dummy_prefix=True, unk_surface=" \N{SNOWMAN}"),
    "no_unk_surface": dict(remove_extra_whitespaces=True, unk_surface=""),
    "unigram": dict(model_type="unigram", add_dummy_prefix=True, remove_extra_whitespaces=False),
}
RULES = {
    "ours": DropSpace.NEVER,
    "dummy_prefix": DropSpace.FIRST,
    "remove_extra": DropSpace.LEADING,
    "library_default": DropSpace.LEADING,
}
jitted = jax.jit(detokenize, static_argnames="max_bytes")


class Model:
    """A trained model, its table, and its tokens by what they do."""

    def __init__(self, directory, name):
        model = io.BytesIO()
        options = {"model_type": "bpe"} | MODELS[name]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS),
            model_writer=model,
            vocab_size=360,
            hard_vocab_limit=False,
            byte_fallback=True,
            pad_id=3,
            normalization_rule_name="identity",
            control_symbols=list(CONTROL_SYMBOLS),
            user_defined_symbols=USER_DEFINED,
            minloglevel=2,
            **options,
        )
        self.path = directory / f"{name}.model"
        self.path.write_bytes(model.getvalue())
        self.library = sentencepiece.SentencePieceProcessor(model_file=str(self.path))
        self.table = SentencePieceTokenizer(self.path).piece_table()
        self.vocab_size = self.library.vocab_size()
        self.byte_id = [self.library.piece_to_id(f"<0x{b:02X}>") for b in range(256)]

    def texts(self, tokens_NT, start_N, end_N):
        """What the library decodes."""
        rows = zip(tokens_NT, start_N, end_N, strict=True)
        return [self.library.decode(row[a:b].tolist()).encode() for row, a, b in rows]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    return {name: Model(directory, name) for name in MODELS}


def run(model, tokens_NT, start_N, end_N, max_bytes):
    """`detokenize` as a list of bytes and the overflow flags."""
    text, overflow_N = jitted(model.table, tokens_NT, start_N, end_N, max_bytes=max_bytes)
    bytes_NL, length_N = np.asarray(text.bytes), np.asarray(text.length)
    assert bytes_NL.dtype == np.uint8 and length_N.dtype == np.int32
    assert bytes_NL.shape == (len(tokens_NT), max_bytes)
    assert not bytes_NL[np.arange(max_bytes) >= length_N[:, None]].any()
    return [bytes(b[:n]) for b, n in zip(bytes_NL, length_N, strict=True)], np.asarray(overflow_N)


def token_rows(model):
    """Rows of tokens, rich in bytes at the edges of UTF-8's ranges, spaces and special tokens."""
    kind = model.table.kind_V
    edges = [0x00, 0x20, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBD, 0xBF, 0xC0, 0xC1, 0xC2]
    edges += [0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFF]
    special = [i for i in range(model.vocab_size) if kind[i] == Kind.SILENT]
    special.append(model.library.unk_id())
    spaced = [i for i in range(model.vocab_size) if kind[i] == Kind.SPACED]
    token = st.one_of(
        st.sampled_from([model.byte_id[b] for b in edges]).map(lambda i: [i]),
        st.characters(exclude_categories=["Cs"]).map(
            lambda c: [model.byte_id[b] for b in c.encode()]
        ),
        st.sampled_from(spaced).map(lambda i: [i]),
        st.sampled_from([model.library.piece_to_id(s) for s in USER_DEFINED]).map(lambda i: [i]),
        st.sampled_from(special).map(lambda i: [i]),
        st.integers(0, model.vocab_size - 1).map(lambda i: [i]),
    )
    row = st.lists(token, max_size=T).map(lambda parts: sum(parts, [])[:T])
    return st.lists(row, min_size=1, max_size=N)


def arrays(rows, fill):
    """Rows padded to [N, T] with tokens that must not matter, and their lengths."""
    tokens_NT = np.full((N, T), fill, np.int32)
    length_N = np.zeros(N, np.int32)
    for n, row in enumerate(rows):
        tokens_NT[n, : len(row)] = row
        length_N[n] = len(row)
    return tokens_NT, length_N


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_equals_the_library_for_every_sequence(models, name, data):
    model = models[name]
    fill = data.draw(st.integers(0, model.vocab_size - 1))
    tokens_NT, end_N = arrays(data.draw(token_rows(model)), fill)
    start_N = np.array([data.draw(st.integers(0, end)) for end in end_N], np.int32)
    got, overflow_N = run(model, tokens_NT, start_N, end_N, L)
    assert got == model.texts(tokens_NT, start_N, end_N)
    assert not overflow_N.any()


@pytest.mark.parametrize("max_bytes", [4, 5, 9, 16])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_overflow_is_flagged_and_cut_after_the_last_whole_character(models, max_bytes, data):
    model = models["dummy_prefix"]
    tokens_NT, end_N = arrays(data.draw(token_rows(model)), 0)
    start_N = np.zeros(N, np.int32)
    got, overflow_N = run(model, tokens_NT, start_N, end_N, max_bytes)
    for text, overflow, full in zip(
        got, overflow_N, model.texts(tokens_NT, start_N, end_N), strict=True
    ):
        assert overflow == (len(full) > max_bytes)
        assert text == full[:max_bytes].decode(errors="ignore").encode()


def test_every_token_alone_and_after_every_kind_of_first_token(models):
    for model in models.values():
        library = model.library
        firsts = [library.unk_id(), library.bos_id(), model.byte_id[0x20], model.byte_id[0xE2]]
        firsts += [library.piece_to_id(s) for s in USER_DEFINED]
        pairs = [(0, i) for i in range(model.vocab_size)]
        pairs += itertools.product(firsts, range(model.vocab_size))
        tokens_NT = np.array(pairs, np.int32)
        start_N = (np.arange(len(pairs)) < model.vocab_size).astype(np.int32)
        end_N = np.full(len(pairs), 2, np.int32)
        got, _ = run(model, tokens_NT, start_N, end_N, 64)
        assert got == model.texts(tokens_NT, start_N, end_N)


@pytest.mark.parametrize("prefix", [b"", b"\xe2", b"\xf0\x90", b"\xf4\x8f\xbf"])
def test_every_pair_of_bytes_is_repaired_as_the_library_does(models, prefix):
    model = models["ours"]
    sequences = [prefix + bytes(pair) for pair in itertools.product(range(256), repeat=2)]
    assert_bytes_agree(model, sequences)


def test_four_bytes_at_the_edges_of_the_ranges_are_repaired_as_the_library_does(models):
    edges = b"\x41\x7f\x80\x8f\x90\x9f\xa0\xbf\xc1\xc2\xe0\xed\xef\xf0\xf4\xf5"
    sequences = [bytes(four) for four in itertools.product(edges, repeat=4)]
    assert_bytes_agree(models["ours"], sequences)


def assert_bytes_agree(model, sequences):
    tokens_NT = np.array(model.byte_id, np.int32)[np.array([list(s) for s in sequences])]
    start_N = np.zeros(len(sequences), np.int32)
    end_N = np.full(len(sequences), tokens_NT.shape[1], np.int32)
    got, _ = run(model, tokens_NT, start_N, end_N, 16)
    assert got == model.texts(tokens_NT, start_N, end_N)


def test_models_differ_in_the_rule_they_are_here_for(models):
    rules = {name: DropSpace(int(models[name].table.drop_space)) for name in RULES}
    assert rules == RULES


def test_no_text_and_end_before_start_are_empty(models):
    model = models["ours"]
    tokens_NT = np.full((3, 4), model.byte_id[65], np.int32)
    got, overflow_N = run(model, tokens_NT, np.array([0, 4, 3]), np.array([0, 4, 1]), 8)
    assert got == [b"", b"", b""] and not overflow_N.any()


SHARDED_PROGRAM = """
import sys
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from rft_jax.tokenizers import SentencePieceTokenizer, detokenize

mesh = jax.make_mesh((8,), ("data",))
rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
table = SentencePieceTokenizer(sys.argv[1]).piece_table()
program = jax.jit(
    lambda *arguments: detokenize(*arguments, max_bytes=64),
    in_shardings=(whole, rows, rows, rows),
    out_shardings=rows,
)
tokens_NT, index_N = jnp.zeros((16, 12), jnp.int32), jnp.zeros(16, jnp.int32)
print(program.lower(table, tokens_NT, index_N, index_N).compile().as_text())
"""


def test_sharded_rows_need_no_communication_and_no_host(models):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-c", SHARDED_PROGRAM, str(models["ours"].path)]
    hlo = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "u8[2,64]" in hlo.stdout  # the text of two of the sixteen rows on each device
    for word in ("all-", "collective-", "callback", "infeed", "outfeed"):
        assert word not in hlo.stdout
