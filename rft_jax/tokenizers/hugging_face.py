"""Tokenizers of Hugging Face checkpoints, with their chat templates and special tokens.

    tokenizer = HuggingFaceTokenizer("models/Qwen3-0.6B", vocab_size=config.vocab_size)

`decode` is transformers' `decode(ids, skip_special_tokens=True)`: special tokens and ids without a
token have no text. It never tidies spaces up (`clean_up_tokenization_spaces`), which transformers
does not do for byte-pair encodings either.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers

from rft_jax.tokenizers import harmony
from rft_jax.tokenizers.base import Message
from rft_jax.tokenizers.chat import PLAIN, ChatTemplate, Clock
from rft_jax.tokenizers.device_decode import DetokenizeTable, Kind, make_table
from rft_jax.tokenizers.hugging_face_decoders import decoding
from rft_jax.tokenizers.thoughts import END_OF_THINK, THINK, check_thoughts, split_thought
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"
GENERATION_FILE = "generation_config.json"
MODEL_FILE = "config.json"

# What can end a thought, and what is between it and the answer: that of Qwen 3 and DeepSeek R1, and
# that of models that were trained here (`spm`). gpt-oss's is not looked for in templates.
_IN_TEMPLATES = {END_OF_THINK: "\n\n", "<|end_of_think|>": ""}
SEPARATORS = {**_IN_TEMPLATES, harmony.MESSAGE: ""}
# Checkpoints pad their embeddings by some rows (Qwen 2.5 by up to 399, DeepSeek V3 by 465); a model
# with more is not the tokenizer's.
MAX_UNUSED_IDS = 1024

_QUESTION = {"role": "user", "content": "What is it?"}
_ANSWER = "An answer that no template has"


class HuggingFaceTokenizer:
    """The tokenizer in a checkpoint's directory; implements `Tokenizer`.

    Thoughts: a model thinks if its chat template knows `</think>`, or the marker of models that
    were trained here, and does not close the thought itself. The marker must be one token, as in
    Qwen 3 and in the distillations of DeepSeek R1; what comes before it, `<think>` included, is the
    thought. gpt-oss thinks unless it is told not to (`harmony`). The completions of other models
    (Llama 3, Gemma 3, Qwen 2.5) are all answer.

    Stops: the ids of generation_config.json (without it: of config.json), the end-of-sequence
    token, and the token with which the template ends an answer.

    Forbidden: padding, special tokens that neither stop nor mark thoughts, which a grader would not
    see, and the ids without a token by which the model's embedding is padded.
    """

    def __init__(
        self,
        directory: str | Path,
        vocab_size: int | None = None,
        *,
        thinking: bool | None = None,
        plain: bool = False,
        template_options: Mapping[str, object] | None = None,
        now: Clock = datetime.datetime.now,
    ):
        """Reads tokenizer.json and the files around it.

        Args:
            directory: The checkpoint's.
            vocab_size: V, the model's; by default that of the last token plus 1.
            thinking: Whether to think before the answer, for templates that leave the choice
                (`enable_thinking`); by default what the template does by itself.
            plain: Take the plain template instead of the checkpoint's own, if it has any.
            template_options: More variables for the template.
            now: The time for templates that write the date into the prompt (Llama 3).

        Raises:
            InputError: Naming the file, what is wrong with it and the remedy.
        """
        self.directory = Path(directory)
        config = _read_json(self.directory / CONFIG_FILE)
        self.special_tokens = names = _special_token_names(
            _read_json(self.directory / SPECIAL_TOKENS_FILE) | config
        )
        self._model = _load_model(self.directory, config, names)
        added = self._model.get_added_tokens_decoder()
        self._special_ids = {id for id, token in added.items() if token.special}
        self._decoding = decoding(_decoder_json(self._model), str(self.directory / TOKENIZER_FILE))
        self.vocab_size = self._check_vocab_size(vocab_size)

        options = {} if thinking is None else {"enable_thinking": thinking}
        variables = {**names, **(template_options or {}), **options}
        if plain:
            self._template = ChatTemplate(PLAIN, "the plain chat template", variables, now)
        else:
            self._template = _load_template(self.directory, config, variables, now)
        template = self.chat_template
        self._harmony = template is not None and harmony.is_harmony(template)
        self._marker = harmony.MESSAGE if self._harmony else self._find_marker()
        self.end_of_think_id = self._find_end_of_think(thinking)
        thinks = self.end_of_think_id is not None
        self.answer_separator = SEPARATORS[self._marker] if thinks and self._marker else ""
        lead = harmony.LEAD if self._harmony and thinks else ""
        self.lead_ids = tuple(self._model.encode(lead, add_special_tokens=False).ids)

        generation = _read_json(self.directory / GENERATION_FILE)
        generation = generation or _read_json(self.directory / MODEL_FILE)
        ending = self._answer_ending()
        stops = [*_ids(generation, "eos_token_id"), *self._ids_of(names, "eos_token"), *ending]
        if not stops:
            raise InputError(
                f"{self.directory / GENERATION_FILE}: there is no eos_token_id; add the ids that "
                "end an answer"
            )
        self.stop_ids = tuple(dict.fromkeys(stops))
        self.ending_id = ending[0] if ending else stops[0]
        pads = [*self._ids_of(names, "pad_token"), *_ids(generation, "pad_token_id"), *stops]
        self.pad_id = pads[0]
        self.forbidden_ids = self._find_forbidden(names)
        self._check_ids([*self.stop_ids, self.pad_id], self.directory / GENERATION_FILE)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, of which no special token comes."""
        self._model.encode_special_tokens = True
        try:
            return self._model.encode(text, add_special_tokens=False).ids
        finally:
            self._model.encode_special_tokens = False

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens have none."""
        return self._model.decode(list(map(int, ids)), skip_special_tokens=True)

    def encode_prompt(
        self, messages: Sequence[Message], tools: Sequence[JsonObject] | None = None
    ) -> list[int]:
        """Token ids of a conversation, ending where the assistant's completion begins.

        The ids are those of transformers' `apply_chat_template`, for which special tokens written
        in a message are special tokens.

        Args:
            messages: The conversation.
            tools: Functions that the model may call, as JSON schemas.

        Raises:
            InputError: If the template refuses the messages or the model has no such token.
        """
        return self._parse(self._chat().render(messages, tools) + self._opening)

    def encode_prompt_around(self, messages: Sequence[Message], gap: str) -> list[list[int]]:
        """As `encode_prompt`, in runs; see `Tokenizer.encode_prompt_around`."""
        text = self._chat().render(messages) + self._opening
        return [self._parse(run) for run in text.split(gap)]

    def encode_completion(self, content: str, reasoning: str | None) -> list[int]:
        """Token ids of thought, end-of-think marker, answer and stop token, as in the template.

        Templates that know thoughts split them off the content by their tags. Where the template
        drops thoughts (DeepSeek R1) they are written as its models do.

        Raises:
            InputError: The completion would have two thoughts.
        """
        ids = self._parse(self._completion_text(content, reasoning))
        ends = [index for index, token in enumerate(ids) if token in self.stop_ids]
        return ids[: ends[-1] + 1] if ends else [*ids, self.ending_id]

    def piece_table(self) -> DetokenizeTable:
        """The arrays with which `detokenize` computes `decode` on the device."""
        kinds, surfaces = zip(*map(self._surface, range(self.vocab_size)), strict=True)
        return make_table(surfaces, kinds, self._decoding.drop_space, self._decoding.repair)

    @property
    def ending_token(self) -> str:
        """The text of the token that ends an answer."""
        token = self._model.id_to_token(self.ending_id)
        assert token is not None, "an id of the vocabulary"
        return token

    @property
    def state(self) -> JsonObject:
        """What tokenizer.json says, with the tokens that only other files name."""
        return json.loads(self._model.to_str())

    @property
    def chat_template(self) -> str | None:
        """The template's text, if there is one."""
        return None if self._template is None else self._template.source

    def id_of(self, role: str) -> int | None:
        """The token of a role such as `bos_token`, if it has one."""
        return next(iter(self._ids_of(self.special_tokens, role)), None)

    @property
    def begins_texts(self) -> bool:
        """Whether the library puts the token that begins a text before each."""
        ids = self._model.encode("", add_special_tokens=True).ids
        return bool(ids) and ids[0] == self.id_of("bos_token")

    def template_names(self, variable: str) -> bool:
        """Whether the chat template refers to a variable such as `eos_token`."""
        return self._template is not None and variable in self._template.source

    @property
    def _opening(self) -> str:
        """What a prompt goes on with behind what the template writes."""
        thinks = self.end_of_think_id is not None
        return harmony.opening(thinks) if self._harmony else ""

    def _surface(self, token: int) -> tuple[Kind, bytes]:
        name = self._model.id_to_token(token)
        if name is None or token in self._special_ids:
            return Kind.SKIPPED, b""
        return self._decoding.surface(name)

    def _check_vocab_size(self, vocab_size: int | None) -> int:
        """V, if the tokenizer can be the model's."""
        path = self.directory / TOKENIZER_FILE
        used = 1 + max(self._model.get_vocab(with_added_tokens=True).values())
        if vocab_size is None:
            return used
        # Tokens that were added may be missing: Gemma 3's text models have no image token.
        needed = 1 + max(self._model.get_vocab(with_added_tokens=False).values(), default=-1)
        if not needed <= vocab_size <= used + MAX_UNUSED_IDS:
            raise InputError(
                f"{path}: the tokenizer has {used} tokens, the model's vocabulary {vocab_size}; "
                "use the tokenizer that the model was trained with"
            )
        return vocab_size

    def _check_ids(self, ids: Sequence[int], where: Path | str) -> None:
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise InputError(
                    f"{where}: token {token} ({self._model.id_to_token(token)}) is outside of the "
                    f"model's vocabulary of {self.vocab_size}; remove it"
                )

    def _ids_of(self, names: Mapping[str, str], role: str) -> list[int]:
        token = self._model.token_to_id(names[role]) if role in names else None
        return [] if token is None else [token]

    def _find_marker(self) -> str | None:
        """The end of thoughts that the template knows, one token if possible."""
        source = "" if self._template is None else self._template.source
        known = [marker for marker in _IN_TEMPLATES if marker in source]
        tokens = [marker for marker in known if self._model.token_to_id(marker) is not None]
        return next(iter(tokens or known), None)

    def _find_end_of_think(self, thinking: bool | None) -> int | None:
        marker, template = self._marker, self._template
        if self._harmony:
            thinking = thinking is not False
        if thinking is None:
            thinking = (
                template is not None
                and marker is not None
                and marker not in template.render([_QUESTION])
            )
        if not thinking:
            return None
        token = None if marker is None else self._model.token_to_id(marker)
        if token is None:
            where = "chat template" if marker is None else "vocabulary"
            raise InputError(
                f"{self.directory}: the {where} has no {marker or END_OF_THINK}, so that no token "
                "can end a thought; set thinking to false, which takes all of a completion as the "
                "answer"
            )
        return token

    def _answer_ending(self) -> list[int]:
        """The special token that follows an answer, if one does."""
        if self._template is None:
            return []
        answer = {"role": "assistant", "content": _ANSWER}
        text = self._template.render([_QUESTION, answer], add_generation_prompt=False)
        return [
            id for id in self._parse(text.rpartition(_ANSWER)[2])[:1] if id in self._special_ids
        ]

    def _find_forbidden(self, names: Mapping[str, str]) -> tuple[int, ...]:
        unused = {id for id in range(self.vocab_size) if self._model.id_to_token(id) is None}
        special = {id for id in self._special_ids if id < self.vocab_size}
        allowed = {*self.stop_ids, self.end_of_think_id, self._model.token_to_id(THINK)}
        allowed |= set(self.lead_ids)
        unknown = self._ids_of(names, "unk_token")
        return tuple(sorted({*unused, *special, *unknown, self.pad_id} - allowed))

    def _chat(self) -> ChatTemplate:
        if self._template is None:
            raise InputError(
                f"{self.directory}: there is no chat template; use the instruction-tuned model, "
                f"put its {TEMPLATE_FILE} there, or set tokenizer.chat_template to plain"
            )
        return self._template

    def _parse(self, text: str) -> list[int]:
        """Token ids of a rendered text, in which special tokens are written out."""
        ids = self._model.encode(text, add_special_tokens=False).ids
        self._check_ids(ids, self.directory / TOKENIZER_FILE)
        return ids

    def _completion_text(self, content: str, reasoning: str | None) -> str:
        thinks, template = self.end_of_think_id is not None, self._chat()
        alone, thought = content, reasoning
        if self._marker is not None:
            check_thoughts(content, reasoning)
            alone, thought = split_thought(content, reasoning)
        if self._harmony:
            return harmony.completion(alone, thought, thinks)
        answer = {"role": "assistant", "content": content if thinks else alone}
        if thinks and reasoning is not None:
            answer["reasoning_content"] = reasoning
        prompt = template.render([_QUESTION])
        whole = template.render([_QUESTION, answer], add_generation_prompt=False)
        rest = whole.removeprefix(prompt)
        markers = 0 if self._marker is None else rest.count(self._marker)
        if len(rest) < len(whole) and (not thinks or markers):
            if thinks and markers > 1:
                raise InputError(
                    f"content: the chat template does not split it at {END_OF_THINK}, which would "
                    "be two thoughts; give the thought as reasoning_content"
                )
            return rest
        if not thinks:
            return alone
        opening = "" if prompt.rstrip("\n").endswith(THINK) else f"{THINK}\n"
        thought = (thought or "").strip("\n")
        return f"{opening}{thought}\n{self._marker}{self.answer_separator}{alone}"


def _read_json(path: Path) -> JsonObject:
    """A JSON object; empty if there is no such file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a JSON object; download it again")
    return content


def _special_token_names(config: JsonObject) -> dict[str, str]:
    """The tokens with a name, such as bos_token, by their name."""
    named = {key: value for key, value in config.items() if key.endswith("_token")}
    if isinstance(extra := config.get("extra_special_tokens"), dict):
        named |= extra
    contents = {
        key: value.get("content") if isinstance(value, dict) else value
        for key, value in named.items()
    }
    return {key: content for key, content in contents.items() if isinstance(content, str)}


def _load_model(
    directory: Path, config: JsonObject, names: Mapping[str, str]
) -> tokenizers.Tokenizer:
    """The library's tokenizer, with the tokens that only tokenizer_config.json knows."""
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file; correct the path, or if there is a tokenizer.model, "
            "convert it by loading and saving the tokenizer with transformers"
        )
    try:
        model = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise InputError(f"{path}: is not a tokenizer ({error}); download it again") from error
    model.no_padding()
    model.no_truncation()
    known = {repr(token) for token in model.get_added_tokens_decoder().values()}
    listed = sorted(config.get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0]))
    tokens = [tokenizers.AddedToken(**state) for _, state in listed]
    tokens = [token for token in tokens if repr(token) not in known]
    contents = {token.content for token in [*model.get_added_tokens_decoder().values(), *tokens]}
    tokens += [
        tokenizers.AddedToken(name, special=True)
        for name in dict.fromkeys(names.values())
        if name not in contents
    ]
    model.add_tokens(tokens)
    return model


def _decoder_json(model: tokenizers.Tokenizer) -> JsonObject | None:
    # Through a tokenizer without vocabulary, whose JSON is short.
    empty = tokenizers.Tokenizer(tokenizers.models.BPE())
    empty.decoder = model.decoder
    return json.loads(empty.to_str())["decoder"]


def _load_template(
    directory: Path, config: JsonObject, variables: Mapping[str, object], now: Clock
) -> ChatTemplate | None:
    path, source = directory / CONFIG_FILE, config.get("chat_template")
    if isinstance(source, list):
        source = {entry["name"]: entry["template"] for entry in source}.get("default")
    if (directory / TEMPLATE_FILE).is_file():
        path = directory / TEMPLATE_FILE
        source = path.read_text(encoding="utf-8")
    return None if source is None else ChatTemplate(source, str(path), variables, now)


def _ids(config: JsonObject, key: str) -> list[int]:
    """One id, several or none."""
    value = config.get(key)
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
