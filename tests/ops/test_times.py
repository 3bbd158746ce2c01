"""Time distributions against scipy's laws and against numerical quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from rllib_om2p.ops.times import independent_times, sample_times, time_table

NUM_DRAWS = 20_000
# scipy's p-value of a true null falls below this once in a thousand; the seeds are fixed.
REJECT = 1e-3


def uniforms(seed: int, num: int = NUM_DRAWS) -> torch.Tensor:
    return torch.rand(2, 1, num, 1, generator=torch.Generator().manual_seed(seed))


def sample(xi: tuple[float, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    r, t = sample_times(uniforms(seed), time_table(xi))
    return r.flatten().double().numpy(), t.flatten().double().numpy()


def neighbours(table: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of float32 next to each entry, which hold what was rounded to it.

    Where a density is large, rounding a time to float32 is what moves its CDF most.
    """
    entries = table.numpy()
    below, above = (np.nextafter(entries, np.float32(end)) for end in (0, 1))
    return below.astype(np.float64), above.astype(np.float64)


@pytest.mark.parametrize("ab", [(1, 1), (2, 5), (0.5, 0.5), (0.3, 4), (20, 20), (1, 3)])
def test_table_is_inverse_cdf_of_beta(ab: tuple[float, float]) -> None:
    table = time_table((ab[0] - 1, ab[1] - 1, 0, 0))
    probability, cdf = np.linspace(0, 1, len(table)), stats.beta(*ab).cdf
    below, above = neighbours(table)
    assert (cdf(below) < probability + 1e-6).all()
    assert (cdf(above) > probability - 1e-6).all()


def test_table_of_zero_coefficients_is_the_identity() -> None:
    table = time_table((0, 0, 0, 0), num_points=1001)
    torch.testing.assert_close(table, torch.linspace(0, 1, 1001), atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    "xi",
    [(0.0, 0.0, 3.0, 0.0), (0.5, -0.5, -2.0, 4.0), (0.0, 0.0, 20.0, -20.0), (1.0, 0.0, 0.0, -50.0)],
)
def test_table_is_inverse_cdf_of_the_normalised_density(xi: tuple[float, ...]) -> None:
    def density(s: float) -> float:
        return float(s ** xi[0] * (1 - s) ** xi[1] * np.exp(xi[2] * s + xi[3] * s**2))

    below, above = neighbours(time_table(xi, num_points=101))
    total = integrate.quad(density, 0, 1, limit=200)[0]
    for index in (1, 10, 50, 90, 99):
        low, high = (integrate.quad(density, 0, s[index], limit=200)[0] for s in (below, above))
        assert low / total - 1e-6 < index / 100 < high / total + 1e-6


@pytest.mark.parametrize("ab", [(1, 1), (2, 5), (0.5, 0.5), (5, 1)])
def test_r_and_t_follow_the_laws_of_minimum_and_maximum(ab: tuple[float, float]) -> None:
    # 1 - s2 ~ Beta(b, a): P(r > x) = P(s1 > x) P(1 - s2 > x); P(t <= x) likewise with <=.
    law, mirrored = stats.beta(*ab), stats.beta(*ab[::-1])
    r, t = sample((ab[0] - 1, ab[1] - 1, 0, 0))
    assert stats.kstest(r, lambda x: 1 - law.sf(x) * mirrored.sf(x)).pvalue > REJECT
    assert stats.kstest(t, lambda x: law.cdf(x) * mirrored.cdf(x)).pvalue > REJECT


def test_the_laws_are_told_from_wrong_ones() -> None:
    r, t = sample((1, 4, 0, 0))
    law = stats.beta(2, 5)
    # Without the mirror 1 - s2 both times would come from one law.
    assert stats.kstest(r, lambda x: 1 - law.sf(x) ** 2).pvalue < REJECT
    assert stats.kstest(t, lambda x: law.cdf(x) ** 2).pvalue < REJECT


def test_r_and_t_of_equal_draws_by_hand() -> None:
    draws = torch.tensor([[0.2, 0.9, 0.5], [0.3, 0.4, 0.5]])[:, None, :, None]
    r, t = sample_times(draws, time_table((0, 0, 0, 0)))
    torch.testing.assert_close(r.flatten(), torch.tensor([0.2, 0.6, 0.5]))
    torch.testing.assert_close(t.flatten(), torch.tensor([0.7, 0.9, 0.5]))


@pytest.mark.parametrize("xi", [(0, 0, 0, 0), (-0.9, -0.9, 0, 0), (30, 30, 0, 0), (0, 0, 50, -9)])
def test_times_are_ordered_and_inside_the_unit_interval(xi: tuple[float, ...]) -> None:
    draws = uniforms(1)
    draws[:, :, :2] = torch.tensor([0.0, 1.0])[None, None, :, None]
    r, t = sample_times(draws, time_table(xi))
    assert bool(((r >= 0) & (r <= t) & (t <= 1)).all())


def test_instant_elements_have_empty_jumps_and_leave_the_others_alone() -> None:
    draws, table = uniforms(2, 100), time_table((0, 0, 0, 0))
    instant = torch.arange(100).reshape(1, 100, 1) < 30
    plain, mixed = sample_times(draws, table), sample_times(draws, table, instant=instant)
    assert torch.equal(mixed.r, plain.r)
    assert torch.equal(mixed.t[instant], plain.r[instant])
    assert torch.equal(mixed.t[~instant], plain.t[~instant])


@pytest.mark.parametrize(
    "xi",
    [(0, 0, 0), (-1, 0, 0, 0), (0, -2, 0, 0), (0, 0, float("nan"), 0), (0, 0, 0, float("inf"))],
)
def test_xi_without_a_density_is_refused(xi: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="xi"):
        time_table(xi)


def test_uniforms_without_the_trailing_axis_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"uniforms must be \(2, \.\.\., batch, 1\), got \(2, 3, 8\)"
    ):
        sample_times(torch.rand(2, 3, 8), time_table((0, 0, 0, 0)))


def test_instant_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"instant must be \(3, 8, 1\)"):
        sample_times(
            torch.rand(2, 3, 8, 1),
            time_table((0, 0, 0, 0)),
            instant=torch.zeros(8, dtype=torch.bool),
        )


def test_independent_times_follow_the_density_each_in_any_order() -> None:
    first, second = independent_times(uniforms(3), time_table((1.0, 4.0, 0, 0)))
    law = stats.beta(2, 5)
    for times in (first, second):
        assert stats.kstest(times.flatten().double().numpy(), law.cdf).pvalue > REJECT
    assert stats.pearsonr(first.flatten(), second.flatten()).pvalue > REJECT
    # Fair coins: the standard deviation of the share is 0.0035.
    assert float((first < second).float().mean()) == pytest.approx(0.5, abs=0.015)
