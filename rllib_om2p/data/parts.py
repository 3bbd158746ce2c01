"""The journal of an unfinished dataset: which part files are whole, so that writing can go on.

Knows the hidden directory of a writer and nothing of what is written. A part is entered after it
was synced to disk, and the journal is replaced atomically; what it does not name is not trusted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rllib_om2p.disk import file_sha256, write_text_whole

logger = logging.getLogger(__name__)

JOURNAL_NAME = "journal.json"


def save_journal(directory: Path, key: str, parts: Sequence[dict[str, Any]]) -> None:
    """Enter the finished parts (entries of a dataset card) of the work called `key`."""
    write_text_whole(directory / JOURNAL_NAME, json.dumps({"key": key, "parts": list(parts)}))


def load_journal(directory: Path, key: str) -> list[dict[str, Any]]:
    """Return the entries of the parts that are whole, in order; none if other work lies there.

    A part that is missing or changed ends the list, since later ones follow from it.
    """
    whole = []
    for entry in _entries(directory, key):
        path = directory / entry["name"]
        if not path.exists() or file_sha256(path) != entry["sha256"]:
            logger.warning("%s is missing or changed; continuing from there.", path)
            break
        whole.append(entry)
    return whole


def _entries(directory: Path, key: str) -> list[dict[str, Any]]:
    try:
        journal = json.loads((directory / JOURNAL_NAME).read_text(encoding="utf-8"))
        if journal["key"] == key:
            return list(journal["parts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.debug("No journal in %s: %s", directory, error)
        return []
    logger.warning("%s holds a start of something else; beginning anew.", directory)
    return []


def remove_unfinished(directory: Path, parts: Sequence[dict[str, Any]]) -> None:
    """Remove everything but the journal and the given parts."""
    keep = {JOURNAL_NAME, *(entry["name"] for entry in parts)}
    for path in directory.iterdir():
        if path.name not in keep:
            path.unlink()
