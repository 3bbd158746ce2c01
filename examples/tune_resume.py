"""A search that survives its own death: run the same command again and it goes on.

    python examples/tune_resume.py data/simple_spread-medium --out runs/search
    (Ctrl-C, a kill, a reboot)
    python examples/tune_resume.py data/simple_spread-medium --out runs/search

Trials that had ended stay; the others continue from their last checkpoints, with the very updates
that they would have made. A trial that dies with a learner or a node is tried again by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ray import tune

from rllib_om2p import OM2P, OM2PConfig


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", default="runs/search")
    parser.add_argument("--etas", type=float, nargs="+", default=[0.1, 0.3, 1.0])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--updates", type=int, default=500, help="per iteration")
    options = parser.parse_args()

    out = Path(options.out).resolve()
    if tune.Tuner.can_restore(str(out)):
        print("going on with", out)
        tuner = tune.Tuner.restore(str(out), OM2P, resume_errored=True)
    else:
        config = (
            OM2PConfig()
            .offline_data(input_=options.dataset)
            .training(eta=tune.grid_search(options.etas), lr=1e-2, gamma=0.95, tau=0.01)
            .training(actor_hidden=(128, 128), critic_hidden=(128, 128))
            .training(num_updates_per_iteration=options.updates)
            .debugging(seed=0)
        )
        tuner = tune.Tuner(
            OM2P,
            param_space=config,
            run_config=tune.RunConfig(
                name=out.name,
                storage_path=str(out.parent),
                stop={"training_iteration": options.iterations},
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=1, num_to_keep=2, checkpoint_at_end=True
                ),
                failure_config=tune.FailureConfig(max_failures=2),
                verbose=1,
            ),
        )
    for result in tuner.fit():
        shared = result.metrics["learners"]["__all_modules__"]
        iteration, updates = result.metrics["training_iteration"], shared["num_updates_lifetime"]
        print(f"eta {result.config['eta']}: {iteration} iterations, {updates:.0f} updates")


if __name__ == "__main__":
    main()
