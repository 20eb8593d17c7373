"""Settings of the whole test run: simulated devices, Hypothesis, and CI's view of skipped tests."""

import collections
import os
import shutil
import tempfile
from pathlib import Path

# Before jax starts: on a CPU, meshes are tested on eight simulated devices.
_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()

# Tests compile many small programs and run each for milliseconds.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# A GPU's compiler, where it is installed, is tested without a GPU and its driver.
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")

# The processes that tests start share a folder of compiled programs, which goes with the run; a
# user's own is left alone. The tests' own process uses it where a module asks for `compiled_once`.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="rft_jax_programs_")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "true"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import hypothesis
import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

jax.config.update("jax_enable_compilation_cache", False)

# A first example compiles, so that no deadline fits; in CI a failure must come back on every run.
hypothesis.settings.register_profile(
    "rft_jax", deadline=None, derandomize="CI" in os.environ, print_blob=True
)
hypothesis.settings.load_profile("rft_jax")

_TESTS = Path(__file__).parent
_EXPERIMENTS = _TESTS.parent / "experiments"
_LONGEST = (
    "test_several_hosts.py",
    "test_docs.py",
    "test_notebooks.py",
    "test_step.py",
    "test_training.py",
    "test_resume.py",
    "models/test_transformers.py",
    "models/test_decoder.py",
    "tasks/test_open_models.py",
    "stages/test_distill.py",
    "test_pretrained.py",
    "rollout/test_continuous.py",
    "rollout/test_generate.py",
    "graders/test_probe.py",
    "serve/test_graders.py",
    "serve/test_pages.py",
    "serve/test_serve_end_to_end.py",
)

# What no package index can provide; any other skip fails a run with --strict-skips.
UNAVOIDABLE_SKIPS = ("needs ../shared", "needs a GPU", "needs a TPU")


def pytest_addoption(parser):
    parser.addoption(
        "--strict-skips",
        action="store_true",
        help=f"fail tests that are skipped for any reason but: {', '.join(UNAVOIDABLE_SKIPS)}",
    )


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist: files with many tests first
        config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files that take minutes first, then those with many tests: what ends a run is short."""
    tests = collections.Counter(item.path for item in items)

    def place(item):
        name = item.path.relative_to(_TESTS).as_posix()
        return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST), -tests[item.path]

    items.sort(key=place)


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _strict((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _strict((yield), collector.config)


def _strict(report, config):
    """Turns a skip that CI could have avoided into a failure; expected failures stay."""
    if report.skipped and not hasattr(report, "wasxfail") and config.getoption("--strict-skips"):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(UNAVOIDABLE_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped, which --strict-skips forbids: {reason}"
    return report


@pytest.fixture(scope="module", autouse=True)
def _drop_programs():
    """A program takes several memory maps, of which Linux gives a process 65,530 by default."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def compiled_once():
    """For a module whose tests run the same programs many times, from its first one on."""
    jax.config.update("jax_enable_compilation_cache", True)
    reset_cache()  # jax looks for the setting only once, when it first compiles
    yield
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()


@pytest.fixture(scope="session")
def data_files() -> Path:
    """The folder of checked-in test data."""
    return Path(__file__).parent / "data_files"


_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


_SIZES = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
# Names of the classes in transformers, of configuration and model, and settings of the family.
_CHECKPOINTS = {
    "qwen2": ("Qwen2", "Qwen2", {}),
    "qwen3_moe": ("Qwen3Moe", "Qwen3Moe", {"head_dim": 8, **_EXPERTS}),
    "gemma3": (
        "Gemma3Text",
        "Gemma3",
        {"head_dim": 8, "sliding_window": 24, "query_pre_attn_scalar": 8},
    ),
}


@pytest.fixture(scope="session")
def make_checkpoint():
    """Writes a random Hugging Face checkpoint with a byte-level tokenizer and a chat template."""

    def make(directory: Path, family: str = "qwen2") -> Path:
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        claims = _EXPERIMENTS / "claims" / "supervised.jsonl"
        model = Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
        special = ["<pad>", "<eos>", "<|user|>", "<|assistant|>"]
        trainer = trainers.BpeTrainer(
            vocab_size=500, special_tokens=special, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
        model.train_from_iterator(claims.read_text().splitlines(), trainer)
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=model, pad_token="<pad>", eos_token="<eos>", chat_template=_TEMPLATE
        )
        config_name, model_name, settings = _CHECKPOINTS[family]
        torch.manual_seed(0)
        config = getattr(transformers, f"{config_name}Config")(**_SIZES | settings)
        getattr(transformers, f"{model_name}ForCausalLM")(config).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return directory

    return make
