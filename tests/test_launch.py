"""The launch scripts: syntax, schema, and what they would run, with stand-ins for the clouds."""

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from jax.sharding import AbstractMesh

from rft_jax.commands.entry import load_config
from rft_jax.parallel import check_stage
from rft_jax.parallel.mesh import MESH_AXES

LAUNCH = Path(__file__).parents[1] / "experiments" / "launch"
TRAIN = ["train", "--config", "experiments/jsonl.py", "--workdir", "runs/claims"]

# What the API server asks of a JobSet (https://jobset.sigs.k8s.io/docs/reference), as far as the
# manifest goes; another name is a mistake.
STRING, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}


def record(required, **properties):
    """A JSON object that may have some further properties."""
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


def array(items):
    return {"type": "array", "items": items, "minItems": 1}


NAMES = {"type": "object", "additionalProperties": STRING}
CONTAINER = record(
    "name image command args resources",
    name=STRING,
    image=STRING,
    workingDir=STRING,
    command=array(STRING),
    args=array(STRING),
    resources=record("limits", limits=record("google.com/tpu", **{"google.com/tpu": NUMBER})),
    volumeMounts=array(record("name mountPath", name=STRING, mountPath=STRING)),
)
POD = record(
    "restartPolicy containers",
    restartPolicy={"enum": ["Never", "OnFailure"]},  # a Job's
    terminationGracePeriodSeconds=NUMBER,
    nodeSelector=NAMES,
    containers=array(CONTAINER),
    volumes=array(
        record("name", name=STRING, persistentVolumeClaim=record("claimName", claimName=STRING))
    ),
)
JOB = record(
    "template",
    parallelism=NUMBER,
    completions=NUMBER,
    backoffLimit=NUMBER,
    template=record("spec", spec=POD),
)
JOBSET = record(
    "apiVersion kind metadata spec",
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=record("name", name={"pattern": "^[a-z]([a-z0-9-]*[a-z0-9])?$"}, annotations=NAMES),
    spec=record(
        "replicatedJobs",
        failurePolicy=record("maxRestarts", maxRestarts=NUMBER),
        replicatedJobs=array(
            record("name template", name=STRING, replicas=NUMBER, template=record("spec", spec=JOB))
        ),
    ),
)
SKYPILOT = record(  # https://docs.skypilot.co/en/latest/reference/yaml-spec.html
    "resources run",
    name=STRING,
    num_nodes=NUMBER,
    workdir=STRING,
    resources=record("accelerators", infra=STRING, accelerators=STRING),
    volumes=NAMES,
    setup=STRING,
    run=STRING,
)
SBATCH = set(
    "job-name nodes ntasks-per-node gpus-per-node cpus-per-task time signal requeue open-mode "
    "output".split()
)


def load(name):
    return yaml.safe_load((LAUNCH / name).read_text())


def shells():
    """Every shell script, by name."""
    found = {p.name: p.read_text() for p in LAUNCH.iterdir() if p.suffix != ".yaml"}
    task = load("skypilot.yaml")
    return found | {f"skypilot.yaml: {name}": task[name] for name in ("setup", "run")}


def test_every_script_begins_with_its_command():
    commands = {
        "tpu_vm.sh": "bash experiments/launch/tpu_vm.sh ",
        "slurm.sbatch": "sbatch experiments/launch/slurm.sbatch ",
        "gke_jobset.yaml": "kubectl apply --server-side -f experiments/launch/gke_jobset.yaml",
        "skypilot.yaml": "sky jobs launch experiments/launch/skypilot.yaml",
    }
    assert {path.name for path in LAUNCH.iterdir()} == commands.keys()
    for name, command in commands.items():
        head = (LAUNCH / name).read_text().split("\n\n")[0]
        assert f"#   {command}" in head


@pytest.mark.parametrize("name", shells())
def test_shell_is_sound(name):
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent)
    assert shellcheck, "pip install -e '.[test]' brings it"
    checked = subprocess.run(
        [shellcheck, "--shell=bash", "-"], input=shells()[name], text=True, capture_output=True
    )
    assert checked.returncode == 0, checked.stdout
    parsed = subprocess.run(["bash", "-n"], input=shells()[name], text=True, capture_output=True)
    assert (parsed.returncode, parsed.stderr) == (0, "")


def test_the_manifests_have_the_form_that_is_asked_of_them():
    jsonschema.validate(load("gke_jobset.yaml"), JOBSET)
    jsonschema.validate(load("skypilot.yaml"), SKYPILOT)


def test_the_jobset_is_a_slice_with_all_of_its_chips():
    jobset = load("gke_jobset.yaml")
    (job,) = jobset["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    sides = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = int(sides[0]) * int(sides[1])
    hosts = job["template"]["spec"]["parallelism"]
    assert hosts * container["resources"]["limits"]["google.com/tpu"] == chips
    assert job["template"]["spec"]["completions"] == hosts
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    mount = container["volumeMounts"][0]["mountPath"]
    assert container["args"][-1].startswith(f"{mount}/")  # the work directory


def test_sixteen_devices_divide_the_experiments_batches():
    mesh = AbstractMesh((1, 16, 1), MESH_AXES)  # as many as every script has
    for stage in load_config(TRAIN[2], {}).training_stages:
        check_stage(mesh, stage)


def test_the_directives_of_slurm_stand_before_the_first_command():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if line and line[0] != "#")]
    directives = [line for line in lines if line.startswith("#SBATCH")]
    assert directives and all(line in head for line in directives)
    for line in directives:
        assert re.fullmatch(r"#SBATCH --([a-z-]+)(=\S+)?", line)[1] in SBATCH


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Makes a program that writes down its arguments, one call a line."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name, status=0):
        log, program = tmp_path / f"{name}.log", folder / name
        program.write_text(
            f"#!/bin/bash\nprintf '%s\\0' \"$@\" >> {log}\necho >> {log}\nexit {status}\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return lambda: [
            call.removesuffix("\0").split("\0") for call in log.read_text().split("\0\n")[:-1]
        ]

    return make


def test_a_tpu_vm_gets_the_sources_and_then_the_command(stand_in, tmp_path):
    calls = stand_in("gcloud")
    arguments = ["slice-0", "us-west4-a", "10.0.0.2:/share", *TRAIN, "--config.name=two words"]
    repository = LAUNCH.parents[1]
    command = ["bash", str(LAUNCH / "tpu_vm.sh"), *arguments]
    stand_in("git")
    subprocess.run(command, check=True, cwd=repository)
    copied, prepared, trained = calls()
    for call in (copied, prepared, trained):
        assert call[:3] == ["compute", "tpus", "tpu-vm"]
        assert {"slice-0", "--zone=us-west4-a", "--worker=all"} <= {*call, call[5].rstrip(":")}
    assert copied[3] == "scp" and prepared[3] == trained[3] == "ssh"
    on_host = prepared[-1].removeprefix("--command=")
    assert "mount -t nfs '10.0.0.2:/share' /mnt/share" in on_host
    assert subprocess.run(["bash", "-n"], input=on_host, text=True).returncode == 0
    *_, words = trained[-1].removeprefix("--command=").partition("&& ")
    assert shlex.split(words) == ["exec", ".venv/bin/rft", *TRAIN, "--config.name=two words"]


def test_a_tpu_vm_without_arguments_says_how(stand_in):
    calls = stand_in("gcloud")
    done = subprocess.run(["bash", str(LAUNCH / "tpu_vm.sh")], capture_output=True, text=True)
    assert done.returncode == 2
    assert "bash experiments/launch/tpu_vm.sh NAME ZONE" in done.stderr
    with pytest.raises(FileNotFoundError):
        calls()


@pytest.mark.parametrize(("status", "requeued"), [(143, True), (0, False), (2, False)])
def test_slurm_goes_on_with_what_was_saved(stand_in, monkeypatch, status, requeued):
    calls, again = stand_in("srun", status), stand_in("scontrol")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    done = subprocess.run(["bash", str(LAUNCH / "slurm.sbatch"), *TRAIN])
    assert done.returncode == status
    assert calls() == [["--kill-on-bad-exit=1", ".venv/bin/rft", *TRAIN]]
    if requeued:
        assert again() == [["requeue", "77"]]
    else:
        with pytest.raises(FileNotFoundError):
            again()


def test_skypilot_tells_every_machine_who_it_is(tmp_path):
    program = tmp_path / ".venv" / "bin" / "rft"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nenv\necho "$@"\n')
    program.chmod(0o755)
    nodes = {
        "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.9",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
    }
    lines = subprocess.run(
        ["bash", "-c", load("skypilot.yaml")["run"]],
        cwd=tmp_path, env=os.environ | nodes, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    expected = ("JAX_COORDINATOR_ADDRESS=10.0.0.7:1234", "JAX_NUM_PROCESSES=2", "JAX_PROCESS_ID=1")
    assert set(expected) <= set(lines)
    assert lines[-1].startswith("train --config experiments/jsonl.py --workdir /mnt/share/")
