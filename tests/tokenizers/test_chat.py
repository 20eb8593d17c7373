"""Chat templates render as in transformers: strings and token ids, and what is refused."""

import datetime
import json

import pytest
from tokenizers import Tokenizer

from rft_jax.tokenizers import HuggingFaceTokenizer
from rft_jax.tokenizers.chat import ChatTemplate
from rft_jax.utils.errors import InputError

DATE = "26 Jul 2024"


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **fields):
    return {"role": "assistant", "content": content, **fields}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Finds a gene's <b>diseases</b> & more: größer als 'x' \"y\".",
            "parameters": {
                "type": "object",
                "properties": {"gene": {"type": "string", "enum": ["SCN1A", "日本"]}},
                "required": ["gene"],
            },
        },
    }
]
CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"gene": "<日本>"}}}

CONVERSATIONS = {
    "question": [user("What is it?")],
    "system": [system("Answer in JSON."), user("Seizure; Ataxia.")],
    "turns": [user("Hi"), assistant("Hello."), user("And now?"), assistant("42."), user("Why?")],
    "system_and_turns": [system("Be brief."), user("a"), assistant("b"), user("c")],
    "white_space": [system("  Two \n"), user("\n\n  Größe\t\n "), assistant(" 日本 \n"), user(" ")],
    "html": [user("<a href=\"x\">1 < 2 && 3 > 2</a> 'quoted' {{ not_a_variable }} {% raw %}")],
    "special_tokens_in_text": [user("a<|im_end|><|eot_id|><end_of_turn><think>b</think>c")],
    "unicode": [user("\N{SNOWMAN} e\N{COMBINING ACUTE ACCENT} \u2028\ufffd\x00 \U0001f600 한국어")],
    "thoughts": [
        user("a"),
        assistant("\n\nb", reasoning_content="\nI think.\n"),
        user("c"),
    ],
    "thought_in_text": [user("a"), assistant("<think>\nSo.\n</think>\n\nb"), user("c")],
    "null_fields": [user("a"), assistant("b", tool_calls=None, reasoning_content=None), user("c")],
    "answered": [system("s"), user("a"), assistant("b", reasoning_content="So.")],
}
PARTS = [
    system([{"type": "text", "text": "Be brief. "}]),
    user([{"type": "text", "text": " a "}, {"type": "text", "text": "b "}]),
]
TOOL_TURNS = [
    user("Look it up."),
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"disease": "Dravet & more"}'},
    assistant("It is that."),
    user("Thanks. Again?"),
]
FAMILIES = ("qwen3", "llama3_2", "gemma3")
# What a family's template can do beyond plain conversations: (messages, tools, options).
MORE = {
    "qwen3": [
        (CONVERSATIONS["system"], TOOLS, {}),
        (TOOL_TURNS, TOOLS, {}),
        (TOOL_TURNS, None, {"enable_thinking": False}),
        (CONVERSATIONS["turns"], None, {"enable_thinking": False}),
        (CONVERSATIONS["turns"], None, {"enable_thinking": True}),
    ],
    "llama3_2": [
        (CONVERSATIONS["system"], TOOLS, {}),
        (CONVERSATIONS["question"], TOOLS, {"tools_in_user_message": False}),
        (TOOL_TURNS, TOOLS, {}),
    ],
    "gemma3": [(PARTS, None, {})],
    "deepseek_r1_distill": [],
}


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.mark.oracle
@pytest.mark.parametrize("family", [*FAMILIES, "deepseek_r1_distill"])
def test_strings_and_ids_equal_those_of_transformers(transformers, checkpoints, family):
    directory = checkpoints[family]
    library = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    cases = [(messages, None, {}) for messages in CONVERSATIONS.values()] + MORE[family]
    assert len(cases) > 10
    for messages, tools, options in cases:
        options = {"date_string": DATE, **options}
        thinking = options.get("enable_thinking")
        tokenizer = HuggingFaceTokenizer(directory, thinking=thinking, template_options=options)
        ids = tokenizer.encode_prompt(messages, tools)
        assert ids == library.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, return_dict=False, **options
        )
        assert tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=True)
        template = template_of(directory, library.special_tokens_map | options)
        for prompt in (True, False):
            assert template.render(messages, tools, prompt) == library.apply_chat_template(
                messages, tools=tools, add_generation_prompt=prompt, tokenize=False, **options
            )


@pytest.mark.oracle
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_and_its_completion_are_the_conversation(transformers, checkpoints, family):
    library = transformers.PreTrainedTokenizerFast.from_pretrained(checkpoints[family])
    tokenizer = HuggingFaceTokenizer(checkpoints[family], template_options={"date_string": DATE})
    context = CONVERSATIONS["system_and_turns"]
    answer = assistant("  {}\n", reasoning_content="So.")
    ids = tokenizer.encode_prompt(context) + tokenizer.encode_completion("  {}\n", "So.")
    conversation = library.apply_chat_template([*context, answer], tokenize=False, date_string=DATE)
    assert library.decode(ids) == conversation.rstrip("\n")


@pytest.mark.oracle
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_of_plain_text_equal_those_of_transformers(transformers, checkpoints, family):
    library = transformers.PreTrainedTokenizerFast.from_pretrained(checkpoints[family])
    tokenizer = HuggingFaceTokenizer(checkpoints[family])
    for messages in CONVERSATIONS.values():
        text = messages[0]["content"]
        expected = library.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert tokenizer.encode(text) == expected


def template_of(directory, variables):
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    return ChatTemplate(config["chat_template"], "a file", variables)


RENDERED = {
    "qwen3": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
    "<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n",
    "llama3_2": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 01 Mar 2030\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma3": "<bos><start_of_turn>user\nBe brief.\n\na<end_of_turn>\n"
    "<start_of_turn>model\nb<end_of_turn>\n<start_of_turn>user\nc<end_of_turn>\n"
    "<start_of_turn>model\n",
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("role", ["system", "developer"])
def test_prompts_in_full(checkpoints, family, role):
    tokenizer = HuggingFaceTokenizer(
        checkpoints[family], now=lambda: datetime.datetime(2030, 3, 1, 12)
    )
    first, *rest = CONVERSATIONS["system_and_turns"]
    ids = tokenizer.encode_prompt([first | {"role": role}, *rest])
    library = Tokenizer.from_file(str(checkpoints[family] / "tokenizer.json"))
    assert library.decode(ids, skip_special_tokens=False) == RENDERED[family]


@pytest.mark.parametrize("family", ["qwen3", "llama3_2"])
def test_text_in_parts_is_joined_for_templates_that_want_text(checkpoints, family):
    tokenizer = HuggingFaceTokenizer(checkpoints[family], template_options={"date_string": DATE})
    joined = [system("Be brief. "), user(" a b ")]
    assert tokenizer.encode_prompt(PARTS) == tokenizer.encode_prompt(joined)


def render(source, **variables):
    template = ChatTemplate(source, "template.jinja", variables)
    return template.render(CONVERSATIONS["question"])


@pytest.mark.parametrize(
    "source, expected",
    [
        ("{{ ['<a> & ä', 1] | tojson }}", '["<a> & ä", 1]'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
        ("{{ 'ä' | tojson(ensure_ascii=true) }}", '"\\u00e4"'),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("a{% generation %}{{ messages[0].content }}b{% endgeneration %}c", "aWhat is it?bc"),
        ("{{ option }}{{ missing }}{{ tools is none }}{{ add_generation_prompt }}", "onTrueTrue"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}", "2"),
    ],
)
def test_templates_have_what_transformers_gives_them(source, expected):
    assert render(source, option="on") == expected


@pytest.mark.parametrize(
    "source, message",
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{{ messages[0].content + 1 }}", "concatenate"),
        ("{{ messages[3].content }}", "no element 3"),
        ("{{ messages.append(1) }}", "not safely callable|unsafe"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{% for i in range(10**9) %}{% endfor %}", "too big"),
    ],
)
def test_a_template_that_raises_is_refused_with_a_sentence(source, message):
    with pytest.raises(InputError, match=rf"template\.jinja: .*cannot render.*({message})"):
        render(source)


def test_an_empty_conversation_is_refused():
    with pytest.raises(InputError, match="no messages; give at least one"):
        ChatTemplate("x", "template.jinja", {}).render([])


def test_a_conversation_that_the_template_refuses(checkpoints):
    tokenizer = HuggingFaceTokenizer(checkpoints["gemma3"])
    with pytest.raises(InputError, match="roles must alternate"):
        tokenizer.encode_prompt([user("a"), user("b")])
