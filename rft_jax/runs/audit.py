"""The grader that looks at a run's validation samples without being in their reward."""

from collections.abc import Mapping

import jax
from jax.sharding import Mesh

from rft_jax.config import Config
from rft_jax.graders import Grader, build_grader, load_grader
from rft_jax.graders.device_judge import judge_nodes
from rft_jax.runs.datasets import Rows
from rft_jax.runs.grader import open_judges
from rft_jax.utils.errors import InputError

AUDIT_FILE = "audit_grader.json"


def open_audit(config: Config, mesh: Mesh) -> Grader | None:
    """The audit grader of a configuration, its judges on the device open; None without one.

    Raises:
        InputError: It cannot be used, or is the grader that gives the reward.
    """
    if not config.audit_grader:
        return None
    if not config.sampling_stages:
        raise InputError("audit_grader: there is no stage that samples to look at; leave it empty")
    if not config.grader:
        raise InputError(
            "audit_grader: looks at the validation samples of a grader, and there is none; set "
            "grader as well"
        )
    spec = load_grader(config.audit_grader)
    if spec == load_grader(config.grader):
        raise InputError(
            "audit_grader: is the grader that gives the reward, which can only agree with itself; "
            "name one that looks at something else"
        )
    grader = build_grader(spec, "auto", config.host)
    if judge_nodes(grader.spec) and jax.process_count() > 1:
        raise InputError(
            "audit_grader: a judge on the device looks at samples on one host only; use a judge "
            "behind an API, or another grader"
        )
    return open_judges(grader, mesh)


def check_audit(config: Config, grader: Grader, rows: Mapping[str, Mapping[str, Rows]]) -> None:
    """Looks whether there are validation samples, and whether their items serve the grader.

    Args:
        config: The run's.
        grader: The audit grader.
        rows: What each stage reads, by its name.

    Raises:
        InputError: Naming the setting, or the file and line.
    """
    looked_at = [
        rows[stage.name]["valid"]
        for stage in config.sampling_stages
        if stage.eval_interval and "valid" in rows[stage.name]
    ]
    if not looked_at:
        names = ", ".join(f"stages.{stage.name}.eval_interval" for stage in config.sampling_stages)
        raise InputError(
            f"audit_grader: looks at validation samples, of which there are none; set data.valid "
            f"and {names}"
        )
    for valid in looked_at:
        grader.encode_items(valid.items, valid.source)
