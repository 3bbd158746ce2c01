"""Let a population of trials change eta and the learning rate while it trains (PBT).

    python examples/tune_pbt.py data/simple_spread-medium --trials 4 --iterations 10

Every few iterations the worst trials take over weights, targets and optimisers of the best ones,
and go on with eta and a learning rate near theirs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from rllib_om2p import OM2P, OM2PConfig


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", default="runs/pbt")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--every", type=int, default=2, help="iterations between two exchanges")
    parser.add_argument("--updates", type=int, default=500, help="per iteration")
    parser.add_argument("--episodes", type=int, default=50, help="per evaluation")
    options = parser.parse_args()

    space = {"eta": tune.loguniform(0.03, 3.0), "lr": tune.loguniform(3e-4, 3e-3)}
    config = (
        OM2PConfig()
        .offline_data(input_=options.dataset)
        .training(**space, gamma=0.95, tau=0.01)
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
            scheduler=PopulationBasedTraining(
                time_attr="training_iteration",
                perturbation_interval=options.every,
                hyperparam_mutations=space,
                synch=True,  # a trial that is ahead of the others waits to be compared
            ),
        ),
        run_config=tune.RunConfig(
            storage_path=options.out if "://" in options.out else str(Path(options.out).resolve()),
            stop={"training_iteration": options.iterations},
            checkpoint_config=tune.CheckpointConfig(num_to_keep=3, checkpoint_at_end=True),
            verbose=1,
        ),
    )
    results = tuner.fit()
    for result in results:
        score = result.metrics["evaluation"]["team_return_mean"]
        found = result.config
        print(f"eta {found['eta']:.3f}, lr {found['lr']:.1e} at the end: team return {score:.1f}")
    best = results.get_best_result()
    print("best:", f"{best.config['eta']:.3f}", best.checkpoint.path)


if __name__ == "__main__":
    main()
