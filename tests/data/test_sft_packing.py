"""Supervised items packed into rows."""

import numpy as np
import pytest

from rft_jax.data import pack_supervised
from rft_jax.tokenizers import SentencePieceTokenizer, train_sentencepiece
from rft_jax.tokenizers.spm import MIN_VOCAB_SIZE
from rft_jax.utils.errors import InputError

ANSWERS = ["SCN1A", "KCNQ2; SCN1A", "Größe", "", "x" * 20]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return SentencePieceTokenizer(train_sentencepiece(ANSWERS, path, MIN_VOCAB_SIZE + 50))


def make_item(text, answer, **keys):
    return {
        "messages": [
            {"role": "user", "content": text},
            {"role": "assistant", "content": answer, **keys},
        ]
    }


@pytest.fixture(scope="module")
def items():
    return [make_item(f"case {i}", a, reasoning_content="so") for i, a in enumerate(ANSWERS)]


@pytest.mark.parametrize("max_row_tokens", [40, 64, 1000])
def test_rows_hold_every_item_once_and_in_order(tokenizer, items, max_row_tokens):
    packed = pack_supervised(items, tokenizer, max_row_tokens, "sft.jsonl", "max_row_tokens")
    found = []
    for tokens, positions, segments in zip(*packed[:3], strict=True):
        for segment in range(1, segments.max() + 1):
            inside = segments == segment
            assert (positions[inside] == np.arange(inside.sum())).all()
            found.append(tokens[inside].tolist())
        assert (tokens[segments == 0] == tokenizer.pad_id).all()
    assert found == [
        tokenizer.encode_prompt(item["messages"][:1])
        + tokenizer.encode_completion(item["messages"][1]["content"], "so")
        for item in items
    ]


def test_predicting_positions_are_those_before_each_completion_token(tokenizer, items):
    packed = pack_supervised(items, tokenizer, 64, "sft.jsonl", "max_row_tokens")
    learned = []
    for tokens, predict in zip(packed.tokens_MT, packed.predict_MC, strict=True):
        learned += tokens[predict[predict >= 0] + 1].tolist()
    assert learned == [
        token
        for item in items
        for token in tokenizer.encode_completion(item["messages"][1]["content"], "so")
    ]


def test_an_item_beyond_the_row_is_refused_with_the_setting(tokenizer, items):
    long = make_item("x", "SCN1A; " * 30)
    with pytest.raises(
        InputError, match=r"^sft.jsonl, line 6: .*--config.stages.sft.max_row_tokens="
    ):
        pack_supervised([*items, long], tokenizer, 64, "sft.jsonl", "stages.sft.max_row_tokens")
