"""The end of a run in a few sentences: what it has reached, and where that is."""

from pathlib import Path

from rft_jax.report.history import StageHistory, read_run
from rft_jax.report.html import REPORT_FILE
from rft_jax.runs.checkpoint import best_step, steps


def end_of_run(workdir: Path) -> list[str]:
    """Sentences on a run that is done.

    Args:
        workdir: The run's.

    Raises:
        InputError: If it is no work directory.
    """
    stages = read_run(workdir, max_samples=0).stages
    told = [sentence for stage in stages if (sentence := _validation(stage))]
    if (workdir / REPORT_FILE).exists():
        told.append(f"report: {workdir / REPORT_FILE}")
    for stage in reversed(stages):
        directory = workdir / stage.name / "checkpoints"
        if (best := best_step(directory)) is not None:
            told.append(f"best checkpoint: {directory / str(best)}")
        if steps(directory):
            break
    return told


def _validation(stage: StageHistory) -> str:
    """What a stage's validations say; empty without any."""
    if not len(values := stage.values("valid_reward_mean")):
        return ""
    value, step = stage.best("valid_reward_mean")
    text = (
        f"{stage.name}: validation reward {values[0]:.3f} -> {values[-1]:.3f}, best {value:.3f} "
        f"at step {step}"
    )
    if (constant := stage.constant) is not None:
        text += f"; the best constant answer earns {constant.reward:.3f}"
        if constant.reward >= values[-1]:
            text = f"warning: {text}, so that one would have done as well"
    return text
