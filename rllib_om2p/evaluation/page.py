"""One HTML page that needs nothing beside it: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from rllib_om2p.evaluation.report import Table

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: #0a66c2; }
@media (prefers-color-scheme: dark) {
  :root { --link: #7db7ff; }
  body { background: #14161a; color: #e6e8eb; }
}
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
nav a { margin-right: 1rem; }
a { color: var(--link); }
.wide { overflow-x: auto; }
svg { display: block; height: auto; margin: .3rem 0; }
figure { margin: 1rem 0; }
figcaption { font-weight: 600; font-size: .9rem; }
table { border-collapse: collapse; font-size: .85rem; margin: .5rem 0; }
th, td { padding: .2rem .6rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid var(--line); font-weight: 600; }
tr:nth-child(even) td { background: var(--soft); }
.word { text-align: left; }
.note { opacity: .8; max-width: 60rem; }
.warning { border-left: 3px solid #d55e00; padding-left: .8rem; }
summary { cursor: pointer; }
"""


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        title: Heading.
        parts: HTML, in order.
        folded: Shown only when opened.
    """

    title: str
    parts: Sequence[str]
    folded: bool = False


def page(title: str, intro: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the whole page."""
    links = " ".join(
        f'<a href="#{_anchor(section.title)}">{html.escape(section.title)}</a>'
        for section in sections
    )
    body = "\n".join(_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{html.escape(title)}</h1>\n" + "\n".join(intro) + f"\n<nav>{links}</nav>\n{body}\n"
        "</body></html>\n"
    )


def paragraph(text: str, kind: str = "note") -> str:
    """Return a paragraph of plain text."""
    return f'<p class="{kind}">{html.escape(text)}</p>'


def heading(text: str) -> str:
    """Return a heading inside a section."""
    return f"<h3>{html.escape(text)}</h3>"


def bullets(lines: Sequence[str]) -> str:
    """Return a list of plain lines."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def table(found: Table) -> str:
    """Return a table; columns of words stand left, numbers right."""
    kinds = [' class="word"' if name in found.words else "" for name in found.header]
    head = "".join(
        f"<th{kind}>{html.escape(name)}</th>"
        for kind, name in zip(kinds, found.header, strict=True)
    )
    cells = [
        [f"<b>{html.escape(c)}</b>" if (i, j) in found.strong else html.escape(c) for j, c in row]
        for i, row in enumerate(map(enumerate, found.rows))
    ]
    rows = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in cells
    )
    return f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def folded(summary: str, inner: str) -> str:
    """Return a part that opens at a click on its summary."""
    return f"<details><summary>{html.escape(summary)}</summary>{inner}</details>"


def picture(svg: str) -> str:
    """Return a picture that scrolls where the window is narrow."""
    return f'<div class="wide">{svg}</div>'


def _section(section: Section) -> str:
    inner = "\n".join(section.parts)
    anchor = f'<h2 id="{_anchor(section.title)}">{html.escape(section.title)}</h2>'
    if section.folded:
        return f"{anchor}{folded('show', inner)}"
    return f"{anchor}\n{inner}"


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())
