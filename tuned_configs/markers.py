"""Replaces what stands between two marks of a Markdown file; the words around are a person's."""

from __future__ import annotations

from pathlib import Path

from rllib_om2p.disk import write_text_whole

END = "<!-- end -->"


def begin(command: str) -> str:
    """Return the mark before what `python -m command` writes."""
    return f"<!-- begin: written by {command} -->"


def replace_between(file: Path, mark: str, text: str) -> None:
    """Put `text` between `mark` and the next `END`.

    Raises:
        ValueError: The file lacks the mark, or an end after it.
    """
    before, found, rest = file.read_text(encoding="utf-8").partition(mark)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{file} must hold {mark} and, after it, {END}; add both lines.")
    write_text_whole(file, f"{before}{mark}\n\n{text}\n\n{END}{after}")
