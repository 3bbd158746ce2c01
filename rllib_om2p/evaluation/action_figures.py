"""Pictures of policies' actions over the data's: which of several ways to act a policy keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from rllib_om2p.evaluation.comparison_figures import GREY, Palette
from rllib_om2p.evaluation.records import Samples
from rllib_om2p.evaluation.svg import themed_figure, to_svg

_CELL_INCHES = 1.25
_GAP = 0.12
# Part of the arrays' names, and what the row shows.
_VIEWS = {"": "many observations", "_at_0": "one, data differ", "_at_1": "one, middling"}


def actions_figure(
    samples: Mapping[str, Samples], dataset: str, agent: str, palette: Palette
) -> str:
    """Draw one agent's actions by each method over the data's.

    Rows: over many observations of the data; at the observation around which the data differ most;
    at a middling one. Axes are the first two features of the action, in the environment's units.

    Args:
        samples: By method.
        dataset: For the title.
        agent: Whose.
        palette: Of the methods.
    """
    title = f"{dataset}, {agent}: actions of the policies (colour) over the data's (grey)"
    first = next(iter(samples.values()))
    views = [view for view in _VIEWS if f"{agent}/data{view}" in first]
    is_discrete = first[f"{agent}/data"].dtype.kind == "i"
    has_two = first[f"{agent}/data"].shape[1] > 1
    size = (1.2 + _CELL_INCHES * len(samples), 0.9 + _CELL_INCHES * len(views))
    with themed_figure(size) as figure:
        rows = figure.subplots(len(views), 1, squeeze=False)[:, 0]
        for axes, view in zip(rows, views, strict=True):
            pairs = [
                (arrays[f"{agent}/data{view}"].astype(float), arrays[f"{agent}/policy{view}"])
                for arrays in samples.values()
            ]
            _draw_row(axes, pairs, [palette.colour(method) for method in samples], is_discrete)
            what = "action, feature 2" if has_two else "share"
            axes.set_ylabel(f"{_VIEWS[view]}\n{what}", size=7)
        for index, method in enumerate(samples):
            place = rows[0].get_xaxis_transform()
            rows[0].text(index + _GAP / 2, 1.03, method, transform=place, fontsize=8)
        figure.supxlabel("action (number)" if is_discrete else "action, feature 1", size=8)
    return to_svg(figure, title)


def _draw_row(
    axes: Axes,
    pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]],
    colours: Sequence[str],
    is_discrete: bool,
) -> None:
    """Draw one panel per method, side by side on one pair of axes.

    A pair of axes for each takes ten times as long to draw, and a page may hold a thousand panels.

    Args:
        axes: Of the row.
        pairs: Actions of the data and of the policy, (K, A), by method.
        colours: Of the methods.
        is_discrete: Whether actions are numbers, A = 1.
    """
    values = np.concatenate([actions[:, 0] for pair in pairs for actions in pair])
    margin = 0.5 if is_discrete else 0.05 * (np.ptp(values) or 1.0)
    low, high = values.min() - margin, values.max() + margin

    def x(index: int, value: Any) -> Any:
        return index + _GAP / 2 + (1.0 - _GAP) * (value - low) / (high - low)

    for index, ((data, policy), colour) in enumerate(zip(pairs, colours, strict=True)):
        for is_policy, actions, paint in ((False, data, GREY), (True, policy, colour)):
            if is_discrete:
                shares = np.bincount(actions[:, 0].astype(int), minlength=int(high) + 1)
                places = np.arange(len(shares)) + (0.2 if is_policy else -0.2)
                width = 0.4 * (1.0 - _GAP) / (high - low)
                axes.bar(x(index, places), shares / len(actions), width=width, color=paint)
            elif actions.shape[1] == 1:
                edges = np.linspace(values.min(), values.max(), 21)
                parts = np.histogram(actions[:, 0], edges)[0] / len(actions)
                axes.stairs(parts, x(index, edges), color=paint, fill=not is_policy, alpha=0.8)
            else:
                axes.scatter(
                    x(index, actions[:, 0].astype(float)), actions[:, 1], s=4, color=paint,
                    alpha=0.6, linewidths=0, rasterized=True,
                )  # fmt: skip
    ticks = [tick for tick in MaxNLocator(3).tick_values(low, high) if low <= tick <= high]
    axes.set_xticks(
        [x(index, tick) for index in range(len(pairs)) for tick in ticks],
        [f"{tick:g}" for _ in pairs for tick in ticks],
    )
    axes.tick_params(labelsize=6)
    axes.set_xlim(0, len(pairs))
    for index in range(1, len(pairs)):
        axes.axvline(index, color=GREY, linewidth=0.5)
