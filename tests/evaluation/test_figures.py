"""The pictures, read back: sizes, frames, colours where something must stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rllib_om2p.evaluation.figures import (
    Curve,
    _draw_runs,
    save_gif,
    save_learning_curve,
    save_return_histogram,
)
from rllib_om2p.evaluation.scores import References


def frames(count: int, size: int = 240) -> list[np.ndarray]:
    """Return white frames with a red square that moves right."""
    pictures = []
    for k in range(count):
        picture = np.full((size, size, 3), 255, dtype=np.uint8)
        picture[100:140, 10 + 10 * k : 50 + 10 * k] = (200, 30, 30)
        pictures.append(picture)
    return pictures


def read_gif(path: Path) -> list[np.ndarray]:
    pictures = []
    with Image.open(path) as image:
        for k in range(image.n_frames):
            image.seek(k)
            pictures.append(np.asarray(image.convert("RGB")).astype(int))
    return pictures


def has_colour(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    return bool((np.abs(picture - np.array(colour)).max(axis=-1) <= tolerance).any())


def test_learning_curve_shows_every_method_and_line(tmp_path: Path) -> None:
    steps = [0, 100, 200]
    curves = [Curve("OM2P", steps, [1, 2, 3]), Curve("OM2P", steps, [1, 3, 4])]
    curves.append(Curve("VDN", steps, [0, 3, 5]))
    save_learning_curve(
        tmp_path / "curve.png",
        curves,
        lines={"data mean": 2.0, "BC": 1.5},
        references=References(random=0.0, expert=5.0, source="test"),
        title="a title",
    )
    with Image.open(tmp_path / "curve.png") as image:
        assert image.format == "PNG"
        assert image.size == (1200, 690)
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert has_colour(pixels, (0, 114, 178))
    assert has_colour(pixels, (213, 94, 0))
    assert has_colour(pixels, (64, 64, 64))


def test_runs_evaluated_at_different_steps_are_averaged_where_all_were(tmp_path: Path) -> None:
    """The thick line goes from (0, 0) to (2, 3): the runs' means at 0 and 2, and nowhere else."""
    axes = Figure().add_subplot()
    one = (np.array([0.0, 1.0, 2.0]), np.array([0.0, 9.0, 2.0]))
    two = (np.array([0.0, 2.0, 4.0]), np.array([0.0, 4.0, 9.0]))
    _draw_runs(axes, "OM2P", [one, two], "black")
    thick = max(axes.lines, key=lambda line: line.get_linewidth())
    np.testing.assert_array_equal(thick.get_xydata(), [[0, 0], [2, 3]])
    save_learning_curve(tmp_path / "curve.png", [Curve("OM2P", *one), Curve("OM2P", *two)])
    with Image.open(tmp_path / "curve.png") as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([], "at least one run"),
        ([Curve("OM2P", [0, 1], [1.0])], "2 steps and 1 returns"),
        ([Curve("OM2P", [1, 0], [1.0, 2.0])], "must increase"),
    ],
)
def test_bad_curves_are_refused(tmp_path: Path, curves: list[Curve], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save_learning_curve(tmp_path / "curve.png", curves)


def test_histogram_is_small_and_shows_its_bars_and_lines(tmp_path: Path) -> None:
    edges, counts = np.linspace(-3.0, 5.0, 41), np.arange(40)
    save_return_histogram(tmp_path / "bare.png", edges, counts, title="medium")
    save_return_histogram(tmp_path / "lined.png", edges, counts, lines={"mean": 0.5})
    pixels = {}
    for name in ("bare", "lined"):
        file = tmp_path / f"{name}.png"
        assert file.stat().st_size < 30_000
        with Image.open(file) as image:
            pixels[name] = np.asarray(image.convert("RGB")).astype(int)
    blue = np.abs(pixels["bare"] - np.array((0, 114, 178))).max(axis=-1) <= 12
    columns = np.flatnonzero(blue.any(axis=0))
    # The bars grow from left to right.
    heights = blue[:, columns].sum(axis=0)
    assert heights[-5] > heights[len(heights) // 2] > heights[5]
    assert has_colour(pixels["lined"], (38, 38, 38))


@pytest.mark.parametrize("counts", [[1, 2, 3], [], [[1, 2]]])
def test_a_histogram_needs_one_count_per_bin(tmp_path: Path, counts: list[int]) -> None:
    with pytest.raises(ValueError, match="one for each bin"):
        save_return_histogram(tmp_path / "x.png", [0.0, 1.0, 2.0], counts)


def test_gif_keeps_the_frames_and_adds_a_bar_that_fills(tmp_path: Path) -> None:
    originals = frames(5)
    save_gif(tmp_path / "rollout.gif", originals, fps=10, captions="OM2P")
    pictures = read_gif(tmp_path / "rollout.gif")
    assert len(pictures) == 5
    filled = []
    for picture, original in zip(pictures, originals, strict=True):
        assert picture.shape[0] > 240
        assert picture.shape[1] == 240
        assert np.abs(picture[:240] - original).max() <= 12
        blue = np.abs(picture[240] - np.array((86, 180, 233))).max(axis=-1) <= 12
        filled.append(int(blue.sum()))
    assert filled == [0, 60, 120, 180, 240]


def test_gif_caption_changes_with_the_step(tmp_path: Path) -> None:
    save_gif(tmp_path / "rollout.gif", frames(3), captions=["one", "two", "one"])
    first, second, third = (picture[245:, :100] for picture in read_gif(tmp_path / "rollout.gif"))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, third)


def test_gif_bar_starts_again_with_each_episode(tmp_path: Path) -> None:
    save_gif(tmp_path / "rollout.gif", frames(4), steps=[0, 1, 0, 1])
    filled = [
        int((np.abs(picture[240] - np.array((86, 180, 233))).max(axis=-1) <= 12).sum())
        for picture in read_gif(tmp_path / "rollout.gif")
    ]
    assert filled == [0, 240, 0, 240]
    with pytest.raises(ValueError, match="steps must be 4"):
        save_gif(tmp_path / "rollout.gif", frames(4), steps=[0, 1])


def test_gif_timing_follows_fps_and_holds_the_last_frame(tmp_path: Path) -> None:
    save_gif(tmp_path / "rollout.gif", frames(3), fps=8)
    durations = []
    with Image.open(tmp_path / "rollout.gif") as image:
        assert image.info["loop"] == 0
        for k in range(image.n_frames):
            image.seek(k)
            durations.append(image.info["duration"])
    assert durations == [120, 120, 1000]


def test_long_caption_leaves_room_for_the_counter(tmp_path: Path) -> None:
    save_gif(tmp_path / "long.gif", frames(2), captions="a very long caption " * 20)
    save_gif(tmp_path / "none.gif", frames(2))
    long, none = read_gif(tmp_path / "long.gif")[0], read_gif(tmp_path / "none.gif")[0]
    np.testing.assert_allclose(long[245:, -60:], none[245:, -60:], atol=12)


def test_single_frame_is_a_gif_too(tmp_path: Path) -> None:
    save_gif(tmp_path / "one.gif", frames(1))
    assert len(read_gif(tmp_path / "one.gif")) == 1


@pytest.mark.parametrize(
    ("pictures", "captions", "message"),
    [
        ([], "", "at least one frame"),
        ([np.zeros((4, 4, 3), dtype=np.float32)], "", "uint8"),
        ([np.zeros((4, 4), dtype=np.uint8)], "", "uint8"),
        (
            [np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((5, 4, 3), dtype=np.uint8)],
            "",
            "frame 1 must be",
        ),
        ([np.zeros((4, 4, 3), dtype=np.uint8)], ["a", "b"], "captions must be one or 1"),
    ],
)
def test_bad_frames_are_refused(
    tmp_path: Path, pictures: list[np.ndarray], captions: str | list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        save_gif(tmp_path / "rollout.gif", pictures, captions=captions)
