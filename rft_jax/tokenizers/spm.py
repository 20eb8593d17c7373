"""SentencePiece behind the tokenizer interface: training on a corpus, and the chat format.

A prompt is `<s>`, then per message a role marker and its text, then `<|assistant|>`; a completion
is the thought, `<|end_of_think|>`, the answer and `</s>`. All of these are control symbols:
SentencePiece never produces them from text, so that a message cannot forge them.
"""

import collections
import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import sentencepiece

from rft_jax.tokenizers.base import Message, message_text
from rft_jax.tokenizers.device_decode import DetokenizeTable, DropSpace, Kind, Repair, make_table
from rft_jax.tokenizers.thoughts import check_thoughts, split_thought
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

END_OF_THINK = "<|end_of_think|>"
ROLE_MARKERS = {
    "system": "<|system|>",
    "developer": "<|system|>",  # OpenAI's newer name for the same role
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "tool": "<|tool|>",
}
CONTROL_SYMBOLS = (*dict.fromkeys(ROLE_MARKERS.values()), END_OF_THINK)
PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)

SPACE = "\u2581"  # how SentencePiece writes a space
_RESERVED = "\u2581\u2585"  # the trainer skips lines with the second
_ASCII = "".join(map(chr, range(0x20, 0x7F)))
# Bytes, special tokens, markers, printable ASCII; and some room.
MIN_VOCAB_SIZE = 256 + 4 + len(CONTROL_SYMBOLS) + len(_ASCII) + 32
# A character has a token if it is at least this fraction of the corpus; the others are byte tokens.
_MIN_CHARACTER_FRACTION = 1 / 20_000


def train_sentencepiece(
    texts: Iterable[str], path: str | Path, vocab_size: int, symbols: Sequence[str] = ()
) -> Path:
    """Trains a tokenizer and writes it to `path`; the same texts give the same file.

    Byte-pair encoding with byte fallback: on case reports with JSON answers it needs fewer tokens
    than a unigram model of the same size (an eighth at V = 2048) and trains faster. Text is not
    normalized and no space is added, so that decoding returns exactly what was encoded. Digits
    stand alone, as in Llama 2 and Gemma: `COL2A1` is `COL`, `2`, `A`, `1` and shares pieces with
    the other genes of its family.

    Args:
        texts: The corpus, some megabytes at most: it is held in memory.
        path: The model file, in SentencePiece's format.
        vocab_size: V, an upper bound; a small corpus gives fewer pieces.
        symbols: Texts that become one token each wherever they occur, the longest first; they may
            contain spaces.

    Returns:
        The path.

    Raises:
        InputError: If the corpus is empty or the vocabulary too small.
    """
    path = Path(path)
    symbols = [symbol.replace(" ", SPACE) for symbol in dict.fromkeys(symbols) if symbol]
    if vocab_size < (least := MIN_VOCAB_SIZE + len(symbols)):
        raise InputError(
            f"tokenizer.vocab_size: {vocab_size} has no room for bytes, ASCII, markers and "
            f"{len(symbols)} symbols; use at least {least}"
        )
    lines = _lines(list(texts), vocab_size)
    if not lines:
        raise InputError("tokenizer: the training texts are empty; give it at least one sentence")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        # As lines of their own: `required_chars` is not kept to where the corpus lacks one.
        sentence_iterator=itertools.chain(lines, _ASCII),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        character_coverage=1.0,  # `_lines` has chosen the characters
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        max_sentence_length=2**30,  # the library's own bound: no line is skipped for its length
        num_threads=1,
        pad_id=PAD_ID,
        unk_id=UNK_ID,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        control_symbols=list(CONTROL_SYMBOLS),
        user_defined_symbols=symbols,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return path


def _lines(texts: Sequence[str], vocab_size: int) -> list[str]:
    """The corpus cut at line breaks and at the characters that get no token of their own."""
    counts = collections.Counter(itertools.chain.from_iterable(texts))
    least = counts.total() * _MIN_CHARACTER_FRACTION
    others = [
        character
        for character, count in counts.most_common()
        if count >= least and not character.isascii() and character.isprintable()
    ]
    room = (vocab_size - MIN_VOCAB_SIZE) // 2
    kept = {*_ASCII, *others[:room]}.difference(_RESERVED)
    breaks = {ord(character): "\n" for character in counts if character not in kept}
    lines = (line for text in texts for line in text.translate(breaks).split("\n"))
    return [line for line in lines if line.strip()]


class SentencePieceTokenizer:
    """A SentencePiece model with this system's markers; implements `Tokenizer`."""

    def __init__(self, path: str | Path):
        """Reads a model file.

        Raises:
            InputError: If there is no such file, or it is not a model with the markers.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(
                f"{path}: there is no such file; train a tokenizer or correct the path"
            )
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(path.read_bytes())
        except RuntimeError as error:
            raise InputError(f"{path}: not a SentencePiece model; train one") from error
        self.vocab_size = self._model.vocab_size()
        self.pad_id = self._model.pad_id()
        self.bos_id = self._model.bos_id()
        self.unk_id = self._model.unk_id()
        self.stop_ids = (self._model.eos_id(),)
        self.end_of_think_id = self._marker(path, END_OF_THINK)
        self.answer_separator = ""
        self.lead_ids: tuple[int, ...] = ()
        self._role_ids = {role: self._marker(path, name) for role, name in ROLE_MARKERS.items()}
        self.forbidden_ids = tuple(
            sorted({self.pad_id, self.bos_id, self.unk_id, *self._role_ids.values()})
        )

    def model_proto(self) -> bytes:
        """The model in SentencePiece's own format."""
        return self._model.serialized_model_proto()

    def _marker(self, path: Path, name: str) -> int:
        token = self._model.piece_to_id(name)
        if not self._model.is_control(token):
            raise InputError(
                f"{path}: the model has no control symbol {name}; train it with train_sentencepiece"
            )
        return token

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, without any control token; `decode` returns the text again."""
        if SPACE not in text:
            return self._model.encode(text)
        # The library takes U+2581 for a space; as three bytes it survives.
        space = [self._model.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        first, *rest = (self._model.encode(part) for part in text.split(SPACE))
        return first + [token for part in rest for token in (*space, *part)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; control tokens have none."""
        return self._model.decode(list(map(int, ids)))

    def encode_prompt(
        self, messages: Sequence[Message], tools: Sequence[JsonObject] | None = None
    ) -> list[int]:
        """Token ids of a conversation up to the marker after which the assistant's turn begins.

        Earlier turns of the assistant go without their thoughts, as in Qwen 3's template.

        Raises:
            InputError: There are tools.
        """
        if tools:
            raise InputError(
                "tools: this chat format has no place for functions; remove the key, or use a "
                "model with a chat template that has"
            )
        (ids,) = self._encode_turns(messages, lambda text: [text])
        return ids

    def encode_prompt_around(self, messages: Sequence[Message], gap: str) -> list[list[int]]:
        """As `encode_prompt`, in runs; see `Tokenizer.encode_prompt_around`."""
        return self._encode_turns(messages, lambda text: text.split(gap))

    def _encode_turns(
        self, messages: Sequence[Message], cut: Callable[[str], list[str]]
    ) -> list[list[int]]:
        """Token ids up to where the assistant's turn begins, in runs: a message is cut into texts,
        between which one run ends and the next begins."""
        runs = [[self.bos_id]]
        for message in messages:
            if message.get("tool_calls"):
                raise InputError(
                    "tool_calls: this chat format shows no calls of tools; write them into the "
                    "content, or use a model with a chat template that shows them"
                )
            answers = message["role"] == "assistant"
            text = message_text(message)
            if answers:
                text, _ = split_thought(text, message.get("reasoning_content"))
            first, *rest = map(self.encode, cut(text))
            runs[-1] += [self._role_ids[message["role"]], *[self.end_of_think_id] * answers, *first]
            runs += rest
            runs[-1] += self.stop_ids if answers else ()
        runs[-1].append(self._role_ids["assistant"])
        return runs

    def encode_completion(self, content: str, reasoning: str | None) -> list[int]:
        """Token ids of the thought (if any), the end-of-think marker, the answer and the stop.

        Without `reasoning`, the thought is what the content has between `<think>` and `</think>`.

        Raises:
            InputError: There would be two thoughts.
        """
        check_thoughts(content, reasoning)
        answer, thought = split_thought(content, reasoning)
        thought = self.encode(thought or "")
        return [*thought, self.end_of_think_id, *self.encode(answer), *self.stop_ids]

    def piece_table(self) -> DetokenizeTable:
        """The arrays with which `detokenize` computes `decode` on the device."""
        kinds, surfaces = zip(*map(self._surface, range(self.vocab_size)), strict=True)
        return make_table(surfaces, kinds, self._drop_space(), Repair.BYTE)

    def _surface(self, token: int) -> tuple[Kind, bytes]:
        piece = self._model.id_to_piece(token)
        if self._model.is_control(token):
            return Kind.SILENT, b""
        if self._model.is_unknown(token):
            return Kind.PLAIN, self._model.decode([token]).encode()
        if self._model.is_byte(token):
            return Kind.RAW, bytes([int(piece[3:5], 16)])
        kind = Kind.SPACED if piece.startswith(SPACE) else Kind.PLAIN
        return kind, piece.replace(SPACE, " ").encode()

    def _drop_space(self) -> DropSpace:
        """The model's rule, from what it does: the library does not tell its settings."""
        spaced = [t for t in range(self.vocab_size) if self._surface(t)[0] == Kind.SPACED]
        if not spaced or self._model.decode(spaced[:1]).startswith(" "):
            return DropSpace.NEVER
        lone = self._model.piece_to_id(SPACE)
        if self._model.is_unknown(lone) or self._model.decode([lone, lone]):
            return DropSpace.FIRST
        return DropSpace.LEADING
