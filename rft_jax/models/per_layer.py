"""Per-layer embeddings: what each layer is told of a token besides the residual stream (Gemma 4).

Of a token each layer has I numbers: those of a table, which has a row of X = L x I for each token
id, and those of a projection of the token's embedding. `Block` gates and adds them.
https://ai.google.dev/gemma/docs/gemma-3n
"""

import math
from collections.abc import Callable, Iterator

import jax.numpy as jnp
from flax import nnx
from jax import Array

from rft_jax.config import ModelConfig
from rft_jax.models.int8 import Int8
from rft_jax.models.layer_kinds.base import MakeWeight
from rft_jax.models.linear import Weight, embed, linear
from rft_jax.models.norms import rms_norm

TABLE, PROJECTION, NORM = "per_layer_VX", "per_layer_from_DLI", "per_layer_norm_I"


def weights(
    config: ModelConfig, vocab_size: int, make: MakeWeight
) -> Iterator[tuple[str, nnx.Param]]:
    """New weights by name; none where the option is off."""
    if config.per_layer_size:
        sizes = config.num_layers, config.per_layer_size
        axes = "layers", "per_layer"
        yield TABLE, make(("vocab", "per_layer_table"), (vocab_size, math.prod(sizes)), 0.02)
        yield PROJECTION, make(("embed", *axes), (config.hidden_size, *sizes), 0.02)
        start = 0.0 if config.norm_weight_offset else 1.0
        yield NORM, make(("per_layer",), (config.per_layer_size,), 0.0, start)


def inputs(
    config: ModelConfig,
    weight: Callable[[str], Weight],
    tokens_BST: Array,
    x_BSTD: Array,
    place: Callable[[Array], Array],
) -> Array | None:
    """The numbers of all layers, [L, B, S, T, I]; None where the option is off.

    Args:
        weight: Gives a weight by its name.
        tokens_BST: int32 token ids.
        x_BSTD: Their embeddings.
        place: Keeps rows where they are. What is looked up lies as the table does, and the layers'
            numbers cannot be told apart before they are together.
    """
    if not config.per_layer_size:
        return None
    table_VX, norm_I = weight(TABLE), weight(NORM)
    assert isinstance(table_VX, Array | Int8) and isinstance(norm_I, Array)
    projected_BSTLI = linear(x_BSTD, weight(PROJECTION)) * config.hidden_size**-0.5
    looked_up = place(embed(table_VX, tokens_BST, x_BSTD.dtype)) * config.per_layer_size**0.5
    looked_up = looked_up.reshape(projected_BSTLI.shape)
    both_BSTLI = (rms_norm(projected_BSTLI, norm_I, config) + looked_up) * 2**-0.5
    return jnp.moveaxis(both_BSTLI, 3, 0)
