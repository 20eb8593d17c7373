"""The loader takes every shape of phenopacket that occurs and names what it cannot use."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.tasks.rare_disease import phenopackets
from rft_jax.tasks.rare_disease.phenopackets import load_cases
from rft_jax.utils.errors import InputError

PUBLIC_ARCHIVE = Path(__file__).parents[4] / "shared/data/phenopackets_public.zip"


def load_one(write_archive, packet):
    (case,) = load_cases(write_archive([packet]))
    return case


def test_reads_what_a_packet_says(write_archive, make_packet):
    case = load_one(write_archive, make_packet(age={"age": {"iso8601duration": "P6Y3M"}}))
    assert case == phenopackets.Case(
        case_id="PMID_101_patient_1",
        pmids=("PMID:101",),
        genes=("GENEA",),
        gene_ids=("HGNC:7",),
        variants=("NM_1.2:c.3A>T",),
        sex="female",
        age_years=6.25,
        age_note="",
        present=(("HP:5", "Small hole in heart"),),
        absent=(("HP:9", "Square pupil"),),
    )
    assert case.scorable
    assert case.gene == "GENEA"


def test_archive_and_folder_give_the_same_cases(write_archive, make_packet, tmp_path):
    packets = [make_packet(case_id=f"case {n}", pmid=f"PMID:{n}") for n in range(1, 4)]
    folder = tmp_path / "mine" / "deeper"
    folder.mkdir(parents=True)
    for number, packet in enumerate(packets):
        (folder / f"{number}.json").write_text(json.dumps(packet))
    (folder / "summary.tsv").write_text("not a packet")
    assert load_cases(write_archive(packets)) == load_cases(tmp_path / "mine")


@pytest.mark.parametrize(
    ("element", "years", "note"),
    [
        ({"age": {"iso8601duration": "P0D"}}, 0.0, ""),
        ({"age": {"iso8601duration": "P52W"}}, 52 * 7 / 365.25, ""),
        ({"age": {"iso8601duration": "P1M2D"}}, 1 / 12 + 2 / 365.25, ""),
        ({"age": {"iso8601duration": "PT12H"}}, 0.5 / 365.25, ""),
        ({"ageRange": {"start": {"iso8601duration": "P2Y"}, "end": {}}}, 2.0, ""),
        ({"gestationalAge": {"weeks": 22, "days": 2}}, None, "fetus of 22 weeks"),
        ({"ontologyClass": {"id": "HP:1", "label": "Infantile onset"}}, None, "infantile"),
        ({"timestamp": "2020-01-01T00:00:00Z"}, None, ""),
        ({}, None, ""),
    ],
)
def test_every_shape_of_time_element(write_archive, make_packet, element, years, note):
    case = load_one(write_archive, make_packet(age=element))
    assert case.age_years == (None if years is None else pytest.approx(years))
    assert case.age_note == note


@given(st.integers(0, 99), st.integers(0, 11), st.integers(0, 30))
def test_durations_add_up(years, months, days):
    text = f"P{years}Y{months}M{days}D"
    packet = {"id": "x", "subject": {"timeAtLastEncounter": {"age": {"iso8601duration": text}}}}
    case = phenopackets._parse("m", json.dumps(packet).encode())
    assert case.age_years == pytest.approx(years + months / 12 + days / 365.25)


def test_missing_fields_are_unknown_not_errors(write_archive, make_packet):
    packet = make_packet()
    del packet["phenotypicFeatures"]
    del packet["subject"]["sex"]
    case = load_one(write_archive, packet)
    assert (case.present, case.absent, case.sex) == ((), (), "")
    assert not case.scorable


@pytest.mark.parametrize("sex", ["UNKNOWN_SEX", "OTHER_SEX"])
def test_unknown_sex_is_empty(write_archive, make_packet, sex):
    assert load_one(write_archive, make_packet(sex=sex)).sex == ""


def test_only_absent_findings_are_not_scorable(write_archive, make_packet):
    assert not load_one(write_archive, make_packet(present=())).scorable


def test_a_chromosomal_packet_has_no_gene(write_archive, make_packet):
    packet = make_packet()
    genomic = packet["interpretations"][0]["diagnosis"]["genomicInterpretations"][0]
    del genomic["variantInterpretation"]["variationDescriptor"]["geneContext"]
    case = load_one(write_archive, packet)
    assert case.genes == ()
    assert not case.scorable


def test_two_genes_are_not_scorable_and_a_rejected_one_does_not_count(write_archive, make_packet):
    packet = make_packet()
    diagnosis = packet["interpretations"][0]["diagnosis"]
    other = make_packet(gene="OTHER")["interpretations"][0]["diagnosis"]
    diagnosis["genomicInterpretations"] += other["genomicInterpretations"]
    assert not load_one(write_archive, packet).scorable
    diagnosis["genomicInterpretations"][1]["interpretationStatus"] = "REJECTED"
    assert load_one(write_archive, packet).gene == "GENEA"


def test_excluded_false_means_present_and_present_wins_over_absent(write_archive, make_packet):
    packet = make_packet(present=[("HP:5", "a")], absent=[("HP:5", "a"), ("HP:6", "b")])
    packet["phenotypicFeatures"].append({"type": {"id": "HP:8", "label": "c"}, "excluded": False})
    packet["phenotypicFeatures"].append({"type": {"id": "HP:8", "label": "c"}})
    case = load_one(write_archive, packet)
    assert case.present == (("HP:5", "a"), ("HP:8", "c"))
    assert case.absent == (("HP:6", "b"),)


def test_an_id_keeps_its_commonest_label(write_archive, make_packet):
    labels = ["Old name", "New name", "New name"]
    packets = [make_packet(case_id=f"{n}", present=[("HP:5", x)]) for n, x in enumerate(labels)]
    assert {c.present[0][1] for c in load_cases(write_archive(packets))} == {"New name"}


def test_without_reference_the_publication_comes_from_the_id(write_archive, make_packet):
    packet = make_packet(case_id="PMID_0777_x")
    del packet["metaData"]["externalReferences"]
    assert load_one(write_archive, packet).pmids == ("PMID:777",)


def change(path, value):
    def apply(packet):
        *way, last = path
        for key in way:
            packet = packet[key]
        packet[last] = value

    return apply


@pytest.mark.parametrize(
    ("apply", "named"),
    [
        (change(["id"], ""), "id"),
        (change(["id"], 7), "id"),
        (change(["subject"], []), "subject"),
        (change(["subject", "sex"], 1), "subject.sex"),
        (change(["phenotypicFeatures"], {}), "phenotypicFeatures"),
        (change(["phenotypicFeatures", 1], "x"), "phenotypicFeatures[1]"),
        (change(["phenotypicFeatures", 0, "type"], {}), "phenotypicFeatures[0].type.id"),
        (change(["phenotypicFeatures", 0, "excluded"], "no"), "phenotypicFeatures[0].excluded"),
        (
            change(["subject", "timeAtLastEncounter"], {"age": {"iso8601duration": "6 years"}}),
            "subject.timeAtLastEncounter.age.iso8601duration",
        ),
        (
            change(["subject", "timeAtLastEncounter"], {"age": {"iso8601duration": "P1.2.3Y"}}),
            "subject.timeAtLastEncounter.age.iso8601duration",
        ),
        (
            change(["subject", "timeAtLastEncounter"], {"gestationalAge": {"weeks": "many"}}),
            "subject.timeAtLastEncounter.gestationalAge.weeks",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_member(write_archive, make_packet, apply, named):
    packet = make_packet()
    apply(packet)
    with pytest.raises(InputError) as error:
        load_cases(write_archive([make_packet(case_id="fine"), packet]))
    assert f"0.1.0/COHORT/0001.json: field {named} should be" in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not JSON"),
        (b'{"id": "\xff"}', "not UTF-8"),
        (b"[]", "at the top"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_unreadable_members_are_named(write_archive, content, said):
    with pytest.raises(InputError, match=f"0000.json: .*{said}"):
        load_cases(write_archive([content]))


def test_an_id_that_occurs_again_is_numbered(write_archive, make_packet):
    cases = load_cases(write_archive([make_packet(), make_packet()]))
    assert [case.case_id for case in cases] == ["PMID_101_patient_1", "PMID_101_patient_1#2"]


def test_missing_empty_and_broken_archives_are_named(tmp_path, write_archive):
    with pytest.raises(InputError, match=r"nowhere\.zip: no such file"):
        load_cases(tmp_path / "nowhere.zip")
    with pytest.raises(InputError, match="holds no .json phenopackets"):
        load_cases(write_archive([]))
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK not really")
    with pytest.raises(InputError, match=r"broken\.zip: not a readable zip"):
        load_cases(broken)


@pytest.mark.slow
@pytest.mark.skipif(not PUBLIC_ARCHIVE.exists(), reason="needs ../shared")
def test_the_public_archive_is_read_whole():
    cases = load_cases(PUBLIC_ARCHIVE)
    assert len(cases) == 8460
    assert sum(case.scorable for case in cases) == 8388
    assert len({pmid for case in cases for pmid in case.pmids}) == 1247
    assert len({case.gene for case in cases if case.scorable}) == 594
