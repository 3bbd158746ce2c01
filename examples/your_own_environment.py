"""Use an environment of your own: record a dataset in it, train on that, evaluate by its name.

    python examples/your_own_environment.py --episodes 400 --updates 2000 --out data/meeting

Any RLlib MultiAgentEnv works once it has a name for RLlib, and any PettingZoo ParallelEnv as
`register_env("name", lambda config: RLlibParallelEnv(parallel_env))` (rllib_om2p.envs.rllib_env).
"""

from __future__ import annotations

import argparse

import numpy as np
from gymnasium.spaces import Box
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.tune.registry import register_env

from rllib_om2p import Algorithm, OfflineDataset, OM2PConfig, Recorder
from rllib_om2p.core.playing import play_checkpoint

STEPS = 10


class Meeting(MultiAgentEnv):
    """Two agents on a line see their distance and are paid for being near."""

    def __init__(self, config):
        super().__init__()
        self.possible_agents = self.agents = ["left", "right"]
        self.observation_spaces = dict.fromkeys(self.agents, Box(-np.inf, np.inf, (1,)))
        self.action_spaces = dict.fromkeys(self.agents, Box(-0.5, 0.5, (1,)))

    def reset(self, *, seed=None, options=None):
        """Put them somewhere between -2 and 2."""
        self.places, self.time = np.random.default_rng(seed).uniform(-2.0, 2.0, 2), 0
        return self._see(), {}

    def step(self, action_dict):
        """Move both; after ten steps the time is over."""
        self.places += [action_dict["left"][0], action_dict["right"][0]]
        self.time += 1
        rewards = dict.fromkeys(self.agents, -float(abs(self.places[0] - self.places[1])))
        return self._see(), rewards, {"__all__": False}, {"__all__": self.time == STEPS}, {}

    def _see(self):
        gap = np.float32(np.diff(self.places))
        return {"left": gap, "right": -gap}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--out", default="data/meeting")
    options = parser.parse_args()
    register_env("meeting", Meeting)

    config = PPOConfig().environment("meeting").env_runners(num_env_runners=0)
    config.multi_agent(policies={"left", "right"}, policy_mapping_fn=lambda agent, *a, **k: agent)
    recorder = Recorder(options.out, time_limit=STEPS)
    runner = MultiAgentEnvRunner(config=recorder.attach(config))
    runner.sample(num_episodes=options.episodes, random_actions=True)
    data = OfflineDataset.open(recorder.finish()).statistics()
    print(f"{data.num_episodes} random episodes, team return {data.team_return.mean:.1f}")

    config = OM2PConfig().offline_data(input_=options.out).environment("meeting")
    config.training(eta=1.0, actor_hidden=(64, 64), critic_hidden=(64, 64), lr=1e-3)
    config.training(num_updates_per_iteration=options.updates).evaluation(evaluation_interval=1)
    algo = Algorithm.from_config(config.debugging(seed=0))
    print(f"after training: {algo.train()['evaluation']['team_return_mean']:.1f}")
    played = play_checkpoint(algo.save_to_path(f"{options.out}-run"), num_episodes=20)
    print(f"{played.env}: team return {played.mean:.1f} over {len(played.team_returns)} episodes")
    algo.stop()


if __name__ == "__main__":
    main()
