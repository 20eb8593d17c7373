"""A SentencePiece tokenizer in transformers' files: the same ids, meanings and conversations."""

import json

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.tokenizers import HuggingFaceTokenizer, SentencePieceTokenizer, train_sentencepiece
from rft_jax.tokenizers.spm import CONTROL_SYMBOLS, END_OF_THINK, MIN_VOCAB_SIZE
from rft_jax.tokenizers.spm_export import write_tokenizer
from rft_jax.utils.errors import InputError

CORPORA = {
    # Runs of one and of two characters, where the order of merges matters most.
    "runs": ["aaaa aaa aa a", "abab aba bab ab", "    --  ---- =", "\tab  ab aaab   b"] * 9,
    "words": ["Observed: Intellectual disability; Seizure.", '{"genes": ["SCN1A"]}', "Größe 日本"]
    * 9,
}
SYMBOLS = {"runs": [], "words": ["Intellectual disability", "Seizure", "SCN1A", "  ", "ze\u2581e"]}
PIECES = [" ", "  ", "a", "b", "ab", "aa", "-", "=", "\n", "\t", "\0", "\u2581", "\u2585", "<0x41>"]
PIECES += [
    "Intellectual disability",
    "Seizure",
    "SCN1A",
    "ize",
    "Größe",
    "日本",
    "🧬",
    "e\u0301",
    "1",
]
PIECES += [name for name in (*CONTROL_SYMBOLS, "<s>", "</s>", "<unk>") if name != END_OF_THINK]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=24).map("".join)
plain_texts = texts.filter(lambda text: not any(name in text for name in PIECES[-8:]))


class Pair:
    """A tokenizer, and what is read from its files."""

    def __init__(self, name, directory):
        path = train_sentencepiece(
            CORPORA[name], directory / "tokenizer.model", MIN_VOCAB_SIZE + 120, SYMBOLS[name]
        )
        self.ours, self.directory = SentencePieceTokenizer(path), directory / "export"
        self.directory.mkdir()
        write_tokenizer(self.ours, self.directory, 256)
        self.theirs = HuggingFaceTokenizer(self.directory)


@pytest.fixture(scope="module", params=CORPORA)
def pair(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp(request.param))


@given(text=texts)
def test_every_text_has_the_same_ids_and_comes_back(pair, text):
    ids = pair.ours.encode(text)
    assert pair.theirs.encode(text) == ids
    assert pair.theirs.decode(ids) == text


def test_ids_have_the_same_meanings(pair):
    names = ("vocab_size", "pad_id", "stop_ids", "end_of_think_id", "answer_separator")
    for name in (*names, "forbidden_ids"):
        assert getattr(pair.theirs, name) == getattr(pair.ours, name)


ROLES = ("system", "developer", "user", "assistant", "tool")
conversations = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(ROLES), "content": plain_texts},
        optional={"reasoning_content": st.none() | plain_texts},
    ),
    min_size=1,
    max_size=5,
)


@given(messages=conversations, answer=plain_texts, thought=st.none() | plain_texts)
def test_conversations_are_rendered_alike(pair, messages, answer, thought):
    assert pair.theirs.encode_prompt(messages) == pair.ours.encode_prompt(messages)
    completion = pair.ours.encode_completion(answer, thought)
    assert pair.theirs.encode_completion(answer, thought) == completion


def test_thoughts_in_tags_and_parts_of_content_are_rendered_alike(pair):
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": " b"}]
    tagged = "<think>\nab\n</think>\n\n aa"
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": tagged}]
    messages.append({"role": "user", "content": parts})
    ids = pair.ours.encode_prompt(messages)
    assert pair.theirs.encode_prompt(messages) == ids
    assert pair.ours.decode(ids) == "a  b aaa  b"
    completion = pair.ours.encode_completion(tagged, None)
    assert pair.theirs.encode_completion(tagged, None) == completion
    assert completion == pair.ours.encode_completion(" aa", "ab")


def test_what_the_format_has_no_place_for_is_refused(pair):
    question = {"role": "user", "content": "a"}
    with pytest.raises(InputError, match="no place for functions"):
        pair.theirs.encode_prompt([question], [{"type": "function"}])
    with pytest.raises(InputError, match="the role critic is unknown"):
        pair.theirs.encode_prompt([question | {"role": "critic"}])


@pytest.mark.parametrize(
    ("options", "condition"),
    [
        ({"model_type": "unigram"}, "model_type is bpe"),
        ({"byte_fallback": False}, "byte_fallback is on"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalization is the identity"),
        ({"add_dummy_prefix": True}, "add_dummy_prefix is off"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces is off"),
    ],
)
def test_other_models_are_refused_by_name(options, condition, tmp_path):
    settings = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
    }
    prefix = tmp_path / "other"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPORA["words"]), model_prefix=str(prefix), vocab_size=400,
        hard_vocab_limit=False, control_symbols=list(CONTROL_SYMBOLS), pad_id=3, minloglevel=2,
        **settings | options,
    )  # fmt: skip
    tokenizer = SentencePieceTokenizer(prefix.with_suffix(".model"))
    with pytest.raises(InputError, match=f"only a SentencePiece model of which {condition} can"):
        write_tokenizer(tokenizer, tmp_path, 256)


@pytest.mark.oracle
def test_transformers_gives_the_same_ids(pair):
    transformers = pytest.importorskip("transformers")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (pair.directory / "config.json").write_text(json.dumps(config))  # which AutoTokenizer looks at
    library = transformers.AutoTokenizer.from_pretrained(pair.directory)
    assert library.eos_token_id == pair.ours.stop_ids[0]
    assert library.pad_token_id == pair.ours.pad_id

    @given(text=plain_texts, messages=conversations)
    def check(text, messages):
        ids = pair.ours.encode(text)
        assert library(text).input_ids == library.encode(text) == ids
        assert library.decode(ids) == text
        rendered = library.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        assert rendered == pair.ours.encode_prompt(messages)

    check()
    answer = {"role": "assistant", "content": "b", "reasoning_content": "aa"}
    messages = [{"role": "user", "content": "a"}, answer]
    ids = pair.ours.encode_prompt(messages[:1]) + pair.ours.encode_completion("b", "aa")
    assert library.apply_chat_template(messages, return_dict=False) == ids
    shown = library.decode(ids, skip_special_tokens=True)
    assert shown == f"aaa{END_OF_THINK}b"
