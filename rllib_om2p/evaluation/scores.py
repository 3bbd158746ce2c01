"""Raw returns to normalised scores; knows no environment and no dataset, only their two numbers.

A normalised score is 0 for the random policy and 100 for the expert of the same environment
(D4RL, Fu et al. 2020). Always show the raw return beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class References:
    """The two returns that fix the scale of normalised scores.

    Attributes:
        random: Mean episode return of the random policy.
        expert: Mean episode return of the expert.
        source: Where the two numbers come from.
    """

    random: float
    expert: float
    source: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.random) and math.isfinite(self.expert)):
            raise ValueError(f"reference returns must be finite, got {self}.")
        if self.random == self.expert:
            raise ValueError(f"random and expert returns must differ, got {self.random} for both.")

    @classmethod
    def from_mapping(cls, references: Mapping[str, object]) -> References | None:
        """Return the references of a dataset card or an environment, None for an empty mapping.

        Raises:
            ValueError: The mapping has some of the keys "random", "expert", "source", not all.
        """
        if not references:
            return None
        missing = {"random", "expert", "source"} - set(references)
        if missing:
            raise ValueError(f"references lack {sorted(missing)}, got {dict(references)}.")
        return cls(
            random=float(str(references["random"])),
            expert=float(str(references["expert"])),
            source=str(references["source"]),
        )


def normalised_score(returns: ArrayLike, references: References) -> NDArray[np.float64]:
    """Return 100 (returns - random) / (expert - random), elementwise.

    Args:
        returns: Raw episode returns or their means, any shape.
        references: The scale.
    """
    raw = np.asarray(returns, dtype=np.float64)
    span = references.expert - references.random
    return np.asarray(100.0 * (raw - references.random) / span)


def number(value: float) -> str:
    """Return a return as text: one decimal, or three digits if it is below 10 (see `decimals`)."""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def decimals(returns: Iterable[float]) -> int:
    """Return how many decimals returns of one table need: 1, or 3 where none is as large as 10.

    Level-based foraging earns up to 1, the others tens to thousands.
    """
    return 1 if any(abs(value) >= 10 for value in returns) else 3
