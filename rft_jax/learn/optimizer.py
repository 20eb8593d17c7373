"""The optimizer and the training state that it updates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax import Array

from rft_jax.config import OptimizerConfig
from rft_jax.models import Model, Params, over_matrices, split
from rft_jax.parallel import LEARNER_RULES, AnyMesh, Shardings, replicated, shardings
from rft_jax.utils.types import PyTree


class Frozen(NamedTuple):
    """Weights that do not change in a stage, and are in no checkpoint."""

    base: Params | None = None  # those under the adapters, of a model that has some
    reference: Params | None = None  # the first `params`, if the loss compares with their policy


class TrainState(NamedTuple):
    """All that a step reads and writes; donated to it.

    The optimizer and the gradient see `params` only: all weights, or the adapters of a model that
    has some.
    """

    params: Params  # float32
    frozen: Frozen
    opt_state: optax.OptState
    step: Array  # int32, steps done in this stage
    cursor: Array  # int32, items consumed in this stage
    seed: Array  # uint32, of the run
    skipped: Array  # int32, updates in a row that were left out, the gradient not being finite


def weights(model: Model, state: TrainState) -> Params:
    """All that the model computes with."""
    return model.adapt(state.params, state.frozen.base)


def make_optimizer(
    config: OptimizerConfig, steps: int, updates: int = 1, *, lora: bool = False
) -> optax.GradientTransformation:
    """Global-norm clip, then AdamW or Muon under the configured schedule.

    Args:
        steps: The stage's, over which the schedule goes.
        updates: Optimizer updates in a step.
        lora: Whether adapters are trained, which have a default rate of their own.
    """
    peak, warmup = config.peak_learning_rate(lora), config.warmup_steps * updates
    first = peak / (warmup + 1)  # not 0, with which a step would be for nothing
    if config.schedule == "cosine":
        schedule = optax.warmup_cosine_decay_schedule(
            first, peak, warmup, steps * updates, 0.1 * peak
        )
    else:
        schedule = optax.warmup_constant_schedule(first, peak, warmup)
    decay = config.weight_decay
    if config.name == "muon":
        optimizer = optax.contrib.muon(
            schedule,
            eps=config.eps,
            weight_decay=decay,
            adam_b1=config.b1,
            adam_b2=config.b2,
            adam_weight_decay=decay,
            muon_weight_dimension_numbers=_layers_matrices,
            consistent_rms=0.2,
        )
    else:
        optimizer = optax.adamw(schedule, config.b1, config.b2, config.eps, weight_decay=decay)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def _layers_matrices(params: Params) -> dict[str, PyTree]:
    """For Muon: over which axes the layers' matrices are summed; None for all other weights."""
    layers = over_matrices(
        {name: tree for name, tree in params.items() if isinstance(tree, dict)},  # stacks of layers
        lambda _, inputs, outputs: optax.contrib.MuonDimensionNumbers(inputs, outputs),
        lambda _: None,
    )
    return {**dict.fromkeys(params), **layers}


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    seed: int | Array,
    *,
    reference: bool = False,
) -> TrainState:
    """The state before the first step.

    Args:
        params: All weights of the model.
        reference: Keep a copy of the trainable ones.
    """
    trainable, base = split(params)
    frozen = Frozen(base or None, jax.tree.map(jnp.copy, trainable) if reference else None)
    return TrainState(
        params=trainable,
        frozen=frozen,
        opt_state=optimizer.init(trainable),
        step=jnp.zeros((), jnp.int32),
        cursor=jnp.zeros((), jnp.int32),
        seed=jnp.asarray(seed, jnp.uint32),
        skipped=jnp.zeros((), jnp.int32),
    )


def state_shardings(
    mesh: AnyMesh, model: Model, optimizer: optax.GradientTransformation, *, reference: bool = False
) -> Shardings:
    """Shardings of a `TrainState`: the optimizer's moments lie as their weights do."""
    trainable, base = split(shardings(mesh, LEARNER_RULES, model.axes))
    whole = replicated(mesh)
    shape = jax.eval_shape(
        lambda: init_state(model.init(jax.random.key(0)), optimizer, 0, reference=reference)
    )
    by_path = dict(jax.tree.leaves_with_path(trainable))

    def moment(path: tuple, _: PyTree) -> PyTree:
        """Below whichever state of the optimizer, a weight's moment has the weight's path."""
        ends = (path[at:] for at in range(len(path)))
        return next((by_path[end] for end in ends if end in by_path), whole)

    return shape._replace(
        params=trainable,
        frozen=Frozen(base or None, trainable if reference else None),
        opt_state=jax.tree.map_with_path(moment, shape.opt_state),
        step=whole,
        cursor=whole,
        seed=whole,
        skipped=whole,
    )


def apply_gradient(
    optimizer: optax.GradientTransformation, state: TrainState, gradient: Params
) -> tuple[TrainState, dict[str, Array]]:
    """One optimizer step, left out where the gradient is not finite; step and cursor stay.

    Returns:
        The state, and as metrics the gradient's norm before clipping and `TrainState.skipped`.
    """
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(norm)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    updated = optax.apply_updates(state.params, updates), opt_state
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), updated, (state.params, state.opt_state)
    )
    skipped = jnp.where(finite, 0, state.skipped + 1)
    state = state._replace(params=params, opt_state=opt_state, skipped=skipped)
    return state, {"grad_norm": norm, "skipped_updates": skipped}


class Averaged(NamedTuple):
    """The state of an optimizer `with_average`."""

    optimizer: optax.OptState
    average: Params  # float32, of the trainable weights


def with_average(
    optimizer: optax.GradientTransformation, rate: float
) -> optax.GradientTransformation:
    """The optimizer, with an exponential moving average of the weights that it trains.

    average = (1 - rate) average + rate params after each update, and params before the first one.
    It is a part of the optimizer's state, so that it is sharded, checkpointed and left as it is by
    updates that are left out.

    Args:
        rate: In [0, 1]; 1: the weights themselves, 0: the first ones.
    """

    def init(params: Params) -> Averaged:
        return Averaged(optimizer.init(params), jax.tree.map(jnp.copy, params))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Averaged]:
        assert isinstance(state, Averaged) and params is not None, "it averages the weights"
        updates, inner = optimizer.update(updates, state.optimizer, params)
        average = jax.tree.map(
            lambda old, new: (1 - rate) * old + rate * new,
            state.average,
            optax.apply_updates(params, updates),
        )
        return updates, Averaged(inner, average)

    return optax.GradientTransformation(init, update)


def averaged_weights(model: Model, state: TrainState) -> Params:
    """What the model computes with, its trained weights averaged; see `with_average`."""
    assert isinstance(state.opt_state, Averaged), "this optimizer keeps no average"
    return model.adapt(state.opt_state.average, state.frozen.base)
