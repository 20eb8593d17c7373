"""Grades agree with plain-Python oracles, on answers of every kind."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.graders import ERRORS, Sample, build_grader, grade_texts, load_grader
from rft_jax.graders.rank import CREDIT
from rft_jax.strings import MAX_DEPTH, from_host
from rft_jax.strings.case_folding_generator import simple_case_fold
from rft_jax.utils.errors import InputError

N, L = 32, 256
RANK = {
    "type": "rank",
    "name": "gene",
    "input": "{{sample.output_json.genes}}",
    "reference": "{{item.gene}}",
    "aliases": "{{item.aliases}}",
    "normalize": "names",
}
ITEM = {"gene": "SCN1A", "aliases": ["NaV1.1", "SMEI (old)"], "n": {"list": [1.5, None, "é"]}}


def check(operation, text, reference):
    return {
        "type": "string_check",
        "name": "check",
        "input": text,
        "reference": reference,
        "operation": operation,
    }


def sample_of(texts, width=L, **flags):
    """A sample of N rows; the flags are lists of row numbers."""
    rows = np.arange(len(texts))
    flag = {name: np.isin(rows, numbers) for name, numbers in flags.items()}
    no = np.zeros(len(texts), bool)
    return Sample(
        output_text=from_host(texts, width),
        has_answer=~flag.get("unanswered", no),
        truncated=flag.get("truncated", no),
        overflow=flag.get("overflow", no),
        completion_tokens=np.zeros(len(texts), np.int32),
    )


class Compiled:
    """A grader with its jitted function, at fixed shapes."""

    def __init__(self, spec, item=ITEM):
        self.grader = build_grader(load_grader(spec))
        self.fields = self.grader.encode_items([item] * N, "items.jsonl")
        self.function = jax.jit(self.grader.grade)

    def __call__(self, texts, **flags):
        rows = list(texts) + [""] * (N - len(texts))
        grade = jax.device_get(self.function(sample_of(rows, **flags), self.fields))
        assert grade.reward.dtype == np.float32 and np.isfinite(grade.reward).all()
        whole = {name for name in grade.errors if "/" not in name}  # the others are of parts
        assert whole == set(ERRORS)
        return jax.tree.map(lambda leaf: leaf[: len(texts)], grade)


def fold(text):
    return "".join(map(simple_case_fold, text))


def refuse(name):
    raise ValueError(name)


def loads(text):
    return json.loads(text, parse_constant=refuse)


def find_json(text):
    """The whole text, or the last object in it; None if there is none."""
    try:
        return loads(text)
    except ValueError:
        found, place = None, text.find("{")
    decoder = json.JSONDecoder()
    while place >= 0:
        try:
            found, end = decoder.raw_decode(text, place)
        except ValueError:
            end = place + 1
        place = text.find("{", end)
    return found


def is_json(text):
    return find_json(text) is not None


PIECES = st.sampled_from(
    ["a", "A", "é", "É", "ß", "SS", "İ", "i̇", "Σ", "ς", "K", "\u212a", " ", "\x00", "😀"]
)
TEXTS = st.lists(st.lists(PIECES, max_size=8).map("".join), min_size=1, max_size=N)
OPERATIONS = {
    "ieq": lambda text, reference: fold(text) == fold(reference),
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: fold(reference) in fold(text),
}


@pytest.fixture(scope="module")
def checks():
    """A grader and its jitted function for every operation."""
    compiled = {}
    for operation in OPERATIONS:
        spec = check(operation, "x{{sample.output_text}}", "{{ item.r }}")
        grader = build_grader(load_grader(spec))
        compiled[operation] = grader, jax.jit(grader.grade)
    return compiled


@settings(max_examples=60)
@given(TEXTS, st.data())
def test_string_check_compares_as_python_does(checks, texts, data):
    references = [
        data.draw(st.sampled_from(["x" + text, fold("x" + text), text[1:3], "", "x", "ς", "ss"]))
        for text in texts
    ]
    texts, references = (rows + [""] * (N - len(rows)) for rows in (texts, references))
    items = [{"r": reference} for reference in references[:-1]] + [{"r": "r" * 40}]
    for operation, holds in OPERATIONS.items():
        grader, function = checks[operation]
        grade = function(sample_of(texts), grader.encode_items(items, "items.jsonl"))
        rows = zip(texts, [item["r"] for item in items], strict=True)
        expected = [float(holds("x" + text, reference)) for text, reference in rows]
        np.testing.assert_array_equal(grade.reward, expected)
        assert np.asarray(grade.valid).all()
        assert not any(np.asarray(flag).any() for flag in grade.errors.values())
        np.testing.assert_array_equal(grade.scores["check"], grade.reward)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.text('aA"\\\n é😀', max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("xyz"), inner)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def mixed():
    template = "<{{sample.output_json.x}}|{{item.t}}|{{ sample.output_text }}>"
    grader = build_grader(load_grader(check("eq", template, "{{item.wanted}}")))
    return grader, jax.jit(grader.grade)


def shown(value, ascii_only):
    """What a template makes of a value."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only)


@settings(max_examples=60)
@given(st.lists(st.dictionaries(st.sampled_from("xy"), JSON), max_size=16), st.booleans())
def test_templates_show_values_as_python_would(mixed, documents, ascii_only):
    grader, function = mixed
    texts = [json.dumps(document, ensure_ascii=ascii_only) for document in documents]
    texts = [text for text in texts if len(text.encode()) <= L]
    texts += ["{}"] * (N - len(texts))
    wide = {"t": "t" * 8, "wanted": "w" * 700}
    items = [
        {"t": "é", "wanted": f"<{shown(loads(text).get('x', ''), ascii_only)}|é|{text}>"}
        for text in texts[:-1]
    ]
    grade = function(sample_of(texts), grader.encode_items([*items, wide], "items.jsonl"))
    missing = ["x" not in loads(text) for text in texts]
    np.testing.assert_array_equal(grade.errors["invalid_variable_error"], missing)
    np.testing.assert_array_equal(grade.reward[:-1], [not m for m in missing[:-1]])


def normalized(name):
    """`strings.normalize` in plain Python."""
    name = " ".join(fold(name).split())
    depth, outside = 0, 0
    for n, character in enumerate(name):
        depth += (character in "([") - (character in ")]")
        if depth == 0 and character not in "()[] ":
            outside = n + 1
    if not outside:
        return name.strip("()[] ")
    return name[:outside] if name[-1] in ")]" and depth == 0 else name


def rank_oracle(text, item, max_items=20, credit=CREDIT):
    """(reward, rank, list length, malformed) in plain Python."""
    try:
        found = {key.lower(): value for key, value in find_json(text).items()}
        names = found["genes"]
        names = [names] if isinstance(names, str) else names
        ok = isinstance(names, list) and all(isinstance(name, str) for name in names)
    except (ValueError, KeyError, TypeError, AttributeError):
        ok = False
    if not ok or not 1 <= len(names) <= max_items:
        return 0.0, 0, 0, True
    unique = list(dict.fromkeys(map(normalized, names)))
    wanted = {normalized(name) for name in [item["gene"], *item["aliases"]]}
    rank = next((n for n, name in enumerate(unique, start=1) if name in wanted), 0)
    return (credit[rank - 1] if 0 < rank <= len(credit) else 0.0), rank, len(names), False


@pytest.fixture(scope="module")
def rank():
    return Compiled(RANK)


def assert_ranks(rank, texts):
    grade = rank(texts)
    expected = [rank_oracle(text, ITEM) for text in texts]
    np.testing.assert_array_equal(grade.reward, [np.float32(e[0]) for e in expected])
    for k, name in enumerate(("rank", "list_length", "malformed"), start=1):
        np.testing.assert_array_equal(grade.details[f"gene/{name}"], [e[k] for e in expected])
    assert grade.valid.all()
    parse_error = [not is_json(text) for text in texts]
    np.testing.assert_array_equal(grade.errors["sample_parse_error"], parse_error)


GENES = st.sampled_from(
    [
        "SCN1A",
        "scn1a",
        " Scn1a ",
        "SCN1A (NaV1.1)",
        "[SCN1A]",
        "nav1.1",
        "SMEI",
        "smei (OLD)",
        "SCN1B",
    ]
    + ["", "()", "SCN1A-AS1", "SCN 1A", "A", "B", "C", "a", "Ä", "ä", "SCN1A\u00a0", "\x00"]
)


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(st.lists(GENES, max_size=22), st.booleans(), st.sampled_from(["genes", "Genes"])),
        min_size=1,
        max_size=16,
    )
)
def test_rank_is_that_of_the_oracle(rank, lists):
    texts = [json.dumps({"x": 1, key: genes}, ensure_ascii=a) for genes, a, key in lists]
    assert_ranks(rank, [text for text in texts if len(text.encode()) <= L])


def test_rank_of_awkward_answers_is_that_of_the_oracle(rank):
    full = '{"explanation":"because","genes":["A","SCN1A"]}'
    texts = [full[:n] for n in range(len(full) + 1)]
    texts += [
        "",
        '{"genes":"SCN1A"}',
        '{"genes":["SCN1A",1]}',
        '{"genes":["SCN1A",["SCN1A"]]}',
        '{"genes":[["SCN1A"]]}',
        '{"genes":[]}',
        '{"genes":{"0":"SCN1A"}}',
        '{"genes":null,"genes":["SCN1A"]}',
        '{"genes":["SCN1A"],"genes":["B"]}',
        '{"a":{"genes":["SCN1A"]}}',
        '{"g\\u0065nes":["\\u0053CN1A"]}',
        '["SCN1A"]',
        '{"genes":["A","a","A ","SCN1A","NaV1.1"]}',
        '{"genes":["B","SMEI"]}',
        '{"genes" : [ "\\ud83d\\ude00" , "\\t[SCN1A]\\n" ] }\r\n',
        '```json\n{"genes":["SCN1A"]}\n```',
        '{"genes":["SCN1A"]} {"genes":["SCN1A"]}',
        '{"genes":["\u202eSCN1A","SCN1A\u0301","SCN1A"]}',
        json.dumps({"genes": [str(n) for n in range(19)] + ["SCN1A"]}),
        json.dumps({"genes": [str(n) for n in range(20)] + ["SCN1A"]}),
        json.dumps({"genes": ["x" * 30 + str(n) for n in range(5)] + ["SCN1A"]}),
        json.dumps({"genes": ["SCN1A" + "x" * 200, "SCN1A"]}),
    ]
    for first in range(0, len(texts), N):
        assert_ranks(rank, texts[first : first + N])


def test_rank_beyond_the_credit_table_earns_nothing_and_is_still_told():
    short = Compiled(RANK | {"credit": [1, 0.5], "max_items": 3})
    texts = [json.dumps({"genes": genes}) for genes in (["SCN1A"], ["A", "SCN1A"])]
    texts += [
        json.dumps({"genes": ["A", "B", "SCN1A"]}),
        json.dumps({"genes": ["A"] * 3 + ["SCN1A"]}),
    ]
    grade = short(texts)
    np.testing.assert_array_equal(grade.reward, [1, 0.5, 0, 0])
    np.testing.assert_array_equal(grade.details["gene/rank"], [1, 2, 3, 0])
    np.testing.assert_array_equal(grade.details["gene/malformed"], [0, 0, 0, 1])


def test_multi_combines_scores_by_the_formula_and_reports_each():
    multi = Compiled(
        {
            "type": "multi",
            "graders": {
                "gene": RANK,
                "why": check("like", "{{sample.output_json.why}}", "channel"),
                "bad": check("ilike", "{{sample.output_text}}", "SORRY"),
            },
            "calculate_output": "max(0, 0.9 * gene + 0.1 * why - bad)",
        }
    )
    grade = multi(
        [
            '{"why":"a channel","genes":["A","SCN1A"]}',
            '{"why":"Channel","genes":["SCN1A"]}',
            '{"genes":["SCN1A"],"x":"sorry"}',
            "sorry",
        ]
    )
    np.testing.assert_allclose(grade.reward, [0.73, 0.9, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(grade.scores["gene"], [0.7, 1, 1, 0], rtol=1e-6)
    np.testing.assert_array_equal(grade.scores["why"], [1, 0, 0, 0])
    np.testing.assert_array_equal(grade.scores["bad"], [0, 0, 1, 1])
    np.testing.assert_array_equal(grade.errors["sample_parse_error"], [0, 0, 0, 1])
    np.testing.assert_array_equal(grade.errors["invalid_variable_error"], [0, 0, 1, 0])
    np.testing.assert_array_equal(grade.details["gene/rank"], [2, 1, 1, 0])


def test_a_part_that_failed_on_the_answer_fails_the_whole():
    wrong = check("ne", "{{sample.output_json.x}}", "yes")
    spec = {"type": "multi", "graders": {"wrong": wrong}, "calculate_output": "1 - wrong"}
    texts = ['{"x": "yes"}', '{"x": "no"}', "no JSON", '{"y": 1}']
    for fields, rewards in (({}, [1, 0, 0, 0]), ({"on_error": "continue"}, [1, 0, 1, 1])):
        grade = Compiled(spec | fields)(texts)
        np.testing.assert_array_equal(grade.reward, rewards)
        np.testing.assert_array_equal(grade.errors["sample_parse_error"], [0, 0, 1, 0])
        np.testing.assert_array_equal(grade.errors["invalid_variable_error"], [0, 0, 0, 1])
        assert grade.valid.all()
    with pytest.raises(InputError, match="on_error: unknown on_error 'skip'; use one of zero, con"):
        load_grader(spec | {"on_error": "skip"})


def test_a_number_of_the_item_can_stand_in_a_formula():
    part = check("eq", "{{sample.output_text}}", "a")
    spec = {"type": "multi", "graders": {"a": part, "i0_": part}}
    spec["calculate_output"] = "{{ item.w }} * a + {{item.n.x}} * (1 - i0_) - {{ item.w }} / 4"
    items = [{"w": 0.5, "n": {"x": "1"}}, {"w": 2, "n": {"x": 0.25}}]
    grade = grade_texts(build_grader(spec), ["a", "b"], items)
    np.testing.assert_allclose(grade.reward, [0.375, -0.25])
    for value in (None, True, "x", float("inf"), [1]):
        with pytest.raises(InputError, match="a.jsonl, line 1: calculate_output needs a number"):
            build_grader(spec).encode_items([{"w": value, "n": {"x": 1}}], "a.jsonl")
    with pytest.raises(InputError, match="calculate_output: {{sample.output_text}} is no number"):
        load_grader(spec | {"calculate_output": "{{sample.output_text}}"})
    with pytest.raises(InputError, match="calculate_output: unknown name 'b' at character 15"):
        load_grader(spec | {"calculate_output": "{{item.w}} * (b)"})


@pytest.mark.parametrize("placement", ["device", "host"])
def test_a_switch_asks_the_grader_of_the_items_kind(placement):
    both = {"type": "multi", "calculate_output": "(a + b) / 2"}
    both["graders"] = {
        "a": check("eq", "{{sample.output_json.a}}", "{{item.a}}"),
        "b": check("eq", "{{sample.output_json.b}}", "{{item.b}}"),
    }
    spec = {"type": "switch", "on": "{{item.kind}}", "name": "s"}
    spec["graders"] = {"text": check("ieq", "{{sample.output_text}}", "{{item.r}}"), "json": both}
    items = [{"kind": "json", "a": 1, "b": 2}, {"kind": "text", "r": "Yes"}] * 2
    texts = ['{"a": 1.0, "b": 3}', "yes", "yes", '{"a": 1}']
    grader = build_grader(spec, placement)
    grade = grade_texts(grader, texts, items)
    np.testing.assert_array_equal(grade.reward, [0.5, 1, 0, 0])
    np.testing.assert_array_equal(grade.scores["s/text"], [0, 1, 0, 0])
    np.testing.assert_array_equal(grade.scores["s/json"], [0.5, 0, 0, 0])
    np.testing.assert_array_equal(grade.errors["sample_parse_error"], [0, 0, 1, 0])
    one = grade_texts(grader, texts[1:2], items[1:2])  # of a kind that the data have not
    np.testing.assert_array_equal(one.reward, [1])
    with pytest.raises(InputError, match="a.jsonl, line 2: on needs one of the kinds text, json"):
        grader.encode_items([items[0], {"kind": "x"}], "a.jsonl")
    with pytest.raises(InputError, match=r"a.jsonl, line 3: graders.text.reference needs"):
        grader.encode_items([*items[:2], {"kind": "text"}], "a.jsonl")


def test_a_formula_without_a_finite_value_is_an_error_and_earns_nothing():
    spec = {"type": "multi", "graders": {"a": check("eq", "{{sample.output_text}}", "1")}}
    for formula in (
        "1 / a",
        "log(a)",
        "(a - 0.5) ^ 0.5 + 1",
        "min(1, 1 / a)",
        "exp(1000 * (1 - a))",
    ):
        grade = Compiled(spec | {"calculate_output": formula})(["1", "0"])
        np.testing.assert_array_equal(grade.errors["formula_parse_error"], [False, True])
        assert grade.reward[1] == 0 and grade.valid.all()


def test_a_completion_without_an_answer_earns_nothing_whatever_the_formula():
    spec = {
        "type": "multi",
        "graders": {"a": check("ne", "{{sample.output_text}}", "x")},
        "calculate_output": "2 - a",
    }
    grade = Compiled(spec)(["", "", "y"], unanswered=[0, 1], truncated=[0, 2])
    np.testing.assert_array_equal(grade.reward, [0, 0, 1])
    np.testing.assert_array_equal(grade.scores["a"], [0, 0, 1])
    np.testing.assert_array_equal(grade.errors["sample_parse_error"], [True, True, False])
    np.testing.assert_array_equal(grade.errors["truncated_observation_error"], [True, False, True])
    assert grade.valid.all()


def test_what_is_not_the_models_fault_is_not_valid(rank):
    deep = '{"genes":["SCN1A"],"x":' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}"
    fair = '{"genes":["SCN1A"],"x":' + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "}"
    grade = rank([deep, fair, '{"genes":["SCN1A"]}', '{"genes":["SC'], overflow=[2, 3])
    np.testing.assert_array_equal(grade.valid, [False, True, False, False])
    np.testing.assert_array_equal(grade.errors["other_error"], [True, False, True, True])
    np.testing.assert_array_equal(grade.reward, [0, 1, 0, 0])
    assert not grade.errors["sample_parse_error"].any()


def test_a_failed_comparison_is_not_a_difference():
    grade = Compiled(check("ne", "{{sample.output_json.a}}", "x"))(
        ['{"a":"y"}', '{"b":1}', "{", "[]"]
    )
    np.testing.assert_array_equal(grade.reward, [1, 0, 0, 0])
    np.testing.assert_array_equal(grade.errors["invalid_variable_error"], [0, 1, 0, 1])
    np.testing.assert_array_equal(grade.errors["sample_parse_error"], [0, 0, 1, 0])


def test_values_of_items_render_as_json():
    text = '1.5 null é [1.5,null,"é"] {"list":[1.5,null,"é"]}'
    template = (
        "{{item.n.list[0]}} {{ item.n.list[1] }} {{item.n.list[2]}} {{item.n.list}} {{item.n}}"
    )
    grade = grade_texts(
        build_grader(load_grader(check("eq", "{{sample.output_text}}", template))), [text], [ITEM]
    )
    assert grade.reward[0] == 1


@pytest.mark.slow
def test_data_sets_of_different_widths_grade_alike():
    grader = build_grader(load_grader(RANK))
    long = ITEM | {"aliases": ["x" * 50] * 9}
    texts = ['{"genes":["A","SCN1A"]}', '{"genes":["SCN1A"]}']
    together = grade_texts(grader, texts, [ITEM, long])
    apart = [
        grade_texts(grader, [t], [i]).reward[0] for t, i in zip(texts, [ITEM, long], strict=True)
    ]
    np.testing.assert_array_equal(together.reward, apart)
    fields = grader.encode_items([ITEM, long, ITEM], "valid.jsonl")
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(fields))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(fields))


@pytest.mark.parametrize(
    "spec, item, sentence",
    [
        (RANK, {"aliases": []}, r"train.jsonl, line 2: reference needs .*item.gene.*no 'gene'"),
        (RANK, {"gene": "A"}, r"line 2: aliases needs .*no 'aliases'"),
        (RANK, {"gene": 3, "aliases": []}, r"line 2: reference needs a string .* not 3"),
        (RANK, {"gene": " ", "aliases": []}, r"line 2: reference needs a string with something"),
        (RANK, {"gene": "A", "aliases": "B"}, r"line 2: aliases needs a list of strings, not 'B'"),
        (check("eq", "{{item.n.list[1]}}", ""), {"n": {"list": []}}, r"line 2: input .*\[1\]"),
        (check("eq", "a", "{{item.n.list}}"), {"n": "text"}, r"line 2: reference .*no 'list'"),
        (check("eq", "a", "{{item.n}}"), {"n": "\ud800"}, r"line 2: reference .*lone surrogate"),
        (RANK, {"gene": "\ud800", "aliases": []}, r"line 2: reference .*lone surrogate"),
    ],
)
def test_an_item_that_does_not_serve_is_named(spec, item, sentence):
    with pytest.raises(InputError, match=sentence):
        build_grader(load_grader(spec)).encode_items([ITEM, item], "train.jsonl")


def test_grade_texts_wants_an_item_for_each_text():
    with pytest.raises(InputError, match="2 texts but 1 items"):
        grade_texts(build_grader(load_grader(RANK)), ["", ""], [ITEM])


def test_the_compiled_grade_has_no_host_call():
    grader = build_grader(load_grader(RANK))
    fields = grader.encode_items([ITEM] * N, "items.jsonl")
    hlo = jax.jit(grader.grade).lower(sample_of([""] * N), fields).compile().as_text()
    for word in ("callback", "infeed", "outfeed"):
        assert word not in hlo


def test_grades_of_sharded_samples_are_those_of_one_device(rank):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    names = [["SCN1A"], ["A", "a", "nav1.1"], ["x" * 40, "SMEI"], ["B"]]
    texts = [json.dumps({"genes": names[n % 4]}) for n in range(N)]
    sharded = jax.device_put((sample_of(texts), rank.fields), rows)
    grade = jax.jit(rank.grader.grade, in_shardings=(rows, rows))(*sharded)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(grade), rank(texts))
