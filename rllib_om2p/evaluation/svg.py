"""Figures as SVG text that stands inside a page and takes its text colour, light or dark.

Text and axes are drawn in one ink, which becomes `currentColor`. Knows no data.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

_INK = "#123457"  # no colour of a picture; replaced by currentColor
_PALETTE = 64  # colours of a picture of pixels, enough for two kinds of translucent dots
_THEME: Any = {
    "svg.fonttype": "none",
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
}


@contextmanager
def themed_figure(size: tuple[float, float]) -> Iterator[Figure]:
    """Give a figure of a size in inches to draw on."""
    with mpl.rc_context(_THEME):
        figure = Figure(figsize=size, dpi=110, layout="constrained")
        FigureCanvasSVG(figure)
        yield figure


def to_svg(figure: Figure, title: str) -> str:
    """Return the picture as an element of a page: no other file, its own ids, the page's ink.

    The title stands above it as text of the page, which wraps where the picture is narrow.
    """
    file = io.StringIO()
    with mpl.rc_context(_THEME | {"svg.hashsalt": title}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"(?<=data:image/png;base64,)[^\"]+", lambda found: _smaller(found[0]), text)
    referenced = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in referenced else "", text)
    text = text.replace(_INK, "currentColor").replace(_INK.lower(), "currentColor")
    width = 96.0 * figure.get_figwidth()
    svg = re.sub(
        r'<svg\b[^>]*?viewBox="([^"]+)"[^>]*>',
        lambda found: (
            f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{found[1]}" role="img" '
            f'aria-label="{html.escape(title)}" style="width:{width:.0f}px">'
        ),
        text,
        count=1,
    )
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{svg}</figure>"


def _smaller(png: str) -> str:
    """Return a picture of few colours as a third of its bytes: a page may hold a thousand."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        few = picture.quantize(_PALETTE, method=Image.Quantize.FASTOCTREE)
    file = io.BytesIO()
    few.save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
