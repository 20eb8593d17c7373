"""Models that are served: Hugging Face checkpoints, and adapters that share their base."""

import dataclasses

import pytest

from rft_jax.config.load import load_config
from rft_jax.config.overrides import apply_overrides
from rft_jax.evaluation.sample import sample_model
from rft_jax.serve.batcher import Batcher
from rft_jax.serve.loaded import DEFAULT_TOKENS, LEAST_CONTEXT, load_model
from rft_jax.training import train

from ..small_checkpoint import write_small
from .small_run import EXPERIMENT, QUESTION, answers, make_task

SETTINGS = {
    "tensorboard": "False",
    "stages.sft.steps": "2",
    "stages.sft.batch_size": "8",
    "stages.sft.optimizer.warmup_steps": "0",
    "stages.sft.optimizer.learning_rate": "0.1",
    "stages.sft.checkpoint_interval": "1",
    "models.policy.lora.rank": "3",
    "models.policy.lora.targets": "('q_proj','v_proj','down_proj')",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_small(
        tmp_path_factory.mktemp("source") / "base", max_position_embeddings=LEAST_CONTEXT * 4
    )


@pytest.fixture(scope="module")
def adapted(checkpoint, tmp_path_factory):
    """The checkpoints of a stage that trained adapters."""
    workdir = tmp_path_factory.mktemp("adapted")
    settings = SETTINGS | {"models.policy.source": str(checkpoint)}
    config = apply_overrides(load_config(EXPERIMENT, {}), settings)
    train(dataclasses.replace(config, stages=config.stages[:1]), workdir)
    return workdir / "sft" / "checkpoints"


def greedy(model, limit=12):
    batcher = Batcher(model, slots=2, steps=4)
    (answer,) = answers(batcher, make_task(batcher, temperature=0.0, limit=limit, top=0))[1]
    return answer


def test_a_checkpoint_says_its_context(checkpoint):
    model = load_model(checkpoint, {})
    assert model.context == 4 * LEAST_CONTEXT and model.default_tokens == DEFAULT_TOKENS
    assert model.decoding.end_of_think_id is None and model.base == ""
    (expected,) = sample_model(checkpoint, QUESTION, temperature=0, max_tokens=12)
    assert greedy(model)["text"] == expected["text"] != ""


def test_adapters_share_their_base(adapted, checkpoint):
    bases = {}
    first, second = (load_model(adapted / step, bases) for step in ("1", "2"))
    assert first.fingerprint != second.fingerprint and first.base == second.base != ""
    assert len(bases) == 1 and first.bytes < 10_000
    one, other = first.weights, second.weights
    assert one.params["embed_VD"] is other.params["embed_VD"]
    assert one.layers["layers"][1]["q_DKMQ"].weight is other.layers["layers"][1]["q_DKMQ"].weight
    assert one.layers["layers"][1]["k_DKQ"] is other.layers["layers"][1]["k_DKQ"]
    (expected,) = sample_model(adapted / "2", QUESTION, temperature=0, max_tokens=12)
    found, base = greedy(second), greedy(load_model(checkpoint, {}))
    assert found["text"] == expected["text"]
    assert abs(found["tokens"][0]["logprob"] - base["tokens"][0]["logprob"]) > 1e-3
