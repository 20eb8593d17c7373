"""A SentencePiece tokenizer as the files that transformers reads.

    write_tokenizer(tokenizer, directory, max_tokens=4096)

The ids are the same for every text: byte-pair merges in the order of SentencePiece's scores, whole
symbols, bytes for what has no token. Two things are written otherwise than in models that were
converted from SentencePiece: pieces have spaces for U+2581, so that nothing is normalized and a
U+2581 in a text stays one; and the end-of-think marker is no special token, so that it is still
there, between thought and answer, where special tokens are skipped in decoding.

Bytes that are no UTF-8 decode otherwise: SentencePiece has one U+FFFD for each byte that belongs to
no character, transformers one for every byte of the run.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import tokenizers
from sentencepiece import sentencepiece_model_pb2

from rft_jax.tokenizers.hugging_face import (
    CONFIG_FILE,
    GENERATION_FILE,
    TEMPLATE_FILE,
    TOKENIZER_FILE,
)
from rft_jax.tokenizers.spm import END_OF_THINK, ROLE_MARKERS, SPACE, SentencePieceTokenizer
from rft_jax.utils.errors import InputError
from rft_jax.utils.files import write_json

# Made when the module is imported: no type checker sees it.
_ModelProto = sentencepiece_model_pb2.ModelProto  # pyright: ignore[reportAttributeAccessIssue]
Piece = _ModelProto.SentencePiece


class PieceProto(Protocol):
    """An entry of the vocabulary."""

    piece: str
    score: float
    type: int


class TrainerSpec(Protocol):
    """How the model was trained."""

    BPE: int
    model_type: int
    byte_fallback: bool


class NormalizerSpec(Protocol):
    """What is done with a text first."""

    precompiled_charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


class Proto(Protocol):
    """A SentencePiece model, as far as it is read here."""

    pieces: Sequence[PieceProto]
    trainer_spec: TrainerSpec
    normalizer_spec: NormalizerSpec


# The format of `SentencePieceTokenizer.encode_prompt` and, of a last answer, `encode_completion`.
TEMPLATE = """\
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}{{- part.text -}}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
    {{- raise_exception("this chat format has no place for functions") -}}
{%- endif -%}
{{- bos_token -}}
{%- for message in messages -%}
    {%- set text = text_of(message.content) -%}
    {%- if message.role == "assistant" -%}
        {%- set thought = message.reasoning_content or "" -%}
        {%- if message.reasoning_content is not string and "</think>" in text -%}
            {%- set thought = text.split("</think>")[0].split("<think>")[-1].strip("\\n") -%}
            {%- set text = text.split("</think>")[-1].lstrip("\\n") -%}
        {%- endif -%}
        {%- set shown = loop.last and not add_generation_prompt -%}
        {{- "<|assistant|>" + (thought if shown else "") + "<|end_of_think|>" + text -}}
        {{- eos_token -}}
    {%- elif message.role in markers -%}
        {{- markers[message.role] + text -}}
    {%- else -%}
        {{- raise_exception("the role " + message.role + " is unknown") -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|assistant|>" -}}
{%- endif -%}
"""


def write_tokenizer(tokenizer: SentencePieceTokenizer, directory: Path, max_tokens: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json, generation_config.json and the chat template.

    Args:
        tokenizer: One of byte pairs, as `train_sentencepiece` makes them.
        directory: Exists.
        max_tokens: The longest sequence that the model was trained on.

    Raises:
        InputError: The model has another algorithm or normalizes texts.
    """
    proto: Proto = _ModelProto.FromString(tokenizer.model_proto())
    _check(proto)
    (directory / TOKENIZER_FILE).write_text(_convert(proto).to_str(pretty=True), encoding="utf-8")
    names = {
        f"{name}_token": proto.pieces[id].piece
        for name, id in {
            "bos": tokenizer.bos_id,
            "eos": tokenizer.stop_ids[0],
            "unk": tokenizer.unk_id,
            "pad": tokenizer.pad_id,
        }.items()
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_tokens,
        "padding_side": "left",
    }
    generation = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": list(tokenizer.stop_ids),
        "pad_token_id": tokenizer.pad_id,
        "suppress_tokens": list(tokenizer.forbidden_ids),
    }
    write_json(directory / CONFIG_FILE, config)
    write_json(directory / GENERATION_FILE, generation)
    markers = {role: name for role, name in ROLE_MARKERS.items() if role != "assistant"}
    template = f"{{%- set markers = {json.dumps(markers)} -%}}\n{TEMPLATE}"
    (directory / TEMPLATE_FILE).write_text(template, encoding="utf-8")


def _check(proto: Proto) -> None:
    """Refuses what has no counterpart."""
    spec, rule = proto.trainer_spec, proto.normalizer_spec
    needed = {
        "model_type is bpe": spec.model_type == spec.BPE,
        "byte_fallback is on": spec.byte_fallback,
        "normalization is the identity": not rule.precompiled_charsmap,
        "add_dummy_prefix is off": not rule.add_dummy_prefix,
        "remove_extra_whitespaces is off": not rule.remove_extra_whitespaces,
        "no piece is unused": all(piece.type != Piece.UNUSED for piece in proto.pieces),
    }
    for condition, holds in needed.items():
        if not holds:
            raise InputError(
                f"tokenizer: only a SentencePiece model of which {condition} can be written for "
                "transformers; train one with train_sentencepiece"
            )


def _convert(proto: Proto) -> tokenizers.Tokenizer:
    names = [piece.piece.replace(SPACE, " ") for piece in proto.pieces]
    kinds = [piece.type for piece in proto.pieces]
    unknown = names[kinds.index(Piece.UNKNOWN)]
    model = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={name: id for id, name in enumerate(names)},
            merges=_merges(proto),
            unk_token=unknown,
            byte_fallback=True,
        )
    )
    decoders = tokenizers.decoders
    model.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    special = [
        tokenizers.AddedToken(name, normalized=False, special=True)
        for name, kind in zip(names, kinds, strict=True)
        if kind in (Piece.CONTROL, Piece.UNKNOWN) and name != END_OF_THINK
    ]
    whole = [
        tokenizers.AddedToken(name, normalized=False, special=False)
        for name, kind in zip(names, kinds, strict=True)
        if kind == Piece.USER_DEFINED or name == END_OF_THINK
    ]
    model.add_special_tokens(special)
    model.add_tokens(whole)
    return model


def _merges(proto: Proto) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, in the order in which SentencePiece prefers them.

    It merges the neighbors that make the piece of the highest score, whatever pair they are, and
    the leftmost of several.
    """
    score = {
        piece.piece.replace(SPACE, " "): piece.score
        for piece in proto.pieces
        if piece.type == Piece.NORMAL
    }
    return [
        (piece[:cut], piece[cut:])
        for piece in sorted(score, key=score.__getitem__, reverse=True)
        for cut in range(1, len(piece))
        if piece[:cut] in score and piece[cut:] in score
    ]
