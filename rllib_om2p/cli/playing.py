"""Commands that play checkpoints, and write them for others to play."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rllib_om2p.cli.common import (
    AddCommand,
    add_prey,
    at_least,
    checkpoint_path,
    hint,
    shortest,
)
from rllib_om2p.disk import write_text_whole

if TYPE_CHECKING:
    from rllib_om2p.core.playing import Played

GIF_EPISODES = 3
FRAMES_PER_SECOND = 8


def add_commands(command: AddCommand) -> None:
    """Add evaluate and export."""
    evaluate = command("evaluate", _evaluate, "Play a checkpoint and score it.")
    evaluate.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="of train, a run's directory, or of export"
    )
    evaluate.add_argument("--env", help="by default the one that the dataset names")
    add_prey(evaluate)
    evaluate.add_argument("--episodes", type=int, default=500, metavar="N", help="how many (500)")
    evaluate.add_argument(
        "--seed",
        type=at_least(0),
        default=0,
        help="start states are those of SEED, SEED + 1, ... (0)",
    )
    evaluate.add_argument(
        "--gif", metavar="FILE", help=f"draw {GIF_EPISODES} episodes, of the first start states"
    )
    evaluate.add_argument("--json", metavar="FILE", help="write every episode's return")

    export = command("export", _export, "Write a checkpoint's policies as safetensors and JSON.")
    export.add_argument("checkpoint", metavar="CHECKPOINT", help="of train, or a run's directory")
    export.add_argument(
        "--out", required=True, metavar="DIR", help="a folder that is not there yet"
    )


def _evaluate(options: argparse.Namespace) -> None:
    from rllib_om2p.core.console import quiet_ray
    from rllib_om2p.core.environments import require_environment
    from rllib_om2p.core.playing import play_checkpoint

    quiet_ray()
    if options.env:
        require_environment(options.env)
    checkpoint = checkpoint_path(options.checkpoint)
    start = time.monotonic()

    def progress(num_done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{num_done}/{options.episodes} episodes", end="", file=sys.stderr, flush=True)

    played = play_checkpoint(
        checkpoint,
        env=options.env,
        num_episodes=options.episodes,
        seed=options.seed,
        prey=options.prey,
        progress=progress,
    )
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(describe(played))
    print(f"({options.episodes} episodes in {time.monotonic() - start:.0f} s)")
    if options.json:
        from rllib_om2p.evaluation.provenance import provenance

        record = {**played.to_dict(), "provenance": provenance()}
        _write(options.json, json.dumps(record, indent=1) + "\n")
        print(f"written: {options.json}")
    if options.gif:
        _save_gif(played, options)
        print(f"written: {options.gif}")


def describe(played: Played) -> str:
    """Return what a team made as lines of text."""
    from rllib_om2p.evaluation.scores import number

    interval = played.interval()
    lines = [f"{played.env}: {len(played.team_returns)} episodes from seed {played.seed}"]
    between = "" if interval is None else f"  (95 % interval {number(interval.low)} to "
    between += "" if interval is None else f"{number(interval.high)}, over episodes)"
    lines.append(f"  team return  {number(played.mean)}{between}")
    if played.normalised is not None and played.references is not None:
        scale = f"random {played.references.random:g} is 0, expert {played.references.expert:g} 100"
        lines.append(f"  normalised   {played.normalised:.1f}  ({scale})")
    for returns in (played.returns_by_team, played.agent_returns):
        lines += [f"  {name:<12} {number(own.mean())}" for name, own in returns.items()]
    return "\n".join(lines)


def _save_gif(played: Played, options: argparse.Namespace) -> None:
    from rllib_om2p import envs
    from rllib_om2p.core.playing import render_episodes
    from rllib_om2p.evaluation.figures import save_gif

    if played.env not in envs.names():
        raise ValueError(f"--gif draws environments of {list(envs.names())}, not {played.env!r}.")
    seeds = range(played.seed, played.seed + GIF_EPISODES)
    film = render_episodes(played.modules, played.env, seeds, spec=played.spec, **played.settings)
    captions = [
        f"episode {episode} of {GIF_EPISODES}: return {team_return:.0f}"
        for episode, team_return in zip(film.episodes, film.returns, strict=True)
    ]
    path = Path(options.gif).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_gif(path, film.frames, captions=captions, steps=film.steps, fps=FRAMES_PER_SECOND)


def _export(options: argparse.Namespace) -> None:
    from rllib_om2p.core.console import quiet_ray
    from rllib_om2p.core.exporting import export_checkpoint

    quiet_ray()
    folder = export_checkpoint(checkpoint_path(options.checkpoint), options.out)
    for file in sorted(folder.iterdir()):
        print(f"written: {shortest(file)} ({file.stat().st_size / 1024:.0f} KiB)")
    print(f"next: {hint('evaluate', shortest(folder))}")


def _write(file: str, text: str) -> None:
    path = Path(file).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, text)
