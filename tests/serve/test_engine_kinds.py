"""Continuous batching of models whose layers do not all keep keys: states, and nothing at all."""

import pytest

from rft_jax.config import DeltaNetConfig
from rft_jax.evaluation.sample import sample_model
from rft_jax.serve.batcher import Batcher
from rft_jax.serve.loaded import load_model

from .small_run import QUESTION, answers, make_stage, make_task

OTHER = [{"role": "user", "content": "lost ring, 90 EUR"}]
KINDS = {
    "states": {
        "num_layers": 2,
        "attention_pattern": ("delta_net", "full"),
        "delta_net": DeltaNetConfig(1, 2, 8, 8, 3),
    },
    "shared keys": {
        "num_layers": 4,
        "attention_pattern": ("sliding", "global", "shared_sliding", "shared_global"),
        "sliding_window": 8,
        "global_head_dim": 24,
        "per_layer_size": 4,
    },
}


@pytest.fixture(scope="module", params=KINDS)
def stage(request, tmp_path_factory):
    return make_stage(tmp_path_factory.mktemp("served"), **KINDS[request.param])


@pytest.mark.slow
def test_an_answer_is_that_of_sample_model_whoever_else_asks(stage):
    """Slots are taken again, by prompts of their own and by those of others, and resized."""
    batcher = Batcher(load_model(stage, {}), slots=4, steps=3)
    (expected,) = sample_model(stage, QUESTION, temperature=0)
    alone = answers(batcher, make_task(batcher, samples=3))[1]
    found = answers(
        batcher,
        make_task(batcher, 2, OTHER, samples=5, seed=1),
        make_task(batcher, samples=5),
        make_task(batcher, 3, OTHER * 4, samples=2, limit=70),
        make_task(batcher, 4, temperature=0.0),
    )
    assert found[1][:3] == alone
    assert len({sample["text"] for sample in found[1]}) > 1
    (greedy,) = found[4]
    assert (greedy["text"], greedy["finish"]) == (expected["text"], expected["stop_reason"])
