"""Pictures of a comparison: aggregates, every seed, curves, improvement, costs, sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from rllib_om2p.evaluation.comparison import Aggregate, Sweep
from rllib_om2p.evaluation.costs import Cost, are_mixed, costs
from rllib_om2p.evaluation.records import Comparison, Run
from rllib_om2p.evaluation.statistics import Interval
from rllib_om2p.evaluation.svg import themed_figure, to_svg

# Told apart on white and on black, and the first six with any colour vision (Okabe and Ito 2008).
_COLOURS = (
    "#0A84D6", "#D55E00", "#0A9E78", "#C76BA4", "#D99A00", "#45A5DD", "#8C6BD1", "#7A8B00",
    "#C8474C", "#128F9E", "#9A6A3A", "#6F7C8C", "#B04FC0", "#4C9A2A",
)  # fmt: skip
_STYLES = ("-", "--", ":", "-.")
GREY = "#8A8F98"
_PANELS_PER_ROW = 4


class Palette:
    """One colour and line style for each method, the same in all pictures."""

    def __init__(self, methods: Sequence[str]) -> None:
        self._position = {method: index for index, method in enumerate(methods)}

    def colour(self, method: str) -> str:
        """Return a method's colour."""
        return _COLOURS[self._position[method] % len(_COLOURS)]

    def style(self, method: str) -> str:
        """Return a method's line style."""
        return _STYLES[self._position[method] % len(_STYLES)]


def intervals_figure(
    parts: Mapping[str, Mapping[str, Aggregate]], methods: Sequence[str], palette: Palette
) -> str:
    """Draw interquartile means with their intervals, one panel per part of the datasets."""
    title = "Interquartile mean of normalised scores; line: 95 % stratified bootstrap interval"
    with themed_figure((2.2 + 2.6 * len(parts), 1.3 + 0.27 * len(methods))) as figure:
        panels = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
        for axes, (name, found) in zip(panels, parts.items(), strict=True):
            for row, method in enumerate(methods):
                if method not in found:
                    continue
                score, colour = found[method], palette.colour(method)
                if score.interval is not None:
                    ends = [score.interval.low, score.interval.high]
                    axes.plot(ends, [row, row], color=colour, linewidth=3.0, alpha=0.6)
                axes.plot([score.value], [row], "o", color=colour, markersize=6)
            axes.set_title(name)
            axes.set_xlabel("normalised score\n(random 0, expert 100)")
            axes.grid(axis="x", alpha=0.25)
        _name_rows(panels[0], methods)
    return to_svg(figure, title)


def dots_figure(comparison: Comparison, env: str, palette: Palette) -> str:
    """Draw every seed's mean return as a dot, one panel per dataset of an environment."""
    datasets, methods = comparison.datasets_of(env), comparison.methods
    title = f"{env}: every seed (dot), their mean (bar), and the data's own mean (dashed)"
    with themed_figure((2.2 + 2.4 * len(datasets), 1.3 + 0.27 * len(methods))) as figure:
        panels = figure.subplots(1, len(datasets), sharey=True, squeeze=False)[0]
        for axes, dataset in zip(panels, datasets, strict=True):
            axes.axvline(comparison.data_return(dataset), color=GREY, linestyle="--", linewidth=1)
            for row, method in enumerate(methods):
                means = [run.mean for run in comparison.of(method, dataset) if run.returns]
                if means:
                    colour = palette.colour(method)
                    axes.plot(means, [row] * len(means), "o", color=colour, markersize=5, alpha=0.8)
                    axes.vlines(np.mean(means), row - 0.33, row + 0.33, color=colour, linewidth=2)
            axes.set_title(dataset.removeprefix(f"{env}/"))
            axes.set_xlabel("team return per episode")
            axes.grid(axis="x", alpha=0.25)
        _name_rows(panels[0], methods)
    return to_svg(figure, title)


def curves_figure(comparison: Comparison, env: str, palette: Palette) -> str | None:
    """Draw returns over training, one panel per dataset; None if no run has a curve."""
    datasets = [
        dataset
        for dataset in comparison.datasets_of(env)
        if any(_has_curve(r) for m in comparison.methods for r in comparison.of(m, dataset))
    ]
    if not datasets:
        return None
    columns = min(_PANELS_PER_ROW, len(datasets))
    rows = -(-len(datasets) // columns)
    title = f"{env}: returns over training; thin: each seed, thick: their mean, dashed: the data"
    legend_columns = 2 * columns
    legend_inches = 0.22 * -(-len(comparison.methods) // legend_columns)
    with themed_figure((1.0 + 3.1 * columns, 0.8 + 2.5 * rows + legend_inches)) as figure:
        panels = figure.subplots(rows, columns, squeeze=False)
        for spare in panels.flat[len(datasets) :]:
            spare.set_axis_off()
        for axes, dataset in zip(panels.flat, datasets, strict=False):
            for method in comparison.methods:
                _draw_curves(axes, comparison.of(method, dataset), method, palette)
            axes.axhline(comparison.data_return(dataset), color=GREY, linestyle="--", linewidth=1)
            axes.set_title(dataset.removeprefix(f"{env}/"))
            axes.set_xlabel("gradient updates")
            axes.grid(alpha=0.25)
        for axes in panels[:, 0]:
            axes.set_ylabel("team return per episode")
        handles = {
            label: handle
            for axes in panels.flat
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=legend_columns
        )
    return to_svg(figure, title)


def improvement_figure(methods: Sequence[str], found: Mapping[tuple[str, str], Interval]) -> str:
    """Draw the matrix of probabilities that a run of the row beats one of the column."""
    title = "Probability that a run of the row beats one of the column"
    size = 2.4 + 0.5 * len(methods)
    with themed_figure((size + 0.6, size)) as figure:
        axes = figure.subplots()
        values = np.full((len(methods), len(methods)), np.nan)
        for (first, second), chance in found.items():
            row, column = methods.index(first), methods.index(second)
            values[row, column] = chance.estimate
            # The middle of the colours is light and their ends are dark, on either page.
            middle = abs(chance.estimate - 0.5) < 0.3
            axes.text(
                column, row, f"{chance.estimate:.2f}", ha="center", va="center", fontsize=8,
                color="black" if middle else "white",
            )  # fmt: skip
        image = axes.imshow(values, vmin=0.0, vmax=1.0, cmap="RdBu", interpolation="nearest")
        axes.set_xticks(range(len(methods)), methods, rotation=45, ha="right")
        axes.set_yticks(range(len(methods)), methods)
        axes.set_xlabel("beaten")
        axes.set_ylabel("beats")
        figure.colorbar(image, ax=axes, shrink=0.7, label="probability")
    return to_svg(figure, title)


def costs_figure(comparison: Comparison, env: str, palette: Palette) -> str | None:
    """Draw time per update, memory and minutes of each method as bars; None if not measured."""
    measured = costs(comparison, env)
    found = {method: own for method, own in measured.items() if own.minutes is not None}
    if not found:
        return None
    title = f"{env}: what training takes (medians over runs)"
    panels: Mapping[str, Sequence[float | None]] = {
        "ms per update": [own.milliseconds for own in found.values()],
        "MiB of training": [own.added_mib for own in found.values()],
        "minutes per run": [own.minutes for own in found.values()],
    }
    panels = {label: values for label, values in panels.items() if any(values)}
    with themed_figure((10.0, 1.2 + 0.27 * len(found))) as figure:
        drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (label, values) in zip(drawn, panels.items(), strict=True):
            for row, (method, value) in enumerate(zip(found, values, strict=True)):
                axes.barh(row, value or 0.0, color=palette.colour(method), height=0.6)
            axes.set_xlabel(label)
            axes.grid(axis="x", alpha=0.25)
        _name_rows(drawn[0], _names_with_kind(found))
    return to_svg(figure, title)


def sweep_figure(comparison: Comparison, sweep: Sweep, palette: Palette) -> str:
    """Draw scores, time and memory over the number in which an algorithm's methods differ."""
    fixed = ", ".join(f"{name}={value}" for name, value in sweep.fixed.items())
    title = f"{sweep.algorithm}{f' with {fixed}' if fixed else ''}: what {sweep.setting} does"
    values = np.array(list(sweep.values.values()), float)
    scores = {m: comparison.scores(m, comparison.datasets) for m in sweep.values}
    measured = costs(comparison)
    kinds = {own.is_compiled for m, own in measured.items() if m in sweep.values}
    alike = {m: own for m, own in measured.items() if kinds == {own.is_compiled}}
    # Lines to compare with; of one's own algorithm there may be a whole sweep more.
    others = [m for m in comparison.methods if comparison.algorithm(m) != sweep.algorithm]
    shown: dict[str, dict[str, float]] = {
        "ms per update": _measured(alike, "milliseconds"),
        "MiB of training": _measured(alike, "added_mib"),
    }
    shown = {label: found for label, found in shown.items() if set(sweep.values) <= set(found)}
    has_scores = any(scores.values())
    count = len(shown) + has_scores
    with themed_figure((1.0 + 3.6 * max(count, 1), 3.2)) as figure:
        panels = list(figure.subplots(1, max(count, 1), squeeze=False)[0])
        if has_scores:
            axes = panels.pop(0)
            for dataset in comparison.datasets:
                seeds = [scores[m].get(dataset, [np.nan]) for m in sweep.values]
                (line,) = axes.plot(
                    values, [np.mean(own) for own in seeds], marker="o", markersize=4, label=dataset
                )
                for value, own in zip(values, seeds, strict=True):
                    axes.plot(
                        [value] * len(own),
                        own,
                        ".",
                        color=line.get_color(),
                        alpha=0.5,
                        markersize=3,
                    )
            axes.set_ylabel("normalised score, mean over seeds")
            axes.legend()
        for axes, (label, found) in zip(panels, shown.items(), strict=True):
            own = [found[method] for method in sweep.values]
            axes.plot(values, own, color=palette.colour(next(iter(sweep.values))), marker="o")
            beside = [other for other in others if other in found]
            for other in beside:
                axes.axhline(found[other], color=palette.colour(other), linestyle="--", label=other)
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0.0)
            if beside:
                axes.legend()
        for axes in figure.axes:
            axes.set_xlabel(sweep.setting)
            axes.grid(alpha=0.25)
            _spread(axes, values)
    return to_svg(figure, title)


def _spread(axes: Axes, values: NDArray[np.float64]) -> None:
    """Give small and large values alike room on the x axis; 0 stands left of the smallest."""
    positive = values[values > 0]
    if values.min() < 0 or len(positive) < 2 or positive.max() / positive.min() < 8:
        return
    if values.min() > 0:
        axes.set_xscale("log", base=2)
    else:
        axes.set_xscale("symlog", base=2, linthresh=float(positive.min()))
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.autoscale(axis="x")


def _measured(found: Mapping[str, Cost], name: str) -> dict[str, float]:
    values = {method: getattr(own, name) for method, own in found.items()}
    return {method: value for method, value in values.items() if value is not None}


def _names_with_kind(found: Mapping[str, Cost]) -> list[str]:
    """Return methods as rows are named: with "compiled" behind those that were, if not all were."""
    is_mixed = are_mixed(found)
    return [
        f"{method}, compiled" if is_mixed and own.is_compiled else method
        for method, own in found.items()
    ]


def _has_curve(run: Run) -> bool:
    return bool(run.record.get("curve"))


def _draw_curves(axes: Axes, runs: Sequence[Run], method: str, palette: Palette) -> None:
    points = [np.array(run.record["curve"], float) for run in runs if _has_curve(run)]
    if not points:
        return
    style = {"color": palette.colour(method), "linestyle": palette.style(method)}
    if len(points) > 1:
        for curve in points:
            axes.plot(curve[:, 0], curve[:, 1], linewidth=0.6, alpha=0.4, **style)  # type: ignore[arg-type]
    shortest = min(len(curve) for curve in points)
    mean = np.mean([curve[:shortest] for curve in points], axis=0)
    axes.plot(mean[:, 0], mean[:, 1], linewidth=1.8, label=method, **style)  # type: ignore[arg-type]


def _name_rows(axes: Axes, methods: Sequence[str]) -> None:
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.4, -0.6)
