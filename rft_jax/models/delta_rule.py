"""The gated delta rule: a memory of keys and values that forgets and is corrected.

For each token the memory, a matrix from keys to values, decays and moves by beta toward giving the
token's value for its key; the query reads it (https://arxiv.org/abs/2412.06464). All is in float32.
Over whole rows the tokens of a chunk are taken together, in products that a matrix unit is fast at,
and the memory goes from chunk to chunk (https://arxiv.org/abs/2406.06484).

Letters: H heads, Q the size of keys, Y that of values, C tokens of a chunk, Z prompts of a row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

CHUNK = 64


class Tokens(NamedTuple):
    """What each token asks, and what it has the memory learn; float32."""

    q_xHQ: Array
    k_xHQ: Array  # of length 1
    v_xHY: Array
    log_decay_xH: Array  # at most 0
    beta_xH: Array  # 0: the memory learns nothing


class Runs(NamedTuple):
    """Where in rows completions begin, each with the memory of its prompt.

    A run is a stretch of tokens with the same number; none comes back.
    """

    run_BST: Array  # int32, counted up along the row from 0 or 1
    own_BSTZ: Array  # bool: the prompt of the token's run; none: it begins with zeros
    memory_BZHQY: Array


def delta_rule(tokens_BST: Tokens, runs: Runs, chunk: int = CHUNK) -> tuple[Array, Array]:
    """The rule over whole rows.

    Args:
        tokens_BST: Tokens of S rows for each of B prompts. One that decays by nothing and has the
            memory learn nothing leaves it as it was.
        runs: Which of them follow each other.
        chunk: Tokens that are taken together.

    Returns:
        out_BSTHY, and the memory_BSHQY after each row's last token.
    """
    B, S, T, H = tokens_BST.beta_xH.shape
    Q, Y = tokens_BST.q_xHQ.shape[-1], tokens_BST.v_xHY.shape[-1]

    def chunks(x_BSTx: Array, mode: str = "constant") -> Array:
        padding = [(0, 0)] * x_BSTx.ndim
        padding[2] = (0, -T % chunk)
        x = jnp.pad(x_BSTx, padding, mode=mode)
        return jnp.moveaxis(x.reshape(B, S, -1, chunk, *x.shape[3:]), 2, 0)

    def step(
        carry: tuple[Array, Array], inputs: tuple[Tokens, Array, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        memory_BSHQY, last_BS = carry
        tokens, run_BSC, own_BSCZ = inputs
        # How much each token begins with of the memory before the chunk, and of each prompt's.
        goes_on_BSC = run_BSC == last_BS[..., None]
        from_BSCZ = own_BSCZ & ~goes_on_BSC[..., None]
        out_BSCHY, memory_BSHQY = _chunk(
            tokens, run_BSC, goes_on_BSC, from_BSCZ, memory_BSHQY, runs.memory_BZHQY
        )
        return (memory_BSHQY, run_BSC[..., -1]), out_BSCHY

    start = jnp.zeros((B, S, H, Q, Y)), jnp.full((B, S), -1)
    run, own = (chunks(x, "edge") for x in (runs.run_BST, runs.own_BSTZ))
    inputs = jax.tree.map(chunks, tokens_BST), run, own
    with jax.default_matmul_precision("highest"):
        (memory_BSHQY, _), out = jax.lax.scan(
            jax.checkpoint(step, prevent_cse=False), start, inputs
        )
    return jnp.moveaxis(out, 0, 2).reshape(B, S, -1, H, Y)[:, :, :T], memory_BSHQY


def _chunk(
    tokens: Tokens,
    run_BSC: Array,
    goes_on_BSC: Array,
    from_BSCZ: Array,
    memory_BSHQY: Array,
    prompts_BZHQY: Array,
) -> tuple[Array, Array]:
    """One chunk: what its tokens read, [B, S, C, H, Y], and the memory after it."""
    C = run_BSC.shape[-1]
    q, k, v = (jnp.swapaxes(x, 2, 3) for x in tokens[:3])  # [B, S, H, C, Q or Y]
    beta_BSHC1 = jnp.swapaxes(tokens.beta_xH, 2, 3)[..., None]
    below = jnp.arange(C)[:, None] >= jnp.arange(C)
    same_BSCC = (run_BSC[..., :, None] == run_BSC[..., None, :]) & below
    # Decays since the token's run began, or since the chunk did.
    log_BSHC = jnp.einsum("BSCU,BSUH->BSHC", same_BSCC.astype(jnp.float32), tokens.log_decay_xH)
    between_BSHCC = log_BSHC[..., None] - log_BSHC[..., None, :]
    between_BSHCC = jnp.exp(jnp.where(same_BSCC[:, :, None], between_BSHCC, -jnp.inf))
    since_BSHC1 = jnp.exp(log_BSHC)[..., None]

    def begin(x_BSHCQ: Array) -> Array:
        """Reads the memory that each token's run, or the chunk, began with."""
        gone_on = x_BSHCQ * goes_on_BSC[:, :, None, :, None]
        read = jnp.einsum("BSHCQ,BSHQY->BSHCY", gone_on, memory_BSHQY)
        for z in range(prompts_BZHQY.shape[1]):
            begun = x_BSHCQ * from_BSCZ[:, :, None, :, None, z]
            read += jnp.einsum("BSHCQ,BHQY->BSHCY", begun, prompts_BZHQY[:, z])
        return read

    # Each correction depends on those before it in the chunk: a triangular system (UT transform).
    system = jnp.einsum("BSHCQ,BSHUQ->BSHCU", k * beta_BSHC1, k) * between_BSHCC
    right = jnp.concatenate([v, k * since_BSHC1], axis=-1) * beta_BSHC1
    solved = jax.lax.linalg.triangular_solve(
        system, right, left_side=True, lower=True, unit_diagonal=True
    )
    values, reads = jnp.split(solved, [v.shape[-1]], axis=-1)
    correction_BSHCY = values - begin(reads)
    scores = jnp.einsum("BSHCQ,BSHUQ->BSHCU", q, k) * between_BSHCC
    out_BSHCY = begin(q * since_BSHC1) + scores @ correction_BSHCY

    last_BS1 = goes_on_BSC[..., -1:]
    begun_BSHQY = jnp.where(last_BS1[..., None, None], memory_BSHQY, 0) + jnp.einsum(
        "BSZ,BZHQY->BSHQY", from_BSCZ[:, :, -1].astype(jnp.float32), prompts_BZHQY
    )
    memory_BSHQY = since_BSHC1[..., -1:, :] * begun_BSHQY + jnp.einsum(
        "BSHCQ,BSHCY->BSHQY", k * between_BSHCC[..., -1, :, None], correction_BSHCY
    )
    return jnp.swapaxes(out_BSHCY, 2, 3), memory_BSHQY


def delta_step(token_BG: Tokens, memory_BGHQY: Array) -> tuple[Array, Array]:
    """The rule for one token: out_BGHY, and the memory after it.

    The old memory is read once, for key and query at once, and written once.
    """
    q, k = token_BG.q_xHQ, token_BG.k_xHQ
    decay_BGH11 = jnp.exp(token_BG.log_decay_xH)[..., None, None]
    with jax.default_matmul_precision("highest"):
        read = jnp.einsum("BGHXQ,BGHQY->BGHXY", jnp.stack([k, q], axis=3), memory_BGHQY)
    read *= decay_BGH11
    correction_BGHY = (token_BG.v_xHY - read[..., 0, :]) * token_BG.beta_xH[..., None]
    out_BGHY = read[..., 1, :] + (q * k).sum(axis=-1, keepdims=True) * correction_BGHY
    learned_BGHQY = k[..., None] * correction_BGHY[..., None, :]
    return out_BGHY, memory_BGHQY * decay_BGH11 + learned_BGHQY
