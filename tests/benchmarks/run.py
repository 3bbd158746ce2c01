"""Speed and memory of an update, as ratios within one run.

`python -m tests.benchmarks.run` writes `tests/benchmarks/results/speed-DATE.{json,md}`. Every
section runs in a fresh process with its number of threads pinned; the variants of a section run
round-robin and the ratios are medians over rounds, by the clock and by processor time. On a machine
that others use, trust the processor time of one thread.

A section is a function (sizes, rounds) -> dict with "rows" (one dict per line of its table) and
"ratios" (name -> {"value", "target", "at_least"}); to add one, write it here and name it in
SECTIONS.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rllib_om2p.evaluation.provenance import describe_machine, provenance
from tests.benchmarks.measure import count_operations, peak_memory, ratio, time_interleaved
from tests.benchmarks.per_agent import PerAgentUpdate
from tests.benchmarks.plugin import plugin, table
from tests.benchmarks.problem import Sizes, draw, make_batch
from tests.benchmarks.stacked import StackedUpdate

Section = dict[str, Any]
Builder = Callable[[], Callable[..., object]]

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[2]

# The plain loop's two forms: torch.func.jvp computes the same exact derivative as the stacked
# tangent and is the baseline of the targets; the finite difference is the fastest plain loop.
UPDATES: dict[str, Callable[[Sizes], Builder]] = {
    "plain loop": lambda sizes: functools.partial(PerAgentUpdate, sizes, derivative="jvp"),
    "plain loop, finite difference": lambda sizes: functools.partial(PerAgentUpdate, sizes),
    "plain loop, bf16": lambda sizes: functools.partial(
        PerAgentUpdate, sizes, derivative="jvp", autocast=True
    ),
    "stacked": lambda sizes: functools.partial(StackedUpdate, sizes),
    "stacked, bf16": lambda sizes: functools.partial(StackedUpdate, sizes, autocast=True),
    "compiled": lambda sizes: functools.partial(StackedUpdate, sizes, compile_losses=True),
    "compiled, bf16": lambda sizes: functools.partial(
        StackedUpdate, sizes, compile_losses=True, autocast=True
    ),
}


def updates(sizes: Sizes, rounds: int) -> Section:
    """Time whole updates: plain per-agent loop, stacked, compiled; float32 and bfloat16."""
    timings = _time({name: build(sizes) for name, build in UPDATES.items()}, sizes, rounds)
    pairs = {
        "compiled / plain loop": ("plain loop", "compiled", 1.2),
        "compiled bf16 / plain loop": ("plain loop", "compiled, bf16", 2.0),
        "compiled / plain loop with finite difference": (
            "plain loop, finite difference",
            "compiled",
            None,
        ),
        "compiled bf16 / plain loop with finite difference": (
            "plain loop, finite difference",
            "compiled, bf16",
            None,
        ),
        "compiled bf16 / plain loop in bf16": ("plain loop, bf16", "compiled, bf16", None),
        "stacked / plain loop": ("plain loop", "stacked", None),
    }
    return {
        "rows": [{"variant": name, **timing.summary} for name, timing in timings.items()],
        "ratios": {
            name: {"value": ratio(timings, slow, fast), "target": target, "at_least": True}
            for name, (slow, fast, target) in pairs.items()
        },
    }


def derivative(sizes: Sizes, rounds: int) -> Section:
    """Time whole updates with the exact tangent, the finite difference and no derivative."""
    kinds = ("tangent", "finite_difference", "none")
    builders: dict[str, Builder] = {
        kind: functools.partial(StackedUpdate, sizes, derivative=kind) for kind in kinds
    }
    timings = _time(builders, sizes, rounds)
    return {
        "rows": [{"variant": name, **timing.summary} for name, timing in timings.items()],
        "ratios": {
            "time of tangent / finite difference": {
                "value": ratio(timings, "tangent", "finite_difference"),
                "target": 1.05,
                "at_least": False,
            }
        },
    }


def operations(sizes: Sizes, rounds: int) -> Section:
    """Count the operations of an update for several numbers of agents."""
    del rounds
    counts: dict[str, dict[int, int]] = {"stacked": {}, "plain loop": {}}
    for num_agents in (1, 3, 8):
        small = Sizes(num_agents=num_agents, hidden=(16,) * len(sizes.hidden), batch_size=8)
        for name in counts:
            counts[name][num_agents] = count_operations(UPDATES[name](small)(), small)
    stacked = counts["stacked"]
    return {
        "rows": [
            {"variant": name, **{f"{agents} agents": count for agents, count in by_agents.items()}}
            for name, by_agents in counts.items()
        ],
        "ratios": {
            "stacked operations of 8 agents / 1 agent": {
                "value": {"count": stacked[8] / stacked[1]},
                "target": 1.0,
                "at_least": False,
            }
        },
    }


def memory(sizes: Sizes, rounds: int) -> Section:
    """Measure the peak memory that building and updating adds to a fresh process."""
    del rounds
    names = ("plain loop", "stacked", "stacked, bf16")
    peaks = {name: peak_memory(UPDATES[name](sizes), sizes) for name in names}
    return {
        "rows": [{"variant": name, "peak_mib": peak} for name, peak in peaks.items()],
        "ratios": {
            "peak of stacked / plain loop": {
                "value": {"peak": peaks["stacked"] / peaks["plain loop"]},
                "target": None,
                "at_least": False,
            }
        },
    }


# Section name -> (function, the thread counts it is run with).
SECTIONS: dict[str, tuple[Callable[[Sizes, int], Section], Sequence[int]]] = {
    "updates": (updates, (1, 2)),
    "derivative": (derivative, (1,)),
    "operations": (operations, (1,)),
    "memory": (memory, (1,)),
    "plugin": (plugin, (1,)),
    "table": (table, (1,)),
}


def _time(builders: dict[str, Builder], sizes: Sizes, rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    batch = make_batch(sizes, generator)

    def call(update: Callable[..., object]) -> Callable[[], object]:
        return lambda: update(batch, draw(sizes, generator))

    return time_interleaved(
        {name: call(build()) for name, build in builders.items()}, rounds=rounds
    )


def run_section(name: str, threads: int, rounds: int) -> Section:
    """Run a section in a fresh process and return its result."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "section.json"
        command = [sys.executable, "-m", "tests.benchmarks.run", "--section", name]
        command += ["--threads", str(threads), "--rounds", str(rounds), "--out", str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
        result: Section = json.loads(out.read_text())
    return {"section": name, "threads": threads, **result}


def circumstances() -> dict[str, Any]:
    """Return what the numbers depend on."""
    return {
        **provenance(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": os.getloadavg(),
    }


def passes(entry: dict[str, Any]) -> bool | None:
    """Tell whether a ratio reaches its target; None where it has none.

    Processor time decides where it was measured: programs beside this one disturb it least.
    """
    if entry["target"] is None:
        return None
    value = entry["value"].get("cpu", next(iter(entry["value"].values())))
    return bool(value >= entry["target"] if entry["at_least"] else value <= entry["target"])


def to_markdown(report: dict[str, Any]) -> str:
    """Return the report as text with one table per section."""
    about, sizes = report["made"], report["sizes"]
    lines = [
        f"# Speed, {about['date'][:10]}",
        "",
        f"`{about['command']}` at commit {str(about['commit'])[:7]}"
        f"{' (dirty)' if about['dirty'] else ''}, torch {about['packages']['torch']}, Python "
        f"{about['python']}, {describe_machine(about['machine'])} ({about['capability']}), load "
        f"{about['load_average'][0]:.1f} at the start. {report['rounds']} rounds, interleaved.",
        "",
        f"One update: {sizes['num_agents']} agents, observations {sizes['obs_dim']}, actions "
        f"{sizes['action_dim']}, networks {sizes['hidden']}, batch {sizes['batch_size']}, "
        f"{sizes['num_critics']} critics.",
    ]
    for section in report["sections"]:
        columns = list(section["rows"][0])
        lines += ["", f"## {section['section']}, {section['threads']} thread(s)", ""]
        lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        for row in section["rows"]:
            cells = [f"{row[c]:.1f}" if isinstance(row[c], float) else str(row[c]) for c in columns]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", "| ratio | value | target | reached |", "| --- | --- | --- | --- |"]
        for name, entry in section["ratios"].items():
            value = ", ".join(f"{kind} {number:.2f}" for kind, number in entry["value"].items())
            sign = ">=" if entry["at_least"] else "<="
            target = "" if entry["target"] is None else f"{sign} {entry['target']}"
            reached = {None: "", True: "yes", False: "no"}[passes(entry)]
            lines.append(f"| {name} | {value} | {target} | {reached} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all sections and write the report, or one section for `run_section`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    sizes = Sizes()
    if arguments.section:
        (threads,) = arguments.threads
        torch.set_num_threads(threads)
        result = SECTIONS[arguments.section][0](sizes, arguments.rounds)
        arguments.out.write_text(json.dumps(result))
        return
    report: dict[str, Any] = {
        "made": circumstances(),
        "rounds": arguments.rounds,
        "sizes": vars(sizes),
        "sections": [],
    }
    for name in arguments.only:
        for threads in sorted(set(SECTIONS[name][1]).intersection(arguments.threads)):
            print(f"{name}, {threads} thread(s) ...", file=sys.stderr, flush=True)
            report["sections"].append(run_section(name, threads, arguments.rounds))
            write(report, arguments.out)
    print(to_markdown(report))


def write(report: dict[str, Any], folder: Path) -> None:
    """Write what is measured so far, so that an interrupted run keeps it."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"speed-{report['made']['date'][:10]}"
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    stem.with_suffix(".md").write_text(to_markdown(report))


if __name__ == "__main__":
    main()
