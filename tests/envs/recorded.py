"""The transitions that the papers' simulator recorded, by task."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).parents[1] / "fixtures" / "mpe_transitions.npz"
TASKS = ("simple_spread", "simple_tag", "simple_world")
PREY_TASKS = TASKS[1:]


@functools.cache
def recorded(task: str) -> dict[str, Any]:
    """Return the arrays of a task by name, (episode, step, ...), float64."""
    with np.load(FILE) as file:
        return {key.split("/")[1]: file[key] for key in file if key.startswith(f"{task}/")}


class RecordedPrey:
    """Acts as the recorded prey did; `episodes` says which worlds play, `seen` what it was shown.

    The step is counted by the calls.
    """

    def __init__(self, task: str, episodes: Any = slice(None)) -> None:
        self._actions = recorded(task)["prey_action"][episodes]
        self.seen: list[Any] = []

    def __call__(self, obs: Any) -> Any:
        self.seen.append(np.array(obs))
        return self._actions[:, len(self.seen) - 1]
