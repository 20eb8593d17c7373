"""Loading takes the memory of the arrays, one device's shard and a fixed rest."""

import json
import math
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from rft_jax.models import build_model
from rft_jax.models.families import FAMILIES, Settings
from rft_jax.models.hugging_face.layout import layouts

REST = 300 << 20
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 65_536,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 26,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
}
PROGRAM = """
import dataclasses, os, sys
from pathlib import Path
import jax, jax.numpy as jnp
from rft_jax.config import LoraConfig, MeshConfig
from rft_jax.models import build_model, split
from rft_jax.models.hugging_face import load_params, open_checkpoint
from rft_jax.parallel import LEARNER_RULES, make_mesh, shardings

checkpoint = open_checkpoint(Path(sys.argv[1]))
lora = LoraConfig(base_dtype=sys.argv[2])
model = build_model(dataclasses.replace(checkpoint.config, lora=lora), checkpoint.vocab_size)
mesh = make_mesh(MeshConfig(data=1, fsdp=jax.device_count() // 2, tensor=2)
                 if jax.device_count() > 1 else MeshConfig())
places = split(shardings(mesh, LEARNER_RULES, model.axes))[1]
jax.block_until_ready(jax.device_put(jnp.zeros(8), jax.tree.leaves(places)[0].mesh.devices.flat[0]))
before = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
params = jax.block_until_ready(load_params(checkpoint, places, model.frozen_dtype))
# Not `ru_maxrss`, which begins with what the process had that started this one.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) * 1024
leaves = jax.tree.leaves(params)
shard = max(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
print(peak - before, sum(leaf.nbytes for leaf in leaves), shard)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Four gigabytes of bfloat16 in files of a layer each."""
    directory = tmp_path_factory.mktemp("large")
    family = FAMILIES[CONFIG["architectures"][0]]
    config = family.read_config(Settings(CONFIG, "config"))
    leaves = jax.tree.leaves(layouts(family, build_model(config, CONFIG["vocab_size"])))
    noise = np.random.default_rng(0).normal(size=1 << 27).astype(ml_dtypes.bfloat16)
    files, names = {}, {}
    for layout in leaves:
        for name in layout.names():
            part = name.split(".")[2] if ".layers." in name else name
            size = math.prod(layout.tensor_shape)
            files.setdefault(part, {})[name] = noise[:size].reshape(layout.tensor_shape)
    for part, tensors in files.items():
        save_file(tensors, directory / f"{part}.safetensors")
        names |= dict.fromkeys(tensors, f"{part}.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    index = json.dumps({"weight_map": names})
    (directory / "model.safetensors.index.json").write_text(index)
    yield directory
    for path in directory.iterdir():
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    "devices, dtype, least", [(1, "bfloat16", 4e9), (8, "bfloat16", 4e9), (1, "nf4", 1.5e9)]
)
def test_four_gigabytes_are_loaded_in_little_more(checkpoint, devices, dtype, least):
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, checkpoint, dtype],
        env={"JAX_PLATFORMS": "cpu", **flags},
        capture_output=True,
        text=True,
        check=True,
    )
    used, arrays, shard = map(int, run.stdout.split())
    assert arrays > least
    assert used <= arrays + shard + REST
