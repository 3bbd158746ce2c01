"""Choose a configuration without the environment: by fitted Q evaluation on held-out episodes.

    python examples/tune_offline.py data/simple_spread-medium --etas 0 0.1 0.3 1.0

A tenth of the episodes is kept back. After every iteration critics of the whole team are fitted on
them; what they expect the policies to return, less what they disagree, is the metric. It is an
estimate: see RESULTS.md for how well it ranks policies. `rllib-om2p evaluate` plays the choice.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ray import tune

from rllib_om2p import OM2P, OM2PConfig


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", default="runs/offline")
    parser.add_argument("--etas", type=float, nargs="+", default=[0.0, 0.1, 0.3, 1.0])
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--updates", type=int, default=500, help="per iteration")
    parser.add_argument("--fqe-updates", type=int, default=1500, help="per evaluation")
    options = parser.parse_args()

    config = (
        OM2PConfig()
        .offline_data(input_=options.dataset, holdout_fraction=0.1)
        .training(eta=tune.grid_search(options.etas), lr=1e-2, gamma=0.95, tau=0.01)
        .training(actor_hidden=(128, 128), critic_hidden=(128, 128))
        .training(num_updates_per_iteration=options.updates)
        .evaluation(offline_evaluation_interval=1, fqe={"num_updates": options.fqe_updates})
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
        found = result.metrics["evaluation"]
        expected, lower = found["fqe_return"], found["fqe_return_lower"]
        print(f"eta {result.config['eta']}: expected return {expected:.1f}, lower {lower:.1f}")
    best = results.get_best_result("evaluation/fqe_return_lower", mode="max")
    print("best:", best.config["eta"], best.checkpoint.path)


if __name__ == "__main__":
    main()
