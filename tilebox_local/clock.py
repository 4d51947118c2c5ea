"""The only place that reads a clock, and the conversions between nanoseconds and datetime.

Instants (`*_ns`) are integer nanoseconds since the Unix epoch, UTC, from the wall clock. Durations come from the
monotonic clock. Leases use the boot clock, which wall clock steps do not move and which runs on during suspend.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

__all__ = [
    "boot_id",
    "boot_ns",
    "datetime_to_ns",
    "monotonic_ns",
    "ns_to_datetime",
    "ns_to_text",
    "ns_to_timedelta",
    "wall_ns",
]

wall_ns = time.time_ns
monotonic_ns = time.perf_counter_ns

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_ns() -> int:
    """Nanoseconds since boot, suspend included where the platform offers it (Linux)."""
    return time.clock_gettime_ns(_BOOT_CLOCK)


def boot_id() -> str:
    """Names this boot of this machine, since `boot_ns` of two boots cannot be compared. "" where unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def ns_to_datetime(ns: int) -> datetime:
    """UTC datetime of an instant, truncated to microseconds (exact integer arithmetic)."""
    return _EPOCH + timedelta(microseconds=ns // 1000)


def ns_to_text(ns: int) -> str:
    """An instant as the SQL views show it, to the nanosecond: "2026-11-23T21:37:26.012345678Z" (RFC 3339)."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def datetime_to_ns(value: datetime) -> int:
    """Integer nanoseconds of a datetime; a naive one counts as UTC."""
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return (value - _EPOCH) // timedelta(microseconds=1) * 1000


def ns_to_timedelta(ns: int) -> timedelta:
    """timedelta of a length of time, truncated to microseconds."""
    return timedelta(microseconds=ns // 1000)
