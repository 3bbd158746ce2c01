"""The committed cards, manifest and samples, and the builder that makes them."""

from __future__ import annotations

import hashlib
import json
import math
import resource

import pytest

from rllib_om2p.behaviour.requests import dataset_name
from rllib_om2p.data.audit import audit
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import CARD_NAME, AgentSpec, DatasetSpec
from rllib_om2p.envs.prey import own_prey_file
from tests.small_data import write_random
from tuned_configs import datasets, markers
from tuned_configs.dataset_table import table, target

MANIFEST = json.loads((datasets.HOME / "manifest.json").read_text())
SETS, SAMPLES = MANIFEST["sets"], MANIFEST["samples"]
SPREAD = "mpe/simple_spread"


def test_every_quality_of_cooperative_navigation_has_a_row():
    assert {row["quality"] for row in SETS.values() if row["env"] == SPREAD} == set(
        datasets.QUALITIES
    )


@pytest.mark.parametrize("name", sorted(SETS))
def test_card_and_manifest_tell_of_the_same_set(name):
    row, folder = SETS[name], datasets.HOME / "cards" / datasets.slug(name)
    card = json.loads((folder / "card.json").read_text())
    assert card["spec"]["dataset_id"] == name
    assert card["statistics"]["team_return"]["mean"] == row["mean"]
    assert [entry["sha256"] for entry in card["files"]] == [f["sha256"] for f in row["files"]]
    assert row["target"] == target(DatasetSpec.from_dict(card["spec"]))
    text = (folder / "README.md").read_text()
    assert text.startswith(f"# {card['spec']['dataset_id']}\n")
    assert row["provenance"]["command"] in text
    picture = (folder / "returns.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 30_000


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_sample_reads_and_is_the_one_of_the_manifest(name):
    folder = datasets.HOME / "samples" / datasets.slug(name)
    files = {entry["name"]: entry["sha256"] for entry in SAMPLES[name]["files"]}
    assert {file.name for file in folder.iterdir()} == set(files)
    for file, sha256 in files.items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == sha256
    assert sum(file.stat().st_size for file in folder.glob("*.parquet")) < 100_000
    dataset = OfflineDataset.open(str(folder))
    assert dataset.spec.parents[-1] == name
    assert dataset.num_episodes == 4
    assert SAMPLES[name]["of"] == SETS[name]["fingerprint"]
    found = audit(dataset)
    assert found.duplicate_episodes == []
    assert found.endings.neither == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Cards, manifest and sample of two tiny sets, the one made twice."""
    root = tmp_path_factory.mktemp("made")
    for quality, steps in (("random", 50), ("medium", 150), ("random", 100)):
        settings = {"steps": steps, "overwrite": True, "progress": lambda line: None}
        datasets.build(SPREAD, quality, root / "data", home=root / "home", **settings)
    return root / "home"


def test_building_writes_card_row_and_sample(home):
    content = json.loads((home / "manifest.json").read_text())
    assert set(content["sets"]) == {f"{SPREAD}/random", f"{SPREAD}/medium"}
    row = content["sets"][f"{SPREAD}/random"]
    assert (row["episodes"], row["transitions"]) == (4, 100)
    assert row["policies"] == {"random": None}
    assert row["seconds"]["wall"] > 0
    assert content["sets"][f"{SPREAD}/medium"]["policies"]["medium"]
    assert set(content["samples"]) == {f"{SPREAD}/medium"}
    sample = OfflineDataset.open(str(home / "samples" / "mpe-simple_spread-medium"))
    whole = OfflineDataset.open(str(home.parent / "data" / SPREAD / "medium"))
    for one, other in zip(sample.episodes(), whole.episodes(), strict=False):
        assert one.obs["agent_0"].tobytes() == other.obs["agent_0"].tobytes()
    card = home / "cards" / "mpe-simple_spread-random"
    assert "target 160.0" in (card / "README.md").read_text()
    assert not list(home.rglob("*.tmp"))


def test_sets_of_other_agents_have_cards_of_their_own(tmp_path):
    settings = {"steps": 50, "continuous_actions": False, "progress": lambda line: None}
    datasets.build(SPREAD, "medium", tmp_path / "data", home=tmp_path / "home", **settings)
    content = json.loads((tmp_path / "home" / "manifest.json").read_text())
    row = content["sets"][f"{SPREAD}/medium-discrete"]
    assert row["kind"] == "discrete"
    assert row["target"] is None
    assert (tmp_path / "home" / "cards" / "mpe-simple_spread-medium-discrete").is_dir()
    assert "| mpe/simple_spread | medium, discrete |  |" in table(content)


def test_a_set_that_would_take_the_place_of_another_is_named_apart_or_refused(tmp_path):
    name = dataset_name("mamujoco/3x1-Hopper", "medium", observations="local")
    assert name == "mamujoco/3x1-Hopper/medium-local"
    settings = {"home": tmp_path / "home", "prey": str(own_prey_file("mpe/simple_tag"))}
    with pytest.raises(ValueError, match="against the project's own prey; use make-dataset"):
        datasets.build("mpe/simple_tag", "medium", tmp_path / "data", **settings)
    assert not (tmp_path / "home").exists()


def test_long_episodes_are_cut_in_a_sample_and_say_so(tmp_path):
    path = write_random(tmp_path / "long", (("a", 700, 2),), num_episodes=5, num_steps=40)
    facts = datasets._write_sample(tmp_path / "sample", OfflineDataset.open(str(path)))
    sample = OfflineDataset.open(str(tmp_path / "sample"))
    assert facts["max_steps"] == 90_000 // (4 * 4 * 703)
    assert [len(episode) for episode in sample.episodes()] == [facts["max_steps"]] * 4
    assert all(episode.truncated for episode in sample.episodes())
    assert (tmp_path / "sample" / CARD_NAME).exists()


def test_the_table_compares_each_set_with_its_target(home):
    content = json.loads((home / "manifest.json").read_text())
    rows = content["sets"]
    rows[f"{SPREAD}/medium"]["mean"] = 273 * 0.9
    rows["tag"] = rows[f"{SPREAD}/random"] | {
        "env": "mpe/simple_tag",
        "mean": 14.6,
        "target": {"mean": -4.0, "source": ""},
    }
    rows["own"] = rows[f"{SPREAD}/random"] | {"env": "own", "target": None, "mean": 1.0}
    lines = table(content).splitlines()
    assert lines[2].startswith("| mpe/simple_spread | random | 160.0 |")
    assert "| medium | 273.0 | 245.7 | -10% | 150 |" in lines[3]
    # Four is too little to be a measure: 18.6 of the expert's 186.
    assert "| -4.0 | 14.6 | +10% of expert |" in lines[4]
    assert lines[5].startswith("| own | random |  | 1.0 |  | 100 |")


def test_a_mixture_is_aimed_at_its_parts_unless_the_papers_have_it():
    agents = (AgentSpec.box("a", 1, 1),)
    mixed = {"quality": "medium-expert", "mixture": {"medium": 0.9, "expert": 0.1}}
    spread = target(DatasetSpec("x", agents, env=SPREAD, **mixed))
    assert math.isclose(spread["mean"], 0.9 * 273 + 0.1 * 517)
    hopper = target(DatasetSpec("x", agents, env="mamujoco/3x1-Hopper", **mixed))
    assert hopper["mean"] == 1191
    assert target(DatasetSpec("x", agents, env="own", quality="medium")) is None


def test_text_between_marks_is_replaced_and_the_rest_stays(tmp_path):
    file, mark = tmp_path / "x.md", markers.begin("me")
    other = f"{markers.begin('you')}\nyours\n{markers.END}\n"
    file.write_text(f"a\n{other}{mark}\nold\n{markers.END}\nb\n{other}")
    markers.replace_between(file, mark, "new")
    markers.replace_between(file, mark, "newer")
    assert file.read_text() == f"a\n{other}{mark}\n\nnewer\n\n{markers.END}\nb\n{other}"
    with pytest.raises(ValueError, match="add both lines"):
        markers.replace_between(file, markers.begin("nobody"), "text")


def test_words_of_a_person_survive_a_full_disk(tmp_path):
    file, mark = tmp_path / "x.md", markers.begin("me")
    text = f"mine\n{mark}\n{markers.END}\nmine too\n"
    file.write_text(text)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            markers.replace_between(file, mark, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_text() == text
