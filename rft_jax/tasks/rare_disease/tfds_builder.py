"""The cases as a TensorFlow Datasets builder; TensorFlow itself is not needed.

    builder = RareDisease(data_dir=..., archive="all_phenopackets.zip")
    builder.download_and_prepare(file_format="array_record")
    source = builder.as_data_source("train")   # random access, for PyGrain or a plain loop

Without `archive` the release is downloaded from phenopacket-store (https://doi.org/10.1016/
j.xhgg.2024.100371), or taken from `<manual_dir>/all_phenopackets.zip` if it lies there. Splits:
`train` and `validation` as in `splits.split`, and `cases`, every scorable one.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from rft_jax.tasks.rare_disease import phenopackets, prompts, splits
from rft_jax.utils.types import JsonObject

ARCHIVE_NAME = "all_phenopackets.zip"
ARCHIVE_URL = (
    "https://github.com/monarch-initiative/phenopacket-store/releases/latest/download/"
    + ARCHIVE_NAME
)
_CITATION = """\
@article{danis2025phenopackets,
  title = {A corpus of {GA4GH} phenopackets: Case-level phenotyping for genomic diagnostics and
           discovery},
  author = {Danis, Daniel and others},
  journal = {Human Genetics and Genomics Advances},
  year = {2025},
}"""


class RareDisease(tfds.core.GeneratorBasedBuilder):
    """Case reports of rare diseases, with the gene to blame."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Prompts of at most 20 present and 10 absent findings."}

    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Optional: put {ARCHIVE_NAME} there to use that copy."

    def __init__(
        self,
        *,
        archive: str | Path = "",
        train_cases: int = 1100,
        valid_cases: int = 200,
        prompt: prompts.PromptOptions | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        """Makes a builder.

        Args:
            archive: A release archive or folder of phenopackets; "" downloads the release.
            train_cases, valid_cases, seed: As for `splits.split`.
            prompt: How prompts are written.
            **kwargs: Those of `tfds.core.GeneratorBasedBuilder`, such as `data_dir`.
        """
        self._archive = str(archive)
        self._sizes = train_cases, valid_cases
        self._prompt = prompt or prompts.PromptOptions()
        self._seed = seed
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "messages": tfds.features.Sequence({"role": text(), "content": text()}),
                    "gene": text(),
                    "aliases": tfds.features.Sequence(text()),
                    "case_id": text(),
                    "pmid": text(),
                }
            ),
            homepage="https://github.com/monarch-initiative/phenopacket-store",
            license="BSD-3-Clause",
            citation=_CITATION,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, JsonObject]]]:
        cases = phenopackets.load_cases(self._archive or _published_archive(dl_manager))
        split = splits.split(cases, *self._sizes, seed=self._seed)
        return {
            "train": self._generate_examples(split.train),
            "validation": self._generate_examples(split.valid),
            "cases": self._generate_examples([case for case in cases if case.scorable]),
        }

    def _generate_examples(
        self, cases: Sequence[phenopackets.Case]
    ) -> Iterator[tuple[str, JsonObject]]:
        for case in cases:
            yield case.case_id, prompts.item(case, self._prompt)


def _published_archive(dl_manager: tfds.download.DownloadManager) -> Path:
    """The archive in the manual directory, if the user put one there, or the release."""
    try:
        manual = Path(dl_manager.manual_dir) / ARCHIVE_NAME
    except AssertionError:  # TensorFlow Datasets' way of saying that there is no such folder
        return Path(dl_manager.download(ARCHIVE_URL))
    return manual if manual.exists() else Path(dl_manager.download(ARCHIVE_URL))
