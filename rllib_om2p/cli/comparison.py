"""The commands `benchmark` and `report`: their options, and what they print."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rllib_om2p.cli.common import AddCommand, say

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
        RuntimeError: Some cells failed; their errors lie beside the results.
    """
    from rllib_om2p.benchmark.cells import Choice, failure_file, make_cells, missing
    from rllib_om2p.benchmark.suite import load_suite

    suite = load_suite(options.suite)
    from rllib_om2p.algorithms import ALGORITHMS

    choice = Choice(options.only, options.datasets, options.seeds)
    cells = make_cells(suite, options.data, ALGORITHMS, choice)
    folder = Path(options.out) / suite.name
    todo = missing(cells, folder)
    print(f"{suite.name}: {suite.title}", flush=True)
    print(f"{len(cells) - len(todo)} of {len(cells)} runs are done in {folder}", flush=True)
    if options.list:
        for cell in todo:
            mark = "failed" if failure_file(folder, cell).exists() else "missing"
            print(f"{mark}: {cell.name}")
        return
    if todo:
        _run(options, suite, todo, folder)
    print(f"next: rllib-om2p report {folder} --out report.html")


def _run(options: argparse.Namespace, suite: Suite, todo: Sequence[Cell], folder: Path) -> None:
    from rllib_om2p.benchmark.cells import missing, write_plan
    from rllib_om2p.benchmark.reuse import take_over
    from rllib_om2p.benchmark.runner import run_cells
    from rllib_om2p.core.console import start_ray
    from rllib_om2p.evaluation.provenance import provenance

    workers = len(os.sched_getaffinity(0)) if options.workers is None else options.workers
    if workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}.")
    write_plan(folder, suite)
    taken = take_over(todo, folder)
    if taken:
        say(f"{len(taken)} runs are taken over from other suites in {options.out}")
        todo = missing(todo, folder)
        if not todo:
            return
    start_ray(num_cpus=workers + _READERS)
    outcome = run_cells(
        todo,
        folder,
        facts=provenance(outputs=[folder]),
        workers=workers,
        max_minutes=options.max_minutes,
        report=say,
    )
    if outcome.failed:
        raise RuntimeError(
            f"{outcome.failed} runs failed; their errors are in {folder}/*.failed. The same "
            "command tries them again."
        )
    if outcome.left:
        print(f"time is up; {outcome.left} runs are left for the same command")


def _report(options: argparse.Namespace) -> None:
    """Write the page and the tables of a folder of results."""
    from rllib_om2p.evaluation.benchmark_report import write_benchmark_report

    for file in write_benchmark_report(options.results, options.out):
        print(f"written: {file}")
