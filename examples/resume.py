"""Stop a run, continue it from its checkpoint, and check that nothing was lost.

    python examples/resume.py data/simple_spread-medium --out runs/resumed

The continued run makes the very updates that the uninterrupted one makes: weights, targets,
optimisers, random numbers and counters are all in the checkpoint. Another dataset is refused.
"""

from __future__ import annotations

import argparse

import torch

from rllib_om2p import OM2P, Algorithm, OM2PConfig


def weights(algo: Algorithm) -> torch.Tensor:
    parameters = [p for a in ("agent_0", "agent_1") for p in algo.get_module(a).parameters()]
    return torch.cat([p.detach().reshape(-1) for p in parameters])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", default="runs/resumed")
    parser.add_argument("--updates", type=int, default=200, help="per iteration")
    options = parser.parse_args()

    config = OM2PConfig().offline_data(input_=options.dataset).debugging(seed=0)
    config.training(actor_hidden=(64, 64), critic_hidden=(64, 64), lr=1e-3)
    config.training(num_updates_per_iteration=options.updates)

    algo = Algorithm.from_config(config)
    algo.train()
    checkpoint = algo.save_to_path(options.out)
    algo.train()
    uninterrupted = weights(algo)
    algo.stop()

    resumed = OM2P.from_checkpoint(checkpoint)  # in another process, another day
    print(f"resumed at update {resumed.num_updates}")
    resumed.train()
    print(f"now at update {resumed.num_updates}")
    print("the same weights:", torch.equal(weights(resumed), uninterrupted))
    resumed.stop()


if __name__ == "__main__":
    main()
