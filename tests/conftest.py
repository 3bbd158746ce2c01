"""Settings for all tests: one thread per process, no display, no network, repeatable examples."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# Read by the libraries when they are first imported, so these stand before every other import.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Programs that tests start are to have a Ray of their own.
os.environ.pop("RAY_ADDRESS", None)

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a GPU where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Run a local Ray with four CPUs (declared, not real) for the tests of one module."""
    import ray

    ray.shutdown()  # what Tune started by itself in a module before this one
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=0,  # tests say what happens without one
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 1024**2,
    )
    yield
    ray.shutdown()
