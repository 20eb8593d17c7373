"""Thoughts in an answer's text: what is between `<think>` and `</think>`, as Qwen 3 splits it.

A thought is told from its answer either by these tags in `content`, or by a field of its own,
`reasoning_content`.
"""

from rft_jax.utils.errors import InputError

THINK, END_OF_THINK = "<think>", "</think>"


def split_thought(content: str, reasoning: str | None) -> tuple[str, str | None]:
    """The answer, and its thought if it has one.

    Args:
        content: The text, with the thought before `</think>` if there is no `reasoning`.
        reasoning: The thought that came in a field of its own; then the text is all answer.
    """
    if reasoning is not None or END_OF_THINK not in content:
        return content, reasoning
    before, after = content.split(END_OF_THINK)[0], content.split(END_OF_THINK)[-1]
    return after.lstrip("\n"), before.split(THINK)[-1].strip("\n")


def check_thoughts(content: str, reasoning: str | None) -> None:
    """Refuses what would become more than one thought.

    Raises:
        InputError: Naming the field.
    """
    if reasoning is not None:
        for name, text in {"content": content, "reasoning_content": reasoning}.items():
            if THINK in text or END_OF_THINK in text:
                raise InputError(
                    f"{name}: has {THINK} or {END_OF_THINK} beside a thought in reasoning_content, "
                    "which would be two thoughts; give the thought in one place and without tags"
                )
    elif content.count(THINK) > 1 or content.count(END_OF_THINK) > 1:
        raise InputError(
            f"content: has more than one thought between {THINK} and {END_OF_THINK}; an answer has "
            "one, before it"
        )
    elif THINK in content and END_OF_THINK not in content.split(THINK)[1]:
        raise InputError(
            f"content: has {THINK} without {END_OF_THINK} behind it; close the thought, or remove "
            "the tag"
        )
