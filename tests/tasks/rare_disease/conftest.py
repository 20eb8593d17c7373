"""Made-up phenopackets, a made-up ontology and made-up annotations; nothing here is a patient."""

import json
import zipfile

import pytest

from rft_jax.tasks.rare_disease import hpo
from rft_jax.tasks.rare_disease.patients import Patients

# id, label, parents
TERMS = [
    ("HP:0000001", "All", []),
    ("HP:0000118", "Phenotypic abnormality", ["HP:0000001"]),
    ("HP:0000005", "Mode of inheritance", ["HP:0000001"]),
    ("HP:1", "Abnormal heart", ["HP:0000118"]),
    ("HP:2", "Abnormal skin", ["HP:0000118"]),
    ("HP:3", "Abnormal eye", ["HP:0000118"]),
    ("HP:4", "Hole in heart", ["HP:1"]),
    ("HP:5", "Small hole in heart", ["HP:4"]),
    ("HP:6", "Blue skin", ["HP:2"]),
    ("HP:7", "Cyanosis of heart origin", ["HP:1", "HP:2"]),
    ("HP:8", "Green eye", ["HP:3"]),
    ("HP:9", "Square pupil", ["HP:3"]),
    ("HP:10", "Thick skin", ["HP:2"]),
    ("HP:0010461", "Abnormality of the male genitalia", ["HP:0000118"]),
]
HPOA_HEADER = (
    "database_id\tdisease_name\tqualifier\thpo_id\treference\tevidence\tonset\tfrequency\tsex"
    "\tmodifier\taspect\tbiocuration"
)
# disease, qualifier, term, reference, frequency
HPOA_ROWS = [
    ("OMIM:1", "", "HP:5", "PMID:101", "3/4"),
    ("OMIM:1", "", "HP:5", "PMID:102", "1/4"),
    ("OMIM:1", "", "HP:6", "OMIM:1", "HP:0040281"),
    ("OMIM:1", "", "HP:8", "PMID:101;PMID:103", ""),
    ("OMIM:1", "NOT", "HP:9", "PMID:101", "0/4"),
    ("OMIM:1", "", "HP:0003593", "PMID:101", ""),
    ("OMIM:2", "", "HP:9", "PMID:201", "50%"),
    ("OMIM:2", "", "HP:10", "PMID:202", "2/2"),
    ("OMIM:2", "", "HP:0010461", "PMID:202", "2/2"),
    ("OMIM:2", "", "HP:0001419", "PMID:202", ""),
    ("ORPHA:3", "", "HP:4", "ORPHA:3", "HP:0040282"),
    ("ORPHA:3", "", "HP:7", "ORPHA:3", "HP:0040283"),
    ("OMIM:4", "", "HP:8", "PMID:401", "1/1"),
]
LINKS = [("GENEA", "OMIM:1"), ("GENEA", "ORPHA:3"), ("GENEB", "OMIM:2"), ("GENEC", "OMIM:4")]


def make_packet(
    case_id="PMID_101_patient_1",
    gene="GENEA",
    pmid="PMID:101",
    present=(("HP:5", "Small hole in heart"),),
    absent=(("HP:9", "Square pupil"),),
    age=None,
    sex="FEMALE",
    variant="NM_1.2:c.3A>T",
):
    """A phenopacket as phenopacket-store writes it."""
    features = [{"type": {"id": i, "label": label}} for i, label in present]
    features += [{"type": {"id": i, "label": label}, "excluded": True} for i, label in absent]
    descriptor = {
        "id": "var_1",
        "geneContext": {"valueId": "HGNC:7", "symbol": gene},
        "expressions": [{"syntax": "hgvs.c", "value": variant}],
        "vcfRecord": {"pos": "123"},
    }
    return {
        "id": case_id,
        "subject": {"id": "patient 1", "sex": sex, "timeAtLastEncounter": age or {}},
        "phenotypicFeatures": features,
        "interpretations": [
            {
                "diagnosis": {
                    "disease": {"id": "OMIM:1", "label": f"{gene} syndrome"},
                    "genomicInterpretations": [
                        {
                            "interpretationStatus": "CAUSATIVE",
                            "variantInterpretation": {"variationDescriptor": descriptor},
                        }
                    ],
                }
            }
        ],
        "diseases": [{"term": {"id": "OMIM:1", "label": f"{gene} syndrome"}}],
        "metaData": {
            "externalReferences": [{"id": pmid, "description": f"Mutations in {gene} cause it"}],
            "phenopacketSchemaVersion": "2.0.2",
        },
    }


@pytest.fixture(name="make_packet")
def _make_packet():
    return make_packet


@pytest.fixture
def write_archive(tmp_path):
    """Writes packets into a zip in the layout of phenopacket-store, or other contents as bytes."""

    def write(packets, name="all_phenopackets.zip"):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            for number, packet in enumerate(packets):
                content = packet if isinstance(packet, bytes) else json.dumps(packet)
                archive.writestr(f"0.1.0/COHORT/{number:04}.json", content)
        return path

    return write


@pytest.fixture(scope="session")
def ontology():
    return hpo.build_ontology(TERMS, alternatives={"HP:44": "HP:4"})


@pytest.fixture(scope="session")
def annotation_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hpo")
    lines = ["#version: made up", HPOA_HEADER]
    for disease, qualifier, term, reference, frequency in HPOA_ROWS:
        cells = [disease, "name", qualifier, term, reference, "PCS", "", frequency, "", "", "P", ""]
        lines.append("\t".join(cells))
    (folder / "phenotype.hpoa").write_text("\n".join(lines) + "\n")
    lines = ["ncbi_gene_id\tgene_symbol\thpo_id\thpo_name\tfrequency\tdisease_id"]
    lines += [f"1\t{gene}\tHP:5\tname\t-\t{disease}" for gene, disease in LINKS]
    (folder / "genes_to_phenotype.txt").write_text("\n".join(lines) + "\n")
    return folder / "phenotype.hpoa", folder / "genes_to_phenotype.txt"


@pytest.fixture
def table(ontology, annotation_files):
    return hpo.AnnotationTable(ontology, *annotation_files)


@pytest.fixture
def load_annotations(annotation_files):
    def load(ontology, exclude=frozenset(), cases=()):
        table = hpo.AnnotationTable(ontology, *annotation_files)
        return table.annotations(exclude, Patients(cases, ontology.index))

    return load


@pytest.fixture
def annotations(ontology, load_annotations):
    return load_annotations(ontology, frozenset())
