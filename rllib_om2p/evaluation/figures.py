"""Pictures for a report: learning curve and histogram (PNG), rollout (GIF); no display, no pyplot.

The curve shows every seed as a thin line and their mean as a thick one: a band would hide how few
there are. The rollout gets a bar under each frame: caption, step, how far the episode is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from rllib_om2p.evaluation.scores import References, number

# Okabe and Ito 2008: told apart with any colour vision. Black and grey are for the lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LINE_STYLES = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))

_RETURN = "team return per episode"
_HOLD_LAST_MS = 1000

_BACKGROUND = (24, 26, 30)
_TEXT = (236, 238, 241)
_FAINT = (150, 156, 166)
_TRACK = (62, 66, 74)
_PROGRESS = (86, 180, 233)


@dataclass(frozen=True)
class Curve:
    """The evaluations of one training run.

    Attributes:
        name: Curves of one name are seeds of one method and share a colour and a legend entry.
        steps: Where it was evaluated, (N,), usually gradient updates.
        returns: Mean episode return there, (N,).
    """

    name: str
    steps: ArrayLike
    returns: ArrayLike


def save_learning_curve(
    path: str | PathLike[str],
    curves: Sequence[Curve],
    *,
    lines: Mapping[str, float] | None = None,
    references: References | None = None,
    title: str = "",
    x_label: str = "gradient updates",
) -> None:
    """Draw returns over training as a PNG.

    Args:
        path: Where to write it.
        curves: One per training run.
        lines: Returns to compare with, such as the data's mean and behaviour cloning, drawn across.
        references: Adds an axis of normalised scores on the right.
        title: What was trained on what.
        x_label: What `steps` counts.

    Raises:
        ValueError: No curve, or one whose steps do not increase or do not match its returns.
    """
    if not curves:
        raise ValueError("a learning curve needs at least one run, got none.")
    figure = Figure(figsize=(8.0, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(dict.fromkeys(curve.name for curve in curves))
    for index, name in enumerate(names):
        runs = [_points(curve) for curve in curves if curve.name == name]
        _draw_runs(axes, name, runs, _COLOURS[index % len(_COLOURS)])
    for index, (name, value) in enumerate((lines or {}).items()):
        axes.axhline(
            value,
            color="0.25",
            linewidth=1.4,
            linestyle=_LINE_STYLES[index % len(_LINE_STYLES)],
            label=f"{name} ({number(value)})",
        )
    several = len(names) < len(curves)
    parts = [title, "thin: each seed, thick: their mean" if several else ""]
    axes.set_title("; ".join(part for part in parts if part), loc="left", fontsize=11)
    axes.set_xlabel(x_label)
    axes.set_ylabel(_RETURN)
    axes.grid(alpha=0.25)
    axes.margins(x=0.02, y=0.08)
    axes.spines["top"].set_visible(False)
    if references is None:
        axes.spines["right"].set_visible(False)
    else:
        _add_normalised_axis(axes, references)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, format="png")


def save_return_histogram(
    path: str | PathLike[str],
    edges: ArrayLike,
    counts: ArrayLike,
    *,
    lines: Mapping[str, float] | None = None,
    title: str = "",
) -> None:
    """Draw how often which return occurs as a small PNG (about 20 kB).

    Args:
        path: Where to write it.
        edges: Of the bins, (B + 1,).
        counts: Episodes in each bin, (B,).
        lines: Returns to mark, such as the mean.
        title: Of which dataset.

    Raises:
        ValueError: There is not one count for each bin.
    """
    bounds, heights = np.asarray(edges, np.float64), np.asarray(counts, np.float64)
    if bounds.ndim != 1 or heights.shape != (len(bounds) - 1,) or not len(heights):
        raise ValueError(
            f"counts must be one for each bin between the edges, got {heights.shape} counts and "
            f"{bounds.shape} edges."
        )
    figure = Figure(figsize=(5.0, 2.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.stairs(heights, bounds, fill=True, color=_COLOURS[0])
    for index, (name, value) in enumerate((lines or {}).items()):
        style = _LINE_STYLES[index % len(_LINE_STYLES)]
        axes.axvline(value, color="0.15", linestyle=style, label=f"{name} ({value:.4g})")
    if lines:
        axes.legend(frameon=False, fontsize=8)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(_RETURN)
    axes.set_ylabel("episodes")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")


def _points(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    steps = np.asarray(curve.steps, dtype=np.float64).reshape(-1)
    returns = np.asarray(curve.returns, dtype=np.float64).reshape(-1)
    if len(steps) != len(returns):
        raise ValueError(
            f"curve {curve.name!r} has {len(steps)} steps and {len(returns)} returns; "
            "give one return per step."
        )
    if (np.diff(steps) <= 0.0).any():
        raise ValueError(f"steps of curve {curve.name!r} must increase, got {steps.tolist()}.")
    return steps, returns


def _draw_runs(
    axes: Axes, name: str, runs: list[tuple[NDArray[np.float64], NDArray[np.float64]]], colour: str
) -> None:
    if len(runs) == 1:
        axes.plot(*runs[0], color=colour, linewidth=2.2, marker="o", markersize=3.5, label=name)
        return
    for steps, returns in runs:
        axes.plot(steps, returns, color=colour, linewidth=0.9, alpha=0.5)
    # The mean only where every run was evaluated: a mean over fewer runs would jump.
    shared = runs[0][0]
    for steps, _ in runs[1:]:
        shared = np.intersect1d(shared, steps)
    mean = np.mean([returns[np.searchsorted(steps, shared)] for steps, returns in runs], axis=0)
    axes.plot(shared, mean, color=colour, linewidth=2.4, label=f"{name} ({len(runs)} seeds)")


def _add_normalised_axis(axes: Axes, references: References) -> None:
    span = references.expert - references.random

    def to_score(returns: Any) -> Any:
        return 100.0 * (returns - references.random) / span

    def to_return(score: Any) -> Any:
        return references.random + score * span / 100.0

    right = axes.secondary_yaxis("right", functions=(to_score, to_return))
    right.set_ylabel("normalised (random 0, expert 100)")


def save_gif(
    path: str | PathLike[str],
    frames: Sequence[NDArray[np.uint8]],
    *,
    fps: float = 10.0,
    captions: str | Sequence[str] = "",
    steps: Sequence[int] | None = None,
) -> None:
    """Write frames as a looping GIF with a bar under each: caption, step counter, progress.

    The last frame stands for a second before the loop.

    Args:
        path: Where to write it.
        frames: Pictures of one size, each (H, W, 3) uint8; frame k shows the state after step k.
        fps: Frames per second; GIF rounds to hundredths of a second.
        captions: One for all, or one per frame.
        steps: What the counter shows, one per frame; several episodes start again at 0. The
            frame's own number by default.

    Raises:
        ValueError: No frame, frames of different or wrong shapes, or another number of captions
            or steps.
    """
    _check_frames(frames)
    texts = [captions] * len(frames) if isinstance(captions, str) else list(captions)
    if len(texts) != len(frames):
        raise ValueError(f"captions must be one or {len(frames)}, one per frame, got {len(texts)}.")
    counts = list(range(len(frames))) if steps is None else list(steps)
    if len(counts) != len(frames):
        raise ValueError(f"steps must be {len(frames)}, one per frame, got {len(counts)}.")
    last = max(counts)
    pictures = [
        _with_bar(frame, text, step, last)
        for frame, text, step in zip(frames, texts, counts, strict=True)
    ]
    # One palette for all frames: with one each the colours would flicker.
    palette = _shared_palette(pictures)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    duration = max(20, round(1000.0 / fps))  # viewers slow down frames shorter than 20 ms
    indexed[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=indexed[1:],
        duration=[duration] * (len(indexed) - 1) + [max(duration, _HOLD_LAST_MS)],
        loop=0,
        optimize=True,
    )


def _check_frames(frames: Sequence[NDArray[np.uint8]]) -> None:
    if not len(frames):
        raise ValueError("a rollout needs at least one frame, got none.")
    shape = np.shape(frames[0])
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(
                f"frame {index} must be (H, W, 3) uint8, got {frame.shape} {frame.dtype}; "
                'render with render_mode="rgb_array".'
            )
        if frame.shape != shape:
            raise ValueError(f"frame {index} must be {shape} as frame 0, got {frame.shape}.")


def _with_bar(frame: NDArray[np.uint8], caption: str, step: int, last: int) -> Image.Image:
    height, width = frame.shape[:2]
    size = max(12, round(0.034 * width))
    bar, margin, line = round(2.2 * size), round(0.7 * size), max(2, size // 5)
    picture = Image.new("RGB", (width, height + bar), _BACKGROUND)
    picture.paste(Image.fromarray(frame), (0, 0))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, height, width, height + line - 1), fill=_TRACK)
    done = width if last == 0 else round(width * step / last)
    if done:
        draw.rectangle((0, height, done - 1, height + line - 1), fill=_PROGRESS)
    font = ImageFont.load_default(size)
    middle = height + line + (bar - line) / 2
    counter = f"step {step}/{last}"
    draw.text((width - margin, middle), counter, font=font, fill=_FAINT, anchor="rm")
    room = width - 3 * margin - draw.textlength(counter, font=font)
    draw.text((margin, middle), _shortened(caption, font, room), font=font, fill=_TEXT, anchor="lm")
    return picture


def _shortened(text: str, font: Any, room: float) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""


def _shared_palette(pictures: list[Image.Image]) -> Image.Image:
    # A handful of frames spread over the rollout holds all its colours.
    picks = [pictures[i] for i in sorted({round(k * (len(pictures) - 1) / 4) for k in range(5)})]
    sheet = np.concatenate([np.asarray(picture) for picture in picks], axis=0)
    return Image.fromarray(sheet).quantize(colors=256, method=Image.Quantize.MEDIANCUT)
