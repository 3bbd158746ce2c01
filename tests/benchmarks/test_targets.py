"""The speed targets as tests; `pytest -m benchmark`, on an otherwise idle machine."""

from __future__ import annotations

import pytest

from tests.benchmarks.run import SECTIONS, passes, run_section

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("name", SECTIONS)
def test_targets_are_reached_on_one_thread(name: str) -> None:
    ratios = run_section(name, threads=1, rounds=10)["ratios"]
    missed = {key: entry for key, entry in ratios.items() if passes(entry) is False}
    assert not missed
