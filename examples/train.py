"""Train OM2P on a dataset, watch it improve, and save it.

    python examples/train.py data/simple_spread-medium --iterations 10 --out runs/om2p

`rllib-om2p train` does the same, with TensorBoard events and a checkpoint after every iteration.
"""

from __future__ import annotations

import argparse

from rllib_om2p import Algorithm, OM2PConfig


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", default="runs/om2p")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--updates", type=int, default=500, help="per iteration")
    parser.add_argument("--episodes", type=int, default=50, help="per evaluation")
    options = parser.parse_args()

    config = (
        OM2PConfig()
        .offline_data(input_=options.dataset)
        # A size and a rate for a CPU; the paper's networks, which are the default, are 4 x 512.
        .training(critic="vdn", value_from="path", advantage_temperature=0.5, eta=1.0)
        .training(actor_hidden=(64, 64), critic_hidden=(64, 64), lr=1e-2)
        .training(gamma=0.95, tau=0.01, num_updates_per_iteration=options.updates)
        .evaluation(evaluation_interval=1, evaluation_duration=options.episodes)
        .debugging(seed=0)
    )
    algo = Algorithm.from_config(config)
    for _ in range(options.iterations):
        result = algo.train()
        agent = result["learners"]["agent_0"]
        print(
            f"update {algo.num_updates}: "
            f"actor loss {agent['actor_loss']:.3f}, critic's value {agent['q_policy']:.2f}, "
            f"team return {result['evaluation']['team_return_mean']:.1f}"
        )
    print("saved:", algo.save_to_path(options.out))
    algo.stop()


if __name__ == "__main__":
    main()
