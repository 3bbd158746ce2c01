"""How sure a comparison over few seeds is; knows nothing of where the numbers come from.

Scores are a mapping from task to one number per seed (a seed's mean over its evaluation episodes).
Seeds are the unit of chance: a thousand episodes of one training run say nothing about the next.

- One task, few seeds: `mean_interval`, Student's t. It is exact for normal scores at any number.
- Many tasks together: `iqm` of their `pool`, in which every task weighs alike, with
  `bootstrap_interval`, which resamples the seeds within each task (stratified), so that the set of
  tasks stays fixed.

A percentile bootstrap over few seeds is too narrow, since resampling n numbers shrinks their
variance by (n - 1) / n; and where the tasks' means lie far apart the interquartile mean rests on
the middle ones alone. Share of nominal 95 % intervals that held the true mean, standard normal
scores, 500 to 2000 repetitions (tests/evaluation/test_statistics.py repeats some of them):

| tasks x seeds | 1 x 3 | 1 x 5 | 1 x 10 | 4 x 3 | 4 x 5 | 4 x 10 | 12 x 3 | 12 x 5 |
|---|---|---|---|---|---|---|---|---|
| bootstrap, iqm | 75 % | 91 % | 94 % | 87 % | 92 % | 94 % | 90 % | 91 % |
| the same, tasks 10 deviations apart | | | | 78 % | 90 % | 92 % | 87 % | 93 % |
| Student's t | 95 % | 96 % | 96 % | | | | | |

Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

_Floats = NDArray[np.float64]

_CUT = 0.25  # what "interquartile" means: a quarter off each end
_CONFIDENCE = 0.95  # that an interval holds the true value
_LEVEL = 0.05  # largest two-sided p value of a difference
_NUM_RESAMPLES = 10_000
_SEED = 0  # of the resampling, so that a comparison has the same intervals every time


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    estimate: float
    low: float
    high: float


def iqm(scores: ArrayLike) -> float:
    """Return the interquartile mean: the mean of the middle half of all scores.

    Less noisy than the median, and unlike the mean one lucky run does not move it. Of n scores
    floor(n / 4) fall away at each end, so with 3 or fewer it is the mean.
    """
    return float(stats.trim_mean(_checked(scores, "scores").reshape(-1), _CUT))


def pool(scores: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """Return all tasks' scores together, each as often as makes every task weigh alike.

    Args:
        scores: Task to one number per seed, at least one each.

    Raises:
        ValueError: No task, one without a score, or a score that is not finite.
    """
    if not scores:
        raise ValueError("scores holds no task.")
    checked = [_checked(values, f"scores[{task!r}]").reshape(-1) for task, values in scores.items()]
    return _pooled(checked, axis=-1)


def _pooled(samples: Sequence[_Floats], axis: int) -> _Floats:
    least = math.lcm(*(sample.shape[axis] for sample in samples))
    return np.concatenate(
        [np.repeat(sample, least // sample.shape[axis], axis) for sample in samples], axis=axis
    )


def mean_interval(scores: ArrayLike) -> Interval:
    """Return the mean of one task's scores with Student's t interval, 95 %.

    Args:
        scores: One number per seed, at least two.

    Raises:
        ValueError: Fewer than two scores, or one that is not finite.
    """
    values = _checked(scores, "scores").reshape(-1)
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {len(values)}; run more seeds.")
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    half = float(stats.t.ppf((1.0 + _CONFIDENCE) / 2.0, df=len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def differ(scores: ArrayLike, others: ArrayLike) -> bool:
    """Return whether Welch's t test tells the means of two methods on one task apart, p 0.05.

    With three seeds it misses all but large differences: what it does not tell apart need not be
    equal.

    Args:
        scores: One number per seed.
        others: The same for the other method.

    Raises:
        ValueError: Fewer than two scores of either, or one that is not finite.
    """
    first = _checked(scores, "scores").reshape(-1)
    second = _checked(others, "others").reshape(-1)
    if min(len(first), len(second)) < 2:
        raise ValueError("a test needs at least 2 seeds of each method; run more seeds.")
    if not np.ptp(first) and not np.ptp(second):  # the test divides by the spread
        return bool(first[0] != second[0])
    return bool(stats.ttest_ind(first, second, equal_var=False).pvalue <= _LEVEL)


def bootstrap_interval(scores: Mapping[str, ArrayLike]) -> Interval:
    """Return the `iqm` over all tasks with its stratified percentile bootstrap interval, 95 %.

    Each resample draws every task's seeds with replacement and pools them (see `pool`). Normalise
    the scores first: raw returns of different tasks do not pool.

    Args:
        scores: Task to one number per seed, at least two each.

    Raises:
        ValueError: No task, a task with fewer than two scores, or a score that is not finite.
    """
    tasks = _checked_tasks(scores, "scores")

    def of_pool(*samples: _Floats, axis: int) -> _Floats:
        return np.asarray(stats.trim_mean(_pooled(samples, axis), _CUT, axis=axis))

    return _percentile_bootstrap(list(tasks.values()), of_pool, _NUM_RESAMPLES)


def probability_of_improvement(
    scores: Mapping[str, ArrayLike],
    others: Mapping[str, ArrayLike],
    *,
    num_resamples: int = _NUM_RESAMPLES,
) -> Interval:
    """Return the chance that a run of the first beats one of the second on a random task.

    Per task the share of pairs with first > second, ties counted half (Mann-Whitney); then the mean
    over tasks. 0.5 is no difference. It says how often, not by how much. The interval is as that of
    `bootstrap_interval`.

    Args:
        scores: Task to one number per seed of the first method.
        others: The same tasks for the second; the numbers of seeds may differ.
        num_resamples: More make the ends less noisy.

    Raises:
        ValueError: The tasks differ, one has fewer than two scores, or a score is not finite.
    """
    first, second = _checked_tasks(scores, "scores"), _checked_tasks(others, "others")
    if set(first) != set(second):
        raise ValueError(
            f"both must hold the same tasks, got {sorted(first)} and {sorted(second)}; "
            "leave out the tasks that only one of them ran."
        )
    samples = [values for task in first for values in (first[task], second[task])]

    def share_of_wins(*pairs: _Floats, axis: int) -> _Floats:
        if axis != -1:
            raise AssertionError("scipy resamples along the last axis")
        wins = [_wins(ours, theirs) for ours, theirs in zip(pairs[0::2], pairs[1::2], strict=True)]
        return np.asarray(np.mean(wins, axis=0))

    return _percentile_bootstrap(samples, share_of_wins, num_resamples)


def _wins(ours: _Floats, theirs: _Floats) -> _Floats:
    """Return the share of pairs that ours wins, (...), from (..., n) and (..., m)."""
    difference = np.sign(ours[..., :, None] - theirs[..., None, :])
    return np.asarray((difference.mean(axis=(-2, -1)) + 1.0) / 2.0)


def _percentile_bootstrap(samples: list[_Floats], statistic: Any, num_resamples: int) -> Interval:
    result = stats.bootstrap(
        samples,
        statistic,
        vectorized=True,
        axis=-1,
        confidence_level=_CONFIDENCE,
        n_resamples=num_resamples,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    )
    low, high = result.confidence_interval
    return Interval(float(statistic(*samples, axis=-1)), float(low), float(high))


def _checked_tasks(scores: Mapping[str, ArrayLike], name: str) -> dict[str, _Floats]:
    if not scores:
        raise ValueError(f"{name} holds no task.")
    tasks = {
        task: _checked(values, f"{name}[{task!r}]").reshape(-1) for task, values in scores.items()
    }
    for task, values in tasks.items():
        if len(values) < 2:
            raise ValueError(
                f"{name}[{task!r}] has {len(values)} score; resampling needs at least 2 seeds."
            )
    return tasks


def _checked(values: ArrayLike, name: str) -> _Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"{name} is empty.")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} holds {int((~np.isfinite(array)).sum())} values that are not finite; "
            "leave out or rerun the runs that failed, and say so."
        )
    return array
