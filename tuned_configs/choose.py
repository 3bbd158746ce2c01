"""Chooses hyperparameters: for each method and quality of data the best of the search.

    rllib-om2p benchmark search --data DIR
    python -m tuned_configs.choose results/search

The best is the candidate with the largest mean return. Writes `suites/choices.json`; what was not
searched keeps there what was chosen for it before.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rllib_om2p.disk import write_text_whole
from rllib_om2p.evaluation.records import Run, load_comparison
from tuned_configs.suites.choices import FILE
from tuned_configs.suites.members import MEMBERS, Member


def choose(folder: Path) -> dict[str, Any]:
    """Return the content of `choices.json` from the results of the search.

    Raises:
        ValueError: A candidate of a method that was searched has no result, or one that was made
            with other settings than the candidate's of today.
    """
    found = load_comparison(folder)
    chosen: dict[str, dict[str, Any]] = {}
    for member in MEMBERS:
        names = [f"{member.name}={n}" for n in range(1, len(member.candidates) + 1)]
        if not any(found.of(name) for name in names):
            continue
        for dataset in found.datasets:
            runs = [found.of(name, dataset) for name in names]
            num_seeds = len({run.seed for own in runs for run in own})
            absent = [name for name, own in zip(names, runs, strict=True) if len(own) < num_seeds]
            if absent or not num_seeds:
                raise ValueError(
                    f"{folder} has no result of {absent or names} on {dataset}"
                    f"{' with every seed' if num_seeds > 1 else ''}; finish it."
                )
            for own, candidate in zip(runs, member.candidates, strict=True):
                _require_settings(own, member, candidate)
            means = [float(np.mean([run.mean for run in own])) for own in runs]
            best = max(range(len(means)), key=means.__getitem__)
            chosen.setdefault(member.name, {})[runs[0][0].quality] = {
                "settings": json.loads(json.dumps(member.candidates[best])),
                "means": [round(mean, 2) for mean in means],
            }
    facts = [run.record["provenance"] for run in found.runs]
    return {
        "chosen": chosen,
        "made_by": {
            "command": "rllib-om2p benchmark search --data DIR",
            "commits": sorted({str(fact["commit"]) for fact in facts}),
            "machine": facts[0]["machine"],
            "seeds": sorted({run.seed for run in found.runs}),
        },
    }


def update(before: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return `new` with what `before` holds of methods and qualities that were not searched.

    Then commits and seeds are those of both; the machine is the newer one's.
    """
    old = before["chosen"]
    merged = {
        member.name: {**old.get(member.name, {}), **new["chosen"].get(member.name, {})}
        for member in MEMBERS
    }
    chosen = {name: by_quality for name, by_quality in merged.items() if by_quality}
    made_by = dict(new["made_by"])
    if any(set(chosen[name]) != set(new["chosen"].get(name, {})) for name in chosen):
        for part in ("commits", "seeds"):
            made_by[part] = sorted({*before["made_by"][part], *made_by[part]})
    return {"chosen": chosen, "made_by": made_by}


def _require_settings(runs: Sequence[Run], member: Member, candidate: Mapping[str, Any]) -> None:
    """Refuse results of another candidate that had this one's number.

    What a candidate leaves out, but others of its method set, must not be set in its results.
    """
    searched = {name for other in member.candidates for name in other}
    wanted = json.loads(json.dumps({**dict.fromkeys(searched), **member.settings, **candidate}))
    for run in runs:
        differing = {
            name: (run.record["overrides"].get(name), value)
            for name, value in wanted.items()
            if run.record["overrides"].get(name) != value
        }
        if differing:
            texts = [f"{name} {was} (now {now})" for name, (was, now) in differing.items()]
            raise ValueError(
                f"{run.method} on {run.dataset} was searched with {', '.join(texts)}; search it "
                "anew, or go back to its search space."
            )


def main() -> None:
    """Write `choices.json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="of the suite search")
    content = choose(parser.parse_args().results)
    number = len(content["chosen"])
    if FILE.exists():
        content = update(json.loads(FILE.read_text(encoding="utf-8")), content)
    write_text_whole(FILE, json.dumps(content, indent=1) + "\n")
    print(f"written: {FILE.name}, {number} methods")


if __name__ == "__main__":
    main()
