"""Things in modules of a user's own, by text: "package.module:name".

find_reference("my_module:my_loss")     # the function itself
reference_to(my_loss)                   # "my_module:my_loss"
"""

import importlib
import inspect
import re
from collections.abc import Callable

from rft_jax.utils.errors import InputError

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_reference(text: str) -> bool:
    """Whether a text has the form "package.module:name"."""
    return bool(_REFERENCE.fullmatch(text))


def find_reference(reference: str) -> object:
    """What a reference names; its module is imported.

    Raises:
        InputError: The module cannot be imported, or has no such name.
    """
    module, _, qualname = reference.partition(":")
    try:
        found: object = importlib.import_module(module)
    except Exception as error:  # whatever a user's module raises
        kind = type(error).__name__
        raise InputError(
            f"{module}: cannot be imported ({kind}: {error}); install it or correct it"
        ) from None
    for name in qualname.split("."):
        if not hasattr(found, name):
            raise InputError(f"{module}: has no {qualname}; correct the name")
        found = getattr(found, name)
    return found


def reference_to(function: Callable) -> str:
    """The text by which `find_reference` finds a function again.

    Raises:
        InputError: It would find nothing or another function, as with a lambda, a function inside
            of another or a `functools.partial`.
    """
    qualname = getattr(function, "__qualname__", None) or repr(function)
    reference = f"{getattr(function, '__module__', None)}:{qualname}"
    try:
        found = find_reference(reference) if is_reference(reference) else None
    except InputError:
        found = None
    # A file that is loaded twice has two functions of the same code.
    if found is function or (found is not None and _code(found) == _code(function)):
        return reference
    raise InputError(
        f"{qualname}: cannot be found again by its name when the run goes on; define it with `def` "
        "at the top level of a module"
    )


def _code(function: object) -> object:
    return getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
