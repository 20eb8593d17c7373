"""Reads GA4GH phenopackets (schema 2, https://phenopacket-schema.readthedocs.io) into plain cases.

`load_cases` takes a release archive of phenopacket-store (`all_phenopackets.zip`), any other zip of
phenopackets, a folder of `.json` files, or one such file. A `Case` keeps what a clinician could
have seen (sex, age, findings) apart from what gives the answer away (gene, ids, publications);
`prompts.py` shows a model the first kind only.
"""

import json
import re
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rft_jax.utils.errors import InputError

Term = tuple[str, str]  # (id, label), as in ("HP:0000348", "High forehead")

_DURATION = re.compile(
    r"P(?=[\dT])(?:([\d.]+)Y)?(?:([\d.]+)M)?(?:([\d.]+)W)?(?:([\d.]+)D)?"
    r"(?:T(?:([\d.]+)H)?(?:[\d.]+M)?(?:[\d.]+S)?)?"
)
_YEARS_PER_UNIT = (1.0, 1 / 12, 7 / 365.25, 1 / 365.25, 1 / (24 * 365.25))
_PMID = re.compile(r"PMID[:_ ]?(\d+)", re.IGNORECASE)
_SEXES = {"MALE": "male", "FEMALE": "female"}


@dataclass(frozen=True)
class Case:
    """One patient.

    Attributes:
        case_id: the packet's id.
        pmids: publications that report the patient, such as "PMID:15266616".
        genes: symbols of the genes held responsible, sorted.
        gene_ids: their HGNC ids, in the order of `genes` ("" where the packet gives none).
        variants: descriptions of the variants, sorted; used only to recognize a patient who is
            reported twice.
        sex: "male", "female" or "" (unknown).
        age_years: age at the last encounter, or None.
        age_note: what stands in for an age: "infantile", "fetus of 22 weeks", or "".
        present: findings that were observed, in the packet's order.
        absent: findings that were looked for and not found.
    """

    case_id: str
    pmids: tuple[str, ...]
    genes: tuple[str, ...]
    gene_ids: tuple[str, ...]
    variants: tuple[str, ...]
    sex: str
    age_years: float | None
    age_note: str
    present: tuple[Term, ...]
    absent: tuple[Term, ...]

    @property
    def scorable(self) -> bool:
        """Whether there is one right answer and something to derive it from."""
        return len(self.genes) == 1 and bool(self.present)

    @property
    def gene(self) -> str:
        """The symbol of the one gene held responsible (of a scorable case)."""
        (symbol,) = self.genes
        return symbol


def load_cases(path: str | Path) -> list[Case]:
    """Reads every phenopacket of an archive, a folder (recursively) or one file.

    An HPO id keeps one label throughout: the commonest one of the archive. A packet id that occurs
    again is numbered ("case#2").

    Args:
        path: a `.zip`, a folder that holds `.json` files, or a `.json` file.
    Returns:
        The cases in the order of their file names; `Case.scorable` tells which can be graded.
    Raises:
        InputError: the path does not exist, holds no phenopacket, or one of them cannot be used.
    """
    cases = [_parse(member, content) for member, content in read_members(path)]
    return relabel(_with_unique_ids(cases), _commonest_labels(cases))


def relabel(cases: Iterable[Case], labels: Mapping[str, str]) -> list[Case]:
    """Gives findings the label that `labels` has for their id; other findings keep their own."""

    def rename(terms: tuple[Term, ...]) -> tuple[Term, ...]:
        return tuple((term_id, labels.get(term_id, label)) for term_id, label in terms)

    return [replace(c, present=rename(c.present), absent=rename(c.absent)) for c in cases]


def read_members(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yields (name for messages, content) of every `.json` below `path`, sorted by name."""
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder; give a phenopacket-store release "
            "(all_phenopackets.zip) or a folder of .json phenopackets."
        )
    found = False
    if path.is_dir():
        members = _read_files(sorted(path.rglob("*")))
    elif path.suffix.lower() == ".json":
        members = _read_files([path])
    else:
        members = _read_zip(path)
    for member in members:
        found = True
        yield member
    if not found:
        raise InputError(f"{path}: holds no .json phenopackets; is this the right archive?")


def _is_packet(name: str) -> bool:
    hidden = name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith(".")
    return name.lower().endswith(".json") and not hidden


def _read_files(paths: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    for path in paths:
        if path.is_file() and _is_packet(path.name):
            try:
                yield str(path), path.read_bytes()
            except OSError as error:
                raise InputError(
                    f"{path}: cannot be read ({error.strerror}); check permissions"
                ) from None


def _read_zip(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if _is_packet(name):
                    yield f"{path}:{name}", archive.read(name)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, zlib.error) as error:
        raise InputError(f"{path}: not a readable zip archive ({error}); download it again.") from (
            error
        )


def _with_unique_ids(cases: Iterable[Case]) -> list[Case]:
    seen: Counter[str] = Counter()
    unique = []
    for case in cases:
        seen[case.case_id] += 1
        again = seen[case.case_id] > 1
        unique.append(
            replace(case, case_id=f"{case.case_id}#{seen[case.case_id]}") if again else case
        )
    return unique


def _commonest_labels(cases: Iterable[Case]) -> dict[str, str]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        for term_id, label in case.present + case.absent:
            counts[term_id][label] += 1
    return {
        term_id: min(labels, key=lambda label: (-labels[label], label))
        for term_id, labels in counts.items()
    }


class _Node:
    """A value inside a phenopacket that knows its path, so that a complaint can name it."""

    def __init__(self, value: Any, member: str, path: str):
        self.value, self.member, self.path = value, member, path

    def fail(self, expected: str) -> InputError:
        return InputError(
            f"{self.member}: field {self.path or 'at the top'} {expected}; correct the "
            "phenopacket or take it out."
        )

    def child(self, key: str) -> "_Node":
        """The field `key`; protobuf's JSON leaves out what has its default value."""
        if not isinstance(self.value, dict):
            raise self.fail("should be an object")
        path = f"{self.path}.{key}" if self.path else key
        return _Node(self.value.get(key), self.member, path)

    def object(self, key: str) -> "_Node":
        node = self.child(key)
        if node.value is None:
            node.value = {}
        if not isinstance(node.value, dict):
            raise node.fail("should be an object")
        return node

    def list(self, key: str) -> list["_Node"]:
        node = self.child(key)
        values = [] if node.value is None else node.value
        if not isinstance(values, list):
            raise node.fail("should be a list")
        return [_Node(v, self.member, f"{node.path}[{i}]") for i, v in enumerate(values)]

    def text(self, key: str, required: bool = False) -> str:
        node = self.child(key)
        if node.value is None and not required:
            return ""
        if not isinstance(node.value, str) or (required and not node.value.strip()):
            raise node.fail("should be a text" + (" that is not empty" if required else ""))
        return " ".join(node.value.split())

    def flag(self, key: str) -> bool:
        node = self.child(key)
        if node.value not in (None, True, False):
            raise node.fail("should be true or false")
        return bool(node.value)


def _parse(member: str, content: bytes) -> Case:
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{member}: not UTF-8 at byte {error.start}; save the phenopacket as UTF-8."
        ) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"{member}: not JSON ({error}); correct the phenopacket or take it out."
        ) from error
    packet = _Node(value, member, "")
    case_id = packet.text("id", required=True)
    subject = packet.object("subject")
    genes, variants = _genes_and_variants(packet)
    age_years, age_note = _age(subject.object("timeAtLastEncounter"))
    present, absent = _findings(packet)
    return Case(
        case_id=case_id,
        pmids=_pmids(packet, case_id),
        genes=tuple(sorted(genes)),
        gene_ids=tuple(genes[symbol] for symbol in sorted(genes)),
        variants=tuple(sorted(variants)),
        sex=_SEXES.get(subject.text("sex"), ""),
        age_years=age_years,
        age_note=age_note,
        present=present,
        absent=absent,
    )


def _findings(packet: _Node) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
    """Present and absent findings, each id once; what is both counts as present."""
    present: dict[str, str] = {}
    absent: dict[str, str] = {}
    for feature in packet.list("phenotypicFeatures"):
        kind = feature.object("type")
        term_id = kind.text("id", required=True)
        label = kind.text("label", required=True)
        (absent if feature.flag("excluded") else present).setdefault(term_id, label)
    absent = {term_id: label for term_id, label in absent.items() if term_id not in present}
    return tuple(present.items()), tuple(absent.items())


def _genes_and_variants(packet: _Node) -> tuple[dict[str, str], set[str]]:
    """Symbol -> HGNC id of the genes held responsible, and the variants' descriptions."""
    genes: dict[str, str] = {}
    variants: set[str] = set()
    for interpretation in packet.list("interpretations"):
        for genomic in interpretation.object("diagnosis").list("genomicInterpretations"):
            if genomic.text("interpretationStatus") in ("REJECTED", "CANDIDATE"):
                continue
            variant = genomic.object("variantInterpretation").object("variationDescriptor")
            for gene in (variant.object("geneContext"), genomic.object("gene")):
                symbol = gene.text("symbol")
                if symbol:
                    genes[symbol] = gene.text("valueId")
            expressions = [e.text("value") for e in variant.list("expressions")]
            variants.update(filter(None, [*expressions, variant.text("label")]))
    return genes, variants


def _pmids(packet: _Node, case_id: str) -> tuple[str, ...]:
    references = packet.object("metaData").list("externalReferences")
    texts = [f"{r.text('id')} {r.text('reference')}" for r in references]
    found = {f"PMID:{int(number)}" for text in texts for number in _PMID.findall(text)}
    # phenopacket-store names its packets after the publication.
    found = found or {f"PMID:{int(number)}" for number in _PMID.findall(case_id)}
    return tuple(sorted(found))


def _age(element: _Node) -> tuple[float | None, str]:
    """A TimeElement as (years or None, what stands in for them)."""
    age = element.object("age")
    if not age.value:
        age = element.object("ageRange").object("start")
    duration = age.text("iso8601duration")
    if duration:
        match = _DURATION.fullmatch(duration)
        try:
            if match is None:
                raise ValueError(duration)
            parts = [float(part or 0) for part in match.groups()]
        except ValueError as error:
            raise age.child("iso8601duration").fail(
                f"should be an ISO 8601 duration such as P6Y3M, not {duration!r}"
            ) from error
        return sum(p * years for p, years in zip(parts, _YEARS_PER_UNIT, strict=True)), ""
    gestation = element.object("gestationalAge")
    if gestation.value:
        weeks = gestation.child("weeks")
        if isinstance(weeks.value, bool) or not isinstance(weeks.value, int | type(None)):
            raise weeks.fail("should be a whole number")
        return None, f"fetus of {weeks.value or 0} weeks"
    label = element.object("ontologyClass").text("label").lower()
    return None, label.removesuffix(" onset")
