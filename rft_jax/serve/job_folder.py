"""The folder of a job, `jobs/ID`: what the API process and the children on the job hand over.

request.json    what the check reads: the method, the seed, the paths
train.jsonl     hard links of the job's files
checked.json    what the check found: the plan, or why the job cannot work
config.json     the configuration of the run
run/            the work directory of `train`
ended.json      why training failed, in a sentence
notes.json      what the trainer chose at its start
warnings.jsonl  what graders said went wrong
log             what check and trainer print
"""

import fcntl
import json
import os
from pathlib import Path

from rft_jax.utils.files import write_atomically
from rft_jax.utils.types import JsonObject


class JobFolder:
    """The paths in a job's folder."""

    def __init__(self, path: Path):
        self.path = path
        self.request = path / "request.json"
        self.train = path / "train.jsonl"
        self.valid = path / "valid.jsonl"
        self.checked = path / "checked.json"
        self.config = path / "config.json"
        self.run = path / "run"
        self.ended = path / "ended.json"
        self.notes = path / "notes.json"
        self.warnings = path / "warnings.jsonl"
        self.log = path / "log"

    def is_held(self) -> bool:
        """Whether a trainer is at work in the run, such as one of a server that was killed."""
        lock = self.run / ".lock"
        if not lock.exists():
            return False
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False


def write_value(path: Path, value: JsonObject) -> None:
    """Writes JSON that is on the disk whole or not at all."""
    write_atomically(path, json.dumps(value) + "\n")


def read_value(path: Path) -> JsonObject | None:
    """JSON of `write_value`; None if it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def link_file(source: Path, target: Path) -> None:
    """A hard link: the bytes stay when the other name is deleted."""
    target.unlink(missing_ok=True)
    os.link(source, target)
