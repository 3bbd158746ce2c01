"""Write recorded episodes of your own team as a dataset, and audit it.

    python examples/write_your_own_logs.py --episodes 200 --out data/my-logs

Here the episodes come from a PettingZoo ParallelEnv with box spaces (any will do) and a team that
acts at random. With logs of robots, fill the same arrays from them.
"""

from __future__ import annotations

import argparse

import numpy as np

from rllib_om2p import DatasetWriter, OfflineDataset, envs
from rllib_om2p.data.audit import audit
from rllib_om2p.data.schema import AgentSpec, DatasetSpec, Episode


def record(env, seed: int) -> Episode:
    """Play one episode; observations are one longer than actions, rewards and ends."""
    agents = env.possible_agents
    obs, _ = env.reset(seed=seed)
    seen = {agent: [obs[agent]] for agent in agents}
    actions, rewards, ends = ({agent: [] for agent in agents} for _ in range(3))
    while env.agents:
        chosen = {agent: env.action_space(agent).sample() for agent in env.agents}
        obs, reward, terminations, truncations, _ = env.step(chosen)
        for agent in agents:
            seen[agent].append(obs[agent])
            actions[agent].append(chosen[agent])
            rewards[agent].append(reward[agent])
            ends[agent].append(terminations[agent])
    return Episode(
        obs={a: np.array(seen[a], np.float32) for a in agents},
        actions={a: np.array(actions[a], np.float32) for a in agents},
        rewards={a: np.array(rewards[a], np.float32) for a in agents},
        terminateds={a: np.array(ends[a], bool) for a in agents},
        truncated=any(truncations.values()),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--out", default="data/my-logs")
    options = parser.parse_args()

    env = envs.make("mpe/simple_spread")
    boxes = {agent: env.action_space(agent) for agent in env.possible_agents}
    spec = DatasetSpec(
        dataset_id="my-logs",
        agents=tuple(
            AgentSpec(
                agent,
                env.observation_space(agent).shape[0],
                box.shape[0],
                tuple(box.low.tolist()),
                tuple(box.high.tolist()),
            )
            for agent, box in boxes.items()
        ),
        team_return="mean over agents",
        time_limit=25,
    )
    with DatasetWriter(options.out, spec) as writer:
        for seed in range(options.episodes):
            writer.write_episode(record(env, seed))
    print(audit(OfflineDataset.open(options.out)).to_markdown())


if __name__ == "__main__":
    main()
