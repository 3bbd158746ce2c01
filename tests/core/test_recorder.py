"""Recording with RLlib's own env runner: nothing lost, nothing twice, as the environment saw it."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
from gymnasium import spaces
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.tune.registry import register_env

from rllib_om2p import BCConfig, envs
from rllib_om2p.core.playing import play_checkpoint
from rllib_om2p.core.recorder import RECORDING, Recorder
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import DataError
from rllib_om2p.envs.prey import cite_prey, own_prey_file
from rllib_om2p.envs.rllib_env import RLlibParallelEnv

NAME = "mpe/simple_spread"
AGENTS = envs.info(NAME).agent_ids
ENVIRONMENTS = itertools.count()


def create(config):
    """Each environment of the process begins at start states of its own."""
    return RLlibParallelEnv(envs.make(NAME), first_seed=1000 * next(ENVIRONMENTS))


def ppo(env="spread-from-known-starts", *, num_envs=1, **settings):
    # Here, since a name does not outlive the Ray that was running when it was registered.
    register_env("spread-from-known-starts", create)
    config = PPOConfig().environment(env, disable_env_checking=True)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=num_envs, **settings)
    config.multi_agent(policies=set(AGENTS), policy_mapping_fn=lambda agent, *_, **__: agent)
    config.rl_module(model_config={"fcnet_hiddens": [8], "head_fcnet_hiddens": [8]})
    return config.debugging(log_level="ERROR")


@pytest.fixture
def runner():
    """Make a runner; it is stopped after the test."""
    made = []

    def make(config, **settings):
        made.append(MultiAgentEnvRunner(config=config, **settings))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def start_of(episode):
    """Return the seed whose start state an episode has."""
    env = envs.make(NAME)
    for seed in (1000 * number + k for number in range(40) for k in range(5)):
        obs, _ = env.reset(seed=seed)
        if all(np.array_equal(np.float32(obs[a]), episode.obs[a][0]) for a in AGENTS):
            return seed
    raise AssertionError("an episode starts nowhere")


def test_recorded_episodes_equal_a_replay_of_the_environment(runner, tmp_path):
    recorder = Recorder(tmp_path, env=NAME)
    config = ppo(
        num_envs=2,
        # Fragments of 7 steps cut each episode of 25 three times; the filter changes what the
        # policies see, and would change the episodes of RLlib as well.
        rollout_fragment_length=7,
        env_to_module_connector=lambda env, spaces, device: MeanStdFilter(multi_agent=True),
    )
    sampler = runner(recorder.attach(config))
    steps = [sum(len(e) for e in sampler.sample()) for _ in range(11)]
    assert sum(steps) == 2 * 77

    dataset = OfflineDataset.open(str(recorder.finish()))
    episodes = list(dataset.episodes())
    starts = [start_of(episode) for episode in episodes]
    assert len(set(starts)) == len(episodes) == 2 * (77 // 25)
    for seed, episode in zip(starts, episodes, strict=True):
        env = envs.make(NAME)
        obs, _ = env.reset(seed=seed)
        for step in range(25):
            obs, rewards, *_ = env.step({a: episode.actions[a][step] for a in AGENTS})
            for agent in AGENTS:
                np.testing.assert_allclose(episode.obs[agent][step + 1], obs[agent], atol=1e-6)
                assert episode.rewards[agent][step] == pytest.approx(rewards[agent], abs=1e-6)
        assert len(episode) == 25
        assert episode.truncated
        assert not any(ends.any() for ends in episode.terminateds.values())
    actions = np.concatenate([episode.actions["agent_0"] for episode in episodes])
    # As applied: PPO's Gaussian leaves the box, RLlib brings it back.
    assert np.abs(actions).max() == 1.0


def test_the_card_says_who_recorded_what(runner, tmp_path):
    recorder = Recorder(tmp_path)
    envs.register()
    config = ppo(NAME).training(lr=0.002).debugging(seed=5)
    runner(recorder.attach(config)).sample(num_episodes=2, random_actions=True)
    dataset = OfflineDataset.open(str(recorder.finish()))
    spec = dataset.spec
    assert (spec.dataset_id, spec.env, spec.quality) == (f"{NAME}/PPO", NAME, "recorded")
    assert spec.agent_ids == AGENTS
    assert (spec.team_return, spec.time_limit) == ("mean over agents", 25)
    assert spec.references == envs.info(NAME).references
    assert spec.behaviour["algorithm"] == "PPO"
    hyperparameters = spec.behaviour["hyperparameters"]
    assert (hyperparameters["lr"], hyperparameters["clip_param"]) == (0.002, 0.3)
    assert "seed" not in hyperparameters
    assert spec.seeds == {"algorithm": 5}
    assert dataset.statistics().num_transitions == 50
    assert not (tmp_path / RECORDING).exists()


def spec_of(recorder, runner, env=NAME, **env_config):
    """Record two episodes of uniform actions and return what the card says."""
    envs.register()
    agents = envs.info(env).agent_ids
    config = ppo(env).environment(env, env_config=env_config)
    config.multi_agent(policies=set(agents))
    runner(recorder.attach(config)).sample(num_episodes=2, random_actions=True)
    return OfflineDataset.open(str(recorder.finish())).spec


def test_start_states_are_no_setting_of_the_environment(runner, tmp_path):
    spec = spec_of(Recorder(tmp_path), runner, first_seed=3, max_cycles=7)
    assert spec.env_kwargs == {"max_cycles": 7}
    assert spec.seeds == {"algorithm": None, "first_seed": 3}
    envs.make(spec.env, **spec.env_kwargs)


def test_a_prey_is_cited_by_its_hash_and_not_by_its_place(runner, tmp_path):
    tag = "mpe/simple_tag"
    file = tmp_path / "prey.safetensors"
    shutil.copy(own_prey_file(tag), file)
    spec = spec_of(Recorder(tmp_path / "set"), runner, tag, prey=str(file))
    assert spec.env_kwargs == {"prey": cite_prey(tag, file)}
    assert str(tmp_path) not in spec.to_json()
    assert spec.references == envs.info(tag).references


@pytest.mark.parametrize(
    ("env", "settings", "env_config"),
    [
        (NAME, {"team_return": "sum"}, {}),
        (NAME, {"time_limit": 10}, {}),
        (NAME, {}, {"max_cycles": 10}),
        ("mpe/simple_tag", {}, {"dynamics": "mpe2"}),
    ],
)
def test_returns_on_another_scale_have_no_references(runner, tmp_path, env, settings, env_config):
    assert spec_of(Recorder(tmp_path, **settings), runner, env, **env_config).references == {}


def test_evaluation_is_recorded_only_when_asked(runner, tmp_path):
    train, evaluate = Recorder(tmp_path / "t"), Recorder(tmp_path / "e", runners="evaluation")
    config = evaluate.attach(train.attach(ppo().evaluation(evaluation_interval=1)))
    runner(config).sample(num_episodes=1, random_actions=True)
    runner(config.get_evaluation_config_object()).sample(num_episodes=2, random_actions=True)
    assert OfflineDataset.open(str(train.finish())).num_episodes == 1
    assert OfflineDataset.open(str(evaluate.finish())).num_episodes == 2


def test_evaluation_by_the_training_runner_is_left_out(runner, tmp_path):
    class Algorithm:
        eval_env_runner_group = None

    recorder = Recorder(tmp_path)
    config = recorder.attach(ppo())
    Algorithm.env_runner = sampler = runner(config)
    sampler.sample(num_episodes=1, random_actions=True)
    for begin, end in zip(
        config.callbacks_on_evaluate_start, config.callbacks_on_evaluate_end, strict=True
    ):
        begin(algorithm=Algorithm, metrics_logger=None)
        sampler.sample(num_episodes=3, random_actions=True)
        end(algorithm=Algorithm, metrics_logger=None)
    sampler.sample(num_episodes=1, random_actions=True)
    assert OfflineDataset.open(str(recorder.finish())).num_episodes == 2


def test_runners_are_joined_in_their_order_and_a_crash_costs_one_episode(runner, tmp_path):
    recorder = Recorder(tmp_path)
    config = recorder.attach(ppo())
    first_rows = []
    for index in (2, 1):
        sampler = runner(config, worker_index=index)
        (first, _) = sampler.sample(num_episodes=2, random_actions=True)
        first_rows.append(first.get_observations(0, agent_ids=["agent_0"])["agent_0"])
    (crashed,) = (tmp_path / RECORDING).glob("runner-0002-*")
    crashed.write_bytes(crashed.read_bytes()[:-10])
    # As after a crash of the whole program: nothing but the directory is left.
    episodes = list(OfflineDataset.open(str(Recorder(tmp_path).finish())).episodes())
    assert len(episodes) == 3
    np.testing.assert_array_equal(episodes[0].obs["agent_0"][0], first_rows[1])
    np.testing.assert_array_equal(episodes[2].obs["agent_0"][0], first_rows[0])


def test_other_callbacks_stay(runner, tmp_path):
    seen = []
    config = ppo().callbacks(on_environment_created=lambda **_: seen.append("mine"))
    runner(Recorder(tmp_path).attach(config))
    assert seen == ["mine"]
    assert list((tmp_path / RECORDING).glob("*.journal"))


def test_what_is_there_is_not_overwritten_unasked(runner, tmp_path):
    runner(Recorder(tmp_path).attach(ppo())).sample(num_episodes=1, random_actions=True)
    with pytest.raises(DataError, match=r"unfinished recording.*finish\(\)"):
        Recorder(tmp_path).attach(ppo())
    Recorder(tmp_path).finish()
    with pytest.raises(DataError, match="already holds a dataset"):
        Recorder(tmp_path).attach(ppo())
    again = Recorder(tmp_path, overwrite=True)
    runner(again.attach(ppo())).sample(num_episodes=2, random_actions=True)
    assert OfflineDataset.open(str(again.finish())).num_episodes == 2


def test_two_algorithms_in_one_directory_are_refused(runner, tmp_path):
    recorder = Recorder(tmp_path)
    for lr in (0.1, 0.2):
        config = recorder._start  # as two trials of one Tune experiment would carry it
        settings = ppo().training(lr=lr).callbacks(on_environment_created=config)
        runner(settings).sample(num_episodes=1, random_actions=True)
    with pytest.raises(DataError, match="different algorithms: behaviour"):
        recorder.finish()
    assert len(list((tmp_path / RECORDING).glob("*.journal"))) == 2


def test_finishing_without_a_whole_episode_says_what_to_do(runner, tmp_path):
    recorder = Recorder(tmp_path)
    runner(recorder.attach(ppo())).sample(num_timesteps=10, random_actions=True)
    with pytest.raises(DataError, match="no whole episode was recorded"):
        recorder.finish()


@pytest.mark.parametrize("agents", [["agent_0"], [*AGENTS, "agent_0"], ["agent_0", "a", "b"]])
def test_agents_must_be_the_environments(runner, tmp_path, agents):
    with pytest.raises(DataError, match="name each of them once"):
        runner(Recorder(tmp_path, agents=agents).attach(ppo()))


def test_a_config_of_the_old_stack_is_refused(tmp_path):
    old = PPOConfig().api_stack(
        enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
    )
    with pytest.raises(ValueError, match="new API stack"):
        Recorder(tmp_path).attach(old)
    with pytest.raises(ValueError, match="'training' or 'evaluation', got 'both'"):
        Recorder(tmp_path, runners="both")


class Numbered(MultiAgentEnv):
    """Agents 0 and 1, as RLlib's own examples call them; `broken` episodes return NaN."""

    def __init__(self, config):
        super().__init__()
        self.possible_agents = self.agents = [0, 1]
        self.observation_spaces = dict.fromkeys((0, 1), spaces.Box(-9, 9, (2,), np.float32))
        self.action_spaces = {0: spaces.Discrete(3), 1: spaces.Box(-2.0, 1.0, (1,), np.float32)}
        self._broken, self._episode = set(config.get("broken", ())), -1

    def reset(self, *, seed=None, options=None):
        self._episode, self._step = self._episode + 1, 0
        return {0: np.zeros(2, np.float32), 1: np.ones(2, np.float32)}, {}

    def step(self, action_dict):
        self._step += 1
        obs = {agent: np.full(2, self._step, np.float32) for agent in (0, 1)}
        first = float("nan") if self._episode in self._broken else 1.0
        is_over = {"__all__": self._step == 4}
        return obs, {0: first, 1: float(action_dict[1][0])}, {"__all__": False}, is_over, {}


class HalfMasked(Numbered):
    """Both choose among actions, and one is told which are legal."""

    def __init__(self, config):
        super().__init__(config)
        view, legal = self.observation_spaces[0], spaces.Box(0, 1, (3,), np.int8)
        self.observation_spaces = {
            0: spaces.Dict({"observations": view, "action_mask": legal}),
            1: view,
        }
        self.action_spaces = dict.fromkeys((0, 1), spaces.Discrete(3))


def test_masks_for_some_discrete_agents_only_are_refused(runner, tmp_path):
    register_env("half-masked", HalfMasked)
    config = PPOConfig().environment("half-masked", disable_env_checking=True)
    config.multi_agent(policies={"0", "1"}, policy_mapping_fn=lambda agent, *_, **__: str(agent))
    with pytest.raises(DataError, match=r"\[0, 1\], only \[0\] are told which are legal; give"):
        runner(Recorder(tmp_path).attach(config))


def test_agents_that_are_numbers_are_recorded_trained_on_and_played(
    ray_cluster, runner, tmp_path, caplog
):
    register_env("numbered", Numbered)
    config = PPOConfig().environment("numbered", env_config={"broken": [1]})
    config.multi_agent(policies={"0", "1"}, policy_mapping_fn=lambda agent, *_, **__: str(agent))
    config.training(vf_clip_param=float("inf"), gamma=np.float32(0.5))
    recorder = Recorder(tmp_path / "set")
    runner(recorder.attach(config)).sample(num_episodes=5, random_actions=True)
    dataset = OfflineDataset.open(str(recorder.finish()))
    assert "1 of 5 episodes hold a value that is not finite and are left out" in caplog.text
    assert dataset.num_episodes == 4
    assert dataset.spec.agent_ids == ("0", "1")
    hyperparameters = dataset.spec.behaviour["hyperparameters"]
    assert (hyperparameters["vf_clip_param"], hyperparameters["gamma"]) == ("inf", 0.5)

    config = BCConfig().offline_data(input_=str(tmp_path / "set"))
    config.environment("numbered", env_config={"broken": []})
    config.training(actor_hidden=(8,), train_batch_size=8, num_updates_per_iteration=5)
    config.evaluation(evaluation_interval=1, evaluation_duration=2)
    algo = config.build_algo()
    means = algo.train()["evaluation"]["env_runners"]["agent_episode_returns_mean"]
    algo.save_to_path(str(tmp_path / "checkpoint"))
    algo.stop()
    played = play_checkpoint(tmp_path / "checkpoint", env="numbered", num_episodes=3)
    assert means["0"] == 4.0
    np.testing.assert_array_equal(played.agent_returns["0"], [4.0] * 3)
    np.testing.assert_allclose(played.agent_returns["1"], means["1"], rtol=1e-5)
