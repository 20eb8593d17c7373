"""Several processes on one machine stand for several hosts."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rft_jax.config import MeshConfig
from rft_jax.parallel import batch_sharding, distributed, from_local, local_rows, make_mesh
from rft_jax.parallel.distributed import VARIABLES, _arguments
from rft_jax.utils.errors import InputError

PROGRAM = Path(__file__).with_name("hosts_program.py")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What two hosts with four devices each print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    path = tmp_path_factory.mktemp("turns") / "turns"
    processes = []
    for host in range(2):
        settings = dict(zip(VARIABLES, (address, "2", str(host)), strict=True))
        settings["JAX_PLATFORMS"] = "cpu"
        settings["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
        command = [sys.executable, str(PROGRAM), str(path)]
        processes.append(
            subprocess.Popen(command, env=os.environ | settings, stdout=-1, stderr=-1, text=True)
        )
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def test_every_host_has_its_rows_and_sees_the_whole_array(answers):
    assert [answer["hosts"] for answer in answers] == [2, 2]
    assert [answer["devices"] for answer in answers] == [8, 8]
    assert [answer["rows"] for answer in answers] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [answer["array"] for answer in answers] == [[0, 2, 4, 6, 8, 10, 12, 14]] * 2


def test_objects_of_different_sizes_are_gathered_in_the_hosts_order(answers):
    expected = [{"host": 0, "text": ""}, {"host": 1, "text": "x" * 3000}]
    assert [answer["gathered"] for answer in answers] == [expected] * 2


def test_an_error_of_one_host_is_raised_on_all_and_names_it(answers):
    assert answers[0]["input"] == "InputError: host 1: data.jsonl, line 3: no JSON"
    assert answers[1]["input"] == "InputError: data.jsonl, line 3: no JSON"
    assert answers[0]["other"] == "RunFailed: host 1: gone"
    assert answers[1]["other"] == "gone"


def test_what_one_host_cannot_open_the_others_close_again(answers):
    assert answers[0]["context"] == "InputError: host 1: no such thing here"
    assert [answer["closed"] for answer in answers] == [True, False]


def test_the_first_host_acts_before_the_others(answers):
    assert [answer["turns"] for answer in answers] == [["0"], ["0", "1"]]


def test_a_number_of_one_host_reaches_all_at_the_next_call(answers):
    assert [answer["maxima"] for answer in answers] == [[0, 0, 15, 0]] * 2


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_one_host_has_all_rows_once(sizes):
    place = batch_sharding(make_mesh(MeshConfig(*sizes), jax.devices()[:8]))
    here = local_rows(place, 8)
    assert here.tolist() == list(range(8))
    rows = from_local(np.arange(16).reshape(8, 2), place, 8)
    assert rows.sharding == place
    np.testing.assert_array_equal(rows, np.arange(16).reshape(8, 2))


def test_rows_are_ascending_whatever_the_order_of_the_devices():
    devices = np.asarray(jax.devices()[:8])[[3, 1, 7, 5, 0, 2, 6, 4]]
    place = NamedSharding(jax.sharding.Mesh(devices, ("data",)), PartitionSpec("data"))
    assert local_rows(place, 16).tolist() == list(range(16))


def test_the_variables_say_who_a_process_is(monkeypatch):
    monkeypatch.setattr(distributed, "_has_tpu", lambda: False)
    given = dict(zip(VARIABLES, ("node7:1234", "4", "3"), strict=True))
    arguments = _arguments(given)
    assert arguments["coordinator_address"] == "node7:1234"
    assert (arguments["num_processes"], arguments["process_id"]) == (4, 3)
    assert _arguments({}) is None
    assert _arguments({"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert _arguments({"SLURM_STEP_NUM_TASKS": "2"}) == {}
    assert _arguments({"OMPI_COMM_WORLD_SIZE": "8"}) == {}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (("node7:1234", "4", ""), "is set, but not JAX_PROCESS_ID; set all three"),
        (("", "4", "3"), "JAX_NUM_PROCESSES is set, but not JAX_COORDINATOR_ADDRESS"),
        (("node7", "4", "3"), "JAX_COORDINATOR_ADDRESS: 'node7' is no address; write HOST:PORT"),
        (("node7:1234", "four", "3"), "must be numbers"),
        (("node7:1234", "4", "4"), "JAX_PROCESS_ID must be below JAX_NUM_PROCESSES; got 4 of 4"),
    ],
)
def test_variables_that_cannot_work_are_refused(values, sentence):
    with pytest.raises(InputError, match=sentence):
        _arguments(dict(zip(VARIABLES, values, strict=True)))
