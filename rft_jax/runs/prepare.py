"""The preparation of a run: everything is loaded and checked before anything is compiled.

run = open_run(config, workdir)  # new, or the same configuration again
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from rft_jax.config import Config, DistillStage, StageConfig
from rft_jax.config.overrides import to_json
from rft_jax.config.presets import remarks, resolve
from rft_jax.config.validate import validate, validate_adapters, validate_mesh, validate_placement
from rft_jax.grammars import grammar_of, load_response_format, read_response_format
from rft_jax.models import check_partition
from rft_jax.parallel import LEARNER_RULES, batch_parts, first_host_first, is_first, make_mesh
from rft_jax.runs.audit import AUDIT_FILE, check_audit, open_audit
from rft_jax.runs.datasets import StageReader, write_files
from rft_jax.runs.fingerprints import INPUTS_FILE, check_input_sums, input_sums
from rft_jax.runs.grader import GRADER_FILE, grader_text, open_judges, run_grader
from rft_jax.runs.lengths import check_batches, check_thinking_budgets, length_warnings
from rft_jax.runs.pretrained import find_sources, rate_warnings, snapshot
from rft_jax.runs.run import Run
from rft_jax.runs.teacher import check_teacher
from rft_jax.runs.tokenizer import TOKENIZER_FILE, stored_tokenizer, train_tokenizer
from rft_jax.runs.warm_start import check_init
from rft_jax.runs.workdir import CONFIG_FILE, check_same
from rft_jax.utils.console import log
from rft_jax.utils.errors import InputError
from rft_jax.utils.files import write_atomically

Readers = Mapping[type[StageConfig], type[StageReader]]


def open_run(config: Config, workdir: Path, readers: Readers) -> Run:
    """Opens a work directory for training: checks everything, then writes its first files.

    On several hosts the first one does so, and the others read and check what it has written.

    Args:
        config: The experiment.
        workdir: New, or of the same configuration.
        readers: How each stage type reads its data, by the class of its settings.

    Raises:
        InputError: For whatever in the configuration or the data cannot work, and for a work
            directory of another configuration; what a run has written is not changed then.
    """
    return first_host_first(lambda: _open_run(config, workdir, readers))


def _open_run(config: Config, workdir: Path, readers: Readers) -> Run:
    validate(config)
    told = [remark for stage in config.rl_stages for remark in remarks(stage)]
    config = resolve(_with_response_formats(config))
    mesh = make_mesh(config.mesh)
    for stage in config.training_stages:
        validate_mesh(stage, batch_parts(mesh))
    stored = workdir / CONFIG_FILE
    new = not stored.exists()
    if not new:
        check_same(stored, config)
    elif not is_first():
        raise InputError(
            f"{workdir}: is not the folder that the first host writes to; use one that all hosts "
            "share, such as one on NFS"
        )
    if (grader := run_grader(config)) is not None:
        grader = open_judges(grader, mesh)
        for stage in config.rl_stages:
            validate_placement(stage, grader.needs_host)
    audit = open_audit(config, mesh)
    files = write_files(config.data, workdir, new=new)
    inputs = input_sums(config, files, workdir)
    if not new:  # what is left of a start that came to no configuration counts for nothing
        check_input_sums(workdir, inputs)
    rows = {
        stage.name: readers[type(stage)].read(stage, files, workdir, grader)
        for stage in config.stages
    }
    check_batches(config, rows)
    if audit is not None:
        check_audit(config, audit, rows)
    sources = find_sources(config, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    tokenizer_path, temporary = workdir / TOKENIZER_FILE, workdir / "tokenizer.tmp"
    with contextlib.ExitStack() as stack:
        stack.callback(temporary.unlink, missing_ok=True)
        tokenizer = stored_tokenizer(config, sources, None if new else workdir) or train_tokenizer(
            config, rows, files.symbols, temporary
        )
        for judging in filter(None, (grader, audit)):
            judging.check_tokenizer(tokenizer)
        run = Run(config, workdir, mesh, grader, tokenizer, sources, {}, audit)
        _check_stages(run)
        encoded = {
            stage.name: readers[type(stage)].encode(stage, rows[stage.name], config, tokenizer)
            for stage in config.stages
        }
        if is_first():
            told = length_warnings(config, rows, grader, tokenizer)
            for warning in (*told, *rate_warnings(config)):
                log(f"warning: {warning}")
            for remark in told:
                log(remark)
        if temporary.exists():
            os.replace(temporary, tokenizer_path)
    if new:
        if config.tokenizer.path and not sources:
            shutil.copyfile(config.tokenizer.path, tokenizer_path)
        _write_inputs(config, workdir, inputs)
    if is_first():  # a run that is made longer has other settings
        write_atomically(stored, json.dumps(to_json(config), indent=2) + "\n")
    sources = {name: snapshot(source, workdir) for name, source in sources.items()}
    return dataclasses.replace(run, sources=sources, data=encoded)


def _check_stages(run: Run) -> None:
    """What stages start from and learn from, their adapters and formats, before anything is
    compiled.
    """
    for stage in run.config.training_stages:
        if "/" in stage.init:
            check_init(run, stage)
        validate_adapters(stage, run.model_config(stage))
        check_partition(run.model(stage), run.mesh, LEARNER_RULES)
    check_thinking_budgets(run.config, run.tokenizer)
    for stage in run.config.sampling_stages:
        grammar_of(stage.rollout, run.tokenizer)
        if isinstance(stage, DistillStage):
            check_teacher(run, stage)


def _write_inputs(config: Config, workdir: Path, sums: dict[str, dict[str, str]]) -> None:
    """Keeps the graders that are JSON, and the sums of the files, of a run that begins."""
    for file, used in ((GRADER_FILE, config.grader), (AUDIT_FILE, config.audit_grader)):
        if used and (isinstance(used, dict) or Path(used).is_file()):
            write_atomically(workdir / file, grader_text(used))
    write_atomically(workdir / INPUTS_FILE, json.dumps(sums, indent=2) + "\n")


def _with_response_formats(config: Config) -> Config:
    """The configuration with the content of the response formats that are files."""
    read = {}
    for stage in config.sampling_stages:
        if isinstance(path := stage.rollout.response_format, str) and path:
            content = load_response_format(path)
            read_response_format(content)  # an object, as the setting must be
            rollout = dataclasses.replace(stage.rollout, response_format=content)
            read[stage.name] = dataclasses.replace(stage, rollout=rollout)
    stages = tuple(read.get(stage.name, stage) for stage in config.stages)
    return dataclasses.replace(config, stages=stages)
