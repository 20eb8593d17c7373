"""gpt-oss's chat format: its thought ends where the answer's message begins."""

import json

import pytest

from rft_jax.logging.samples import sample_row
from rft_jax.tokenizers import HuggingFaceTokenizer, thought_end, thought_text

from .conftest import LLAMA_WORDS, byte_level

SPECIAL = ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|channel|>", "<|start|>", "<|end|>"]
SPECIAL += ["<|message|>", "<|call|>", "<|reserved_200017|>"]
# How the published template writes users and assistants.
TEMPLATE = (
    "<|start|>system<|message|>You are ChatGPT.\n\nReasoning: "
    "{{ reasoning_effort or 'medium' }}<|end|>"
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "{% if loop.last and not add_generation_prompt %}{% if message.thinking %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking + '<|end|>' }}"
    "{% endif %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|return|>' }}"
    "{% else %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}"
    "{% endif %}{% else %}"
    "{{ '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
QUESTION = [{"role": "user", "content": "What is it?"}]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt_oss")
    state = byte_level(LLAMA_WORDS, SPECIAL, [], None)
    ids = {token["content"]: token["id"] for token in state["added_tokens"]}
    config = {"eos_token": "<|return|>", "pad_token": "<|endoftext|>", "chat_template": TEMPLATE}
    stops = [ids[name] for name in ("<|return|>", "<|endoftext|>", "<|call|>")]
    files = {
        "tokenizer.json": state,
        "tokenizer_config.json": config,
        "generation_config.json": {"eos_token_id": stops, "pad_token_id": ids["<|endoftext|>"]},
    }
    for name, content in files.items():
        (path / name).write_text(json.dumps(content), encoding="utf-8")
    return path


def written(tokenizer, ids):
    return "".join(map(str, tokenizer._model.decode(ids, skip_special_tokens=False)))


@pytest.mark.parametrize("thinking", [None, True])
def test_a_thought_is_the_first_channel_and_the_answer_the_last(directory, thinking):
    tokenizer = HuggingFaceTokenizer(directory, thinking=thinking)
    prompt = written(tokenizer, tokenizer.encode_prompt(QUESTION))
    assert prompt.endswith("<|end|><|start|>assistant<|channel|>analysis<|message|>")
    ids = tokenizer.encode_completion("Ataxia", "No seizures.")
    assert written(tokenizer, ids) == (
        "No seizures.<|end|><|start|>assistant<|channel|>final<|message|>Ataxia<|return|>"
    )
    # As the template writes the same.
    answer = {"role": "assistant", "content": "Ataxia", "thinking": "No seizures."}
    whole = tokenizer._template.render([*QUESTION, answer], add_generation_prompt=False)
    assert whole == prompt + written(tokenizer, ids)
    assert tokenizer.encode_completion("<think>No seizures.</think>\n\nAtaxia", None) == ids
    assert ids.count(tokenizer.end_of_think_id) == 1
    cut = ids.index(tokenizer.end_of_think_id)
    assert tuple(ids[cut - len(tokenizer.lead_ids) : cut]) == tokenizer.lead_ids
    assert tokenizer.decode(ids[cut + 1 : -1]) == "Ataxia"
    assert ids[-1] == tokenizer.ending_id and ids[-1] in tokenizer.stop_ids
    assert not set(ids) & set(tokenizer.forbidden_ids)
    around = tokenizer.encode_prompt_around([{"role": "user", "content": "a GAP b"}], "GAP")
    assert written(tokenizer, around[-1]).endswith("<|channel|>analysis<|message|>")


def test_the_text_of_a_thought_is_without_what_ends_it(directory):
    tokenizer = HuggingFaceTokenizer(directory)
    ids = tokenizer.encode_completion("Ataxia", "No seizures.")
    (end,) = (at for at, id in enumerate(ids) if id == tokenizer.end_of_think_id)
    ending = thought_end(tokenizer)
    assert tuple(ids[end + 1 - len(ending) : end + 1]) == ending
    for cut in range(end - len(ending) + 1, end + 1):  # a limit may cut the lead
        assert thought_text(tokenizer, ids[:cut]) == "No seizures."
    shown = sample_row(
        tokenizer, ids, b"Ataxia", thinking_tokens=end, stopped=True, reward=1.0, valid=True,
        scores={}, errors={},
    )  # fmt: skip
    assert shown["thought"] == "No seizures."


def test_without_a_thought_the_prompt_goes_on_to_the_answer(directory):
    tokenizer = HuggingFaceTokenizer(directory, thinking=False)
    prompt = written(tokenizer, tokenizer.encode_prompt(QUESTION))
    assert prompt.endswith("<|start|>assistant<|channel|>final<|message|>")
    assert tokenizer.end_of_think_id is None and thought_end(tokenizer) == ()
    assert written(tokenizer, tokenizer.encode_completion("Ataxia", None)) == "Ataxia<|return|>"
    channel = tokenizer._model.token_to_id("<|channel|>")
    assert channel in tokenizer.forbidden_ids
