"""Rank statistics: whether numbers are larger than others by more than chance. Knows nothing of jobs and spans.

Every p is the probability of something at least as extreme if nothing has changed. What looks at several things
corrects for it: `holm`, or a p times the number of looks (Bonferroni).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["exceedance", "holm", "mann_whitney_by_group", "median", "midranks", "of_rank_sums", "rank_p", "rank_sum"]


def median(values: Sequence[int]) -> int:
    """The middle value, or the mean of the two in the middle, rounded down. `values` are not empty."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) // 2


def rank_p(value: int, others: Sequence[int]) -> float:
    """p = (1 + number of others >= value) / (n + 1): exact, whatever the distribution.

    Source: the permutation test of one value; Davison and Hinkley, Bootstrap Methods and their Application (1997),
    section 4.2.
    """
    return (1 + sum(other >= value for other in others)) / (len(others) + 1)


def exceedance(value: int, others: Sequence[int], *, below: bool = False) -> float:
    """p of a value that lies so far above all others (below: under all of them); `others` are not empty.

    The rank alone cannot go below 1 / (n + 1), which is 3 % for 30 others. If nothing has changed, which of the n + 1
    values is the largest is independent of how far it is from the next one. So p is `rank_p` times the p of that gap.

    The gap: let D_i be the distance of the i-th largest logarithm to the next one. For an exponential tail of the
    logarithms i * D_i are independent and exponential (Renyi 1953), hence D_1 over the mean of k others is F(2, 2k)
    and p = (1 + D_1 / sum(i * D_i for i = 2..k + 1)) ** -k, with k = n / 3, but 4 to 7. A Pareto distribution has that
    tail (Hill 1975, Weissman 1978); with lighter ones, such as lognormal, normal and uniform, p is too large: safe.
    """
    rank = (1 + sum((o <= value) if below else (o >= value) for o in others)) / (len(others) + 1)
    if rank > 1 / (len(others) + 1) or len(others) < 2:
        return rank
    sign = -1 if below else 1
    logs = sorted((sign * math.log(max(1, other)) for other in others), reverse=True)
    gap = sign * math.log(max(1, value)) - logs[0]
    spacings = min(max(4, len(logs) // 3), 7, len(logs) - 1)
    spread = math.fsum((i + 2) * (logs[i] - logs[i + 1]) for i in range(spacings))
    if gap <= 0:
        return rank
    return 0.0 if spread == 0 else float(rank * (1 + gap / spread) ** -spacings)


def rank_sum(first: Sequence[int], second: Sequence[int]) -> tuple[float, float]:
    """Mann-Whitney U, exact also for ties: (p that `first` is larger, p that it is smaller), each one-sided.

    Counts how many ways of choosing len(first) of all values give a sum of midranks at least (at most) as large, by
    the shift algorithm of Streitberg and Röhmel (1986). For up to some hundred values; neither list is empty.
    """
    values = sorted([*first, *second])
    # Twice the midranks, which are integers: first and last position of equal values, counted from 1.
    last = {one: position for position, one in enumerate(values, start=1)}
    first_of = {one: len(values) - position for position, one in enumerate(reversed(values))}
    doubled = {one: first_of[one] + last[one] for one in last}
    # One number per size of a choice holds all counts, `width` bits for each sum: additions do the convolution.
    width, size = len(values) + 1, len(first)
    counts = [1] + [0] * size
    for one in values:
        shift = doubled[one] * width
        for chosen in range(size, 0, -1):
            counts[chosen] += counts[chosen - 1] << shift
    observed = sum(doubled[one] for one in first)
    total = math.comb(len(values), size)
    larger = _digit_sum(counts[size] >> observed * width, width)
    smaller = total - _digit_sum(counts[size] >> (observed + 1) * width, width)
    return larger / total, smaller / total


def _digit_sum(number: int, width: int) -> int:
    """Sum of the digits in base 2 ** width, which is less than the base minus one."""
    return number % ((1 << width) - 1)


def mann_whitney_by_group(
    groups: NDArray[np.int64], is_first: NDArray[np.bool_], values: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """Mann-Whitney U of each group: two-sided p that its first and its other values come from one distribution.

    Normal approximation with correction for ties and continuity: with n first values, m others and N = n + m,
    z = (|U - n m / 2| - 1/2) / sqrt(n m / 12 * (N + 1 - sum(t**3 - t) / (N (N - 1)))) for ties of t equal values.
    Source: Mann and Whitney (1947); Lehmann, Nonparametrics (1975), section 1.4. For few values p is too large where it
    is small: 0.012 instead of 0.008 for five and five that do not overlap.

    Args:
        groups: Number of the group of each value, 0 to count - 1.
        is_first: Which of the two samples it is in.
        values: The values.
        count: How many groups there are; p is 1 for one that has not both samples.
    """
    import numpy as np

    p = np.ones(count)
    if len(values) == 0:
        return p
    order = np.lexsort((values, groups))
    groups, is_first, values = groups[order], is_first[order], values[order]
    positions = np.arange(len(values))
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    tie_starts = np.flatnonzero(np.r_[True, (groups[1:] != groups[:-1]) | (values[1:] != values[:-1])])
    ties = np.diff(np.r_[tie_starts, len(values)])
    sizes = np.diff(np.r_[starts, len(values)])
    within = positions - np.repeat(starts, sizes)
    midranks = np.repeat(within[tie_starts] + (ties + 1) / 2, ties)
    n = np.add.reduceat(is_first.astype(np.float64), starts)
    m = sizes - n
    u = np.add.reduceat(np.where(is_first, midranks, 0.0), starts) - n * (n + 1) / 2
    cubes = ties.astype(np.float64) ** 3 - ties
    tied = np.add.reduceat(cubes, np.searchsorted(tie_starts, starts))
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = n * m / 12 * (sizes + 1 - tied / (sizes * (sizes - 1.0)))
        z = (np.abs(u - n * m / 2) - 0.5) / np.sqrt(variance)
    usable = (n > 0) & (m > 0) & (variance > 0)
    p[groups[starts][usable]] = [min(1.0, math.erfc(one / math.sqrt(2))) for one in z[usable]]
    return p


def midranks(values: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
    """The rank of each value from 1 on, equal ones share the mean of theirs; and the sum of t**3 - t over the ties."""
    import numpy as np

    _, positions, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return ranks[positions], float(np.sum(counts.astype(np.float64) ** 3 - counts))


def of_rank_sums(
    rank_sums: NDArray[np.float64], sizes: NDArray[np.int64], count: int, tied: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cliff's delta and two-sided Mann-Whitney p of samples against the rest, from the sums of their midranks.

    U = R - n (n + 1) / 2 is the number of pairs in which the value of the sample is the larger one, ties half. Cliff's
    delta (1993) is 2 U / (n m) - 1: the share of pairs in which it is larger, less that in which it is smaller. p as in
    `mann_whitney_by_group`.

    Args:
        rank_sums: R of each sample.
        sizes: n of each sample, from 1 to count - 1; m = count - n.
        count: How many values there are.
        tied: Sum of t**3 - t over all ties, see `midranks`.
    """
    import numpy as np

    n = sizes.astype(np.float64)
    m = count - n
    u = rank_sums - n * (n + 1) / 2
    variance = n * m / 12 * (count + 1 - tied / (count * (count - 1.0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(variance > 0, np.maximum(0, np.abs(u - n * m / 2) - 0.5) / np.sqrt(variance), 0)
    p = np.array([min(1.0, math.erfc(one / math.sqrt(2))) for one in z], dtype=np.float64)
    return 2 * u / (n * m) - 1, p


def holm(ps: Sequence[float]) -> list[float]:
    """Each p corrected for there being len(ps) of them, in the same order: at most alpha errors among all.

    The i-th smallest of m (from 0) becomes max(previous, (m - i) * p), at most 1. Source: Holm (1979).
    """
    corrected = [0.0] * len(ps)
    highest = 0.0
    for rank, number in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[number]))
        corrected[number] = highest
    return corrected
