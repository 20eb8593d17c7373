"""RFT of open models: five domains, or JSON lines and a grader of your own, on one of four models.

    rft train --config experiments/open_models.py:rare_disease/qwen3-0.6b --workdir runs/qwen3 \
        --config.data.archive=all_phenopackets.zip
    rft train --config experiments/open_models.py:jsonl/gemma-3-1b --workdir runs/gemma

    rft train --config experiments/open_models.py:law/qwen3-4b-lora --workdir runs/law \
        --config.data.release=sara

The archive is that of `rare_disease.py`; `jsonl` takes files of your own as `jsonl.py` does, and as
it stands decides the claims. The other jobs take the folder of a public release, which the head of
their module in `rft_jax/tasks` names: `perils` and `coverage` (insurance), `law` and `citations`
(law), `finance`, `verilog` (it needs Icarus Verilog) and `scibench` (engineering). Gemma and Llama
are gated: accept their license and `hf auth login`.

Beside the reward, which gives partial credit, every validation has the data's official metric, as
the `audit_grader`.

Hardware: a v5litepod-4 slice, four TPU v5e chips of 16 GB. None was run on a TPU yet. Arguments and
temporaries of a step on each chip, its grader left out, as the compiler plans them ahead of time
(v5e:2x2, jax 0.10.2, libtpu 0.0.42, 2026-11-25; `rft plan` compiles for other slices and settings):

                    jsonl      rare_disease
    qwen3-0.6b      5.1 GB      5.2 GB
    qwen3-4b-lora   9.9 GB     10.1 GB
    gemma-3-1b      9.1 GB      9.1 GB
    llama-3.2-1b    8.5 GB      9.3 GB
"""

from pathlib import Path
from typing import NamedTuple

from rft_jax.config import (
    Config,
    DataConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyLossConfig,
    RLStage,
    RolloutConfig,
    SFTStage,
)
from rft_jax.tasks.engineering import scibench as scibench_task
from rft_jax.tasks.engineering import verilog as verilog_task
from rft_jax.tasks.finance import tatqa
from rft_jax.tasks.insurance import coverage as coverage_task
from rft_jax.tasks.insurance import perils as perils_task
from rft_jax.tasks.law import sara
from rft_jax.tasks.rare_disease.data import RareDiseaseData
from rft_jax.tasks.rare_disease.prompts import grader
from rft_jax.utils.errors import InputError

CLAIMS = Path(__file__).parent / "claims"


class Setup(NamedTuple):
    """A model on four TPU v5e chips (v5litepod-4, 16 GB each)."""

    model: ModelConfig
    mesh: MeshConfig


MODELS = {
    "qwen3-0.6b": Setup(ModelConfig(source="hf:Qwen/Qwen3-0.6B"), MeshConfig(fsdp=4)),
    "qwen3-4b-lora": Setup(
        ModelConfig(source="hf:Qwen/Qwen3-4B", lora=LoraConfig()), MeshConfig(fsdp=2, tensor=2)
    ),
    "gemma-3-1b": Setup(ModelConfig(source="hf:google/gemma-3-1b-it"), MeshConfig(fsdp=4)),
    "llama-3.2-1b": Setup(
        ModelConfig(source="hf:meta-llama/Llama-3.2-1B-Instruct"), MeshConfig(fsdp=4)
    ),
}


def rare_disease(setup: Setup) -> Config:
    """A general model knows genes and findings; the prompt tells it task and format."""
    return Config(
        name="rare_disease",
        data=RareDiseaseData(instructions=True, patients_per_gene=1),
        grader=grader(),
        audit_grader=grader() | {"name": "first", "credit": [1.0]},
        models=(setup.model,),
        mesh=setup.mesh,
        stages=(_reinforce("", max_prompt_tokens=768, output_bytes=2048),),
    )


def jsonl(setup: Setup) -> Config:
    """Some steps on worked answers teach the format, which the claims do not tell."""
    rate = 1e-5 if setup.model.lora is None else 1e-4
    sft = SFTStage(
        name="sft",
        steps=40,
        batch_size=16,
        max_row_tokens=1024,
        optimizer=OptimizerConfig(learning_rate=rate, warmup_steps=4, schedule="cosine"),
        gradient_accumulation=4,
        logit_chunk=64,
    )
    return Config(
        name="jsonl",
        data=DataConfig(
            train=str(CLAIMS / "train.jsonl"),
            valid=str(CLAIMS / "valid.jsonl"),
            supervised=str(CLAIMS / "supervised.jsonl"),
        ),
        grader=str(CLAIMS / "grader.json"),
        models=(setup.model,),
        mesh=setup.mesh,
        stages=(sft, _reinforce("sft", max_prompt_tokens=512, output_bytes=1024)),
    )


def perils(setup: Setup) -> Config:
    """Insurance: the cause of a claim, from the adjuster's note."""
    return Config(
        name="perils",
        data=perils_task.PerilsData(instructions=True),
        grader=perils_task.grader(),
        audit_grader=perils_task.official_grader(),
        models=(setup.model,),
        mesh=setup.mesh,
        stages=(_reinforce("", max_prompt_tokens=256, output_bytes=512),),
    )


def coverage(setup: Setup) -> Config:
    """Insurance: whether a policy covers a claim, as its readers see it."""
    return Config(
        name="coverage",
        data=coverage_task.CoverageData(),
        grader=coverage_task.grader(),
        audit_grader=coverage_task.official_grader(),
        models=(setup.model,),
        mesh=setup.mesh,
        stages=(_reinforce("", max_prompt_tokens=512, output_bytes=512),),
    )


def law(setup: Setup) -> Config:
    """What is owed, and what follows, under the statutes in the prompt: all of them for a sum."""
    return Config(
        name="law",
        data=sara.SaraData(),
        grader=sara.grader(),
        audit_grader=sara.official_grader(),
        models=(setup.model,),
        mesh=setup.mesh,
        stages=(
            _reinforce(
                "", max_prompt_tokens=8192, prompt_buckets=3, completion=1024, output_bytes=4096
            ),
        ),
    )


def citations(setup: Setup) -> Config:
    """Law: the subsection that a statement applies, out of all nine sections."""
    return Config(
        name="citations",
        data=sara.SaraData(kinds="citation"),
        grader=sara.citation_grader(),
        audit_grader=sara.official_citation_grader(),
        models=(setup.model,),
        mesh=setup.mesh,
        stages=(_reinforce("", max_prompt_tokens=8192, prompt_buckets=2, output_bytes=512),),
    )


def finance(setup: Setup) -> Config:
    """Numbers and spans out of annual reports."""
    return Config(
        name="finance",
        data=tatqa.TatqaData(),
        grader=tatqa.grader(),
        audit_grader=tatqa.official_grader(),
        models=(setup.model,),
        mesh=setup.mesh,
        stages=(_reinforce("", max_prompt_tokens=4096, prompt_buckets=3, output_bytes=1024),),
    )


def verilog(setup: Setup) -> Config:
    """Engineering: circuits from their specification, judged by simulation on the host."""
    return Config(
        name="verilog",
        data=verilog_task.VerilogData(),
        grader=verilog_task.grader(),
        audit_grader=verilog_task.official_grader(),
        host=verilog_task.host_options(),
        models=(setup.model,),
        mesh=setup.mesh,
        stages=(_reinforce("", max_prompt_tokens=1536, completion=1024, output_bytes=4096),),
    )


def scibench(setup: Setup) -> Config:
    """Engineering: problems of physics and chemistry with a number as the answer."""
    return Config(
        name="scibench",
        data=scibench_task.ScibenchData(),
        grader=scibench_task.grader(),
        audit_grader=scibench_task.official_grader(),
        models=(setup.model,),
        mesh=setup.mesh,
        stages=(_reinforce("", max_prompt_tokens=512, completion=1024, output_bytes=4096),),
    )


def _reinforce(
    init: str,
    *,
    max_prompt_tokens: int,
    output_bytes: int,
    prompt_buckets: int = 1,
    completion: int = 512,
) -> RLStage:
    return RLStage(
        name="rft",
        init=init,
        steps=100,
        batch_size=16,
        rollout=RolloutConfig(
            group_size=8,
            max_prompt_tokens=max_prompt_tokens,
            prompt_buckets=prompt_buckets,
            max_completion_tokens=completion,
            output_bytes=output_bytes,
            reasoning_effort=completion // 2,
        ),
        policy_loss=PolicyLossConfig(gradient_accumulation=4, logit_chunk=32),
        optimizer=OptimizerConfig(warmup_steps=5),
        eval_interval=20,
    )


JOBS = {
    "rare_disease": rare_disease,
    "jsonl": jsonl,
    "perils": perils,
    "coverage": coverage,
    "law": law,
    "citations": citations,
    "finance": finance,
    "verilog": verilog,
    "scibench": scibench,
}


def get_config(variant: str = "jsonl/qwen3-0.6b") -> Config:
    """The experiment JOB/MODEL.

    Raises:
        InputError: there is no such job or model.
    """
    job, _, model = variant.partition("/")
    if job not in JOBS or model not in MODELS:
        raise InputError(
            f"{variant}: expected one of {', '.join(JOBS)}, a slash, and one of {', '.join(MODELS)}"
        )
    return JOBS[job](MODELS[model])
