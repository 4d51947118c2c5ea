"""Values that people type: lengths of time, sizes, instants."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from typing import Any

__all__ = ["COUNT", "DURATION", "INSTANT", "SIZE", "TIMEOUT", "parse_duration", "parse_instant", "parse_size"]

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_FIRST_NS, _LAST_NS = 0, (1 << 63) - 1
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_duration(text: str) -> timedelta:
    """A length of time: "250ms", "90s", "1.5h", "30d". Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])", text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is no length of time, such as 30d (ms, s, m, h, d or w).")
    try:
        return timedelta(seconds=float(found[1]) * _SECONDS[found[2]])
    except OverflowError as error:
        raise ValueError(f"{text!r} is too long.") from error


def parse_size(text: str) -> int:
    """Bytes: "100", "2GB", "500MiB". Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is no size, such as 2GB or 500MiB.")
    return int(float(found[1]) * _BYTES[found[2] or ""])


def parse_instant(text: str) -> int:
    """Nanoseconds UTC of an ISO 8601 instant, or of a length of time ago. Raises ValueError."""
    from datetime import UTC, datetime

    from tilebox_local.clock import datetime_to_ns, wall_ns

    try:
        return max(_FIRST_NS, wall_ns() - parse_duration(text) // timedelta(microseconds=1) * 1000)
    except ValueError:
        pass
    # Ours have nanoseconds, which datetime cuts off.
    fraction = re.search(r"\.(\d+)", text)
    try:
        seconds = datetime.fromisoformat(re.sub(r"\.\d+", "", text.strip()))
    except ValueError:
        hint = "is no instant, such as 2026-05-01T12:00:00Z, and no length of time ago, such as 10m."
        raise ValueError(f"{text!r} {hint}") from None
    ns = int(fraction[1][:9].ljust(9, "0")) if fraction else 0
    ns += datetime_to_ns(seconds if seconds.tzinfo else seconds.replace(tzinfo=UTC))
    return max(_FIRST_NS, min(ns, _LAST_NS))


def _parse_timeout(text: str) -> timedelta:
    """A length of time above 0; a bare number is of seconds. Raises ValueError."""
    found = parse_duration(f"{text}s" if re.fullmatch(r"\d+(?:\.\d+)?", text.strip()) else text)
    if not found:
        raise ValueError("0 is no time to wait.")
    return found


class _Count(click.IntRange):
    """Numbers as large as SQLite can count; more is as much as that."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return min(super().convert(value, param, ctx), _LAST_NS)


class _Typed(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    def __init__(self, name: str, parse: Any) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = _Typed("duration", parse_duration)
SIZE = _Typed("size", parse_size)
INSTANT = _Typed("instant", parse_instant)
TIMEOUT = _Typed("timeout", _parse_timeout)
COUNT = _Count(min=1)
