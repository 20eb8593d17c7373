"""Functions as settings: the parts of the policy-gradient objective, which may be one's own.

`loss`, `advantage`, `importance` and `kl_estimator` of `PolicyLossConfig` each hold a name that
ships with the package, a name under which a function was registered, "module:name" of a function,
or, in an experiment file, the function itself. The functions that ship are in `learn.losses` and
`learn.advantages`, and register themselves there.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from rft_jax.utils.errors import InputError
from rft_jax.utils.references import find_reference, is_reference, reference_to

Algorithm = str | Callable[..., Any]
Function = TypeVar("Function", bound=Callable[..., Any])


class Algorithms:
    """The functions that one setting may hold.

    Attributes:
        kind: What they are, for people.
        parameters: The names of their parameters, in order; they are passed by position.
        shipped: The names that ship with the package.
        functions: Those that are registered, by name.
    """

    def __init__(self, kind: str, parameters: str, shipped: str):
        self.kind = kind
        self.parameters = tuple(parameters.split())
        self.shipped = tuple(shipped.split())
        self.functions: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Function], Function]:
        """A decorator: the setting may then hold `name`.

        Raises:
            InputError: The name is another function's, or the function has other parameters.
        """

        def add(function: Function) -> Function:
            if not name.isidentifier():
                raise InputError(f"{self.kind} {name!r}: must be a name of letters, digits and _")
            other = self.functions.get(name)
            if other is not None and shown(other) != shown(function):
                raise InputError(
                    f"{self.kind} {name!r}: is registered already, as {shown(other)}; "
                    "use another name"
                )
            self._check_parameters(function, name)
            self.functions[name] = function
            return function

        return add

    def find(self, value: Algorithm) -> Callable[..., Any]:
        """The function that a setting holds.

        Raises:
            InputError: There is none of that name, or it has other parameters.
        """
        if isinstance(value, str) and not is_reference(value):
            if value not in self.functions:
                names = ", ".join(dict.fromkeys((*self.shipped, *self.functions)))
                raise InputError(
                    f"{value!r} is no {self.kind}; use one of {names}, or module:name of a "
                    "function of your own"
                )
            return self.functions[value]
        function = find_reference(value) if isinstance(value, str) else value
        if not callable(function):
            raise InputError(f"{value}: is no function; name a {self.kind}")
        self._check_parameters(function, value)
        return function

    def check(self, value: Algorithm) -> None:
        """Refuses what cannot be found, now or when a run goes on.

        Names that ship are taken as they are: their functions need not be loaded yet.

        Raises:
            InputError: As `find` and `stored`.
        """
        if not (isinstance(value, str) and value in self.shipped):
            self.find(value)
            self.stored(value)

    def stored(self, value: Algorithm) -> str:
        """The text from which the same function is found again, by another process too.

        Raises:
            InputError: There is none; see `reference_to`.
        """
        if isinstance(value, str):
            function = None if value in self.shipped else self.functions.get(value)
            return value if function is None else reference_to(function)
        return reference_to(value)

    def check_shape(
        self, value: Algorithm, found: tuple[int, ...], expected: tuple[int, ...]
    ) -> None:
        """Refuses what a function of one's own returned, if it has another shape.

        Raises:
            InputError: It has.
        """
        if found != expected:
            raise InputError(
                f"{shown(value)}: returned an array of shape {found}; a {self.kind} returns "
                f"{expected}"
            )

    def _check_parameters(self, function: Callable[..., Any], value: Algorithm) -> None:
        try:
            found = tuple(inspect.signature(function).parameters)
        except (TypeError, ValueError):
            raise InputError(
                f"{shown(value)}: its parameters are unknown; wrap it in a `def`"
            ) from None
        if found != self.parameters:
            raise InputError(
                f"{shown(value)}: takes ({', '.join(found)}), but a {self.kind} takes "
                f"({', '.join(self.parameters)}); change its parameters"
            )


def function_files(settings: Any) -> dict[str, str]:
    """The files of the functions of one's own that a data class of settings holds, by setting."""
    found = {}
    for setting in dataclasses.fields(settings):
        algorithms, value = setting.metadata.get("algorithms"), getattr(settings, setting.name)
        if algorithms is None or value is None:
            continue
        stored = algorithms.stored(value)
        module = sys.modules.get(stored.partition(":")[0]) if is_reference(stored) else None
        if file := getattr(module, "__file__", None):
            found[setting.name] = file
    return found


def shown(value: object) -> str:
    """What a setting holds, for people."""
    if not callable(value):
        return str(value)
    return f"{value.__module__}:{getattr(value, '__qualname__', repr(value))}"


POLICY_LOSSES = Algorithms(
    "policy loss",
    "new old advantage mask config",
    "ppo_clip gspo cispo sapo dppo_tv dppo_kl reinforce",
)
ADVANTAGES = Algorithms("advantage", "reward valid config", "group_mean leave_one_out max_at_k")
IMPORTANCE_WEIGHTS = Algorithms("importance weight", "old sampler mask config", "none tis icepop")
KL_ESTIMATORS = Algorithms("KL estimator", "new reference mask", "k1 k1_in_reward k2 k3")
