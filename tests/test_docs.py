"""What README.md and docs/ say to type works: their blocks are executed, page by page, in order.

A line above a block says what is special about it:

    <!-- not run -->                needs a network, an accelerator or hours
    <!-- run with: --a=b -->        the command gets these options as well, so that it ends soon
    <!-- file: NAME -->             the block is a file, written before what follows is run

All pages share one folder, in which `experiments` and `docs` are those of this repository.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]
PROSE = [*PAGES, *sorted((REPOSITORY / "experiments").rglob("README.md"))]
MARKERS = ("not run", "run with", "file", "test-command")
LONGEST_PARAGRAPH = 90  # words
MOST_BYTES = 9000  # of the README
# A page that uses what another one has made.
FIRST = ("README.md", "quickstart.md", "your_own_job.md")


class Block(NamedTuple):
    """A fenced block: its language ("" for commands), text, line number and marker."""

    language: str
    text: str
    line: int
    marker: str


def blocks_of(page: Path) -> list[Block]:
    blocks: list[Block] = []
    inside, marker = None, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if inside is not None:
            if line == "```":
                blocks.append(Block(inside[0], "".join(f"{x}\n" for x in inside[1]), *inside[2:]))
                inside = None
            else:
                inside[1].append(line)
        elif line.startswith("```"):
            inside, marker = (line[3:].strip(), [], number, marker), ""
        else:
            found = re.fullmatch(r"<!-- (.+) -->", line)
            marker = found[1] if found else ""
    assert inside is None, f"{page}: a block has no end"
    return blocks


def id_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def in_order(page: Path) -> tuple[int, str]:
    return FIRST.index(page.name) if page.name in FIRST else len(FIRST), page.name


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_markers_are_known(page):
    for block in blocks_of(page):
        name = block.marker.partition(":")[0]
        assert not name or name in MARKERS, f"{page}, line {block.line}: {block.marker}"


@pytest.mark.parametrize("page", PROSE, ids=id_of)
def test_no_paragraph_is_long(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*#|]|\d+\.) )", text):
        if not paragraph.lstrip().startswith("|"):
            words = paragraph.split()
            assert len(words) <= LONGEST_PARAGRAPH, f"{len(words)} words: {paragraph[:80]}"


@pytest.mark.parametrize("page", PROSE, ids=id_of)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors_of(file), f"{page}: {target}"


def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_short():
    assert len((REPOSITORY / "README.md").read_bytes()) <= MOST_BYTES


def test_every_page_is_in_the_navigation():
    text = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"(\w+\.md)$", text.partition("nav:")[2], re.M)
    assert sorted(named) == sorted(page.name for page in DOCS.glob("*.md"))


@pytest.mark.parametrize("page", [PAGES[0], DOCS / "algorithms.md"], ids=id_of)
def test_settings_of_algorithms_are_valid(page):
    """Each row of the table `| algorithm | settings |` is a configuration."""
    from rft_jax.config import Config
    from rft_jax.config.overrides import apply_overrides
    from rft_jax.config.validate import validate

    text = page.read_text(encoding="utf-8")
    table = re.search(r"^\| algorithm \| settings \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.M)[1]
    rows = [re.findall(r"`([\w.-]+)=([^`]+)`", row.split("|")[2]) for row in table.splitlines()]
    assert len(rows) >= 10
    for row in rows:
        settings = {
            name.removeprefix("--config.")
            if name.startswith("--config.")
            else f"stages.rft.policy_loss.{name}": value
            for name, value in row
            if value != "my_module:my_loss"
        }
        validate(apply_overrides(Config(), settings))


def grader_examples() -> list[pytest.param]:
    """Grader JSON of graders.md with the tables `| item | answer | score |` below it."""
    text = (DOCS / "graders.md").read_text(encoding="utf-8")
    block = r"^```json\n((?:(?!^```).*\n)+)^```\n\n"
    table = r"\| item \| answer \| score \|\n\|[-|]+\n((?:\|.*\n)+)"
    found = []
    for spec, lines in re.findall(block + table, text, re.M):
        grader = json.loads(spec)
        rows = re.findall(r"^\| `(.*?)` \| `(.*?)` \| ([\d.]+) \|$", lines, re.M)
        assert len(rows) == len(lines.splitlines()), lines
        cells = [(item, answer, float(score)) for item, answer, score in rows]
        found.append(pytest.param(grader, cells, id=f"{grader['type']}_{len(found)}"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("spec, rows", grader_examples())
def test_graders_score_as_their_page_says(spec, rows):
    from rft_jax.graders import build_grader, grade_texts, load_grader

    grader = build_grader(load_grader(spec))
    for item, answer, score in rows:  # one by one: the items of a table may have other types
        reward = grade_texts(grader, [answer], [json.loads(item)]).reward
        assert reward[0] == pytest.approx(score, abs=5e-4), answer


def test_graders_page_has_every_type():
    from rft_jax.graders.registry import TYPES

    text = (DOCS / "graders.md").read_text(encoding="utf-8")
    assert {name for name in TYPES if f'"type": "{name}"' not in text} == set()
    assert len(grader_examples()) >= 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("docs")
    for name in ("experiments", "docs"):
        (path / name).symlink_to(REPOSITORY / name)
    return path


@pytest.fixture(scope="module")
def environment(folder, tmp_path_factory):
    """`rft` and `python` are those of this interpreter, on one device."""
    programs = tmp_path_factory.mktemp("bin")
    setup = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    module, function = re.search(r'"rft = ([\w.]+):(\w+)"', setup).groups()
    main = f"import sys; from {module} import {function}; sys.exit({function}())"
    for name, arguments in {"rft": f"-c '{main}'", "python": ""}.items():
        script = f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n'
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PATH": path, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{folder}"}


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(PAGES, key=in_order), ids=id_of)
def test_blocks_run(page, folder, environment):
    for block in blocks_of(page):
        marker, _, value = block.marker.partition(": ")
        if marker in ("not run", "test-command"):
            continue
        if marker == "file":
            (folder / value).write_text(block.text)
        if block.language == "python":
            command = [sys.executable, "-c", block.text]
        elif block.language == "" and marker != "file":
            options = f" {value}" if marker == "run with" else ""
            command = ["bash", "-ec", block.text.rstrip("\n") + options]
        else:
            continue
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900
        )
        where = f"{page}, line {block.line}"
        assert done.returncode == 0, f"{where}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_the_table_of_presets_is_that_of_the_code():
    from rft_jax.config.presets import PRESETS, presets_table

    assert presets_table() in (DOCS / "algorithms.md").read_text(encoding="utf-8")
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`algorithm=(\w+)`", readme)) == set(PRESETS)
