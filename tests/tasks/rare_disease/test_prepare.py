"""`prepare` writes a whole directory or none, and evaluation publications leave no trace in it."""

import json
from collections import Counter

import pytest

from rft_jax.tasks.rare_disease import hpo, supervised, worked_answers
from rft_jax.tasks.rare_disease import prepare as prepare_module
from rft_jax.tasks.rare_disease.prepare import RareDiseaseOptions, build, prepare
from rft_jax.tasks.rare_disease.worked_answers import FIXED, FIXED_OF_DIRECT
from rft_jax.utils.errors import InputError

HELD_OUT = ("valid", "valid_present", "seen", "seen_present")
FILES = (
    *("pretrain.jsonl", "train.jsonl", "answers.jsonl", "symbols.txt"),
    *(f"{name}{kind}.jsonl" for name in HELD_OUT for kind in ("", ".annotations", ".naive_bayes")),
    *("annotated.jsonl", "grader.json", "prepared.json"),
)
SMALL = {"patients_per_gene": 20, "train_cases": 4, "valid_cases": 2}


@pytest.fixture
def archive(write_archive, make_packet):
    rows = [
        ("a1", "GENEA", "PMID:101"),
        ("a2", "GENEA", "PMID:901"),
        ("b1", "GENEB", "PMID:201"),
        ("b2", "GENEB", "PMID:902"),
        ("c1", "GENEC", "PMID:401"),
        ("c2", "GENEC", "PMID:903"),
        ("d1", "UNKNOWN", "PMID:904"),
    ]
    return str(write_archive([make_packet(*row, variant=row[0]) for row in rows]))


@pytest.fixture
def made_up_hpo(monkeypatch, ontology, load_annotations):
    monkeypatch.setattr(hpo, "load_ontology", lambda: ontology)
    monkeypatch.setattr(hpo, "load_annotations", load_annotations)


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def parsed(data, name):
    return [json.loads(line) for line in data.files[f"{name}.jsonl"]]


def test_writes_every_file_and_the_same_again(archive, made_up_hpo, tmp_path):
    prepare(tmp_path / "one", archive=archive, **SMALL)
    prepare(tmp_path / "two", archive=archive, **SMALL)
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(FILES)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert not list(tmp_path.glob(".*partial"))


def test_rows_are_in_the_formats_of_their_stages(archive, made_up_hpo, tmp_path):
    prepare(tmp_path / "data", archive=archive, **SMALL)
    pretrain = rows_of(tmp_path / "data/pretrain.jsonl")
    for row in pretrain:
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert set(json.loads(assistant["content"])) == {"explanation", "genes"}
        assert isinstance(assistant["reasoning_content"], str)
    train, valid = (rows_of(tmp_path / f"data/{name}.jsonl") for name in ("train", "valid"))
    for row in train + valid:
        assert [m["role"] for m in row["messages"]] == ["user"]
        assert set(row) - {"cluster"} == {"messages", "gene", "aliases", "case_id", "pmid"}
    for row, right in zip(train, rows_of(tmp_path / "data/answers.jsonl"), strict=True):
        assert right["messages"][:-1] == row["messages"]
        assert json.loads(right["messages"][-1]["content"])["genes"] == [row["gene"]]
    kept_whole = (tmp_path / "data/symbols.txt").read_text().splitlines()
    named = {
        gene for row in pretrain for gene in json.loads(row["messages"][1]["content"])["genes"]
    }
    findings = Counter(
        finding
        for row in pretrain
        for line in row["messages"][0]["content"].splitlines()[1:]
        for finding in line.partition(": ")[2].split("; ")
    )
    usual = {finding for finding, patients in findings.items() if patients >= 20}
    assert 0 < len(usual) < len(findings)
    assert set(kept_whole) == usual | named | set(FIXED)
    assert not {r["gene"] for r in train} & {r["gene"] for r in valid}
    counts = json.loads((tmp_path / "data/prepared.json").read_text())["counts"]
    assert (counts["train"], counts["valid"]) == (len(train), len(valid))


def test_direct_answers_name_genes_first_and_their_symbols_are_tokens(
    archive, ontology, load_annotations
):
    options = RareDiseaseOptions(archive, answer_style="direct", **SMALL)
    data = build(options, ontology, load_annotations)
    for row in [*parsed(data, "pretrain"), *parsed(data, "answers")]:
        assert list(json.loads(row["messages"][-1]["content"])) == ["genes", "explanation"]
        assert not row["messages"][-1]["reasoning_content"]
    right, simulated = (
        [json.loads(row["messages"][-1]["content"])["genes"] for row in parsed(data, name)]
        for name in ("answers", "pretrain")
    )
    assert right == [[row["gene"]] for row in parsed(data, "train")]
    known = {row["gene"]: set(row["findings"]) for row in parsed(data, "annotated")}
    assert set(known) == {gene for genes in simulated for gene in genes}
    assert {len(genes) for genes in simulated} == set(range(1, len(known) + 1))
    assert {*FIXED_OF_DIRECT, *known} < set(data.files["symbols.txt"])


def test_annotations_of_held_out_and_excluded_publications_are_never_read(
    archive, ontology, load_annotations, tmp_path
):
    asked = []

    def load(ontology, exclude, cases):
        asked.append(exclude)
        return load_annotations(ontology, exclude, cases)

    excluded = tmp_path / "pmids.txt"
    excluded.write_text("# of an evaluation\nPMID:402\n 101 # bare\n\n")
    for exclude_train in (True, False):
        data = build(
            RareDiseaseOptions(archive, str(excluded), exclude_train_pmids=exclude_train, **SMALL),
            ontology,
            load,
        )
        train = parsed(data, "train")
        valid = [*parsed(data, "valid"), *parsed(data, "seen")]
        assert {"PMID:402", "PMID:101"} | {r["pmid"] for r in valid} <= asked[-1]
        assert ({r["pmid"] for r in train} <= asked[-1]) == exclude_train
        assert "PMID:101" not in {r["pmid"] for r in train + valid}


def test_training_cases_that_no_simulated_gene_can_answer_are_left_out(
    archive, ontology, load_annotations
):
    options = RareDiseaseOptions(archive, patients_per_gene=1, train_cases=9, valid_cases=1)
    for seed in range(6):
        data = build(
            RareDiseaseOptions(**{**options.__dict__, "seed": seed}), ontology, load_annotations
        )
        assert "UNKNOWN" not in {row["gene"] for row in parsed(data, "train")}


def test_genes_all_adds_those_without_a_case(
    write_archive, make_packet, ontology, load_annotations
):
    genes = ["GENEA", "GENEA", "GENEB", "GENEB"]
    packets = [make_packet(f"{n}", g, f"PMID:70{n}", variant=f"{n}") for n, g in enumerate(genes)]
    archive = str(write_archive(packets))
    sizes = {"patients_per_gene": 1, "train_cases": 2, "valid_cases": 1}
    few = build(RareDiseaseOptions(archive, **sizes), ontology, load_annotations)
    every = build(RareDiseaseOptions(archive, genes="all", **sizes), ontology, load_annotations)
    assert (few.counts["genes_simulated"], every.counts["genes_simulated"]) == (2, 3)


def test_every_held_out_case_is_there_without_absent_findings_too(
    archive, ontology, load_annotations
):
    data = build(RareDiseaseOptions(archive, **SMALL), ontology, load_annotations)
    for row, present in zip(parsed(data, "valid"), parsed(data, "valid_present"), strict=True):
        text = row["messages"][0]["content"]
        assert present == row | {"messages": [{"role": "user", "content": text.split("\nabs")[0]}]}
        assert "absent: Square pupil" in text
    for name in HELD_OUT:
        for baseline in ("annotations", "naive_bayes"):
            assert len(parsed(data, f"{name}.{baseline}")) == len(parsed(data, name))


def test_every_finding_that_points_to_a_gene_has_a_patient_of_its_own(
    archive, ontology, load_annotations, monkeypatch
):
    for module in (supervised, worked_answers):  # of four diseases none is far from the others
        monkeypatch.setattr(module, "POINTS_FROM", 0.5)
    options = RareDiseaseOptions(
        archive, **SMALL | {"patients_per_gene": 0, "patients_per_finding": 2}
    )
    rows = parsed(build(options, ontology, load_annotations), "pretrain")
    findings = Counter(row["messages"][0]["content"].partition("present: ")[2] for row in rows)
    assert set(findings.values()) == {2} and set(findings) <= set(ontology.labels)
    assert "Square pupil" in findings and "Phenotypic abnormality" not in findings
    for row in rows:
        finding = row["messages"][0]["content"].partition("present: ")[2]
        assert row["messages"][1]["reasoning_content"].startswith(f"{finding}: GENE")


def test_baselines_know_what_they_may_know(write_archive, make_packet, ontology, load_annotations):
    """The annotations all genes that they have; naive Bayes those of the training cases."""
    genes = ["GENEA", "GENEA", "GENEB", "GENEB", "GENEC"]
    packets = [make_packet(f"{n}", g, f"PMID:70{n}", variant=f"{n}") for n, g in enumerate(genes)]
    options = RareDiseaseOptions(
        str(write_archive(packets)), patients_per_gene=1, train_cases=9, valid_cases=1
    )
    data = build(options, ontology, load_annotations)

    def listed(baseline):
        answers = parsed(data, f"valid.{baseline}")
        return {gene for row in answers for gene in json.loads(row["output_text"])["genes"]}

    assert listed("annotations") == {"GENEA", "GENEB", "GENEC"}
    assert listed("naive_bayes") == {row["gene"] for row in parsed(data, "train")}


def test_cases_from_elsewhere_take_the_place_of_those_set_aside(
    archive, write_archive, make_packet, ontology, load_annotations
):
    asked = []

    def load(ontology, exclude, cases):
        asked.append(exclude)
        return load_annotations(ontology, exclude, cases)

    elsewhere = write_archive(
        [
            make_packet("e1", "GENEA", "PMID:801", variant="e1"),
            make_packet("e2", "GENED", "PMID:802", variant="e2"),
            make_packet("e3", "GENEB", "PMID:902", variant="e3"),  # b2's publication
        ],
        "elsewhere.zip",
    )
    options = RareDiseaseOptions(archive, eval=str(elsewhere), patients_per_gene=1)
    data = build(options, ontology, load)
    assert [row["case_id"] for row in parsed(data, "valid")] == ["e2"]
    assert [row["case_id"] for row in parsed(data, "seen")] == ["e1", "e3"]
    assert "b2" not in {row["case_id"] for row in parsed(data, "train")}
    assert {"PMID:801", "PMID:802", "PMID:902"} <= asked[-1]
    with pytest.raises(InputError, match="its 1 scorable cases have only genes with training"):
        only_a = write_archive([make_packet("e1", "GENEA", "PMID:801")], "only_a.zip")
        build(RareDiseaseOptions(archive, eval=str(only_a)), ontology, load)


def test_a_prepared_directory_is_reused_and_never_overwritten(
    archive, made_up_hpo, tmp_path, monkeypatch
):
    directory = tmp_path / "data"
    directory.mkdir()
    prepare(directory, archive=archive, **SMALL)
    before = (directory / "prepared.json").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "build", None)
        prepare(directory, archive=archive, **SMALL)
    with pytest.raises(InputError, match="was prepared with other options"):
        prepare(directory, archive=archive, **SMALL, seed=1)
    assert (directory / "prepared.json").stat().st_mtime_ns == before
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(InputError, match="not prepared here"):
        prepare(foreign, archive=archive, **SMALL)
    assert (foreign / "thesis.txt").exists()


def test_a_failure_leaves_no_directory_and_the_next_call_succeeds(
    archive, made_up_hpo, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "write_json", lambda path, value: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(tmp_path / "data", archive=archive, **SMALL)
    assert not (tmp_path / "data").exists()
    prepare(tmp_path / "data", archive=archive, **SMALL)
    assert (tmp_path / "data/prepared.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "option archive is empty"),
        ({"archive": "nowhere.zip"}, "nowhere.zip: no such file"),
        ({"archive": "x", "patients": 3}, "unknown option 'patients'"),
        ({"archive": "x", "genes": "some"}, "option genes should be 'archive' or 'all'"),
        (
            {"archive": "x", "answer_style": "long"},
            "option answer_style should be 'reasoned' or 'direct', not 'long'",
        ),
        (
            {"archive": "x", "max_present": 0},
            "option max_present should be a number of at least 1, not 0",
        ),
        ({"archive": "x", "noise": -1.0}, "option noise should be a number of at least 0"),
        ({"archive": "x", "noise": float("nan")}, "option noise should be a number"),
        ({"archive": "x", "seed": "1"}, "option seed should be a number of at least 0, not '1'"),
    ],
)
def test_unfit_options_are_named(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        prepare(tmp_path / "data", **options)


def test_a_missing_file_and_a_line_that_is_no_pmid_are_named(tmp_path):
    with pytest.raises(InputError, match=r"exclude_pmids .*none\.txt: cannot be read"):
        prepare_module.read_pmids(tmp_path / "none.txt")
    path = tmp_path / "pmids.txt"
    path.write_text("PMID:1\ndoi:10.1/2\n")
    with pytest.raises(InputError, match="line 2: 'doi:10.1/2' is no PMID"):
        prepare_module.read_pmids(path)


def test_cases_without_an_annotated_gene_are_refused(
    write_archive, make_packet, ontology, load_annotations
):
    packets = [make_packet(f"{n}", f"NEW{n}", f"PMID:{n}", variant=f"{n}") for n in range(1, 4)]
    with pytest.raises(InputError, match="HPO annotates none of the 3 genes"):
        build(
            RareDiseaseOptions(str(write_archive(packets)), valid_cases=1),
            ontology,
            load_annotations,
        )
