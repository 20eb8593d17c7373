"""The task's data as a run's `config.data`: its files are made from an archive of phenopackets."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from rft_jax.config import DataConfig
from rft_jax.tasks.rare_disease.prepare import RareDiseaseOptions, prepare
from rft_jax.utils.errors import InputError


@dataclass(frozen=True)
class RareDiseaseData(RareDiseaseOptions, DataConfig):
    """See `prepare.RareDiseaseOptions`; the files' names are filled in."""

    def materialize(self, directory: Path) -> DataConfig:
        """Prepares the files below `directory`, or finds them there.

        Raises:
            InputError: as `prepare`; or a file is named that would be replaced.
        """
        for name in ("train", "valid", "supervised", "answers", "symbols"):
            if getattr(self, name):
                raise InputError(
                    f"data.{name}: this task makes the file from data.archive; leave it empty, or "
                    "use experiments/jsonl.py for files of your own"
                )
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(RareDiseaseOptions)}
        prepare(directory, **options)
        return DataConfig(
            train=str(directory / "train.jsonl"),
            valid=str(directory / "valid.jsonl"),
            supervised=str(directory / "pretrain.jsonl"),
            answers=str(directory / "answers.jsonl"),
            symbols=str(directory / "symbols.txt"),
        )
