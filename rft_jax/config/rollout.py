"""Settings of sampling."""

from dataclasses import dataclass, field
from typing import Any, Literal

REASONING_EFFORTS = ("low", "medium", "high")


@dataclass(frozen=True)
class RolloutConfig:
    """How completions are sampled. The policy is softmax(logits / temperature)."""

    group_size: int = 8  # G: TRL's default
    max_prompt_tokens: int = 256  # P, the static length of prompts
    # Static lengths to compile for: P, P / 2, P / 4 and so on, so many. A batch takes the shortest
    # that holds its prompts.
    prompt_buckets: int = 1
    max_completion_tokens: int = 256  # T, thought and answer together
    output_bytes: int = 1024  # L, the static length of the answer's text
    temperature: float = 1.0  # DeepSeek-R1, DAPO: the policy itself; 0 is greedy decoding
    # Truncated sampling is another policy than the one that learns, which
    # `policy_loss.importance` corrects.
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    reasoning_effort: str | int = "medium"  # a name below, or a number of thinking tokens
    effort_low: int = 32
    effort_medium: int = 96
    effort_high: int = 192
    # What a sample without a stop earns: its score, nothing and no part in the mean, or 0.
    truncated_completions: Literal["score", "mask", "zero"] = "score"
    # What answers must look like: a JSON file with OpenAI's response_format, a JSON schema or
    # {"type": "regex", "pattern": ...}, or its content; empty: anything. Answers always end.
    response_format: str | dict[str, Any] = field(default="", hash=False)  # a dict has no hash
    # Completions that are decoded at a time, of the whole batch; one that ends makes room for
    # another, so that memory and time follow their mean length instead of the longest. Best a
    # multiple of group_size / 2 on each device. 0: all at once.
    slots: int = 0
    # With slots: the cache has room for so many tokens of completions, of the whole batch, and not
    # for all slots at full length; where it is full, the youngest completions begin anew later.
    # At least max_completion_tokens on each device. None: all slots at full length.
    cache_tokens: int | None = None
    # Sample with weights, or with keys and values, in eight bits: less memory and traffic, and
    # another policy than the learner's, which `policy_loss.importance` corrects.
    int8_weights: bool = False
    int8_cache: bool = False

    @property
    def thinking_tokens(self) -> int:
        """The budget of thinking tokens before the end-of-think marker is forced."""
        if isinstance(self.reasoning_effort, int):
            return self.reasoning_effort
        budgets = {"low": self.effort_low, "medium": self.effort_medium, "high": self.effort_high}
        return budgets[self.reasoning_effort]

    @property
    def int8(self) -> bool:
        """Whether what samples has fewer bits than what learns."""
        return self.int8_weights or self.int8_cache

    @property
    def truncates(self) -> bool:
        """Whether tokens are drawn from a part of the policy's distribution only."""
        return self.top_k > 0 or self.top_p < 1
