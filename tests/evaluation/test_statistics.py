"""Statistics against hand numbers, an exhaustive bootstrap, and their coverage on normal scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from rllib_om2p.evaluation import statistics
from rllib_om2p.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    differ,
    iqm,
    mean_interval,
    pool,
    probability_of_improvement,
)


def coverage(
    num_tasks: int,
    num_seeds: int,
    interval: Callable[[np.ndarray], Interval],
    repetitions: int,
    apart: float = 0.0,
) -> float:
    """Return how often an interval holds the true mean, 0, of normal scores; tasks lie `apart`."""
    generator = np.random.default_rng(1)
    means = apart * (np.arange(num_tasks) - (num_tasks - 1) / 2)[:, None]
    hits = 0
    for _ in range(repetitions):
        found = interval(means + generator.normal(size=(num_tasks, num_seeds)))
        hits += found.low <= 0.0 <= found.high
    return hits / repetitions


def by_task(scores: np.ndarray) -> dict[str, np.ndarray]:
    return {f"task {i}": row for i, row in enumerate(scores)}


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    assert iqm([1, 2, 3, 4, 5, 6, 7, 8]) == pytest.approx(4.5)
    assert iqm([[0, 1, 2, 3], [4, 5, 6, 1000]]) == pytest.approx(3.5)


def test_iqm_of_three_is_their_mean_and_of_five_drops_the_ends() -> None:
    assert iqm([1, 2, 9]) == pytest.approx(4.0)
    assert iqm([-100, 1, 2, 3, 100]) == pytest.approx(2.0)


def test_welch_tells_means_apart_by_hand_numbers() -> None:
    # t = 3 / sqrt(2 / 3) = 3.674 with 4 degrees of freedom: p = 0.0213
    assert differ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    # t = 2 / sqrt(2 / 3) = 2.449: p = 0.0705
    assert not differ([1.0, 2.0, 3.0], [3.0, 4.0, 5.0])
    # Two equal spreads of nothing.
    assert differ([1.0, 1.0], [2.0, 2.0])
    assert not differ([1.0, 1.0], [1.0, 1.0])


def test_one_seed_is_told_apart_from_nothing() -> None:
    with pytest.raises(ValueError, match="at least 2 seeds of each"):
        differ([1.0], [2.0, 3.0])


def test_mean_interval_matches_a_table_of_t() -> None:
    # mean 2, standard deviation 1, n = 3, t(0.975, 2) = 4.30265
    estimate, low, high = mean_interval([1.0, 2.0, 3.0])
    assert estimate == pytest.approx(2.0)
    assert high - estimate == pytest.approx(4.30265 / np.sqrt(3.0), rel=1e-5)
    assert estimate - low == pytest.approx(high - estimate)


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_mean_interval_covers_at_its_nominal_rate(num_seeds: int) -> None:
    # The standard error of a rate over 2000 repetitions is 0.005.
    rate = coverage(1, num_seeds, lambda x: mean_interval(x[0]), 2000)
    assert rate == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("num_tasks", "num_seeds", "apart", "expected"),
    [(1, 3, 0.0, 0.75), (4, 10, 0.0, 0.94), (4, 3, 10.0, 0.78)],
)
def test_bootstrap_coverage_is_as_documented(
    num_tasks: int, num_seeds: int, apart: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "_NUM_RESAMPLES", 500)  # in a second instead of twelve

    def interval(scores: np.ndarray) -> Interval:
        return bootstrap_interval(by_task(scores))

    found = coverage(num_tasks, num_seeds, interval, 500, apart)
    assert found == pytest.approx(expected, abs=0.04)


def test_bootstrap_matches_all_resamples_drawn_one_by_one() -> None:
    scores = {"a": [0.0, 3.0, 4.0], "b": [10.0, 11.0, 15.0]}
    values = [
        iqm(first + second)
        for first in itertools.product(scores["a"], repeat=3)
        for second in itertools.product(scores["b"], repeat=3)
    ]
    found = bootstrap_interval(scores)
    assert found.estimate == pytest.approx((3.0 + 4.0 + 10.0 + 11.0) / 4.0)
    assert found.low == pytest.approx(np.quantile(values, 0.025), abs=0.2)
    assert found.high == pytest.approx(np.quantile(values, 0.975), abs=0.2)


def test_tasks_of_a_pool_weigh_alike_whatever_their_seeds() -> None:
    scores = {"a": [0.0, 4.0, 8.0], "b": [10.0, 20.0]}
    assert pool(scores).tolist() == [0, 0, 4, 4, 8, 8, 10, 10, 10, 20, 20, 20]
    same = {"a": [1.0, 1.0, 1.0], "b": [99.0, 99.0]}
    assert bootstrap_interval(same) == Interval(50.0, 50.0, 50.0)
    equal = {"a": [1.0, 2.0], "b": [3.0, 5.0]}
    assert sorted(pool(equal)) == [1, 2, 3, 5]


def test_bootstrap_is_stratified_so_that_differences_of_tasks_do_not_widen_it() -> None:
    same = {"a": [1.0, 1.0, 1.0], "b": [99.0, 99.0, 99.0]}
    assert bootstrap_interval(same) == Interval(50.0, 50.0, 50.0)


def test_bootstrap_repeats() -> None:
    scores = {"a": [1.0, 2.0, 4.0, 8.0]}
    assert bootstrap_interval(scores) == bootstrap_interval(scores)


def test_probability_of_improvement_by_hand() -> None:
    # Task a: 2 beats 1, ties 2 (half), beats 0; 3 beats all: (1 + .5 + 1 + 3) / 6. Task b: never.
    ours = {"a": [2.0, 3.0], "b": [0.0, 0.0]}
    theirs = {"a": [1.0, 2.0, 0.0], "b": [1.0, 1.0]}
    found = probability_of_improvement(ours, theirs)
    assert found.estimate == pytest.approx((5.5 / 6.0 + 0.0) / 2.0)
    assert found.low <= found.estimate <= found.high


def test_probability_of_improvement_turns_round_when_swapped() -> None:
    generator = np.random.default_rng(0)
    ours, theirs = by_task(generator.normal(size=(3, 5))), by_task(generator.normal(size=(3, 4)))
    forward = probability_of_improvement(ours, theirs).estimate
    assert forward + probability_of_improvement(theirs, ours).estimate == pytest.approx(1.0)


def test_probability_of_improvement_of_clear_winner_is_1() -> None:
    found = probability_of_improvement({"a": [5.0, 6.0]}, {"a": [1.0, 2.0]})
    assert found == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: iqm([]), "empty"),
        (lambda: iqm([1.0, float("nan")]), "1 values that are not finite"),
        (lambda: mean_interval([1.0]), "at least 2 seeds, got 1"),
        (lambda: bootstrap_interval({}), "no task"),
        (lambda: bootstrap_interval({"a": [1.0]}), r"'a'.* has 1 score"),
        (lambda: probability_of_improvement({"a": [1, 2]}, {"b": [1, 2]}), "same tasks"),
    ],
)
def test_misuse_is_refused_with_the_remedy(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
