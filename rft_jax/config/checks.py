"""Checks of single settings, of which the rules in `validate` are made."""

import dataclasses
import math
import typing
from collections.abc import Callable

from rft_jax.config import REASONING_EFFORTS, RolloutConfig
from rft_jax.config.types import (
    MISMATCH,
    DataclassInstance,
    alternatives,
    convert,
    describe,
    is_settings,
)
from rft_jax.config.update_parts import UpdateParts
from rft_jax.utils.errors import InputError


def require_positive(section: str, settings: DataclassInstance, *names: str) -> None:
    """Refuses numbers below 1.

    Raises:
        InputError: Naming the setting.
    """
    for name in names:
        if getattr(settings, name) < 1:
            raise InputError(f"{section}.{name}: must be at least 1, got {getattr(settings, name)}")


def require(
    section: str, settings: DataclassInstance, name: str, rule: Callable[[float], bool], what: str
) -> None:
    """Refuses a setting's value, naming that setting alone.

    Raises:
        InputError: Saying what it must do.
    """
    value = getattr(settings, name)
    if not rule(value):
        raise InputError(f"{section}.{name}: must {what}, got {value}")


def require_parts(section: str, parts: UpdateParts, batch_size: int) -> None:
    """Refuses numbers of micro-batches that do not divide the batch.

    Raises:
        InputError: Naming the setting.
    """
    if not parts.fit(batch_size):
        raise InputError(
            f"{section}.{parts.setting}: {parts.count} does not divide the batch of {batch_size}; "
            f"choose a divisor{or_of_group(parts, batch_size)}"
        )


def or_of_group(parts: UpdateParts, prompts: int) -> str:
    """The other numbers that work, where samples of a prompt can be split, as words."""
    return f", or {prompts} times one of group_size={parts.group}" if parts.group > 1 else ""


def check_types(node: DataclassInstance, section: str) -> None:
    """Refuses settings of another type than theirs, and numbers that are not finite.

    Raises:
        InputError: Naming the setting.
    """
    kinds = typing.get_type_hints(type(node))
    for setting in dataclasses.fields(node):
        value, kind = getattr(node, setting.name), kinds[setting.name]
        where = f"{section}.{setting.name}".strip(".")
        if typing.get_origin(kind) is tuple and not isinstance(value, tuple):
            raise InputError(
                f"{where}: must be a tuple; with one member a comma stands behind it, as in (x,)"
            )
        infinite = isinstance(value, float) and not math.isfinite(value)
        if infinite or all(convert(value, option) is MISMATCH for option in alternatives(kind)):
            raise InputError(f"{where}: {value!r} is not {describe(kind)}")
        if is_settings(value):
            check_types(value, where)
        elif isinstance(value, tuple):
            for member in filter(is_settings, value):
                check_types(member, f"{where}.{getattr(member, 'name', '')}")


def check_rollout(section: str, rollout: RolloutConfig) -> None:
    """Refuses ways of sampling that training cannot have.

    Raises:
        InputError: Naming the setting.
    """
    sizes = "max_prompt_tokens", "prompt_buckets", "max_completion_tokens", "output_bytes"
    require_positive(section, rollout, "group_size", *sizes)
    if not rollout.temperature > 0:
        raise InputError(f"{section}.temperature: training needs a temperature above 0")
    require(section, rollout, "top_p", lambda p: 0 < p <= 1, "lie in (0, 1]")
    require(section, rollout, "top_k", lambda k: k >= 0, "be 0 (off) or more")
    effort = rollout.reasoning_effort
    if isinstance(effort, str) and effort not in REASONING_EFFORTS:
        raise InputError(
            f"{section}.reasoning_effort: {effort!r} is none of {', '.join(REASONING_EFFORTS)} "
            "nor a number of tokens"
        )
    if not 0 <= rollout.thinking_tokens <= rollout.max_completion_tokens - 2:
        raise InputError(
            f"{section}.reasoning_effort: {rollout.thinking_tokens} thinking tokens leave no room "
            f"for an answer in max_completion_tokens={rollout.max_completion_tokens}; raise the "
            "latter"
        )
    if rollout.output_bytes < 4:
        raise InputError(f"{section}.output_bytes: must be at least 4, the longest character")


def check_pool(section: str, rollout: RolloutConfig, parts: int) -> None:
    """Refuses a cache without room for one whole completion on each of so many devices.

    Raises:
        InputError: Naming the setting and a size that works.
    """
    room, tokens = rollout.cache_tokens, rollout.max_completion_tokens
    if room is None:
        return
    if not rollout.slots:
        raise InputError(
            f"{section}.rollout.cache_tokens: is the room that slots share; set "
            f"{section}.rollout.slots, or leave it out"
        )
    if room // parts < tokens:
        raise InputError(
            f"{section}.rollout.cache_tokens: {room} leave a completion of max_completion_tokens="
            f"{tokens} no room on each of data x fsdp = {parts} devices; use at least "
            f"{parts * tokens}"
        )
