"""Pictures inside a page: dots drawn as pixels stay what they were, in far fewer bytes."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from rllib_om2p.evaluation import svg
from rllib_om2p.evaluation.svg import themed_figure, to_svg


def dots() -> str:
    places = np.random.default_rng(0).uniform(-1, 1, (2, 300))
    with themed_figure((1.5, 1.5)) as figure:
        axes = figure.subplots()
        for colour in ("#888888", "#d55e00"):
            axes.scatter(*places, s=4, color=colour, alpha=0.6, linewidths=0, rasterized=True)
            places = places[::-1]
        return to_svg(figure, "dots")


def pixels(picture: str) -> tuple[np.ndarray, int]:
    """Return the picture's pixels, colours times opacity, and its size in bytes."""
    (found,) = re.findall(r'data:image/png;base64,([^"]+)"', picture)
    png = base64.b64decode(found)
    rgba = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"), dtype=float) / 255
    return rgba[..., :3] * rgba[..., 3:], len(png)


def test_pixels_of_dots_keep_their_colours_in_half_the_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, few_bytes = pixels(dots())
    monkeypatch.setattr(svg, "_smaller", lambda png: png)
    exact, many_bytes = pixels(dots())
    assert few_bytes < many_bytes / 2
    assert exact.max() > 0.4  # dots were drawn
    assert np.abs(small - exact).mean() < 0.01


def test_the_same_picture_is_the_same_text() -> None:
    assert dots() == dots()
