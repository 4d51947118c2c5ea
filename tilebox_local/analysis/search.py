"""Finding spans by what they are and log records by what they say: `client.jobs().search_spans()`, `.search_logs()`."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import orjson

from tilebox_local.analysis.records import Record, Records
from tilebox_local.analysis.subject import find_subject
from tilebox_local.catalog import run, sql
from tilebox_local.clock import datetime_to_ns
from tilebox_local.errors import ArgumentError
from tilebox_local.ids import unsigned64
from tilebox_local.intervals import TimeInterval
from tilebox_local.storage.attributes import capture_value, clean_text, decode_attributes
from tilebox_local.storage.text_index import TextIndex, required_word

if TYPE_CHECKING:
    from uuid import UUID

    import apsw

    from tilebox_local.data import LogSeverity
    from tilebox_local.storage.store import Store

__all__ = [
    "AttributeConditions",
    "FoundLog",
    "FoundSpan",
    "SpanFilters",
    "SpanStatus",
    "checked_glob",
    "checked_limit",
    "read_spans",
    "search_logs",
    "search_spans",
]

#: Of spans: "open" until they end.
SpanStatus: TypeAlias = Literal["unset", "ok", "error", "open"]
#: Key to value, or to (operator, value); or such pairs, so that a key may have several conditions.
AttributeConditions: TypeAlias = Mapping[str, Any] | Sequence[tuple[str, Any]]

_STATUS_NUMBERS = {"unset": 0, "ok": 1, "error": 2, "open": -1}
_STATUSES = ("unset", "ok", "error")
_OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "exists", "contains", "in")
_FIRST_NS, _LAST_NS = -(1 << 63), (1 << 63) - 1
_MAX_GLOB_CHARS = 1000
# Of log records that are indexed at a time: bounds memory, and what is indexed in vain if the limit comes first.
_CHUNK_COUNT, _CHUNK_CHARS = 2000, 4 * 1024 * 1024


@dataclass(frozen=True)
class FoundSpan(Record):
    """A span. What does not apply is None; of spans outside of jobs so are job and task."""

    job_id: str | None
    job_name: str | None
    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    start_time_ns: int
    duration_ns: int | None  #: None: open
    status: str  #: see SpanStatus
    status_message: str | None
    task_id: str | None  #: of the task that was running
    runner: str | None
    attributes: dict[str, Any]


@dataclass(frozen=True)
class FoundLog(Record):
    """A log record. What does not apply is None."""

    job_id: str | None
    job_name: str | None
    time_ns: int
    severity: str
    body: str
    snippet: str  #: up to 16 words of the body, those that were found in brackets
    trace_id: str | None
    span_id: str | None
    task_id: str | None
    runner: str | None
    logger: str | None
    attributes: dict[str, Any]


class SpanFilters(NamedTuple):
    """What spans are looked for; None: any. See JobAnalysis.search_spans."""

    name: str | None = None
    attributes: AttributeConditions | None = None
    min_duration: timedelta | None = None
    max_duration: timedelta | None = None
    since: Any = None
    until: Any = None
    status: str | None = None
    task: str | None = None
    runner: str | None = None


def search_spans(
    store: Store, job_id: UUID | None, filters: SpanFilters, *, limit: int | None, newest_first: bool
) -> Records[FoundSpan]:
    """Spans of a job, or of the whole store, that match all filters, by start. Raises NotFoundError, ArgumentError."""
    first_ns, last_ns = _interval(filters.since, filters.until)
    conditions = _conditions(filters.attributes)
    parameters = {
        "first_ns": first_ns,
        "last_ns": last_ns,
        "name": None if filters.name is None else checked_glob(filters.name),
        "min_duration_ns": _duration_ns("min_duration", filters.min_duration),
        "max_duration_ns": _duration_ns("max_duration", filters.max_duration),
        "status": _status_number(filters.status),
        "task": _checked_text("task", filters.task),
        "runner": _checked_text("runner", filters.runner),
        "wanted": orjson.dumps(conditions).decode() if conditions else None,
        "with_task_id": any(key == "task_id" for key, *_ in conditions),
        "direction": -1 if newest_first else 1,
        "limit": checked_limit(limit),
    }
    with store.snapshot() as connection:
        first_trace_no, last_trace_no = _traces(connection, job_id)
        parameters |= {"first_trace_no": first_trace_no, "last_trace_no": last_trace_no}
        return Records(FoundSpan, read_spans(connection, run(connection, "search_spans", parameters)))


def read_spans(connection: apsw.Connection, keys: list[tuple[Any, ...]]) -> list[FoundSpan]:
    """The spans of these keys (trace_no, start_ns, span_id), in their order."""
    return [_found_span(row) for row in run(connection, "found_spans", {"keys": orjson.dumps(keys).decode()})]


def _found_span(row: tuple[Any, ...]) -> FoundSpan:
    job_id, job_name, trace_id, span_id, parent, name, start_ns, duration_ns, status, message = row[:10]
    task_id, runner, attributes = row[10:]
    return FoundSpan(
        job_id=job_id,
        job_name=job_name,
        trace_id=trace_id.hex(),
        span_id=_hex16(span_id),
        parent_span_id=None if parent is None else _hex16(parent),
        name=name,
        start_time_ns=start_ns,
        duration_ns=duration_ns,
        status="open" if duration_ns is None else _STATUSES[status],
        status_message=message,
        task_id=task_id,
        runner=runner,
        attributes=decode_attributes(attributes),
    )


def search_logs(
    store: Store,
    text: str,
    job_id: UUID | None,
    *,
    level: LogSeverity | None,
    since: Any,
    until: Any,
    limit: int | None,
) -> Records[FoundLog]:
    """Log records of a job by time, or the newest of the whole store. Raises NotFoundError, ArgumentError."""
    first_ns, last_ns = _interval(since, until)
    count = checked_limit(limit)
    with TextIndex(text) as index, store.snapshot() as connection:
        first_trace_no, last_trace_no = _traces(connection, job_id)
        word = required_word(text)
        parameters = {
            "first_trace_no": first_trace_no,
            "last_trace_no": last_trace_no,
            "first_ns": first_ns,
            "last_ns": last_ns,
            "min_severity": 0 if level is None else 4 * level.value - 3,  # groups of four, from 1 on
            "pattern": None if word is None else f"%{word}%",
        }
        found = _matching(connection, index, parameters, count, newest_first=job_id is None)
        rows = run(connection, "found_logs", {"keys": orjson.dumps(found).decode()})
        snippets = index.snippets([row[4] for row in rows])
    return Records(FoundLog, [_found_log(row, snippet) for row, snippet in zip(rows, snippets, strict=True)])


def _matching(
    connection: apsw.Connection, index: TextIndex, parameters: dict[str, Any], limit: int, *, newest_first: bool
) -> list[tuple[int, int, int]]:
    """Keys of the log records that match: the first ones in the order of the store, or the newest ones of all."""
    found: list[tuple[int, int, int]] = []
    cursor = connection.execute(sql["search_logs"], parameters)
    try:
        while chunk := _chunk(cursor):
            found += [chunk[position][:3] for position in index.matches([row[3] for row in chunk])]
            if newest_first and limit > 0:
                found = heapq.nlargest(limit, found, key=_time_first)
            elif 0 < limit <= len(found):
                return found[:limit]
    finally:
        cursor.close(True)
    return sorted(found, key=_time_first, reverse=True) if newest_first else found


def _time_first(key: tuple[int, int, int]) -> tuple[int, int, int]:
    return key[1], key[0], key[2]


def _chunk(cursor: apsw.Cursor) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    size = 0
    for row in islice(cursor, _CHUNK_COUNT):
        rows.append(row)
        size += len(row[3])
        if size > _CHUNK_CHARS:
            break
    return rows


def _found_log(row: tuple[Any, ...], snippet: str) -> FoundLog:
    job_id, job_name, time_ns, severity, body, trace_id, span_id, task_id, runner, logger, attributes = row
    return FoundLog(
        job_id=job_id,
        job_name=job_name,
        time_ns=time_ns,
        severity=severity,
        body=body,
        snippet=snippet,
        trace_id=None if trace_id is None else trace_id.hex(),
        span_id=None if span_id is None else _hex16(span_id),
        task_id=task_id,
        runner=runner,
        logger=logger,
        attributes=decode_attributes(attributes),
    )


def _hex16(span_id: int) -> str:
    return f"{unsigned64(span_id):016x}"


# -- arguments ---------------------------------------------------------------------------------------------------------


def _traces(connection: apsw.Connection, job_id: UUID | None) -> tuple[int, int]:
    """First and last trace_no: those of a job, or of all. Raises NotFoundError."""
    if job_id is None:
        return _FIRST_NS, _LAST_NS
    trace_no = find_subject(connection, job_id).trace_no
    return trace_no, trace_no


def checked_limit(limit: int | None) -> int:
    """The limit as SQLite takes it: -1 for none."""
    if limit is None:
        return -1
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _LAST_NS:
        raise ArgumentError(f"limit is a number from 1 on, or None for all, not {limit!r:.100}.")
    return limit


def checked_glob(pattern: str) -> str:
    """A pattern of names, as it is."""
    if not isinstance(pattern, str) or not 0 < len(pattern) <= _MAX_GLOB_CHARS:
        hint = 'A name may contain * for any characters, ? for one, and [abc]: "read*".'
        raise ArgumentError(f"{pattern!r:.100} is no name of 1 to {_MAX_GLOB_CHARS} characters.", hint=hint)
    return clean_text(pattern)


def _checked_text(argument: str, value: str | None) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ArgumentError(f"{argument} is a str, not {value!r:.100}.")
    return None if value is None else clean_text(value)


def _status_number(status: str | None) -> int | None:
    if status is None:
        return None
    if not isinstance(status, str) or status not in _STATUS_NUMBERS:
        raise ArgumentError(f"{status!r:.100} is no status of spans; pass {', '.join(_STATUS_NUMBERS)}.")
    return _STATUS_NUMBERS[status]


def _duration_ns(argument: str, value: timedelta | None) -> int | None:
    if value is None:
        return None
    if not isinstance(value, timedelta):
        raise ArgumentError(f"{argument} is a timedelta, not {value!r:.100}.")
    exact = getattr(value, "value", None)  # pandas.Timedelta counts nanoseconds
    ns = exact if isinstance(exact, int) else value // timedelta(microseconds=1) * 1000
    return max(_FIRST_NS, min(ns, _LAST_NS))


def _interval(since: Any, until: Any) -> tuple[int, int]:
    """First and last ns of [since, until)."""
    first_ns = _FIRST_NS if since is None else _instant_ns("since", since)
    last_ns = _LAST_NS if until is None else _instant_ns("until", until) - 1
    if since is not None and until is not None and last_ns < first_ns - 1:
        raise ArgumentError(f"until ({until!r:.100}) is before since ({since!r:.100}).")
    return max(_FIRST_NS, min(first_ns, _LAST_NS)), max(_FIRST_NS, min(last_ns, _LAST_NS))


def _instant_ns(argument: str, instant: Any) -> int:
    interval = TimeInterval.parse(instant)
    if interval.start != interval.end:
        raise ArgumentError(f"{argument} is one instant, not {instant!r:.100}.")
    return datetime_to_ns(interval.start)


def _conditions(attributes: AttributeConditions | None) -> list[tuple[str, str, str, Any]]:
    """Conditions as the statement takes them: key, operator, kind of the value, value."""
    if attributes is None:
        return []
    pairs = list(attributes.items()) if isinstance(attributes, Mapping) else attributes
    if not isinstance(pairs, list | tuple) or any(not isinstance(one, tuple) or len(one) != 2 for one in pairs):
        raise ArgumentError(
            f"attributes is a mapping from keys to values, or a list of such pairs, not {type(attributes).__name__}."
        )
    found = []
    for key, wanted in pairs:
        if not isinstance(key, str):
            raise ArgumentError(f"The key {key!r:.100} of an attribute is no text.")
        operator, value = _operator_and_value(key, wanted)
        found.append((clean_text(key), operator, *_kind_and_value(key, operator, value)))
    return found


def _operator_and_value(key: str, wanted: Any) -> tuple[str, Any]:
    if not isinstance(wanted, tuple):
        return "=", wanted
    if wanted and isinstance(wanted[0], str) and wanted[0] in _OPERATORS:
        if len(wanted) == 2:
            return wanted
        if wanted == ("exists",):
            return "exists", None
    raise ArgumentError(
        f"{wanted!r:.100} for the attribute {key!r:.100} is no (operator, value).",
        hint=f'Operators are {", ".join(_OPERATORS)}, as in {{"size": (">=", 512)}}; a list as a value is a list.',
    )


def _kind_and_value(key: str, operator: str, value: Any) -> tuple[str, Any]:
    """JSON's type of a value, all numbers as "number", and what the store has for it; see schema.sql for tags."""
    if operator == "exists":
        return "null", None
    if operator == "in" and not isinstance(value, list):
        raise ArgumentError(f"The attribute {key!r:.100} is compared with a list by in, not with {value!r:.100}.")
    is_order = operator in ("<", "<=", ">", ">=")
    stored = capture_value(value)
    if is_order and isinstance(value, int) and not isinstance(stored, int):
        stored = math.inf if value.bit_length() > 1000 else float(value)  # beyond 64 bits: compared as a float
    match stored:
        case None:
            kind = "null"
        case bool():
            kind = "true" if stored else "false"
        case int() | float() if math.isfinite(stored):
            kind = "number"
        case str():
            kind = "text"
        case _:
            kind = "array" if isinstance(stored, list) else "object"
            stored = orjson.dumps(stored).decode()
    if is_order and kind not in ("number", "text"):
        raise ArgumentError(f"The attribute {key!r:.100} cannot be {operator} {value!r:.100}; compare numbers or text.")
    return kind, stored
