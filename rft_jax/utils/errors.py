"""The one exception for bad input: `rft` prints its sentence and exits with status 2."""


class InputError(ValueError):
    """A user's input cannot be used; the message names file, line or field, and the remedy."""


class RunFailed(Exception):
    """A run cannot go on; its message is one sentence for people."""


class Interrupted(Exception):
    """A run was asked to end by a signal and has saved its state.

    Attributes:
        status: the exit status that says so.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status
