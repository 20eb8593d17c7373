"""A model that answers: its weights on one device, its tokenizer, and how it is sampled."""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import jax

import rft_jax
from rft_jax.config import MeshConfig, RolloutConfig, SamplingStage
from rft_jax.grammars import GrammarTables, open_grammar
from rft_jax.models import Params, build_model, merge, split
from rft_jax.models.cache import unstack
from rft_jax.models.linear import Adapted
from rft_jax.models.lora import cast
from rft_jax.parallel import make_mesh
from rft_jax.runs.checkpoint import CHECKSUMS, steps
from rft_jax.runs.pretrained import base_source
from rft_jax.runs.reopen import OpenModel, open_model
from rft_jax.runs.run import BASE_STAGE
from rft_jax.serve.answer_text import TokenTexts
from rft_jax.serve.slots import Decoding, Weights
from rft_jax.tokenizers import Tokenizer

LEAST_CONTEXT = 1024  # tokens, of models that were trained here on less
DEFAULT_TOKENS = 1024  # of an answer, where nothing says how many
_COUNTED = {"type": "string", "minLength": 1, "maxLength": 64}


@dataclass(frozen=True)
class LoadedModel:
    """An open model.

    Attributes:
        context: Tokens of prompt and completion.
        default_tokens: Those of a completion, where a request does not say.
        usual_prompt: Tokens of a prompt that it was trained on, at most.
        efforts: Thinking tokens by `reasoning_effort`, and by "" where a request has none.
        fingerprint: A hash of weights and version.
        base: Names the weights under its adapters, which others may share; "" where it has none.
        bytes: Memory of the weights that it does not share.
    """

    decoding: Decoding
    weights: Weights
    tokenizer: Tokenizer
    texts: TokenTexts
    context: int
    default_tokens: int
    usual_prompt: int
    efforts: dict[str, int]
    fingerprint: str
    base: str
    bytes: int

    @functools.cached_property
    def counted(self) -> GrammarTables:
        """A grammar in which characters are counted, which makes all pools of the same shapes."""
        tables = open_grammar(_COUNTED, self.tokenizer)
        assert tables is not None, "it is no format of any text"
        return tables


def load_model(path: Path, bases: dict[str, Weights]) -> LoadedModel:
    """Opens a model on this machine's first device.

    Args:
        path: As for `open_model`.
        bases: Weights under adapters that are there already, by `LoadedModel.base`; is added to.

    Raises:
        InputError: If there is no such model.
    """
    opened = open_model(path)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    opened = opened._replace(run=dataclasses.replace(opened.run, mesh=mesh))
    run, stage, step = opened
    if step is None and stage is not BASE_STAGE:
        step = next(reversed(steps(run.checkpoints(stage))), None)
        opened = opened._replace(step=step)
    config = dataclasses.replace(run.model_config(stage), decode_layers="unrolled")
    model = build_model(config, run.model(stage).vocab_size)
    tokenizer = run.tokenizer
    base = _base_key(opened)
    weights, size = _load_weights(opened, base, bases)
    sampling = opened.sampling
    settings = sampling or RolloutConfig()
    decoding = Decoding(
        model,
        tokenizer.forbidden_ids,
        tokenizer.end_of_think_id,
        tokenizer.stop_ids,
        tokenizer.pad_id,
        tokenizer.lead_ids,
    )
    return LoadedModel(
        decoding=decoding,
        weights=weights,
        tokenizer=tokenizer,
        texts=TokenTexts(tokenizer),
        context=_context(opened),
        default_tokens=sampling.max_completion_tokens if sampling else DEFAULT_TOKENS,
        usual_prompt=settings.max_prompt_tokens,
        efforts=_efforts(settings),
        fingerprint=_fingerprint(opened),
        base=base,
        bytes=size,
    )


def _base_key(opened: OpenModel) -> str:
    run, stage, _ = opened
    config = run.model_config(stage)
    if config.lora is None:
        return ""
    return f"{base_source(config)} {config.lora.base_dtype} {config.compute_dtype}"


def _load_weights(opened: OpenModel, base: str, bases: dict[str, Weights]) -> tuple[Weights, int]:
    """The weights in the type that they are multiplied in; adapters stay beside theirs."""
    run, stage, step = opened
    model = run.model(stage)
    if model.config.lora is None:
        merged = jax.jit(lambda params: merge(params, model.dtype))
        params = _on_device(merged(run.load_params(stage, step)))
        return Weights(params, model.unstack(params)), 2 * _bytes(params)
    kept = bases.get(base)
    params = run.load_params(stage, step, base=kept.params if kept else None)
    adapters, frozen = split(params)
    adapters = _on_device(adapters)
    if kept is None:
        frozen = _on_device(cast(frozen, model.dtype))
        kept = bases[base] = Weights(frozen, model.unstack(frozen))
    scale = model.config.lora.alpha / model.config.lora.rank

    def adapted(layer: Params, change: Params) -> Params:
        return layer | {
            name: Adapted(layer[name], factors["a"], factors["b"], scale)
            for name, factors in change.items()
        }

    layers = kept.layers | {
        stack: tuple(map(adapted, kept.layers[stack], unstack(changes)))
        for stack, changes in adapters.items()
    }
    return Weights(model.adapt(adapters, kept.params), layers), _bytes(adapters)


def _on_device(params: Params) -> Params:
    """As arrays of one device, not of a mesh of one: programs are compiled for the former."""
    return jax.device_put(params, jax.devices()[0])


def _bytes(params: Params) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def _context(opened: OpenModel) -> int:
    """What the checkpoint says, or for models that were trained here twice what they learned on."""
    run, stage, _ = opened
    source = run.sources.get(stage.model)
    if source is not None:
        described = json.loads((source.directory / "config.json").read_text(encoding="utf-8"))
        known = described.get("max_position_embeddings")
        if isinstance(known, int) and known > 0:
            return known
    trained = [LEAST_CONTEXT // 2]
    for other in (*run.config.training_stages, stage):
        if isinstance(other, SamplingStage):
            trained.append(other.rollout.max_prompt_tokens + other.rollout.max_completion_tokens)
        else:
            trained.append(other.max_row_tokens)
    return 2 * max(trained)


def _efforts(settings: RolloutConfig) -> dict[str, int]:
    high = settings.effort_high
    return {
        "": settings.thinking_tokens,
        "none": 0,
        "minimal": settings.effort_low // 2,
        "low": settings.effort_low,
        "medium": settings.effort_medium,
        "high": high,
        "xhigh": high,
        "max": high,
    }


def _fingerprint(opened: OpenModel) -> str:
    run, stage, step = opened
    described = f"{rft_jax.__version__} {run.workdir} {stage.name} {step}"
    checksums = run.checkpoints(stage) / str(step) / CHECKSUMS
    if checksums.is_file():
        described = f"{rft_jax.__version__} {checksums.read_text()}"
    return f"fp_{hashlib.sha256(described.encode()).hexdigest()[:12]}"
