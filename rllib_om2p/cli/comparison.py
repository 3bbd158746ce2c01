"""The commands `benchmark` and `report`: their options, and what they print."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rllib_om2p.cli.common import AddCommand, hint, say
from rllib_om2p.disk import local_path

if TYPE_CHECKING:
    from rllib_om2p.benchmark.cells import Cell
    from rllib_om2p.benchmark.suite import Suite

# Ray ends idle workers beyond one per CPU, and each new one that reads data imports for seconds.
_READERS = 4


def add_commands(command: AddCommand) -> None:
    """Add benchmark and report."""
    parser = command("benchmark", _benchmark, "Compare algorithms over datasets and seeds.")
    parser.add_argument(
        "suite", metavar="SUITE", help="such as cpu, or a FILE.py with a function suite()"
    )
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="the datasets, at DIR/ENV/QUALITY"
    )
    parser.add_argument(
        "--out", default="results", metavar="DIR", help="results go to DIR/SUITE (results)"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="methods or algorithms")
    parser.add_argument(
        "--datasets", nargs="+", metavar="NAME", help="such as mpe/simple_spread/medium or 'mpe/*'"
    )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="of the suite's")
    parser.add_argument(
        "--max-minutes",
        type=float,
        metavar="M",
        help="stop after M minutes; the same command goes on from there",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="runs at a time (one per core)")
    parser.add_argument("--list", action="store_true", help="only show what is done and what not")

    parser = command("report", _report, "Write a benchmark's page and tables.")
    parser.add_argument("results", metavar="RESULTS", help="folder of one suite's results")
    parser.add_argument(
        "--out",
        default="report.html",
        metavar="FILE",
        help="the page; its tables go to the same name with .md (report.html)",
    )


def _benchmark(options: argparse.Namespace) -> None:
    """Run what a suite still lacks.

    Raises:
        ValueError: An unknown suite, algorithm, dataset or seed.
        RuntimeError: Some cells failed; their errors lie beside the results. Or another benchmark
            writes them.
        KeyboardInterrupt: Ctrl-C; what is done stays.
    """
    from rllib_om2p.benchmark.cells import Choice, failure_file, make_cells, write_plan
    from rllib_om2p.benchmark.suite import load_suite
    from rllib_om2p.benchmark.suite_lock import suite_lock

    suite = load_suite(options.suite)
    from rllib_om2p.algorithms import ALGORITHMS

    choice = Choice(options.only, options.datasets, options.seeds)
    cells = make_cells(suite, options.data, ALGORITHMS, choice)
    folder = local_path(options.out) / suite.name
    workers = len(os.sched_getaffinity(0)) if options.workers is None else options.workers
    if workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}.")
    if options.list:
        for cell in _begin(suite, cells, folder):
            mark = "failed" if failure_file(folder, cell).exists() else "missing"
            print(f"{mark}: {cell.name}")
        return
    with suite_lock(folder):
        todo = _begin(suite, cells, folder)
        write_plan(folder, suite)
        if todo:
            _run(options, todo, folder, workers)
    print(f"next: {hint('report', folder, '--out', 'report.html')}")


def _begin(suite: Suite, cells: Sequence[Cell], folder: Path) -> list[Cell]:
    """Say what is done, and return what is not."""
    from rllib_om2p.benchmark.cells import missing
    from rllib_om2p.benchmark.reuse import require_same_defaults

    todo = missing(cells, folder)
    require_same_defaults(cells, folder)
    say(f"{suite.name}: {suite.title}")
    say(f"{len(cells) - len(todo)} of {len(cells)} runs are done in {folder}")
    return todo


def _run(options: argparse.Namespace, todo: Sequence[Cell], folder: Path, workers: int) -> None:
    from rllib_om2p.benchmark.cells import missing
    from rllib_om2p.benchmark.reuse import take_over
    from rllib_om2p.benchmark.runner import run_cells
    from rllib_om2p.core.console import start_ray
    from rllib_om2p.evaluation.provenance import provenance

    taken = take_over(todo, folder)
    if taken:
        say(f"{len(taken)} runs are taken over from other suites in {options.out}")
        todo = missing(todo, folder)
        if not todo:
            return
    start_ray(num_cpus=workers + _READERS)
    _require_gpus(todo[0].gpus)
    outcome = run_cells(
        todo,
        folder,
        facts=provenance(outputs=[folder]),
        workers=workers,
        max_minutes=options.max_minutes,
        report=say,
    )
    failed = f"{outcome.failed} runs failed; their errors are in {folder}/*.failed."
    if outcome.is_interrupted:
        print(f"interrupted; {outcome.left} runs are left for the same command")
        if outcome.failed:
            print(failed)
        raise KeyboardInterrupt
    if outcome.failed:
        raise RuntimeError(f"{failed} The same command tries them again.")
    if outcome.left:
        print(f"time is up; {outcome.left} runs are left for the same command")


def _require_gpus(needed: float) -> None:
    """Refuse what Tune would wait for without a word; a cluster may still bring what is missing.

    Raises:
        ValueError: A run needs more of a GPU than this machine has.
    """
    import ray

    available = ray.cluster_resources().get("GPU", 0.0)
    if needed <= available:
        return
    lack = f"each run of this suite needs {needed:g} of a GPU and Ray sees {available:g} GPUs"
    if os.environ.get("RAY_ADDRESS", "local") != "local":
        say(f"{lack}; waiting for the cluster to bring more")
        return
    raise ValueError(
        f"{lack}; run it on a machine with one, or choose a suite for CPUs, such as cpu."
    )


def _report(options: argparse.Namespace) -> None:
    """Write the page and the tables of a folder of results."""
    from rllib_om2p.evaluation.benchmark_report import write_benchmark_report

    for file in write_benchmark_report(options.results, options.out):
        print(f"written: {file}")
