"""Items as padded token arrays."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.data import bucket, encode_prompts, load_items
from rft_jax.tokenizers import HuggingFaceTokenizer, SentencePieceTokenizer, train_sentencepiece
from rft_jax.tokenizers.spm import MIN_VOCAB_SIZE
from rft_jax.utils.errors import InputError

from ..small_checkpoint import write_small

TEXTS = ["Seizure; Ataxia", "Short stature", "Größe  of\nthe head", ""]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return SentencePieceTokenizer(train_sentencepiece(TEXTS, path, MIN_VOCAB_SIZE + 50))


def item(text):
    return {"messages": [{"role": "user", "content": text}]}


def unpad(tokens_ML, length_M, pad_id):
    """Rows without padding, after a look at the padding."""
    assert tokens_ML.dtype == np.int32 and length_M.dtype == np.int32
    outside = np.arange(tokens_ML.shape[1]) >= length_M[:, None]
    assert (tokens_ML[outside] == pad_id).all()
    return [row[:n].tolist() for row, n in zip(tokens_ML, length_M, strict=True)]


def test_rows_are_the_tokenizer_s_prompts_padded_on_the_right(tokenizer):
    items = [item(text) for text in TEXTS]
    prompts = encode_prompts(items, tokenizer, 64, "train.jsonl")
    assert prompts.tokens_MP.shape == (len(items), 64)
    expected = [tokenizer.encode_prompt(i["messages"]) for i in items]
    assert unpad(*prompts, tokenizer.pad_id) == expected


def test_a_prompt_exactly_at_the_limit_fits_and_one_token_more_is_refused(tokenizer):
    items = [item("x"), item("Ataxia"), item("Seizure; Ataxia; Größe")]
    lengths = [len(tokenizer.encode_prompt(i["messages"])) for i in items]
    assert lengths[1] < lengths[2]
    encode_prompts(items, tokenizer, lengths[2], "train.jsonl")
    with pytest.raises(InputError) as caught:
        encode_prompts(
            items, tokenizer, lengths[1] - 1, "train.jsonl", "stages.rft.max_prompt_tokens"
        )
    assert str(caught.value) == (
        f"train.jsonl, line 2: the prompt has {lengths[1]} tokens, the limit is {lengths[1] - 1}; "
        f"shorten it or set --config.stages.rft.max_prompt_tokens={lengths[2]} (the longest)"
    )


def test_tools_are_part_of_the_prompt(tmp_path):
    names = "{% for tool in tools or [] %}{{ tool.function.name }};{% endfor %}"
    template = names + "{{ messages[0].content }}<eos>"
    directory = write_small(tmp_path / "source", template)
    tokenizer = HuggingFaceTokenizer(directory)
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    prompts = encode_prompts([item("x") | {"tools": tools}, item("x")], tokenizer, 32, "a.jsonl")
    with_tools, without = unpad(*prompts, tokenizer.pad_id)
    assert (tokenizer.decode(with_tools), tokenizer.decode(without)) == ("look_up;x", "x")


def test_tools_need_a_template_that_has_a_place_for_them(tokenizer, tmp_path):
    row = item("x") | {"tools": [{"type": "function"}]}
    with pytest.raises(InputError, match="a.jsonl, line 2: tools: this chat format has no place"):
        encode_prompts([item("x"), row], tokenizer, 64, "a.jsonl")
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(item("x") | {"tools": ["f"]}))
    with pytest.raises(InputError, match="a.jsonl, line 1: tools: expected an array of functions"):
        load_items(path)


@given(most=st.integers(1, 500), buckets=st.integers(1, 5))
def test_a_bucket_is_the_shortest_that_holds_the_prompts(most, buckets):
    found = [bucket(longest, most, buckets) for longest in range(1, most + 1)]
    lengths = sorted(set(found))
    assert lengths[-1] == most and len(lengths) <= buckets
    for longest, length in enumerate(found, start=1):
        assert length == min(known for known in lengths if known >= longest)
    for shorter, longer in itertools.pairwise(lengths):
        assert longer <= 2 * shorter
