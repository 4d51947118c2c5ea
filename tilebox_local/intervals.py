"""Time and id intervals, and the many forms in which callers may give them.

Does not do: queries. Importing this module loads neither pandas nor numpy nor xarray; only text in other than
ISO 8601 form needs pandas. Objects of the official package's interval classes are known by their attributes.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias
from uuid import UUID

from tilebox_local.clock import datetime_to_ns, ns_to_datetime
from tilebox_local.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

__all__ = [
    "DatetimeScalar",
    "IDInterval",
    "IDIntervalLike",
    "TimeInterval",
    "TimeIntervalLike",
    "parse_temporal_extent",
]

#: One instant: a datetime (pandas.Timestamp is one) or date, a numpy.datetime64, text that pandas.to_datetime
#: reads, or a number of nanoseconds since 1970-01-01. Without a time zone it counts as UTC.
DatetimeScalar: TypeAlias = "date | np.datetime64 | str | int | float"
#: What `TimeInterval.parse` takes.
TimeIntervalLike: TypeAlias = (
    "TimeInterval | DatetimeScalar | tuple[DatetimeScalar, DatetimeScalar] | list[DatetimeScalar]"
    " | xr.DataArray | xr.Dataset"
)
#: What `IDInterval.parse` takes.
IDIntervalLike: TypeAlias = "IDInterval | tuple[UUID, UUID] | tuple[str, str]"

_MICROSECOND = timedelta(microseconds=1)
_EMPTY_US = (1, 0)  # (1970-01-01, 1970-01-01): what an unset interval of the wire decodes to

_TIME_FORMS = (
    "Accepted: a TimeInterval, one instant, a pair of instants, or an xarray object with a time coordinate. "
    "An instant is a datetime, a date, a numpy.datetime64, ISO 8601 text or integer nanoseconds since 1970."
)
_ID_FORMS = "Accepted: an IDInterval or a pair of ids, each a UUID or its text."

# Text that datetime.fromisoformat and pandas read alike; the former also takes forms that pandas refuses.
_ISO_8601 = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:\d\d)?)?", re.ASCII)


@dataclass(frozen=True, eq=False, repr=False)
class TimeInterval:
    """Time from `start` to `end`; by default the start belongs to it and the end does not.

    A bound without a time zone counts as UTC. Intervals are equal if they hold the same instants, counted in
    microseconds: [0 s, 1 s] equals [0 s, 1.000001 s).

    Raises:
        TypeError: If a bound is no datetime; `parse` converts other types.
    """

    start: datetime
    end: datetime
    start_exclusive: bool = False
    end_inclusive: bool = False

    def __post_init__(self) -> None:
        for name, label in (("start", "Start"), ("end", "End")):
            value = getattr(self, name)
            if not isinstance(value, datetime):
                raise TypeError(f"{label} time {value} must be a datetime object")
            if value.tzinfo is None:
                object.__setattr__(self, name, value.replace(tzinfo=UTC))

    @classmethod
    def parse(cls, arg: TimeIntervalLike) -> TimeInterval:
        """Convert any accepted form to an interval.

        Args:
            arg: An interval is returned as it is. One instant t becomes [t, t]. A tuple or list of two
                becomes [start, end). An xarray Dataset or DataArray becomes [first, last] of its times in
                their order: its own values if they are times, else its coordinate "time". So does a
                one-dimensional array of numpy.datetime64. Times are cut to microseconds and given in UTC.
                Numbers count nanoseconds since 1970, not seconds.

        Raises:
            ArgumentError: If the argument has none of these forms, or is text that is no time.
        """
        if isinstance(arg, TimeInterval):
            return arg
        if _has_attributes(arg, "start", "end"):
            other: Any = arg
            return cls(other.start, other.end, other.start_exclusive, other.end_inclusive)
        try:
            if isinstance(arg, list | tuple) and len(arg) == 2:
                return cls(_to_datetime(arg[0]), _to_datetime(arg[1]))
            times = _times_of_array(arg)
            if times is None:
                times = [arg]
            return cls(_to_datetime(times[0]), _to_datetime(times[-1]), end_inclusive=True)
        except (ValueError, TypeError, OverflowError) as error:
            message = f"Failed to convert {_shown(arg)} to TimeInterval: {_shortened(str(error))}."
            raise ArgumentError(message, hint=_TIME_FORMS) from error

    def to_half_open(self) -> TimeInterval:
        """The equal interval that includes its start and excludes its end.

        Raises:
            OverflowError: If the included end is the last instant of the year 9999.
        """
        start = _next_instant(self.start) if self.start_exclusive else self.start
        end = _next_instant(self.end) if self.end_inclusive else self.end
        return TimeInterval(start, end)

    def astimezone(self, tzinfo: tzinfo) -> TimeInterval:
        """The equal interval with both bounds in another time zone."""
        start, end = self.start.astimezone(tzinfo), self.end.astimezone(tzinfo)
        return TimeInterval(start, end, self.start_exclusive, self.end_inclusive)

    def format(self, endpoints: bool = True, sep: str = ", ", timespec: str = "milliseconds") -> str:
        """The interval as text, such as "[2026-01-01T00:00:00.000 UTC, 2026-01-02T00:00:00.000 UTC)".

        Args:
            endpoints: Whether to add brackets; round ones exclude a bound, square ones include it.
            sep: Text between the bounds.
            timespec: Precision, as in datetime.isoformat.

        Returns:
            The text; "<empty>" for the interval of nothing, (1970-01-01, 1970-01-01).
        """
        if self._half_open_us() == _EMPTY_US:
            return "<empty>"
        bounds = (bound.isoformat(timespec=timespec) for bound in (self.start, self.end))
        text = sep.join(bound.replace("+00:00", " UTC") for bound in bounds)
        if not endpoints:
            return text
        return f"{'(' if self.start_exclusive else '['}{text}{']' if self.end_inclusive else ')'}"

    def __repr__(self) -> str:
        return self.format()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TimeInterval):
            return NotImplemented
        return self._half_open_us() == other._half_open_us()

    def __hash__(self) -> int:
        return hash(self._half_open_us())

    def _half_open_us(self) -> tuple[int, int]:
        # Integers, because to_half_open() overflows at the end of the year 9999 and printing must not.
        start, end = datetime_to_ns(self.start) // 1000, datetime_to_ns(self.end) // 1000
        return start + bool(self.start_exclusive), end + bool(self.end_inclusive)


@dataclass(frozen=True)
class IDInterval:
    """Ids from `start_id` to `end_id` by the order of their 16 bytes, which is the order of their making."""

    start_id: UUID
    end_id: UUID
    start_exclusive: bool
    end_inclusive: bool

    @classmethod
    def parse(cls, arg: IDIntervalLike, start_exclusive: bool = False, end_inclusive: bool = True) -> IDInterval:
        """Convert any accepted form to an interval.

        Args:
            arg: An interval is returned as it is. A tuple or list of two ids, each a UUID or its text,
                becomes an interval with the given flags.
            start_exclusive: Whether a pair's first id is left out.
            end_inclusive: Whether a pair's second id belongs to it.

        Raises:
            ArgumentError: If the argument has none of these forms, or is text that is no UUID.
        """
        if isinstance(arg, IDInterval):
            return arg
        if _has_attributes(arg, "start_id", "end_id"):
            other: Any = arg
            return cls(other.start_id, other.end_id, other.start_exclusive, other.end_inclusive)
        ids = _pair_of_ids(arg)
        if ids is None:
            raise ArgumentError(f"Failed to convert {_shown(arg)} to IDInterval.", hint=_ID_FORMS)
        return cls(*ids, start_exclusive, end_inclusive)


def parse_temporal_extent(
    extent: TimeIntervalLike | IDIntervalLike | None,
) -> tuple[TimeInterval | None, IDInterval | None]:
    """Tell by its form whether an extent means submission times or job ids, and convert it.

    Args:
        extent: None, what `IDInterval.parse` takes (a pair includes its end), or what `TimeInterval.parse`
            takes.

    Returns:
        (time interval, id interval), of which at most one is not None.

    Raises:
        ArgumentError: If the extent has none of these forms, or its end comes before its start.
    """
    if extent is None:
        return None, None
    if _has_attributes(extent, "start_id", "end_id") or _pair_of_ids(extent) is not None:
        ids = IDInterval.parse(extent)  # type: ignore[arg-type]
        if ids.end_id < ids.start_id:
            raise ArgumentError(f"The id interval {ids.start_id} to {ids.end_id} ends before it starts.")
        return None, ids
    times = TimeInterval.parse(extent)  # type: ignore[arg-type]
    if datetime_to_ns(times.end) < datetime_to_ns(times.start):
        raise ArgumentError(f"The time interval {times} ends before it starts.")
    return times, None


def _has_attributes(arg: object, start: str, end: str) -> bool:
    return all(hasattr(arg, name) for name in (start, end, "start_exclusive", "end_inclusive"))


def _pair_of_ids(arg: object) -> tuple[UUID, UUID] | None:
    if not isinstance(arg, list | tuple) or len(arg) != 2:
        return None
    try:
        first, second = (value if isinstance(value, UUID) else UUID(value) for value in arg)
    except (ValueError, TypeError, AttributeError):  # UUID() raises the last two for what is no text
        return None
    return first, second


def _times_of_array(arg: Any) -> Any:
    """The times of an array as a numpy array of at least one, else None."""
    # Whoever has such an object has imported its library: ours must not.
    numpy, xarray = sys.modules.get("numpy"), sys.modules.get("xarray")
    if numpy is not None and getattr(getattr(arg, "dtype", None), "kind", None) == "M":
        return numpy.asarray(arg).reshape(-1) if arg.ndim <= 1 and arg.size > 0 else None
    if xarray is not None and isinstance(arg, xarray.Dataset | xarray.DataArray) and "time" in arg.coords:
        return _times_of_array(arg.coords["time"].variable)
    return None


def _to_datetime(value: Any) -> datetime:
    """One instant in UTC, cut to microseconds. Raises ValueError, TypeError or OverflowError."""
    instant = _instant(value)
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _instant(value: Any) -> datetime:
    if isinstance(value, datetime):
        # Drops the nanoseconds of a pandas.Timestamp; NaT, which is a datetime as well, raises.
        return value if type(value) is datetime else datetime.combine(value.date(), value.timetz())
    if isinstance(value, date):
        return datetime.combine(value, time())
    if isinstance(value, str):
        if _ISO_8601.fullmatch(value):
            return datetime.fromisoformat(value)
        import pandas as pd

        return _instant(pd.to_datetime(value, utc=True))
    if isinstance(value, float | SupportsIndex) and not isinstance(value, bool):
        return ns_to_datetime(int(value))
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.datetime64):
        instant = value.astype("datetime64[us]").item()
        if isinstance(instant, datetime):
            return instant
        raise ValueError(f"{value!r} is not a time of the years 1 to 9999")
    raise TypeError(f"{type(value).__name__} is not a time")


def _next_instant(value: datetime) -> datetime:
    # By way of UTC: adding to a local time ignores the hour that is repeated when summer time ends.
    return (value.astimezone(UTC) + _MICROSECOND).astimezone(value.tzinfo)


def _shown(value: object) -> str:
    return f"{_shortened(repr(value))} ({type(value)})"


def _shortened(text: str) -> str:
    text = " ".join(text.split())  # xarray's repr has many lines
    return text if len(text) <= 120 else f"{text[:117]}..."
