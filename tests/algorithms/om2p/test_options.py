"""What holds for every option: it resumes, is one graph, agrees over learners, refuses nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rllib_om2p import OM2PConfig
from rllib_om2p.core.critic_loss import CriticLoss
from tests.algorithms.om2p.test_losses import GAMMA, make_actor_loss, make_batch, make_networks
from tests.small_data import UNEQUAL, write_discrete, write_random

RELEASED = {"form": "released", "derivative": "none", "xi": (0.0, 0.0, 0.0, 0.0)}
OPTIONS: dict[str, dict[str, Any]] = {
    "expectile": {"critic_loss": "expectile"},
    "expectile-vdn": {"critic_loss": "expectile", "critic": "vdn"},
    "adaptive-eta": {"adaptive_eta": 0.1, "grad_clip": 1.0},
    "adaptive-weight": {"adaptive_loss_power": 1.0},
    "shared-noise": {"shared_noise": True},
    "value-from-path": {"value_from": "path"},
    "weights": {"advantage_temperature": 0.5},
    "weights-path-vdn": {
        "advantage_temperature": 0.5,
        "adaptive_loss_power": 0.5,
        "value_from": "path",
        "critic": "vdn",
    },
    "conservative": {"conservative_weight": 1.0, "num_sampled_actions": 2, "critic": "vdn"},
    "weights-alone": {"advantage_temperature": 0.5, "eta": 0.0},
    "released": RELEASED,
    "all-of-ours": {
        "critic_loss": "expectile",
        "adaptive_eta": 0.1,
        "adaptive_loss_power": 0.5,
        "shared_noise": True,
    },
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_random(Path(tmp_path_factory.mktemp("data")) / "set"))


def make_config(dataset: str, seed: int = 0, **options: Any) -> OM2PConfig:
    config = OM2PConfig().offline_data(input_=dataset).debugging(seed=seed)
    config.training(actor_hidden=(8, 8), critic_hidden=(8, 8), train_batch_size=32, **options)
    return config


def make_learner(dataset: str, seed: int = 0, **options: Any) -> Any:
    config = make_config(dataset, seed, **options)
    config.validate()
    return config.build_learner()


@pytest.mark.parametrize("name", OPTIONS)
def test_option_trains_all_its_parameters_and_resumes_bit_identically(dataset, name):
    first, second = (make_learner(dataset, seed, **OPTIONS[name]) for seed in (0, 9))
    before = {k: v.clone() for k, v in first._networks.state_dict().items()}
    first.update(num_updates=3)
    second.set_state(first.get_state())
    for learner in (first, second):
        learner.update(num_updates=3)
    other = second._networks.state_dict()
    for key, value in first._networks.state_dict().items():
        assert torch.isfinite(value).all(), key
        assert torch.equal(value, other[key]), key
        assert not torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", OPTIONS)
def test_option_trains_discrete_agents_that_leave(tmp_path, name):
    learner = make_learner(str(write_discrete(tmp_path / "set")), **OPTIONS[name])
    before = {k: v.clone() for k, v in learner._networks.state_dict().items()}
    learner.update(num_updates=3)
    for key, value in learner._networks.state_dict().items():
        assert torch.isfinite(value).all(), key
        # Each agent's part, along the first axis: the one that leaves learns as well.
        assert (value != before[key]).flatten(1).any(dim=1).all(), key


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["all-of-ours", "conservative", "expectile-vdn", "released", "weights-path-vdn"]
)
def test_losses_of_options_are_one_graph(dataset, name):
    torch._dynamo.reset()  # else these count as recompilations of one function
    learner = make_learner(dataset, **OPTIONS[name])
    generator = torch.Generator().manual_seed(0)
    batch = learner._layout.view(*learner._table.sample(32, generator))
    for phase in learner._phases:
        draws = phase.draw(batch, generator)
        traced = torch.compile(phase.loss, fullgraph=True, dynamic=False, backend="eager")
        torch.testing.assert_close(traced(batch, draws), phase.loss(batch, draws))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adaptive-eta", "released"])
def test_two_learners_hold_the_same_state(dataset, name, ray_cluster):
    config = make_config(dataset, num_updates_per_iteration=4, **OPTIONS[name])
    algo = config.learners(num_learners=2).build_algo()
    algo.train()  # compares the checksums of all state over the learners
    states = [
        state.get()["training_state"]["networks"]
        for state in algo.learner_group.foreach_learner(lambda learner: learner.get_state())
    ]
    algo.stop()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_teams_agents_act_by_the_same_noise_in_both_losses():
    networks, batch = make_networks(), make_batch()
    teams = [(0, 3), (4, 1, 2)]
    actor_loss = make_actor_loss(networks, shared_noise=True, teams=teams)
    critic_loss = CriticLoss(
        networks=networks,
        gamma=GAMMA,
        aggregate="mean",
        critic="own",
        teams=teams,
        shared_noise=True,
    )
    generator = torch.Generator().manual_seed(0)
    actor_draws = actor_loss.draw(batch, generator)
    for noise in ([d.action_noise for d in actor_draws], critic_loss.draw(batch, generator)):
        assert torch.equal(noise[0][0, :, :1], noise[1][0])
        assert torch.equal(noise[0][1], noise[0][2])
        assert torch.equal(noise[0][1, :, :1], noise[1][1])
        assert not torch.equal(noise[0][0], noise[0][1])
    # The matching noise stays each agent's own.
    assert not torch.equal(actor_draws[0].matching.noise[1], actor_draws[0].matching.noise[2])


def test_modules_know_whom_they_share_their_noise_with(dataset):
    names = [name for name, _, _ in UNEQUAL]
    assert make_learner(dataset).module["walker"].noise_teams is None
    learner = make_learner(dataset, shared_noise=True)
    assert learner.module["walker"].unwrapped().noise_teams == [names]
    config = make_config(dataset, shared_noise=True)
    config.offline_data(teams={"legs": ["walker"], "arms": ["arm_2", "arm_10"]})
    config.validate()
    module = config.build_learner().module["arm_2"].unwrapped()
    assert module.noise_teams == [["walker"], ["arm_2", "arm_10"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critic_loss": "td3"}, "critic_loss must be one of"),
        ({"form": "jax"}, "form must be one of"),
        ({"critic_loss": "expectile", "expectile": 1.0}, "expectile must be in"),
        ({"critic_loss": "expectile", "eta": 0.0}, "no critics to train"),
        ({"adaptive_eta": -0.1}, "adaptive_eta must be at least 0"),
        ({"adaptive_eta": 0.1, "eta": 0.0}, "needs eta"),
        ({"adaptive_eta": 0.1, "bc_weight": 0.0}, "bc_weight above 0"),
        ({"adaptive_eta_speed": 0.0}, "adaptive_eta_speed must be positive"),
        ({"adaptive_loss_power": -1.0}, "adaptive_loss_power must be at least 0"),
        ({"adaptive_loss_power": 1.0, "bc_weight": 0.0}, "bc_weight=0 leaves out"),
        ({"adaptive_loss_constant": 0.0}, "adaptive_loss_constant must be positive"),
        ({"advantage_temperature": 0.0}, "advantage_temperature must be above 0"),
        ({"advantage_temperature": 1.0, "bc_weight": 0.0}, "bc_weight=0 leaves out"),
        ({"advantage_temperature": 1.0, "adaptive_eta": 0.1}, "unset one"),
        ({"conservative_weight": -1.0}, "conservative_weight must be at least 0"),
        ({"conservative_weight": 1.0, "critic_loss": "expectile"}, 'or critic_loss="td"'),
        ({"conservative_weight": 1.0, "eta": 0.0}, "no critics to train"),
        ({"shared_noise": True, "best_of_n": 4}, "Set best_of_n=1"),
        ({"value_from": "data"}, "value_from must be one of"),
        ({"value_from": "path", "sampling_steps": 2}, "sampling_steps=1, got 'paper' and 2"),
        (RELEASED | {"value_from": "path"}, 'paper\'s form: set form="paper"'),
        ({"form": "released"}, 'set derivative="none"'),
        (RELEASED | {"xi": (-0.5, 0.0, 0.0, 0.0)}, r"set .*xi=\(0, 0, 0, 0\).*got .*\(-0\.5, "),
        (RELEASED | {"sampling_steps": 2}, "sampling_steps=1"),
        (RELEASED | {"instant_fraction": 0.5}, "instant_fraction=0"),
    ],
)
def test_settings_without_meaning_are_refused(dataset, options, message):
    with pytest.raises(ValueError, match=message):
        make_config(dataset, **options).validate()
