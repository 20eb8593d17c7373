"""What a base model brings to the jobs on it: `--model NAME=SOURCE`.

SOURCE is a run, WORKDIR[/STAGE[/checkpoints/STEP]], or an experiment FILE.py[:VARIANT] whose model
has a Hugging Face checkpoint. Its last stages and the model that they train are every job's.
"""

from dataclasses import dataclass
from pathlib import Path

from rft_jax.config import Config, HostOptions, ModelConfig, OptimizerConfig, RLStage, SFTStage
from rft_jax.config.load import load_config
from rft_jax.config.overrides import read_config
from rft_jax.utils.errors import InputError

_FINE_TUNING = OptimizerConfig(learning_rate=1e-5, schedule="cosine")  # where no stage says


@dataclass(frozen=True)
class Template:
    """Settings that jobs on a base model inherit.

    Attributes:
        config: The configuration that it is from.
        model: What the jobs train.
        rl: The last reinforcement stage of that model, or one with the defaults.
        sft: Likewise of the supervised ones.
        path: The weights: a checkpoint of a run, or a Hugging Face checkpoint.
        tokenizer: The file of its tokenizer; "" where the model's source has it.
        created: When it was made, in seconds since 1970.
    """

    config: Config
    model: ModelConfig
    rl: RLStage
    sft: SFTStage
    path: Path
    tokenizer: str
    created: int

    @property
    def host(self) -> HostOptions:
        """What graders on the host may use: always the sandbox."""
        return HostOptions(tools=self.config.host.tools)


def read_template(source: str) -> Template:
    """The template of a SOURCE.

    Raises:
        InputError: There is nothing to be served.
    """
    if Path(source.partition(":")[0]).suffix == ".py":
        return _of_experiment(source)
    path = Path(source).resolve()
    workdir, stage_name, step = _places(path)
    config = read_config(workdir / "config.json")
    stages = config.training_stages
    if not stages:
        raise InputError(f"{source}: the run has no stage that trains; name another")
    known = {stage.name: stage for stage in stages}
    stage = known.get(stage_name) if stage_name else stages[-1]
    if stage is None:
        raise InputError(
            f"{source}: the run has no stage {stage_name!r}; it has {', '.join(known)}"
        )
    folder = workdir / stage.name / "checkpoints"
    step = _newest(folder) if step is None else step
    if step is None or not (folder / step).is_dir():
        raise InputError(f"{source}: there is no such checkpoint; let `rft train` write one first")
    model = config.model(stage.model)
    tokenizer = "" if model.source else str(workdir / "tokenizer.model")
    path = folder / step
    return _template(config, model, path, tokenizer, int(path.stat().st_mtime))


def _of_experiment(source: str) -> Template:
    config = load_config(source, {})
    if not config.training_stages:
        raise InputError(f"{source}: has no stage that trains a model")
    model = config.model(config.training_stages[-1].model)
    if not model.source:
        raise InputError(
            f"{source}: its model has no weights yet; run `rft train` with it and name the work "
            "directory"
        )
    return _template(config, model, Path(model.source), "", 0)


def _template(
    config: Config, model: ModelConfig, path: Path, tokenizer: str, created: int
) -> Template:
    own = [stage for stage in config.training_stages if stage.model == model.name]
    rl = [stage for stage in own if isinstance(stage, RLStage)]
    sft = [stage for stage in own if isinstance(stage, SFTStage)]
    return Template(
        config,
        model,
        rl[-1] if rl else RLStage(model=model.name),
        sft[-1] if sft else SFTStage(model=model.name, optimizer=_FINE_TUNING),
        path,
        tokenizer,
        created,
    )


def _places(path: Path) -> tuple[Path, str, str | None]:
    """The work directory, the stage ("" for the last) and the step (None for the newest)."""
    if (path / "config.json").exists():
        return path, "", None
    step = None
    if path.parent.name == "checkpoints":
        step, path = path.name, path.parent.parent
    if not (path.parent / "config.json").exists():
        raise InputError(
            f"{path}: not a work directory, nor a stage or a checkpoint of one, nor an experiment "
            "file; correct the path"
        )
    return path.parent, path.name, step


def _newest(folder: Path) -> str | None:
    steps = [path.name for path in folder.glob("*") if path.name.isdigit()]
    return max(steps, key=int, default=None)
