"""The files of a run with evidence in the prompt: `config.data` of `experiments/evidence.py`.

    train.jsonl      real cases whose gene is a candidate, capped by publication and gene
    answers.jsonl    the same with the right letter, for supervised fine-tuning
    valid.jsonl      cases of other publications and other genes
    seen.jsonl       cases of other publications and the training genes
    *.chance.jsonl   answers to both: the letters in their own order, which is dealt at random
    *.ranker.jsonl   the ranker's order
    *.fusion.jsonl   four rankers fused: its score, its findings' number and best, naive Bayes
    *.logit.jsonl    a logit on what the prompt shows, fitted to the training cases
    prepared.json    options, counts, checksums

The list of genes is open: every one that the ontology annotates can be a candidate. Cases whose
gene is none stay in valid.jsonl and seen.jsonl, as misses.
"""

import dataclasses
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rft_jax.config import DataConfig
from rft_jax.tasks.rare_disease import evidence, evidence_baselines, hpo, phenopackets, ranking
from rft_jax.tasks.rare_disease import prompts as case_prompts
from rft_jax.tasks.rare_disease.candidates import Candidate, CandidateRanker
from rft_jax.tasks.rare_disease.phenopackets import Case
from rft_jax.tasks.rare_disease.prepare import (
    PATHS,
    archive_sha256,
    is_prepared,
    read_pmids,
    write_lines,
)
from rft_jax.tasks.rare_disease.splits import split
from rft_jax.utils.errors import InputError
from rft_jax.utils.files import write_json
from rft_jax.utils.types import JsonObject


@dataclass(frozen=True)
class EvidenceData(DataConfig):
    """What to prepare.

    Attributes:
        archive: Release archive or folder of phenopackets.
        exclude_pmids: File with a PMID a line: publications whose cases take no part.
        candidates: So many genes in a prompt, at most 20.
        train_cases, valid_cases: At most so many real cases.
        instructions: Open with a developer message, which a general model needs.
        data_seed: The seed of the split.
    """

    archive: str = ""
    exclude_pmids: str = ""
    candidates: int = 10
    train_cases: int = 1100
    valid_cases: int = 200
    instructions: bool = True
    data_seed: int = 0

    def materialize(self, directory: Path) -> DataConfig:
        """Prepares the files below `directory`, or finds them there.

        Raises:
            InputError: An option is unfit, or an input cannot be read.
        """
        for name in ("train", "valid", "supervised", "answers", "symbols"):
            if getattr(self, name):
                raise InputError(f"data.{name}: this task makes the file; leave it empty")
        if not self.archive:
            raise InputError("data.archive: is empty; give a release of phenopacket-store")
        if not 2 <= self.candidates <= len(evidence.LETTERS):
            raise InputError(f"data.candidates: must be from 2 to {len(evidence.LETTERS)}")
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(EvidenceData)}
        del options["tfds"]
        inputs = {
            "options": options | dict.fromkeys(PATHS[:2], ""),
            "archive_sha256": archive_sha256(self.archive),
            "exclude_pmids": sorted(read_pmids(self.exclude_pmids)),
        }
        if not is_prepared(directory, inputs):
            self._write(directory, inputs)
        train, valid, answers = (
            str(directory / f"{name}.jsonl") for name in ("train", "valid", "answers")
        )
        return DataConfig(train=train, valid=valid, supervised=answers, answers=answers)

    def _write(self, directory: Path, inputs: JsonObject) -> None:
        ontology = hpo.load_ontology()
        made = build(self, ontology, hpo.load_table(ontology))
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, rows in made.files.items():
            lines = (json.dumps(row, ensure_ascii=False) for row in rows)
            write_lines(partial / f"{name}.jsonl", lines)
        write_json(partial / "prepared.json", inputs | {"counts": made.counts})
        partial.rename(directory)


@dataclass(frozen=True)
class Made:
    """The rows of the files by name, and what was counted."""

    files: Mapping[str, Sequence[JsonObject]]
    counts: JsonObject


@dataclass(frozen=True)
class _Ranked:
    """A case, its findings, and its candidates: by the ranker's order, and by their letters."""

    case: Case
    present: list[int]
    candidates: list[Candidate]
    dealt: list[Candidate]

    @property
    def right(self) -> int | None:
        """Where the right gene stands among the letters."""
        genes = [candidate.gene for candidate in self.dealt]
        return genes.index(self.case.gene) if self.case.gene in genes else None


def build(data: EvidenceData, ontology: hpo.Ontology, table: hpo.AnnotationTable) -> Made:
    """Makes the rows, from any ontology.

    Raises:
        InputError: The archive cannot be read, or the split leaves nothing.
    """
    cases = phenopackets.relabel(phenopackets.load_cases(data.archive), ontology.labels_by_id())
    excluded = read_pmids(data.exclude_pmids)
    parts = split(cases, len(cases), data.valid_cases, excluded, data.data_seed)
    pmids_of: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        pmids_of[parts.cluster_of[case.case_id]].update(case.pmids)
    ranker = CandidateRanker(ontology, table, cases)
    index = {label: n for n, label in enumerate(ontology.labels)}

    def ranked(case: Case) -> _Ranked:
        labels = case_prompts.shown(case, evidence.PROMPT).present
        present = sorted(index[label] for label in labels if label in index)
        own = frozenset(pmids_of[parts.cluster_of[case.case_id]])
        candidates = ranker.rank(present, own, data.candidates)
        return _Ranked(case, present, candidates, evidence.dealt(case, candidates))

    def rows(of: Sequence[_Ranked]) -> list[JsonObject]:
        return [
            evidence.item(r.case, r.candidates, ontology, data.instructions)
            | {"cluster": parts.cluster_of[r.case.case_id]}
            for r in of
        ]

    known = [r for r in map(ranked, parts.train) if r.right is not None][: data.train_cases]
    if not known:
        raise InputError(f"{data.archive}: no training case has its gene among the candidates")
    baselines = _Baselines(known, ontology, ranker.background)
    train = rows(known)
    files: dict[str, Sequence[JsonObject]] = {
        "train": train,
        "answers": [_worked(row) for row in train],
    }
    counts: JsonObject = {"train": len(known), "candidates": data.candidates}
    for name, of in (("valid", parts.valid), ("seen", parts.seen)):
        held_out = [ranked(case) for case in of]
        files[name] = rows(held_out)
        for baseline, order in baselines.orders().items():
            answers = [_answer(order(r)) for r in held_out]
            files[f"{name}.{baseline}"] = [{"output_text": text} for text in answers]
        among = sum(r.right is not None for r in held_out)
        counts |= {name: len(held_out), f"{name}_gene_is_candidate": among}
    return Made(files, counts)


class _Baselines:
    """Orders of a case's letters, learned from the training cases where there is what to learn."""

    def __init__(
        self, train: Sequence[_Ranked], ontology: hpo.Ontology, background: np.ndarray
    ) -> None:
        self._background = background
        genes = [r.case.gene for r in train]
        self._bayes = ranking.naive_bayes(ontology, [r.present for r in train], genes)
        right = [r.right for r in train if r.right is not None]
        self._logit = evidence_baselines.fit_logit([self._features(r) for r in train], right)

    def orders(self) -> dict[str, Callable[[_Ranked], list[int]]]:
        """By name a function of a ranked case: positions of its letters, the likeliest first."""
        return {
            "chance": lambda r: list(range(len(r.dealt))),
            "ranker": lambda r: [r.dealt.index(candidate) for candidate in r.candidates],
            "fusion": self._fusion,
            "logit": lambda r: self._logit(self._features(r)),
        }

    def _features(self, r: _Ranked) -> list[list[float]]:
        findings = len(r.present)
        return [evidence_baselines.features(c, findings, self._background) for c in r.dealt]

    def _fusion(self, r: _Ranked) -> list[int]:
        bayes = dict(
            zip(self._bayes.genes, ranking.scores(self._bayes, [r.present])[0], strict=True)
        )
        least = min(bayes.values(), default=0.0)
        return evidence_baselines.fusion(
            [
                [c.score for c in r.dealt],
                [float(len(c.support)) for c in r.dealt],
                [max(c.support.values(), default=0.0) for c in r.dealt],
                [float(bayes.get(c.gene, least - 1)) for c in r.dealt],
            ]
        )


def _answer(order: Sequence[int]) -> str:
    return evidence.answer("", [evidence.LETTERS[n] for n in order])


def _worked(row: JsonObject) -> JsonObject:
    right = evidence.answer(f"{row['gene']} fits the findings best.", [row["letter"]])
    return {"messages": [*row["messages"], {"role": "assistant", "content": right}]}
