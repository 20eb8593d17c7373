"""The exceptions whose sentence `rft` prints in place of a traceback.

Bad input ends it with status 2, a run that cannot go on with 1, a signal with 128 plus its number.
"""


class InputError(ValueError):
    """A user's input cannot be used; the message names file, line or field, and the remedy."""


class RunFailed(Exception):
    """A run cannot go on; its message is one sentence for people."""


class Interrupted(Exception):
    """A run was asked to end by a signal and has saved its state.

    Attributes:
        status: The exit status of the process, 128 plus the number of the signal.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status
