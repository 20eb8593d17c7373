"""Plans as tables on a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from rft_jax.plan.chips import CHIPS, GIB, Topology
from rft_jax.plan.plan import Plan
from rft_jax.utils.tables import show_table

_MIB = 2**20
MESH = "mesh: data x fsdp x tensor"


def show_plan(plan: Plan) -> None:
    """Writes bytes by cause, times and collectives to stdout."""
    console = Console(highlight=False)
    kept, topology = plan.kept, plan.topology
    origin = "compiled ahead of time" if plan.compile_seconds else "closed form, nothing compiled"
    unit, name = (GIB, "GiB") if plan.peak_bytes >= GIB else (_MIB, "MiB")
    table = Table()
    for column in (f"{name} a device", "rollout", "update"):
        table.add_column(column, justify="left" if column.startswith(name) else "right")
    rollout, update = plan.rollout_bytes, plan.update_bytes
    rest = update - kept.gradient - plan.activation_bytes
    for cause, *values in (
        ("weights, float32", kept.weights, kept.weights),
        ("reference policy", kept.reference, kept.reference),
        ("optimizer", kept.optimizer, kept.optimizer),
        ("grammar", kept.grammar, kept.grammar),
        ("rollout's weights", kept.rollout_weights, 0),
        ("KV cache", kept.cache, 0),
        ("gradient", 0, kept.gradient),
        ("activations", 0, plan.activation_bytes),
        ("temporaries", rollout - kept.rollout_weights - kept.cache, rest),
        ("sum", kept.state + rollout, kept.state + update),
    ):
        if any(values):
            table.add_row(cause, *(f"{value / unit:.2f}" if value else "" for value in values))
    table.add_row(
        "seconds, estimated", _seconds(plan.rollout_seconds), _seconds(plan.update_seconds)
    )
    costs = plan.rollout_cost, plan.update_cost
    for kind in sorted({kind for cost in costs for kind in cost.sent_bytes}):
        sent = (cost.sent_bytes.get(kind, 0) / unit for cost in costs)
        table.add_row(f"{kind}, {name} sent", *(f"{value:.2f}" for value in sent))
    console.print(f"{topology.name}, {_chips(topology)}, {mesh_text(plan)}: {origin}")
    console.print(table)
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    console.print(
        f"{verdict}: {plan.peak_bytes / unit:.2f} of {topology.device_hbm_bytes / unit:,.2f} "
        f"{name}. About {_seconds(plan.step_seconds)} s a step, every completion at full length: "
        "an estimate (roofline), not a measurement. The grader and the detokenizer are left out."
    )
    if topology.chip.platform == "cpu":
        console.print(f"Of a CPU only the memory is known: {topology.chip.source}.")
    if plan.compile_seconds:
        console.print(f"Compiled in {sum(plan.compile_seconds.values()):.0f} s.")


def show_ranking(title: str, plans: Sequence[Plan]) -> None:
    """Writes a table of plans to stdout, its title in a line above."""
    more = [
        [_seconds(plan.step_seconds * plan.topology.chips), "yes" if plan.compile_seconds else "no"]
        for plan in plans
    ]
    _show(f"{title}; {MESH}", plans, ["chip s", "compiled"], more)


def show_where(plans: Sequence[Plan]) -> None:
    """Writes what fits where to stdout: a plan of each generation, fitting or not."""
    more = [["fits" if plan.fits else "does not fit"] for plan in plans]
    title = (
        "What fits where: the smallest slice of each generation, in closed form; seconds are "
        f"estimated (roofline), not measured; {MESH}"
    )
    _show(title, plans, [""], more)
    if any(plan.topology.chip.platform == "cpu" for plan in plans):
        Console(highlight=False).print(f"cpu: {CHIPS['cpu'].source}.")


def _show(
    title: str, plans: Sequence[Plan], columns: Sequence[str], more: Sequence[Sequence[str]]
) -> None:
    """A table of plans, the micro-batches where there are any."""
    console = Console(highlight=False)
    console.print(title)
    parts = ["micro-\nbatches"] if any(plan.gradient_accumulation > 1 for plan in plans) else []
    rows = []
    for plan, last in zip(plans, more, strict=True):
        topology, mesh = plan.topology, plan.mesh
        rows.append(
            [
                topology.name,
                str(topology.chips),
                f"{mesh.data} x {mesh.fsdp} x {mesh.tensor}",
                *([str(plan.gradient_accumulation)] if parts else []),
                _gib(plan.peak_bytes),
                _gib(topology.device_hbm_bytes),
                _seconds(plan.step_seconds),
                *last,
            ]
        )
    first = ["slice", "chips", "mesh", *parts, "GiB", "of", "s a step"]
    show_table([*first, *columns], rows, console=console)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}" if size >= GIB else f"{size / GIB:.1g}"


def mesh_text(plan: Plan) -> str:
    """The mesh and the micro-batches in words."""
    mesh, parts = plan.mesh, plan.gradient_accumulation
    return (
        f"data {mesh.data} x fsdp {mesh.fsdp} x tensor {mesh.tensor}, "
        f"{parts} micro-batch{'es' if parts != 1 else ''}"
    )


def _chips(topology: Topology) -> str:
    return f"{topology.chips} chip{'s' if topology.chips != 1 else ''}"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
