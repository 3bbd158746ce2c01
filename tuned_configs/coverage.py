"""How much a team's critic gains on medium data, by the noise and the seed of the data's policy.

    python -m tuned_configs.coverage --work DIR

One-step policies with the VDN critic, as in `om2p/mpe.py`, on medium sets of Cooperative Navigation
that differ in one thing from the one of the comparison: the standard deviation of the noise with
which the same policy collected them, or the seed of the run that trained the policy. DIR keeps the
policies and the sets.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rllib_om2p import OM2PConfig
from rllib_om2p.behaviour import make_dataset, policies
from rllib_om2p.behaviour.recipes import recipe
from rllib_om2p.behaviour.training import make_behaviour
from rllib_om2p.core.acting import JointPolicy
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.envs.worlds import evaluate_team
from rllib_om2p.evaluation.provenance import provenance
from tuned_configs.om2p import mpe

ENV, QUALITY = "mpe/simple_spread", "medium"
SETTING = mpe.SETTINGS[ENV][QUALITY]
NOISES = (0.2, 0.3, 0.5)
POLICY_SEEDS = (1, 2, 3)
FIRST_SEED, NUM_EPISODES = 3_000_000, 500


def collections(work: Path) -> Iterator[tuple[str, Path]]:
    """Yield a name and a folder with the medium policy of each set."""
    name = f"{ENV}/{QUALITY}"
    policy = policies.load_policy(policies.path(name))
    for noise in NOISES:
        folder = work / f"noise-{noise:g}"
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {**policy.metadata, "collection_noise": noise}
        policies.save_policy(folder / policies.file_name(name), policy.actor, metadata)
        yield f"noise {noise:g}", folder
    target = {QUALITY: recipe(ENV).targets[QUALITY]}
    settings = dataclasses.replace(recipe(ENV), targets=target)
    for seed in POLICY_SEEDS:
        folder = work / f"policy-{seed}"
        if not (folder / policies.file_name(name)).exists():
            make_behaviour(ENV, folder, seed=seed, settings=settings)
        yield f"another policy (seed {seed})", folder


def score(config: OM2PConfig, data: Path, seed: int) -> float:
    """Return the mean return after training on a set."""
    config.offline_data(input_=str(data)).debugging(seed=seed)
    config.validate()
    learner = config.build_learner()
    learner.update(num_updates=SETTING.num_updates)
    modules = {agent: learner.module[agent] for agent in config.dataset_spec.agent_ids}
    seeds = range(FIRST_SEED, FIRST_SEED + NUM_EPISODES)
    return float(evaluate_team(ENV, JointPolicy(modules, seed=0), seeds).mean())


def main() -> None:
    """Make the sets, train, and print one row per set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for policies and sets")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/coverage.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {"seed": arguments.seed, "provenance": provenance(), "sets": {}}
    print("| medium set | data | BC | OM2P, VDN critic | ÷ data | ÷ BC |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, folder in collections(arguments.work):
        data = folder / "data"
        make_dataset(ENV, QUALITY, out=data, policy_folder=folder, overwrite=True)
        mean = OfflineDataset.open(str(data)).statistics().team_return.mean
        bc = score(mpe.bc(SETTING), data, arguments.seed)
        vdn = score(mpe.om2p_vdn(SETTING), data, arguments.seed)
        record["sets"][name] = {"data": mean, "bc": bc, "om2p-vdn": vdn}
        ratios = f"{vdn / mean:.2f} | {vdn / bc:.2f}"
        print(f"| {name} | {mean:.1f} | {bc:.1f} | {vdn:.1f} | {ratios} |", flush=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
