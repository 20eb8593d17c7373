"""A grader's JSON is read as OpenAI's format has it, or refused at the path that is wrong."""

import json

import pytest

from rft_jax.graders import load_grader
from rft_jax.graders.multi import Multi
from rft_jax.graders.rank import CREDIT
from rft_jax.graders.string_check import OPERATIONS
from rft_jax.utils.errors import InputError

CHECK = {
    "type": "string_check",
    "name": "style",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}
RANK = {
    "type": "rank",
    "name": "gene",
    "input": "{{ sample.output_json.genes }}",
    "reference": "{{ item.gene }}",
}
MULTI = {"type": "multi", "graders": {"style": CHECK}, "calculate_output": "style"}


def multi(part):
    return MULTI | {"graders": {"style": part}}


def without(spec, key):
    return {k: v for k, v in spec.items() if k != key}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_string_check_is_read(operation):
    spec = load_grader(CHECK | {"operation": operation, "pass_threshold": 0.5})
    assert (spec.name, spec.operation) == ("style", operation)
    assert spec.input.variable.namespace == "output_text"
    assert spec.reference.variable.path == ("answer",)


def test_rank_has_the_credit_table_of_the_rare_disease_task_by_default():
    spec = load_grader(RANK)
    assert spec.credit == CREDIT and len(CREDIT) == 20 and spec.max_items == 20
    assert spec.aliases is None
    assert load_grader(RANK | {"credit": [1, 0.5], "max_items": 3}).credit == (1.0, 0.5)


def test_multi_takes_an_object_or_an_array_of_named_graders():
    named = load_grader(MULTI)
    assert named == load_grader(MULTI | {"graders": [CHECK]})
    assert load_grader(MULTI | {"graders": {"style": CHECK | {"name": "other"}}}) == named
    assert isinstance(named, Multi) and named.name == "multi"


def test_a_file_is_read_like_its_content(tmp_path):
    path = tmp_path / "grader.json"
    path.write_text(json.dumps(MULTI))
    assert load_grader(path) == load_grader(str(path)) == load_grader(MULTI)


def test_specs_are_hashable():
    assert hash(load_grader(MULTI)) == hash(load_grader(MULTI))


@pytest.mark.parametrize(
    "text, parts",
    [
        ("", 1),
        ("plain {text} }}", 1),
        ("{{item.a.b[0].c}}", 1),
        ("a{{ item.a }}b{{\nitem.b\t}}c", 1),
        ("{{sample.output_text}}", 1),
        ("{{sample.output_json}}", 1),
        ("{{sample.output_json.a[0][1].b-c.é}}", 1),
        ("{{sample.output_json[0]}}", 1),
        ("a {{sample.output_text}}{{item.a}} {{sample.output_json.b}}", 4),
    ],
)
def test_templates_are_split_into_what_host_and_device_render(text, parts):
    assert len(load_grader(CHECK | {"input": text}).input.parts) == parts


@pytest.mark.parametrize(
    "template, sentence",
    [
        ("{{item.a", "a '{{' is not closed"),
        ("{{}}", "{{}} cannot be read"),
        ("{{item}}", "{{item}} names nothing"),
        ("{{item[0]}}", "{{item[0]}} names nothing"),
        ("{{item.}}", "{{item.}} cannot be read"),
        ("{{item.a[-1]}}", "cannot be read"),
        ("{{item.a[x]}}", "cannot be read"),
        ("{{item.a | upper}}", "cannot be read"),
        ("{{item a}}", "cannot be read"),
        ("{{item.a..b}}", "cannot be read"),
        ("{{item.a{{item.b}}", "cannot be read"),
        ("{{sample}}", "names nothing; use item.<field>, sample.output_text"),
        ("{{sample.output_tools[0].function.name}}", "names nothing"),
        ("{{sample.output_text.a}}", "names nothing"),
        ("{{samples.output_text}}", "unknown namespace 'samples'; use item or sample"),
    ],
)
def test_bad_templates_are_refused_at_their_path(template, sentence):
    with pytest.raises(InputError) as error:
        load_grader(multi(CHECK | {"input": template}))
    assert str(error.value).startswith("graders.style.input: ")
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    "spec, message",
    [
        ({}, "type: is missing; add it"),
        ({"type": "regexp"}, "type: unknown type 'regexp'; use one of string_check, "),
        ({"type": 3}, "type: must be a string, not a number; put it in quotes"),
        (CHECK | {"name": None}, "name: must be a string, not null"),
        (without(CHECK, "operation"), "operation: is missing"),
        (CHECK | {"operation": "neq"}, "operation: unknown operation 'neq'; use one of eq, ne, "),
        (CHECK | {"reference": 1.0}, "reference: must be a string, not a number"),
        (CHECK | {"reference": ["a"]}, "reference: must be a string, not an array"),
        (CHECK | {"refrence": "a"}, "refrence: unknown field; remove it (known: type, name, input"),
        (multi(without(CHECK, "input")), "graders.style.input: is missing"),
        (multi(CHECK | {"operation": "is"}), "graders.style.operation: unknown operation 'is'"),
        (multi({"type": "ruby"}), "graders.style.type: unknown type 'ruby'"),
        (multi("style"), "graders.style: must be an object"),
        (multi(MULTI), "graders.style.type: a multi cannot stand inside of another"),
        (MULTI | {"graders": CHECK}, "graders: is one bare grader; give it a name"),
        (MULTI | {"graders": {}}, "graders: must be an object of name -> grader"),
        (MULTI | {"graders": "style"}, "graders: must be an object of name -> grader"),
        (MULTI | {"graders": [without(CHECK, "name")]}, "graders[0]: needs a name of its own"),
        (MULTI | {"graders": [CHECK, CHECK]}, "graders[1]: needs a name of its own"),
        (without(MULTI, "graders"), "graders: is missing"),
        (without(MULTI, "calculate_output"), "calculate_output: is missing"),
        (MULTI | {"calculate_output": "styles"}, "calculate_output: unknown name 'styles'"),
        (
            MULTI | {"calculate_output": "max(style)"},
            "calculate_output: character 10: max takes two",
        ),
        (
            RANK | {"input": "{{sample.output_text}}"},
            "input: must be one variable such as {{sample",
        ),
        (RANK | {"input": "{{item.genes}}"}, "input: must be one variable such as {{sample"),
        (
            RANK | {"reference": "{{item.a}}!"},
            "reference: must be one variable such as {{item.gene",
        ),
        (RANK | {"reference": "SCN1A"}, "reference: must be one variable such as {{item.gene}}"),
        (RANK | {"aliases": ["a"]}, "aliases: must be a string, not an array"),
        (RANK | {"credit": []}, "credit: must be a list of numbers"),
        (RANK | {"credit": [1, "a"]}, "credit[1]: must be a finite number, not 'a'"),
        (RANK | {"credit": [float("nan")]}, "credit[0]: must be a finite number, not nan"),
        (RANK | {"credit": [True]}, "credit[0]: must be a finite number, not True"),
        (RANK | {"max_items": 0}, "max_items: must be a whole number from 1 to 256, not 0"),
        (RANK | {"max_items": 2.5}, "max_items: must be a whole number from 1 to 256, not 2.5"),
    ],
)
def test_what_is_wrong_is_named_by_its_path_with_the_remedy(spec, message, tmp_path):
    with pytest.raises(InputError) as error:
        load_grader(spec)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    path = tmp_path / "grader.json"
    path.write_text(json.dumps(spec))
    with pytest.raises(InputError) as error:
        load_grader(path)
    assert str(error.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"\xff", "not UTF-8 at byte 0"),
        (b'{\n"type": }', "line 2: not JSON"),
        (b"[]", "must hold one JSON object"),
        (None, "cannot be read (No such file or directory); check the path"),
    ],
)
def test_a_file_that_is_no_grader_is_named(tmp_path, content, sentence):
    path = tmp_path / "grader.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        load_grader(path)
    assert str(error.value).startswith(str(path)) and sentence in str(error.value)
