"""Values that options take: instants, lengths of time, sizes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DURATION", "INSTANT", "SIZE", "limit_option", "period_options"]

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
FIRST_NS, LAST_NS = -(1 << 63), (1 << 63) - 1


class _Duration(click.ParamType[timedelta]):
    """A length of time: 250ms, 90s, 12h, 30d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|[smhdw])", str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is no length of time, such as 30d (us, ms, s, m, h, d or w).", param, ctx)
        try:
            return timedelta(seconds=float(found[1]) * _SECONDS[found[2]])
        except OverflowError:
            self.fail(f"{value!r} is too long.", param, ctx)


class _Instant(click.ParamType[int]):
    """An instant in ns: ISO 8601 (UTC unless it says otherwise), or how long ago: 10m, 2d."""

    name = "instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        from tilebox_local import clock

        text = str(value).strip()
        if re.fullmatch(r"\d+(?:\.\d+)?\s*(?:us|ms|[smhdw])", text.lower()):
            ago = DURATION.convert(text, param, ctx)
            return clock.wall_ns() - round(ago.total_seconds() * 1e9)
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{value!r} is no instant, such as 2026-11-23T20:00 (UTC) or 2h (ago).", param, ctx)
        return clock.datetime_to_ns(found if found.tzinfo else found.replace(tzinfo=UTC))


class _Size(click.ParamType[int]):
    """A number of bytes: 500MB, 2GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is no size, such as 2GB or 500MiB.", param, ctx)
        return int(float(found[1]) * _BYTES[found[2] or ""])


DURATION, INSTANT, SIZE = _Duration(), _Instant(), _Size()


def period_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --since and --until."""
    function = click.option("--until", type=INSTANT, metavar="TIME", help="Only up to then.")(function)
    text = "Only since then: 2026-11-23T20:00 (UTC), or 2h, 3d (ago)."
    return click.option("--since", type=INSTANT, metavar="TIME", help=text)(function)


def limit_option(default: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --limit."""
    return click.option(
        "--limit", type=click.IntRange(0), default=default, metavar="N", help=f"At most N, 0: all; default {default:,}."
    )
