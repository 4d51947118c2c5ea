"""Numbers in sentences."""

from __future__ import annotations

import pytest

from tilebox_local.analysis.words import counted, duration_in_words, percent


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 s"),
        (7, "7 ns"),
        (-7, "-7 ns"),
        (999, "999 ns"),
        (1_000, "1.00 µs"),
        (999_999, "1.00 ms"),
        (12_345_678, "12.3 ms"),
        (999_400_000, "999 ms"),
        (999_999_999, "1.00 s"),
        (12_100_000_000, "12.1 s"),
        (119_000_000_000, "119 s"),
        (120_000_000_000, "2.00 min"),
        (7_200_000_000_000, "2.00 h"),
        (-360_000_000_000_000, "-100 h"),
    ],
)
def test_lengths_of_time(ns: int, text: str) -> None:
    """Three digits in the largest unit that fits."""
    assert duration_in_words(ns) == text


def test_shares_and_counts() -> None:
    """Percent are whole, unless there is less than half of one."""
    assert [percent(share) for share in (0.61, 1, -0.2, 0.002, 0)] == ["61 %", "100 %", "-20 %", "0.2 %", "0 %"]
    assert [counted(n, "span") for n in (0, 1, 2, 1234)] == ["0 spans", "1 span", "2 spans", "1,234 spans"]
