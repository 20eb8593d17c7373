"""Simulated patients of the packaged subset as a run's `config.data`; nothing is downloaded.

pretrain.jsonl   patients of every gene with worked answers, by writers of mixed habits
train.jsonl      patients of the training genes, to reinforce on
answers.jsonl    the same with the right answer, for supervised fine-tuning
valid.jsonl      patients of genes that no training case has
seen.jsonl       other patients of the training genes
symbols.txt      findings, genes and the answer's fixed parts, a token each
*.ceiling.jsonl  answers to the last two by the evidence from which the patients were drawn
"""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rft_jax.config import DataConfig
from rft_jax.tasks.rare_disease import prompts, ranking, simulate
from rft_jax.tasks.rare_disease.hpo import Ontology
from rft_jax.tasks.rare_disease.ranking import Evidence
from rft_jax.tasks.rare_disease.simulate import Patient
from rft_jax.tasks.rare_disease.subset import load_subset
from rft_jax.tasks.rare_disease.worked_answers import Habits, WorkedAnswer, symbols, work_answer
from rft_jax.utils.files import write_atomically
from rft_jax.utils.types import JsonObject


@dataclass(frozen=True)
class SimulatedData(DataConfig):
    """How many patients to simulate, of what kind, and by whom answers are worked out.

    Attributes:
        patients_per_gene: Patients of each gene to pre-train on.
        train_genes: Genes with cases to fine-tune on; the others are for validation.
        train_cases, valid_cases, seen_cases: Patients of each gene in the files of that name.
        examples: How many of the cases of the training genes to tune on, drawn at random; the fewer
            are among the more. None: all.
        max_present, max_absent: At most so many findings in a prompt.
        data_seed: Fixes everything that is drawn.
    """

    patients_per_gene: int = 100
    train_genes: int = 140
    train_cases: int = 6
    valid_cases: int = 6
    seen_cases: int = 4
    examples: int | None = None
    max_present: int = 7
    max_absent: int = 3
    habits: Habits = Habits(
        specificity=-1.0,
        specificity_spread=1.5,
        thorough=0.3,
        noise=0.3,
        cited=(2, 3),
        listed=(4, 7),
    )
    data_seed: int = 0

    def materialize(self, directory: Path) -> DataConfig:
        """Writes the files below `directory`; the same settings give the same files."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in self._files().items():
            write_atomically(directory / name, text)
        return DataConfig(
            train=str(directory / "train.jsonl"),
            valid=str(directory / "valid.jsonl"),
            supervised=str(directory / "pretrain.jsonl"),
            answers=str(directory / "answers.jsonl"),
            symbols=str(directory / "symbols.txt"),
        )

    def _files(self) -> dict[str, str]:
        ontology, annotations = load_subset()
        evidence = ranking.build_evidence(ontology, annotations)
        genes = list(annotations.genes)
        random.Random(f"genes {self.data_seed}").shuffle(genes)
        known, unseen = genes[: self.train_genes], genes[self.train_genes :]
        simulator = simulate.build_simulator(ontology, annotations)

        def cases(purpose: str, of: Sequence[str], count: int) -> list[Patient]:
            return self._patients(simulator, purpose, of, count)

        train = cases("train", known, self.train_cases)[: self.examples]
        held_out = {
            "valid": cases("valid", unseen, self.valid_cases),
            "seen": cases("seen", known, self.seen_cases),
        }
        pretrain = [
            self._row(ontology, patient, self._work(ontology, evidence, patient, number))
            for number, patient in enumerate(cases("pretrain", genes, self.patients_per_gene))
        ]
        right = [self._row(ontology, p, WorkedAnswer("", "", (p.gene,))) for p in train]
        rows = {"pretrain": pretrain, "answers": right}
        rows |= {
            name: [self._item(ontology, f"{name}-{i}", p) for i, p in enumerate(patients)]
            for name, patients in {"train": train, **held_out}.items()
        }
        files = {f"{name}.jsonl": _lines(of) for name, of in rows.items()}
        for name, patients in held_out.items():
            files[f"{name}.ceiling.jsonl"] = _lines(_best_answers(evidence, patients))
        kept_whole = symbols(ontology.labels[1:], annotations.genes)
        files["symbols.txt"] = "".join(f"{text}\n" for text in kept_whole)
        return files

    @property
    def _options(self) -> prompts.PromptOptions:
        return prompts.PromptOptions(self.max_present, self.max_absent)

    def _patients(
        self, simulator: simulate.Simulator, purpose: str, genes: Sequence[str], count: int
    ) -> list[Patient]:
        """Patients in random order; those of other purposes are others."""
        patients = [
            patient
            for gene in genes
            for patient in simulate.simulate(
                simulator, gene, count, self._options, self.data_seed, purpose
            )
        ]
        random.Random(f"{purpose} {self.data_seed}").shuffle(patients)
        return patients

    def _work(
        self, ontology: Ontology, evidence: Evidence, patient: Patient, number: int
    ) -> WorkedAnswer:
        rng = simulate.generator(self.data_seed, f"{patient.gene} {number}", "answer")
        return work_answer(ontology, evidence, patient, self.habits, rng)

    def _item(self, ontology: Ontology, case_id: str, patient: Patient) -> JsonObject:
        messages = simulate.messages(ontology, patient, self._options)
        return {"messages": messages, "gene": patient.gene, "aliases": [], "case_id": case_id}

    def _row(self, ontology: Ontology, patient: Patient, answer: WorkedAnswer) -> JsonObject:
        messages = simulate.messages(ontology, patient, self._options)
        return {"messages": [*messages, answer.message()]}


def _best_answers(evidence: Evidence, patients: Sequence[Patient]) -> Iterator[dict[str, str]]:
    """Ranking by the evidence of all present findings: what a model that knew it all would do."""
    score = ranking.scores(evidence, [patient.present for patient in patients])
    return ({"output_text": text} for text in ranking.answers(evidence.genes, score))


def _lines(rows: Iterable[JsonObject]) -> str:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
