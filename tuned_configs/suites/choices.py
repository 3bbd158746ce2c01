"""What the search chose, for the suites that follow it.

`python -m tuned_configs.choose` writes `choices.json`: for each method and quality of data the
settings, the means they were chosen by, and who made them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("choices.json")


def read_choices() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the chosen settings by method and quality, none before the first search."""
    if not FILE.exists():
        return {}
    chosen: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))["chosen"]
    return {
        method: {quality: found["settings"] for quality, found in by_quality.items()}
        for method, by_quality in chosen.items()
    }
