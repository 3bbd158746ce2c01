"""Search eta, the flow times and the learning rate; stop the worse trials early (ASHA).

    python examples/tune_asha.py data/simple_spread-medium --trials 12 --iterations 9

All trials start; after 1, 3, 9, ... iterations only the better third of those that came so far goes
on. Nothing waits: a cluster with more cores runs more trials at once by the same command.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from rllib_om2p import OM2P, OM2PConfig

# Uniform flow times, and two densities with more mass on long jumps.
FLOW_TIMES = [(0.0, 0.0, 0.0, 0.0), (-0.5, 0.0, 0.0, 0.0), (-0.8, 0.0, 0.0, 0.0)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", default="runs/asha")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=9, help="of the trials that survive")
    parser.add_argument("--updates", type=int, default=500, help="per iteration")
    parser.add_argument("--episodes", type=int, default=50, help="per evaluation")
    options = parser.parse_args()

    config = (
        OM2PConfig()
        .offline_data(input_=options.dataset)
        .training(eta=tune.loguniform(0.03, 3.0), xi=tune.choice(FLOW_TIMES))
        .training(lr=tune.loguniform(1e-3, 3e-2), gamma=0.95, tau=0.01)
        .training(actor_hidden=(128, 128), critic_hidden=(128, 128))
        .training(num_updates_per_iteration=options.updates)
        .evaluation(evaluation_interval=1, evaluation_duration=options.episodes)
    )
    tuner = tune.Tuner(
        OM2P,
        param_space=config,
        tune_config=tune.TuneConfig(
            metric="evaluation/team_return_mean",
            mode="max",
            num_samples=options.trials,
            scheduler=ASHAScheduler(max_t=options.iterations, grace_period=1, reduction_factor=3),
        ),
        run_config=tune.RunConfig(
            storage_path=options.out if "://" in options.out else str(Path(options.out).resolve()),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
            verbose=1,
        ),
    )
    results = tuner.fit()
    for result in results:
        found = result.config
        print(
            f"eta {found['eta']:.3f}, xi {found['xi']}, lr {found['lr']:.1e}: "
            f"{result.metrics['training_iteration']} iterations, "
            f"team return {result.metrics['evaluation']['team_return_mean']:.1f}"
        )
    best = results.get_best_result()
    print("best:", f"{best.config['eta']:.3f}", best.checkpoint.path)


if __name__ == "__main__":
    main()
