"""A model from scratch computes the same in transformers.

That its cached decoding is its forward is in test_decoder.py.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.models import build_model
from rft_jax.models.hugging_face import describe, export

from .hugging_face.test_describe import BASE, DESCRIBED

pytestmark = pytest.mark.oracle

V = 97


@pytest.fixture(scope="module", params=DESCRIBED)
def pair(request, tmp_path_factory):
    """The same model, theirs and ours: no bias or scale is 0 or 1, and scores spread."""
    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(BASE, compute_dtype="float32", **DESCRIBED[request.param][0])
    model = build_model(config, V)
    leaves, tree = jax.tree.flatten(model.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.2 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(tree, noisy)
    directory = tmp_path_factory.mktemp("model")
    (directory / "description").mkdir()
    settings = describe(config, V, 128) | {"eos_token_id": None}
    (directory / "description" / "config.json").write_text(json.dumps(settings))
    export(model, params, directory / "description", directory / "out", dtype=jnp.float32)
    peer = transformers.AutoModelForCausalLM.from_pretrained(
        directory / "out", attn_implementation="eager"
    )
    assert type(peer).__name__ == settings["architectures"][0]
    return peer.eval(), model, params


@functools.partial(jax.jit, static_argnums=0)
def row_logits(model, params, tokens_BT):
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    hidden_BTD = model.hidden(params, tokens_BT, positions_BT, jnp.ones_like(tokens_BT))
    return model.logits(params, hidden_BTD)


def test_logits_equal(pair):
    import torch

    peer, model, params = pair
    tokens_BT = np.random.default_rng(1).integers(0, V, (2, 40), np.int32)
    with torch.no_grad():
        expected = peer(torch.tensor(tokens_BT, dtype=torch.long)).logits.numpy()
    assert expected.std() > 0.3
    np.testing.assert_allclose(row_logits(model, params, tokens_BT), expected, rtol=0, atol=2e-4)
