"""The supervised rows of a rare-disease run: simulated patients, and who writes the answers."""

import dataclasses
import json
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rft_jax.tasks.rare_disease import prompts, ranking, simulate
from rft_jax.tasks.rare_disease.hpo import Annotations, Ontology
from rft_jax.tasks.rare_disease.ranking import Evidence
from rft_jax.tasks.rare_disease.simulate import Patient
from rft_jax.tasks.rare_disease.worked_answers import (
    FIXED,
    FIXED_OF_DIRECT,
    POINTS_FROM,
    Habits,
    WorkedAnswer,
    direct_answer,
    direct_length,
    symbols,
    work_answer,
)

_PROGRESS_GENES = 500  # simulated between two messages


@dataclass(frozen=True)
class Writer:
    """Writes answers to patients, in one of two styles.

    Attributes:
        direct: The genes at once and the explanation behind them, or else a thought before both.
        noise: On the ranking of the second style; see `Habits`.
        annotated: The findings that each gene is known for.
        options: How the prompts are written.
    """

    direct: bool
    noise: float
    ontology: Ontology
    evidence: Evidence
    annotated: Mapping[str, frozenset[int]]
    options: prompts.PromptOptions

    @property
    def symbol_from(self) -> int:
        """Simulated patients that a finding needs to be a token of its own."""
        return 5 if self.direct else 20

    def write(self, patient: Patient, rng: np.random.Generator) -> WorkedAnswer:
        """The answer to a simulated patient; one of no gene is taken for the likeliest one's."""
        if not self.direct:
            habits = Habits(noise=self.noise)
            return work_answer(self.ontology, self.evidence, patient, habits, rng)
        if not patient.gene:
            likeliest = int(ranking.scores(self.evidence, [patient.present])[0].argmax())
            patient = dataclasses.replace(patient, gene=self.evidence.genes[likeliest])
        return self._name_at_once(patient, direct_length(rng))

    def right_answer(
        self, gene: str, present: Sequence[int], absent: Sequence[int]
    ) -> WorkedAnswer:
        """The answer to a solved case with these findings: its gene, and nothing else listed."""
        if not self.direct:
            return WorkedAnswer("", "", (gene,))
        return self._name_at_once(Patient(gene, "", None, tuple(present), tuple(absent)), 1)

    def symbols(self, findings: Sequence[str]) -> list[str]:
        """What a tokenizer should keep whole, these findings among it."""
        fixed = FIXED_OF_DIRECT if self.direct else FIXED
        return symbols(findings, self.evidence.genes, fixed)

    def _name_at_once(self, patient: Patient, length: int) -> WorkedAnswer:
        known = self.annotated.get(patient.gene, frozenset())
        return direct_answer(self.ontology, self.evidence, known, patient, length)


@dataclass(frozen=True)
class Simulated:
    """Supervised rows in random order, how good their lists are, and the usual findings."""

    rows: list[str]
    hit_rates: dict[str, float]
    findings: list[str]


def simulated_rows(
    writer: Writer,
    annotations: Annotations,
    patients_per_gene: int,
    patients_per_finding: int,
    seed: int,
) -> Simulated:
    """Simulates patients of every candidate, and some with one finding alone, and answers them."""
    ontology, evidence = writer.ontology, writer.evidence
    simulator = simulate.build_simulator(ontology, annotations)
    lines: list[str] = []
    ranks: list[int] = []
    patients_with: Counter[int] = Counter()
    for done, gene in enumerate(evidence.genes, start=1):
        patients = simulate.simulate(simulator, gene, patients_per_gene, writer.options, seed)
        rng = simulate.generator(seed, gene, "answers")
        for patient in patients:
            answer = writer.write(patient, rng)
            lines.append(_line(writer, patient, answer))
            ranks.append(answer.genes.index(gene) + 1 if gene in answer.genes else 0)
            patients_with.update((*patient.present, *patient.absent))
        if done % _PROGRESS_GENES == 0:
            _log(f"simulated {len(lines)} patients of {done}/{len(evidence.genes)} genes")
    rng = simulate.generator(seed, "", "findings")
    for term in np.flatnonzero(evidence.present.max(axis=1) >= POINTS_FROM).tolist():
        patient = Patient("", "", None, (term,), ())
        for _ in range(patients_per_finding):
            lines.append(_line(writer, patient, writer.write(patient, rng)))
    random.Random(f"pretrain {seed}").shuffle(lines)
    usual = [t for t, patients in sorted(patients_with.items()) if patients >= writer.symbol_from]
    findings = [ontology.labels[t] for t in usual]
    return Simulated(lines, ranking.hit_rates(np.array(ranks)), findings)


def _line(writer: Writer, patient: Patient, answer: WorkedAnswer) -> str:
    messages = simulate.messages(writer.ontology, patient, writer.options)
    return json.dumps({"messages": [*messages, answer.message()]}, ensure_ascii=False)


def _log(message: str) -> None:
    print(f"rare_disease: {message}", file=sys.stderr, flush=True)
