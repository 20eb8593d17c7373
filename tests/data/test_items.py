"""Loading items: what is accepted comes back unchanged, what is not gets one sentence."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.data import check_disjoint, check_keys, load_answers, load_items, load_supervised_items
from rft_jax.utils.errors import InputError

USER = {"role": "user", "content": "Which gene?"}
ANSWER = {"role": "assistant", "content": "SCN1A"}
GOOD = {"messages": [USER], "gene": "SCN1A"}

json_value = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=8),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        "content": st.text(max_size=12)
        | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text()}), min_size=1),
    }
)
row = st.builds(
    lambda keys, messages: {**keys, "messages": [*messages, USER]},
    st.dictionaries(st.text(max_size=5), json_value, max_size=3),
    st.lists(message, max_size=3),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("items") / "items.jsonl"


def write(path, *lines):
    """Writes lines, each bytes, text or a value to be dumped."""
    dumped = [line if isinstance(line, bytes | str) else json.dumps(line) for line in lines]
    encoded = [line.encode() if isinstance(line, str) else line for line in dumped]
    path.write_bytes(b"\n".join(encoded))
    return path


@given(
    rows=st.lists(row, min_size=1, max_size=4),
    ascii_only=st.booleans(),
    end=st.sampled_from(["", "\n", "\r\n", "\n\n \n"]),
)
def test_rows_come_back_as_they_were_written(path, rows, ascii_only, end):
    text = "\n".join(json.dumps(r, ensure_ascii=ascii_only) for r in rows) + end
    path.write_bytes(text.encode())
    assert load_items(path) == rows


def test_windows_line_ends_and_byte_order_mark_are_accepted(path):
    line = json.dumps(GOOD).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n" + line + b"\r\n")
    assert load_items(path) == [GOOD, GOOD]


def test_a_row_may_hold_line_separators_of_unicode(path):
    row = {"messages": [{"role": "user", "content": "a\u2028b\u0085c"}]}
    write(path, json.dumps(row, ensure_ascii=False))
    assert load_items(path) == [row]


def messages(*members):
    return {"messages": list(members)}


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
BAD_SECOND_LINES = {
    "blank": (" ", "is blank"),
    "not UTF-8": (b'{"messages": "\xe9"}', "byte 15 is not UTF-8"),
    "cut off": ('{"messages": [', "not JSON (Expecting value, column 15)"),
    "two objects": ('{"messages": []} {}', "not JSON (Extra data"),
    "not a number": ('{"x": NaN}', "not usable as JSON (NaN is not JSON)"),
    "too deep": ("[" * 100_000, "not usable as JSON"),
    "too many digits": ("9" * 5000, "not usable as JSON"),
    "array": ([1], "expected a JSON object, got an array"),
    "string": ('"x"', "expected a JSON object, got a string"),
    "null": ("null", "expected a JSON object, got null"),
    "boolean": ("true", "expected a JSON object, got a boolean"),
    "half a pair": (
        '{"messages": [{"role": "user", "content": "\\ud83e"}]}',
        "has half of a surrogate pair",
    ),
    "no messages": ({"prompt": "x"}, "messages: is missing"),
    "empty messages": (messages(), "messages: expected an array of messages, got an empty array"),
    "messages is text": ({"messages": "x"}, "messages: expected an array of messages, got a str"),
    "message is text": (messages("x"), "messages[0]: expected an object, got a string"),
    "no role": (messages(USER, {"content": "x"}), "messages[1].role: is missing"),
    "bad role": (messages({"role": "User", "content": "x"}), 'messages[0].role: "User" is unknown'),
    "role is a number": (messages({"role": 1, "content": "x"}), "messages[0].role: 1 is unknown"),
    "role is a list": (messages({"role": [], "content": "x"}), "messages[0].role: [] is unknown"),
    "no content": (messages({"role": "user"}), "messages[0].content: is missing"),
    "null content": (messages(USER | {"content": None}), "messages[0].content: is missing"),
    "number": (messages({"role": "user", "content": 3}), "messages[0].content: expected text"),
    "no parts": (messages({"role": "user", "content": []}), "messages[0].content: expected text"),
    "image": (
        messages({"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]}),
        "messages[0].content[1]: images are not supported",
    ),
    "audio": (
        messages({"role": "user", "content": [{"type": "input_audio"}]}),
        "messages[0].content[0]: only text parts",
    ),
    "part without text": (
        messages({"role": "user", "content": [{"type": "text"}]}),
        "messages[0].content[0]: only text parts",
    ),
    "part is text": (
        messages({"role": "user", "content": ["x"]}),
        "messages[0].content[0]: only text parts",
    ),
}


@pytest.mark.parametrize("load", [load_items, load_supervised_items])
@pytest.mark.parametrize("name", BAD_SECOND_LINES)
def test_a_bad_line_is_named_with_its_file_number_and_field(path, load, name):
    line, sentence = BAD_SECOND_LINES[name]
    good = GOOD if load is load_items else messages(USER, ANSWER)
    write(path, good, line, good)
    assert_sentence(lambda: load(path), f"{path}, line 2: {sentence}")


def assert_sentence(call, start):
    """`call` raises an InputError of one line that begins so and goes on with a remedy."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(start) and "\n" not in message
    assert ";" in message  # what is wrong; what to do


@pytest.mark.parametrize("load", [load_items, load_supervised_items])
def test_files_that_cannot_be_read_are_named(tmp_path, load):
    assert_sentence(lambda: load(tmp_path / "no.jsonl"), f"{tmp_path}/no.jsonl: there is no such")
    assert_sentence(lambda: load(tmp_path), f"{tmp_path}: is a directory")
    empty = tmp_path / "empty.jsonl"
    for content in (b"", b"\n \n", b"\xef\xbb\xbf\n"):
        empty.write_bytes(content)
        assert_sentence(lambda: load(empty), f"{empty}: is empty")


def test_an_utf16_file_is_refused_as_not_utf8(path):
    path.write_text(json.dumps(GOOD), encoding="utf-16")
    assert_sentence(lambda: load_items(path), f"{path}, line 1: byte 1 is not UTF-8")


def test_only_supervised_items_end_with_the_assistant(path):
    write(path, messages(USER, ANSWER, USER), messages(USER, ANSWER))
    assert_sentence(lambda: load_items(path), f"{path}, line 2: messages[1]: the last message is")
    assert_sentence(
        lambda: load_supervised_items(path), f"{path}, line 1: messages[2]: the last message is"
    )


def test_supervised_answers_may_have_a_thought_but_no_weight_of_zero(path):
    row = messages(USER, ANSWER | {"reasoning_content": "Seizures.", "weight": 1})
    assert load_supervised_items(write(path, row)) == [row]
    place = f"{path}, line 1: messages[1]"
    write(path, messages(USER, ANSWER | {"reasoning_content": ["x"]}))
    assert_sentence(lambda: load_supervised_items(path), f"{place}.reasoning_content: must be")
    write(path, messages(USER, ANSWER | {"weight": 0}))
    assert_sentence(lambda: load_supervised_items(path), f"{place}.weight: only 1")


def test_a_row_in_both_files_is_named_with_both_lines():
    other = {"messages": [USER], "gene": "KCNQ2"}
    reordered = dict(reversed(GOOD.items()))
    names = ("train.jsonl", "valid.jsonl")
    check_disjoint([GOOD, GOOD], [other], names)
    check_disjoint([GOOD], [GOOD | {"gene": "scn1a"}], names)
    assert_sentence(
        lambda: check_disjoint([{"a": 1}, GOOD, GOOD], [other, reordered], names),
        "valid.jsonl, line 2: the same row is in train.jsonl, line 2;",
    )


def test_answers_are_one_for_each_item(path):
    path.write_text('{"output_text": "yes"}\n{"output_text": ""}\n')
    assert load_answers(path, 2) == ["yes", ""]
    with pytest.raises(InputError, match=r"has 2 answers to 3 items; give one for each"):
        load_answers(path, 3)
    path.write_text('{"output_text": "yes"}\n{"answer": "no"}\n')
    with pytest.raises(InputError, match=r"line 2: output_text: must be a string"):
        load_answers(path, 2)


def test_a_key_that_no_item_has_is_named():
    check_keys([GOOD, GOOD | {"pmid": 1}], ["gene", "pmid"], "valid.jsonl")
    with pytest.raises(InputError, match=r"valid\.jsonl: no item has the key 'pmdi'; they have "):
        check_keys([GOOD], ["gene", "pmdi"], "valid.jsonl")
