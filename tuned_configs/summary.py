"""Writes what RESULTS.md says of a benchmark: its tables, from the results and nothing else.

    python -m tuned_configs.summary cpu options ...

For each suite: `results/SUITE.md` with all tables and, between its marks in RESULTS.md if it has
any there, the scores over datasets, the mean returns, and how it was made.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rllib_om2p.disk import write_text_whole
from rllib_om2p.evaluation.benchmark_report import brief_markdown, full_markdown
from rllib_om2p.evaluation.records import load_comparison
from tuned_configs import markers

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"


def section(suite: str) -> str:
    """Return what stands between a suite's marks."""
    link = f"All tables, with every seed: [results/{suite}.md](results/{suite}.md)."
    return f"{brief_markdown(load_comparison(HERE / 'results' / suite))}\n\n{link}"


def mark(suite: str) -> str:
    """Return the mark before a suite's section."""
    return markers.begin(f"tuned_configs.summary {suite}")


def main() -> None:
    """Write the tables of the suites that are named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("suites", nargs="+", metavar="SUITE", help="of results/SUITE")
    for suite in parser.parse_args().suites:
        folder = HERE / "results" / suite
        tables = full_markdown(load_comparison(folder))
        write_text_whole(folder.with_name(f"{suite}.md"), tables)
        if mark(suite) in RESULTS.read_text(encoding="utf-8"):
            markers.replace_between(RESULTS, mark(suite), section(suite))
        print(f"written: {suite}")


if __name__ == "__main__":
    main()
