"""A plan as a table on a terminal."""

import sys

from rich.console import Console
from rich.table import Table

from rft_jax.plan.chips import GIB
from rft_jax.plan.plan import Plan


def show_plan(plan: Plan) -> None:
    """Writes bytes by cause, times and collectives to stderr."""
    console = Console(stderr=True)
    kept, topology = plan.kept, plan.topology
    origin = "compiled ahead of time" if plan.compile_seconds else "closed form, nothing compiled"
    table = Table(title=f"{topology.name}, {topology.chips} chips, {mesh_text(plan)}: {origin}")
    for column in ("GiB a device", "rollout", "update"):
        table.add_column(column, justify="left" if column.startswith("GiB") else "right")
    rollout, update = plan.rollout_bytes, plan.update_bytes
    rest = update - kept.gradient - plan.activation_bytes
    for name, *values in (
        ("weights, float32", kept.weights, kept.weights),
        ("reference policy", kept.reference, kept.reference),
        ("optimizer", kept.optimizer, kept.optimizer),
        ("rollout's weights", kept.rollout_weights, 0),
        ("KV cache", kept.cache, 0),
        ("gradient", 0, kept.gradient),
        ("activations", 0, plan.activation_bytes),
        ("temporaries", rollout - kept.rollout_weights - kept.cache, rest),
        ("sum", kept.state + rollout, kept.state + update),
    ):
        if any(values):
            table.add_row(name, *(f"{value / GIB:.2f}" if value else "" for value in values))
    table.add_row("seconds, estimated", f"{plan.rollout_seconds:.2f}", f"{plan.update_seconds:.2f}")
    costs = plan.rollout_cost, plan.update_cost
    for kind in sorted({kind for cost in costs for kind in cost.sent_bytes}):
        sent = (cost.sent_bytes.get(kind, 0) / GIB for cost in costs)
        table.add_row(f"{kind}, GiB sent", *(f"{value:.2f}" for value in sent))
    console.print(table)
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    tokens = plan.completion_tokens / plan.step_seconds
    console.print(
        f"{verdict}: {plan.peak_bytes / GIB:.2f} of {topology.device_hbm_bytes / GIB:.2f} GiB. "
        f"About {plan.step_seconds:.1f} s a step and {tokens:,.0f} completion tokens/s, every "
        "completion at full length: an estimate (roofline), not a measurement. The grader and "
        "the detokenizer are left out."
    )
    if plan.compile_seconds:
        console.print(f"Compiled in {sum(plan.compile_seconds.values()):.0f} s.")


def show_ranking(title: str, plans: list[Plan]) -> None:
    """Writes a table of plans to stderr."""
    table = Table(title=title)
    for column in ("slice", "chips", "mesh", "GiB", "of", "s a step", "chip s", "compiled"):
        table.add_column(column, justify="left" if column in ("slice", "mesh") else "right")
    for plan in plans:
        table.add_row(
            plan.topology.name,
            str(plan.topology.chips),
            mesh_text(plan),
            f"{plan.peak_bytes / GIB:.1f}",
            f"{plan.topology.device_hbm_bytes / GIB:.1f}",
            f"{plan.step_seconds:.1f}",
            f"{plan.step_seconds * plan.topology.chips:.0f}",
            "yes" if plan.compile_seconds else "no",
        )
    Console(stderr=True, width=max(100, Console(file=sys.stderr).width)).print(table)


def mesh_text(plan: Plan) -> str:
    """The mesh and the micro-batches in words."""
    mesh = plan.mesh
    return (
        f"data {mesh.data} x fsdp {mesh.fsdp} x tensor {mesh.tensor}, "
        f"{plan.gradient_accumulation} micro-batches"
    )
