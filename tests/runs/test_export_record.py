"""What an export says of its run comes back, and a damaged record is named."""

import datetime
import json

import pytest

from rft_jax.config import Config, ModelConfig
from rft_jax.runs.export_record import ExportRecord, read_record, write_record
from rft_jax.runs.pretrained import find_sources
from rft_jax.runs.reopen import open_model
from rft_jax.utils.errors import InputError

from ..small_checkpoint import write_small

RECORD = ExportRecord(40, 7, False, "2026-11-28T12:30:00.000001")


def test_a_record_comes_back(tmp_path):
    assert read_record(tmp_path) == ExportRecord()
    write_record(RECORD, tmp_path)
    assert read_record(tmp_path) == RECORD
    assert RECORD.moment == datetime.datetime(2026, 11, 28, 12, 30, 0, 1)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ({"date": "yesterday"}, "damaged"),
        ({"date": 5}, "damaged"),
        ({"completion_tokens": 0}, "completion_tokens must be a whole number from 1, got 0"),
        ({"thinking_tokens": "many"}, "thinking_tokens must be a whole number from 0, got 'many'"),
        ({"thinking_tokens": True}, "thinking_tokens must be a whole number from 0, got True"),
        ({"thinking": "no"}, "thinking must be true, false or null, got 'no'"),
    ],
)
def test_a_damaged_record_is_named(content, sentence, tmp_path):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "rft_jax.json").write_text(text)
    with pytest.raises(InputError, match=f"rft_jax.json: {sentence}") as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_sampled_as_its_record_says(tmp_path):
    template = (
        "{{ strftime_now('%d %b %Y') }}"
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    directory = write_small(tmp_path / "model", template)
    assert open_model(directory).sampling is None
    write_record(RECORD, directory)
    model = open_model(directory)
    assert model.sampling.max_completion_tokens == 40 and model.sampling.thinking_tokens == 7
    assert model.run.config.tokenizer.thinking is False
    prompt = model.run.tokenizer.encode_prompt([{"role": "user", "content": "x"}])
    assert model.run.tokenizer.decode(prompt).startswith("28 Nov 2026")
    config = Config(models=(ModelConfig(source=str(directory)),))
    assert find_sources(config, None)["policy"].date == RECORD.moment
