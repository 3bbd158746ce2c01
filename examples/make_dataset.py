"""Make a dataset with the project's own behaviour policies, and look at it.

    python examples/make_dataset.py --quality medium --steps 100000 --out data/simple_spread-medium

`rllib-om2p make-dataset` does the same. Both need the behaviour policies, which an installed
package brings and a repository has in datasets/behaviour; a job with deploy/runtime_env.yaml has
neither.
"""

from __future__ import annotations

import argparse

from rllib_om2p import OfflineDataset
from rllib_om2p.behaviour import QUALITIES, make_dataset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quality", choices=QUALITIES, default="medium")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--out", default="data/simple_spread-medium")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    make_dataset(
        "mpe/simple_spread",
        options.quality,
        steps=options.steps,
        out=options.out,
        seed=options.seed,
        progress=print,
    )

    dataset = OfflineDataset.open(options.out)
    print(dataset)
    print("agents:", ", ".join(dataset.spec.agent_ids))
    print(f"mean team return: {dataset.statistics().team_return.mean:.1f}")
    first = next(dataset.episodes())
    print("first episode, agent_0:", first.obs["agent_0"].shape, first.actions["agent_0"].shape)


if __name__ == "__main__":
    main()
