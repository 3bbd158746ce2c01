"""Does fitted Q evaluation choose among policies as playing does? Asked twice.

    python -m tuned_configs.offline_choice train eta --data data --work runs/choice \
        --sets mpe/simple_spread/medium-replay mpe/simple_spread/medium
    python -m tuned_configs.offline_choice rank eta --data data --work runs/choice

`train` makes policies of different quality on each set, without its held-out episodes, exports and
plays them; what is there already is not made again. `rank` compares what the held-out episodes let
expect (`core.fqe`) with what was played. No policy and no seed is left out. The questions:

- `eta`: behaviour cloning and OM2P with several eta, stopped at several updates.
- `penalty`: the critics of OM2P-weighted-VDN with and without `conservative_weight`, both as their
  search left them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.stats import spearmanr

from rllib_om2p import OfflineDataset, OM2PConfig
from rllib_om2p.core.acting import JointPolicy, load_modules
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.exporting import agent_policy
from rllib_om2p.core.fqe import Estimate, fqe_return
from rllib_om2p.core.held_out import HeldOut
from rllib_om2p.envs.worlds import evaluate_team
from rllib_om2p.evaluation.provenance import provenance
from rllib_om2p.export.folder import DESCRIPTION, TeamPolicy, read_team, write_team
from tuned_configs.chosen import chosen_config
from tuned_configs.suites.comparisons import NUM_UPDATES
from tuned_configs.suites.footing import SPREAD, TASKS, cpu_settings

ETAS = (0.0, 0.1, 0.3, 1.0, 3.0)
PENALTY = {"without": "OM2P-weighted-VDN", "with": "OM2P-conservative-VDN"}
HOLDOUT_FRACTION = 0.1
FIRST_SEED = 2_000_000
NUM_EPISODES = {task.env: task.episodes for task in TASKS}


class Candidate(NamedTuple):
    """One training run, with a policy at every stop.

    Attributes:
        name: Of the candidate, for folders and tables.
        config: Without data and seed.
        stops: Numbers of updates.
    """

    name: str
    config: OfflineConfig
    stops: tuple[int, ...]


def eta_candidates(env: str, quality: str) -> list[Candidate]:
    """Return OM2P with several weights of its value; the same for every set."""
    del env, quality
    stops = (300, 2000)
    shared = {**cpu_settings(128, stops[-1], lr=1e-3), **SPREAD.settings}
    return [
        Candidate(f"eta-{eta:g}", OM2PConfig().training(**shared).training(eta=eta), stops)
        for eta in ETAS
    ]


def penalty_candidates(env: str, quality: str) -> list[Candidate]:
    """Return OM2P with and without conservative critics, as chosen for a quality."""
    return [
        Candidate(
            name,
            chosen_config(method, env, quality).training(torch_compile=True),
            (NUM_UPDATES,),
        )
        for name, method in PENALTY.items()
    ]


QUESTIONS = {"eta": eta_candidates, "penalty": penalty_candidates}


def train(data: Path, candidate: Candidate, seed: int, work: Path) -> None:
    """Train one run and leave an exported team, with its played return, at every stop."""
    folders = {stop: work / f"{candidate.name}-{stop}-{seed}" for stop in candidate.stops}
    if all(folder.exists() for folder in folders.values()):
        return
    config = candidate.config.debugging(seed=seed)
    config.offline_data(input_=str(data), holdout_fraction=HOLDOUT_FRACTION)
    config.validate()
    learner, spec = config.build_learner(), config.dataset_spec
    modules = {agent: learner.module[agent].unwrapped() for agent in spec.agent_ids}
    seeds = range(FIRST_SEED, FIRST_SEED + NUM_EPISODES[spec.env])
    done = 0
    for stop, folder in folders.items():
        learner.update(num_updates=stop - done)
        done = stop
        played = float(evaluate_team(spec.env, JointPolicy(modules, seed=0), seeds).mean())
        if not folder.exists():
            team = TeamPolicy(
                algorithm=config.algo_class.__name__,
                agents=tuple(agent_policy(agent, module) for agent, module in modules.items()),
                dataset={"id": spec.dataset_id, "fingerprint": None, "spec": spec.to_dict()},
                environment={"name": spec.env, "kwargs": {}},
                training={
                    "candidate": candidate.name,
                    "updates": stop,
                    "seed": seed,
                    "played": played,
                },
            )
            write_team(team, folder)
        print(f"{work}: {candidate.name}, {stop} updates: played {played:.1f}", flush=True)


def rank(data: Path, work: Path) -> dict[str, Any]:
    """Return estimates, played returns and their correlation on one set."""
    dataset = OfflineDataset.open(str(data))
    _, part = dataset.split(HOLDOUT_FRACTION)
    held_out, rows = HeldOut.of(part), []
    print("\n| candidate | updates | seed | expected | lower | played |\n|---" + "|---:" * 5 + "|")
    for folder in sorted(file.parent for file in work.glob(f"*/{DESCRIPTION}")):
        start = time.process_time()
        estimate = fqe_return(load_modules(folder), held_out)
        row = {**read_team(folder).training, **estimate._asdict()}
        row["cpu_s"] = time.process_time() - start
        text = "| {candidate} | {updates} | {seed} | {mean:.1f} | {lower:.1f} | {played:.1f} |"
        print(text.format(**row), flush=True)
        rows.append(row)
    played = [row["played"] for row in rows]
    return {
        "data": dataset.statistics().team_return.mean,
        "held_out_episodes": len(held_out.starts),
        "policies": rows,
        "best": max(played),
        "median": statistics.median(played),
        "by": {estimate: _ranking(rows, estimate) for estimate in Estimate._fields},
    }


def _ranking(rows: Sequence[Mapping[str, Any]], estimate: str) -> dict[str, float]:
    chosen = {"chosen": max(rows, key=lambda row: row[estimate])["played"]}
    if len(rows) < 3:  # of two a correlation is 1 or -1
        return chosen
    found = spearmanr([row[estimate] for row in rows], [row["played"] for row in rows])
    return {"spearman": float(found.statistic), "p_value": float(found.pvalue), **chosen}


def main() -> None:
    """Train policies, or estimate and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["train", "rank"])
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--data", type=Path, required=True, help="folder with sets ENV/QUALITY")
    parser.add_argument("--work", type=Path, required=True, help="folder for the policies")
    parser.add_argument("--sets", nargs="+", help="to train on; rank takes what is there")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: results/offline_QUESTION.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "train":
        if not arguments.sets:
            parser.error("train needs --sets")
        for name in arguments.sets:
            env, _, quality = name.rpartition("/")
            for candidate in QUESTIONS[arguments.question](env, quality):
                train(arguments.data / name, candidate, arguments.seed, arguments.work / name)
        return
    record: dict[str, Any] = {"provenance": provenance(), "sets": {}}
    for work in sorted({file.parents[1] for file in arguments.work.rglob(DESCRIPTION)}):
        name = str(work.relative_to(arguments.work))
        result = rank(arguments.data / name, work)
        record["sets"][name] = result
        text = "\n{0}: data {data:.1f}, median policy {median:.1f}, best {best:.1f}"
        print(text.format(name, **result))
        for estimate, found in result["by"].items():
            parts = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
            print(f"by {estimate}: {parts}", flush=True)
    results = Path(__file__).parent / "results"
    out = arguments.out or results / f"offline_{arguments.question}.json"
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
