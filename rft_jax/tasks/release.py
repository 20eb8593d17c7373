"""Data made from the folder of a public release: what the tasks share that read one.

A task subclasses `ReleaseData` and says in `rows` what its files hold. Folders are read in the
layout in which their authors publish them, so that a clone or a download is all that is needed.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rft_jax.config import DataConfig
from rft_jax.utils.errors import InputError
from rft_jax.utils.files import write_atomically
from rft_jax.utils.types import JsonObject

FILES = ("train", "valid", "supervised", "answers")


@dataclass(frozen=True)
class ReleaseData(DataConfig):
    """The files of a run, made from a release.

    Attributes:
        release: Folder of the release, as it was cloned or unpacked.
    """

    release: str = ""

    def rows(
        self, release: Path, directory: Path | None = None
    ) -> Mapping[str, Sequence[JsonObject]]:
        """The rows of the files to write, by the files' names without ending.

        `train`, `valid`, `supervised` and `answers` become the run's data; others are there for
        evaluations to name.

        Args:
            release: The release's folder.
            directory: The run's folder, for a task that keeps there what takes long to find out;
                None keeps nothing.

        Raises:
            InputError: The release lacks a file, or one is damaged.
        """
        raise NotImplementedError

    def symbols_of(self) -> Sequence[str]:
        """Texts that a tokenizer trained on these data keeps whole, such as an answer's parts."""
        return ()

    def materialize(self, directory: Path) -> DataConfig:
        """Writes the files below `directory`; the same release gives the same files.

        Raises:
            InputError: There is no such release; or a file is named that would be replaced.
        """
        for name in (*FILES, "symbols"):
            if getattr(self, name):
                raise InputError(
                    f"data.{name}: this task makes the file from data.release; leave it empty, or "
                    "use experiments/jsonl.py for files of your own"
                )
        if not self.release:
            raise InputError("data.release: is empty; give the folder of the downloaded release")
        release = Path(self.release)
        if not release.is_dir():
            raise InputError(f"data.release: {release} is no folder; download and unpack it first")
        rows = self.rows(release, directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, of in rows.items():
            write_atomically(directory / f"{name}.jsonl", lines(of))
        train, valid, supervised, answers = (
            str(directory / f"{name}.jsonl") if name in rows else "" for name in FILES
        )
        symbols = ""
        if texts := self.symbols_of():
            symbols = str(directory / "symbols.txt")
            write_atomically(directory / "symbols.txt", "".join(f"{text}\n" for text in texts))
        return DataConfig(train, valid, supervised, answers, symbols)


def lines(rows: Iterable[JsonObject]) -> str:
    """Rows as JSON lines."""
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def read_text(path: Path) -> str:
    """A file of a release.

    Raises:
        InputError: It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); is the release complete?"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start + 1} is not UTF-8; download it again"
        ) from None


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header.

    Raises:
        InputError: It cannot be read or lacks a column.
    """
    reader = csv.DictReader(read_text(path).splitlines())
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path}: has no column {missing[0]}; is it the release's own file?")
    return [{name: row[name] or "" for name in columns} for row in reader]


def worked(item: JsonObject, answer: str) -> JsonObject:
    """A row for supervised fine-tuning: the item's messages and their answer."""
    return {"messages": [*item["messages"], {"role": "assistant", "content": answer}]}


def messages(user: str, instructions: str = "") -> list[dict[str, str]]:
    """A prompt, after a developer message where there are instructions."""
    prompt = [{"role": "user", "content": user}]
    return [{"role": "developer", "content": instructions}, *prompt] if instructions else prompt
