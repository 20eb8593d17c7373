"""Gradient accumulation: the parts together are the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.learn.accumulate import accumulate_gradient

B = 12
BATCH = {
    "x": jnp.asarray(np.random.default_rng(0).normal(size=(B, 3)), jnp.float32),
    "id": jnp.arange(B),
}
PARAMS = {"w": jnp.array([0.3, -1.0, 2.0]), "unused": jnp.ones(2)}


def loss(params, part):
    score_B = jnp.tanh(part["x"] @ params["w"])
    return jnp.square(score_B).sum() / B, {"score": score_B, "id": part["id"]}


@pytest.mark.parametrize("parts", [1, 2, 3, 12])
def test_parts_change_nothing(parts):
    (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(PARAMS, BATCH)
    got = accumulate_gradient(loss, PARAMS, BATCH, parts)
    np.testing.assert_array_equal(got[1]["id"], np.arange(B))  # rows come back in their places
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        got,
        (value, aux, gradient),
    )


def test_a_part_takes_every_parts_th_row_so_that_devices_keep_theirs():
    def rows_of(params, part):
        return params["w"].sum() * 0, jnp.broadcast_to(part["id"].min(), part["id"].shape)

    _, least_B, _ = accumulate_gradient(rows_of, PARAMS, BATCH, 3)
    np.testing.assert_array_equal(least_B, np.arange(B) % 3)


def test_memory_of_the_parts_is_not_held_at_once():
    """Each part's intermediates have the part's size: no [B, 1000] array exists."""

    def wide(params, part):
        return jnp.square(part["x"] @ jnp.ones((3, 1000))).sum() * params["w"].sum(), part["id"]

    text = str(jax.make_jaxpr(lambda p, b: accumulate_gradient(wide, p, b, 4))(PARAMS, BATCH))
    assert "[3,1000]" in text and "[12,1000]" not in text
