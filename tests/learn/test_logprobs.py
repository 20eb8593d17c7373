"""Log-probabilities of completions: the plain forward's, without its logits at the prompt."""

import functools
import re

import jax
import jax.extend.core
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import ModelConfig
from rft_jax.learn.logprobs import completion_logprobs, in_chunks, score_tokens
from rft_jax.models import build_model
from rft_jax.rollout import LogitMask, Prompts

V, P, B, G, T, D = 53, 40, 3, 2, 11, 16
TEMPERATURE = 0.8
FORBIDDEN, MARKER, BUDGET = (0, 7), 3, 4
THINKING = LogitMask(FORBIDDEN, MARKER, BUDGET)
PROMPT_LENGTHS = np.array([1, 23, 40], np.int32)
LENGTHS = np.array([[11, 1], [4, 11], [8, 2]], np.int32)


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(
        num_layers=2,
        hidden_size=D,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=24,
        compute_dtype="float32",
    )
    return build_model(config, V)


@pytest.fixture(scope="module")
def params(model):
    weights = model.init(jax.random.key(0))
    return jax.tree.map(lambda x: x * 12 if float(jnp.ptp(x)) > 0 else x, weights)


@pytest.fixture(scope="module")
def batch():
    """Prompts, completions with the marker at different places, and a weight for each token."""
    rng = np.random.default_rng(0)
    allowed = np.setdiff1d(np.arange(V), [*FORBIDDEN, MARKER])
    tokens_BGT = rng.choice(allowed, (B, G, T)).astype(np.int32)
    for (b, g), place in {(0, 0): 4, (1, 0): 1, (1, 1): 0, (2, 0): 3}.items():
        tokens_BGT[b, g, place] = MARKER
    prompts = Prompts(rng.integers(0, V, (B, P), np.int32), PROMPT_LENGTHS)
    weight_BGT = rng.normal(size=(B, G, T)).astype(np.float32)
    return prompts, tokens_BGT, np.where(np.arange(T) < LENGTHS[..., None], weight_BGT, 0)


def allowed_in_python(tokens_BGT):
    allowed_BGTV = np.ones((B, G, T, V), bool)
    allowed_BGTV[..., FORBIDDEN] = False
    for b, g, t in np.ndindex(B, G, T):
        allowed_BGTV[b, g, t, MARKER] = MARKER not in tokens_BGT[b, g, :t]
    return allowed_BGTV


def plain_logprobs(model, params, prompts, tokens_BGT, allowed_BGTV):
    """A forward over every (prompt, completion) row, with logits everywhere."""
    rows_BGX = np.zeros((B, G, P + T), np.int32)
    for b, length in enumerate(prompts.length_B):
        rows_BGX[b, :, :length] = prompts.tokens_BP[b, :length]
        rows_BGX[b, :, length : length + T] = tokens_BGT[b]
    rows_NX = rows_BGX.reshape(B * G, P + T)
    positions_NX = np.broadcast_to(np.arange(P + T, dtype=np.int32), rows_NX.shape)
    hidden_NXD = model.hidden(params, rows_NX, positions_NX, np.ones_like(rows_NX))
    logits_BGXV = model.logits(params, hidden_NXD).reshape(B, G, P + T, V) / TEMPERATURE
    at_BGT = np.broadcast_to(prompts.length_B[:, None, None] - 1 + np.arange(T), (B, G, T))
    logits_BGTV = jnp.take_along_axis(logits_BGXV, at_BGT[..., None], axis=2)
    logprobs_BGTV = jax.nn.log_softmax(jnp.where(allowed_BGTV, logits_BGTV, -jnp.inf))
    return jnp.take_along_axis(logprobs_BGTV, tokens_BGT[..., None], axis=-1)[..., 0], logprobs_BGTV


def shared_logprobs(model, params, prompts, tokens_BGT, logit_chunk, mask=THINKING):
    return completion_logprobs(
        model,
        params,
        prompts,
        tokens_BGT,
        LENGTHS,
        mask,
        temperature=TEMPERATURE,
        logit_chunk=logit_chunk,
    )


@functools.partial(jax.jit, static_argnums=(0, 3))
def evaluate(model, params, batch, logit_chunk):
    """The weighted sum of log-probabilities with (log-probabilities, entropy), and its gradient."""
    prompts, tokens_BGT, weight_BGT = batch

    def total(params):
        logprobs, entropy, _ = shared_logprobs(model, params, prompts, tokens_BGT, logit_chunk)
        return (logprobs * weight_BGT).sum(), (logprobs, entropy)

    return jax.value_and_grad(total, has_aux=True)(params)


@pytest.fixture(scope="module")
def expected(model, params, batch):
    """The same by the plain forward."""
    prompts, tokens_BGT, weight_BGT = batch
    allowed_BGTV = allowed_in_python(tokens_BGT)

    def total(params):
        logprobs, all_BGTV = plain_logprobs(model, params, prompts, tokens_BGT, allowed_BGTV)
        entropy = -jnp.where(allowed_BGTV, jnp.exp(all_BGTV) * all_BGTV, 0).sum(axis=-1)
        taken = jnp.where(weight_BGT != 0, logprobs, 0)
        return (taken * weight_BGT).sum(), (logprobs, entropy)

    return jax.jit(jax.value_and_grad(total, has_aux=True))(params)


@pytest.mark.parametrize("logit_chunk", [T, 4])
def test_logprobs_entropy_and_gradient_are_those_of_the_plain_forward(
    model, params, batch, expected, logit_chunk
):
    (_, (logprobs, entropy)), gradient = evaluate(model, params, batch, logit_chunk)
    (_, (plain, plain_entropy)), plain_gradient = expected
    within = np.arange(T) < LENGTHS[..., None]
    np.testing.assert_allclose(logprobs[within], plain[within], rtol=0, atol=2e-5)
    np.testing.assert_allclose(entropy[within], plain_entropy[within], rtol=0, atol=2e-5)
    flat, plain_flat = (jax.flatten_util.ravel_pytree(g)[0] for g in (gradient, plain_gradient))
    norm = float(jnp.linalg.norm(plain_flat))
    assert norm > 1
    assert float(jnp.linalg.norm(flat - plain_flat)) <= 1e-5 * norm
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert float(jnp.abs(leaf).max()) > 0, jax.tree_util.keystr(path)


def test_what_stands_beyond_a_completion_or_a_prompt_reaches_nothing(model, params, batch):
    prompts, tokens_BGT, weight_BGT = batch
    (value, (logprobs, _)), gradient = evaluate(model, params, batch, T)
    written = np.arange(T) < LENGTHS[..., None]
    inside = np.arange(P) < PROMPT_LENGTHS[:, None]
    other = Prompts(np.where(inside, prompts.tokens_BP, 9), PROMPT_LENGTHS)
    changed = (other, np.where(written, tokens_BGT, 11).astype(np.int32), weight_BGT)
    (other_value, (others, _)), other_gradient = evaluate(model, params, changed, T)
    assert value == other_value
    np.testing.assert_array_equal(logprobs[written], others[written])
    jax.tree.map(np.testing.assert_array_equal, gradient, other_gradient)


def equations_of(jaxpr):
    """All equations, those of nested programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations_of(inner)


def gradient_equations(model, params, batch, logit_chunk):
    prompts, tokens_BGT, _ = batch
    program = jax.make_jaxpr(
        jax.grad(lambda p: shared_logprobs(model, p, prompts, tokens_BGT, logit_chunk)[0].sum())
    )(params)
    return list(equations_of(program.jaxpr))


@pytest.mark.parametrize("logit_chunk", [T, 3])
def test_logits_exist_only_at_completion_positions_a_chunk_at_a_time(
    model, params, batch, logit_chunk
):
    equations = gradient_equations(model, params, batch, logit_chunk)
    shapes = [variable.aval.shape for equation in equations for variable in equation.outvars]
    shapes = [shape for shape in shapes if V in shape and shape != (V, D)]
    assert (B, G, logit_chunk, V) in shapes
    assert max(int(np.prod(shape)) for shape in shapes) == B * G * logit_chunk * V


def test_the_backward_pass_computes_no_normalizer_again(model, params, batch):
    reductions = [
        equation.primitive.name
        for equation in gradient_equations(model, params, batch, 3)
        if equation.primitive.name.startswith("reduce_")
        and equation.invars[0].aval.shape == (B, G, 3, V)
    ]
    assert sorted(reductions) == ["reduce_max", "reduce_sum", "reduce_sum"]


def test_no_array_of_the_compiled_program_has_all_logits(model, params, batch):
    compiled = evaluate.lower(model, params, batch, 3).compile()
    shapes = re.findall(r"\b[a-z]+[0-9]*\[([0-9,]+)\]", compiled.as_text())
    shapes = {tuple(map(int, shape.split(","))) for shape in shapes}
    sizes = [int(np.prod(shape)) for shape in shapes if any(x % V == 0 for x in shape)]
    assert B * G * 3 * V in sizes
    assert max(sizes) < B * G * T * V


@pytest.mark.parametrize("scale", [1.0, 80.0])
def test_scores_and_their_gradient_are_those_of_log_softmax(scale):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(scale * rng.normal(size=(5, 7, V)), jnp.float32).at[..., 4].set(-1e30)
    token = jnp.asarray(rng.integers(5, V, (5, 7))).at[0].set(logits[0].argmax(axis=-1))
    weight = jnp.asarray(rng.normal(size=(5, 7)), jnp.float32)

    def plain(logits):
        logprob = jax.nn.log_softmax(logits)
        taken = jnp.take_along_axis(logprob, token[..., None], axis=-1)[..., 0]
        return (taken * weight).sum(), (taken, -(jnp.exp(logprob) * logprob).sum(axis=-1))

    def scored(logits):
        scores = score_tokens(logits, token)
        return (scores.logprob_x * weight).sum() + 3 * scores.entropy_x.sum(), scores

    (_, scores), gradient = jax.value_and_grad(scored, has_aux=True)(logits)
    (_, (taken, entropy)), plain_gradient = jax.value_and_grad(plain, has_aux=True)(logits)
    np.testing.assert_allclose(scores.logprob_x, taken, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores.entropy_x, entropy, rtol=1e-5, atol=1e-5 * scale)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(scores.likeliest_x, token == logits.argmax(axis=-1))
    assert scores.likeliest_x[0].all() and not scores.likeliest_x.all()


@pytest.mark.parametrize("size", [1, 3, 7, 8])
def test_chunks_cover_every_position_once(size):
    x_BGTx = jnp.arange(2 * 3 * 7 * 2.0).reshape(2, 3, 7, 2)
    ones_BGT = jnp.ones((2, 3, 7))
    outputs = in_chunks(lambda xs: xs[0].sum(axis=-1) + xs[1], (x_BGTx, ones_BGT), size)
    np.testing.assert_array_equal(outputs, x_BGTx.sum(axis=-1) + 1)
