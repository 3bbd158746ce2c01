"""Does fitted Q evaluation rank policies as playing does? Prints Spearman's rank correlation.

    python -m tuned_configs.offline_choice train --data data/mpe/simple_spread --work runs/choice \
        --qualities medium-replay medium medium-expert
    python -m tuned_configs.offline_choice rank --data data/mpe/simple_spread --work runs/choice

`train` makes policies of different quality on each set of Cooperative Navigation, without its
held-out episodes: behaviour cloning and OM2P with several eta, stopped at several updates. It
exports and plays each. `rank` compares what the held-out episodes let expect (`core.fqe`) with what
was played. No policy and no seed is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from rllib_om2p import OfflineDataset, OM2PConfig
from rllib_om2p.core.acting import JointPolicy, load_modules
from rllib_om2p.core.exporting import agent_policy
from rllib_om2p.core.fqe import Estimate, fqe_return
from rllib_om2p.core.held_out import HeldOut
from rllib_om2p.envs.worlds import evaluate_team
from rllib_om2p.evaluation.provenance import provenance
from rllib_om2p.export.folder import TeamPolicy, read_team, write_team
from tuned_configs.suites.footing import SPREAD, cpu_settings

ENV = SPREAD.env
ETAS = (0.0, 0.1, 0.3, 1.0, 3.0)
STOPS = (300, 2000)
HOLDOUT_FRACTION = 0.1
FIRST_SEED, NUM_EPISODES = 2_000_000, 500


def train(data: Path, eta: float, seed: int, work: Path) -> None:
    """Train one run and leave an exported team, with its played return, at every stop."""
    config = OM2PConfig().training(**cpu_settings(128, STOPS[-1], lr=1e-3), **SPREAD.settings)
    config.training(eta=eta).debugging(seed=seed)
    config.offline_data(input_=str(data), holdout_fraction=HOLDOUT_FRACTION)
    config.validate()
    learner, spec = config.build_learner(), config.dataset_spec
    modules = {agent: learner.module[agent].unwrapped() for agent in spec.agent_ids}
    done = 0
    for stop in STOPS:
        learner.update(num_updates=stop - done)
        done = stop
        seeds = range(FIRST_SEED, FIRST_SEED + NUM_EPISODES)
        played = float(evaluate_team(ENV, JointPolicy(modules, seed=0), seeds).mean())
        team = TeamPolicy(
            algorithm="OM2P",
            agents=tuple(agent_policy(agent, module) for agent, module in modules.items()),
            dataset={"id": spec.dataset_id, "fingerprint": None, "spec": spec.to_dict()},
            environment={"name": ENV, "kwargs": {}},
            training={"eta": eta, "updates": stop, "seed": seed, "played": played},
        )
        write_team(team, work / f"eta-{eta:g}-{stop}")
        print(f"{work.name}: eta {eta:g}, {stop} updates: played {played:.1f}", flush=True)


def rank(data: Path, work: Path) -> dict[str, Any]:
    """Return estimates, played returns and their correlation on one set."""
    dataset = OfflineDataset.open(str(data))
    _, part = dataset.split(HOLDOUT_FRACTION)
    held_out, rows = HeldOut.of(part), []
    print(f"\n{work.name}\n\n| eta | updates | expected | lower | played |\n|" + "---:|" * 5)
    for folder in sorted(work.iterdir()):
        start = time.process_time()
        estimate = fqe_return(load_modules(folder), held_out)
        row = {**read_team(folder).training, **estimate._asdict()}
        row["cpu_s"] = time.process_time() - start
        print("| {eta:g} | {updates} | {mean:.1f} | {lower:.1f} | {played:.1f} |".format(**row))
        rows.append(row)
    played = [row["played"] for row in rows]
    return {
        "data": dataset.statistics().team_return.mean,
        "policies": rows,
        "best": max(played),
        "median": statistics.median(played),
        "by": {estimate: _ranking(rows, estimate) for estimate in Estimate._fields},
    }


def _ranking(rows: Sequence[Mapping[str, Any]], estimate: str) -> dict[str, float]:
    found = spearmanr([row[estimate] for row in rows], [row["played"] for row in rows])
    return {
        "spearman": float(found.statistic),
        "p_value": float(found.pvalue),
        "chosen": max(rows, key=lambda row: row[estimate])["played"],
    }


def main() -> None:
    """Train policies, or estimate and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["train", "rank"])
    parser.add_argument("--data", type=Path, required=True, help="folder with a set per quality")
    parser.add_argument("--work", type=Path, required=True, help="folder for the policies")
    parser.add_argument("--qualities", nargs="+", help="to train on; rank takes what is there")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results/offline_choice.json"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "train":
        for quality in arguments.qualities:
            for eta in ETAS:
                train(arguments.data / quality, eta, arguments.seed, arguments.work / quality)
        return
    record: dict[str, Any] = {"provenance": provenance(), "sets": {}}
    for work in sorted(arguments.work.iterdir()):
        result = rank(arguments.data / work.name, work)
        record["sets"][work.name] = result
        print("\ndata {data:.1f}, median policy {median:.1f}, best {best:.1f}".format(**result))
        for estimate, found in result["by"].items():
            text = "by {0}: Spearman {spearman:.2f} (p {p_value:.1g}), chosen {chosen:.1f}"
            print(text.format(estimate, **found), flush=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
