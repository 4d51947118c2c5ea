"""Spans and log records as queries return them.

`Spans` and `LogRecords` are lists. They keep the rows as they came from the store and make the objects when the list
is first looked into, so that `to_pandas()` on 100,000 spans need not build 100,000 objects first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tilebox_local.clock import ns_to_datetime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["LogRecord", "LogRecords", "Span", "Spans"]

T = TypeVar("T")


@dataclass
class Span:
    """One span. Ids are lowercase hex; times are UTC, in microseconds; `status_code` is "STATUS_CODE_UNSET" and so on.

    `events` are dicts of "time", "name" and "attributes", ascending by time. `end_time` is None while the span is
    open; only `query_spans(include_open=True)` returns such spans.
    """

    start_time: datetime
    end_time: datetime
    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    status_code: str
    status_message: str
    attributes: dict[str, Any]
    runner_attributes: dict[str, Any]
    events: list[dict[str, Any]]

    @property
    def duration(self) -> timedelta:
        """How long it took, in microseconds."""
        return self.end_time - self.start_time


@dataclass
class LogRecord:
    """One log record. `trace_id` and `span_id` are lowercase hex, None outside of spans."""

    time: datetime
    severity_number: int
    severity_text: str
    body: str
    trace_id: str | None
    span_id: str | None
    attributes: dict[str, Any]
    runner_attributes: dict[str, Any]


SPAN_COLUMNS = (
    "start_time",
    "end_time",
    "trace_id",
    "span_id",
    "parent_span_id",
    "name",
    "status_code",
    "status_message",
    "attributes",
    "runner_attributes",
    "events",
)
LOG_COLUMNS = (
    "time",
    "severity_number",
    "severity_text",
    "body",
    "trace_id",
    "span_id",
    "attributes",
    "runner_attributes",
)


class _LazyList(list[T], Generic[T]):
    """A list whose items are made at the first access other than `len` and `to_pandas`."""

    _columns: dict[str, Sequence[Any]] | None = None
    _make: Callable[[dict[str, Sequence[Any]]], Iterable[T]] | None = None
    _count = 0

    @classmethod
    def _from_columns(
        cls,
        columns: dict[str, Sequence[Any]],
        count: int,
        make: Callable[[dict[str, Sequence[Any]]], Iterable[T]],
    ) -> Any:
        lazy: _LazyList[T] = cls()
        lazy._columns, lazy._count, lazy._make = columns, count, make
        return lazy

    def _fill(self) -> None:
        columns, make = self._columns, self._make
        if columns is not None and make is not None:
            self._columns = self._make = None
            list.extend(self, make(columns))

    def __len__(self) -> int:
        return list.__len__(self) if self._columns is None else self._count

    def __reduce__(self) -> Any:
        self._fill()
        return type(self), (list(self),)


def _filling(name: str) -> Any:
    method = getattr(list, name)

    def call(self: _LazyList[Any], *args: Any, **kwargs: Any) -> Any:
        self._fill()
        return method(self, *(_filled(arg) for arg in args), **kwargs)

    call.__name__ = name
    call.__doc__ = method.__doc__
    return call


def _filled(value: Any) -> Any:
    if isinstance(value, _LazyList):
        value._fill()
    return value


for _name in [
    "__add__",
    "__contains__",
    "__delitem__",
    "__eq__",
    "__ge__",
    "__getitem__",
    "__gt__",
    "__iadd__",
    "__imul__",
    "__iter__",
    "__le__",
    "__lt__",
    "__mul__",
    "__ne__",
    "__repr__",
    "__reversed__",
    "__rmul__",
    "__setitem__",
    "append",
    "clear",
    "copy",
    "count",
    "extend",
    "index",
    "insert",
    "pop",
    "remove",
    "reverse",
    "sort",
]:
    setattr(_LazyList, _name, _filling(_name))


class LogRecords(_LazyList[LogRecord]):
    """Log records, ascending by time."""

    def to_pandas(self) -> Any:
        """A DataFrame of one row per record and the fields as columns; without columns if there are no records."""
        import pandas as pd

        if not len(self):
            return pd.DataFrame()
        columns = self._columns
        if columns is None:
            return pd.DataFrame({name: [getattr(record, name) for record in self] for name in LOG_COLUMNS})
        return pd.DataFrame({**columns, "time": _times(columns["time"])})


class Spans(_LazyList[Span]):
    """Spans, ascending by start time."""

    def to_pandas(self) -> Any:
        """A DataFrame of one row per span: the fields as columns, then `duration`; no columns if there are no spans."""
        import pandas as pd

        if not len(self):
            return pd.DataFrame()
        columns = self._columns
        if columns is None:
            frame = pd.DataFrame({name: [getattr(span, name) for span in self] for name in SPAN_COLUMNS})
        else:
            times = {name: _times(columns[name]) for name in ("start_time", "end_time")}
            frame = pd.DataFrame({**columns, **times})
        frame["duration"] = frame["end_time"] - frame["start_time"]
        return frame


def _times(instants: Sequence[int | None]) -> Any:
    """Nanoseconds as a datetime column of the type that pandas gives to a list of UTC datetimes."""
    import pandas as pd

    dtype = pd.Series([datetime(2000, 1, 1, tzinfo=UTC)]).dtype
    microseconds = pd.array([None if ns is None else ns // 1000 for ns in instants], dtype="Int64")
    values = microseconds.to_numpy(dtype="int64", na_value=_NAT).view("datetime64[us]")
    return pd.Series(values).dt.tz_localize("UTC").astype(dtype)


_NAT = -(1 << 63)


def make_spans(columns: dict[str, Sequence[Any]]) -> Iterable[Span]:
    """Span objects from columns as the store has them (instants in ns; None ends open spans)."""
    for start_ns, end_ns, *rest in zip(*(columns[name] for name in SPAN_COLUMNS), strict=True):
        end = None if end_ns is None else ns_to_datetime(end_ns)
        yield Span(ns_to_datetime(start_ns), end, *rest)  # type: ignore[arg-type]


def make_log_records(columns: dict[str, Sequence[Any]]) -> Iterable[LogRecord]:
    """LogRecord objects from columns as the store has them."""
    for time_ns, *rest in zip(*(columns[name] for name in LOG_COLUMNS), strict=True):
        yield LogRecord(ns_to_datetime(time_ns), *rest)
