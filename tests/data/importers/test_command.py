"""`rllib-om2p import` as a user calls it, and training on what it wrote."""

from __future__ import annotations

import numpy as np

from rllib_om2p import OM2PConfig
from rllib_om2p.cli import USER_ERROR, main
from rllib_om2p.data.reader import OfflineDataset
from tests.data.importers.layouts import make_teams, write_omar


def test_import_shows_progress_notes_and_the_audit(tmp_path, capsys):
    folder = write_omar(tmp_path / "simple_tag" / "medium", make_teams([25] * 4, [(16, 2)] * 4))
    out = tmp_path / "out"
    options = ["--agents", "0", "2", "--env", "none", "--time-limit", "25", "--team-return", "sum"]
    assert main(["import", "omar", str(folder), "--out", str(out), *options]) == 0
    shown = capsys.readouterr().out
    assert "hashing 10 files" in shown
    assert "note: no episode terminates; 4 are truncated." in shown
    assert "4 episodes, 100 joint steps" in shown
    assert "terminated is never true" in shown
    spec = OfflineDataset.open(str(out)).spec
    assert spec.agent_ids == ("agent_0", "agent_2")
    assert (spec.env, spec.team_return, spec.time_limit) == (None, "sum", 25)


def test_mistakes_end_with_one_message(tmp_path, capsys):
    command = ["import", "omarr", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(command) == USER_ERROR
    assert "No source is called 'omarr'; did you mean omar" in capsys.readouterr().err


def test_imported_dataset_trains_om2p(tmp_path):
    folder = tmp_path / "simple_spread" / "medium"
    for seed in (0, 1):
        teams = make_teams([25] * 10, [(18, 2)] * 3, seed=seed)
        write_omar(folder / f"seed_{seed}_data", teams)
    out = tmp_path / "out"
    assert main(["import", "omar", str(folder), "--out", str(out)]) == 0
    config = (
        OM2PConfig()
        .offline_data(input_=str(out))
        .training(actor_hidden=(16,), critic_hidden=(16,), train_batch_size=64, eta=0.3)
        .debugging(seed=0)
    )
    config.validate()
    learner = config.build_learner()
    before = {name: w.clone() for name, w in learner._networks.state_dict().items()}
    learner.update(num_updates=3)
    after = learner._networks.state_dict()
    assert all(np.isfinite(w.numpy()).all() for w in after.values())
    assert any(not np.array_equal(before[name], w) for name, w in after.items())
