"""What several commands share: how paths are shown, which checkpoint is meant."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

AddCommand = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]
"""Adds a command by its name, what runs it and its help, and returns its parser."""


def say(line: str) -> None:
    """Print a line of progress at once, into a pipe too."""
    print(line, flush=True)


def shortest(path: Path) -> str:
    """Return a path as the user would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def checkpoint_path(given: str) -> Path:
    """Return the checkpoint at a path, or the one of the run at that path."""
    from rllib_om2p.core.checkpoint import MARKER, standing
    from rllib_om2p.core.run import CHECKPOINT

    path = Path(given).expanduser()
    of_run = path / CHECKPOINT
    if not (path / MARKER).exists() and (standing(of_run) / MARKER).exists():
        return of_run
    return path


def add_prey(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the prey of the data lies."""
    parser.add_argument(
        "--prey", metavar="FILE", help="where the prey of the data lies, if it is not our own"
    )
