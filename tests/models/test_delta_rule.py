"""The gated delta rule in chunks is the rule token by token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.models.delta_rule import Runs, Tokens, delta_rule, delta_step

B, S, T, H, Q, Y, Z = 2, 2, 11, 2, 3, 4, 2
# Runs begin within chunks and at their ends; the third row is of one run alone.
RUN_BST = np.array(
    [
        [[0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3], [1, 1, 2, 3, 3, 3, 3, 3, 4, 4, 4]],
        [[1] * 11, [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2]],
    ],
    np.int32,
)


def draw():
    """Tokens, and runs that follow one of two prompts or none."""
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, B, S, T, H, Q)).astype(np.float32)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    v = rng.normal(size=(B, S, T, H, Y)).astype(np.float32)
    decay = -rng.uniform(0, 1, (B, S, T, H)).astype(np.float32)
    beta = rng.uniform(0, 1, (B, S, T, H)).astype(np.float32)
    own_BST = RUN_BST % 3
    own_BSTZ = np.stack([own_BST == z for z in range(Z)], axis=-1)
    memory = rng.normal(size=(B, Z, H, Q, Y)).astype(np.float32)
    return Tokens(q, k, v, decay, beta), Runs(RUN_BST, own_BSTZ, memory)


def one_by_one(tokens, runs):
    """Each row alone, a token at a time."""
    out, last = np.zeros((B, S, T, H, Y)), np.zeros((B, S, H, Q, Y))
    for b, s in np.ndindex(B, S):
        memory = np.zeros((1, 1, H, Q, Y))
        for t in range(T):
            if t == 0 or RUN_BST[b, s, t] != RUN_BST[b, s, t - 1]:
                memory = np.einsum("z,zhqy->hqy", runs.own_BSTZ[b, s, t], runs.memory_BZHQY[b])
                memory = memory[None, None].astype(np.float32)
            token = Tokens(*(x[b, s, t][None, None] for x in tokens))
            read, memory = delta_step(token, jnp.asarray(memory))
            out[b, s, t] = read[0, 0]
        last[b, s] = memory[0, 0]
    return out, last


@pytest.mark.parametrize("chunk", [4, 16])
def test_chunks_are_the_rule_token_by_token(chunk):
    tokens, runs = draw()
    got = jax.jit(functools.partial(delta_rule, chunk=chunk))(tokens, runs)
    for mine, expected in zip(got, one_by_one(tokens, runs), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_does_not_depend_on_the_chunks():
    tokens, runs = draw()

    def loss(chunk, tokens, memory):
        out, last = delta_rule(tokens, runs._replace(memory_BZHQY=memory), chunk)
        return jnp.square(out).sum() + last.sum()

    gradients = [
        jax.jit(jax.grad(functools.partial(loss, chunk), argnums=(0, 1)))(tokens, runs.memory_BZHQY)
        for chunk in (4, 16)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), *gradients)
