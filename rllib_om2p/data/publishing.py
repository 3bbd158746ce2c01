"""Moves a whole dataset into place, or in the place of a former one, or nothing.

Knows the names of files. A dataset is written in a hidden directory, its card last. Publishing
moves the former dataset's files into the hidden directory `.former`, its card first, then the new
ones one level up, their card last. So while files of both lie about there is no card, the directory
does not open, and `settle` puts the former state back, in this process or in the next writer's.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from rllib_om2p.data.schema import CARD_NAME

logger = logging.getLogger(__name__)

FORMER_NAME = ".former"


def publish(writing: Path, names: Sequence[str], former: Sequence[Path]) -> None:
    """Move a dataset one level up; call `settle` afterwards, after an error as well.

    Args:
        writing: The hidden directory that holds the files and the card, all synced to disk.
        names: The files that the card names.
        former: What they replace: the card first.
    """
    directory = writing.parent
    if former:
        (directory / FORMER_NAME).mkdir()
    for path in former:
        os.replace(path, directory / FORMER_NAME / path.name)
    for name in names:
        os.replace(writing / name, directory / name)
    _sync(directory)
    os.replace(writing / CARD_NAME, directory / CARD_NAME)
    _sync(directory)


def settle(writing: Path) -> None:
    """End what `publish` began, wherever it stopped.

    With a card in place nothing remains but to remove the former dataset; else everything goes back
    to where it came from.

    Raises:
        OSError: A file could not be moved; the next call goes on.
    """
    directory, former = writing.parent, writing.parent / FORMER_NAME
    if not (directory / CARD_NAME).exists():
        for name in named_files(writing / CARD_NAME) or ():
            if (directory / name).exists() and not (writing / name).exists():
                os.replace(directory / name, writing / name)
        if former.exists():
            logger.warning("Putting the dataset of %s back, which was not replaced.", directory)
            for path in sorted(former.iterdir(), key=lambda path: path.name == CARD_NAME):
                os.replace(path, directory / path.name)
    shutil.rmtree(former, ignore_errors=True)


def named_files(card: Path) -> set[str] | None:
    """Return the names of the files of a dataset; None if there is no readable card."""
    try:
        return {entry["name"] for entry in json.loads(card.read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.debug("No card at %s: %s", card, error)
        return None


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
