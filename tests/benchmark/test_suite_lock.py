"""One benchmark per folder of results."""

from __future__ import annotations

import os

import pytest

from rllib_om2p.benchmark.suite_lock import suite_lock


def test_second_benchmark_is_refused_and_told_whose_the_folder_is(tmp_path):
    folder = tmp_path / "results" / "mine"
    with suite_lock(folder):
        message = rf"writes into {folder}: process {os.getpid()} on .*\. Wait for it or end it"
        with pytest.raises(RuntimeError, match=message), suite_lock(folder):
            pass
    with suite_lock(folder):
        pass
    assert not list(folder.iterdir())
