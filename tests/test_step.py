"""The RFT step: one program, on any mesh, without the host."""

import dataclasses
import functools
import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rft_jax.config import (
    MeshConfig,
    ModelConfig,
    PolicyLossConfig,
    PolicyLossSettings,
    RLStage,
    RolloutConfig,
)
from rft_jax.data import batch_at, encode_prompts
from rft_jax.graders import Grade, Items, build_grader, load_grader
from rft_jax.host_step import Batches, make_host_sampler, make_host_step
from rft_jax.learn.optimizer import init_state, make_optimizer
from rft_jax.models import build_model
from rft_jax.parallel import batch_sharding, make_mesh
from rft_jax.rollout import FrozenJudge, completion_keys
from rft_jax.runs.batches import bucketed, make_batch
from rft_jax.runs.datasets import PromptData
from rft_jax.step import (
    compare,
    compile_sampler,
    compile_step,
    grade_completed,
    make_program,
    train_shardings,
)
from rft_jax.tokenizers import SentencePieceTokenizer, train_sentencepiece
from rft_jax.tokenizers.spm import MIN_VOCAB_SIZE
from rft_jax.utils.errors import InputError

LEARNING_RATE = 1e-3
CALLS_OF_THE_HOST = r"infeed|outfeed|callback|\bsend\(|\brecv\("
TEXTS = [f"case {i}: {'seizure ' * (i % 4)}ataxia" for i in range(24)]
# A reward that random text earns often and unequally: an `e` or a `7` in the answer.
GRADER = {
    "type": "multi",
    "name": "letters",
    "graders": {
        letter: {
            "type": "string_check",
            "name": letter,
            "input": "{{ sample.output_text }}",
            "reference": f"{{{{ item.{letter} }}}}",
            "operation": "ilike",
        }
        for letter in ("first", "second")
    },
    "calculate_output": "0.75 * first + 0.25 * second",
}
MESHES = [(2, 2, 2), (1, 2, 2), (8, 1, 1), (1, 8, 1), (4, 1, 2)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return SentencePieceTokenizer(train_sentencepiece(TEXTS, path, MIN_VOCAB_SIZE))


@pytest.fixture(scope="module")
def grader():
    return build_grader(load_grader(GRADER))


@pytest.fixture(scope="module")
def items(tokenizer, grader):
    rows = [
        {"messages": [{"role": "user", "content": text}], "first": "e", "second": "7"}
        for text in TEXTS
    ]
    prompts = encode_prompts(rows, tokenizer, 40, "train.jsonl")
    return PromptData("train.jsonl", rows, prompts, grader.encode_items(rows, "train.jsonl"))


def make(tokenizer, grader, mesh=(1, 1, 1), optimizer=None, **settings):
    stage = RLStage(
        steps=4,
        batch_size=8,
        rollout=RolloutConfig(
            group_size=4,
            max_prompt_tokens=40,
            max_completion_tokens=12,
            output_bytes=64,
            reasoning_effort=4,
        ),
        policy_loss=PolicyLossConfig(logit_chunk=5),
    )
    stage = dataclasses.replace(stage, **settings)
    config = ModelConfig(
        num_layers=2,
        hidden_size=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=64,
        compute_dtype="float32",
    )
    mesh = make_mesh(MeshConfig(*mesh), jax.devices()[: int(np.prod(mesh))])
    model = build_model(config, tokenizer.vocab_size, batch_sharding(mesh))
    optimizer = optimizer or optax.adamw(LEARNING_RATE, weight_decay=0.0)
    return make_program(model, optimizer, grader, tokenizer, stage, mesh)


def start(program, seed=0):
    """A fresh state in its place on the mesh; weights large enough for a peaked policy."""
    learner = program.learner
    params = learner.model.init(jax.random.key(1))
    params = jax.tree.map(lambda x: x * 3 if x.ndim > 2 else x, params)
    state = init_state(params, learner.optimizer, seed, reference=learner.needs_reference)
    return jax.device_put(state, train_shardings(program.sampler.mesh, learner))


def batch_of(program, items, k):
    size = program.batch_size
    rows = batch_at(len(items.items), size, k * size, seed=0)
    batch = make_batch(items, rows.indices_B, rows.draw_B)
    return jax.device_put(batch, batch_sharding(program.sampler.mesh))


def run(program, items, steps, step=None):
    step, state, outputs = step or compile_step(program), start(program), []
    for k in range(steps):
        state, output = step(state, batch_of(program, items, k))
        outputs.append(jax.device_get(output))
    return jax.device_get(state), outputs


@pytest.fixture(scope="module")
def reference(tokenizer, grader):
    """The program without any option, and its step."""
    program = make(tokenizer, grader)
    return program, compile_step(program)


@pytest.fixture(scope="module")
def reference_run(reference, items):
    program, step = reference
    return run(program, items, 3, step)


def test_rewards_differ_within_groups_and_move_the_weights(reference_run, tokenizer, grader):
    state, outputs = reference_run
    assert any(output.metrics["grad_norm"] > 0 for output in outputs)
    assert any(np.abs(output.samples.advantage_BG).max() > 0 for output in outputs)
    assert all(output.samples.grade.valid.all() for output in outputs)
    assert int(state.step) == 3 and int(state.cursor) == 24


def test_sampler_and_learner_agree_on_log_probabilities(reference_run):
    for output in reference_run[1]:
        assert output.metrics["sampler_learner_logprob_gap"] < 1e-5


def test_a_rollout_in_eight_bits_is_corrected(tokenizer, grader, items):
    plain = make(tokenizer, grader)
    rollout = dataclasses.replace(plain.sampler.config, int8_weights=True, int8_cache=True)
    loss = dataclasses.replace(plain.learner.config, importance="tis")
    program = make(tokenizer, grader, (2, 2, 2), rollout=rollout, policy_loss=loss)
    _, (output,) = run(program, items, steps=1)
    assert 1e-4 < output.metrics["sampler_learner_logprob_gap"] < 0.1
    assert 0 < output.metrics["grad_norm"] < np.inf


def test_truncated_sampling_shows_in_the_gap(tokenizer, grader, items):
    rollout = dataclasses.replace(make(tokenizer, grader).sampler.config, top_k=20)
    _, (output,) = run(make(tokenizer, grader, rollout=rollout), items, steps=1)
    assert output.metrics["sampler_learner_logprob_gap"] > 0.1


def test_graded_text_is_the_answer_s_decoding(reference_run, tokenizer):
    samples = reference_run[1][0].samples
    rollout, text, _ = samples.completed
    for index in np.ndindex(rollout.length_BG.shape):
        answer = slice(rollout.answer_start_BG[index], rollout.answer_end_BG[index])
        expected = tokenizer.decode(rollout.tokens_BGT[index][answer].tolist()).encode()
        found = text.bytes[index][: text.length[index]].tobytes()
        assert found == expected
        assert samples.grade.reward[index] == pytest.approx(
            0.75 * (b"e" in expected.lower()) + 0.25 * (b"7" in expected)
        )


def assert_moved_alike(state, expected, tokenizer, grader):
    """Every weight within the learning rate per step, and all together moved the same way."""
    first = jax.device_get(start(make(tokenizer, grader)).params)
    apart = moved = 0.0
    leaves = (jax.tree.leaves(tree) for tree in (state.params, expected.params, first))
    for ours, theirs, before in zip(*leaves, strict=True):
        assert np.abs(ours - theirs).max() <= 3 * LEARNING_RATE
        apart += np.square(ours - theirs, dtype=np.float64).sum()
        moved += np.square(theirs - before, dtype=np.float64).sum()
    # Where a gradient is rounding noise, the sign that Adam makes of it may differ.
    assert np.sqrt(apart) <= 0.02 * np.sqrt(moved)


def test_a_mesh_changes_nothing(reference_run, tokenizer, grader, items):
    """Same samples, and weights within the learning rate per step (Adam's step is its sign).

    And the compiled program never calls the host.
    """
    program = make(tokenizer, grader, MESHES[0])
    step = compile_step(program)
    lowered = step.func.lower(*step.args, start(program), batch_of(program, items, 0))
    compiled = lowered.compile()
    assert not re.search(CALLS_OF_THE_HOST, compiled.as_text())
    state, outputs = run(program, items, 3, functools.partial(compiled, *step.args))
    expected_state, expected = reference_run
    for ours, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(
            ours.samples.completed.rollout.tokens_BGT, theirs.samples.completed.rollout.tokens_BGT
        )
        np.testing.assert_allclose(ours.samples.grade.reward, theirs.samples.grade.reward)
    assert_moved_alike(state, expected_state, tokenizer, grader)


def test_slots_change_nothing(reference_run, tokenizer, grader, items):
    """Each of four pairs of devices has two slots for the eight completions of its two prompts."""
    rollout = dataclasses.replace(make(tokenizer, grader).sampler.config, slots=8)
    state, outputs = run(make(tokenizer, grader, (2, 2, 2), rollout=rollout), items, steps=3)
    expected_state, expected = reference_run
    for ours, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(
            ours.samples.completed.rollout.tokens_BGT, theirs.samples.completed.rollout.tokens_BGT
        )
    assert_moved_alike(state, expected_state, tokenizer, grader)


@pytest.fixture(scope="module")
def gradient(tokenizer, grader, items):
    """The gradient over a mesh, and the tokens that it was taken of.

    Plain gradient descent with rate 1 turns the update into the gradient itself.
    """

    @functools.cache
    def over(mesh):
        program = make(tokenizer, grader, mesh, optax.sgd(1.0))
        before = jax.device_get(start(program).params)
        after, (output,) = run(program, items, steps=1)
        leaves = jax.tree.leaves(jax.tree.map(np.subtract, before, after.params))
        found = np.concatenate([leaf.ravel().astype(np.float64) for leaf in leaves])
        return found, output.samples.completed.rollout.tokens_BGT

    return over


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_gives_the_same_gradient(mesh, gradient):
    (expected, tokens_BGT), (found, found_BGT) = gradient((1, 1, 1)), gradient(mesh)
    np.testing.assert_array_equal(found_BGT, tokens_BGT)
    # Weights are of order 1, so that their difference loses digits which the gradient has.
    rounding = np.sqrt(expected.size) * np.finfo(np.float32).eps
    assert np.linalg.norm(expected) > 0.1
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected) + rounding


JUDGE = {
    "type": "multi",
    "graders": {
        "letters": GRADER["graders"]["first"],
        "judge": {
            "type": "score_model",
            "model": "device:judge",
            "input": [{"role": "user", "content": "{{item.second}}: {{sample.output_text}}"}],
            "scale": [0, 5],
        },
    },
    "calculate_output": "0.5 * letters + 0.5 * judge",
}


def judged(tokenizer, items, mesh):
    """The step's program with a judge of its own weights, and the items for it."""
    policy = make(tokenizer, None, mesh)
    model, mesh = policy.sampler.model, policy.sampler.mesh
    judge = FrozenJudge(model, tokenizer, mesh, lambda: start(policy, seed=3).params)
    grader = build_grader(load_grader(JUDGE)).open_judges(lambda path: judge)
    fields = grader.encode_items(items.items, items.source)
    grading = dataclasses.replace(policy.grading, grader=grader)
    program = dataclasses.replace(policy, grading=grading)
    return program, dataclasses.replace(items, item_fields=fields)


def test_a_judge_runs_inside_of_the_compiled_step(tokenizer, items):
    program, data = judged(tokenizer, items, (2, 2, 2))
    step, state, batch = compile_step(program), start(program), batch_of(program, data, 0)
    compiled = step.func.lower(*step.args, state, batch).compile()
    assert not re.search(CALLS_OF_THE_HOST, compiled.as_text())
    with jax.transfer_guard("disallow"):
        _, output = compiled(*step.args, state, batch)
    grade = jax.device_get(output.samples.grade)
    assert grade.valid.all() and np.ptp(grade.scores["judge"]) > 0
    assert (np.asarray(grade.details["judge/verdict_probability"]) > 0).all()
    # The same answers, read once more outside of the step and the mesh.
    one, _ = judged(tokenizer, items, (1, 1, 1))
    completed, fields = jax.device_get((output.samples.completed, batch.item_fields))
    regrade = jax.jit(functools.partial(grade_completed, one.grading))
    again = regrade(completed, fields, None, one.grading.grader.judge_params)
    np.testing.assert_allclose(again.reward, grade.reward, atol=1e-5)


def test_the_state_is_donated_and_the_step_compiles_once(reference, items):
    program, step = reference
    state = start(program)
    with jax.transfer_guard("disallow"):
        for k in range(3):
            old, batch = state, batch_of(program, items, k)
            state, _ = step(state, batch)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))
    assert step.func._cache_size() == 1


def test_a_run_is_a_function_of_its_seed(tokenizer, grader, items, reference_run):
    program = make(tokenizer, grader)
    step = compile_step(program)
    again = run(program, items, 3, step)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(reference_run), strict=True):
        np.testing.assert_array_equal(a, b)
    _, other = step(start(program, seed=1), batch_of(program, items, 0))
    assert (
        other.samples.completed.rollout.tokens_BGT
        != again[1][0].samples.completed.rollout.tokens_BGT
    ).any()


def test_micro_batches_and_chunks_change_memory_only(tokenizer, grader, items, reference_run):
    loss = PolicyLossConfig(gradient_accumulation=4, logit_chunk=100)
    state, outputs = run(make(tokenizer, grader, policy_loss=loss), items, steps=1)
    assert outputs[0].metrics["loss"] == pytest.approx(
        reference_run[1][0].metrics["loss"], abs=1e-6
    )
    assert outputs[0].metrics["grad_norm"] == pytest.approx(
        reference_run[1][0].metrics["grad_norm"], rel=1e-5
    )


@pytest.mark.parametrize("truncated", ["mask", "zero"])
def test_truncated_samples_are_treated_as_configured(truncated, tokenizer, grader, items):
    program = make(tokenizer, grader)
    rollout = dataclasses.replace(program.sampler.config, truncated_completions=truncated)
    program = make(tokenizer, grader, rollout=rollout)
    _, (output,) = run(program, items, steps=1)
    stopped = output.samples.completed.rollout.stopped_BG
    assert not stopped.all()
    if truncated == "mask":
        np.testing.assert_array_equal(output.samples.grade.valid, stopped)
        assert (output.samples.advantage_BG[~stopped] == 0).all()
    else:
        assert output.samples.grade.valid.all()
        assert (output.samples.grade.reward[~stopped] == 0).all()


@pytest.mark.slow
def test_the_reference_policy_stays_while_the_policy_moves(tokenizer, grader, items):
    loss = PolicyLossConfig(kl_coefficient=0.1)
    program = make(tokenizer, grader, policy_loss=loss)
    first = jax.device_get(start(program).params)
    state, outputs = run(program, items, steps=3)
    kept = jax.tree.map(np.array_equal, state.frozen.reference, first)
    assert all(jax.tree.leaves(kept))
    assert outputs[0].metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert outputs[2].metrics["kl"] > 0


def test_evaluation_samples_do_not_depend_on_the_batch(tokenizer, grader, items):
    program = make(tokenizer, grader, (2, 1, 1))
    sampler, params = compile_sampler(program.sampler, program.grading), start(program).params

    def tokens(rows):
        rows = np.asarray(rows)
        batch = make_batch(items, rows, np.zeros_like(rows))
        keys = completion_keys(
            jnp.uint32(0), jnp.int32(0), batch.prompt_id_B, jnp.asarray(batch.draw_B), 3
        )
        output = sampler(
            params, *jax.device_put((batch, keys), batch_sharding(program.sampler.mesh))
        )
        return jax.device_get(output.completed.rollout.tokens_BGT)

    np.testing.assert_array_equal(tokens([3, 1, 7, 5])[[1, 3]], tokens([1, 5]))


ROUNDS = 4


@pytest.fixture(scope="module")
def hard_items(items, grader):
    """Two of three have references that no answer has, so that all their samples earn 0."""
    rows = [
        row | ({"first": "never", "second": "never"} if index % 3 else {})
        for index, row in enumerate(items.items)
    ]
    fields = grader.encode_items(rows, items.source)
    return dataclasses.replace(items, items=rows, item_fields=fields)


def batches_at(program, items, cursor):
    """The input of a step with dynamic sampling, as the run loop makes it."""
    size, place = program.batch_size, batch_sharding(program.sampler.mesh)
    rows = [batch_at(len(items.items), size, cursor + r * size, seed=0) for r in range(ROUNDS)]
    return jax.device_put(tuple(make_batch(items, *row) for row in rows), place)


def run_dynamic(program, step, items, steps):
    state, outputs, cursors = start(program), [], [0]
    for _ in range(steps):
        state, output = step(state, batches_at(program, items, int(state.cursor)))
        outputs.append(jax.device_get(output))
        cursors.append(int(state.cursor))
    return jax.device_get(state), outputs, cursors


@pytest.fixture(scope="module")
def dynamic_step(tokenizer, grader):
    program = make(tokenizer, grader, max_resample_batches=ROUNDS)
    return program, compile_step(program)


@pytest.fixture(scope="module")
def dynamic_run(dynamic_step, hard_items):
    return run_dynamic(*dynamic_step, hard_items, steps=2)


def test_dynamic_sampling_takes_the_first_groups_that_differ_in_reward(
    dynamic_run, tokenizer, grader, hard_items
):
    """Against each round sampled and graded by itself."""
    program = make(tokenizer, grader)
    state, (output, _), cursors = start(program), *dynamic_run[1:]
    sampler, kept = compile_sampler(program.sampler, program.grading), []
    for batch in batches_at(program, hard_items, 0):
        keys_BG = completion_keys(state.seed, state.step, batch.prompt_id_B, batch.draw_B, 4)
        samples = jax.device_get(sampler(state.params, batch, keys_BG))
        tokens_BGT = samples.completed.rollout.tokens_BGT
        kept += zip(samples.prompt_id_B, tokens_BGT, samples.grade.reward, strict=True)
    unequal = [index for index, (_, _, reward_G) in enumerate(kept) if np.ptp(reward_G)][:8]
    assert len(unequal) == 8 and unequal != list(range(8))
    prompt_id_B, tokens_BGT, reward_BG = zip(*[kept[index] for index in unequal], strict=True)
    np.testing.assert_array_equal(output.samples.prompt_id_B, prompt_id_B)
    np.testing.assert_array_equal(output.samples.completed.rollout.tokens_BGT, tokens_BGT)
    np.testing.assert_array_equal(output.samples.grade.reward, reward_BG)
    assert (np.abs(output.samples.advantage_BG).max(axis=1) > 0).all()
    assert cursors[1] == unequal[-1] + 1
    sampled = kept[: -(-cursors[1] // 8) * 8]
    found = output.metrics
    assert found["sampled_prompts"] == len(sampled) and found["zero_std_groups_fraction"] == 0
    np.testing.assert_allclose(
        found["sampled_reward_mean"], np.mean([reward for *_, reward in sampled]), rtol=1e-6
    )
    np.testing.assert_allclose(
        found["sampled_zero_std_groups_fraction"],
        np.mean([np.ptp(reward) == 0 for *_, reward in sampled]),
        rtol=1e-6,
    )


def test_without_enough_groups_that_differ_the_rest_teaches_nothing(
    dynamic_step, grader, hard_items
):
    rows = [row | {"first": "never", "second": "never"} for row in hard_items.items]
    rows[5] = hard_items.items[0]
    fields = grader.encode_items(rows, hard_items.source)
    items = dataclasses.replace(hard_items, items=rows, item_fields=fields)
    _, (output,), cursors = run_dynamic(*dynamic_step, items, steps=1)
    assert cursors == [0, 8 * ROUNDS] and output.metrics["sampled_prompts"] == 8 * ROUNDS
    teaches_B = np.abs(output.samples.advantage_BG).max(axis=1) > 0
    assert 1 <= teaches_B.sum() <= 2  # of one epoch and of a third of the next
    assert (output.samples.prompt_id_B[teaches_B] == 5).all()


@pytest.mark.slow
def test_dynamic_sampling_is_the_same_on_a_mesh(dynamic_run, tokenizer, grader, hard_items):
    program = make(tokenizer, grader, (2, 2, 2), max_resample_batches=ROUNDS)
    state, outputs, cursors = run_dynamic(program, compile_step(program), hard_items, steps=2)
    assert cursors == dynamic_run[2]
    for ours, theirs in zip(outputs, dynamic_run[1], strict=True):
        np.testing.assert_array_equal(ours.samples.prompt_id_B, theirs.samples.prompt_id_B)
        np.testing.assert_array_equal(
            ours.samples.completed.rollout.tokens_BGT, theirs.samples.completed.rollout.tokens_BGT
        )
    assert_moved_alike(state, dynamic_run[0], tokenizer, grader)


@pytest.mark.slow
def test_a_shorter_static_length_of_prompts_changes_nothing(reference, items, reference_run):
    program, step = reference
    rows = batch_at(len(items.items), program.batch_size, 0, seed=0)
    longest = int(items.prompts.length_M[rows.indices_B].max())
    batch = make_batch(items, rows.indices_B, rows.draw_B, longest)
    assert batch.prompts.tokens_BP.shape[1] < program.sampler.config.max_prompt_tokens
    _, output = step(start(program), batch)
    expected = reference_run[1][0]
    np.testing.assert_array_equal(
        output.samples.completed.rollout.tokens_BGT,
        expected.samples.completed.rollout.tokens_BGT,
    )
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(output.metrics[name], expected.metrics[name], rtol=1e-4)


def test_a_batch_takes_the_shortest_bucket_that_holds_its_prompts(items):
    order = np.argsort(items.prompts.length_M)
    shortest, longest = items.prompts.length_M[order[[0, -1]]]
    config = RolloutConfig(max_prompt_tokens=2 * int(shortest), prompt_buckets=2)
    assert shortest < longest <= 2 * shortest
    assert bucketed(items, order[:1], config) == shortest
    assert bucketed(items, order, config) == 2 * shortest


@pytest.fixture(scope="module")
def host_grader():
    return build_grader(load_grader(GRADER), "host")


@pytest.mark.parametrize(
    ("mesh", "chunks"), [((1, 1, 1), 4), pytest.param((2, 2, 2), 3, marks=pytest.mark.slow)]
)
def test_grading_on_the_host_changes_nothing(
    mesh, chunks, tokenizer, host_grader, items, reference_run
):
    program = make(tokenizer, host_grader, mesh)
    rows = Items(items.items, items.source)
    with host_grader.open_host() as host:
        step, state = make_host_step(program, host, rows, chunks), start(program)
        for k, expected in enumerate(reference_run[1]):
            with jax.transfer_guard("disallow"):
                state, output = step(state, Batches(batch_of(program, items, k)))
            output = jax.device_get(output)
            np.testing.assert_array_equal(
                output.samples.completed.rollout.tokens_BGT,
                expected.samples.completed.rollout.tokens_BGT,
            )
            np.testing.assert_array_equal(
                output.samples.grade.reward, expected.samples.grade.reward
            )
            assert 0 <= output.metrics.pop("timing/host_wait_fraction") <= 1
            assert output.metrics.keys() == expected.metrics.keys()
    assert_moved_alike(jax.device_get(state), reference_run[0], tokenizer, host_grader)


@pytest.mark.slow
def test_samples_ahead_are_those_of_the_policy_before_the_update(
    tokenizer, host_grader, items, reference_run
):
    """On the noise of their own step; and the importance weights see it."""
    loss = PolicyLossConfig(importance="tis", logit_chunk=5)
    settings = {"async_rollout": True, "policy_loss": loss}
    program = make(tokenizer, host_grader, **settings)
    batches = [batch_of(program, items, k) for k in range(2)]

    with host_grader.open_host() as host:
        step = make_host_step(program, host, Items(items.items, items.source), chunks=4)
        state, outputs = start(program), []
        for batch, ahead in itertools.pairwise([*batches, None]):
            with jax.transfer_guard("disallow"):
                state, output = step(state, Batches(batch, ahead))
            outputs.append(jax.device_get(output))

    def tokens(output):
        return output.samples.completed.rollout.tokens_BGT

    unchanged = make(tokenizer, build_grader(load_grader(GRADER)), optimizer=optax.set_to_zero())
    before_update = run(unchanged, items, 2)[1][1]
    np.testing.assert_array_equal(tokens(outputs[0]), tokens(reference_run[1][0]))
    np.testing.assert_array_equal(tokens(outputs[1]), tokens(before_update))
    assert (
        outputs[0].metrics["sampler_learner_logprob_gap"]
        < 1e-5
        < 1e-3
        < outputs[1].metrics["sampler_learner_logprob_gap"]
    )


class Noted:
    """Notes of which items' samples the host was asked."""

    def __init__(self, host):
        self.host, self.rows = host, []

    def grade(self, samples, items, rows):
        self.rows += list(rows)
        return self.host.grade(samples, items, rows)


def test_uniform_groups_leave_the_loss_where_that_is_asked_for():
    """With parts of a `multi` side by side, a group is uniform if all of its parts are."""
    parts = {
        "a": jnp.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]),
        "b": jnp.array([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]]),
    }
    valid = jnp.ones((3, 2), bool).at[1, 1].set(False)
    grade = Grade(parts["a"] + parts["b"], valid, parts, {}, {})
    mask = jnp.ones((3, 2, 4), bool)

    def entering(**settings):
        advantage, found = compare(mask, grade, PolicyLossSettings(**settings))
        assert not advantage[~found].any()
        return found.any(axis=1).tolist()

    assert entering() == [True, True, True]
    assert entering(drop_uniform_groups=True) == [False, False, False]
    assert entering(drop_uniform_groups=True, reward_parts="separate") == [True, False, False]


@pytest.mark.slow
def test_samples_ahead_are_centered_by_the_weights_that_drew_them(tokenizer, host_grader, items):
    """At the first step sampler and learner are one, and the term changes nothing."""

    def after(**settings):
        # Importance weights that are not truncated would leave nothing to center.
        loss = PolicyLossConfig(logit_chunk=5, importance="none", **settings)
        program = make(tokenizer, host_grader, async_rollout=True, policy_loss=loss)
        batches = [batch_of(program, items, k) for k in range(2)]
        with host_grader.open_host() as host:
            step = make_host_step(program, host, Items(items.items, items.source), chunks=2)
            state, found = start(program), []
            for batch, ahead in itertools.pairwise([*batches, None]):
                with jax.transfer_guard("disallow"):
                    state, _ = step(state, Batches(batch, ahead))
                leaves = jax.tree.leaves(jax.device_get(state.params))
                found.append(np.concatenate([np.ravel(leaf) for leaf in leaves]))
        return found

    (first, second), (plain_first, plain_second) = after(score_centering=True), after()
    assert np.isfinite(second).all()
    changed = [np.abs(a - b).mean() for a, b in ((first, plain_first), (second, plain_second))]
    assert changed[0] < 1e-3 * LEARNING_RATE < changed[1]


def test_evaluation_with_a_grader_on_the_host_is_the_same(tokenizer, grader, host_grader, items):
    rows = np.arange(4)
    program = make(tokenizer, grader)
    batch = make_batch(items, rows, np.zeros_like(rows))
    keys = completion_keys(
        jnp.uint32(0), jnp.int32(0), batch.prompt_id_B, jnp.asarray(batch.draw_B), 2
    )
    params = start(program).params
    expected = jax.device_get(
        compile_sampler(program.sampler, program.grading)(params, batch, keys)
    )
    with host_grader.open_host() as host:
        noted = Noted(host)
        program = make(tokenizer, host_grader)
        sampler = make_host_sampler(
            program.sampler, program.grading, noted, Items(items.items, items.source)
        )
        ours = jax.device_get(sampler(params, batch, keys, 3))
    assert noted.rows == [0, 0, 1, 1, 2, 2]  # of the fourth, which fills the batch up, nothing
    np.testing.assert_array_equal(ours.grade.reward[:3], expected.grade.reward[:3])
    np.testing.assert_array_equal(ours.completed.text.bytes, expected.completed.text.bytes)


def test_make_optimizer_follows_its_schedule():
    from rft_jax.config import OptimizerConfig

    config = OptimizerConfig(learning_rate=1e-2, warmup_steps=2, clip_norm=1.0)
    params = {"w": jnp.ones(3)}

    def sizes_of(optimizer, count):
        state, sizes = optimizer.init(params), []
        for _ in range(count):
            updates, state = optimizer.update({"w": jnp.full(3, 100.0)}, state, params)
            sizes.append(float(jnp.abs(updates["w"]).max()))
        return sizes

    sizes = sizes_of(make_optimizer(config, steps=10), 4)
    np.testing.assert_allclose(sizes, [1 / 300, 2 / 300, 1e-2, 1e-2], rtol=1e-3)
    # Two updates a step: the schedule goes over the steps.
    cosine = dataclasses.replace(config, warmup_steps=0, schedule="cosine")
    once, twice = (sizes_of(make_optimizer(cosine, 10, n), 10 * n + 2) for n in (1, 2))
    np.testing.assert_allclose(once[:10], twice[:20:2], rtol=1e-3)
    np.testing.assert_allclose(twice[-1], 1e-3, rtol=1e-3)


FORMAT = {
    "type": "object",
    "properties": {
        "letter": {"enum": ["e", "x"]},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
    },
    "required": ["letter", "words"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("mesh", [(2, 2, 2), pytest.param((1, 1, 1), marks=pytest.mark.slow)])
def test_a_response_format_leaves_valid_json_only(tokenizer, grader, items, mesh):
    config = RolloutConfig(
        group_size=4,
        max_prompt_tokens=40,
        max_completion_tokens=48,
        output_bytes=96,
        reasoning_effort=4,
        response_format=FORMAT,
    )
    loss = PolicyLossConfig(logit_chunk=5, pack_rows=1)
    program = make(tokenizer, grader, mesh, rollout=config, policy_loss=loss)
    _, (output,) = run(program, items, steps=1)
    assert output.metrics["truncated_fraction"] == 0
    assert output.metrics["sampler_learner_logprob_gap"] < 1e-5 and output.metrics["grad_norm"] > 0
    text = output.samples.completed.text
    for b, g in np.ndindex(text.length.shape):
        answer = json.loads(text.bytes[b, g, : text.length[b, g]].tobytes())
        assert list(answer) == ["letter", "words"] and answer["letter"] in ("e", "x")
        assert len(answer["words"]) <= 2 and all(len(word) <= 5 for word in answer["words"])


def test_a_budget_too_small_for_the_response_format_is_refused(tokenizer, grader):
    config = RolloutConfig(max_completion_tokens=12, reasoning_effort=4, response_format=FORMAT)
    with pytest.raises(InputError, match="completion_tokens: 12 are too few .* at least"):
        make(tokenizer, grader, rollout=config)
