"""The tokenizers of checkpoints: `detokenize` against the library, and the ids with a meaning."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rft_jax.tokenizers import HuggingFaceTokenizer, detokenize
from rft_jax.tokenizers.device_decode import DropSpace, Kind, Repair
from rft_jax.utils.errors import InputError

N, T, L = 16, 24, 640
UNUSED = 3  # ids of the model that the tokenizer has no token for
RULES = {
    "qwen3": (DropSpace.NEVER, Repair.SUBPART),
    "gemma3": (DropSpace.NEVER, Repair.RUN),
    "llama2": (DropSpace.TEXT, Repair.RUN),
}
EDGES = b"\x00\x20\x41\x7f\x80\x8f\x90\x9f\xa0\xbf\xc1\xc2\xdf\xe0\xe1\xed\xef\xf0\xf1\xf4\xf5\xff"
jitted = jax.jit(detokenize, static_argnames="max_bytes")


class Model:
    """A tokenizer, its table, and its tokens by what they do."""

    def __init__(self, directory):
        self.library = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.vocab_size = self.library.get_vocab_size() + UNUSED
        self.tokenizer = HuggingFaceTokenizer(directory, self.vocab_size)
        self.table = self.tokenizer.piece_table()
        single = [t for t in range(self.vocab_size) if self.table.kind_V[t] == Kind.RAW]
        single = [t for t in single if self.table.length_V[t] == 1]
        self.byte_id = {int(self.table.bytes_S[self.table.offset_V[t]]): t for t in single}
        added = self.library.get_added_tokens_decoder()
        self.others = [*added, *range(self.vocab_size - UNUSED, self.vocab_size)]
        assert len(self.byte_id) == 256

    def texts(self, tokens_NT, start_N, end_N):
        """What the library decodes."""
        rows = zip(tokens_NT, start_N, end_N, strict=True)
        return [self.library.decode(row[a:b].tolist()).encode() for row, a, b in rows]


@pytest.fixture(scope="module")
def models(checkpoints):
    return {name: Model(checkpoints[name]) for name in RULES}


def run(model, tokens_NT, start_N, end_N, max_bytes):
    """`detokenize` as a list of bytes and the overflow flags."""
    text, overflow_N = jitted(model.table, tokens_NT, start_N, end_N, max_bytes=max_bytes)
    bytes_NL, length_N = np.asarray(text.bytes), np.asarray(text.length)
    assert not bytes_NL[np.arange(max_bytes) >= length_N[:, None]].any()
    return [bytes(b[:n]) for b, n in zip(bytes_NL, length_N, strict=True)], np.asarray(overflow_N)


@st.composite
def tokens(draw, model):
    """[N, T] tokens, rich in bytes at the edges of UTF-8's ranges and in tokens without text."""
    token = st.one_of(
        st.sampled_from(EDGES).map(lambda byte: [model.byte_id[byte]]),
        st.characters(exclude_categories=["Cs"]).map(
            lambda character: [model.byte_id[byte] for byte in character.encode()]
        ),
        st.sampled_from(model.others).map(lambda i: [i]),
        st.integers(0, model.vocab_size - 1).map(lambda i: [i]),
    )
    rows = draw(st.lists(st.lists(token, max_size=T), min_size=1, max_size=N))
    tokens_NT = np.full((N, T), draw(st.integers(0, model.vocab_size - 1)), np.int32)
    end_N = np.zeros(N, np.int32)
    for n, row in enumerate(rows):
        flat = sum(row, [])[:T]
        tokens_NT[n, : len(flat)], end_N[n] = flat, len(flat)
    return tokens_NT, end_N


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=150)
@given(data=st.data())
def test_detokenize_equals_the_library_for_every_sequence(models, name, data):
    model = models[name]
    tokens_NT, end_N = data.draw(tokens(model))
    start_N = np.array([data.draw(st.integers(0, end)) for end in end_N], np.int32)
    got, overflow_N = run(model, tokens_NT, start_N, end_N, L)
    assert got == model.texts(tokens_NT, start_N, end_N)
    assert not overflow_N.any()


@pytest.mark.parametrize("name, max_bytes", [*itertools.product(RULES, [4, 11])])
@settings(max_examples=60)
@given(data=st.data())
def test_overflow_is_flagged_and_cut_after_the_last_whole_character(models, name, max_bytes, data):
    model = models[name]
    tokens_NT, end_N = data.draw(tokens(model))
    start_N = np.zeros(N, np.int32)
    got, overflow_N = run(model, tokens_NT, start_N, end_N, max_bytes)
    expected = model.texts(tokens_NT, start_N, end_N)
    assert got == [text[:max_bytes].decode(errors="ignore").encode() for text in expected]
    assert overflow_N.tolist() == [len(text) > max_bytes for text in expected]


@pytest.mark.parametrize("name", RULES)
def test_every_token_alone_and_after_bytes_and_tokens_without_text(models, name):
    model = models[name]
    firsts = [model.others[0], model.others[-1], *(model.byte_id[b] for b in b"\x20\xe2\xf0")]
    tokens_NT = np.array([*itertools.product(firsts, range(model.vocab_size))], np.int32)
    end_N = np.full(len(tokens_NT), 2, np.int32)
    for start in (0, 1):
        start_N = np.full(len(tokens_NT), start, np.int32)
        got, _ = run(model, tokens_NT, start_N, end_N, 64)
        assert got == model.texts(tokens_NT, start_N, end_N)


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_four_bytes_at_the_edges_of_the_ranges_are_repaired_as_the_library_does(models, name):
    model = models[name]
    edges = [model.byte_id[byte] for byte in EDGES if byte not in b"\x00\x20\xdf\xe1\xf1\xff"]
    tokens_NT = np.array([*itertools.product(edges, repeat=4)], np.int32)
    start_N, end_N = np.zeros(len(tokens_NT), np.int32), np.full(len(tokens_NT), 4, np.int32)
    got, _ = run(model, tokens_NT, start_N, end_N, 16)
    assert got == model.texts(tokens_NT, start_N, end_N)


def test_a_byte_far_beyond_the_text_can_make_its_run_invalid(models):
    model = models["gemma3"]
    tokens_NT = np.full((N, T), model.byte_id[0x41], np.int32)
    tokens_NT[1:, -1] = model.byte_id[0xFF]
    start_N, end_N = np.zeros(N, np.int32), np.full(N, T, np.int32)
    got, overflow_N = run(model, tokens_NT, start_N, end_N, 4)
    assert got == [b"AAAA", *["\N{REPLACEMENT CHARACTER}".encode()] * (N - 1)]
    assert overflow_N.all()


def test_a_special_token_does_not_part_the_bytes_of_a_character(models):
    for model in models.values():
        special = model.tokenizer.stop_ids[0]
        first, second = (model.byte_id[byte] for byte in "é".encode())
        tokens_NT = np.full((N, T), special, np.int32)
        tokens_NT[:, 3], tokens_NT[:, 9] = first, second
        start_N, end_N = np.zeros(N, np.int32), np.full(N, T, np.int32)
        got, _ = run(model, tokens_NT, start_N, end_N, 4)
        assert got == ["é".encode()] * N


def test_tokenizers_differ_in_the_rules_they_are_here_for(models):
    rules = {name: (int(m.table.drop_space), int(m.table.repair)) for name, m in models.items()}
    assert rules == RULES


@settings(max_examples=100)
@given(text=st.text())
@pytest.mark.parametrize("name", ["qwen3", "llama3_2", "gemma3"])
def test_text_comes_back_and_special_tokens_do_not_come_of_it(checkpoints, name, text):
    tokenizer = HuggingFaceTokenizer(checkpoints[name])
    library = Tokenizer.from_file(str(checkpoints[name] / "tokenizer.json"))
    text += library.id_to_token(tokenizer.stop_ids[0])
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.stop_ids)
    normalized = library.normalizer.normalize_str(text).replace("\u2581", " ")
    assert tokenizer.decode(ids) == normalized


MEANINGS = {
    "qwen3": dict(
        stop=["<|im_end|>", "<|endoftext|>"],
        pad="<|endoftext|>",
        end_of_think="</think>",
        separator="\n\n",
        forbidden=["<|im_start|>", "<|image_pad|>"],
    ),
    "llama3_2": dict(
        stop=["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
        pad="<|end_of_text|>",
        end_of_think=None,
        separator="",
        forbidden=["<|begin_of_text|>", "<|reserved_special_token_0|>"]
        + ["<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>"]
        + ["<|python_tag|>"],
    ),
    "gemma3": dict(
        stop=["<eos>", "<end_of_turn>"],
        pad="<pad>",
        end_of_think=None,
        separator="",
        forbidden=["<pad>", "<bos>", "<unk>", "<start_of_turn>"],
    ),
    "deepseek_r1_distill": dict(
        stop=["<｜end▁of▁sentence｜>"],
        pad="<｜end▁of▁sentence｜>",
        end_of_think="</think>",
        separator="\n\n",
        forbidden=["<｜begin▁of▁sentence｜>"],
    ),
    "llama2": dict(
        stop=["</s>"], pad="</s>", end_of_think=None, separator="", forbidden=["<unk>", "<s>"]
    ),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_ids_with_a_meaning(checkpoints, name):
    library = Tokenizer.from_file(str(checkpoints[name] / "tokenizer.json"))
    used = library.get_vocab_size()
    tokenizer = HuggingFaceTokenizer(checkpoints[name], used + UNUSED)
    expected = MEANINGS[name]
    forbidden = [*map(library.token_to_id, expected["forbidden"]), *range(used, used + UNUSED)]
    assert tokenizer.stop_ids == tuple(map(library.token_to_id, expected["stop"]))
    assert tokenizer.pad_id == library.token_to_id(expected["pad"])
    assert tokenizer.answer_separator == expected["separator"]
    assert tokenizer.forbidden_ids == tuple(sorted(forbidden))
    marker = expected["end_of_think"]
    assert tokenizer.end_of_think_id == (marker and library.token_to_id(marker))


COMPLETIONS = {
    "qwen3": "<think>\nSo.\n</think>\n\nAn answer<|im_end|>",
    "llama3_2": "An answer<|eot_id|>",
    "gemma3": "An answer<end_of_turn>",
    "deepseek_r1_distill": "So.\n</think>\n\nAn answer<｜end▁of▁sentence｜>",
}


@pytest.mark.parametrize("name", COMPLETIONS)
def test_a_completion_is_written_as_the_template_writes_it(checkpoints, name):
    tokenizer = HuggingFaceTokenizer(checkpoints[name])
    library = Tokenizer.from_file(str(checkpoints[name] / "tokenizer.json"))
    ids = tokenizer.encode_completion("An answer", "So.")
    assert ids == library.encode(COMPLETIONS[name], add_special_tokens=False).ids
    if (marker := tokenizer.end_of_think_id) is not None:
        answer = tokenizer.decode(ids[ids.index(marker) + 1 :])
        assert answer == tokenizer.answer_separator + "An answer"
        assert tokenizer.encode_completion("An answer", None).count(marker) == 1


def test_thinking_can_be_switched_off(checkpoints):
    tokenizer = HuggingFaceTokenizer(checkpoints["qwen3"], thinking=False)
    thinking = HuggingFaceTokenizer(checkpoints["qwen3"], thinking=True)
    question = [{"role": "user", "content": "Why?"}]
    closed = thinking.encode_prompt(question) + thinking.encode("<think>\n\n</think>\n\n")
    assert tokenizer.encode_prompt(question) == closed
    assert tokenizer.end_of_think_id is None and tokenizer.answer_separator == ""
    expected = tokenizer.encode("An answer") + [tokenizer.stop_ids[0]]
    assert tokenizer.encode_completion("An answer", "So.") == expected


@pytest.fixture
def copy(tmp_path, checkpoints):
    """A copy of a checkpoint with changed files; `None` removes one."""

    def make(name, **changes):
        directory = tmp_path / name
        shutil.copytree(checkpoints[name], directory, dirs_exist_ok=True)
        for file, change in changes.items():
            path = directory / f"{file}.json"
            if change is None:
                path.unlink()
            elif isinstance(change, str):
                path.write_text(change, encoding="utf-8")
            else:
                content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
                path.write_text(json.dumps(content | change), encoding="utf-8")
        return directory

    return make


def test_without_a_generation_config_the_stops_are_those_of_the_model(copy):
    directory = copy("qwen3", generation_config=None, config={"eos_token_id": [400]})
    library = Tokenizer.from_file(str(directory / "tokenizer.json"))
    ending = library.token_to_id("<|im_end|>")
    assert HuggingFaceTokenizer(directory).stop_ids == (400, ending)


def test_special_tokens_are_found_in_either_of_the_files(copy, checkpoints):
    names = {"bos_token": None, "eos_token": {"content": "<|im_end|>"}, "pad_token": "<|pad|>"}
    config = json.loads((checkpoints["qwen3"] / "tokenizer_config.json").read_text())
    config = {key: value for key, value in config.items() if not key.endswith("_token")}
    directory = copy(
        "qwen3", tokenizer_config=json.dumps(config), special_tokens_map=json.dumps(names)
    )
    tokenizer = HuggingFaceTokenizer(directory)
    library = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert library.token_to_id("<|pad|>") is None
    assert tokenizer.pad_id == library.get_vocab_size() == tokenizer.vocab_size - 1
    assert tokenizer.pad_id in tokenizer.forbidden_ids
    assert tokenizer.decode([tokenizer.pad_id]) == ""


def test_the_vocabulary_must_fit_the_model(checkpoints):
    base = Tokenizer.from_file(str(checkpoints["gemma3"] / "tokenizer.json"))
    used, needed = base.get_vocab_size(), base.get_vocab_size(with_added_tokens=False)
    assert needed < used
    for vocab_size in (needed - 1, used + 1025):
        with pytest.raises(InputError, match=rf"has {used} tokens.*vocabulary {vocab_size};"):
            HuggingFaceTokenizer(checkpoints["gemma3"], vocab_size)
    # Added tokens may be missing in the model, as long as no prompt has them.
    tokenizer = HuggingFaceTokenizer(checkpoints["gemma3"], needed)
    with pytest.raises(InputError, match=r"\(<b>\) is outside of the model's vocabulary"):
        tokenizer.encode_prompt([{"role": "user", "content": "<b>bold"}])


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("qwen3", {"tokenizer": None}, r"tokenizer\.json: there is no such file; correct"),
        ("qwen3", {"tokenizer": "{}"}, r"tokenizer\.json: is not a tokenizer"),
        ("qwen3", {"tokenizer": {"decoder": None}}, "the decoder null is not supported"),
        (
            "qwen3",
            {"tokenizer": {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}},
            "the decoder WordPiece is not supported",
        ),
        ("qwen3", {"tokenizer_config": "{"}, r"tokenizer_config\.json: cannot be read as JSON"),
        ("qwen3", {"generation_config": "[1]"}, r"generation_config\.json: is not a JSON object"),
        ("qwen3", {"generation_config": {"eos_token_id": 9999}}, "token 9999 .* is outside"),
        (
            "llama2",
            {"generation_config": None, "tokenizer_config": "{}"},
            "there is no eos_token_id",
        ),
        (
            "llama3_2",
            {"tokenizer_config": {"chat_template": "{% if '</think>' %}{% endif %}x"}},
            "the vocabulary has no </think>",
        ),
        (
            "qwen3",
            {"tokenizer_config": {"chat_template": "{% for %}"}},
            r"tokenizer_config\.json: the chat template is not valid Jinja",
        ),
    ],
)
def test_bad_files_are_refused_with_a_sentence(copy, name, changes, message):
    with pytest.raises(InputError, match=message):
        HuggingFaceTokenizer(copy(name, **changes))


def test_thoughts_that_the_template_does_not_know_are_refused(checkpoints):
    with pytest.raises(InputError, match="the chat template has no </think>"):
        HuggingFaceTokenizer(checkpoints["gemma3"], thinking=True)


def test_the_plain_template_takes_the_place_of_one(checkpoints):
    question = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    for name in ("llama2", "qwen3"):
        tokenizer = HuggingFaceTokenizer(checkpoints[name], plain=True)
        prompt = tokenizer.decode(tokenizer.encode_prompt(question))
        assert prompt.endswith("Be brief.\n\nUser: Why?\n\nAssistant:")
        completion = tokenizer.encode_completion("So.", None)
        assert tokenizer.decode(completion[:-1]) == " So."
        assert completion[-1] == tokenizer.ending_id


def test_a_checkpoint_without_a_template_has_no_prompts(checkpoints):
    tokenizer = HuggingFaceTokenizer(checkpoints["llama2"])
    with pytest.raises(InputError, match="there is no chat template"):
        tokenizer.encode_prompt([{"role": "user", "content": "Why?"}])
