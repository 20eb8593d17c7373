"""Mixtures of experts: dropless, token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.models.linear import over_groups, over_groups_kernel
from rft_jax.models.mlp import ExpertBiases, Gating, expert_mlp, gated_mlp, shared_expert

N, D, F, E = 12, 8, 6, 5
GATING = Gating("silu")


@pytest.fixture(scope="module")
def weights():
    shapes = ((D, E), (E, D, F), (E, D, F), (E, F, D))
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@pytest.fixture(scope="module")
def tokens_ND():
    return jax.random.normal(jax.random.key(1), (N, D))


def mixture(tokens, weights, chosen=2, normalize=True):
    return expert_mlp(tokens, *weights, gating=GATING, chosen=chosen, normalize=normalize)


@pytest.mark.parametrize("chosen, normalize", [(1, False), (2, True), (E, True)])
def test_a_token_is_the_weighted_sum_of_its_best_experts(tokens_ND, weights, chosen, normalize):
    router_DE, gate_EDF, up_EDF, down_EFD = weights
    weight_NE = np.asarray(jax.nn.softmax(tokens_ND @ router_DE))
    least_N1 = np.sort(weight_NE)[:, -chosen][:, None]
    weight_NE = np.where(weight_NE >= least_N1, weight_NE, 0)
    if normalize:
        weight_NE = weight_NE / weight_NE.sum(axis=1, keepdims=True)
    expected = sum(
        weight_NE[:, e : e + 1] * gated_mlp(tokens_ND, gate_EDF[e], up_EDF[e], down_EFD[e], GATING)
        for e in range(E)
    )
    out = mixture(tokens_ND.reshape(3, 4, D), weights, chosen, normalize)
    np.testing.assert_allclose(out.reshape(N, D), expected, rtol=1e-5, atol=1e-5)


def test_a_token_depends_on_no_other(tokens_ND, weights):
    same_expert = jnp.broadcast_to(tokens_ND[:1], tokens_ND.shape)  # a capacity would overflow
    mixed, crowded = (jax.jit(mixture)(x, weights)[0] for x in (tokens_ND, same_expert))
    np.testing.assert_array_equal(mixed, crowded)
    gradient_ND = jax.grad(lambda x: mixture(x, weights)[0].sum())(tokens_ND)
    assert np.abs(gradient_ND[0]).max() > 0
    np.testing.assert_array_equal(gradient_ND[1:], 0)


def test_every_weight_has_a_gradient(tokens_ND, weights):
    gradients = jax.grad(lambda w: jnp.square(mixture(tokens_ND, w)).sum())(weights)
    for gradient in gradients:
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_biases_of_experts_are_added_once_however_many_share_the_hidden_layer(tokens_ND, weights):
    rng = np.random.default_rng(2)
    shapes = (E,), (E, F), (E, F), (E, D)
    biases = ExpertBiases(*(jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes))
    router_DE, gate_EDF, up_EDF, down_EFD = weights
    gating = Gating("silu", 0.7)
    weight_NE = tokens_ND @ router_DE + biases.router_E
    best_NE = weight_NE >= jnp.sort(weight_NE)[:, -2:-1]
    weight_NE = np.asarray(jax.nn.softmax(jnp.where(best_NE, weight_NE, -jnp.inf)))
    expected = np.zeros((N, D))
    for e in range(E):
        gate_NF = np.minimum(tokens_ND @ gate_EDF[e] + biases.gate_EF[e], 0.7)
        up_NF = np.clip(tokens_ND @ up_EDF[e] + biases.up_EF[e], -0.7, 0.7)
        hidden_NF = gate_NF / (1 + np.exp(-1.702 * gate_NF)) * (up_NF + 1)
        expected += weight_NE[:, e : e + 1] * (hidden_NF @ down_EFD[e] + biases.down_ED[e])
    options = {"gating": gating, "chosen": 2, "normalize": True}
    out = expert_mlp(tokens_ND, *weights, biases, **options)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=2e-5)

    def share(part):
        gate_EF, up_EF = (np.split(np.asarray(x), 2, axis=-1)[part] for x in biases[1:3])
        split = [np.split(np.asarray(x), 2, axis=-1)[part] for x in (gate_EDF, up_EDF)]
        down = np.split(np.asarray(down_EFD), 2, axis=1)[part]
        own = biases._replace(gate_EF=jnp.asarray(gate_EF), up_EF=jnp.asarray(up_EF))
        own_weights = router_DE, *map(jnp.asarray, [*split, down])
        return expert_mlp(tokens_ND, *own_weights, own, **options, parts=2)

    np.testing.assert_allclose(share(0) + share(1), expected, rtol=1e-5, atol=2e-5)


def test_a_shared_expert_is_an_mlp_times_a_sigmoid(tokens_ND, weights):
    router_DE, gate_EDF, up_EDF, down_EFD = weights
    out = shared_expert(tokens_ND, router_DE[:, :1], gate_EDF[0], up_EDF[0], down_EFD[0], GATING)
    expected = gated_mlp(tokens_ND, gate_EDF[0], up_EDF[0], down_EFD[0], GATING)
    expected *= jax.nn.sigmoid(tokens_ND @ router_DE[:, :1])
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(5, 0, 7, 12), (0, 0, 24, 0), (300, 1, 210, 1)])
@pytest.mark.parametrize("function", [over_groups, over_groups_kernel])
def test_the_product_over_each_groups_rows(function, sizes):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(sum(sizes), n)).astype(np.float32) for n in (6, 10))
    ends = np.cumsum(sizes)
    expected = [a[end - n : end].T @ b[end - n : end] for n, end in zip(sizes, ends, strict=True)]
    options = {"interpret": True} if function is over_groups_kernel else {}
    got = function(jnp.asarray(a), jnp.asarray(b), jnp.asarray(sizes, jnp.int32), **options)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
