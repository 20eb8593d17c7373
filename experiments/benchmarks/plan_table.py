"""Which slice does a model need: five models from 8 to 256 chips, and what the network carries.

    python experiments/benchmarks/plan_table.py [--compile]

Writes `results/DATE_plans.md`: for each model of `experiments/plans.py` and each slice, the fastest
mesh in closed form. With `--compile` (needs `pip install -e '.[tpu,notebooks]'`, and takes 20
minutes on two cores) it compiles Qwen3-8B on v5p slices from 4 to 256 chips and plots what a chip
sends in a step, `results/DATE_plans.svg`.
"""

import argparse
import datetime
import json
import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

from rft_jax.commands.entry import load_config  # noqa: E402
from rft_jax.plan import CHIPS, Plan, candidates, compile_plan, topologies, with_plan  # noqa: E402
from rft_jax.plan.chips import GIB  # noqa: E402

EXPERIMENT = Path(__file__).parents[1] / "plans.py"
RESULTS = Path(__file__).parent / "results"
MODELS = ("qwen3-0.6b", "qwen3-4b", "qwen3-8b", "qwen3-30b-a3b", "llama-3-70b")
GENERATIONS = ("v5e", "v5p", "v6e", "tpu7x")
SIZES = (8, 16, 32, 64, 128, 256)
SCALING = ("qwen3-8b", "v5p", (4, 8, 16, 32, 64, 128, 256))


def fastest(variant: str, generation: str, chips: int) -> Plan | None:
    """The fastest plan in closed form that fits; None: none does."""
    config = load_config(f"{EXPERIMENT}:{variant}", {})
    found = [
        plan
        for topology in topologies(CHIPS[generation], chips)
        for plan in candidates(config, topology)
        if plan.fits
    ]
    return min(found, key=lambda plan: plan.step_seconds, default=None)


def cell(plan: Plan | None) -> str:
    """A plan in a table."""
    if plan is None:
        return "none"
    mesh, peak = plan.mesh, plan.peak_bytes / GIB
    shape = f"{mesh.data}·{mesh.fsdp}·{mesh.tensor}/{plan.gradient_accumulation}"
    return f"**{plan.step_seconds:.1f} s**, {peak:.1f} GiB, {shape}"


def closed_form_tables() -> list[str]:
    """A table for each model."""
    lines = []
    for variant in MODELS:
        lines += [f"### {variant}", "", "| chips | " + " | ".join(GENERATIONS) + " |"]
        lines += ["|---" * (len(GENERATIONS) + 1) + "|"]
        for chips in SIZES:
            cells = []
            for generation in GENERATIONS:
                shape = topologies(CHIPS[generation], chips)[0].name.partition(":")[2]
                cells.append(f"{shape}: {cell(fastest(variant, generation, chips))}")
                print(variant, chips, cells[-1], file=sys.stderr, flush=True)
            lines.append(f"| {chips} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def scaling(name: Path) -> list[str]:
    """Compiled plans from 4 to 256 chips, as a table, and as a chart beside it."""
    variant, generation, sizes = SCALING
    config, plans = load_config(f"{EXPERIMENT}:{variant}", {}), []
    for chips in sizes:
        if (closed := fastest(variant, generation, chips)) is None:
            continue
        plans.append(compile_plan(with_plan(config, closed), closed.topology))
        print(json.dumps(plans[-1].to_json()), file=sys.stderr, flush=True)
    draw(plans, name.with_suffix(".svg"))
    lines = [
        f"## What a chip sends in a step: {variant} on {generation}, compiled",
        "",
        "The mesh is the fastest in closed form, so that it changes along the way.",
        "",
        f"![GiB that a chip sends in a step]({name.with_suffix('.svg').name})",
        "",
        "| slice | chips | mesh | fits | GiB | rollout, GiB sent | update, GiB sent | s a step | "
        "compiled in |",
        "|---" * 9 + "|",
    ]
    for plan in plans:
        mesh = plan.mesh
        sent = plan.rollout_cost.sent / GIB, plan.update_cost.sent / GIB
        compiled = sum(plan.compile_seconds.values())
        lines.append(
            f"| {plan.topology.name} | {plan.topology.chips} | "
            f"{mesh.data}·{mesh.fsdp}·{mesh.tensor}/{plan.gradient_accumulation} | "
            f"{'yes' if plan.fits else 'no'} | {plan.peak_bytes / GIB:.1f} | {sent[0]:.1f} | "
            f"{sent[1]:.1f} | {plan.step_seconds:.1f} | {compiled:.0f} s |"
        )
    return [*lines, ""]


def draw(plans: list[Plan], file: Path) -> None:
    """Bytes that a chip sends, over the number of chips."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    chips = [plan.topology.chips for plan in plans]
    for name in ("rollout", "update"):
        sent = [getattr(plan, f"{name}_cost").sent / GIB for plan in plans]
        axes.plot(chips, sent, marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="chips", ylabel="GiB that a chip sends in a step")
    axes.set_xticks(chips, [str(n) for n in chips])
    axes.legend()
    figure.savefig(file)


def main() -> None:
    """Writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="the scaling of Qwen3-8B as well")
    options = parser.parse_args()
    date = datetime.date.today().isoformat()
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{date}_plans.md"
    stage = load_config(f"{EXPERIMENT}:{MODELS[0]}", {}).stages[-1]
    lines = [
        "# Which slice does a model need?",
        "",
        f"`python experiments/benchmarks/plan_table.py{' --compile' * options.compile}`, {date}. "
        "Estimates, not measurements: nothing ran on a TPU.",
        "",
        f"A step of {stage.batch_size} prompts x {stage.rollout.group_size} samples, "
        f"{stage.rollout.max_prompt_tokens} prompt and {stage.rollout.max_completion_tokens} "
        "completion tokens, all weights trained with AdamW in float32, every completion at full "
        "length. Each "
        "cell: the slice, the estimated seconds of a step, the most GiB that a device holds, and "
        "the mesh data·fsdp·tensor / micro-batches; none: no mesh divides prompts and model and "
        "fits. A chip of tpu7x is two devices.",
        "",
        *(scaling(file) if options.compile else []),
        "## The fastest mesh in closed form",
        "",
        *closed_form_tables(),
    ]
    file.write_text("\n".join(lines))
    print(file)


if __name__ == "__main__":
    main()
