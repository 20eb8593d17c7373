"""`rft plan`: which TPU slice or GPUs a run needs, found without them.

    plan = compile_plan(config, parse_topology("v5e:4x4"))
    ranking = search(config, [parse_topology("v5e:4x4"), parse_topology("v5e:8x8")], compiled=4)

`aot` compiles the two halves of the step for devices that are not there, `hlo` counts what they
do and `roofline` makes seconds of it; `memory` counts what follows from shapes; `estimate` does all
of it in closed form.
"""

from rft_jax.plan.chips import CHIPS, Topology, parse_topology, topologies
from rft_jax.plan.plan import Plan, compile_plan, estimate_plan
from rft_jax.plan.search_meshes import NothingFits, Ranking, candidates, search, smallest, with_plan
from rft_jax.plan.show import show_plan, show_ranking, show_where

__all__ = [
    "CHIPS",
    "NothingFits",
    "Plan",
    "Ranking",
    "Topology",
    "candidates",
    "compile_plan",
    "estimate_plan",
    "parse_topology",
    "search",
    "show_plan",
    "show_ranking",
    "show_where",
    "smallest",
    "topologies",
    "with_plan",
]
