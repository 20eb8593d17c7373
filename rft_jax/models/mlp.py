"""Gated MLPs: one for all tokens, or a few out of many experts for each."""

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.models.int8 import Int8
from rft_jax.models.linear import Weight, grouped_linear, linear

ACTIVATIONS = {"silu": jax.nn.silu, "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True)}


def gated_mlp(
    h_xD: Array,
    gate_DF: Weight,
    up_DF: Weight,
    down_FD: Weight,
    activation: str,
) -> Array:
    """down(activation(gate h) * up h), [..., D] (GLU variants, https://arxiv.org/abs/2002.05202)."""
    gate_xF = ACTIVATIONS[activation](linear(h_xD, gate_DF))
    up_xF = linear(h_xD, up_DF)
    return linear(gate_xF * up_xF, down_FD)


def expert_mlp(
    h_xD: Array,
    router_DE: Array,
    gate_EDF: Array | Int8,
    up_EDF: Array | Int8,
    down_EFD: Array | Int8,
    *,
    activation: str,
    chosen: int,
    normalize: bool,
) -> Array:
    """A weighted sum of the `chosen` experts that the router prefers for each token, [..., D].

    No expert has a capacity: nothing is dropped and a token's result depends on no other token.
    The (token, expert) pairs are sorted by expert, so that each expert multiplies one contiguous
    group of rows. With a share of each expert's hidden layer, F, it is that share of the sum.

    Args:
        h_xD: Tokens.
        router_DE: Scores of E experts; the weights are softmax over all of them.
        chosen: Experts per token, C.
        normalize: Divide the chosen experts' weights by their sum.
    """
    h_ND = h_xD.reshape(-1, h_xD.shape[-1])
    N, E = h_ND.shape[0], router_DE.shape[1]
    router_DE = router_DE.astype(h_ND.dtype)
    score_NE = jnp.einsum("ND,DE->NE", h_ND, router_DE, preferred_element_type=jnp.float32)
    weight_NC, expert_NC = jax.lax.top_k(jax.nn.softmax(score_NE), chosen)
    if normalize:
        weight_NC = weight_NC / weight_NC.sum(axis=-1, keepdims=True)

    expert_X = expert_NC.reshape(-1)  # X = N C pairs
    order_X = jnp.argsort(expert_X)
    size_E = (expert_X[:, None] == jnp.arange(E)).sum(axis=0, dtype=jnp.int32)
    h_XD = jnp.repeat(h_ND, chosen, axis=0).at[order_X].get(unique_indices=True)
    gate_XF = ACTIVATIONS[activation](grouped_linear(h_XD, gate_EDF, size_E))
    up_XF = grouped_linear(h_XD, up_EDF, size_E)
    out_XD = grouped_linear(gate_XF * up_XF, down_EFD, size_E)
    out_XD = out_XD.at[jnp.argsort(order_X)].get(unique_indices=True)
    out_NCD = out_XD.reshape(N, chosen, -1)
    out_ND = jnp.einsum("NCD,NC->ND", out_NCD, weight_NC.astype(out_NCD.dtype))
    return out_ND.reshape(h_xD.shape)
