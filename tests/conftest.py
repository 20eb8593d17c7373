"""Settings of the whole test run: simulated devices, Hypothesis, and CI's view of skipped tests."""

import os
from pathlib import Path

# Before jax starts: on a CPU, meshes are tested on eight simulated devices.
_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()

# Tests compile many small programs and run each for milliseconds.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import hypothesis
import pytest

# A first example compiles, so that no deadline fits; in CI a failure must come back on every run.
hypothesis.settings.register_profile(
    "rft_jax", deadline=None, derandomize="CI" in os.environ, print_blob=True
)
hypothesis.settings.load_profile("rft_jax")

# What no package index can provide; any other skip fails a run with --strict-skips.
UNAVOIDABLE_SKIPS = ("needs ../shared", "needs a GPU", "needs a TPU")


def pytest_addoption(parser):
    parser.addoption(
        "--strict-skips",
        action="store_true",
        help=f"fail tests that are skipped for any reason but: {', '.join(UNAVOIDABLE_SKIPS)}",
    )


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


@pytest.fixture(scope="session")
def data_files() -> Path:
    """The folder of checked-in test data."""
    return Path(__file__).parent / "data_files"
