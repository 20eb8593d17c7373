"""The step of distillation: one program, on any mesh, with the teacher in it."""

import functools
import re

import jax
import numpy as np
import optax
import pytest

from rft_jax.config import DistillStage, MeshConfig, ModelConfig, RolloutConfig
from rft_jax.data import encode_prompts
from rft_jax.distill_step import DistillBatch, compile_distill_step, make_distill_program
from rft_jax.learn.optimizer import init_state, state_shardings, with_average
from rft_jax.models import build_model
from rft_jax.parallel import LEARNER_RULES, batch_sharding, make_mesh, shardings
from rft_jax.rollout import Prompts
from rft_jax.tokenizers import SentencePieceTokenizer, train_sentencepiece
from rft_jax.tokenizers.spm import MIN_VOCAB_SIZE

B = 8
TEXTS = [f"case {i}: {'seizure ' * (i % 4)}ataxia" for i in range(B)]
STAGE = DistillStage(
    batch_size=B,
    logit_chunk=5,
    rollout=RolloutConfig(
        group_size=2, max_prompt_tokens=40, max_completion_tokens=12, reasoning_effort=4
    ),
)
MESHES = [
    *((mesh, False) for mesh in [(2, 2, 2), (8, 1, 1), (1, 8, 1), (4, 1, 2)]),
    ((2, 2, 2), True),
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return SentencePieceTokenizer(train_sentencepiece(TEXTS, path, MIN_VOCAB_SIZE))


def model_of(tokenizer, mesh, **sizes):
    config = ModelConfig(
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=64,
        compute_dtype="float32",
        **sizes,
    )
    return build_model(config, tokenizer.vocab_size, batch_sharding(mesh))


def scaled(params):
    """Weights large enough for a peaked policy."""
    return jax.tree.map(lambda x: x * 3 if x.ndim > 2 else x, params)


class Step:
    """A step over a mesh: a small student and a larger teacher, or its own average."""

    def __init__(self, tokenizer, sizes=(1, 1, 1), optimizer=None, itself=False):
        self.mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
        self.optimizer = optimizer or optax.adamw(1e-3)
        self.student = model_of(tokenizer, self.mesh, num_layers=1, hidden_size=16)
        teacher, params = self.student, None
        if not itself:
            teacher = model_of(tokenizer, self.mesh, num_layers=2, hidden_size=32)
            where = shardings(self.mesh, LEARNER_RULES, teacher.axes)
            params = jax.device_put(scaled(teacher.init(jax.random.key(2))), where)
        program = make_distill_program(
            self.student, teacher, self.optimizer, tokenizer, STAGE, self.mesh
        )
        self.step = compile_distill_step(program, params)

    def start(self):
        state = init_state(scaled(self.student.init(jax.random.key(1))), self.optimizer, 0)
        return jax.device_put(state, state_shardings(self.mesh, self.student, self.optimizer))

    def batch(self, tokenizer):
        items = [{"messages": [{"role": "user", "content": text}]} for text in TEXTS]
        shown = [{"messages": [{"role": "user", "content": f"{text}: 7"}]} for text in TEXTS]
        prompts = (encode_prompts(rows, tokenizer, 48, "x.jsonl") for rows in (items, shown))
        ids, draws = np.arange(B, dtype=np.int32), np.zeros(B, np.int32)
        batch = DistillBatch(*(Prompts(*rows) for rows in prompts), ids, draws)
        return jax.device_put(batch, batch_sharding(self.mesh))


def test_a_step_counts_and_learns_without_the_host(tokenizer):
    made = Step(tokenizer)
    batch = made.batch(tokenizer)
    compiled = made.step.func.lower(*made.step.args, made.start(), batch).compile()
    assert not re.search(r"infeed|outfeed|callback|\bsend\(|\brecv\(", compiled.as_text())
    state, metrics = compiled(*made.step.args, made.start(), batch)
    assert int(state.step) == 1 and int(state.cursor) == B
    assert metrics["loss"] > 0.001 and metrics["grad_norm"] > 0
    assert metrics["sampler_learner_logprob_gap"] < 1e-5
    assert 0 < metrics["completion_tokens"] <= B * 2 * 12


def test_the_teacher_that_is_an_average_is_in_the_state(tokenizer):
    made = Step(tokenizer, optimizer=with_average(optax.sgd(0.5), 0.25), itself=True)
    before = jax.device_get(made.start())
    state, metrics = made.step(made.start(), made.batch(tokenizer))
    assert metrics["loss"] > 1e-4  # as the prompts differ
    for old, new, average in zip(
        *(jax.tree.leaves(x) for x in (before.params, state.params, state.opt_state.average)),
        strict=True,
    ):
        np.testing.assert_allclose(average, 0.75 * old + 0.25 * new, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def gradient(tokenizer):
    """The gradient over a mesh, and the number of tokens that it was taken of.

    Plain gradient descent with rate 1 turns the update into the gradient itself.
    """

    @functools.cache
    def over(mesh, itself):
        optimizer = with_average(optax.sgd(1.0), 0.5) if itself else optax.sgd(1.0)
        made = Step(tokenizer, mesh, optimizer, itself)
        before = jax.device_get(made.start().params)
        state, metrics = made.step(made.start(), made.batch(tokenizer))
        after = jax.device_get(state.params)
        leaves = jax.tree.leaves(jax.tree.map(np.subtract, before, after))
        found = np.concatenate([leaf.ravel().astype(np.float64) for leaf in leaves])
        return found, int(metrics["completion_tokens"])

    return over


@pytest.mark.parametrize(("mesh", "itself"), MESHES)
def test_a_mesh_gives_the_same_gradient(mesh, itself, gradient):
    expected, tokens = gradient((1, 1, 1), itself)
    found, found_tokens = gradient(mesh, itself)
    assert found_tokens == tokens
    # Weights are of order 1, so that their difference loses digits which the gradient has.
    rounding = np.sqrt(expected.size) * np.finfo(np.float32).eps
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected) + rounding
    assert np.linalg.norm(expected) > 0.01
