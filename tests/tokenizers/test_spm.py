"""SentencePieceTokenizer: exact round trips, the chat format, and what text cannot do."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.tokenizers import SentencePieceTokenizer, train_sentencepiece
from rft_jax.tokenizers.spm import CONTROL_SYMBOLS, MIN_VOCAB_SIZE
from rft_jax.utils.errors import InputError

CORPUS = [
    "Observed: Intellectual disability, mild; Seizure; Microcephaly. Absent: Ataxia.",
    "Observed: Short stature; Osteoporosis; Blue sclerae.\nAbsent: Hearing impairment.",
    json.dumps({"explanation": "Seizure points to SCN1A", "genes": ["SCN1A", "KCNQ2", "COL2A1"]}),
    "a user who writes <|assistant|> <|user|> </s> <s> <unk> <pad> <0x41> and <|end_of_think|>",
]
MARKER_TEXTS = [*CONTROL_SYMBOLS, "<s>", "</s>", "<unk>", "<pad>", "<0x41>"]

# Text rich in what could go wrong: runs of spaces, markers, U+2581, unseen scripts.
text = st.lists(
    st.one_of(
        st.sampled_from(
            [*MARKER_TEXTS, " ", "  ", "\n", "\t", "\0", "\u2581", "\u2585", '{"a": [1, 2]}']
        ),
        st.sampled_from(["SCN1A", "Seizure", "Größe", "日本", "🧬", "e\u0301", "\ufffd", "\u2028"]),
        st.text(max_size=5),
    ),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train_sentencepiece(CORPUS, path, MIN_VOCAB_SIZE + 100)


@pytest.fixture(scope="module")
def tokenizer(model_path):
    return SentencePieceTokenizer(model_path)


@given(text=text)
def test_decode_returns_exactly_the_text_that_was_encoded(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=text)
def test_no_text_is_encoded_to_a_control_or_forbidden_token(tokenizer, text):
    special = {*tokenizer.forbidden_ids, *tokenizer.stop_ids, tokenizer.end_of_think_id}
    assert not special & set(tokenizer.encode(text))


@given(content=text, reasoning=st.none() | text)
def test_completion_is_thought_marker_answer_stop(tokenizer, content, reasoning):
    ids = tokenizer.encode_completion(content, reasoning)
    marker = ids.index(tokenizer.end_of_think_id)
    assert ids[-1] in tokenizer.stop_ids
    assert tokenizer.decode(ids[:marker]) == (reasoning or "")
    assert tokenizer.decode(ids[marker + 1 :]) == content


@given(texts=st.lists(text, min_size=1, max_size=4))
def test_prompt_has_one_marker_per_message_whatever_the_messages_say(tokenizer, texts):
    roles = ["system", "user", "assistant", "tool"][: len(texts)]
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    ids = tokenizer.encode_prompt(messages)
    markers = [i for i in ids if tokenizer.decode([i]) == "" and i not in tokenizer.stop_ids]
    expected = [tokenizer.bos_id]
    for role in roles:
        expected.append(_marker(tokenizer, role))
        if role == "assistant":
            expected.append(tokenizer.end_of_think_id)
    assert markers == [*expected, _marker(tokenizer, "assistant")]
    assert tokenizer.decode(ids) == "".join(texts)


def _marker(tokenizer, role):
    """The role's marker, as the first token after <s> of a prompt with that message."""
    return tokenizer.encode_prompt([{"role": role, "content": "x"}])[1]


def test_prompt_ends_with_the_assistant_marker_and_parts_are_joined(tokenizer):
    whole = tokenizer.encode_prompt([{"role": "user", "content": "Seizure; Ataxia"}])
    parts = [{"type": "text", "text": "Seizure; "}, {"type": "text", "text": "Ataxia"}]
    assert tokenizer.encode_prompt([{"role": "user", "content": parts}]) == whole
    assert whole[-1] == _marker(tokenizer, "assistant")
    assert whole[1:-1] == [_marker(tokenizer, "user"), *tokenizer.encode("Seizure; Ataxia")]


def test_developer_is_system(tokenizer):
    assert _marker(tokenizer, "developer") == _marker(tokenizer, "system")
    assert len({_marker(tokenizer, r) for r in ("system", "user", "assistant", "tool")}) == 4


def test_special_ids_are_what_they_are_called(tokenizer):
    model = tokenizer._model
    names = {model.id_to_piece(i) for i in tokenizer.forbidden_ids}
    assert names == {"<pad>", "<unk>", "<s>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"}
    assert [model.id_to_piece(i) for i in tokenizer.stop_ids] == ["</s>"]
    assert model.id_to_piece(tokenizer.end_of_think_id) == "<|end_of_think|>"
    assert model.id_to_piece(tokenizer.pad_id) == "<pad>"
    assert model.id_to_piece(tokenizer.bos_id) == "<s>"


def test_training_in_another_process_gives_the_same_file(model_path, tmp_path):
    # Another process, because hash tables are seeded per process.
    path = tmp_path / "again.model"
    code = (
        "import json, sys; from rft_jax.tokenizers import train_sentencepiece; "
        "train_sentencepiece(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
    )
    arguments = [json.dumps(CORPUS), str(path), str(MIN_VOCAB_SIZE + 100)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    assert path.read_bytes() == model_path.read_bytes()


def test_printable_ascii_needs_no_byte_tokens_however_small_the_corpus(tmp_path):
    path = train_sentencepiece(["x"], tmp_path / "small.model", MIN_VOCAB_SIZE)
    tokenizer = SentencePieceTokenizer(path)
    ascii_text = "".join(map(chr, range(0x20, 0x7F)))
    assert not any(tokenizer._model.is_byte(i) for i in tokenizer.encode(ascii_text))
    assert tokenizer.vocab_size <= MIN_VOCAB_SIZE


def test_rare_characters_do_not_crowd_out_the_vocabulary(tmp_path):
    # 2000 characters that occur once, and more than there is room for.
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 2000)))
    texts = ["Seizure and Ataxia. " * 2000, rare]
    path = train_sentencepiece(texts, tmp_path / "rare.model", MIN_VOCAB_SIZE + 40)
    tokenizer = SentencePieceTokenizer(path)
    assert len(tokenizer.encode(" Seizure and Ataxia.")) <= 5
    assert tokenizer.decode(tokenizer.encode(rare)) == rare
    assert all(tokenizer._model.is_byte(i) for i in tokenizer.encode(rare))


def test_frequent_characters_have_tokens_as_far_as_there_is_room(tmp_path):
    frequent = "".join(map(chr, range(0x4E00, 0x4E00 + 2000)))
    path = train_sentencepiece([frequent] * 5, tmp_path / "x.model", MIN_VOCAB_SIZE + 40)
    tokenizer = SentencePieceTokenizer(path)
    alone = [c for c in frequent if not tokenizer._model.is_byte(tokenizer.encode(c)[0])]
    assert len(alone) == 20


def test_long_texts_are_learned_from(tmp_path):
    long_text = " ".join(["Xylophonium"] * 5000)
    path = train_sentencepiece([long_text], tmp_path / "long.model", MIN_VOCAB_SIZE + 50)
    assert len(SentencePieceTokenizer(path).encode("Xylophonium Xylophonium")) <= 3


@pytest.mark.parametrize(
    ("texts", "vocab_size", "sentence"),
    [
        (CORPUS, MIN_VOCAB_SIZE - 1, f"use at least {MIN_VOCAB_SIZE}"),
        ([], 1000, "training texts are empty"),
        (["\n", " "], 1000, "training texts are empty"),
    ],
)
def test_training_refuses_bad_input_and_writes_nothing(tmp_path, texts, vocab_size, sentence):
    path = tmp_path / "tokenizer.model"
    with pytest.raises(InputError, match=sentence):
        train_sentencepiece(texts, path, vocab_size)
    assert not path.exists()


def test_bad_model_files_are_refused_with_their_path(tmp_path):
    with pytest.raises(InputError, match="absent.model: there is no such file"):
        SentencePieceTokenizer(tmp_path / "absent.model")
    garbage = tmp_path / "garbage.model"
    for content in (b"", b"not a model"):
        garbage.write_bytes(content)
        with pytest.raises(InputError, match="garbage.model: not a SentencePiece model"):
            SentencePieceTokenizer(garbage)
