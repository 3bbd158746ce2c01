"""The inner loop on a real dataset: targets every update, divergence, clipping, schedules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rllib_om2p import OM2PConfig
from rllib_om2p.algorithms.ma_td3_bc import MATD3BCConfig
from rllib_om2p.core import update
from rllib_om2p.core.learner import DivergenceError, OfflineLearner
from rllib_om2p.core.update import clip_per_network
from tests.small_data import write_random


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_random(Path(tmp_path_factory.mktemp("data")) / "set"))


def make_learner(
    dataset: str, *, seed: int = 0, normalize_observations: bool = True, **training: object
) -> OfflineLearner:
    config = (
        OM2PConfig()
        .offline_data(input_=dataset, normalize_observations=normalize_observations)
        .training(actor_hidden=(16,), critic_hidden=(16,), train_batch_size=32, eta=0.3, **training)
        .debugging(seed=seed)
    )
    config.validate()
    learner = config.build_learner()
    assert isinstance(learner, OfflineLearner)
    return learner


def weights(learner: OfflineLearner) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in learner._networks.state_dict().items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_targets_move_after_every_update_within_one_call(dataset):
    learner = make_learner(dataset, tau=0.25)
    expected = [t.clone() for t in learner._phase_update._targets]
    one_by_one = make_learner(dataset, tau=0.25)
    for _ in range(3):
        one_by_one.update(num_updates=1)
        sources = one_by_one._phase_update._sources
        expected = [0.25 * s + 0.75 * t for s, t in zip(sources, expected, strict=True)]
    learner.update(num_updates=3)
    for target, value in zip(learner._phase_update._targets, expected, strict=True):
        torch.testing.assert_close(target, value, rtol=0, atol=1e-6)


def test_one_call_of_many_updates_equals_many_calls_of_one(dataset):
    many, one = make_learner(dataset), make_learner(dataset)
    many.update(num_updates=4)
    for _ in range(4):
        one.update(num_updates=1)
    assert_equal(weights(many), weights(one))


def test_modules_are_views_of_the_trained_stacks(dataset):
    learner = make_learner(dataset)
    before = learner.module["arm_2"].actor.mlp.weights[0].clone()
    learner.update(num_updates=2)
    after = learner.module["arm_2"].actor.mlp.weights[0]
    assert not torch.equal(before, after)
    stack = learner._networks.actors[1].mlp.weights[0]
    assert torch.equal(after[0], stack[1])
    learner.module["arm_2"].set_state({"actor.mlp.weights.0": np.zeros(after.shape, np.float32)})
    assert stack[1].abs().sum() == 0
    assert stack[0].abs().sum() > 0


def test_modules_carry_the_datasets_normalisation(dataset):
    learner = make_learner(dataset)
    statistics = learner._dataset.statistics()
    for name, moments in statistics.obs.items():
        np.testing.assert_allclose(learner.module[name].obs_mean, moments.mean, rtol=1e-5)
        np.testing.assert_allclose(learner.module[name].obs_std, moments.std, rtol=1e-5)


def test_restored_modules_keep_the_constants_of_this_table(dataset, tmp_path):
    learner, other = make_learner(dataset), make_learner(dataset, seed=1)

    def constants(learner):
        modules = ((agent, learner.module[agent].unwrapped()) for agent in learner._agent_ids)
        return {(a, name): b.clone() for a, m in modules for name, b in m.named_buffers()}

    expected = constants(learner)
    assert {name for _, name in expected} >= {"obs_mean", "obs_std", "action_low", "action_high"}
    for agent in other._agent_ids:  # as another dataset would have them
        for value in other.module[agent].unwrapped().buffers():
            value.fill_(7.0)
    path = other.module.save_to_path(tmp_path / "modules")
    learner.restore_from_path(path, component="rl_module")
    assert_equal(constants(learner), expected)
    name = "actor.mlp.weights.0"
    for agent in other._agent_ids:
        restored = learner.module[agent].get_state()
        np.testing.assert_array_equal(restored[name], other.module[agent].get_state()[name])


@pytest.mark.parametrize("config_class", [OM2PConfig, MATD3BCConfig])
@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("through", ["restore_from_path", "set_state"])
def test_targets_follow_modules_that_are_restored_alone(
    dataset, tmp_path, config_class, form, through
):
    """As for fine-tuning: a target network that stayed random would be learnt from at first."""
    if config_class is MATD3BCConfig and form == "released":
        pytest.skip("a form of OM2P")

    def make(seed):
        config = config_class().offline_data(input_=dataset).debugging(seed=seed)
        config.training(actor_hidden=(16,), critic_hidden=(16,), train_batch_size=32)
        if config_class is OM2PConfig:
            config.training(best_of_n=2)  # its modules bring their critics
        if form == "released":
            config.training(form=form, derivative="none", xi=(0, 0, 0, 0))
        config.validate()
        return config.build_learner()

    learner, other = make(0), make(1)
    learner.update(num_updates=2)
    other.update(num_updates=2)
    if through == "set_state":
        learner.set_state({"rl_module": other.module.get_state()})
    else:
        path = other.module.save_to_path(tmp_path / "modules")
        learner.restore_from_path(path, component="rl_module")
    exported = {"actor", *(["critic"] if config_class is OM2PConfig else [])}
    for stack, wanted in zip(
        learner._networks.policy_stacks(), other._networks.policy_stacks(), strict=True
    ):
        assert set(stack) == exported
        for name in stack:
            assert_equal(stack[name].state_dict(), wanted[name].state_dict())
    targets, sources = learner._networks.target_pairs()
    assert targets
    assert all(torch.equal(t, s) for t, s in zip(targets, sources, strict=True))
    now = list(learner._networks.critics.parameters())
    for target, critic in zip(targets, now, strict=False):
        assert torch.equal(target, critic)


def test_an_interrupted_call_leaves_a_learner_that_saves_what_it_is(dataset, monkeypatch):
    learner = make_learner(dataset)
    learner.update(num_updates=2)
    number = learner.get_state()["weights_seq_no"]
    sample, calls = learner._sample, iter(range(3))

    def interrupted():
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return sample()

    monkeypatch.setattr(learner._phase_update, "_sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learner.update(num_updates=10)
    monkeypatch.undo()
    state = learner.get_state()
    assert state["training_state"]["num_updates"] == 5
    assert state["weights_seq_no"] == number + 3  # env runners skip weights of a known number
    other = make_learner(dataset, seed=1)
    other.set_state(state)
    for each in (learner, other):
        each.update(num_updates=3)
    assert_equal(weights(learner), weights(other))


def test_resuming_without_normalisation_changes_the_modules_with_the_table(dataset):
    raw = make_learner(dataset, normalize_observations=False)
    raw.set_state(make_learner(dataset).get_state())
    assert raw.module["walker"].obs_mean.abs().max() == 0
    assert (raw.module["walker"].obs_std == 1).all()


def test_other_seed_gives_other_weights_and_same_seed_the_same(dataset):
    assert_equal(weights(make_learner(dataset, seed=3)), weights(make_learner(dataset, seed=3)))
    one, other = weights(make_learner(dataset, seed=3)), weights(make_learner(dataset, seed=4))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_non_finite_loss_stops_naming_update_phase_and_agent_and_saves_nothing(dataset):
    learner = make_learner(dataset)
    learner.update(num_updates=2)
    # The first observation column of the last agent of the second group.
    column = learner._layout.obs_width - 3
    learner._table._rows[:, column] = float("nan")
    with pytest.raises(DivergenceError, match=r"critic loss of agent 'arm_2'.* at update 2\b"):
        learner.update(num_updates=3)
    with pytest.raises(DivergenceError):
        learner.get_state()


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_weights_that_are_not_finite_are_not_saved_though_the_losses_were(
    dataset, monkeypatch, is_interrupted
):
    """The last step of a call, or of one that is interrupted, breaks them: no loss shows it yet."""
    learner = make_learner(dataset)
    learner.update(num_updates=1)
    run = learner._phase_update.__call__

    def last_step(update):
        outcomes = list(run(update))
        with torch.no_grad():
            learner._phases[0].parameters()[0].fill_(float("nan"))
        if is_interrupted:
            raise KeyboardInterrupt
        return outcomes

    monkeypatch.setattr(type(learner._phase_update), "__call__", lambda self, n: last_step(n))
    with pytest.raises(KeyboardInterrupt if is_interrupted else DivergenceError):
        learner.update(num_updates=1)
    with pytest.raises(DivergenceError, match="network's weights became non-finite at update"):
        learner.get_state()


def test_a_loss_that_runs_away_is_warned_of_once_and_training_goes_on(dataset, caplog):
    learner = make_learner(dataset)
    learner.update(num_updates=2)
    assert "diverges" not in caplog.text
    learner._table._rows *= 1e10
    for _ in range(2):
        learner.update(num_updates=2)
    assert caplog.text.count("training diverges: the critic loss of agent 'walker'") == 1
    assert "Lower eta or lr" in caplog.text
    assert learner.get_state()


def test_batch_larger_than_the_table_is_refused(dataset):
    config = OM2PConfig().offline_data(input_=dataset).training(train_batch_size=401)
    config.validate()
    with pytest.raises(ValueError, match="larger than this learner's table of 400 transitions"):
        config.build_learner()


def test_older_checkpoint_replaces_newer_weights(dataset):
    learner = make_learner(dataset)
    learner.update(num_updates=2)
    state = learner.get_state()
    state = {key: value for key, value in state.items() if key != "training_state"}
    old = state["rl_module"]["arm_2"]
    learner.update(num_updates=2)
    learner.set_state(state)
    restored = learner.module["arm_2"].get_state()
    for name, value in old.items():
        np.testing.assert_array_equal(restored[name], value)


def test_window_table_trains_and_resumes_bit_identically(tmp_path):
    # Ten row groups of 44 rows; the budget holds four of them, two outside the table.
    path = str(write_random(tmp_path / "set", rows_per_group=44))
    learners = []
    for _ in range(2):
        config = (
            OM2PConfig()
            .offline_data(input_=path, table_memory_budget=4 * 44 * 100)
            .training(actor_hidden=(16,), critic_hidden=(16,), train_batch_size=32, eta=0.3)
            .debugging(seed=0)
        )
        config.validate()
        learners.append(config.build_learner())
    first, second = learners
    assert first._table.is_window
    assert first._table.num_transitions == 2 * 40
    first.update(num_updates=40)
    state = first.get_state()
    first.update(num_updates=40)
    second.set_state(state)
    second.update(num_updates=40)
    assert_equal(weights(first), weights(second))
    first.shutdown()
    second.shutdown()


def test_gradients_are_clipped_network_by_network():
    # Two networks of one stack: norms 5 and 0.5.
    weight = torch.tensor([[[3.0], [0.0]], [[0.3], [0.0]]])
    bias = torch.tensor([[[4.0]], [[0.4]]])
    clip_per_network([weight, bias], 1.0)
    torch.testing.assert_close(weight[0, 0, 0], torch.tensor(0.6))
    torch.testing.assert_close(bias[0, 0, 0], torch.tensor(0.8))
    torch.testing.assert_close(weight[1, 0, 0], torch.tensor(0.3))


def test_learning_rate_follows_its_schedule(dataset):
    learner = make_learner(dataset, lr=[[0, 1e-3], [4, 0.0]])
    learner.update(num_updates=2)
    assert learner._learning_rate == pytest.approx(5e-4)
    learner.update(num_updates=2)
    frozen = weights(learner)
    learner.update(num_updates=3)
    for name, value in frozen.items():
        if not name.startswith("target"):
            assert torch.equal(value, learner._networks.state_dict()[name])


def test_bfloat16_trains_with_the_tangent_and_keeps_float32_weights(dataset):
    learner = make_learner(dataset, precision="bfloat16", derivative="tangent")
    before = weights(learner)
    learner.update(num_updates=3)
    after = weights(learner)
    assert all(value.dtype == torch.float32 for value in after.values())
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_compiled_losses_train_like_eager_ones(tmp_path):
    path = str(write_random(tmp_path / "set", agents=(("a", 3, 1), ("b", 3, 1))))
    eager, compiled = make_learner(path), make_learner(path, torch_compile=True)
    eager.update(num_updates=3)
    compiled.update(num_updates=3)
    for name, value in weights(eager).items():
        torch.testing.assert_close(weights(compiled)[name], value, rtol=1e-3, atol=1e-4)


def test_a_missing_compiler_is_named_before_the_first_update(dataset, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="needs the compiler 'no-such-compiler' on this machine"):
        make_learner(dataset, torch_compile=True)


def test_more_learners_compile_in_one_process_than_pytorch_compiles_of_one_function(
    dataset, monkeypatch
):
    """As Tune's workers do, each with settings of its own, which are constants of the graph."""
    settings = {"dynamic": False, "fullgraph": True, "backend": "eager"}
    monkeypatch.setattr(update, "COMPILE_SETTINGS", settings)
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 2)
    first = "actors.0.mlp.weights.0"
    for bc_weight in (1.0, 2.0, 3.0):
        learner = make_learner(dataset, torch_compile=True, bc_weight=bc_weight)
        before = weights(learner)[first]
        learner.update(num_updates=1)
        assert not torch.equal(weights(learner)[first], before)
