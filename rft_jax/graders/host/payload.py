"""What graders on the host are told, and the numbers that they answer."""

import json
import math
from typing import Any

from rft_jax.graders.types import HostSample, HostView, Items
from rft_jax.utils.errors import InputError

_LARGEST = 3.4e38  # of float32


def payload(sample: HostSample, items: Items, n: int, **more: Any) -> bytes:
    """A line of JSON with `sample` and `item` as OpenAI hands them to graders.

    Args:
        sample: The completion.
        items: The rows.
        n: The sample's row.
        more: Further fields.
    """
    return json.dumps({"sample": _describe(sample), "item": items.rows[n], **more}).encode()


def check_rows(items: Items) -> None:
    """Looks whether JSON can hold every row.

    Raises:
        InputError: naming the line.
    """
    for n in range(len(items.rows)):
        try:
            json.dumps(items.rows[n])
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{items.source}, line {n + 1}: cannot be handed to a grader on the host "
                f"({error}); keep to what JSON can hold"
            ) from None


def finite_number(value: Any) -> float | None:
    """A number out of JSON, or None if it is none or too large for float32; true is not a 1."""
    if type(value) not in (int, float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and abs(number) <= _LARGEST else None


def _describe(sample: HostSample) -> dict[str, Any]:
    root = HostView(sample).document.root
    return {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": sample.output_text},
                "finish_reason": "length" if sample.truncated else "stop",
            }
        ],
        "output_text": sample.output_text,
        "output_json": root and _finite(root.data),
        "output_tools": [],
        "output_audio": None,
    }


def _finite(data: Any) -> Any:
    """A JSON value in which numbers beyond the floats, such as 1e999, are null."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
