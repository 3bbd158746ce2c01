"""Hyperparameters follow from the committed results of the search, by a rule and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tuned_configs.choose import choose, update
from tuned_configs.search_spaces import SEARCH_SPACES
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


@pytest.fixture
def search(tmp_path: Path) -> Path:
    """The results of one method and quality, to be changed."""
    for file in SEARCH.glob("mpe-simple_spread-medium-VGM2P=*-100.json"):
        shutil.copy(file, tmp_path)
    return tmp_path


def change(folder: Path, number: int, *, seed: int = 100, **fields: Any) -> None:
    """Write the result of a candidate with other fields, for another seed beside the one there."""
    file = folder / f"mpe-simple_spread-medium-VGM2P={number}-100.json"
    record = json.loads(file.read_text()) | {"seed": seed} | fields
    file.with_name(file.name.replace("-100.", f"-{seed}.")).write_text(json.dumps(record))


def test_half_a_search_chooses_nothing(tmp_path):
    folder = tmp_path / "search"
    shutil.copytree(SEARCH, folder)
    (folder / "mpe-simple_spread-medium-VGM2P=3-100.json").unlink()
    with pytest.raises(ValueError, match=r"no result of \['VGM2P=3'\].*medium; finish it"):
        choose(folder)


def test_several_seeds_are_averaged_and_each_candidate_must_have_them(search):
    for number, (first, second) in enumerate(((1.0, 5.0), (2.0, 8.0), (9.0, 0.0)), start=1):
        change(search, number, returns=[first])
        change(search, number, seed=101, returns=[second])
    change(search, 4, returns=[4.0])
    message = r"no result of \['VGM2P=4'\] on .*medium with every seed"
    with pytest.raises(ValueError, match=message):
        choose(search)
    change(search, 4, seed=101, returns=[0.0])
    content = choose(search)
    found = content["chosen"]["VGM2P"]["medium"]
    assert found["means"] == [3.0, 5.0, 4.5, 2.0]
    assert found["settings"] == SEARCH_SPACES["VGM2P"][1]
    assert content["made_by"]["seeds"] == [100, 101]


def test_result_of_another_candidate_with_the_same_number_is_refused(search):
    (changed,) = (2 * value for value in SEARCH_SPACES["VGM2P"][2].values())
    change(search, 3, overrides={"omega": changed})
    with pytest.raises(ValueError, match=rf"VGM2P=3 on .*searched with omega {changed} \(now"):
        choose(search)
    change(search, 3, overrides={})
    with pytest.raises(ValueError, match=r"VGM2P=3 on .*searched with omega None \(now"):
        choose(search)


def test_what_was_not_searched_keeps_its_choice(search):
    before = json.loads(FILE.read_text(encoding="utf-8"))
    for number in range(1, 5):
        change(search, number, returns=[float(number)])
    after = update(before, choose(search))
    assert after["chosen"]["VGM2P"]["medium"]["means"] == [1.0, 2.0, 3.0, 4.0]
    after["chosen"]["VGM2P"]["medium"] = before["chosen"]["VGM2P"]["medium"]
    assert after == before  # the commits too: those of these results are among them


def test_all_that_was_searched_is_replaced_with_who_made_it():
    before = json.loads(FILE.read_text(encoding="utf-8"))
    new = before | {"made_by": before["made_by"] | {"commits": ["new"]}}
    assert update(before, new) == new
