"""Temporary bytes and seconds of a step in closed form, to prune with before anything is compiled.

Bytes are counted as XLA for TPUs was seen to lay a step out: what is known from shapes, and the
working set of the layer, or the chunk of logits, that is at work. Seconds are the arithmetic,
the traffic and the collectives that no compiler can avoid, on the roofline. A half of the step is
named as in `aot`.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax

from rft_jax.config import ModelConfig, RLStage, RolloutConfig
from rft_jax.config.update_parts import split_update
from rft_jax.models import Model, base
from rft_jax.models.layer_kinds import Stack, stacks
from rft_jax.models.lora import is_weight
from rft_jax.models.row_attention import cudnn_takes, way_of_partial
from rft_jax.parallel import batch_parts
from rft_jax.plan.aot import PlannedStep
from rft_jax.plan.chips import Chip
from rft_jax.plan.hlo import Cost
from rft_jax.plan.memory import Kept
from rft_jax.plan.roofline import seconds
from rft_jax.rollout.continuous import make_pool, most_tokens
from rft_jax.rollout.decode import segments

# Arrays that are alive together in the backward pass of a layer: of the size of attention's scores,
# of the MLP's hidden layer, of the residual stream; and of a chunk of logits in that of the
# vocabulary's projection; of a mixture of experts, of the size of the residual stream for each
# (token, expert) pair, in a backward pass and in a forward one alone.
SCORES, HIDDEN, STREAM, LOGITS, PAIRS, PREFILL_PAIRS = 3, 6, 8, 4, 4, 3

# How often HBM is crossed, as counted in compiled programs: by a layer's part of the cache in a
# decoded token (sliced out, laid out anew, read), and in the update, with a recomputed forward
# pass, by an array of attention's scores, with a kernel instead by one of all heads' queries, by
# one of the residual stream, and by one of that for each (token, expert) pair. Experts' weights are
# sliced out like the cache. With layers unrolled, both are only read.
CACHE_TRAFFIC, SCORE_TRAFFIC, KERNEL_TRAFFIC, STREAM_TRAFFIC, PAIR_TRAFFIC = 2.5, 20, 48, 40, 55
EXPERT_TRAFFIC = 3

# Of the layers' weights, what is alive twice while they are unstacked.
UNSTACKED = 0.6


class Estimate(NamedTuple):
    """As `Plan` has them."""

    rollout_bytes: float
    update_bytes: float
    activation_bytes: float
    rollout_seconds: float
    update_seconds: float
    rollout_cost: Cost
    update_cost: Cost


class MicroBatches(NamedTuple):
    """The parts of a device's update.

    Attributes:
        prompts: Prompts of a part; with packed rows all, which are run before them.
        samples: Completions of a part, or packed rows that are run at once.
        count: How many parts, of packed rows if every completion is as long as can be.
        again: How often each prompt is run.
    """

    prompts: float
    samples: float
    count: int
    again: int


class Sizes(NamedTuple):
    """Counts on one device, from the program and the mesh.

    Attributes:
        matrix: Weights of a layer's products, those of one expert's share of tokens; of layers of
            several kinds, the mean.
        layer: All weights of a layer.
        experts: Those of its experts; 0 without.
        head: Weights of the vocabulary's projection.
        table: Those of per-layer embeddings, of which a token reads a row; 0 without.
        prompts, completions: Tokens of a step.
        update: How the update goes through them.
    """

    matrix: float
    layer: float
    experts: float
    head: float
    table: float
    prompts: float
    completions: float
    update: MicroBatches


def estimate(program: PlannedStep, kept: Kept, chip: Chip) -> Estimate:
    """The closed form of a step."""
    sizes = count(program)
    activations = activation_bytes(program, sizes)
    rollout, update = rollout_cost(program, sizes, kept), update_cost(program, sizes)
    prefill, decode, tokens = rollout
    total = Cost()
    total.add(prefill)
    total.add(decode, tokens)
    spent = [seconds(chip, c.flops, c.hbm_bytes, c.sent) for c in (prefill, decode, update)]
    return Estimate(
        rollout_bytes=rollout_bytes(program, sizes, kept),
        update_bytes=update_bytes(program, sizes, kept, activations),
        activation_bytes=activations,
        rollout_seconds=spent[0] + tokens * spent[1],
        update_seconds=spent[2],
        rollout_cost=total,
        update_cost=update,
    )


def count(program: PlannedStep) -> Sizes:
    """Counts what a device has to do."""
    c, stage, mesh = program.model.config, program.stage, program.mesh
    tensor, parts = mesh.shape["tensor"], batch_parts(mesh)
    mixing = _of_layers(program, lambda stack: stack.kind.products) / c.num_layers
    hidden = _of_layers(program, lambda stack: _hidden(stack.config)) / c.num_layers
    matrix = mixing + 3 * c.hidden_size * hidden + c.hidden_size * c.experts
    matrix += 3 * c.hidden_size * c.per_layer_size  # to a layer's own numbers, its gate, and back
    per_device, group = max(1, stage.batch_size // parts), stage.rollout.group_size
    return Sizes(
        matrix=matrix / tensor,
        layer=_layer_weights(program.model) / tensor,
        experts=3 * c.hidden_size * c.intermediate_size * c.experts / tensor,
        head=program.model.vocab_size * c.hidden_size / tensor,
        table=program.model.vocab_size * c.num_layers * c.per_layer_size / tensor,
        prompts=per_device * stage.rollout.max_prompt_tokens,
        completions=per_device * group * stage.rollout.max_completion_tokens,
        update=_micro_batches(stage, per_device),
    )


def _micro_batches(stage: RLStage, prompts: int) -> MicroBatches:
    """Those of a device with so many prompts."""
    loss, completions = stage.policy_loss, prompts * stage.rollout.group_size
    if rows := min(loss.pack_rows, completions):
        return MicroBatches(prompts, rows, count=-(-completions // rows), again=1)
    count = loss.gradient_accumulation
    split = split_update(count, prompts)
    return MicroBatches(
        prompts / split.of_prompts, completions / count, count=count, again=split.of_group
    )


def _hidden(config: ModelConfig) -> int:
    """The hidden layer of a token's MLP, or of all its experts."""
    chosen = max(1, config.experts_per_token)
    return config.intermediate_size * chosen + config.shared_expert_size


@functools.cache
def _layer_weights(model: Model) -> float:
    shapes = jax.eval_shape(lambda: base(model.init(jax.random.key(0))))
    layers = [shapes[name] for name in stacks(model.config)]
    sizes = (math.prod(leaf.shape) for leaf in jax.tree.leaves(layers, is_leaf=is_weight))
    return sum(sizes) / model.config.num_layers


def _of_layers(program: PlannedStep, count: Callable[[Stack], float]) -> float:
    """What is counted in a layer of a stack, of all layers."""
    made = stacks(program.model.config).values()
    return sum(len(stack.layers) * count(stack) for stack in made)


def _keys(program: PlannedStep) -> float:
    """Keys and values that are kept of a token in all layers, in numbers."""
    return _of_layers(program, lambda stack: stack.kind.keys)


def _queries(program: PlannedStep) -> float:
    """Queries of a token in all layers, in numbers."""
    return _of_layers(program, lambda stack: stack.kind.queries)


def _attention_layers(program: PlannedStep) -> float:
    """Layers with queries, whose scores are counted."""
    return _of_layers(program, lambda stack: stack.kind.queries > 0)


def _widest(program: PlannedStep) -> int:
    """The hidden layer of a token's widest MLP, or of all its experts."""
    return max(_hidden(stack.config) for stack in stacks(program.model.config).values())


def activation_bytes(program: PlannedStep, sizes: Sizes) -> float:
    """What layers keep for the backward pass of a micro-batch."""
    c, stage = program.model.config, program.stage
    item = program.model.dtype.itemsize
    tensor = program.mesh.shape["tensor"]
    P, T = stage.rollout.max_prompt_tokens, stage.rollout.max_completion_tokens
    tokens = sizes.update.prompts * P + sizes.update.samples * T
    kept = c.hidden_size + c.per_layer_size
    if c.remat != "full":
        heads = (_queries(program) + _keys(program)) / max(1, _attention_layers(program))
        hidden = 2 * _widest(program)
        kept += (heads + hidden) / tensor + (1 + c.experts_per_token) * c.hidden_size
    prompt_kv = 2 * sizes.update.prompts * P * _keys(program) / tensor  # and its gradient
    scores = 0.0
    if c.remat == "none":
        scores = 4 * _attention_layers(program) * _score_elements(program, sizes)
    return item * (c.num_layers * tokens * kept + prompt_kv) + scores + _tiled(program, sizes)


def _tiled(program: PlannedStep, sizes: Sizes) -> float:
    """Bytes of attention in tiles on a CPU: partials, which the backward pass does not compute anew
    (`decoder.kept_results`)."""
    c, stage, update = program.model.config, program.stage, sizes.update
    if c.attention != "blockwise":
        return 0.0
    P, T = stage.rollout.max_prompt_tokens, stage.rollout.max_completion_tokens
    together = update.samples / max(1.0, update.prompts)  # completions of a prompt
    prompts, completions = update.prompts * P, update.samples * T
    partials = [  # tokens, and the queries and keys of each
        (prompts, P, P),
        (completions, T, T),
        (completions, int(together * T), P),
    ]
    tokens = sum(n for n, queries, keys in partials if _in_kernel(program, queries, keys))
    widths = _queries(program) + c.num_heads * _attention_layers(program)  # and normalizers
    return 4 * tokens * widths / program.mesh.shape["tensor"]


def update_bytes(program: PlannedStep, sizes: Sizes, kept: Kept, activations: float) -> float:
    """Temporary bytes of the update, at the worst of three moments of its backward pass: at the
    logits, in the completions' layers, in the prompts' layers.

    All hold the sum of gradients, if there are several micro-batches, the weights as they are
    multiplied, and the head, gathered. Both passes through the layers have a gradient each.
    """
    c, stage = program.model.config, program.stage
    item, loss = program.model.dtype.itemsize, stage.policy_loss
    tensor, T = program.mesh.shape["tensor"], stage.rollout.max_completion_tokens
    P, samples = stage.rollout.max_prompt_tokens, sizes.update.samples
    trained = c.lora is None
    cast = kept.weights * item / 4 * (1 - _share(program, sizes, sizes.table)) if trained else 0.0
    head = item * sizes.head if trained else 0.0
    common = kept.gradient * (sizes.update.count > 1 or loss.pack_rows > 0) + cast + head
    scored = samples * min(loss.logit_chunk * (sizes.update.count if loss.pack_rows else 1), T)
    vocabulary = 4 * LOGITS * scored * program.model.vocab_size / tensor
    hidden = HIDDEN * _widest(program) / tensor
    stream = samples * T * item * (hidden + (STREAM + PAIRS * c.experts_per_token) * c.hidden_size)
    layer = 2 * item * sizes.layer + 4 * SCORES * _score_elements(program, sizes) + stream
    prompts = sizes.update.prompts * P
    prompts *= activations / (prompts + samples * T)
    return common + max(
        activations + 4 * sizes.head * trained + vocabulary,
        activations + kept.gradient + layer,
        prompts + 2 * kept.gradient + 2 * item * sizes.layer,
    )


def _decoded_at_once(program: PlannedStep) -> float:
    """Completions that a device decodes at a time."""
    stage = program.stage
    completions = stage.rollout.slots or stage.batch_size * stage.rollout.group_size
    return completions / batch_parts(program.mesh)


def rollout_bytes(program: PlannedStep, sizes: Sizes, kept: Kept) -> float:
    """Temporary bytes of the rollout: its weights and cache, and the prefill's working set."""
    stage, item = program.stage, program.model.dtype.itemsize
    c, tensor = program.model.config, program.mesh.shape["tensor"]
    rows = stage.batch_size / batch_parts(program.mesh)
    P = stage.rollout.max_prompt_tokens
    prefix = item * rows * _keys(program) / tensor * P
    scores = 0.0 if _in_kernel(program, P, P) else 4 * rows * c.num_heads / tensor * P * P
    hidden = 2 * _widest(program) / tensor
    hidden = item * rows * P * (hidden + (4 + PREFILL_PAIRS * c.experts_per_token) * c.hidden_size)
    logits = 4 * _decoded_at_once(program) * program.model.vocab_size
    unstacked = UNSTACKED * _unrolled(program) * kept.sampled_weights
    unstacked *= _share(program, sizes, c.num_layers * sizes.layer)
    working = max(2 * scores + hidden, 3 * logits)
    numbers = item * sizes.layer if program.model.packed else 0.0  # of a layer in four bits
    return kept.rollout_weights + unstacked + kept.cache + prefix + working + numbers


def rollout_cost(program: PlannedStep, sizes: Sizes, kept: Kept) -> tuple[Cost, Cost, int]:
    """Cost of prefill, of one decoded token, and the number of tokens."""
    c, stage, mesh = program.model.config, program.stage, program.mesh
    tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
    item, T = program.model.dtype.itemsize, stage.rollout.max_completion_tokens
    rows, parts = _decoded_at_once(program), batch_parts(mesh)
    if slots := stage.rollout.slots // parts:  # as if every completion had T tokens
        pool = make_pool(stage.rollout.cache_tokens, parts, T)
        T = most_tokens(slots, stage.batch_size // parts, stage.rollout.group_size, T, pool)
    between = (tensor - 1) / tensor
    cache = kept.cache * _cache_seen(stage.rollout)
    read = kept.sampled_weights * (1 - _share(program, sizes, sizes.table)) + cache
    if not _unrolled(program):
        experts = _share(program, sizes, c.num_layers * sizes.experts) * kept.sampled_weights
        read += (EXPERT_TRAFFIC - 1) * experts
        read += (CACHE_TRAFFIC - 1) * cache
    prefill = Cost(
        flops=2 * c.num_layers * sizes.matrix * sizes.prompts,
        hbm_bytes=2 * kept.sampled_weights,
        sent_bytes=_sent(
            {
                "all-gather": kept.rollout_weights * (fsdp - 1) / fsdp,
                "all-reduce": 4 * c.num_layers * sizes.prompts * c.hidden_size * item * between,
            }
        ),
    )
    decode = Cost(
        flops=2 * rows * (c.num_layers * sizes.matrix + sizes.head),
        hbm_bytes=read,
        sent_bytes=_sent(
            {
                "all-reduce": 4 * c.num_layers * rows * c.hidden_size * item * between,
                "all-gather": 4 * rows * program.model.vocab_size * between,
            }
        ),
    )
    return prefill, decode, T


def _cache_seen(rollout: RolloutConfig) -> float:
    """The share of the cache that a decoded token reads, on average over segments."""
    if rollout.slots:  # go on with a full one
        return 1.0
    own, ends = (
        rollout.group_size * rollout.max_completion_tokens,
        segments(rollout.max_completion_tokens),
    )
    seen = sum(end * (end - before) for before, end in itertools.pairwise([0, *ends]))
    unseen = rollout.group_size * (
        rollout.max_completion_tokens - seen / rollout.max_completion_tokens
    )
    return 1 - unseen / (own + rollout.max_prompt_tokens)


def update_cost(program: PlannedStep, sizes: Sizes) -> Cost:
    """Cost of the update: a forward, a recomputed one and a backward pass of twice the products."""
    c, mesh = program.model.config, program.mesh
    data, fsdp, tensor = (mesh.shape[axis] for axis in ("data", "fsdp", "tensor"))
    item = program.model.dtype.itemsize
    parts = sizes.update.count
    passes = 4 if c.remat == "full" else 3
    prompts = sizes.prompts * sizes.update.again
    tokens = prompts + sizes.completions
    attention = 2 * 2 * _queries(program) / tensor * _seen(program, sizes)
    products = 2 * (c.num_layers * sizes.matrix * tokens + sizes.head * sizes.completions)
    weights = c.num_layers * sizes.layer + sizes.head
    trained = weights + sizes.table if c.lora is None else 0.0
    scores = SCORE_TRAFFIC * 4 * parts * _score_elements(program, sizes)
    scores *= _attention_layers(program)
    if not scores:
        scores = KERNEL_TRAFFIC * item * tokens * _queries(program) / tensor
    stream = STREAM_TRAFFIC + PAIR_TRAFFIC * c.experts_per_token
    stream *= item * tokens * c.hidden_size
    return Cost(
        flops=passes * (products + attention),
        hbm_bytes=parts * item * weights * passes
        + 10 * 4 * trained / fsdp
        + scores
        + c.num_layers * stream,
        sent_bytes=_sent(
            {
                "all-gather": parts * (passes - 1) * item * weights * (fsdp - 1) / fsdp,
                "reduce-scatter": parts * 4 * trained * (fsdp - 1) / fsdp,
                "all-reduce": parts * 2 * 4 * trained / fsdp * (data - 1) / data
                + 2
                * 2
                * passes
                * c.num_layers
                * tokens
                * c.hidden_size
                * item
                * (tensor - 1)
                / tensor,
            }
        ),
    )


def _score_elements(program: PlannedStep, sizes: Sizes) -> float:
    """Attention scores of a layer in memory, for the completions of a micro-batch."""
    stage, tensor = program.stage, program.mesh.shape["tensor"]
    P, T = stage.rollout.max_prompt_tokens, stage.rollout.max_completion_tokens
    group = 1 if stage.policy_loss.pack_rows else stage.rollout.group_size // sizes.update.again
    prefix = P * (2 if stage.policy_loss.pack_rows else 1)  # a packed row has two prompts
    if program.model.config.attention == "cudnn":  # takes all keys at once
        own = prompt = _in_kernel(program, T, T + prefix)
    else:
        own, prompt = _in_kernel(program, T, T), _in_kernel(program, group * T, prefix)
    own, prompt = 0 if own else T, 0 if prompt else P
    heads = program.model.config.num_heads / tensor
    return sizes.update.samples * heads * T * (own + prompt)


def _in_kernel(program: PlannedStep, queries: int, keys: int) -> bool:
    """Whether attention's scores stay on the chip."""
    c, dtype = program.model.config, program.model.dtype
    widest = max(stack.config.head_dim for stack in stacks(c).values())
    plainly = c.attention_softcap is None and not c.attention_sinks
    if c.attention == "cudnn" and plainly and cudnn_takes(queries, keys, widest, dtype):
        return True
    return way_of_partial(c, queries, keys, widest, dtype) != "plain"


def _share(program: PlannedStep, sizes: Sizes, weights: float) -> float:
    """The share that such a number of weights has of all."""
    c = program.model.config
    tables = (1 if c.tie_embeddings else 2) * sizes.head + sizes.table
    return weights / (c.num_layers * sizes.layer + tables)


def _unrolled(program: PlannedStep) -> bool:
    return program.model.config.decode_layers == "unrolled"


def _seen(program: PlannedStep, sizes: Sizes) -> float:
    """Pairs of a token and a key, masked ones too, in a step."""
    rollout = program.stage.rollout
    P, T = rollout.max_prompt_tokens, rollout.max_completion_tokens
    return sizes.prompts * sizes.update.again * P + sizes.completions * (P + T)


def _sent(by_kind: dict[str, float]) -> dict[str, float]:
    return {kind: sent for kind, sent in by_kind.items() if sent}
