"""The one exception for bad input: `rft` prints its sentence and exits with status 2."""


class InputError(ValueError):
    """A user's input cannot be used; the message names file, line or field, and the remedy."""
