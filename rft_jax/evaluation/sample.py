"""Answers to prompts, for people and other programs: `sample_model`, of one model.

for sample in sample_model("runs/claims", "broken ski, reported after 9 days", system="Be brief."):
    print(sample["text"])
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax import data
from rft_jax.config import RolloutConfig
from rft_jax.evaluation.evaluator import EXACT
from rft_jax.grammars import GrammarTables
from rft_jax.models import Params
from rft_jax.rollout import Prompts, Rollout, completion_keys, make_logit_mask, rollout
from rft_jax.runs.reopen import OpenModel, open_best
from rft_jax.tokenizers import message_text, thought_end, thought_text
from rft_jax.utils.compilation_cache import use_compilation_cache
from rft_jax.utils.console import log
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

AT_ONCE = 64  # completions that are decoded together


@dataclass(frozen=True)
class SampleOptions:
    """How answers are sampled.

    Attributes:
        system: A system message before the conversation; empty for none.
        max_tokens: Longest completion, thought and answer together; None: as the run's
            reinforcement stage has it.
        temperature: 0 decodes greedily.
        seed: Seed of the samples' noise; the same seed gives the same samples.
        samples: How many of each prompt.
        response_format: What answers must look like, as `RolloutConfig` has it; empty: as the
            run's reinforcement stage has it.
    """

    system: str = ""
    max_tokens: int | None = None
    temperature: float = 1.0
    seed: int = 0
    samples: int = 1
    response_format: str | JsonObject = ""

    def __post_init__(self):
        """Refuses what cannot work.

        Raises:
            InputError: Naming the option.
        """
        if self.samples < 1:
            raise InputError(f"samples: must be at least 1, got {self.samples}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError(f"max_tokens: must be at least 1, got {self.max_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature: must be a number from 0, got {self.temperature}")


DEFAULT_OPTIONS = SampleOptions()


def sample_model(
    path: str | Path, prompt: str | Sequence[JsonObject], **options: Any
) -> Iterator[JsonObject]:
    """Samples answers of a model to one prompt.

    Args:
        path: A run `WORKDIR` (its last stage), `WORKDIR/STAGE`, one checkpoint of a stage
            `WORKDIR/STAGE/checkpoints/STEP`, or a Hugging Face checkpoint, a directory or
            `hf:Owner/Name`. Of a run or stage the checkpoint of the highest validation reward is
            taken, or the newest where nothing was validated.
        prompt: The user's message, or a conversation to go on with: messages in OpenAI's format,
            such as `[{"role": "user", "content": "broken ski"}]`, whose last is not the
            assistant's.
        options: Those of `SampleOptions`, by name: `system`, `max_tokens`, `temperature`, `seed`,
            `samples`, `response_format`.

    Yields:
        For each sample `text` (the answer), `thought`, `stop_reason` ("stop", or "length" for one
        that was cut) and `token_ids`.

    Raises:
        InputError: If there is no such model or an option cannot work.
    """
    item = {"messages": _conversation(prompt)}
    for sample in sample_items(path, [item], SampleOptions(**options)):
        del sample["item"]
        yield sample


def _conversation(prompt: str | Sequence[JsonObject]) -> list[JsonObject]:
    if not isinstance(prompt, str):
        return list(prompt)
    return [{"role": "user", "content": prompt}]


def sample_items(
    path: str | Path,
    items: Sequence[JsonObject],
    options: SampleOptions = DEFAULT_OPTIONS,
    source: str = "",
) -> Iterator[JsonObject]:
    """Samples answers of a model to many prompts.

    Args:
        path: As for `sample_model`.
        items: With `messages`, as `data.load_items` returns them.
        options: How.
        source: Their file, for messages.

    Yields:
        What `sample_model` does, after `item`, the number of the prompt, from 1.

    Raises:
        InputError: As `sample_model`.
    """
    items = [
        _with_system(item, options.system, _where(source, n)) for n, item in enumerate(items, 1)
    ]
    opened = open_best(Path(path))
    tokens = [_encode(opened, item, _where(source, n)) for n, item in enumerate(items, 1)]
    _tell_odd_prompts(opened, items, tokens, source)
    yield from _sample(opened, tokens, options)


def _where(source: str, number: int) -> str:
    return f"{source}, line {number}" if source else "the prompt"


def _with_system(item: JsonObject, system: str, where: str) -> JsonObject:
    """The item, checked, with the system message before its own."""
    messages = data.check_prompt(item, where)
    _check_encoding(messages, where)
    if not system:
        return item
    if messages[0]["role"] in ("system", "developer"):
        raise InputError(f"{where}: has a system message of its own; leave one of the two out")
    _check_encoding([system], "the system message")
    return item | {"messages": [{"role": "system", "content": system}, *messages]}


def _check_encoding(value: object, where: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: is not UTF-8; correct its encoding") from None


def _encode(opened: OpenModel, item: JsonObject, where: str) -> list[int]:
    try:
        return opened.run.tokenizer.encode_prompt(item["messages"], item.get("tools"))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _tell_odd_prompts(
    opened: OpenModel, items: Sequence[JsonObject], tokens: Sequence[list[int]], source: str
) -> None:
    """Warns of prompts that are unlike what the model has learned from."""
    stages = opened.sampling_stages
    limit = stages[-1].rollout.max_prompt_tokens if stages else math.inf
    empty = [n for n, item in enumerate(items, 1) if not message_text(item["messages"][-1]).strip()]
    long = [n for n, ids in enumerate(tokens, 1) if len(ids) > limit]
    for found, what in (
        (empty, "the prompt is empty"),
        (long, f"the prompt has {max(map(len, tokens))} tokens, but the model was trained on at "
         f"most {limit} (rollout.max_prompt_tokens)"),
    ):  # fmt: skip
        if found:
            where = f"{source}, line {found[0]}: " if source else ""
            more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
            log(f"warning: {where}{what}; expect noise{more}")


def _sample(
    opened: OpenModel, tokens: Sequence[list[int]], options: SampleOptions
) -> Iterator[JsonObject]:
    (run, stage, step), samples = opened, options.samples
    use_compilation_cache(run.config.compilation_cache)
    model, tokenizer = run.model(stage), run.tokenizer
    config = opened.sampling or RolloutConfig()
    length = options.max_tokens or config.max_completion_tokens
    most_thought = max(length - len(thought_end(tokenizer)) - 1, 0)
    config = dataclasses.replace(
        config,
        max_completion_tokens=length,
        temperature=options.temperature,
        top_k=0,
        top_p=1.0,
        slots=0,
        response_format=options.response_format or config.response_format,
        reasoning_effort=min(config.thinking_tokens, most_thought),
        **EXACT,
    )
    mask = make_logit_mask(tokenizer, config, run.mesh)

    @jax.jit
    def run_rollout(
        params: Params, grammar: GrammarTables | None, prompts: Prompts, row_B: jax.Array
    ) -> Rollout:
        noise = jnp.uint32(options.seed), jnp.int32(0)
        keys = completion_keys(*noise, row_B, jnp.zeros_like(row_B), samples)
        copy = model.sampling_weights(params)
        stops = {"stop_ids": tokenizer.stop_ids, "pad_id": tokenizer.pad_id}
        whole = dataclasses.replace(mask, grammar=grammar)
        return rollout(model, copy, prompts, keys, whole, config, **stops)

    params = run.load_params(stage, step)
    longest, B = max(map(len, tokens)), min(len(tokens), max(1, AT_ONCE // samples))
    for first in range(0, len(tokens), B):
        rows = range(first, min(first + B, len(tokens)))
        row_B = np.asarray([*rows, *[rows[-1]] * (B - len(rows))], np.int32)
        tokens_BP = np.full((B, longest), tokenizer.pad_id, np.int32)
        for b, row in enumerate(row_B):
            tokens_BP[b, : len(tokens[row])] = tokens[row]
        length_B = np.asarray([len(tokens[row]) for row in row_B], np.int32)
        prompts = Prompts(jnp.asarray(tokens_BP), jnp.asarray(length_B))
        output = jax.device_get(run_rollout(params, mask.grammar, prompts, jnp.asarray(row_B)))
        for b, row in enumerate(rows):
            for g in range(samples):
                yield {"item": row + 1, **_read(opened, output, b, g)}


def _read(opened: OpenModel, output: Rollout, b: int, g: int) -> JsonObject:
    """One completion of a rollout."""
    tokenizer = opened.run.tokenizer
    ids = output.tokens_BGT[b, g, : output.length_BG[b, g]].tolist()
    answer = slice(output.answer_start_BG[b, g], output.answer_end_BG[b, g])
    text = tokenizer.decode(ids[answer])
    return {
        "text": text.lstrip("\n") if tokenizer.answer_separator else text,
        "thought": thought_text(tokenizer, ids[: output.thinking_tokens_BG[b, g]]),
        "stop_reason": "stop" if output.stopped_BG[b, g] else "length",
        "token_ids": ids,
    }
