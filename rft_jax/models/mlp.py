"""Gated MLPs: one for all tokens, a few out of many experts for each, or both."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from rft_jax.config import ModelConfig
from rft_jax.models.layer_kinds.base import INNER_STD, MakeWeight
from rft_jax.models.linear import ExpertWeight, Weight, grouped_linear, linear

ACTIVATIONS = {"silu": jax.nn.silu, "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True)}
BOUNDED_SLOPE = 1.702  # of the sigmoid in gpt-oss's SwiGLU
# Weights by name, in the order in which the functions below take them.
MLP = ("gate_DF", "up_DF", "down_FD")
EXPERTS = ("router_DE", "gate_EDF", "up_EDF", "down_EFD")
EXPERT_BIASES = ("router_bias_E", "gate_bias_EF", "up_bias_EF", "down_bias_ED")
SHARED_EXPERT = ("shared_router_DX", "shared_gate_DF", "shared_up_DF", "shared_down_FD")


class Gating(NamedTuple):
    """How the two halves of a hidden layer become one."""

    activation: str
    limit: float | None = None  # `swiglu_limit`

    def __call__(self, gate_xF: Array, up_xF: Array) -> Array:
        """activation(gate) * up, or gpt-oss's (https://arxiv.org/abs/2508.10925)."""
        if self.limit is None:
            return ACTIVATIONS[self.activation](gate_xF) * up_xF
        gate_xF = jnp.minimum(gate_xF, self.limit)
        up_xF = jnp.clip(up_xF, -self.limit, self.limit)
        return gate_xF * jax.nn.sigmoid(BOUNDED_SLOPE * gate_xF) * (up_xF + 1)


class ExpertBiases(NamedTuple):
    """What router and experts add; in the order of `EXPERT_BIASES`."""

    router_E: Array
    gate_EF: Array
    up_EF: Array
    down_ED: Array


def mlp_weights(config: ModelConfig, make: MakeWeight, outer_std: float) -> dict[str, nnx.Param]:
    """New weights by name, of projections to the residual stream with their own deviation."""
    D, F, E = config.hidden_size, config.intermediate_size, config.experts
    if not E:
        return _gated_weights(make, MLP, "mlp", (D, F), outer_std)
    router, gate, up, down = EXPERTS
    inner = (("experts", "embed", "mlp"), (E, D, F))
    weights = {
        router: make(("embed", "experts"), (D, E), INNER_STD),
        gate: make(*inner, INNER_STD),
        up: make(*inner, INNER_STD),
        down: make(("experts", "mlp", "embed"), (E, F, D), outer_std),
    }
    if config.expert_bias:
        router, gate, up, down = EXPERT_BIASES
        weights |= {
            router: make(("experts",), (E,), 0.0),
            gate: make(("experts", "mlp"), (E, F), 0.0),
            up: make(("experts", "mlp"), (E, F), 0.0),
            down: make(("experts", "embed"), (E, D), 0.0),
        }
    if config.shared_expert_size:
        router, *names = SHARED_EXPERT
        weights[router] = make(("embed", "experts"), (D, 1), INNER_STD)
        sizes = D, config.shared_expert_size
        weights |= _gated_weights(make, names, "shared_mlp", sizes, outer_std)
    return weights


def _gated_weights(
    make: MakeWeight, names: Sequence[str], axis: str, sizes: tuple[int, int], outer_std: float
) -> dict[str, nnx.Param]:
    gate, up, down = names
    return {
        gate: make(("embed", axis), sizes, INNER_STD),
        up: make(("embed", axis), sizes, INNER_STD),
        down: make((axis, "embed"), sizes[::-1], outer_std),
    }


def gated_mlp(
    h_xD: Array,
    gate_DF: Weight,
    up_DF: Weight,
    down_FD: Weight,
    gating: Gating,
) -> Array:
    """down(activation(gate h) * up h), [..., D] (GLU variants, https://arxiv.org/abs/2002.05202)."""
    return linear(gating(linear(h_xD, gate_DF), linear(h_xD, up_DF)), down_FD)


def expert_mlp(
    h_xD: Array,
    router_DE: Array,
    gate_EDF: ExpertWeight,
    up_EDF: ExpertWeight,
    down_EFD: ExpertWeight,
    biases: ExpertBiases | None = None,
    *,
    gating: Gating,
    chosen: int,
    normalize: bool,
    parts: int = 1,
) -> Array:
    """A weighted sum of the `chosen` experts that the router prefers for each token, [..., D].

    No expert has a capacity: nothing is dropped and a token's result depends on no other token.
    The (token, expert) pairs are sorted by expert, so that each expert multiplies one contiguous
    group of rows. With a share of each expert's hidden layer, F, it is that share of the sum.

    Args:
        h_xD: Tokens.
        router_DE: Scores of E experts; the weights are softmax over all of them.
        biases: What is added to scores and products, if anything.
        gating: The function of each expert's hidden layer.
        chosen: Experts per token, C.
        normalize: Divide the chosen experts' weights by their sum.
        parts: How many shares of the hidden layer there are, whose results are summed.
    """
    h_ND = h_xD.reshape(-1, h_xD.shape[-1])
    N, E = h_ND.shape[0], router_DE.shape[1]
    router_DE = router_DE.astype(h_ND.dtype)
    score_NE = jnp.einsum("ND,DE->NE", h_ND, router_DE, preferred_element_type=jnp.float32)
    if biases is not None:
        score_NE = score_NE + biases.router_E.astype(jnp.float32)
    weight_NC, expert_NC = jax.lax.top_k(jax.nn.softmax(score_NE), chosen)
    if normalize:
        weight_NC = weight_NC / weight_NC.sum(axis=-1, keepdims=True)

    expert_X = expert_NC.reshape(-1)  # X = N C pairs
    order_X = jnp.argsort(expert_X)
    size_E = (expert_X[:, None] == jnp.arange(E)).sum(axis=0, dtype=jnp.int32)
    h_XD = jnp.repeat(h_ND, chosen, axis=0).at[order_X].get(unique_indices=True)
    gate_XF = grouped_linear(h_XD, gate_EDF, size_E)
    up_XF = grouped_linear(h_XD, up_EDF, size_E)
    if biases is not None:
        gate_XF += biases.gate_EF[expert_X[order_X]]
        up_XF += biases.up_EF[expert_X[order_X]]
    out_XD = grouped_linear(gating(gate_XF, up_XF), down_EFD, size_E)
    if biases is not None:
        out_XD += biases.down_ED[expert_X[order_X]] / parts
    out_XD = out_XD.at[jnp.argsort(order_X)].get(unique_indices=True)
    out_NCD = out_XD.reshape(N, chosen, -1)
    out_ND = jnp.einsum("NCD,NC->ND", out_NCD, weight_NC.astype(out_NCD.dtype))
    return out_ND.reshape(h_xD.shape)


def shared_expert(
    h_xD: Array,
    router_DX: Weight,
    gate_DF: Weight,
    up_DF: Weight,
    down_FD: Weight,
    gating: Gating,
) -> Array:
    """An MLP of every token, times the sigmoid of one score (https://arxiv.org/abs/2407.10671)."""
    score_xX = linear(h_xD, router_DX)
    return jax.nn.sigmoid(score_xX) * gated_mlp(h_xD, gate_DF, up_DF, down_FD, gating)
