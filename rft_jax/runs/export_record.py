"""What an export says of how its run sampled, for programs of this package that read it again.

transformers does not read the file; it has no notion of a budget of thinking tokens.
"""

import dataclasses
import datetime
import json
from dataclasses import dataclass
from pathlib import Path

from rft_jax.utils.errors import InputError

RECORD_FILE = "rft_jax.json"


@dataclass(frozen=True)
class ExportRecord:
    """How a model was sampled; None where nothing is known.

    Attributes:
        completion_tokens: The longest completion, thought and answer together.
        thinking_tokens: The budget before the end of a thought is forced.
        thinking: Whether it thought, of templates that leave the choice.
        date: What templates that write a date into the prompt were told, in ISO 8601.
    """

    completion_tokens: int | None = None
    thinking_tokens: int | None = None
    thinking: bool | None = None
    date: str | None = None

    @property
    def moment(self) -> datetime.datetime | None:
        """The date as such."""
        return None if self.date is None else datetime.datetime.fromisoformat(self.date)


def write_record(record: ExportRecord, directory: Path) -> None:
    """Writes the record into an export."""
    text = json.dumps(dataclasses.asdict(record), indent=2)
    (directory / RECORD_FILE).write_text(f"{text}\n", encoding="utf-8")


def read_record(directory: Path) -> ExportRecord:
    """The record of an export; an empty one of any other checkpoint.

    Raises:
        InputError: The file is damaged.
    """
    path = directory / RECORD_FILE
    if not path.is_file():
        return ExportRecord()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        names = [field.name for field in dataclasses.fields(ExportRecord)]
        record = ExportRecord(**{name: values.get(name) for name in names})
        if record.date is not None:
            datetime.datetime.fromisoformat(record.date)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error}); export the model again") from error
    for name, least in {"completion_tokens": 1, "thinking_tokens": 0}.items():
        value = getattr(record, name)
        if value is not None and (type(value) is not int or value < least):
            raise InputError(f"{path}: {name} must be a whole number from {least}, got {value!r}")
    if not isinstance(record.thinking, bool | None):
        raise InputError(f"{path}: thinking must be true, false or null, got {record.thinking!r}")
    return record
