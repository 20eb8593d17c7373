"""Things in modules of a user's own, by text: "package.module:name".

find_reference("my_module:my_loss")     # the function itself
reference_to(my_loss)                   # "my_module:my_loss"
"""

import importlib
import inspect
import re
import traceback
from collections.abc import Callable
from types import ModuleType

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
    found: object = import_module(module)
    for name in qualname.split("."):
        if not hasattr(found, name):
            raise InputError(f"{module}: has no {qualname}; correct the name")
        found = getattr(found, name)
    return found


def import_module(name: str) -> ModuleType:
    """A module of a user's own.

    Raises:
        InputError: It cannot be imported; naming the line that fails.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever a user's module raises
        raise InputError(f"{name}: {_import_problem(name, error)}") from None


def _import_problem(module: str, error: Exception) -> str:
    """What an import failed of, and the remedy."""
    message = (str(error).splitlines() or [""])[0]
    kind = f"{type(error).__name__}: {message}"
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing and module.split(".")[0] == missing.split(".")[0]:
        return (
            f"cannot be imported ({kind}); call the command where the module is, install it, or "
            "correct the name"
        )
    if missing:
        return f"cannot be imported ({kind}); install {missing.split('.')[0]}"
    if isinstance(error, SyntaxError):
        return f"cannot be imported ({kind}, line {error.lineno}); correct it"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_of_import(f.filename)]
    where = f", line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""
    return f"cannot be imported ({kind}{where}); correct it"


def _is_of_import(file: str) -> bool:
    return file.startswith("<frozen importlib") or file in (__file__, importlib.__file__)


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
