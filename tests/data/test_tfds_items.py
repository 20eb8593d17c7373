"""Items from a data set of TensorFlow Datasets that the test itself makes, without TensorFlow."""

import json
import sys

import numpy as np
import pytest

from rft_jax.config import DataConfig, TfdsConfig
from rft_jax.data import load_items, load_supervised_items
from rft_jax.runs.datasets import write_files
from rft_jax.utils.errors import InputError

tfds = pytest.importorskip("tensorflow_datasets")

QUESTIONS = [("2 + 3?", "It is five. #### 5", 1), ("Wie groß ist π?", "#### 3.14", 2)]


class SmallSums(tfds.core.GeneratorBasedBuilder):
    """Questions, in plain features and as a conversation."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("plain", "chat")]

    def _info(self):
        text = tfds.features.Text()
        features = {"question": text, "answer": text, "level": np.int64}
        if self.builder_config.name == "chat":
            features["messages"] = tfds.features.Sequence({"role": text, "content": text})
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for key, (question, answer, level) in enumerate(QUESTIONS):
            example = {"question": question, "answer": answer, "level": level}
            if self.builder_config.name == "chat":
                example["messages"] = [{"role": "user", "content": question}]
            yield key, example


MAPPING = {
    "prompt": "Answer: {{ question }}",
    "system": "You are brief.",
    "answer": "{{ answer }}",
    "reference": "{{ answer.split('####')[-1].strip() }}",
}


def files(tmp_path, train, new=True, **settings):
    mapping = TfdsConfig(**settings, data_dir=str(tmp_path / "tfds"))
    config = DataConfig(train=train, supervised=train, tfds=mapping)
    return write_files(config, tmp_path / "run", new=new)


def test_features_become_messages_and_keys(tmp_path):
    made = files(tmp_path, "tfds:small_sums/plain:train", **MAPPING)
    items = sorted(load_items(made.train), key=lambda item: item["level"])
    assert items == [
        {
            "question": question,
            "answer": answer,
            "level": level,
            "reference": answer.split()[-1],
            "messages": [
                {"role": "system", "content": "You are brief."},
                {"role": "user", "content": f"Answer: {question}"},
            ],
        }
        for question, answer, level in QUESTIONS
    ]
    answers = {item["messages"][-1]["content"] for item in load_supervised_items(made.supervised)}
    assert answers == {answer for _, answer, _ in QUESTIONS}
    assert "tensorflow" not in sys.modules


def test_a_data_set_with_messages_needs_no_mapping(tmp_path):
    config = DataConfig(
        train="tfds:small_sums/chat:train", tfds=TfdsConfig(data_dir=str(tmp_path / "tfds"))
    )
    made = write_files(config, tmp_path / "run", new=True)
    texts = {item["messages"][0]["content"] for item in load_items(made.train)}
    assert texts == {question for question, *_ in QUESTIONS}


def test_a_run_that_goes_on_keeps_its_file(tmp_path):
    made = files(tmp_path, "tfds:small_sums/plain:train", **MAPPING)
    rows = [json.dumps({"messages": [{"role": "user", "content": "kept"}]})]
    (tmp_path / "run" / "data" / "train.jsonl").write_text("\n".join(rows))
    files(tmp_path, "tfds:small_sums/plain:train", new=False, **MAPPING)
    assert load_items(made.train)[0]["messages"][0]["content"] == "kept"


def test_a_new_run_does_not_read_what_a_failed_attempt_has_left(tmp_path):
    left = files(tmp_path, "tfds:small_sums/plain:train", **MAPPING)
    made = files(tmp_path, "tfds:small_sums/plain:train", **MAPPING | {"prompt": "{{ question }}"})
    assert made.train == left.train
    users = {item["messages"][-1]["content"] for item in load_items(made.train)}
    assert users == {question for question, *_ in QUESTIONS}


@pytest.mark.parametrize(
    ("source", "settings", "said"),
    [
        ("tfds:small_sums", MAPPING, "write tfds:NAME:SPLIT"),
        ("tfds:no_such_data:train", MAPPING, "tfds:no_such_data:train: cannot be read"),
        ("tfds:small_sums/plain:nowhere", MAPPING, "cannot be read"),
        ("tfds:small_sums/plain:train", {"prompt": "{{ quest }}"}, "'quest' is undefined"),
        ("tfds:small_sums/plain:train", {"prompt": "{{ question"}, "correct the template"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, source, settings, said):
    with pytest.raises(InputError, match="tfds") as error:
        files(tmp_path, source, **settings)
    assert said in str(error.value) and "\n" not in str(error.value)
