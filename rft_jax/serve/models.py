"""The models that clients can name: bases of the command line, and what jobs have trained."""

from dataclasses import dataclass
from pathlib import Path

from rft_jax.utils.errors import InputError


@dataclass(frozen=True)
class ServedModel:
    """A model that answers and can be trained on.

    Attributes:
        name: What clients call it; a base's may hold `/`, a tuned one's holds `:`.
        path: What `rft_jax.runs.reopen.open_model` takes: WORKDIR/STAGE[/checkpoints/STEP], or a
            Hugging Face checkpoint.
        base: The name of the base model that it was trained from; its own, of a base.
        created: In seconds since 1970.
    """

    name: str
    path: Path
    base: str
    created: int


class Models:
    """Finds models by name; names are looked up, never opened as paths."""

    def __init__(self, bases: list[ServedModel]) -> None:
        self._bases = {model.name: model for model in bases}

    def find(self, name: str) -> ServedModel:
        """The model of a name.

        Raises:
            InputError: If there is none.
        """
        if name not in self._bases:
            raise InputError(f"{name}: no such model")
        return self._bases[name]
