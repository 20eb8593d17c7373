"""Tokens to text: as the tokenizer decodes them, in whole characters, up to a stop."""

import copy
import random

import pytest

from rft_jax.serve.answer_text import AnswerText, TokenLogprob, TokenTexts
from rft_jax.tokenizers import SentencePieceTokenizer, train_sentencepiece

TEXTS = ["the café is closed", "naïve claims, denied", "größer als 12 €", "日本語のテキスト"] * 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return SentencePieceTokenizer(train_sentencepiece(TEXTS, path, 480))


@pytest.fixture(scope="module")
def texts(tokenizer):
    return TokenTexts(tokenizer)


def read(texts, ids, stops=()):
    """The pieces that come, token by token."""
    answer, pieces = AnswerText(texts, stops), []
    for token in ids:
        answer.add(TokenLogprob(token, -1.0))
        pieces.append(answer.take())
    answer.finish()
    pieces.append(answer.take())
    return answer, pieces


def whole(pieces):
    return "".join(piece.text for piece in pieces)


def test_random_tokens_decode_as_the_tokenizer_does(tokenizer, texts):
    draw = random.Random(0)
    forbidden = {*tokenizer.forbidden_ids, *tokenizer.stop_ids, tokenizer.end_of_think_id}
    allowed = [token for token in range(tokenizer.vocab_size) if token not in forbidden]
    raw = [token for token in allowed if len(texts.surface(token)) == 1]
    for _ in range(300):
        ids = [draw.choice(draw.choice([allowed, raw])) for _ in range(draw.randrange(12))]
        _, pieces = read(texts, ids)
        assert whole(pieces) == tokenizer.decode(ids)
        data = b"".join(token.data for piece in pieces for token in piece.tokens)
        assert data == whole(pieces).encode()


def test_a_character_of_several_tokens_comes_at_once(tokenizer, texts):
    ids = tokenizer.encode("a🙂b")
    _, pieces = read(texts, ids)
    assert [piece.text for piece in pieces if piece.text] == ["a", "🙂", "b"]
    tokens = [token for piece in pieces for token in piece.tokens]
    assert [len(token.data) for token in tokens] == [1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "stops, expected",
    [
        (("denied",), "naïve claims, "),
        (("ied", "claims"), "naïve "),
        (("s, d",), "naïve claim"),
        (("ïve", "naï"), "na"),
        (("never", "deniedx"), "naïve claims, denied"),
        (("",), "naïve claims, denied"),
    ],
)
def test_stops_cut_the_text_and_its_tokens(tokenizer, texts, stops, expected):
    ids = tokenizer.encode("naïve claims, denied")
    answer, pieces = read(texts, ids, stops)
    if stops == ("ïve", "naï"):
        assert whole(pieces) in ("", "na")  # whichever is complete first
    else:
        assert whole(pieces) == expected
    assert answer.stopped == (whole(pieces) != "naïve claims, denied")
    data = b"".join(token.data for piece in pieces for token in piece.tokens)
    assert data == whole(pieces).encode()


def test_what_may_begin_a_stop_is_held_back(tokenizer, texts):
    answer = AnswerText(texts, ["ed!"])
    for token in tokenizer.encode("denied"):
        answer.add(TokenLogprob(token, 0.0))
    before = answer.take().text
    assert "denied".startswith(before) and len(before) <= 4
    answer.finish()
    assert before + answer.take().text == "denied"


def test_line_breaks_behind_a_thought_are_no_text(tokenizer):
    separated = copy.copy(tokenizer)
    separated.answer_separator = "\n\n"
    ids = tokenizer.encode("\n\nyes\n")
    _, pieces = read(TokenTexts(separated), ids)
    assert whole(pieces) == "yes\n"
    assert b"".join(token.data for piece in pieces for token in piece.tokens) == b"yes\n"
