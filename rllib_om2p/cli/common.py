"""What several commands share: how paths are shown, which checkpoint is meant."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Callable
from pathlib import Path

from rllib_om2p.disk import local_path

AddCommand = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]
"""Adds a command by its name, what runs it and its help, and returns its parser."""


def say(line: str) -> None:
    """Print a line of progress at once, into a pipe too."""
    print(line, flush=True)


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads a whole number of an option, for argparse."""

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):
            if int(text) >= least:
                return int(text)
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least {least}, got {text!r}."
        )

    return read


def hint(*words: str | Path) -> str:
    """Return a command of this package as a shell takes it; single words such as DIR stay."""
    return "rllib-om2p " + " ".join(shlex.quote(str(word)) for word in words)


def shortest(path: Path) -> str:
    """Return a path as the user would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def checkpoint_path(given: str) -> Path:
    """Return the checkpoint at a path, or the one of the run at that path."""
    from rllib_om2p.core.checkpoint import MARKER, standing
    from rllib_om2p.core.run import CHECKPOINT

    path = local_path(given)
    of_run = path / CHECKPOINT
    if not (path / MARKER).exists() and (standing(of_run) / MARKER).exists():
        return of_run
    return path


def add_prey(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the prey of the data lies."""
    parser.add_argument(
        "--prey", metavar="FILE", help="where the prey of the data lies, if it is not our own"
    )
