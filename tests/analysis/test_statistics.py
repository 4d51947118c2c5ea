"""Rank statistics against slow enumeration, and how often they are wrong."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilebox_local.analysis.statistics import exceedance, holm, mann_whitney_by_group, median, rank_p, rank_sum

SMALL = st.lists(st.integers(0, 6), min_size=1, max_size=5)


def u_of(first: list[int], second: list[int]) -> float:
    """Mann-Whitney's U by its definition: pairs in which the first is larger, ties counted half."""
    return sum((a > b) + (a == b) / 2 for a in first for b in second)


def u_of_all_choices(first: list[int], second: list[int]) -> list[float]:
    """U of each way to divide the values into two samples of these sizes."""
    values = first + second
    return [
        u_of([values[i] for i in chosen], [v for i, v in enumerate(values) if i not in chosen])
        for chosen in map(set, itertools.combinations(range(len(values)), len(first)))
    ]


@given(SMALL, SMALL)
def test_rank_sum_is_exact(first: list[int], second: list[int]) -> None:
    """p is the share of all divisions of the values that are at least as extreme, also with ties."""
    observed, every = u_of(first, second), u_of_all_choices(first, second)
    larger = sum(u >= observed for u in every) / len(every)
    smaller = sum(u <= observed for u in every) / len(every)
    assert rank_sum(first, second) == (larger, smaller)


@given(SMALL, SMALL)
def test_mann_whitney_by_its_formula(first: list[int], second: list[int]) -> None:
    """U and the correction for ties are those of the definition; equal values give p = 1."""
    n, m = len(first), len(second)
    total = n + m
    ties = sum(t**3 - t for t in (([*first, *second]).count(v) for v in set(first + second)))
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    z = (abs(u_of(first, second) - n * m / 2) - 0.5) / math.sqrt(variance) if variance else 0.0
    expected = min(1.0, math.erfc(z / math.sqrt(2))) if variance else 1.0
    values = np.array(first + second)
    is_first = np.array([True] * n + [False] * m)
    found = mann_whitney_by_group(np.zeros(total, dtype=np.int64), is_first, values, 1)
    assert found.tolist() == pytest.approx([expected])


def test_mann_whitney_of_groups() -> None:
    """Each group has the p that it has alone; one without both samples, and one without values, have 1."""
    rng = np.random.default_rng(7)
    groups = rng.integers(0, 4, 400)
    groups[groups == 1] = 2
    is_first = rng.random(400) < 0.4
    is_first[groups == 3] = True
    values = rng.integers(0, 50, 400) + 5 * is_first
    alone = []
    for group in range(5):
        of = groups == group
        alone += mann_whitney_by_group(np.zeros(of.sum(), dtype=np.int64), is_first[of], values[of], 1).tolist()
    found = mann_whitney_by_group(groups, is_first, values, 5).tolist()
    assert found == alone
    assert [p == 1 for p in found] == [False, True, False, True, True]


@pytest.mark.parametrize("sizes", [(5, 5), (6, 8), (12, 20)])
def test_mann_whitney_is_near_the_exact_one(sizes: tuple[int, int]) -> None:
    """The normal approximation differs from the exact two-sided p by less than 0.03."""
    rng = np.random.default_rng(3)
    worst = 0.0
    for _ in range(100):
        first, second = (rng.permutation(1000)[:size].tolist() for size in sizes)
        exact = min(1.0, 2 * min(rank_sum(first, second)))
        is_first = np.arange(sum(sizes)) < sizes[0]
        (p,) = mann_whitney_by_group(np.zeros(sum(sizes), dtype=np.int64), is_first, np.array(first + second), 1)
        worst = max(worst, abs(p - exact))
    assert worst < 0.03


def test_holm() -> None:
    """The example of Holm's paper's method: the smallest p times 4, the next times 3, never falling, at most 1."""
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.integers(-(10**18), 10**18), min_size=1))
def test_median(values: list[int]) -> None:
    """Half of the values are on either side; the mean of two middle ones is rounded down."""
    ordered = sorted(values)
    middle = ordered[(len(values) - 1) // 2 : len(values) // 2 + 1]
    assert median(values) == sum(middle) // len(middle)


def test_rank_p() -> None:
    """Only the rank counts; those that are equal count as larger."""
    assert [rank_p(value, [1, 2, 2, 4]) for value in (0, 1, 2, 3, 5)] == [1.0, 1.0, 0.8, 0.4, 0.2]


def test_exceedance_has_no_gap() -> None:
    """A value that is not beyond all others has the p of its rank, in either direction."""
    others = [10, 20, 20, 40, 80]
    assert [exceedance(value, others) for value in (20, 80)] == [5 / 6, 2 / 6]
    assert [exceedance(value, others, below=True) for value in (20, 10)] == [4 / 6, 2 / 6]
    assert exceedance(7, [7] * 9) == 1.0
    assert exceedance(8, [7] * 9) == 0.0


def test_exceedance_by_its_formula() -> None:
    """One value more: rank times the gap against the sum of weighted distances, on logarithms."""
    logs = [math.log(v) for v in (80, 40, 25, 20, 10)]
    spread = sum((i + 2) * (logs[i] - logs[i + 1]) for i in range(4))
    expected = 1 / 6 * (1 + math.log(800 / 80) / spread) ** -4
    assert exceedance(800, [20, 80, 10, 40, 25]) == pytest.approx(expected)
    mirrored = [1600 // v for v in (20, 80, 10, 40, 25)]
    assert exceedance(2, mirrored, below=True) == pytest.approx(expected)


@pytest.mark.parametrize("count", [5, 12, 30])
def test_exceedance_is_exact_for_a_pareto_tail(count: int) -> None:
    """p is below alpha in alpha of all cases for the heaviest tail that the docs promise, above and below."""
    rng = random.Random(count)
    found = []
    for _ in range(20_000):
        *others, value = (int(1e9 * rng.paretovariate(0.8)) for _ in range(count + 1))
        found.append(exceedance(value, others))
    # The standard deviation of these shares is at most 0.0007.
    assert sum(p <= 0.01 for p in found) / len(found) == pytest.approx(0.01, abs=0.003)
