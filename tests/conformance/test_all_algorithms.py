"""What every algorithm must do, asked of each by name; a new one is tested without a new test.

The dataset has three agents of two shapes, whose names sort differently than they are ordered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rllib_om2p.algorithms import ALGORITHMS
from rllib_om2p.core.agent_groups import JointBatch
from rllib_om2p.core.algorithm import Algorithm
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.learner import OfflineLearner
from rllib_om2p.core.setting_docs import RLLIBS, setting_docs
from rllib_om2p.core.settings import own_settings
from tests.small_data import PREDATORS_AND_PREY, TEAMS, UNEQUAL, write_discrete, write_random

NAMES = sorted(ALGORITHMS)
DISCRETE = [name for name in NAMES if ALGORITHMS[name][1].supports_discrete]
SMALL = {"actor_hidden": (16, 16), "critic_hidden": (16, 16), "train_batch_size": 32}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_random(Path(tmp_path_factory.mktemp("data")) / "set"))


def make_config(name: str, dataset: str, *, seed: int = 0) -> OfflineConfig:
    config = ALGORITHMS[name][1]().offline_data(input_=dataset).debugging(seed=seed)
    config.training(**{k: v for k, v in SMALL.items() if hasattr(config, k)})
    config.validate()
    return config


def make_learner(name: str, dataset: str, **kwargs: Any) -> OfflineLearner:
    learner = make_config(name, dataset, **kwargs).build_learner()
    assert isinstance(learner, OfflineLearner)
    return learner


def weights(learner: OfflineLearner) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in learner._networks.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_config_belongs_to_its_algorithm_and_copies(name):
    algorithm, config_class = ALGORITHMS[name]
    config = algorithm.get_default_config()
    assert type(config) is config_class
    assert config.algo_class is algorithm
    assert config.copy().to_dict().keys() == config.to_dict().keys()


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_text_and_its_default(name):
    config = ALGORITHMS[name][1]
    found = {setting.name: setting for setting in setting_docs(config)}
    assert found.keys() == set(own_settings(config()))
    for setting in found.values():
        assert len(setting.text) > 10, setting.name
        assert "**" not in setting.text, setting.name
        assert setting.default == getattr(config(), setting.name)
    assert found["tau"].text.startswith("Rate of target networks")
    assert found["teams"].method == "offline_data"
    assert all(hasattr(config(), setting) for setting in RLLIBS)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_moves_and_stays_finite(name, precision, dataset):
    config = make_config(name, dataset).copy(copy_frozen=False)
    learner = config.training(precision=precision).build_learner()
    before = weights(learner)
    learner.update(num_updates=5)
    assert any(phase.parameters() for phase in learner._phases)
    # Targets move too, and no network is there for nothing.
    for key, parameter in learner._networks.named_parameters():
        assert torch.isfinite(parameter).all(), key
        assert not torch.equal(parameter, before[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_resumed_learner_continues_bit_identically(name, dataset):
    first, second = make_learner(name, dataset), make_learner(name, dataset, seed=9)
    first.update(num_updates=3)
    second.set_state(first.get_state())
    first.update(num_updates=3)
    second.update(num_updates=3)
    for key, value in weights(first).items():
        assert torch.equal(value, weights(second)[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_modules_act_inside_their_own_box_from_raw_observations(name, tmp_path):
    boxes = {"walker": (-2.0, 1.0), "arm_10": (5.0, 6.0), "arm_2": (-40.0, -10.0)}
    learner = make_learner(name, str(write_random(tmp_path / "set", boxes=boxes)))
    learner.update(num_updates=2)
    rng = np.random.default_rng(0)
    for agent_id, obs_dim, action_dim in UNEQUAL:
        obs = torch.from_numpy(rng.normal(3, 20, (64, obs_dim)).astype("f4"))
        actions = learner.module[agent_id].forward_inference({"obs": obs})["actions"]
        assert actions.shape == (64, action_dim)
        assert actions.dtype == torch.float32
        low, high = boxes[agent_id]
        assert low <= actions.min() < actions.max() <= high


@pytest.mark.parametrize("name", NAMES)
def test_agents_keep_the_datasets_order_and_their_own_columns(name, tmp_path):
    swapped = str(write_random(tmp_path / "set", agents=(UNEQUAL[2], UNEQUAL[0], UNEQUAL[1])))
    learner = make_learner(name, swapped)
    order = [agent for group in learner._layout.groups for agent in group.agent_ids]
    assert order == ["arm_2", "arm_10", "walker"]
    statistics = learner._dataset.statistics()
    for agent in order:
        np.testing.assert_allclose(
            learner.module[agent].obs_mean, statistics.obs[agent].mean, rtol=1e-5
        )


@pytest.mark.parametrize("name", NAMES)
def test_metrics_of_an_update_name_agents_and_phases(name, dataset):
    learner = make_learner(name, dataset)
    metrics = learner.update(num_updates=2)
    for phase in learner._phases:
        places = [agent for agent, _, _ in UNEQUAL]
        values = [metrics[p].get(f"{phase.name}_loss") for p in places if p in metrics]
        values.append(metrics["__all_modules__"].get(f"{phase.name}_loss"))
        assert any(value is not None for value in values), phase.name


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_agents_train_beside_others_and_act_legally(name, tmp_path):
    learner = make_learner(name, str(write_discrete(tmp_path / "set")))
    before = weights(learner)
    learner.update(num_updates=3)
    assert any(not torch.equal(value, before[key]) for key, value in weights(learner).items())
    rng = np.random.default_rng(0)
    obs = torch.from_numpy(rng.normal(size=(64, 3)).astype("f4"))
    mask = torch.from_numpy(rng.random((64, 4)) < 0.4).to(torch.int8)
    mask[:, 1] = 1
    batch = {"obs": {"observations": obs, "action_mask": mask}}
    for agent in ("picker_0", "picker_1"):
        actions = learner.module[agent].forward_inference(batch)["actions"]
        assert actions.dtype == torch.int64
        assert mask.gather(1, actions[:, None]).all()
    assert learner.module["crane"].forward_inference({"obs": obs})["actions"].shape == (64, 2)


# No value moves the features of cloning, nor of a choice among samples of it.
NOT_PUSHED = {"BC", "MASfBC"}


@pytest.mark.parametrize("name", [name for name in DISCRETE if name not in NOT_PUSHED])
def test_discrete_features_that_values_push_far_out_have_no_equals(name, tmp_path):
    """Of features cut at the box the first would be chosen, whatever the values say."""
    learner = make_learner(name, str(write_discrete(tmp_path / "set")))
    networks, batch = learner._networks, learner._sample()
    with torch.no_grad():
        for parameter in networks.actors.parameters():
            parameter.mul_(8.0)
    (index,) = [i for i, g in enumerate(networks.groups) if "picker_1" in g.agent_ids]
    group = batch.groups[index]
    noise = torch.randn(group.actions.shape)
    for points in (
        learner.module["picker_1"].act(group.obs[:1], noise[0], group.action_mask[:1]),
        networks.propose(index, group.obs, noise),
    ):
        assert points.amax() > 1
        assert ((points == points.amax(-1, keepdim=True)).sum(-1) == 1).all()


SETTINGS: dict[str | None, dict[str, Any]] = {
    None: {},
    "own": {"critic": "own"},
    "vdn": {"critic": "vdn"},
    "own-conservative": {"critic": "own", "conservative_weight": 1.0},
    "vdn-conservative": {"critic": "vdn", "conservative_weight": 1.0},
}


def critics_of(name: str) -> list[str | None]:
    config = ALGORITHMS[name][1]()
    if not hasattr(config, "critic"):
        return [None]
    is_conservative = config.conservative_weight > 0
    return [c for c in SETTINGS if c and not (is_conservative and "conservative" in c)]


CRITICS = [(name, critic) for name in NAMES for critic in critics_of(name)]


def with_critic(name: str, critic: str | None, dataset: str) -> OfflineLearner:
    learner = set_critic(make_config(name, dataset), critic).build_learner()
    assert isinstance(learner, OfflineLearner)
    return learner


def set_critic(config: OfflineConfig, critic: str | None) -> OfflineConfig:
    """Return a config with other critics; the test is skipped where it refuses the penalty."""
    config = config.copy(copy_frozen=False).training(**SETTINGS[critic])
    try:
        config.validate()
    except ValueError as error:
        if critic and "conservative" in critic and "conservative_weight" in str(error):
            pytest.skip(str(error))
        raise
    return config


def outcomes(learner: OfflineLearner, batch: JointBatch, seed: int = 3) -> list[Any]:
    """Return (losses, metrics) of every phase."""
    found = []
    for phase in learner._phases:
        draws = phase.draw(batch, torch.Generator().manual_seed(seed))
        found.append(phase.loss(batch, draws))
    return found


HALF = 23  # so that no other axis is as long as the batch
# Phases that divide by a mean over the batch: each learner takes that of its own part.
BY_BATCH = {("MATD3BC", "actor"), ("MACFlow", "actor")}


def half(tree: Any, part: int) -> Any:
    """Return one half of a batch, or of the draws for it: tensors in tuples of tuples."""
    if isinstance(tree, tuple):
        values = [half(value, part) for value in tree]
        return type(tree)._make(values) if hasattr(tree, "_make") else tuple(values)
    if not isinstance(tree, torch.Tensor):
        return tree
    (axis,) = [axis for axis, size in enumerate(tree.shape) if size == 2 * HALF]
    return tree.narrow(axis, part * HALF, HALF)


@pytest.mark.parametrize(("name", "critic"), CRITICS)
def test_halves_of_a_batch_have_the_gradient_of_the_whole(name, critic, dataset):
    """What makes two learners that average their gradients equal to one."""
    config = set_critic(make_config(name, dataset), critic)
    learner = config.training(train_batch_size=2 * HALF).build_learner()
    batch = learner._sample()
    for phase in learner._phases:
        draws = phase.draw(batch, torch.Generator().manual_seed(3))
        inputs = [(batch, draws), half((batch, draws), 0), half((batch, draws), 1)]
        whole, *halves = (
            torch.cat(
                [
                    gradient.flatten()
                    for gradient in torch.autograd.grad(
                        phase.loss(*own)[0].sum(), phase.parameters(), allow_unused=True
                    )
                    if gradient is not None
                ]
            )
            for own in inputs
        )
        error = (sum(halves) / 2 - whole).norm() / whole.norm()
        if (name, phase.name) in BY_BATCH:
            assert 1e-5 < error < 0.2, phase.name
        else:
            assert error < 1e-5, phase.name


@pytest.mark.parametrize(("name", "critic"), CRITICS)
@pytest.mark.parametrize("is_discrete", [False, True])
def test_nothing_that_stands_where_an_agent_is_absent_counts(
    name, critic, is_discrete, dataset, tmp_path
):
    if is_discrete and name not in DISCRETE:
        pytest.skip("acts in boxes only")
    data = str(write_discrete(tmp_path / "set")) if is_discrete else dataset
    learner = with_critic(name, critic, data)
    batch = learner._sample()
    one, two = [], []
    for group in batch.groups:
        shape = group.rewards.shape
        now, later = (torch.rand(2, *shape) < 0.6).float()
        away, gone = (now == 0)[..., None], ((now == 0) & (later == 0))[..., None]
        assert away.any()
        assert gone.any()
        group = group._replace(alive=now, next_alive=later)  # noqa: PLW2901
        one.append(group)
        two.append(
            group._replace(
                obs=torch.where(away, 3 * torch.randn_like(group.obs), group.obs),
                # Of a discrete action the next one.
                actions=torch.where(away, group.actions.roll(1, dims=-1), group.actions),
                rewards=torch.where(now == 0, torch.randn(shape), group.rewards),
                next_obs=torch.where(gone, 3 * torch.randn_like(group.obs), group.next_obs),
            )
        )
    first, second = (outcomes(learner, batch._replace(groups=tuple(g))) for g in (one, two))
    for (losses, metrics), (others, other_metrics) in zip(first, second, strict=True):
        torch.testing.assert_close(losses, others)
        for key, value in metrics.items():
            torch.testing.assert_close(value, other_metrics[key], msg=key)


@pytest.mark.parametrize(
    ("name", "critic"), [(n, c) for n, c in CRITICS if n in DISCRETE and c in ("own", "vdn")]
)
def test_critics_learn_from_the_next_actions_that_are_legal(name, critic, tmp_path):
    """Where one action alone is legal next, no draw changes what is learnt."""
    learner = with_critic(name, critic, str(write_discrete(tmp_path / "set")))
    batch = learner._sample()
    box = [group for group in batch.groups if group.action_mask is None]
    groups = []
    for group in batch.groups:
        if group.action_mask is None:
            # Whose next actions are drawn: without a future they do not count.
            groups.append(group._replace(terminateds=torch.ones_like(group.terminateds)))
            continue
        only = torch.zeros_like(group.next_action_mask)
        only[..., 1] = 1
        groups.append(group._replace(action_mask=torch.ones_like(only), next_action_mask=only))
    assert len(box) == 1
    batch = batch._replace(groups=tuple(groups))
    phases = [phase.name for phase in learner._phases]
    first, second = (outcomes(learner, batch, seed) for seed in (3, 4))
    at = phases.index("critic")
    torch.testing.assert_close(first[at][0], second[at][0])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DISCRETE])
def test_discrete_data_are_refused_by_algorithms_that_act_in_boxes(name, tmp_path):
    with pytest.raises(ValueError, match="acts in boxes only"):
        make_config(name, str(write_discrete(tmp_path / "set")))


@pytest.mark.parametrize(("name", "critic"), CRITICS)
def test_predators_and_prey_learn_each_from_the_rewards_of_their_own_side(name, critic):
    config = make_config(name, str(PREDATORS_AND_PREY)).copy(copy_frozen=False)
    config = set_critic(config.offline_data(teams=TEAMS), critic)
    learner = config.build_learner()
    before = {agent: actor_of(learner, agent) for team in TEAMS.values() for agent in team}
    if hasattr(learner._networks, "critics"):
        batch = learner._sample()
        groups = list(batch.groups)
        (at,) = [i for i, g in enumerate(learner._networks.groups) if "prey" in g.agent_ids]
        groups[at] = groups[at]._replace(rewards=groups[at].rewards + 1)
        moved = batch.team_rewards + torch.tensor([[0.0], [1.0]])
        paid = batch._replace(groups=tuple(groups), team_rewards=moved)
        one, two = (critics_gradients(learner, b) for b in (batch, paid))
        assert one.keys() == {"predators", "prey"}
        torch.testing.assert_close(one["predators"], two["predators"], rtol=1e-4, atol=1e-6)
        assert not torch.allclose(one["prey"], two["prey"], rtol=1e-2)
    learner.update(num_updates=3)
    for agent, weight in before.items():
        assert not torch.equal(actor_of(learner, agent), weight), agent


def actor_of(learner: OfflineLearner, agent: str) -> torch.Tensor:
    actor = learner.module[agent].unwrapped().actor
    return torch.cat([p.detach().flatten().clone() for p in actor.parameters()])


def critics_gradients(learner: OfflineLearner, batch: JointBatch) -> dict[str, torch.Tensor]:
    """Return the gradient of the critics' loss in the critics of each side's group."""
    phase = next(phase for phase in learner._phases if phase.name == "critic")
    draws = phase.draw(batch, torch.Generator().manual_seed(3))
    found = {}
    losses = phase.loss(batch, draws)[0].sum()
    for group, critic in zip(learner._networks.groups, learner._networks.critics, strict=True):
        side = "prey" if "prey" in group.agent_ids else "predators"
        gradients = torch.autograd.grad(losses, list(critic.parameters()), retain_graph=True)
        found[side] = torch.cat([g.flatten() for g in gradients])
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", NAMES)
def test_two_learners_train_save_and_go_on_from_their_checkpoint(name, dataset, tmp_path):
    config = make_config(name, dataset).copy(copy_frozen=False)
    config.training(num_updates_per_iteration=3).learners(num_learners=2)
    algo = config.build_algo()
    algo.train()
    checkpoint = algo.save_to_path(tmp_path / "checkpoint")
    algo.train()
    expected = {agent: algo.get_module(agent).get_state() for agent, _, _ in UNEQUAL}
    algo.stop()
    again = Algorithm.from_checkpoint(checkpoint)
    assert again.num_updates == 3
    again.train()
    for agent, state in expected.items():
        for key, value in again.get_module(agent).get_state().items():
            np.testing.assert_array_equal(value, state[key], err_msg=key)
    again.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_losses_trace_into_one_graph_with_the_same_numbers(name, dataset):
    learner = make_learner(name, dataset)
    batch = learner._layout.view(*learner._table.sample(16, learner._generator))
    for phase in learner._phases:
        torch._dynamo.reset()
        traced = torch.compile(phase.loss, fullgraph=True, dynamic=False, backend="eager")
        draws = phase.draw(batch, learner._generator)
        torch.testing.assert_close(traced(batch, draws)[0], phase.loss(batch, draws)[0])
