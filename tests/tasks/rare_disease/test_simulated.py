"""Simulated cases as a run's data: reproducible, split by gene, in the formats of a run."""

import dataclasses
import json
from pathlib import Path

import pytest

from rft_jax import data
from rft_jax.tasks.rare_disease.simulated import SimulatedData

SMALL = SimulatedData(patients_per_gene=2, train_genes=20, train_cases=2, valid_cases=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return SMALL.materialize(tmp_path_factory.mktemp("data"))


def genes(path):
    return {item["gene"] for item in data.load_items(path)}


def test_no_gene_is_tuned_on_and_held_out(files):
    assert not genes(files.train) & genes(files.valid)
    assert genes(Path(files.train).with_name("seen.jsonl")) == genes(files.train)
    assert len(genes(files.train)) == 20 and len(genes(files.valid)) == 220


def test_no_patient_is_in_two_files(files):
    prompts = [
        item["messages"][0]["content"]
        for path in (files.train, files.valid, Path(files.train).with_name("seen.jsonl"))
        for item in data.load_items(path)
    ]
    pretrained = {i["messages"][0]["content"] for i in data.load_supervised_items(files.supervised)}
    assert not pretrained & set(prompts)
    assert len(set(prompts)) == len(prompts)


def test_the_right_answers_are_those_of_the_training_cases(files):
    items, answers = data.load_items(files.train), data.load_supervised_items(files.answers)
    for item, answer in zip(items, answers, strict=True):
        *prompt, last = answer["messages"]
        assert prompt == item["messages"]
        assert json.loads(last["content"])["genes"] == [item["gene"]]


def test_the_same_settings_give_the_same_files(files, tmp_path):
    again = SMALL.materialize(tmp_path)
    for path in Path(files.train).parent.iterdir():
        assert path.read_bytes() == (Path(again.train).parent / path.name).read_bytes()


def test_fewer_examples_are_among_the_more(files, tmp_path):
    fewer = dataclasses.replace(SMALL, examples=7).materialize(tmp_path)
    for few, all_of_them in ((fewer.train, files.train), (fewer.answers, files.answers)):
        lines = Path(all_of_them).read_text().splitlines()
        assert Path(few).read_text().splitlines() == lines[:7] and len(lines) == 40
    assert Path(fewer.valid).read_bytes() == Path(files.valid).read_bytes()


@pytest.mark.parametrize("name", ["valid", "seen"])
def test_the_ceiling_answers_every_case_well(files, name):
    path = Path(files.train).with_name(f"{name}.jsonl")
    items = data.load_items(path)
    answers = data.load_answers(path.with_suffix(".ceiling.jsonl"), len(items))
    genes = [json.loads(answer)["genes"] for answer in answers]
    assert all(len(set(of)) == len(of) == 20 for of in genes)
    first = [of[0] == item["gene"] for of, item in zip(genes, items, strict=True)]
    assert sum(first) / len(first) > 0.5
