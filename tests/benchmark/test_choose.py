"""Hyperparameters follow from the committed results of the search, by a rule and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tuned_configs.choose import choose
from tuned_configs.suites.choices import FILE

SEARCH = Path(__file__).parents[2] / "tuned_configs" / "results" / "search"


def test_committed_choices_follow_from_the_committed_results():
    assert choose(SEARCH) == json.loads(FILE.read_text(encoding="utf-8"))


def test_each_choice_is_the_candidate_with_the_largest_mean():
    for by_quality in json.loads(FILE.read_text(encoding="utf-8"))["chosen"].values():
        assert set(by_quality) == {"medium-replay", "medium", "medium-expert", "expert"}
        assert {len(found["means"]) for found in by_quality.values()} == {4}
    found = choose(SEARCH)["chosen"]["OM2P"]["medium-replay"]
    records = [
        json.loads((SEARCH / f"mpe-simple_spread-medium-replay-OM2P={n}-100.json").read_text())
        for n in range(1, 5)
    ]
    best = max(records, key=lambda record: sum(record["returns"]))
    assert found["settings"].items() <= best["overrides"].items()


def test_half_a_search_chooses_nothing(tmp_path):
    folder = tmp_path / "search"
    shutil.copytree(SEARCH, folder)
    (folder / "mpe-simple_spread-medium-VGM2P=3-100.json").unlink()
    with pytest.raises(ValueError, match=r"no result of \['VGM2P=3'\].*medium; finish it"):
        choose(folder)
