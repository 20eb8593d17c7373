"""Attention of rows to keys of their own and to those of their prompt, which its rows share.

As two partials that are merged, the prompt's keys are read once for all its rows, but scores go to
memory unless a kernel for TPUs keeps them on the chip. cuDNN's kernel for GPUs does too, without a
gradient in the normalizers that partials are merged by: it is given both sets of keys as one. So
the prompt's are repeated for each row, which moves less than the scores of so many queries. In the
loop over tokens, with one query a row and no gradient, GPUs have a kernel of partials again.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.config import ModelConfig
from rft_jax.models import attention_kernel, tiled_attention_kernel
from rft_jax.models.attention import (
    Partial,
    merge,
    merge_pages,
    partial_attention,
    with_sinks,
)
from rft_jax.models.blockwise_attention import ACCELERATOR, CPU, blockwise_attention
from rft_jax.models.pages import Pages
from rft_jax.models.sight import Sight
from rft_jax.parallel import shard_heads
from rft_jax.parallel.mesh import AnyMesh

CUDNN = "cudnn"  # the implementation of jax.nn
PAIRS = 2**22  # of a query and a key, whose scores may all be there
CPU_PAIRS = 2**19  # with more, tiles that fit into a core's cache are faster


class Keys(NamedTuple):
    """Keys and values, and which of them a token sees."""

    k_xKUQ: Array  # x is R = B x S rows, or B prompts whose rows share them
    v_xKUQ: Array
    seen: Array | Sight  # mask_BSTU, whose axes S and T broadcast if of size 1, or of x rows
    sink_KM: Array | None = None  # scores of sinks beside them
    # Of rows whose keys are in pages: x are these, and `seen` a mask_xTU.
    pages: Pages | None = None


Attention: TypeAlias = Callable[[Array, Keys, Keys | None], Array]


def plain_attention(config: ModelConfig) -> Attention:
    """Attention of q_BSKMTQ to the rows' own keys and shared ones, in the shape of q, float32."""
    return functools.partial(_merged, _partial(config))


def fused_attention(config: ModelConfig, mesh: AnyMesh | None) -> Attention:
    """The same over many queries, by the configured kernel where it takes their lengths.

    cuDNN's result is of the type of q.

    Args:
        mesh: Splits the rows, which it must divide.
    """
    merged = functools.partial(_merged, _partial_of_many(config, mesh))
    scale, softcap = _scale(config), config.attention_softcap
    if config.attention != "cudnn":
        return merged
    joint = shard_heads(functools.partial(joint_attention, scale=scale), mesh)

    def attention(q_BSKMTQ: Array, own: Keys, shared: Keys | None) -> Array:
        T, Q = q_BSKMTQ.shape[-2:]
        keys = own.k_xKUQ.shape[-2] + (0 if shared is None else shared.k_xKUQ.shape[-2])
        plainly = softcap is None and own.sink_KM is None
        if plainly and cudnn_takes(T, keys, Q, q_BSKMTQ.dtype):
            return _joined(joint, q_BSKMTQ, own, shared)
        return merged(q_BSKMTQ, own, shared)

    return attention


def _partial_of_many(config: ModelConfig, mesh: AnyMesh | None) -> Callable[..., Partial]:
    """Partials over many queries, each by what its lengths allow."""
    options = _scale(config), config.attention_softcap
    tiling = CPU if config.attention == "blockwise" else ACCELERATOR
    ways = {
        "kernel": lambda *given: attention_kernel.kernel_attention(*given, *options),
        "tiled": lambda *given: tiled_attention_kernel.tiled_attention(*given, *options),
        "blockwise": lambda *given: blockwise_attention(*given, *options, tiling),
    }
    ways = {name: shard_heads(way, mesh) for name, way in ways.items()}
    ways["plain"] = _partial(config)

    def attend(q_RKMTQ: Array, k_RKUQ: Array, v_RKUQ: Array, seen: Array | Sight) -> Partial:
        T, U, Q = q_RKMTQ.shape[3], k_RKUQ.shape[2], q_RKMTQ.shape[4]
        way = way_of_partial(config, T, U, Q, q_RKMTQ.dtype)
        return ways[way](q_RKMTQ, k_RKUQ, v_RKUQ, seen)

    return attend


def way_of_partial(
    config: ModelConfig, queries: int, keys: int, head_dim: int, dtype: jnp.dtype
) -> Literal["kernel", "tiled", "blockwise", "plain"]:
    """How a partial over so many queries and keys is computed; only a plain one has all scores."""
    if config.attention == "pallas":
        if attention_kernel.takes(queries, keys, head_dim, dtype.itemsize):
            return "kernel"
        if tiled_attention_kernel.takes(queries, keys):
            return "tiled"
    pairs = CPU_PAIRS if config.attention == "blockwise" else PAIRS
    return "blockwise" if queries * keys > pairs else "plain"


def token_attention(config: ModelConfig, mesh: AnyMesh | None) -> Attention:
    """The same over one query a row, by the configured kernel where it takes the heads.

    Args:
        mesh: As for `fused_attention`.
    """
    if config.decode_attention == "xla":
        return plain_attention(config)
    from rft_jax.models import decode_kernel  # a later JAX may lack Triton

    options = {"scale": _scale(config), "softcap": config.attention_softcap}
    kernel = shard_heads(functools.partial(decode_kernel.decode_attention, **options), mesh)

    def attend(q_RKMTQ: Array, k_RKUQ: Array, v_RKUQ: Array, mask_RTU: Array) -> Partial:
        taken = decode_kernel.takes(q_RKMTQ.shape[-1], q_RKMTQ.dtype)
        return (kernel if taken else _partial(config))(q_RKMTQ, k_RKUQ, v_RKUQ, mask_RTU)

    return functools.partial(_merged, attend)


def cudnn_takes(queries: int, keys: int, head_dim: int, dtype: jnp.dtype) -> bool:
    """Whether cuDNN has a kernel with a gradient for so many, on every GPU since Ampere."""
    even = queries % 2 == 0 and keys % 2 == 0
    return dtype == jnp.bfloat16 and even and head_dim % 8 == 0 and head_dim <= 128


def joint_attention(
    q_RKMTQ: Array, k_RKUQ: Array, v_RKUQ: Array, mask_RTU: Array, *, scale: float
) -> Array:
    """Attention of grouped queries over all keys, [R, K, M, T, Q]."""
    R, K, M, T, Q = q_RKMTQ.shape
    q_RTHQ = jnp.moveaxis(q_RKMTQ, 3, 1).reshape(R, T, K * M, Q)
    k_RUKQ, v_RUKQ = (jnp.moveaxis(x, 2, 1) for x in (k_RKUQ, v_RKUQ))
    out_RTHQ = jax.nn.dot_product_attention(
        q_RTHQ, k_RUKQ, v_RUKQ, mask=mask_RTU[:, None], scale=scale, implementation=CUDNN
    )
    return jnp.moveaxis(out_RTHQ.reshape(R, T, K, M, Q), 1, 3)


def _merged(
    attend: Callable[..., Partial], q_BSKMTQ: Array, own: Keys, shared: Keys | None
) -> Array:
    """By a partial of each set of keys."""
    partial = _own_partial(attend, of_rows(q_BSKMTQ), own)
    if own.sink_KM is not None:
        partial = with_sinks(partial, own.sink_KM)
    out = partial.out_RKMTQ
    if shared is not None:
        out = merge(partial, _shared_partial(attend, q_BSKMTQ, shared))
    return out.reshape(q_BSKMTQ.shape)


def _own_partial(attend: Callable[..., Partial], q_RKMTQ: Array, own: Keys) -> Partial:
    """Each row over its own keys; in pages, each page by its row, so that none is moved."""
    if own.pages is not None:
        partial = attend(q_RKMTQ[own.pages.owner_X], *own[:3])
        return merge_pages(partial, own.pages.table_RJ)
    return attend(q_RKMTQ, *own[:2], own.seen if isinstance(own.seen, Sight) else of_rows(own.seen))


def _shared_partial(attend: Callable[..., Partial], q_BSKMTQ: Array, shared: Keys) -> Partial:
    """All rows of a prompt over the prompt's keys in one product; the result's rows are B x S."""
    B, S, K, M, T, Q = q_BSKMTQ.shape
    q_BKMXQ = q_BSKMTQ.transpose(0, 2, 3, 1, 4, 5).reshape(B, K, M, S * T, Q)
    seen = shared.seen
    if not isinstance(seen, Sight):
        seen = seen.reshape(B, -1, seen.shape[-1])
    partial = attend(q_BKMXQ, shared.k_xKUQ, shared.v_xKUQ, seen)

    def rows(x: Array) -> Array:
        x = x.reshape(B, K, M, S, T, *x.shape[4:])
        return jnp.moveaxis(x, 3, 1).reshape(B * S, K, M, T, *x.shape[5:])

    return Partial(rows(partial.out_RKMTQ), rows(partial.lse_RKMT))


def _joined(joint: Callable[..., Array], q_BSKMTQ: Array, own: Keys, shared: Keys | None) -> Array:
    """Over both sets of keys as one."""
    B, S, _, _, T, _ = q_BSKMTQ.shape

    def whole(keys: Keys) -> Array:
        mask = keys.seen.mask() if isinstance(keys.seen, Sight) else keys.seen
        if isinstance(keys.seen, Sight):  # of R rows, or of B whose queries are S x T
            return mask.reshape(B * S, T, -1)
        return of_rows(jnp.broadcast_to(mask, (B, S, T, mask.shape[-1])))

    k_RKUQ, v_RKUQ, mask_RTU = *own[:2], whole(own)
    if shared is not None:
        repeated = (jnp.repeat(x_BKPQ, S, axis=0) for x_BKPQ in shared[:2])
        k_RKUQ, v_RKUQ = (
            jnp.concatenate(pair, axis=2) for pair in zip(own[:2], repeated, strict=True)
        )
        mask_RTU = jnp.concatenate([mask_RTU, whole(shared)], axis=2)
    return joint(of_rows(q_BSKMTQ), k_RKUQ, v_RKUQ, mask_RTU).reshape(q_BSKMTQ.shape)


def _partial(config: ModelConfig) -> Callable[..., Partial]:
    """The plain one, of a mask or what it is made from."""
    options = {"scale": _scale(config), "softcap": config.attention_softcap}

    def attend(q_RKMTQ: Array, k_RKUQ: Array, v_RKUQ: Array, seen: Array | Sight) -> Partial:
        mask_RTU = seen.mask() if isinstance(seen, Sight) else seen
        return partial_attention(q_RKMTQ, k_RKUQ, v_RKUQ, mask_RTU, **options)

    return attend


def _scale(config: ModelConfig) -> float:
    given = config.attention_scale
    return config.head_dim**-0.5 if given is None else given


def of_rows(x_BSx: Array) -> Array:
    """Rows of all prompts along one axis, R = B x S."""
    return x_BSx.reshape(-1, *x_BSx.shape[2:])
