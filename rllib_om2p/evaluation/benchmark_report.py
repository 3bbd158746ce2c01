"""The report of a benchmark: one self-contained page, and its tables as Markdown.

Reads results, adds nothing to them, and says what is missing, failed or not comparable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from rllib_om2p.disk import local_path, write_text_whole
from rllib_om2p.evaluation import comparison_figures as figures
from rllib_om2p.evaluation import page
from rllib_om2p.evaluation.action_figures import actions_figure
from rllib_om2p.evaluation.comparison import (
    Part,
    aggregate_table,
    distance_table,
    improvement,
    improvement_table,
    overview_table,
    pooled_parts,
    returns_table,
    settings_table,
    sweeps,
)
from rllib_om2p.evaluation.costs import cost_table
from rllib_om2p.evaluation.page import Section
from rllib_om2p.evaluation.provenance import describe_machine
from rllib_om2p.evaluation.records import Comparison, Samples, load_comparison
from rllib_om2p.evaluation.report import Table
from rllib_om2p.evaluation.statistics import Interval

_HOW_TO_READ = (
    "Scores are those of the last update; no seed, checkpoint or episode was chosen. A run that "
    "failed has no score and is in no mean; where there are some, cells and text say so. "
    "Normalised: 0 is the random policy, 100 the expert of the scale below. Intervals of "
    "one dataset: Student's t over the seeds. Aggregates: interquartile mean over seeds and "
    "datasets, with a stratified bootstrap that keeps the datasets fixed; only datasets that all "
    "methods have are pooled, each with the same weight, however many of its seeds have run; a "
    "method that has nothing of an environment is left out of what pools it. Mean "
    "returns: with the standard deviation over the seeds; bold are the best of a dataset and those "
    "that Welch's test (p 0.05) does not tell apart from it and that are at most 10 normalised "
    "points below, among methods with three seeds or more; nothing is bold where one with fewer "
    "has the largest."
)
_HOW_TO_READ_COSTS = (
    "Medians over the runs. Times of an update leave out the first point of the curve and the "
    "first after each resumption, which warm up; a run without another has none (older records "
    "leave out the curve's first point only, and never a single one). Compiled runs and others are "
    "not compared: those count that more of an environment's methods have (if equally many, the "
    "compiled ones, if the first method has them); where a method has the other kind only, a "
    "column says which methods are compiled, and ratios between the kinds are left blank. "
    "Times are of one core's processor time, which other processes do not slow; on a GPU, and in "
    "older records, by the clock; minutes by the clock are of whatever else the machine did, too. "
    "Memory is the whole process's at its peak in training (on a GPU torch's), and what training "
    "adds to it: the table of transitions, networks, optimisers and what an update takes. It is "
    "shown where every run had a process of its own: in one that trained others before it is that "
    "of the largest."
)
_HOW_TO_READ_ACTIONS = (
    "Samples of the first seed. Upper row: one action at each of many observations of the data. "
    "Below: many actions at one observation (where the data's actions differ most among 64 random "
    "ones, and at a middling one), over the data's actions at its nearest observations. Distances: "
    "the root mean square of the policies' actions to the data's at about 10,000 observations of "
    "the data, over agents and features, in the environment's units, discrete actions one-hot; the "
    "mean over the seeds. None is to be expected at 0: two draws of the same distribution lie its "
    "standard deviation times the root of two apart."
)


_IMPROVEMENT = "Probability of improvement"


class _Chances(NamedTuple):
    """What takes many resamples: reckoned once, for tables and pictures."""

    parts: list[Part]
    improvements: dict[str, dict[tuple[str, str], Interval]]
    """By heading: over all datasets, and over each family of several environments."""

    @classmethod
    def of(cls, comparison: Comparison) -> _Chances:
        parts = pooled_parts(comparison)
        found = {_IMPROVEMENT: improvement(comparison, comparison.datasets)}
        for part in parts:
            if part.name != "all" and part.name not in comparison.envs:
                found[f"{_IMPROVEMENT}, {part.name}"] = improvement(comparison, part.datasets)
        return cls(parts, {heading: pairs for heading, pairs in found.items() if pairs})


def write_benchmark_report(folder: str | Path, out: str | Path) -> list[Path]:
    """Write the page and the Markdown tables of a folder of results, and return both files.

    Args:
        folder: Of one suite's results.
        out: The page; the tables get the same name with the ending .md.

    Raises:
        ValueError: No results, or `out` does not end in .html.
    """
    out = local_path(out)
    if out.suffix != ".html":
        raise ValueError(f"--out must end in .html, got {str(out)!r}.")
    comparison = load_comparison(folder)
    chances = _Chances.of(comparison)
    tables = dict(_tables(comparison, chances))
    out.parent.mkdir(parents=True, exist_ok=True)
    files = [out, out.with_suffix(".md")]
    write_text_whole(files[0], _html(comparison, tables, chances))
    write_text_whole(files[1], _markdown(comparison, tables))
    return files


def full_markdown(comparison: Comparison) -> str:
    """Return all tables as Markdown."""
    return _markdown(comparison, dict(_tables(comparison, _Chances.of(comparison))))


def brief_markdown(comparison: Comparison) -> str:
    """Return the scores over datasets, the mean returns and who made them, for a longer text.

    What training costs stands there where nothing was scored.
    """
    tables = {"": aggregate_table(comparison, pooled_parts(comparison))}
    tables |= {
        f"`{env}`, mean returns:\n\n": overview_table(comparison, env) for env in comparison.envs
    }
    if not any(tables.values()):
        tables = {f"`{env}`:\n\n": cost_table(comparison, env) for env in comparison.envs}
    parts = [f"{heading}{table.markdown()}" for heading, table in tables.items() if table]
    made = [line for line in _made_with(comparison) if not line.startswith(("command", "python"))]
    return "\n\n".join([*_state(comparison), *parts, "; ".join(made) + "."])


def _tables(comparison: Comparison, chances: _Chances) -> Iterator[tuple[str, Table]]:
    """Yield all tables by their headings."""
    overall = aggregate_table(comparison, chances.parts)
    if overall is not None:
        yield "Over datasets", overall
    for env in comparison.envs:
        overview = overview_table(comparison, env)
        if overview is not None:
            yield f"Mean returns, {env}", overview
    for env in comparison.envs:
        returns = returns_table(comparison, env)
        if returns is not None:
            yield f"Returns, {env}", returns
    for heading, pairs in chances.improvements.items():
        yield heading, improvement_table(comparison, pairs)
    for env in comparison.envs:
        distances = distance_table(comparison, env)
        if distances is not None:
            yield f"Distance to the data, {env}", distances
    for env in comparison.envs:
        costs = cost_table(comparison, env)
        if costs is not None:
            yield f"Cost, {env}", costs
    settings = settings_table(comparison)
    if settings is not None:
        yield "Settings that differ", settings


def _markdown(comparison: Comparison, tables: dict[str, Table]) -> str:
    parts = [f"# {_title(comparison)}", *_state(comparison), _HOW_TO_READ]
    if any(name.startswith("Cost, ") for name in tables):
        parts.append(f"Cost: {_HOW_TO_READ_COSTS}")
    parts += [f"## {name}\n\n{table.markdown()}" for name, table in tables.items()]
    for name, lines in (("Failed runs", comparison.failures), ("Left out", comparison.left_out)):
        if lines:
            listed = "\n".join(f"- {run}: {text}" for run, text in lines.items())
            parts.append(f"## {name}\n\n{listed}")
    made = "\n".join(f"- {line}" for line in _made_with(comparison))
    return "\n\n".join([*parts, f"## How it was made\n\n{made}"]) + "\n"


def _html(comparison: Comparison, tables: dict[str, Table], chances: _Chances) -> str:
    palette = figures.Palette(comparison.methods)
    shown = {name: page.table(table) for name, table in tables.items()}
    intro = [page.paragraph(text, "warning") for text in _state(comparison)]
    sections = [
        Section("Over datasets", _overall(comparison, shown, palette, chances)),
        Section("Returns", _returns(comparison, shown, palette)),
        Section("Learning curves", _curves(comparison, palette)),
        Section("Sweeps", _sweeps(comparison, palette)),
        Section("Actions", _actions(comparison, shown, palette), folded=True),
        Section("Cost", _costs(comparison, shown, palette)),
        Section("Settings", [shown[n] for n in shown if n.startswith("Settings")]),
        Section("Failed runs", _names(comparison.failures)),
        Section("Left out", _names(comparison.left_out)),
        Section("How it was made", [page.bullets(_made_with(comparison))]),
    ]
    intro.append(page.paragraph(_HOW_TO_READ))
    return page.page(_title(comparison), intro, [s for s in sections if s.parts])


def _overall(
    comparison: Comparison, shown: dict[str, str], palette: figures.Palette, chances: _Chances
) -> list[str]:
    parts = []
    if chances.parts:
        pooled = {f"{p.name} ({p.num_datasets} datasets)": p.scores for p in chances.parts}
        picture = figures.intervals_figure(pooled, comparison.methods, palette)
        parts += [page.picture(picture), shown["Over datasets"]]
    for heading, pairs in chances.improvements.items():
        picture = figures.improvement_figure(comparison.methods, pairs)
        parts += [
            page.heading(heading),
            page.picture(picture),
            page.folded("table", shown[heading]),
        ]
    return parts


def _returns(comparison: Comparison, shown: dict[str, str], palette: figures.Palette) -> list[str]:
    parts = []
    for env in comparison.envs:
        if f"Returns, {env}" in shown:
            picture = page.picture(figures.dots_figure(comparison, env, palette))
            parts += [page.heading(env), picture, shown[f"Mean returns, {env}"]]
            parts.append(page.folded("every seed", shown[f"Returns, {env}"]))
    return parts


def _curves(comparison: Comparison, palette: figures.Palette) -> list[str]:
    drawn = [figures.curves_figure(comparison, env, palette) for env in comparison.envs]
    return [page.picture(picture) for picture in drawn if picture is not None]


def _sweeps(comparison: Comparison, palette: figures.Palette) -> list[str]:
    return [
        page.picture(figures.sweep_figure(comparison, sweep, palette))
        for sweep in sweeps(comparison)
    ]


def _actions(comparison: Comparison, shown: dict[str, str], palette: figures.Palette) -> list[str]:
    parts = []
    for env in comparison.envs:
        heading = f"Distance to the data, {env}"
        parts += [page.heading(heading), shown[heading]] if heading in shown else []
    for dataset in comparison.datasets:
        samples: dict[str, Samples] = {}
        for method in comparison.methods:
            with_file = [run for run in comparison.of(method, dataset) if run.samples_file]
            if with_file:
                samples[method] = with_file[0].samples()
        if samples:
            agents = dict.fromkeys(
                name.rpartition("/")[0] for arrays in samples.values() for name in arrays
            )
            parts.append(page.heading(dataset))
            parts += [
                page.picture(actions_figure(samples, dataset, agent, palette)) for agent in agents
            ]
    return [page.paragraph(_HOW_TO_READ_ACTIONS), *parts] if parts else []


def _costs(comparison: Comparison, shown: dict[str, str], palette: figures.Palette) -> list[str]:
    parts = []
    for env in comparison.envs:
        if f"Cost, {env}" in shown:
            parts.append(page.heading(env))
            picture = figures.costs_figure(comparison, env, palette)
            parts += [page.picture(picture)] if picture else []
            parts.append(shown[f"Cost, {env}"])
    return [page.paragraph(_HOW_TO_READ_COSTS), *parts] if parts else []


def _names(found: Mapping[str, str]) -> list[str]:
    return [page.bullets([f"{name}: {text}" for name, text in found.items()])] if found else []


def _title(comparison: Comparison) -> str:
    return f"{comparison.name}: {comparison.title}" if comparison.title else comparison.name


def _state(comparison: Comparison) -> list[str]:
    """Return what a reader must know before any number."""
    lines = []
    if len(comparison.runs) < comparison.num_planned:
        lines.append(
            f"Not complete: {len(comparison.runs)} of {comparison.num_planned} runs are done."
        )
    if comparison.failures:
        lines.append(f"{len(comparison.failures)} runs failed; see below.")
    if comparison.lost_methods:
        names = ", ".join(comparison.lost_methods)
        lines.append(f"Every run of {names} failed: the tables of returns alone name it.")
    if comparison.lost_datasets:
        names = ", ".join(comparison.lost_datasets)
        lines.append(f"Every run on {names} failed: no table names it.")
    if comparison.left_out:
        unplanned = ", ".join(sorted(set(comparison.left_out.values())))
        lines.append(
            f"Left out: {len(comparison.left_out)} results that the suite does not plan "
            f"({unplanned})."
        )
    return lines + [f"Not on equal footing: {text}." for text in comparison.differences()]


def _made_with(comparison: Comparison) -> list[str]:
    facts = [run.record["provenance"] for run in comparison.runs]

    def each(name: str) -> str:
        return "; ".join(dict.fromkeys(str(f.get(name)) for f in facts))

    commits = dict.fromkeys(
        f"{str(f['commit'])[:10]}{' with uncommitted changes' if f['dirty'] else ''}" for f in facts
    )
    commits |= dict.fromkeys(str(c)[:10] for f in facts for c in f.get("earlier_commits", ()))
    dates = sorted(str(f["date"]) for f in facts)
    packages = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in f["packages"].items()) for f in facts
    )
    return [
        f"{len(comparison.runs)} runs of {_numbers(comparison, 'updates')} updates, seeds "
        f"{_numbers(comparison, 'seed')}",
        f"random and expert returns: {'; '.join(_references(comparison))}",
        f"command: {each('command')}",
        f"commit: {', '.join(commits)}",
        f"machine: {'; '.join(dict.fromkeys(describe_machine(f['machine']) for f in facts))}",
        f"date: {dates[0]} to {dates[-1]}",
        f"python {each('python')}; {'; '.join(packages)}",
    ]


def _references(comparison: Comparison) -> list[str]:
    found = []
    for env in comparison.envs:
        scales = [comparison.references(dataset) for dataset in comparison.datasets_of(env)]
        for scale in dict.fromkeys(scales):
            if scale is not None:
                found.append(f"{scale.random:g} and {scale.expert:g} on {env}")
    return found or ["none"]


def _numbers(comparison: Comparison, name: str) -> str:
    values = {run.record[name] for run in comparison.runs if name in run.record}
    return ", ".join(map(str, sorted(values)))
