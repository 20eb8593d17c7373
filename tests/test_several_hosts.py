"""A run on several hosts, which are processes on one machine, is the run of one process.

The devices are eight in all, however many processes share them.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rft_jax.commands import entry
from rft_jax.config.load import load_config
from rft_jax.config.overrides import apply_overrides
from rft_jax.parallel.distributed import VARIABLES
from rft_jax.runs.checkpoint import steps
from rft_jax.runs.reopen import open_model
from rft_jax.training import train
from rft_jax.utils.metrics_file import read_metrics

from . import test_lora
from .test_lora import checkpoint  # noqa: F401, a fixture

EXPERIMENT = str(Path(__file__).parents[1] / "experiments" / "jsonl.py")
GRADER = {
    "type": "string_check",
    "name": "has_an_a",
    "operation": "like",
    "input": "{{ sample.output_text }}",
    "reference": "a",
}  # which an untrained model meets now and then
SMALL = {
    "models.policy.num_layers": "1",
    "models.policy.hidden_size": "32",
    "tensorboard": "False",
    "stages.sft.steps": "3",
    "stages.sft.optimizer.warmup_steps": "1",
    "stages.rft.steps": "4",
    "stages.rft.optimizer.warmup_steps": "1",
    "stages.rft.batch_size": "8",
    "stages.rft.checkpoint_interval": "1",
    "stages.rft.eval_interval": "2",
    "stages.rft.eval_samples": "1",
    "stages.rft.samples_interval": "2",
    "stages.rft.rollout.group_size": "2",
    # Few draws: weights of another order of summation give another token once in some 10,000.
    "stages.rft.rollout.max_completion_tokens": "16",
    "stages.rft.rollout.reasoning_effort": "8",
}
DEVICES, SECONDS = 8, 900

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_once")]


class Hosts:
    """The same command on several hosts; a context manager that leaves no process behind.

    Args:
        commands: of `rft`, one for each host.
    """

    def __init__(self, commands):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.processes = []
        for host, command in enumerate(commands):
            values = (address, str(len(commands)), str(host))
            settings = dict(zip(VARIABLES, values, strict=True)) if len(commands) > 1 else {}
            settings["JAX_PLATFORMS"] = "cpu"
            settings["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # a signal has to meet a compilation
            settings["XLA_FLAGS"] = (
                f"--xla_force_host_platform_device_count={DEVICES // len(commands)}"
            )
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "rft_jax.commands", *command],
                    env=os.environ | settings,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.communicate()

    def wait_for(self, text):
        """Until the first host says so."""
        assert any(text in line for line in self.processes[0].stderr)

    def finish(self):
        """Exit statuses, what was printed and what was said, by host."""
        texts = [process.communicate(timeout=SECONDS) for process in self.processes]
        return [p.returncode for p in self.processes], *zip(*texts, strict=True)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    grader = tmp_path_factory.mktemp("grader") / "grader.json"
    grader.write_text(json.dumps(GRADER))
    audit = grader.with_name("audit.json")
    audit.write_text(json.dumps(GRADER | {"name": "has_an_e", "reference": "e"}))
    return SMALL | {"grader": str(grader), "audit_grader": str(audit)}


@pytest.fixture(scope="module")
def config(settings):
    return apply_overrides(load_config(EXPERIMENT, {}), settings)


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    """The run of one process."""
    assert jax.device_count() == DEVICES
    workdir = tmp_path_factory.mktemp("alone")
    train(config, workdir)
    return workdir


def command(workdir, settings, **more):
    more = settings | {name.replace("__", "."): value for name, value in more.items()}
    flags = [f"--config.{name}={value}" for name, value in more.items()]
    return ["train", "--config", EXPERIMENT, "--workdir", str(workdir), *flags]


def train_on(hosts, workdir, settings, **more):
    """Trains to the end; returns what each host said."""
    with Hosts([command(workdir, settings, **more)] * hosts) as running:
        statuses, _, said = running.finish()
    assert statuses == [0] * hosts, said
    return said


def rows(workdir, stage):
    return read_metrics(workdir / stage / "metrics.jsonl")


def samples(workdir):
    """Every sample written down, without its advantage."""
    return [
        {name: value for name, value in json.loads(line).items() if name != "advantage"}
        for folder in ("samples", "audit")
        for path in sorted((workdir / "rft" / folder).glob("*"))  # not every run has an audit
        for line in path.read_text().splitlines()
    ]


def weights(workdir):
    run, stage, step = open_model(workdir)
    return run, jax.device_get(run.load_params(stage, step))


def assert_close(ours, theirs):
    assert ours == (theirs if isinstance(theirs, str) else pytest.approx(theirs, abs=1e-6))


def assert_same(workdir, other):
    """Equal samples; metrics and weights as close as design and arithmetic allow."""
    assert samples(workdir) == samples(other)
    for stage in ("sft", "rft"):
        for ours, theirs in zip(rows(workdir, stage), rows(other, stage), strict=True):
            assert ours.keys() == theirs.keys()
            for name in ours.keys() - {"timing", "stage"}:
                np.testing.assert_allclose(ours[name], theirs[name], 1e-4, 1e-5, err_msg=name)
    (run, ours), (_, theirs) = weights(workdir), weights(other)
    # A step of Adam moves a weight by its learning rate at most, in whichever direction.
    bound = sum(stage.steps * stage.optimizer.learning_rate for stage in run.config.stages)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.abs(a - b).max() <= bound
        assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b)


def without_gloo(text):
    """The lines but those of XLA's CPU collectives, whose threads print pieces of them at once."""
    piece = (
        r"\[Gloo\] Rank | is connected to | peer ranks. Expected number of connected peer ranks is "
    )
    return [line for line in text.splitlines() if not re.fullmatch(rf"({piece}|: |\d)+|", line)]


def test_the_run_has_something_to_learn(alone):
    rewards = {sample["reward"] for sample in samples(alone)}
    assert rewards == {0, 1}
    assert all(row["train_grad_norm"] > 0 for row in rows(alone, "rft")[1:])


@pytest.fixture(scope="module")
def two(settings, tmp_path_factory):
    """The run of two hosts, and what each of them said."""
    workdir = tmp_path_factory.mktemp("two")
    return workdir, train_on(2, workdir, settings)


def test_several_hosts_give_the_run_of_one_process(two, alone):
    workdir, said = two
    assert_same(workdir, alone)
    assert "rft 4/4" in said[0]
    for other in said[1:]:  # only the first host speaks
        assert without_gloo(other) == []


def test_weights_and_tokens_are_shared_out_over_the_hosts(alone, settings, tmp_path):
    mesh = {"mesh__data": "2", "mesh__fsdp": "2", "mesh__tensor": "2"}
    train_on(2, tmp_path, settings, **mesh)
    assert_same(tmp_path, alone)


def test_slots_and_dynamic_sampling_are_those_of_one_process(settings, tmp_path):
    more = {"stages__rft__max_resample_batches": "3", "stages__rft__rollout__slots": "8"}
    train_on(2, tmp_path / "two", settings, **more)
    train_on(1, tmp_path / "one", settings, **more)
    assert_same(tmp_path / "two", tmp_path / "one")
    assert max(row["train_sampled_prompts"] for row in rows(tmp_path / "one", "rft")[1:]) > 8


def test_one_hosts_rows_may_lie_on_all_hosts(settings, tmp_path):
    mesh = {"mesh__data": "1", "mesh__tensor": "8", "models__policy__num_heads": "8"}
    more = mesh | {"models__policy__num_kv_heads": "8", "placement": "host"}
    more |= {"tokenizer__vocab_size": "512"}  # a multiple of 8
    two, one = tmp_path / "two", tmp_path / "one"
    train_on(2, two, settings, **more)
    train_on(1, one, settings, **more)
    assert_same(two, one)


def test_every_host_reads_its_part_of_a_source(checkpoint, tmp_path):  # noqa: F811
    """And trains adapters over it."""
    grader = tmp_path / "grader.json"
    grader.write_text(json.dumps(test_lora.GRADER))
    settings = test_lora.RUN | {"grader": grader, "models.policy.source": checkpoint}
    mesh = {"mesh__data": "2", "mesh__fsdp": "2", "mesh__tensor": "2"}
    train_on(2, tmp_path / "two", settings, **mesh)
    train_on(1, tmp_path / "one", settings)
    assert_same(tmp_path / "two", tmp_path / "one")


def test_graders_on_the_hosts_give_the_rewards_of_the_device(alone, settings, tmp_path):
    train_on(2, tmp_path, settings, placement="host", stages__rft__host_chunks="1")
    assert_same(tmp_path, alone)


@pytest.mark.parametrize(("host", "later"), [(1, 1), (0, 4)])
def test_a_signal_to_one_host_saves_the_same_step_on_all(
    host, later, alone, config, settings, tmp_path
):
    """And other numbers of hosts go on from there."""
    with Hosts([command(tmp_path, settings)] * 2) as running:
        running.wait_for("rft 0/4")  # compiling the first step takes longer than a signal
        running.processes[host].send_signal(signal.SIGTERM)
        statuses, _, said = running.finish()
    assert statuses == [143, 143], said
    assert all("ended by SIGTERM, all saved; start the same command" in text for text in said)
    saved = steps(tmp_path / "rft" / "checkpoints")[-1]
    assert 0 < saved == rows(tmp_path, "rft")[-1]["step"] < 4
    if later == 1:
        train(config, tmp_path)
    else:
        said = train_on(later, tmp_path, settings)
        assert f"going on from step {saved}" in said[0]
    assert_same(tmp_path, alone)


def test_what_is_wrong_on_one_host_ends_all(settings, tmp_path):
    commands = [command(tmp_path, settings) for _ in range(2)]
    commands[1][2] = "missing.py"
    with Hosts(commands) as running:
        statuses, _, said = running.finish()
    assert statuses == [2, 2]
    assert "rft train: host 1: missing.py: there is no such experiment file" in said[0]
    assert "rft train: missing.py: there is no such experiment file" in said[1]
    assert not list(tmp_path.iterdir())


def test_hosts_that_do_not_share_a_folder_are_told_so(settings, tmp_path):
    commands = [command(tmp_path / name, settings) for name in ("a", "b")]
    with Hosts(commands) as running:
        statuses, _, said = running.finish()
    assert statuses == [2, 2]
    assert "use one that all hosts share" in said[0]
    assert f"{tmp_path / 'b'}: is not the folder" in said[1]


def test_hosts_end_when_one_is_killed(settings, tmp_path):
    with Hosts([command(tmp_path, settings, stages__rft__steps="1000")] * 2) as running:
        running.wait_for("rft 1/1000")
        running.processes[1].kill()
        statuses, _, said = running.finish()
    assert statuses[1] == -signal.SIGKILL
    assert statuses[0] not in (0, 143)
    # Where the collectives do not notice, jax does, by the heartbeats.
    assert "failed, or lost another host" in said[0] or "another task died" in said[0]


def test_all_hosts_go_back_from_a_damaged_checkpoint(two, alone, settings, tmp_path):
    workdir = Path(shutil.copytree(two[0], tmp_path / "damaged"))
    newest = workdir / "rft" / "checkpoints" / "4"
    file = next(path for path in sorted(newest.glob("params/**/*")) if path.is_file())
    file.write_bytes(file.read_bytes()[:-1])
    said = train_on(2, workdir, settings)
    assert "going back to the checkpoint before" in said[0]
    assert "going on from step 3" in said[0]
    assert_same(workdir, alone)


def test_evaluation_on_several_hosts_prints_once_what_one_process_finds(alone, capsys):
    arguments = ["eval", "--model", f"{alone}/sft", "--model", f"{alone}/rft", "--num-samples", "2"]
    assert entry.main(arguments) == 0
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with Hosts([arguments] * 2) as running:
        statuses, printed, said = running.finish()
    assert statuses == [0, 0], said
    found = [json.loads(line) for line in without_gloo(printed[0])]
    assert len(found) > 2
    jax.tree.map(assert_close, found, expected)
    assert without_gloo(printed[1]) == []
