"""Makes the data sets, measures and audits them, and keeps their cards, manifest and samples.

    python -m tuned_configs.datasets build mpe/simple_spread random medium --data data
    python -m tuned_configs.datasets build mpe/simple_spread medium --set continuous_actions=False
    python -m tuned_configs.datasets table

`build` writes the set into DATA/ENV/QUALITY and, into datasets/: a card (README.md, card.json,
returns.png), a row of manifest.json and, from the medium set, a small sample for the tests.
`table` puts all rows of the manifest into datasets/README.md. Several builds may run side by side.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rllib_om2p.behaviour import make_dataset
from rllib_om2p.behaviour.requests import dataset_name
from rllib_om2p.behaviour.rollout import QUALITIES
from rllib_om2p.core.settings import parse_settings
from rllib_om2p.data.audit import Audit, audit
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import CARD_NAME, DatasetSpec, Episode
from rllib_om2p.data.writer import DatasetWriter
from rllib_om2p.disk import file_sha256, write_text_whole
from rllib_om2p.envs.prey import PREY_AS_AGENT
from rllib_om2p.evaluation.figures import save_return_histogram
from rllib_om2p.evaluation.provenance import describe_machine, provenance
from tuned_configs import markers
from tuned_configs.dataset_table import table, target

HOME = Path(__file__).parents[1] / "datasets"
BEGIN = markers.begin("tuned_configs.datasets table")

OUTPUTS = ("cards", "samples", "manifest.json", "README.md")
SAMPLE_QUALITY = "medium"
SAMPLE_EPISODES = 4
SAMPLE_BYTES = 90_000


def slug(name: str) -> str:
    """Return the name of a set's folder in datasets/."""
    return name.replace("/", "-")


def build(
    env: str,
    quality: str,
    data: Path,
    *,
    home: Path = HOME,
    progress: Callable[[str], None] = print,
    **settings: Any,
) -> dict[str, Any]:
    """Make a set, audit it, and write its card, its row of the manifest and its sample.

    Args:
        env: Of the data set.
        quality: Of the data set.
        data: Folder of all sets.
        home: Folder of cards, manifest and samples.
        progress: Receives a line now and then.
        settings: Passed to `make_dataset`.

    Returns:
        The row of the manifest.

    Raises:
        ValueError: Another prey's set would take the place of ours.
    """
    if settings.get("prey") not in (None, PREY_AS_AGENT):
        raise ValueError("the sets here are against the project's own prey; use make-dataset.")
    name = dataset_name(env, quality, **settings)
    out = data / name
    start, cpu = time.perf_counter(), _cpu_seconds()
    make_dataset(env, quality, out=out, progress=progress, **settings)
    seconds = {
        "wall": round(time.perf_counter() - start, 3),
        "cpu": round(_cpu_seconds() - cpu, 1),
    }
    dataset = OfflineDataset.open(str(out))
    found = audit(dataset)
    row = _row(found, out, seconds, outputs=[home / part for part in OUTPUTS])
    _write_card(home / "cards" / slug(name), out, found, row)
    with manifest(home) as content:
        content["sets"][name] = row
        if quality == SAMPLE_QUALITY:
            content["samples"][name] = _write_sample(home / "samples" / slug(name), dataset)
    progress(f"{name}: mean return {row['mean']:.4g} in {seconds['wall']:.0f} s")
    return row


@contextmanager
def manifest(home: Path = HOME) -> Iterator[dict[str, Any]]:
    """Open the manifest for change; nobody else changes it meanwhile."""
    home.mkdir(parents=True, exist_ok=True)
    file = home / "manifest.json"
    lock = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = json.loads(file.read_text()) if file.exists() else {"sets": {}, "samples": {}}
        yield content
        write_text_whole(file, json.dumps(content, indent=1, sort_keys=True) + "\n")
    finally:
        os.close(lock)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _row(
    found: Audit, out: Path, seconds: Mapping[str, float], outputs: Sequence[Path]
) -> dict[str, Any]:
    spec, statistics = found.spec, found.statistics
    card = json.loads((out / CARD_NAME).read_text())
    files = [{key: entry[key] for key in ("name", "bytes", "sha256")} for entry in card["files"]]
    who = {name: spec.behaviour[name] for name in spec.behaviour.get("policies", [])}
    return {
        "env": spec.env,
        "quality": spec.quality,
        "kind": spec.dataset_id.removeprefix(f"{spec.env}/{spec.quality}").removeprefix("-"),
        "fingerprint": found.fingerprint,
        "files": files,
        "bytes": sum(entry["bytes"] for entry in files),
        "episodes": statistics.num_episodes,
        "transitions": statistics.num_transitions,
        "mean": statistics.team_return.mean,
        "sd": statistics.team_return.std,
        "target": target(spec),
        "policies": {name: facts.get("weights_sha256") for name, facts in who.items()},
        "mixture": spec.mixture,
        "seconds": dict(seconds),
        "provenance": provenance(outputs=outputs),
    }


def _write_card(folder: Path, out: Path, found: Audit, row: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(out / CARD_NAME, folder / "card.json")
    lines = {"mean": row["mean"]}
    if row["target"] is not None:
        lines["target"] = row["target"]["mean"]
    save_return_histogram(
        folder / "returns.png",
        found.returns.edges,
        found.returns.counts,
        lines=lines,
        title=found.spec.dataset_id,
    )
    report = found.to_markdown()
    title, body = report.split("\n", 1)
    (folder / "README.md").write_text(f"{title}\n\n{_how_made(found.spec, row)}\n{body}")


def _how_made(spec: DatasetSpec, row: Mapping[str, Any]) -> str:
    facts, aim = row["provenance"], row["target"]
    reached = f"mean return {row['mean']:.4g}"
    if aim is not None:
        reached += f", target {aim['mean']:.1f} ({aim['source']})"
    lines = [
        "![returns](returns.png)",
        "",
        f"- {reached}",
        f"- `{facts['command']}`",
        f"- commit {str(facts['commit'])[:7]}{' (dirty)' if facts['dirty'] else ''}, "
        f"{str(facts['date'])[:10]}, {describe_machine(facts['machine'])}: "
        f"{row['seconds']['wall']:.0f} s, {row['bytes'] / 1e6:.1f} MB",
        f"- seeds: {spec.seeds}",
    ]
    if spec.references:
        scale = f"random {spec.references['random']}, expert {spec.references['expert']}"
        lines.append(f"- references: {scale} ({spec.references['source']})")
    lines += [f"- policy {n}: {h or 'no network'}" for n, h in row["policies"].items()]
    return "\n".join(lines) + "\n"


def _write_sample(folder: Path, dataset: OfflineDataset) -> dict[str, Any]:
    """Write the first episodes, each cut so that the sample stays small; return what it is."""
    spec = dataset.spec
    row_bytes = 4 * sum(agent.obs_dim + agent.action_dim + 1 for agent in spec.agents)
    row_bytes += 4 * (spec.state_dim or 0)
    num_steps = max(1, SAMPLE_BYTES // (SAMPLE_EPISODES * row_bytes))
    sampled = replace(
        spec, dataset_id=f"{spec.dataset_id}/sample", parents=[*spec.parents, spec.dataset_id]
    )
    with DatasetWriter(folder, sampled, overwrite=True) as writer:
        for number, episode in enumerate(dataset.episodes()):
            if number == SAMPLE_EPISODES:
                break
            writer.write_episode(_cut(episode, num_steps))
    files = [{"name": file.name, "sha256": file_sha256(file)} for file in sorted(folder.iterdir())]
    return {"of": dataset.fingerprint, "max_steps": num_steps, "files": files}


def _cut(episode: Episode, num_steps: int) -> Episode:
    """Return an episode's first steps; one that goes on counts as truncated there."""
    if len(episode) <= num_steps:
        return episode

    def acting(arrays: Mapping[str, Any]) -> dict[str, Any]:
        return {name: array[:num_steps] for name, array in arrays.items()}

    def seen(arrays: Mapping[str, Any]) -> dict[str, Any]:
        return {name: array[: num_steps + 1] for name, array in arrays.items()}

    return replace(
        episode,
        obs=seen(episode.obs),
        actions=acting(episode.actions),
        rewards=acting(episode.rewards),
        terminateds=acting(episode.terminateds),
        truncated=True,
        state=None if episode.state is None else episode.state[: num_steps + 1],
        action_masks=episode.action_masks and seen(episode.action_masks),
        alive=episode.alive and seen(episode.alive),
    )


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("build", help="make sets of an environment")
    making.add_argument("env")
    making.add_argument("qualities", nargs="+", choices=QUALITIES)
    making.add_argument("--data", type=Path, default=Path("data"))
    making.add_argument("--overwrite", action="store_true", help="replace sets that are there")
    making.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of make_dataset"
    )
    commands.add_parser("table", help="write the table of all sets into datasets/README.md")
    options = parser.parse_args()
    if options.command == "build":
        settings = parse_settings(options.set)
        for quality in options.qualities:
            build(options.env, quality, options.data, overwrite=options.overwrite, **settings)
        return
    text = table(json.loads((HOME / "manifest.json").read_text()))
    print(text)
    markers.replace_between(HOME / "README.md", BEGIN, text)


if __name__ == "__main__":
    main()
