"""What a GGUF file says of a tokenizer is enough to encode as it does."""

import json

import pytest
import tokenizers

from rft_jax.tokenizers import HuggingFaceTokenizer, gguf_vocabulary
from rft_jax.utils.errors import InputError

TEXTS = (
    "Observed: Seizure; Ataxia.   Absent: Größe 日本 \N{SNOWMAN} 12 years",
    ' {"genes": ["SCN1A"], "n": 10}\n\tWhat is it?',
)


def vocabulary_of(directory):
    return gguf_vocabulary(HuggingFaceTokenizer(directory), "llama")


@pytest.mark.parametrize(
    ("name", "model", "split", "begins", "space"),
    [
        ("qwen3", "gpt2", "qwen2", False, False),
        ("llama3_2", "gpt2", "llama-bpe", True, False),
        ("deepseek_r1_distill", "gpt2", "qwen2", True, False),
        ("gemma3", "llama", "default", False, False),
        ("llama2", "llama", "default", False, True),
    ],
)
def test_kinds_of_tokenizers(checkpoints, name, model, split, begins, space):
    found = vocabulary_of(checkpoints[name])
    assert (found.model, found.split) == (model, split)
    assert (found.begins_texts, found.adds_space) == (begins, space)
    assert (found.chat_template is None) == (name == "llama2")
    library = HuggingFaceTokenizer(checkpoints[name])
    assert found.ids["eos"] == library.ending_id
    assert len(found.tokens) == len(found.types) == library.vocab_size


@pytest.mark.parametrize("name", ["qwen3", "llama3_2"])
def test_byte_level_tokens_merge_as_the_tokenizer_does(checkpoints, name):
    found = vocabulary_of(checkpoints[name])
    state = json.loads((checkpoints[name] / "tokenizer.json").read_text())
    again = tokenizers.Tokenizer.from_str(json.dumps({**state, "added_tokens": []}))
    again.model = tokenizers.models.BPE(
        {token: id for id, token in enumerate(found.tokens)},
        [tuple(merge.split(" ")) for merge in found.merges],
    )
    library = HuggingFaceTokenizer(checkpoints[name])
    for text in TEXTS:
        assert again.encode(text, add_special_tokens=False).ids == library.encode(text)
    kinds = {"<|im_end|>": 3, "<|eot_id|>": 3, "<think>": 4, "a": 1}
    for token, kind in kinds.items():
        if token in found.tokens:
            assert found.types[found.tokens.index(token)] == kind


@pytest.mark.parametrize("name", ["gemma3", "llama2"])
def test_pieces_merge_by_their_scores_as_the_tokenizer_does(checkpoints, name):
    found = vocabulary_of(checkpoints[name])
    ids = {token: id for id, token in enumerate(found.tokens)}
    library = HuggingFaceTokenizer(checkpoints[name])
    assert found.types[ids["<0x41>"]] == 6 and found.types[ids["<unk>"]] == 2

    def encode(text):
        """As llama.cpp does: neighbors that make the piece of the highest score, the first."""
        pieces = list((" " * found.adds_space + text).replace(" ", "\u2581"))
        while True:
            joined = [a + b for a, b in zip(pieces, pieces[1:], strict=False)]
            usual = [at for at, piece in enumerate(joined) if found.types[ids.get(piece, 0)] == 1]
            usual = [at for at in usual if joined[at] in ids]
            if not usual:
                break
            best = max(usual, key=lambda at: (found.scores[ids[joined[at]]], -at))
            pieces[best : best + 2] = [joined[best]]
        known = [[piece] if piece in ids else [] for piece in pieces]
        spelled = [[f"<0x{byte:02X}>" for byte in piece.encode()] for piece in pieces]
        return [ids[p] for k, s in zip(known, spelled, strict=True) for p in k or s]

    for text in TEXTS:
        text = text.replace("\n", " ")  # a token of its own in Gemma's
        assert encode(text) == library.encode(text)


def test_rules_without_a_name_are_refused(checkpoints, tmp_path):
    for path in checkpoints["qwen3"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = tmp_path / "tokenizer.json"
    usual = file.read_text()
    for rule in (
        ("p{N}", "p{N}{1,2}"),
        ('"use_regex":false', '"use_regex":true'),
        ("Isolated", "Removed"),
    ):
        assert rule[0] in (compact := usual.replace(": ", ":"))
        file.write_text(compact.replace(*rule))
        with pytest.raises(InputError, match="no name for the rule by which this tokenizer splits"):
            vocabulary_of(tmp_path)
    state = json.loads(file.read_text())
    state["model"] = {"type": "WordLevel", "vocab": state["model"]["vocab"], "unk_token": "a"}
    file.write_text(json.dumps(state))
    with pytest.raises(InputError, match="the kind WordLevel cannot be written as GGUF"):
        vocabulary_of(tmp_path)
