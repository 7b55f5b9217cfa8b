"""Strict surroundings for every test: 8 CPU devices, no silent rank promotion, exact matmuls, a lasting compile cache."""

import importlib.util
import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network
# Tiny models are compiled often and run seldom: LLVM's optimisations cost more than they save. They do not change the sums.
# Half of a training step's compile time goes into the emitters of fusions. What XLA has instead rounds a little worse: where
# PyTorch is there to compare with, the code is that which users run. The caller's own flags come last, so they win.
os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_backend_optimization_level=0",
        f"--xla_cpu_use_fusion_emitters={importlib.util.find_spec('torch') is not None}",
        os.environ.get("XLA_FLAGS", ""),
    )
)

import jax
import pytest

from tests.hub_server import serving

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/jaxformers-tests-xla"),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real inputs beside the project; tests that need it skip, by name, where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data is not here: {SHARED_DATA} is missing")
    return SHARED_DATA


@pytest.fixture
def server():
    """A stand-in for the hub, on this machine."""
    with serving() as server:
        yield server


@pytest.fixture
def hub(server, monkeypatch):
    """The same for this process: what goes to the hub goes there, with a token."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    return server


# The files that take longest, longest first: a worker that is left alone with one of them at the end is waited for.
LONG = (
    "train/test_kill",
    "experiments/",
    "families/test_properties",
    "train/",
    "families/test_goldens",
    "checkpoints/",
)


def pytest_collection_modifyitems(items):
    """Leaves what is marked `parity` to where PyTorch is, and starts the longest files first; within a file the order stays."""
    if importlib.util.find_spec("torch") is None:
        for item in items:
            if item.get_closest_marker("parity"):
                item.add_marker(pytest.mark.skip(reason="needs the [parity] extra"))

    def place(item):
        path = item.path.as_posix()
        return next((index for index, name in enumerate(LONG) if f"tests/{name}" in path), len(LONG))

    items.sort(key=place)


def pytest_sessionfinish(session, exitstatus):
    """Where every test must run (`JAXFORMERS_NO_SKIPS`), a skip is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("JAXFORMERS_NO_SKIPS") and reporter and reporter.stats.get("skipped") and exitstatus == 0:
        session.exitstatus = 1
