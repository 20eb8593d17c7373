"""Warnings from a stage's metrics rows: a run that teaches nothing says so, and what to change.

watch = Watch(stage)
for sentence in watch.update(row):  # each sentence once
    log(f"warning: {sentence}")
"""

from collections.abc import Callable
from typing import NamedTuple

from rft_jax.config import RLStage, TrainingStageConfig
from rft_jax.graders.types import NOT_THE_MODELS
from rft_jax.utils.types import JsonObject

MOST = 0.5  # of a step's samples


class Sign(NamedTuple):
    """What tells that a stage teaches nothing.

    Attributes:
        holds: Whether a step's row shows it.
        steps: After how many such steps in a row it is told.
        sentence: What is told, with the setting to change.
    """

    holds: Callable[[JsonObject], bool]
    steps: int
    sentence: Callable[[RLStage, JsonObject], str]


class Watch:
    """Looks at a stage's rows; only those of steps of reinforcement can say anything."""

    def __init__(self, stage: TrainingStageConfig):
        self._stage = stage
        self._left = list(SIGNS) if isinstance(stage, RLStage) else []
        self._seen = dict.fromkeys(range(len(SIGNS)), 0)
        self._last: JsonObject = {}
        self._steps = 0

    def update(self, row: JsonObject) -> list[str]:
        """The sentences that are due after a row."""
        if row.get("train_valid_fraction") is None:
            return []
        self._last, self._steps = row, self._steps + 1
        for number, sign in enumerate(SIGNS):
            self._seen[number] = self._seen[number] + 1 if sign.holds(row) else 0
        return self._tell(lambda sign, seen: seen >= sign.steps)

    def finish(self) -> list[str]:
        """The sentences on a stage too short for them, of what held in all of its steps."""
        return self._tell(lambda _, seen: 0 < self._steps == seen)

    def _tell(self, is_due: Callable[[Sign, int], bool]) -> list[str]:
        due = [s for n, s in enumerate(SIGNS) if s in self._left and is_due(s, self._seen[n])]
        self._left = [sign for sign in self._left if sign not in due]
        stage = self._stage
        return [s.sentence(stage, self._last) for s in due] if isinstance(stage, RLStage) else []


def _not_graded(stage: RLStage, row: JsonObject) -> str:
    """The commonest reason why samples are not valid decides on the remedy."""
    section, rollout = f"stages.{stage.name}.rollout", stage.rollout
    share = f"{stage.name}: {1 - row['train_valid_fraction']:.0%} of the answers are not graded"
    causes = {
        f"they are longer than {rollout.output_bytes} bytes; raise {section}.output_bytes": row.get(
            "train_overlong_answers_fraction", 0
        )
    }
    if rollout.truncated_completions == "mask":
        remedy = (
            f"they were cut at {rollout.max_completion_tokens} tokens; raise "
            f"{section}.max_completion_tokens"
        )
        causes[remedy] = row.get("train_truncated_fraction", 0)
    for name in NOT_THE_MODELS:
        remedy = _REMEDIES.get(name, f"{name}; correct `grader`, or ask another judge")
        causes[remedy] = row.get(f"train_errors/{name}_mean") or 0
    # An answer that is too long is among the other errors too.
    return f"{share} and teach nothing: {max(causes, key=lambda cause: causes[cause])}"


_REMEDIES = {
    "other_error": "the grader gives no finite number, or takes too long: correct `grader`",
    "python_grader_server_error": (
        "python_grader_server_error; raise host.python_timeout_s, or correct `grader`"
    ),
    "model_grader_server_error": (
        "model_grader_server_error; see to the judge's endpoint, or lower host.requests"
    ),
}


def _cut(stage: RLStage, row: JsonObject) -> str:
    section = f"stages.{stage.name}.rollout"
    return (
        f"{stage.name}: {row['train_truncated_fraction']:.0%} of the completions are cut at "
        f"{stage.rollout.max_completion_tokens} tokens; raise {section}.max_completion_tokens, or "
        f"lower {section}.reasoning_effort ({stage.rollout.thinking_tokens} thinking tokens)"
    )


def _equal(stage: RLStage, row: JsonObject) -> str:
    section = f"stages.{stage.name}.rollout"
    told = f"{stage.name}: in all groups all samples earn the same, so that nothing is learned"
    if stage.rollout.temperature == 0:
        return f"{told}; set {section}.temperature above 0"
    if not row.get("train_reward_mean_all"):
        return (
            f"{told} (all earn 0); let `grader` give credit for a part, train on worked answers "
            f"first (`data.supervised`), or raise {section}.group_size"
        )
    return f"{told}; take harder items, or raise {section}.group_size or {section}.temperature"


SIGNS = (
    Sign(lambda row: row["train_valid_fraction"] < MOST, 3, _not_graded),
    Sign(lambda row: (row.get("train_truncated_fraction") or 0) > MOST, 10, _cut),
    Sign(
        lambda row: (
            row.get("train_zero_std_groups_fraction") == 1 and row["train_valid_fraction"] >= MOST
        ),
        10,
        _equal,
    ),
)
