"""Tables of a comparison: returns, aggregates, improvement, settings; nothing is drawn.

Aggregates pool normalised scores over datasets. A method that lacks a dataset would be pooled over
easier or harder ones than the others, so only the datasets that all methods have are pooled; one
that has nothing of an environment is left out of what pools it. A dataset with more seeds than
another, while a benchmark is under way, weighs no more.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rllib_om2p.evaluation.records import Comparison
from rllib_om2p.evaluation.report import Result, Table, results_table
from rllib_om2p.evaluation.scores import decimals
from rllib_om2p.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    differ,
    iqm,
    pool,
    probability_of_improvement,
)

MATRIX_RESAMPLES = 2_000
"""Of each pair's interval; there are many pairs."""
MIN_SEEDS = 3
"""Of a method that is called the best: with two, Welch's test tells hardly anything apart."""
MAX_GAP = 10.0
"""Of the normalised score, to the best: a method that varies enough is never told apart from it."""


class Aggregate(NamedTuple):
    """A method's score over datasets.

    Attributes:
        value: Interquartile mean of the normalised scores of all seeds and datasets, each dataset
            with the same weight.
        interval: Stratified bootstrap, 95 %; None where a dataset has a single seed.
        mean: Their mean.
    """

    value: float
    interval: Interval | None
    mean: float


def shared_datasets(comparison: Comparison, datasets: Sequence[str]) -> list[str]:
    """Return those of the datasets that every method has scores on that is `pooled_methods`'."""
    methods = pooled_methods(comparison, datasets)
    sets = [set(comparison.scores(method, datasets)) for method in methods]
    return [dataset for dataset in datasets if sets and all(dataset in found for found in sets)]


def pooled_methods(comparison: Comparison, datasets: Sequence[str]) -> list[str]:
    """Return the methods that have scores on each environment of which some method has any."""
    envs = {
        method: {name.rpartition("/")[0] for name in comparison.scores(method, datasets)}
        for method in comparison.methods
    }
    every = set().union(*envs.values())
    return [method for method, own in envs.items() if own == every]


def aggregates(comparison: Comparison, datasets: Sequence[str]) -> dict[str, Aggregate]:
    """Return the score of each of `pooled_methods` over the datasets that these share, if any.

    Args:
        comparison: All runs.
        datasets: To pool, such as those of one environment.
    """
    shared = shared_datasets(comparison, datasets)
    found = {}
    for method in pooled_methods(comparison, datasets):
        scores = comparison.scores(method, shared)
        if not scores:
            continue
        values = pool(scores)
        several = all(len(seeds) > 1 for seeds in scores.values())
        interval = bootstrap_interval(scores) if several else None
        found[method] = Aggregate(iqm(values), interval, float(values.mean()))
    return found


class Part(NamedTuple):
    """Some of the datasets, pooled.

    Attributes:
        name: "all", a family of environments such as "mpe", or an environment.
        datasets: Of it, whoever has run on them.
        num_datasets: That all methods share.
        scores: By method.
    """

    name: str
    datasets: list[str]
    num_datasets: int
    scores: dict[str, Aggregate]


def pooled_parts(comparison: Comparison) -> list[Part]:
    """Return the scores over all datasets and, of several environments, by environment.

    Of several families those of more than one environment come before. Parts of which the methods
    share no dataset are left out.
    """
    parts = {"all": comparison.datasets}
    families: dict[str, list[str]] = {}
    for env in comparison.envs:
        families.setdefault(env.partition("/")[0], []).append(env)
    for family, envs in families.items():
        if len(families) > 1 and len(envs) > 1:
            parts[family] = [name for env in envs for name in comparison.datasets_of(env)]
    if len(comparison.envs) > 1:
        parts |= {env: comparison.datasets_of(env) for env in comparison.envs}
    return [
        Part(name, list(datasets), len(shared_datasets(comparison, datasets)), found)
        for name, datasets in parts.items()
        if (found := aggregates(comparison, datasets))
    ]


def aggregate_table(comparison: Comparison, parts: Sequence[Part]) -> Table | None:
    """Return one row per method: interquartile means over all datasets and by environment.

    The plain mean stands beside them: of few datasets that lie far apart, the middle half of the
    scores may leave whole datasets out. In brackets the 95 % interval, where every dataset has
    several seeds.

    Args:
        comparison: All runs.
        parts: As `pooled_parts` returns them.
    """
    if not parts:
        return None
    header = ["method"]
    for part in parts:
        short = part.name.rpartition("/")[2]
        header += [f"IQM, {short} ({part.num_datasets})", f"mean, {short}"]
    rows = []
    for method in comparison.methods:
        cells = [method]
        for part in parts:
            score = part.scores.get(method)
            cells += [_with_interval(score), f"{score.mean:.1f}"] if score else ["", ""]
        rows.append(tuple(cells))
    return Table(tuple(header), tuple(rows), frozenset({"method"}))


def _with_interval(score: Aggregate) -> str:
    value, interval = f"{score.value:.1f}", score.interval
    return f"{value} ({interval.low:.1f} to {interval.high:.1f})" if interval else value


def overview_table(comparison: Comparison, env: str) -> Table | None:
    """Return one environment's mean returns, one row per method, one column per dataset.

    Bold are the largest mean of a dataset and all that are not told apart from it (Welch, p 0.05)
    nor more than `MAX_GAP` below it, of methods with `MIN_SEEDS` or more; none where a method with
    fewer has the largest.
    """
    datasets = comparison.datasets_of(env)
    collected = [comparison.data_return(dataset) for dataset in datasets]
    methods = [*comparison.methods, *comparison.lost_methods]
    means = [
        [
            [run.mean for run in comparison.of(method, dataset) if run.returns]
            for dataset in datasets
        ]
        for method in methods
    ]
    if not any(found for row in means for found in row):
        return None
    places = decimals([*collected, *(value for row in means for found in row for value in found)])
    rows = [("data", *(f"{value:.{places}f}" for value in collected))]
    for method, row in zip(methods, means, strict=True):
        lost = [comparison.num_failed.get((method, dataset), 0) for dataset in datasets]
        cells = map(_cell_of_returns, row, itertools.repeat(places), lost)
        rows.append((method, *cells))
    gaps = [_largest_gap(comparison, dataset) for dataset in datasets]
    strong = {
        (method + 1, column + 1)
        for column in range(len(datasets))
        for method in _level_with_the_best([row[column] for row in means], gaps[column])
    }
    names = tuple(dataset.removeprefix(f"{env}/") for dataset in datasets)
    return Table(("method", *names), tuple(rows), frozenset({"method"}), frozenset(strong))


def _largest_gap(comparison: Comparison, dataset: str) -> float:
    """Return `MAX_GAP` in returns; no limit where there is no scale."""
    scale = comparison.references(dataset)
    return abs(scale.expert - scale.random) * MAX_GAP / 100.0 if scale else float("inf")


def _level_with_the_best(scores: Sequence[Sequence[float]], gap: float) -> list[int]:
    """Return the position of the largest mean, and of all that are level with it.

    None where a method with too few seeds has the largest: it is not known to be above the others.

    Args:
        scores: Of the seeds, by method.
        gap: That a level method's mean lies below at most.
    """
    scored = [i for i, values in enumerate(scores) if values]
    best = max(scored, key=lambda i: float(np.mean(scores[i])), default=None)
    if best is None or len(scores[best]) < MIN_SEEDS:
        return []
    several = [i for i in scored if len(scores[i]) >= MIN_SEEDS]
    lowest = float(np.mean(scores[best])) - gap
    return [
        i
        for i in several
        if i == best or (np.mean(scores[i]) >= lowest and not differ(scores[i], scores[best]))
    ]


def _cell_of_returns(values: Sequence[float], places: int, num_failed: int) -> str:
    parts = []
    if values:
        mean = f"{np.mean(values):.{places}f}"
        deviation = f" ± {np.std(values, ddof=1):.{places}f}" if len(values) > 1 else ""
        parts.append(f"{mean}{deviation}")
    if num_failed:
        parts.append(f"({num_failed} of {num_failed + len(values)} failed)")
    return " ".join(parts)


def distance_table(comparison: Comparison, env: str) -> Table | None:
    """Return how far the policies act from the data, one row per method, one column per dataset.

    The root mean square distance of their actions to the data's at the data's observations, over
    agents and features, in the environment's units; the mean over seeds.
    """
    datasets = comparison.datasets_of(env)
    rows = []
    for method in comparison.methods:
        cells = [method]
        for dataset in datasets:
            found = [run.record.get("action_rmse") for run in comparison.of(method, dataset)]
            measured = [value for value in found if value is not None]
            cells.append(f"{np.mean(measured):.3f}" if measured else "")
        rows.append(tuple(cells))
    if not any(cell for row in rows for cell in row[1:]):
        return None
    names = tuple(dataset.removeprefix(f"{env}/") for dataset in datasets)
    return Table(("method", *names), tuple(rows), frozenset({"method"}))


def returns_table(comparison: Comparison, env: str) -> Table | None:
    """Return one environment's raw and normalised returns, one row per dataset and method."""
    rows, scales = [], {}
    for dataset in comparison.datasets_of(env):
        short = dataset.removeprefix(f"{env}/")
        scales[short] = comparison.references(dataset)
        scored = {
            method: [run.mean for run in comparison.of(method, dataset) if run.returns]
            for method in comparison.methods
        }
        if any(scored.values()):
            rows.append(Result("data", [comparison.data_return(dataset)], short))
        rows += [Result(name, means, short) for name, means in scored.items() if means]
    return results_table(rows, references=scales, baseline="data") if rows else None


def improvement(comparison: Comparison, datasets: Sequence[str]) -> dict[tuple[str, str], Interval]:
    """Return by pair of methods how often a run of the first beats one of the second.

    Ties count half, so the two numbers of a pair add up to 1, and their intervals mirror each
    other. The datasets are those that are pooled (`shared_datasets`); a method with less than two
    seeds on one of them is left out, for its pairs would be of easier or harder ones.

    Args:
        comparison: All runs.
        datasets: To pool, such as those of one family of environments.
    """
    found = {}
    shared = shared_datasets(comparison, datasets)
    scores = {m: comparison.scores(m, shared) for m in comparison.methods}
    several = [
        method
        for method, own in scores.items()
        if shared and all(len(own.get(dataset, ())) > 1 for dataset in shared)
    ]
    for first, second in itertools.combinations(several, 2):
        wins = probability_of_improvement(
            scores[first], scores[second], num_resamples=MATRIX_RESAMPLES
        )
        found[first, second] = wins
        found[second, first] = Interval(1.0 - wins.estimate, 1.0 - wins.high, 1.0 - wins.low)
    return found


def improvement_table(comparison: Comparison, found: Mapping[tuple[str, str], Interval]) -> Table:
    """Return the matrix: row beats column, with its 95 % interval."""
    rows = []
    for first in comparison.methods:
        cells = [first]
        for second in comparison.methods:
            chance = found.get((first, second))
            cells.append(
                ""
                if chance is None
                else f"{chance.estimate:.2f} ({chance.low:.2f}-{chance.high:.2f})"
            )
        rows.append(tuple(cells))
    return Table(
        ("row beats column", *comparison.methods), tuple(rows), frozenset({"row beats column"})
    )


def settings_table(comparison: Comparison) -> Table | None:
    """Return the settings that differ between methods; several values where datasets differ."""
    overrides = {
        method: [run.record.get("overrides", {}) for run in comparison.of(method)]
        for method in comparison.methods
    }
    names = dict.fromkeys(name for own in overrides.values() for run in own for name in run)
    columns = {}
    for name in names:
        shown = [
            " / ".join(dict.fromkeys(str(run.get(name, "default")) for run in own))
            for own in overrides.values()
        ]
        if len(set(shown)) > 1 or " / " in shown[0]:
            columns[name] = shown
    if not columns:
        return None
    rows = tuple(zip(comparison.methods, *columns.values(), strict=True))
    differing = tuple(columns)
    return Table(("method", *differing), rows, frozenset({"method", *differing}))


class Sweep(NamedTuple):
    """Methods of one algorithm that differ in one number and nothing else.

    Attributes:
        algorithm: Whose.
        setting: Its name.
        values: By method, in rising order.
        fixed: What else sets these methods apart from others of the algorithm.
    """

    algorithm: str
    setting: str
    values: dict[str, float]
    fixed: dict[str, Any]


def sweeps(comparison: Comparison) -> list[Sweep]:
    """Return the sweeps among the methods: at least three of an algorithm each."""
    by_algorithm: dict[str, list[str]] = {}
    for method in comparison.methods:
        by_algorithm.setdefault(comparison.algorithm(method), []).append(method)
    return [
        Sweep(algorithm, setting, values, _only_theirs(settings, values, setting))
        for algorithm, methods in by_algorithm.items()
        if (settings := _settings(comparison, methods))
        for setting, values in _sweeps_of(settings)
    ]


# By method and dataset.
_Settings = Mapping[str, Mapping[str, Mapping[str, Any]]]


def _settings(comparison: Comparison, methods: Sequence[str]) -> _Settings:
    """Return the methods' settings on the datasets on which all of them have run."""
    found = {
        method: {
            dataset: runs[0].record.get("overrides", {})
            for dataset in comparison.datasets
            if (runs := comparison.of(method, dataset))
        }
        for method in methods
    }
    shared = set.intersection(*(set(own) for own in found.values()))
    return (
        {m: {d: own[d] for d in own if d in shared} for m, own in found.items()} if shared else {}
    )


def _sweeps_of(settings: _Settings) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield a setting and its values by method, where all other settings are the same."""
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for method, by_dataset in settings.items():
        for name, value in next(iter(by_dataset.values())).items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if is_number and all(own.get(name) == value for own in by_dataset.values()):
                others = [
                    sorted((k, str(v)) for k, v in own.items() if k != name)
                    for own in by_dataset.values()
                ]
                groups.setdefault((name, str(others)), {})[method] = float(value)
    for (name, _), values in groups.items():
        if len(set(values.values())) >= 3:
            yield name, dict(sorted(values.items(), key=lambda item: item[1]))


def _only_theirs(settings: _Settings, own: Collection[str], swept: str) -> dict[str, Any]:
    """Return the settings that `own` methods share on all datasets and some others lack."""
    first, *rest = (values for method in own for values in settings[method].values())
    shared = {
        name: value
        for name, value in first.items()
        if name != swept and all(values.get(name) == value for values in rest)
    }
    every = [values for by_dataset in settings.values() for values in by_dataset.values()]
    return {
        name: value
        for name, value in shared.items()
        if any(values.get(name) != value for values in every)
    }
