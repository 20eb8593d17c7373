"""A step larger than memory is one sentence before compiling."""

import dataclasses

import pytest

from rft_jax.config import MeshConfig, ModelConfig, RLStage
from rft_jax.grammars import build_tables
from rft_jax.grammars.json_schema import schema_automaton
from rft_jax.parallel import make_mesh
from rft_jax.plan.this_machine import check_memory, device_memory, step_bytes
from rft_jax.utils.errors import InputError

from ..grammars.tools import strict, vocabulary

MODEL = ModelConfig(num_layers=2, hidden_size=64, num_heads=2, num_kv_heads=1, head_dim=32)


def test_a_small_step_fits_and_a_huge_batch_is_refused_with_its_settings():
    mesh = make_mesh(MeshConfig())
    stage = dataclasses.replace(RLStage(), batch_size=8)
    check_memory(MODEL, 512, stage, mesh)
    assert 0 < step_bytes(MODEL, 512, stage, mesh) < device_memory()
    huge = dataclasses.replace(stage, batch_size=8 * 10**6)
    with pytest.raises(InputError, match=r"stages\.rft: a step of 8000000 .* lower .*batch_size"):
        check_memory(MODEL, 512, huge, mesh)


@pytest.mark.parametrize("counted", [True, False])
def test_a_grammar_s_tables_count(counted):
    """Not less than the tables take, and not much more."""
    string = {"type": "string", "maxLength": 500} if counted else {"type": "string"}
    schema = strict(name=string, size={"type": "integer", "minimum": 7}, day={"format": "date"})
    schema["properties"]["day"]["type"] = "string"
    tables = build_tables(schema_automaton(schema, "schema"), vocabulary(), "schema")
    assert (tables.counters is not None) == counted
    stage, size = RLStage(), len(tables.class_V)
    rollout = dataclasses.replace(stage.rollout, response_format=schema)
    with_it = dataclasses.replace(stage, rollout=rollout)
    mesh = make_mesh(MeshConfig())
    added = step_bytes(MODEL, size, with_it, mesh) - step_bytes(MODEL, size, stage, mesh)
    assert tables.bytes <= added <= 8 * tables.bytes
