"""Costs of compiled programs, against XLA's own where it has them and by hand where it has not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rft_jax.plan.hlo import Cost, Program


def total(loops) -> Cost:
    cost = Cost()
    for loop in loops:
        cost.add(loop.cost, loop.trips)
    return cost


def compiled(function, *shapes, **options):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function, **options).lower(*arrays).compile()


def test_a_product_counts_as_xla_counts_it():
    program = compiled(lambda a, b: a @ b, (32, 64), (64, 16))
    cost = total(Program(program.as_text()).loops())
    assert cost.flops == 2 * 32 * 64 * 16 == program.cost_analysis()["flops"]
    assert cost.hbm_bytes == 4 * (32 * 64 + 64 * 16 + 32 * 16)
    assert cost.launches == 1
    assert cost.sent == 0


def test_loops_are_multiplied_also_one_in_another():
    def nested(x, w):
        def inner(x, _):
            return jnp.sin(x @ w), None

        def outer(x, _):
            return jax.lax.scan(inner, x, None, length=5)[0], None

        return jax.lax.scan(outer, x, None, length=7)[0]

    loops = Program(compiled(nested, (8, 16), (16, 16)).as_text()).loops()
    assert total(loops).flops == 35 * 2 * 8 * 16 * 16
    assert total(loops).launches >= 35 * 2  # product and sine


def test_a_loop_that_may_end_early_runs_to_its_bound():
    def decode(x, w):
        def unfinished(carry):
            return (carry[0] < 9) & (carry[1] < 1e9).any()

        return jax.lax.while_loop(unfinished, lambda c: (c[0] + 1, c[1] @ w), (0, x))[1]

    program = Program(compiled(decode, (8, 16), (16, 16)).as_text())
    assert total(program.loops()).flops == 9 * 2 * 8 * 16 * 16


def test_a_loop_without_a_constant_bound_takes_the_given_trips():
    def repeat(x, w):
        trips = jnp.int32(x[0, 0])
        return jax.lax.fori_loop(0, trips, lambda _, x: x @ w, x)

    program = Program(compiled(repeat, (8, 16), (16, 16)).as_text())
    assert total(program.loops(unknown_trips=6)).flops == 6 * 2 * 8 * 16 * 16


def test_a_layer_out_of_many_is_read_alone():
    layers, width = 24, 256

    def stack(x, w_LDD):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, w_LDD)[0]

    program = compiled(stack, (1, width), (layers, width, width))
    read = total(Program(program.as_text()).loops()).hbm_bytes
    weights = 4 * layers * width * width
    assert weights <= read < 3.2 * weights  # on a CPU the slice is written out and read again


@pytest.mark.parametrize(
    ("kind", "out_axis", "sent"),
    [("all-gather", None, 3 * 4 * 16 * 8), ("all-reduce", "summed", 2 * 3 / 4 * 4 * 64 * 8)],
)
def test_collectives_send_what_a_ring_sends(kind, out_axis, sent):
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("x",))
    split, whole = NamedSharding(mesh, PartitionSpec("x")), NamedSharding(mesh, PartitionSpec())
    if out_axis == "summed":
        split = NamedSharding(mesh, PartitionSpec("x", None, None))
        program = compiled(
            lambda x: x.sum(axis=0), (4, 64, 8), in_shardings=split, out_shardings=whole
        )
    else:
        program = compiled(lambda x: x * 1.0, (64, 8), in_shardings=split, out_shardings=whole)
    assert total(Program(program.as_text()).loops()).sent_bytes == {kind: sent}


# As XLA for TPUs writes them.
TPU = """HloModule test
%fused (p0: bf16[36,64,64], p1: s32[], p2: bf16[8,64]) -> bf16[8,64] {
  %p0 = bf16[36,64,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice = bf16[1,64,64]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,64,64}
  %w = bf16[64,64]{1,0:T(8,128)(2,1)} bitcast(%slice)
  %p2 = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  ROOT %conv = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} convolution(%p2, %w), dim_labels=bf_io->bf
}

%body (c: (s32[], bf16[8,64], bf16[36,64,64])) -> (s32[], bf16[8,64], bf16[36,64,64]) {
  %c = (s32[]{:T(128)}, bf16[8,64]{1,0:T(8,128)(2,1)S(1)}, bf16[36,64,64]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  %x = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%c), index=1
  %ws = bf16[36,64,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%c), index=2
  %y = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} fusion(%ws, %i, /*index=2*/%x), kind=kOutput, calls=%fused
  %sum = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} all-reduce(%y), replica_groups=mesh['a'=4,'b'=4] {'b'}, to_apply=%add
  ROOT %t = (s32[]{:T(128)}, bf16[8,64]{1,0}, bf16[36,64,64]{2,1,0}) tuple(%i, %sum, %ws)
}

%cond (c: (s32[], bf16[8,64], bf16[36,64,64])) -> pred[] {
  %layers = s32[]{:T(128)} constant(36)
  %c = (s32[]{:T(128)}, bf16[8,64]{1,0}, bf16[36,64,64]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %layers), direction=LT
}

ENTRY %main (a: (s32[], bf16[8,64], bf16[36,64,64])) -> (s32[], bf16[8,64], bf16[36,64,64]) {
  %a = (s32[]{:T(128)}, bf16[8,64]{1,0}, bf16[36,64,64]{2,1,0}) parameter(0)
  ROOT %loop = (s32[], bf16[8,64]{1,0}, bf16[36,64,64]{2,1,0}) while(%a), condition=%cond, body=%body
}
"""  # noqa: E501


def test_a_tpu_program_with_sliced_weights_and_arrays_on_the_chip():
    loops = Program(TPU).loops()
    body = next(loop for loop in loops if loop.cost.flops)
    assert body.trips == 36
    assert body.cost.flops == 2 * 8 * 64 * 64
    assert body.cost.hbm_bytes == 2 * 64 * 64 + 4  # the layer's weights, and its number
    assert body.cost.sent_bytes == {"all-reduce": 2 * 3 / 4 * 2 * 8 * 64}


def test_a_batched_product_is_a_dilated_convolution():
    text = TPU.replace(
        "convolution(%p2, %w), dim_labels=bf_io->bf",
        "convolution(%p2, %w), window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0io->0bf",
    )
    text = text.replace("bf16[8,64]", "bf16[4,8,64]").replace("bf16[64,64]", "bf16[4,64,64]")
    body = next(loop for loop in Program(text).loops() if loop.cost.flops)
    assert body.cost.flops == 4 * 2 * 8 * 64 * 64


def test_a_kernels_own_estimate_counts_and_a_slice_moves_what_it_takes():
    text = """HloModule test
ENTRY %main (x: bf16[64,128]) -> bf16[8,128] {
  %x = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %begun = ((bf16[64,128]{1,0:T(8,128)(2,1)}), bf16[8,128]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) slice-start(%x), slice={[0:8], [0:128]}
  %done = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} slice-done(%begun)
  ROOT %call = bf16[8,128]{1,0:T(8,128)(2,1)} custom-call(%done), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"TUzv","cost_estimate":{"flops":"4096","transcendentals":"0"}}}
}
"""  # noqa: E501
    (whole,) = Program(text).loops()
    assert whole.cost.flops == 4096
    assert whole.cost.hbm_bytes == 2 * 8 * 128 + 2 * 8 * 128  # read by the slice; written
