"""Score a checkpoint, then act with its policies in a loop of your own.

    python examples/evaluate_and_act.py runs/om2p --episodes 100

Neither the dataset nor learners are needed. Loading a checkpoint executes code: trust it first.
"""

from __future__ import annotations

import argparse

import torch

from rllib_om2p import envs
from rllib_om2p.core.acting import load_modules
from rllib_om2p.core.playing import play_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()

    # RLlib's env runner plays whole episodes; the start states are those of seeds 0, 1, ...
    played = play_checkpoint(options.checkpoint, num_episodes=options.episodes, seed=0)
    print(f"team return over {options.episodes} episodes: {played.mean:.1f}")
    if played.normalised is not None:
        print(f"normalised (random 0, expert 100): {played.normalised:.1f}")

    # The same policies without RLlib: observations in, actions in the environment's units out.
    modules = load_modules(options.checkpoint)
    env = envs.make("mpe/simple_spread")
    team_return = 0.0
    obs, _ = env.reset(seed=0)
    while env.agents:
        batches = {agent: {"obs": torch.from_numpy(obs[agent])[None]} for agent in env.agents}
        actions = {a: modules[a].forward_inference(batches[a])["actions"][0].numpy() for a in obs}
        obs, rewards, *_ = env.step(actions)
        team_return += sum(rewards.values()) / len(rewards)
    print(f"team return of one episode by hand: {team_return:.1f}")


if __name__ == "__main__":
    main()
