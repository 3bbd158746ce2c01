"""Chooses hyperparameters: for each method and quality of data the best of the search.

    rllib-om2p benchmark search --data DIR
    python -m tuned_configs.choose results/search

The best is the candidate with the largest mean return. Writes `suites/choices.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rllib_om2p.evaluation.records import load_comparison
from tuned_configs.suites.choices import FILE
from tuned_configs.suites.members import MEMBERS


def choose(folder: Path) -> dict[str, Any]:
    """Return the content of `choices.json` from the results of the search.

    Raises:
        ValueError: A candidate of a method that was searched has no result.
    """
    found = load_comparison(folder)
    chosen: dict[str, dict[str, Any]] = {}
    for member in MEMBERS:
        names = [f"{member.name}={n}" for n in range(1, len(member.candidates) + 1)]
        if not any(found.of(name) for name in names):
            continue
        for dataset in found.datasets:
            runs = [found.of(name, dataset) for name in names]
            if not all(runs):
                absent = [name for name, own in zip(names, runs, strict=True) if not own]
                raise ValueError(f"{folder} has no result of {absent} on {dataset}; finish it.")
            means = [own[0].mean for own in runs]
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


def main() -> None:
    """Write `choices.json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="of the suite search")
    content = choose(parser.parse_args().results)
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written: {FILE.name}, {len(content['chosen'])} methods")


if __name__ == "__main__":
    main()
