"""Checkpoints: the best are kept, damaged ones are never loaded, a full disk ends nothing."""

import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rft_jax.config import MeshConfig
from rft_jax.learn.optimizer import init_state
from rft_jax.parallel import make_mesh
from rft_jax.runs.checkpoint import CHECKSUMS, Checkpoints, abstract, best_step, load_params, steps
from rft_jax.utils.errors import InputError

OPTIMIZER = optax.adamw(1e-3)


def state_of(value):
    params = {"a": jnp.full((8, 4), float(value)), "b": {"c": jnp.arange(6.0) * value}}
    return init_state(params, OPTIMIZER, seed=7)._replace(step=jnp.int32(value))


def like(state, sharding=None):
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return abstract(state, jax.tree.map(lambda _: sharding, state))


def save(directory, rewards):
    """Saves steps 1, 2, ... with validation rewards or None."""
    with Checkpoints(directory) as checkpoints:
        for step, reward in enumerate(rewards, start=1):
            checkpoints.save(step, state_of(step), reward)
            checkpoints.wait()


def assert_restores(directory, step):
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.latest() == step
        restored = checkpoints.restore(step, like(state_of(0)))
    jax.tree.map(np.testing.assert_array_equal, restored, state_of(step))


def test_the_newest_two_and_the_best_three_are_kept(tmp_path):
    save(tmp_path, [0.1, 0.9, None, 0.8, 0.2, 0.7, None, 0.1, None])
    assert steps(tmp_path) == [2, 4, 6, 8, 9]
    assert best_step(tmp_path) == 2
    with Checkpoints(tmp_path) as checkpoints:  # what is best is known to another process too
        checkpoints.save(10, state_of(10), 0.95)
    assert best_step(tmp_path) == 10
    assert steps(tmp_path) == [2, 4, 9, 10]
    assert_restores(tmp_path, 10)
    restored = load_params(tmp_path, 4, like(state_of(0)).params)
    jax.tree.map(np.testing.assert_array_equal, restored, state_of(4).params)


def test_without_validations_nothing_is_best(tmp_path):
    save(tmp_path, [None, None, None])
    assert best_step(tmp_path) is None
    assert steps(tmp_path) == [2, 3]


def test_a_checkpoint_goes_to_another_mesh(tmp_path):
    save(tmp_path, [None])
    mesh = make_mesh(MeshConfig(2, 2, 2))
    place = NamedSharding(mesh, PartitionSpec("tensor"))
    params = state_of(0).params
    params = load_params(tmp_path, 1, abstract(params, jax.tree.map(lambda _: place, params)))
    assert params["a"].sharding == place
    np.testing.assert_array_equal(params["a"], state_of(1).params["a"])


def files_of(folder):
    inner = [p for p in folder.glob("*/**/*") if p.is_file() and p.stat().st_size]
    return sorted([*inner, folder / CHECKSUMS])


@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_checkpoint_is_never_loaded(tmp_path, capsys, seed):
    save(tmp_path, [None, None])
    choose = random.Random(seed)
    file = choose.choice(files_of(tmp_path / "2"))
    content = bytearray(file.read_bytes())
    at = choose.randrange(len(content))
    if seed % 2:
        content[at] ^= 1 << choose.randrange(8)
    else:
        del content[at:]
    file.write_bytes(content)
    if file.is_relative_to(tmp_path / "2" / "rest"):  # which reading the weights does not touch
        load_params(tmp_path, 2, like(state_of(0)).params)
    else:
        with pytest.raises(InputError, match="use another checkpoint"):
            load_params(tmp_path, 2, like(state_of(0)).params)
    assert_restores(tmp_path, 1)
    assert f"{tmp_path / '2'}: it" in capsys.readouterr().err
    assert (tmp_path / "damaged_2").is_dir()
    with Checkpoints(tmp_path) as checkpoints:  # and the step can be written again
        checkpoints.save(2, state_of(2), None)
    assert_restores(tmp_path, 2)


@pytest.mark.parametrize("content", [b"", b"{", None])
def test_damage_to_what_has_no_checksum_is_harmless(tmp_path, content):
    save(tmp_path, [0.5, 0.25])
    others = [p for p in (tmp_path / "2").iterdir() if p.is_file() and p.name != CHECKSUMS]
    assert others
    for file in others:
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
    assert_restores(tmp_path, 2)


def test_a_missing_file_is_damage(tmp_path):
    save(tmp_path, [None, None])
    (tmp_path / "2" / "rest" / "manifest.ocdbt").unlink()
    assert_restores(tmp_path, 1)


def test_checksums_are_there_before_a_checkpoint_has_its_name(tmp_path):
    save(tmp_path, [None])
    sums = json.loads((tmp_path / "1" / CHECKSUMS).read_text())
    listed = {str(p.relative_to(tmp_path / "1")) for p in (tmp_path / "1").rglob("*")}
    assert {name for name in sums} <= listed and len(sums) > 5


def test_there_is_a_sentence_for_a_step_that_is_not_there(tmp_path):
    save(tmp_path, [None])
    with pytest.raises(InputError, match="5: there is no such checkpoint"):
        load_params(tmp_path, 5, like(state_of(0)).params)
    assert steps(tmp_path / "nowhere") == []
