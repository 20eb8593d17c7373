"""Writes the files of a rare-disease run: `prepare(directory, archive=..., ...)`.

    pretrain.jsonl         simulated patients with worked answers (supervised rows)
    train.jsonl            real cases to reinforce on, capped by publication and gene
    answers.jsonl          the same with the right answer, for supervised fine-tuning
    valid.jsonl            real cases of other publications and other genes
    seen.jsonl             real cases of other publications and the training genes
    valid_present.jsonl    those without absent findings; seen_present.jsonl likewise
    *.annotations.jsonl    answers to each of the four by the annotations alone
    *.naive_bayes.jsonl    answers by naive Bayes on the training cases alone
    annotated.jsonl        of each gene the findings that it is known for, to check explanations by
    symbols.txt            findings, genes and the answer's fixed parts, a token each
    grader.json            the rank grader
    prepared.json          options, counts, checksums

The publications of the validation cases, of the training cases (an option), and those of
`exclude_pmids` are taken out of the annotations before a patient is simulated, and the last out of
the cases too: what pools other publications with them is counted anew from the archive's cases of
those. Training cases whose gene is then no candidate could only earn nothing: they are left
out. Validation cases of that kind stay, as misses.

With an archive `eval` all validation is on its cases: valid.jsonl has those whose gene no training
case has, seen.jsonl the others.
"""

import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rft_jax.tasks.rare_disease import hpo, phenopackets, prompts, ranking, splits
from rft_jax.tasks.rare_disease.supervised import Writer, simulated_rows
from rft_jax.utils.errors import InputError
from rft_jax.utils.files import write_json
from rft_jax.utils.types import JsonObject

PATHS = ("archive", "exclude_pmids", "eval")  # options that say where, not what
_CHOICES = {"genes": ("archive", "all"), "answer_style": ("reasoned", "direct")}


@dataclass(frozen=True)
class RareDiseaseOptions:
    """What to prepare.

    Attributes:
        archive: Release archive or folder of phenopackets.
        exclude_pmids: File with a PMID a line: publications of an evaluation to come.
        eval: Archive or folder of the cases to evaluate on; "": cases of `archive` are set aside.
        genes: Candidates to simulate: "archive" (those of the cases) or "all" (every gene that
            HPO annotates: Needed if the evaluation has genes of which the archive has no case).
        patients_per_gene: Simulated patients of each gene.
        patients_per_finding: And with one finding alone, of each finding that points to a gene, so
            that a model hears of those too that no patient happens to have.
        answer_style: "reasoned": a thought on some findings, an explanation, and genes as a writer
            with `noise` ranks them. "direct": the genes at once, the right one first, and behind
            them the explanation; quicker to learn and to write.
        noise: Temperature of the noise in the reasoned answers' ranking, in nats.
        max_present, max_absent, present_only, instructions: See `prompts.PromptOptions`.
        train_cases, valid_cases: At most so many real cases.
        exclude_train_pmids: Take the training publications out of the annotations too. With them
            the annotations alone rank twice as many training cases right as unseen ones, and
            reinforcement teaches to trust a match that no new patient will have.
        seed: Fixes everything that is drawn.
    """

    archive: str = ""
    exclude_pmids: str = ""
    eval: str = ""
    genes: Literal["archive", "all"] = "archive"
    patients_per_gene: int = 100
    patients_per_finding: int = 0
    answer_style: Literal["reasoned", "direct"] = "reasoned"
    noise: float = 2.0
    max_present: int = 20
    max_absent: int = 10
    present_only: bool = False
    instructions: bool = False
    train_cases: int = 1100
    valid_cases: int = 200
    exclude_train_pmids: bool = True
    seed: int = 0

    @property
    def prompt(self) -> prompts.PromptOptions:
        """How prompts are written."""
        return prompts.PromptOptions(
            self.max_present, self.max_absent, self.present_only, self.instructions
        )


def prepare(directory: str | Path, **options: object) -> None:
    """Writes the files into `directory`, or finds them there.

    The directory appears when everything is in it; a run that was killed leaves none.

    Args:
        directory: A new or empty folder, or one prepared with the same options.
        options: Fields of `RareDiseaseOptions`.
    Raises:
        InputError: An option is unknown or unfit, an input cannot be read, or the directory holds
            something else.
    """
    directory = Path(directory)
    chosen = _checked_options(options)
    inputs = {
        "options": dataclasses.asdict(chosen) | dict.fromkeys(PATHS, ""),
        "archive_sha256": archive_sha256(chosen.archive),
        "eval_sha256": archive_sha256(chosen.eval) if chosen.eval else "",
        "exclude_pmids": sorted(read_pmids(chosen.exclude_pmids)),
    }
    if is_prepared(directory, inputs):
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    data = build(chosen, hpo.load_ontology(), hpo.load_annotations)
    for name, lines in data.files.items():
        write_lines(partial / name, lines)
    write_json(partial / "grader.json", prompts.grader())
    write_json(partial / "prepared.json", inputs | {"counts": data.counts})
    partial.rename(directory)
    _log(f"wrote {directory}: {json.dumps(data.counts)}")


@dataclass(frozen=True)
class Prepared:
    """The lines of the files by name, and what was counted."""

    files: dict[str, list[str]]
    counts: JsonObject


def build(
    options: RareDiseaseOptions,
    ontology: hpo.Ontology,
    load_annotations: Callable[
        [hpo.Ontology, frozenset[str], Sequence[phenopackets.Case]], hpo.Annotations
    ],
) -> Prepared:
    """Makes the rows, from any ontology.

    Args:
        load_annotations: From the ontology, the publications to leave out, and the cases by which
            rows that cite others too are counted anew.
    Raises:
        InputError: An archive cannot be read, or the split leaves nothing.
    """
    cases = _load_cases(options.archive, ontology)
    scorable = [case for case in cases if case.scorable]
    evaluation = _load_cases(options.eval, ontology) if options.eval else []
    excluded = read_pmids(options.exclude_pmids)
    split = splits.split(
        cases,
        len(cases),
        0 if options.eval else options.valid_cases,
        excluded,
        options.seed,
        evaluation,
    )
    train_pmids = frozenset(pmid for case in split.train for pmid in case.pmids)
    held_out_pmids = excluded | split.held_out_pmids
    annotations = load_annotations(
        ontology,
        held_out_pmids | train_pmids if options.exclude_train_pmids else held_out_pmids,
        cases,
    )
    evaluation = [case for case in evaluation if case.scorable]
    of_cases = sorted({case.gene for case in (*scorable, *evaluation)})
    wanted = of_cases if options.genes == "archive" else annotations.genes
    evidence = ranking.build_evidence(ontology, annotations, wanted)
    if not evidence.genes:
        raise InputError(
            f"{options.archive}: HPO annotates none of the {len(of_cases)} genes of the cases, so "
            "no patient can be simulated; check that the packets give HGNC symbols."
        )
    candidates = set(evidence.genes)
    train = [case for case in split.train if case.gene in candidates][: options.train_cases]
    train_genes = {case.gene for case in train}
    unseen, seen = (evaluation, evaluation) if options.eval else (split.valid, split.seen)
    held_out = {
        "valid": [case for case in unseen if case.gene not in train_genes],
        "seen": [case for case in seen if case.gene in train_genes],
    }
    for name, of in held_out.items():
        if options.eval and not of:
            which = "only genes with" if name == "valid" else "no gene with"
            raise InputError(
                f"eval {options.eval}: its {len(evaluation)} scorable cases have {which} training "
                "cases, and both kinds are evaluated on; give other cases, or change train_cases."
            )
    writer = Writer(
        options.answer_style == "direct",
        options.noise,
        ontology,
        evidence,
        ranking.annotated_findings(ontology, annotations),
        options.prompt,
    )
    simulated = simulated_rows(
        writer, annotations, options.patients_per_gene, options.patients_per_finding, options.seed
    )
    findings = _Findings(ontology)
    files = {
        "pretrain.jsonl": simulated.rows,
        "train.jsonl": [_line(prompts.item(case, options.prompt)) for case in train],
        "answers.jsonl": [_right_answer(case, findings, writer) for case in train],
        "symbols.txt": writer.symbols(simulated.findings),
        "annotated.jsonl": [
            _line({"gene": gene, "findings": [ontology.labels[t] for t in sorted(terms)]})
            for gene, terms in writer.annotated.items()
            if gene in candidates
        ],
    }
    of_train, _ = findings.shown(train, options.prompt)
    bayes = ranking.naive_bayes(ontology, of_train, [case.gene for case in train])
    for name, of in held_out.items():
        files |= _held_out_files(
            name, of, options.prompt, evidence, bayes, findings, split.cluster_of
        )
    counts = {
        "cases": len(cases),
        "scorable": len(scorable),
        "genes_of_cases": len(of_cases),
        "genes_simulated": len(evidence.genes),
        "genes_without_annotation": len(set(of_cases) - candidates),
        "annotation_rows_excluded": annotations.excluded_rows,
        "annotation_rows_recounted": annotations.recounted_rows,
        "pretrain": len(simulated.rows),
        "train": len(train),
        "valid": len(held_out["valid"]),
        "seen": len(held_out["seen"]),
        "train_genes": len(train_genes),
        "valid_genes": len({case.gene for case in held_out["valid"]}),
        "worked_answers": simulated.hit_rates,
        "annotations_on_train": _annotation_rates(findings, evidence, train, options.prompt),
        "annotations_on_valid": _annotation_rates(
            findings, evidence, held_out["valid"], options.prompt
        ),
    }
    return Prepared(files, counts)


def _load_cases(path: str, ontology: hpo.Ontology) -> list[phenopackets.Case]:
    return phenopackets.relabel(phenopackets.load_cases(path), ontology.labels_by_id())


def _right_answer(case: phenopackets.Case, findings: "_Findings", writer: Writer) -> str:
    (present,), (absent,) = findings.shown([case], writer.options)
    answer = writer.right_answer(case.gene, present, absent)
    return _line({"messages": [*prompts.case_messages(case, writer.options), answer.message()]})


class _Findings:
    """Indices of the findings that prompts show; those that the ontology lacks are left out."""

    def __init__(self, ontology: hpo.Ontology) -> None:
        self._index = {label: i for i, label in enumerate(ontology.labels)}

    def shown(
        self, cases: Sequence[phenopackets.Case], options: prompts.PromptOptions
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Those present, and those absent, of every case."""
        found = [prompts.shown(case, options) for case in cases]
        present = [self._indices(of_case.present) for of_case in found]
        return present, [self._indices(of_case.absent) for of_case in found]

    def _indices(self, labels: Iterable[str]) -> list[int]:
        return sorted(self._index[label] for label in labels if label in self._index)


def _held_out_files(
    name: str,
    cases: Sequence[phenopackets.Case],
    options: prompts.PromptOptions,
    evidence: ranking.Evidence,
    bayes: ranking.Evidence,
    findings: _Findings,
    cluster_of: Mapping[str, str],
) -> dict[str, list[str]]:
    """Items with and without absent findings, and the answers of what is not a model."""
    files = {}
    for variant, present_only in ((name, options.present_only), (f"{name}_present", True)):
        variant_options = dataclasses.replace(options, present_only=present_only)
        rows = [prompts.item(case, variant_options) for case in cases]
        present, absent = findings.shown(cases, variant_options)
        by_annotations = ranking.scores(evidence, present, absent)
        by_cases = ranking.scores(bayes, present)
        files |= {
            f"{variant}.jsonl": [
                _line(row | {"cluster": cluster_of[case.case_id]})
                for case, row in zip(cases, rows, strict=True)
            ],
            f"{variant}.annotations.jsonl": _answers(evidence.genes, by_annotations),
            f"{variant}.naive_bayes.jsonl": _answers(bayes.genes, by_cases),
        }
    return files


def _answers(genes: Sequence[str], score: np.ndarray) -> list[str]:
    return [_line({"output_text": text}) for text in ranking.answers(genes, score)]


def _annotation_rates(
    findings: _Findings,
    evidence: ranking.Evidence,
    cases: Sequence[phenopackets.Case],
    options: prompts.PromptOptions,
) -> dict[str, float]:
    """How often the annotations alone rank the right gene first; a gene not annotated is a miss."""
    score = ranking.scores(evidence, *findings.shown(cases, options))
    return ranking.hit_rates(ranking.ranks(evidence, score, [case.gene for case in cases]))


def read_pmids(path: str | Path) -> frozenset[str]:
    """Reads a file with a PMID a line ("PMID:123" or "123"; # starts a comment); "" is no file.

    Raises:
        InputError: The file is missing or a line is no PMID.
    """
    if not path:
        return frozenset()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"exclude_pmids {path}: cannot be read ({error}); give a text file with a PMID a line."
        ) from error
    pmids = set()
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        digits = text.upper().removeprefix("PMID:").strip()
        if text and not (digits.isascii() and digits.isdigit()):
            raise InputError(
                f"exclude_pmids {path}, line {number}: {text!r} is no PMID; write PMID:12345678."
            )
        if text:
            pmids.add(f"PMID:{int(digits)}")
    return frozenset(pmids)


def _checked_options(options: JsonObject) -> RareDiseaseOptions:
    known = [field.name for field in dataclasses.fields(RareDiseaseOptions)]
    for name in options:
        if name not in known:
            raise InputError(
                f"rare_disease: unknown option {name!r}; known are {', '.join(known)}."
            )
    chosen = RareDiseaseOptions(**options)
    if not chosen.archive:
        raise InputError(
            "rare_disease: option archive is empty; give a phenopacket-store release "
            "(all_phenopackets.zip) or a folder of phenopackets."
        )
    for name, choices in _CHOICES.items():
        if (value := getattr(chosen, name)) not in choices:
            raise InputError(
                f"rare_disease: option {name} should be {' or '.join(map(repr, choices))}, not "
                f"{value!r}."
            )
    least = {"patients_per_gene": 0, "patients_per_finding": 0, "noise": 0}
    least |= {"max_present": 1, "max_absent": 0}
    for name, low in (least | {"train_cases": 0, "valid_cases": 0, "seed": 0}).items():
        value = getattr(chosen, name)
        kind = int | float if name == "noise" else int
        if isinstance(value, bool) or not isinstance(value, kind) or not value >= low:
            raise InputError(
                f"rare_disease: option {name} should be a number of at least {low}, not {value!r}."
            )
    return chosen


def is_prepared(directory: Path, inputs: JsonObject) -> bool:
    """Whether the same is there already. Anything else that is there is not overwritten."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    try:
        there = json.loads((directory / "prepared.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{directory}: holds something that was not prepared here; choose another directory."
        ) from error
    differing = [name for name in inputs if there.get(name) != inputs[name]]
    if differing:
        raise InputError(
            f"{directory}: was prepared with other {differing[0]}; choose another directory or "
            "remove this one."
        )
    return True


def archive_sha256(path: str) -> str:
    """Checksum of a file, or of the names and contents of a folder's phenopackets."""
    digest = hashlib.sha256()
    if Path(path).is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    for name, content in phenopackets.read_members(path):
        digest.update(f"{Path(name).relative_to(path)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _line(row: JsonObject) -> str:
    return json.dumps(row, ensure_ascii=False)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a text file, line by line."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _log(message: str) -> None:
    print(f"rare_disease: {message}", file=sys.stderr, flush=True)
