"""Sizes of a run against its data, looked at before anything is compiled."""

from collections.abc import Iterator, Mapping
from typing import Any

from rft_jax.config import Config, RLStage, SFTStage
from rft_jax.graders import Grader, Items
from rft_jax.graders.probe_answers import OWN, RIGHT, answers_of
from rft_jax.runs.datasets import Rows
from rft_jax.tokenizers import Tokenizer, message_text, thought_end
from rft_jax.tokenizers.thoughts import split_thought
from rft_jax.utils.errors import InputError

MOST_ITEMS = 1_000  # of a file, evenly spaced
NOTABLE = 0.05  # of the answers too long for a limit

Answers = list[tuple[str, str | None]]
StageRows = Mapping[str, Mapping[str, Rows]]  # by stage and purpose


def check_batches(config: Config, rows: StageRows) -> None:
    """Refuses a step that samples and would take an item more than once.

    Raises:
        InputError: naming the setting and the file.
    """
    for stage in config.sampling_stages:
        row, size = rows[stage.name]["train"], stage.batch_size
        if size > len(row.items):
            raise InputError(
                f"stages.{stage.name}.batch_size: {size} prompts a step, but {row.source} has "
                f"{len(row.items)}; use at most so many"
            )


def check_thinking_budgets(config: Config, tokenizer: Tokenizer) -> None:
    """Refuses thoughts after which their end leaves no room for an answer.

    Raises:
        InputError: Naming the setting.
    """
    ending = len(thought_end(tokenizer))
    for stage in config.sampling_stages if ending else ():
        thought, most = stage.rollout.thinking_tokens, stage.rollout.max_completion_tokens
        if thought + ending >= most:
            raise InputError(
                f"stages.{stage.name}.rollout.max_completion_tokens: {most} leave no room for an "
                f"answer after {thought} thinking tokens and the {ending} that end a thought; set "
                f"it to more than {thought + ending}, or lower reasoning_effort"
            )


def length_warnings(
    config: Config, rows: StageRows, grader: Grader | None, tokenizer: Tokenizer
) -> list[str]:
    """Sentences on answers that are known and would not fit into what a stage samples."""
    found: dict[str, None] = {}
    for stage in config.rl_stages:
        for what, answers in _known_answers(stage, config, rows, grader):
            for sentence in _too_long(stage, what, answers, tokenizer):
                found.setdefault(sentence)
    return list(found)


def _known_answers(
    stage: RLStage, config: Config, rows: StageRows, grader: Grader | None
) -> Iterator[tuple[str, Answers]]:
    """By kind the answers that the data has, each with its thought, if that is a field."""
    if grader is not None:
        row = rows[stage.name]["train"]
        items = Items(_some(row.items), row.source)
        for name, ways in answers_of(grader.spec, items):
            if name in (RIGHT, OWN):
                yield f"the references of {row.source}", [(answer, None) for answer in ways[0]]
                break
    for other in config.stages:
        if isinstance(other, SFTStage) and other.model == stage.model:
            row = rows[other.name]["supervised"]
            messages = [item["messages"][-1] for item in _some(row.items)]
            texts = [(message_text(m), m.get("reasoning_content")) for m in messages]
            yield f"the answers of {row.source}", texts


def _some(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return items[:: -(-len(items) // MOST_ITEMS)]


def _too_long(stage: RLStage, what: str, answers: Answers, tokenizer: Tokenizer) -> Iterator[str]:
    section, rollout = f"stages.{stage.name}.rollout", stage.rollout
    shown = [split_thought(*pair)[0] for pair in answers]
    size = [len(answer.encode(errors="replace")) for answer in shown]
    over = sum(length > rollout.output_bytes for length in size)
    if over > NOTABLE * len(answers):
        yield (
            f"{section}.output_bytes: {rollout.output_bytes}, but {over / len(answers):.0%} of "
            f"{what} are longer (up to {max(size)} bytes), and such answers are not graded; "
            "raise it"
        )
    length = [len(tokenizer.encode_completion(*pair)) for pair in answers]
    over = sum(tokens > rollout.max_completion_tokens for tokens in length)
    if over > NOTABLE * len(answers):
        yield (
            f"{section}.max_completion_tokens: {rollout.max_completion_tokens}, but "
            f"{over / len(answers):.0%} of {what} take more (up to {max(length)} tokens, thought "
            "and answer), and such answers are cut; raise it"
        )
