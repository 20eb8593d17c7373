"""What is wrong in a response format, and where."""

import reprlib

from rft_jax.utils.errors import InputError


class ResponseFormatError(InputError):
    """A response format cannot be used.

    Attributes:
        place: The part of it, such as `response_format.json_schema.schema.properties.x`.
        problem: What is wrong there, and the remedy.
    """

    def __init__(self, place: str, problem: str):
        super().__init__(f"{place}: {problem}")
        self.place, self.problem = place, problem


def shortened(value: object) -> str:
    """A part of a response format for a message, of a length that can be read."""
    return reprlib.repr(value)
