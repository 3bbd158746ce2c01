"""Try every value of a grid with Ray Tune, and take the best checkpoint.

    python examples/tune_grid.py data/simple_spread-medium --etas 0.1 0.3 1.0 --iterations 5

Each trial takes one core; the trials of a node read the dataset once. The choice is made by
playing; examples/tune_offline.py chooses without the environment.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ray import tune

from rllib_om2p import OM2P, OM2PConfig


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", default="runs/tune")
    parser.add_argument("--etas", type=float, nargs="+", default=[0.1, 0.3, 1.0])
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--updates", type=int, default=500, help="per iteration")
    parser.add_argument("--episodes", type=int, default=50, help="per evaluation")
    options = parser.parse_args()

    config = (
        OM2PConfig()
        .offline_data(input_=options.dataset)
        .training(eta=tune.grid_search(options.etas), lr=1e-2, gamma=0.95, tau=0.01)
        .training(actor_hidden=(128, 128), critic_hidden=(128, 128))
        .training(num_updates_per_iteration=options.updates)
        .evaluation(evaluation_interval=1, evaluation_duration=options.episodes)
    )
    tuner = tune.Tuner(
        OM2P,
        param_space=config,
        run_config=tune.RunConfig(
            storage_path=options.out if "://" in options.out else str(Path(options.out).resolve()),
            stop={"training_iteration": options.iterations},
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
            verbose=1,
        ),
    )
    results = tuner.fit()
    for result in results:
        score = result.metrics["evaluation"]["team_return_mean"]
        print(f"eta {result.config['eta']}: team return {score:.1f}")
    best = results.get_best_result("evaluation/team_return_mean", mode="max")
    print("best:", best.config["eta"], best.checkpoint.path)


if __name__ == "__main__":
    main()
