"""A thousand bad inputs: each ends with status 2 and one sentence, before anything is compiled.

They are made from good ones: every setting of an experiment, every member of every grader of
docs/graders.md, lines of data, and flags, each changed in several ways. A change that is still good
input, such as another name, is left out by asking the reader of that input alone.
"""

import copy
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rft_jax import training  # noqa: F401  imported before jax.jit is replaced
from rft_jax.commands import entry
from rft_jax.config.load import load_config
from rft_jax.config.validate import validate
from rft_jax.evaluation import grading  # noqa: F401  as above
from rft_jax.graders import load_grader
from rft_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
EXPERIMENT = str(REPOSITORY / "experiments" / "claims.py")
CLAIMS = REPOSITORY / "experiments" / "claims"
WRONG_SETTINGS = ("", "many", "-1", "nan", "inf", "true", "0.5", "[]", "1e400", "{'a': 1}")
WRONG_MEMBERS: tuple[Any, ...] = (None, True, -7, "", "{{", "no such thing", [], {}, ["x", 1])


@pytest.fixture(autouse=True)
def no_compilation(monkeypatch):
    def refused(*_, **__):
        raise AssertionError("compiled before the input was checked")

    monkeypatch.setattr("jax.jit", refused)


def assert_refused(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    """Status 2, nothing on stdout, and of the other lines one that says what is wrong."""
    try:
        status = entry.main(arguments)
    except SystemExit as usage_error:
        status = usage_error.code
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, ""), (*arguments, captured.err)
    assert "Traceback" not in captured.err
    said = [line for line in captured.err.splitlines() if line.startswith("rft")]
    assert len(said) == 1, (arguments, captured.err)
    assert len(said[0]) > len("rft train: ") + 10


def settings(node: Any, path: str = "") -> Iterator[str]:
    """The paths of all settings below a section."""
    if isinstance(node, tuple) and node and hasattr(node[0], "name"):
        for member in node:
            yield from settings(member, f"{path}.{member.name}")
    elif dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            yield from settings(getattr(node, field.name), f"{path}.{field.name}")
    else:
        yield path.strip(".")


def is_wrong_setting(name: str, text: str) -> bool:
    try:
        validate(load_config(EXPERIMENT, {name: text}))
    except InputError:
        return True
    return False


def test_settings(tmp_path, capsys):
    count = 0
    for name in settings(load_config(EXPERIMENT, {})):
        for text in WRONG_SETTINGS:
            if is_wrong_setting(name, text):
                command = ["train", "--config", EXPERIMENT, "--workdir", str(tmp_path / "run")]
                assert_refused([*command, f"--config.{name}={text}"], capsys)
                count += 1
    assert count > 500 and not (tmp_path / "run").exists()


def graders() -> list[dict[str, Any]]:
    """Those of the page on graders."""
    page = (REPOSITORY / "docs" / "graders.md").read_text()
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    return [block for block in blocks if isinstance(block, dict) and "type" in block]


def changed(value: Any) -> Iterator[Any]:
    """Copies of a JSON value, each with one member left out, added or of another kind."""
    if isinstance(value, dict):
        yield value | {"colour": "red"}
        for key in value:
            yield {name: member for name, member in value.items() if name != key}
            yield from (value | {key: wrong} for wrong in WRONG_MEMBERS)
            yield from (value | {key: member} for member in changed(value[key]))


def is_wrong_grader(spec: Any) -> bool:
    try:
        load_grader(copy.deepcopy(spec))
    except InputError:
        return True
    return False


def test_graders(tmp_path, capsys):
    count, path = 0, tmp_path / "grader.json"
    for spec in graders():
        for wrong in changed(spec):
            if is_wrong_grader(wrong):
                path.write_text(json.dumps(wrong))
                data = ["--data", str(CLAIMS / "train.jsonl")]
                assert_refused(["validate", "--grader", str(path), *data], capsys)
                count += 1
    assert count > 500


def wrong_lines() -> Iterator[bytes]:
    """Lines that are no item of the claims."""
    line = (CLAIMS / "train.jsonl").read_bytes().splitlines()[0]
    item = json.loads(line)
    yield from (line[:cut] for cut in range(1, len(line) - 1, 5))
    yield from (b"null", b"[]", b"7", b'"x"', b"\xff\xfe", b"{}", line + line, b"NaN")
    for wrong in (None, True, 7, "", "text", [], {}, [7], [{}], [{"role": "user"}], [None]):
        yield json.dumps(item | {"messages": wrong}).encode()
    for wrong in (None, True, 7, "", "robot", [], {}):
        yield json.dumps(item | {"messages": [{"role": wrong, "content": "x"}]}).encode()
    for wrong in (True, 7, [], {}, [7]):
        yield json.dumps(item | {"messages": [{"role": "user", "content": wrong}]}).encode()
    for field in ("messages", "decision", "reason"):
        yield json.dumps({name: item[name] for name in item if name != field}).encode()


def test_lines_of_data(tmp_path, capsys):
    path, good = tmp_path / "train.jsonl", (CLAIMS / "train.jsonl").read_bytes().splitlines()[:3]
    command = ["validate", "--grader", str(CLAIMS / "grader.json"), "--data", str(path)]
    for wrong in wrong_lines():
        path.write_bytes(b"\n".join([*good, wrong, *good]))
        assert_refused(command, capsys)


@pytest.mark.parametrize(
    "command", ["quickstart", "train", "eval", "sample", "export", "grade", "validate", "plan"]
)
def test_flags(command, capsys):
    for wrong in (["--no-such-flag"], ["--no-such-flag=1"], ["stray"], ["--workdir"], ["--grader"]):
        assert_refused([command, *wrong], capsys)
