"""A checkpoint's tokenizer as GGUF files describe one: `gguf_vocabulary(tokenizer, "qwen3")`.

Such a file has the tokens, and for byte-level encodings (`gpt2`) their merges and the name of the
rule by which a text is split first; for SentencePiece's (`llama`) a score for each token, by which
neighbors are merged.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rft_jax.tokenizers.hugging_face import TOKENIZER_FILE, HuggingFaceTokenizer
from rft_jax.tokenizers.spm import SPACE
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of tokens
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Names of rules by their regular expressions, and where architectures call them otherwise.
SPLITS = {
    (): "gpt-2",
    (_LLAMA_3,): "llama-bpe",
    (_LLAMA_3.replace("{1,3}", ""),): "qwen2",
}
OTHER_NAMES = {("lfm2", "llama-bpe"): "lfm2"}
_BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class GgufVocabulary:
    """What a file says of a tokenizer.

    Attributes:
        model: `gpt2` or `llama`.
        split: By which rule texts are split first.
        tokens: One for each row of the embedding.
        types: As above, of each.
        merges: Those of byte-level encodings, the best first.
        scores: SentencePiece's.
        ids: Tokens by their role.
        begins_texts: Whether every text begins with the `bos` token.
        adds_space: Whether a space is put before texts.
        chat_template: If there is one.
    """

    model: str
    split: str
    tokens: list[str]
    types: list[int]
    merges: list[str] | None
    scores: list[float] | None
    ids: dict[str, int]
    begins_texts: bool
    adds_space: bool
    chat_template: str | None


def gguf_vocabulary(tokenizer: HuggingFaceTokenizer, architecture: str) -> GgufVocabulary:
    """The tokenizer's.

    Args:
        tokenizer: A checkpoint's.
        architecture: That of its model, by GGUF's name.

    Raises:
        InputError: It is of another kind, or splits texts by a rule that has no name.
    """
    state = tokenizer.state
    model, where = state["model"], str(tokenizer.directory / TOKENIZER_FILE)
    if model["type"] != "BPE":
        raise InputError(
            f"{where}: a tokenizer of the kind {model['type']} cannot be written as GGUF, only one "
            "of byte pairs; export with --format hf"
        )
    pieces = bool(model.get("byte_fallback"))
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    tokens, types = _tokens(state, tokenizer.vocab_size)
    scores = _scores(tokens, merges) if pieces else None
    if pieces and SPACE not in json.dumps(state["decoder"], ensure_ascii=False):
        tokens = [token.replace(" ", SPACE) for token in tokens]  # written by `spm_export`
    roles = {"bos": tokenizer.id_of("bos_token"), "unknown": tokenizer.id_of("unk_token")}
    roles |= {"eos": tokenizer.ending_id, "padding": tokenizer.pad_id}
    return GgufVocabulary(
        model="llama" if pieces else "gpt2",
        split="default" if pieces else _split(state, architecture, where),
        tokens=tokens,
        types=types,
        merges=None if pieces else [" ".join(pair) for pair in merges],
        scores=scores,
        ids={role: token for role, token in roles.items() if token is not None},
        begins_texts=tokenizer.begins_texts,
        adds_space=pieces and _adds_space(state),
        chat_template=tokenizer.chat_template,
    )


def _tokens(state: JsonObject, vocab_size: int) -> tuple[list[str], list[int]]:
    """The token of each id and its type; ids without one are unused."""
    model = state["model"]
    tokens = [f"[PAD{id}]" for id in range(vocab_size)]
    types = [UNUSED] * vocab_size
    for token, id in model["vocab"].items():
        byte = model.get("byte_fallback") and _BYTE.fullmatch(token)
        tokens[id], types[id] = token, BYTE if byte else NORMAL
    for added in state["added_tokens"]:
        if (id := added["id"]) < vocab_size:
            tokens[id] = added["content"]
            types[id] = CONTROL if added["special"] else USER_DEFINED
            if added["content"] == model.get("unk_token"):
                types[id] = UNKNOWN
    return tokens, types


def _scores(tokens: list[str], merges: list[tuple[str, ...]]) -> list[float]:
    """The better, the earlier a token is merged; what no merge makes comes last."""
    first: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        first.setdefault("".join(pair), rank)
    return [-float(first.get(token, len(merges))) for token in tokens]


def _split(state: JsonObject, architecture: str, where: str) -> str:
    """The name of the rule by which texts are split."""
    steps = list(_steps(state["pre_tokenizer"]))
    splits = [step for step in steps if step["type"] == "Split"]
    patterns = tuple(step["pattern"].get("Regex") for step in splits)
    plain = all(step["behavior"] == "Isolated" and not step["invert"] for step in splits)
    kinds = [step["type"] for step in steps]
    bytes_of = steps[-1] if kinds and kinds[-1] == "ByteLevel" else None
    usual = bytes_of is not None and kinds == ["Split"] * len(patterns) + ["ByteLevel"]
    # A byte level by itself splits as GPT-2 does, behind other rules not at all.
    usual &= plain and bytes_of is not None and bytes_of["use_regex"] == (not patterns)
    if bytes_of is None or not usual or bytes_of["add_prefix_space"] or patterns not in SPLITS:
        raise InputError(
            f"{where}: GGUF has no name for the rule by which this tokenizer splits texts; export "
            "with --format hf, and convert with llama.cpp's convert_hf_to_gguf.py"
        )
    name = SPLITS[patterns]
    return OTHER_NAMES.get((architecture, name), name)


def _steps(step: JsonObject | None) -> Iterator[JsonObject]:
    """The parts of what splits texts, or of what normalizes them."""
    if step is None:
        return
    if step["type"] == "Sequence":
        for part in step.get("pretokenizers") or step["normalizers"]:
            yield from _steps(part)
    else:
        yield step


def _adds_space(state: JsonObject) -> bool:
    steps = [*_steps(state["normalizer"]), *_steps(state["pre_tokenizer"])]
    return any(
        step["type"] == "Prepend" or step.get("prepend_scheme") in ("first", "always")
        for step in steps
    )
