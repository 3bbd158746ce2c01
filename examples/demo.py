"""The whole way in one command: make data, train BC and OM2P on it, play, compare; `make demo`.

    python examples/demo.py [--updates 4000] [--quality medium-expert] [--out demo]

It runs in the repository, whose tuned_configs/ hold its settings.

Everything goes to --out: report.md, results.json, learning_curve.png, rollout.gif, the dataset, and
for each method a run as `rllib-om2p train` writes them. The dataset is kept for the next time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rllib_om2p.core.console import quiet, quiet_ray

sys.path.append(str(Path(__file__).resolve().parent.parent))  # for tuned_configs
ENV = "mpe/simple_spread"
# In the order in which they start: the longest first, so that no core waits at the end.
METHODS = {
    "OM2P-weighted-VDN": "OM2P with our options (team critic, value from the path, weights)",
    "OM2P": "OM2P, as in the paper",
    "BC-mean-flow": "BC (the same policy without critic)",
}
NAME_WIDTH = max(map(len, METHODS))
UPDATES_PER_LINE = 250  # a line every few seconds, and a point of the learning curve
# Start states of the scores and of the learning curve; the data's are random 62-bit seeds.
SCORE_SEED = 1_000_000
CURVE_SEED = 2_000_000
CURVE_EPISODES = 100
FILM_EPISODES = 3

STARTED = time.monotonic()


class Job(NamedTuple):
    """What one process trains."""

    method: str
    dataset: str
    quality: str
    run: str
    updates: int
    episodes: int
    seed: int


def say(text: str) -> None:
    minutes, seconds = divmod(int(time.monotonic() - STARTED), 60)
    print(f"[{minutes}:{seconds:02d}] {text}", flush=True)


def main() -> int:
    options = parse()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    data_folder = out / "data" / f"simple_spread-{options.quality}"
    dataset = prepare_data(data_folder, options.quality, options.steps, options.seed)
    data_mean = dataset.statistics().team_return.mean
    say(f"data: team return {data_mean:.1f} per episode")
    workers = max(1, min(len(options.methods), options.workers))
    say(f"training {len(options.methods)} methods, {workers} at a time, one core each")
    jobs = [
        Job(
            method,
            str(data_folder.resolve()),
            options.quality,
            str((out / "runs" / method).resolve()),
            options.updates,
            options.episodes,
            options.seed,
        )
        for method in METHODS
        if method in options.methods
    ]
    played = run_all(jobs, workers)
    quiet_ray()
    say("drawing the learning curve and the rollout")
    write_results(out, dataset, played, jobs)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="demo")
    parser.add_argument("--quality", default="medium-expert")
    parser.add_argument("--steps", type=int, default=100_000, help="joint steps of the dataset")
    parser.add_argument("--updates", type=int, default=4_000, help="gradient updates per method")
    parser.add_argument("--episodes", type=int, default=200, help="episodes of the final scores")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def prepare_data(folder: Path, quality: str, steps: int, seed: int) -> Any:
    """Return the dataset in a folder, made anew unless a whole one of that size is there."""
    from rllib_om2p.behaviour import make_dataset
    from rllib_om2p.data.reader import OfflineDataset
    from rllib_om2p.data.schema import DataError

    if folder.exists():
        try:
            dataset = OfflineDataset.open(str(folder))
            if dataset.num_transitions == steps and dataset.spec.quality == quality:
                say(f"data: {folder} is there already")
                return dataset
        except DataError as error:
            say(f"data: {error}")
    say(f"data: making {steps} joint steps of {ENV} {quality} in {folder}")
    make_dataset(
        ENV, quality, steps=steps, out=folder, seed=seed, overwrite=True, progress=lambda _: None
    )
    return OfflineDataset.open(str(folder))


def run_all(jobs: list[Job], workers: int) -> dict[str, dict[str, Any]]:
    """Train and score every job, `workers` at a time, and return what each method made."""
    for job in jobs:
        shutil.rmtree(job.run, ignore_errors=True)
    # More threads than cores make each other wait.
    os.environ["OMP_NUM_THREADS"] = "1"
    played = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(train_and_play, job, STARTED): job.method for job in jobs}
        for future in as_completed(futures):
            played[futures[future]] = future.result()
    return {job.method: played[job.method] for job in jobs}


def train_and_play(job: Job, started: float) -> dict[str, Any]:
    """Train one method in this process, then score its checkpoint with RLlib's env runner."""
    global STARTED
    STARTED = started
    import torch

    from rllib_om2p.core.acting import JointPolicy
    from rllib_om2p.core.console import start_ray
    from rllib_om2p.core.playing import play_checkpoint
    from rllib_om2p.core.run import Iteration, Run
    from rllib_om2p.envs.worlds import evaluate_team
    from tuned_configs.chosen import chosen_config

    quiet()
    say(f"{job.method:<{NAME_WIDTH}} starting Ray and reading the data")
    torch.set_num_threads(1)
    start_ray(num_cpus=1)
    config = chosen_config(job.method, ENV, job.quality, num_updates=job.updates)
    config.offline_data(input_=job.dataset).debugging(seed=job.seed, log_level="ERROR")
    num_lines = max(1, job.updates // UPDATES_PER_LINE)
    config.training(num_updates_per_iteration=job.updates // num_lines)
    algo = config.build_algo()
    modules = {agent: algo.get_module(agent) for agent in config.dataset_spec.agent_ids}

    def score() -> float:
        # The vectorised simulator plays all episodes of a point of the curve at once.
        policy = JointPolicy(modules, seed=CURVE_SEED)
        seeds = range(CURVE_SEED, CURVE_SEED + CURVE_EPISODES)
        return float(evaluate_team(ENV, policy, seeds).mean())

    def report(iteration: Iteration) -> None:
        say(
            f"{job.method:<{NAME_WIDTH}} update {iteration.num_updates:>5}/{job.updates}  "
            f"{iteration.updates_per_second:4.0f}/s  return {iteration.team_return:6.1f}"
        )

    with Run(job.run) as run:
        run.train(algo, job.updates, report=report, score=score)
    algo.stop()
    say(f"{job.method:<{NAME_WIDTH}} playing {job.episodes} episodes with RLlib's env runner")
    played = play_checkpoint(run.checkpoint, num_episodes=job.episodes, seed=SCORE_SEED)
    say(f"{job.method:<{NAME_WIDTH}} team return {played.mean:.1f}")
    return played.to_dict()


def write_results(
    out: Path, dataset: Any, played: dict[str, dict[str, Any]], jobs: list[Job]
) -> None:
    from rllib_om2p.evaluation.figures import Curve, save_learning_curve
    from rllib_om2p.evaluation.provenance import provenance
    from rllib_om2p.evaluation.report import Result, results_table, write_report
    from rllib_om2p.evaluation.scores import References
    from rllib_om2p.evaluation.statistics import Interval

    references = References.from_mapping(dataset.spec.references)
    data_mean = dataset.statistics().team_return.mean
    results = [Result("data", [data_mean], note="mean of the recorded episodes")]
    for method, record in reversed(played.items()):
        mean, interval = record["team_return_mean"], record["interval"]
        results.append(
            Result(
                METHODS[method],
                [mean],
                interval=None if interval is None else Interval(mean, *interval),
            )
        )
    curves = []
    for job in reversed(jobs):
        lines = (Path(job.run) / "progress.jsonl").read_text().splitlines()
        points = [json.loads(line) for line in lines]
        steps = [point["num_updates"] for point in points]
        curves.append(Curve(METHODS[job.method], steps, [p["team_return"] for p in points]))
    save_learning_curve(
        out / "learning_curve.png",
        curves,
        lines={"data": data_mean},
        references=references,
        title=f"{ENV}, {dataset.spec.quality} data; {CURVE_EPISODES} episodes per point",
    )
    pictures: dict[str, str | os.PathLike[str]] = {
        "Mean team return while training; the same start states at every point.": out
        / "learning_curve.png"
    }
    pictures[save_film(out / "rollout.gif", jobs)] = out / "rollout.gif"
    job = jobs[0]
    summary = (
        f"Three agents must cover three landmarks without touching each other ({ENV}). Each method "
        f"learnt from {dataset.num_transitions} recorded joint steps ({dataset.spec.quality}) and "
        f"never played while it trained. Scores: {job.episodes} episodes of the last checkpoint, "
        "from the same start states for every method; the intervals are over these episodes. One "
        f"training seed and {job.updates} updates: enough to see the difference, not to publish it."
    )
    report = write_report(
        out,
        title="OM2P on Cooperative Navigation",
        results=results,
        provenance=provenance(),
        seeds=[job.seed],
        references=references,
        baseline="data",
        summary=summary,
        pictures=pictures,
    )
    say("done")
    print()
    print(results_table(results, references=references, baseline="data").text())
    print_next_steps(report, Path(job.run), Path(job.dataset))


def save_film(file: Path, jobs: list[Job]) -> str:
    """Draw the best method, beside BC if both were trained; return what the film shows."""
    from rllib_om2p.core.acting import load_modules
    from rllib_om2p.core.playing import render_episodes
    from rllib_om2p.evaluation.figures import save_gif

    methods = {job.method: job for job in jobs}
    shown = [m for m in ("BC-mean-flow", "OM2P-weighted-VDN", "OM2P") if m in methods][:2]
    seeds = range(SCORE_SEED, SCORE_SEED + FILM_EPISODES)
    films = [
        render_episodes(load_modules(Path(methods[m].run) / "checkpoint"), ENV, seeds)
        for m in shown
    ]
    frames = [beside(frames) for frames in zip(*(film.frames for film in films), strict=True)]
    names = [METHODS[m].split(",")[0].split(" (")[0] for m in shown]
    if len(names) == 2:
        names = [f"left, {names[0]}", f"right, {names[1]}"]
    captions = [
        ", ".join(f"{n}: {r:.0f}" for n, r in zip(names, returns, strict=True))
        for returns in zip(*(film.returns for film in films), strict=True)
    ]
    save_gif(file, frames, captions=captions, steps=films[0].steps, fps=8)
    sides = [METHODS[m] for m in shown]
    text = sides[0] if len(sides) == 1 else f"Left: {sides[0]}. Right: {sides[1]}"
    return f"{text}; {FILM_EPISODES} episodes from the first start states of the scores."


def beside(frames: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return frames at half their size, side by side with a line between them."""
    halves = [Image.fromarray(frame).reduce(2) for frame in frames]
    width, height = halves[0].size
    sheet = Image.new("RGB", (len(halves) * (width + 2) - 2, height), "black")
    for index, half in enumerate(halves):
        sheet.paste(half, (index * (width + 2), 0))
    return np.asarray(sheet)


def print_next_steps(report: Path, run: Path, dataset: Path) -> None:
    print(f"""
Look at   {report}
          {report.parent / "learning_curve.png"}   does training help, and is it still helping?
          {report.parent / "rollout.gif"}          the teams at play
Next      rllib-om2p evaluate {os.path.relpath(run)} --episodes 500 --gif team.gif
          rllib-om2p audit {os.path.relpath(dataset)}
          tensorboard --logdir {os.path.relpath(run.parent)}
          README.md: train with your own settings, and on your own episodes
These commands are in .venv/bin: source .venv/bin/activate""")


if __name__ == "__main__":
    quiet()
    sys.exit(main())
