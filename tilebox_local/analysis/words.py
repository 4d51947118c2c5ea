"""Numbers in sentences for people."""

from __future__ import annotations

__all__ = ["counted", "duration_in_words", "percent"]

_UNITS = ((3_600_000_000_000, "h"), (60_000_000_000, "min"), (1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"))


def duration_in_words(ns: int) -> str:
    """A length of time in three digits: "12.1 s", "340 ms", "0 s"; minutes from 2 min on, hours from 2 h on."""
    if ns == 0:
        return "0 s"
    size = abs(ns)
    for unit, name in _UNITS:
        if size * 1.0005 >= (2 * unit if name in ("h", "min") else unit):  # 999.9 ms would be shown as 1000 ms
            return f"{_three_digits(ns / unit)} {name}"
    return f"{ns} ns"


def _three_digits(value: float) -> str:
    size = abs(value)
    return f"{value:.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def percent(share: float) -> str:
    """A share as "61 %"; what is less than half a percent as "0.2 %"."""
    return f"{share:.1%}".replace("%", " %") if 0 < abs(share) < 0.005 else f"{share:.0%}".replace("%", " %")


def counted(count: int, what: str) -> str:
    """ "1 span", "2 spans"."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
