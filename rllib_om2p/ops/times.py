"""Flow times of a mean-flow loss, drawn by inverse CDF; knows no network and draws no noise.

Flow time 0 is noise and 1 is the action. The density of one time is p(s; xi) ∝ exp(<xi, phi(s)>)
with phi(s) = (log s, log(1 - s), s, s^2): xi = (0, 0, 0, 0) is uniform and xi = (a-1, b-1, 0, 0) is
Beta(a, b). The basis is ours, the paper names only the family.

Source: OM2P eq. 4.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

NUM_COEFFICIENTS = 4
# Quadrature of the density: x in [-4.3, 4.3] reaches s = 1e-50 at both ends, and the step of 2e-4
# leaves an error of about 1e-8 in the CDF. Beyond 1e-50 lies a share 1e-50^(1 + xi) of the density,
# which is left out: 1e-5 at -0.9, 3 % at -0.97.
_QUADRATURE_HALF_WIDTH = 4.3
_QUADRATURE_POINTS = 43_001


class Times(NamedTuple):
    """Start and end of the jumps, `0 <= r <= t <= 1`, both (G, B, 1)."""

    r: Tensor
    t: Tensor


def time_table(
    xi: Sequence[float],
    *,
    num_points: int = 4096,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the inverse CDF of p(s; xi) at `num_points` equal steps of probability, 0 to 1.

    The density is integrated in double precision after s = 1 / (1 + exp(-pi sinh x)), which makes
    the integrand vanish at both ends even where the density itself is infinite there.

    Args:
        xi: The four coefficients; the first two must be above -1, else p has no finite integral.
        num_points: Size of the table, at least 2.
        device: Where the table goes.

    Returns:
        Tensor (num_points,) of float32, increasing from exactly 0 to exactly 1.

    Raises:
        ValueError: xi has the wrong length or no normalisable density.

    Source: OM2P eq. 4.
    """
    xi = tuple(float(coefficient) for coefficient in xi)
    if len(xi) != NUM_COEFFICIENTS or not all(math.isfinite(coefficient) for coefficient in xi):
        raise ValueError(
            f"xi must be {NUM_COEFFICIENTS} finite numbers (log s, log(1-s), s, s^2), got {xi}."
        )
    if min(xi[:2]) <= -1:
        raise ValueError(
            f"the first two numbers of xi must be above -1, got {xi}; the density has no finite "
            "integral. Beta(a, b) is xi = (a-1, b-1, 0, 0)."
        )
    if num_points < 2:
        raise ValueError(f"num_points must be at least 2, got {num_points}.")
    x = torch.linspace(
        -_QUADRATURE_HALF_WIDTH, _QUADRATURE_HALF_WIDTH, _QUADRATURE_POINTS, dtype=torch.float64
    )
    logit = math.pi * torch.sinh(x)
    s = torch.sigmoid(logit)
    log_s = torch.nn.functional.logsigmoid(logit)
    log_1ms = torch.nn.functional.logsigmoid(-logit)
    # ds/dx = s (1 - s) pi cosh x; the constant pi cancels in the normalisation.
    log_mass = (xi[0] + 1) * log_s + (xi[1] + 1) * log_1ms + xi[2] * s + xi[3] * s.square()
    log_mass = log_mass + torch.log(torch.cosh(x))
    cdf = torch.cumulative_trapezoid(torch.exp(log_mass - log_mass.max()))
    cdf = torch.cat((torch.zeros(1, dtype=torch.float64), cdf / cdf[-1]))
    probability = torch.linspace(0, 1, num_points, dtype=torch.float64)
    upper = torch.searchsorted(cdf, probability).clamp(1, _QUADRATURE_POINTS - 1)
    cell = cdf[upper] - cdf[upper - 1]
    fraction = (probability - cdf[upper - 1]) / torch.where(cell > 0, cell, 1)
    table = torch.lerp(s[upper - 1], s[upper], fraction.clamp(0, 1))
    table[0], table[-1] = 0, 1
    return table.to(device=device, dtype=torch.float32)


def sample_times(uniforms: Tensor, table: Tensor, *, instant: Tensor | None = None) -> Times:
    """Turn uniform numbers into the times r = min(s1, 1 - s2) and t = max(s1, 1 - s2).

    Args:
        uniforms: Two independent numbers in [0, 1) per jump, (2, G, B, 1).
        table: Inverse CDF from `time_table`, (num_points,).
        instant: Where True the jump is empty (t = r), (G, B, 1).

    Raises:
        ValueError: uniforms or instant has another shape.

    Source: OM2P eq. 4.
    """
    if instant is not None and instant.shape != uniforms.shape[1:]:
        raise ValueError(
            f"instant must be {tuple(uniforms.shape[1:])}, got {tuple(instant.shape)}."
        )
    first, other = independent_times(uniforms, table)
    second = 1 - other
    r, t = torch.minimum(first, second), torch.maximum(first, second)
    if instant is not None:
        t = torch.where(instant, r, t)
    return Times(r, t)


def independent_times(uniforms: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Turn uniform numbers into two times of density p(s; xi), in any order.

    Args:
        uniforms: Two independent numbers in [0, 1) per jump, (2, G, B, 1).
        table: Inverse CDF from `time_table`, (num_points,).

    Returns:
        The two times, both (G, B, 1).

    Raises:
        ValueError: uniforms has another shape.
    """
    if uniforms.ndim < 2 or uniforms.shape[0] != 2 or uniforms.shape[-1] != 1:
        raise ValueError(f"uniforms must be (2, ..., batch, 1), got {tuple(uniforms.shape)}.")
    last = table.shape[0] - 1
    position = uniforms * last
    lower = position.long().clamp(0, last - 1)
    first, second = torch.lerp(table[lower], table[lower + 1], position - lower)
    return first, second
