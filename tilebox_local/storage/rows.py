"""Telemetry objects to rows: what the writer thread takes from its queues, and the tuples that it inserts.

The objects that name a row by number (`Reference` and `TraceScope`) are numbered by the writer, inside the transaction
that first needs them. Once that transaction is committed, the number is published, and an ending span makes its row
itself, in its own thread: a tuple of plain values is all that waits then, which the garbage collector need not follow.
The writer looks for secrets in such rows, many at a time.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from tilebox_local.ids import signed64
from tilebox_local.storage.attributes import encode_attributes
from tilebox_local.storage.redaction import find_part, has_start, redact_json, redact_name, redact_text, screen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilebox_local.observability.span import RecordingSpan

__all__ = [
    "OWN_SCOPE",
    "LogItem",
    "Reference",
    "Scope",
    "TraceScope",
    "event_rows",
    "full_span_row",
    "log_row",
    "redact_rows",
    "span_row",
]


class Reference:
    """A row of a small table: `key` identifies it, `no` is its number in this store, None until it is written.

    `no` is for the writer thread; `committed_no` is that number once it is committed, for other threads.
    """

    __slots__ = ("committed_no", "key", "no")

    def __init__(self, key: str) -> None:
        self.key = key
        self.no: int | None = None
        self.committed_no: int | None = None

    def publish(self) -> None:
        """The row is committed."""
        self.committed_no = self.no

    def forget(self) -> None:
        """There is no row."""
        self.no = self.committed_no = None


class Scope(Reference):
    """An instrumentation scope: the library that makes a span. `key` is its name."""

    __slots__ = ("version",)

    def __init__(self, name: str, version: str = "") -> None:
        super().__init__(name)
        self.version = version


OWN_SCOPE = Scope("tilebox.com/observability")
OWN_SCOPE.no = OWN_SCOPE.committed_no = 1  # schema.sql inserts it


class TraceScope:
    """The part of a trace that belongs to one job, or to none.

    `trace_no` is its row, None until it is written (writer thread only); `committed_no` is that number once it is
    committed, for other threads. `parent_span_id` (signed) is the span elsewhere that the first span here continues;
    it tells the job where several jobs share a trace id. `trace_state` is the W3C tracestate header that came with it.
    """

    __slots__ = ("committed_no", "flags", "parent_span_id", "trace_id", "trace_no", "trace_state")

    def __init__(
        self,
        trace_id: int,
        flags: int,
        *,
        trace_no: int | None = None,
        parent_span_id: int | None = None,
        trace_state: str | None = None,
    ) -> None:
        self.parent_span_id = parent_span_id
        self.trace_id = trace_id
        self.flags = flags
        self.trace_no = trace_no
        self.trace_state = trace_state
        self.committed_no: int | None = None

    def publish(self) -> None:
        """The row is committed."""
        self.committed_no = self.trace_no

    def forget(self) -> None:
        """There is no row."""
        self.trace_no = self.committed_no = None


class LogItem:
    """One log record on its way to the writer."""

    __slots__ = (
        "attributes",
        "body",
        "has_task_id",
        "is_span_event",
        "log_no",
        "logger",
        "resource",
        "scope",
        "severity_number",
        "severity_text",
        "span_id",
        "task_no",
        "time_ns",
    )

    def __init__(
        self,
        *,
        time_ns: int,
        severity_number: int,
        severity_text: str,
        body: str,
        attributes: dict[str, Any] | None,
        logger: str,
        resource: Reference,
        scope: TraceScope | None,
        span_id: int | None,
        task_no: int | None,
        has_task_id: bool,
        is_span_event: bool,
    ) -> None:
        self.time_ns = time_ns
        self.severity_number = severity_number
        self.severity_text = severity_text
        self.body = body
        self.attributes = attributes
        self.logger = logger
        self.resource = resource
        self.scope = scope
        self.span_id = span_id
        self.task_no = task_no
        self.has_task_id = has_task_id
        self.is_span_event = is_span_event
        self.log_no: int | None = None  # given by the writer, once: a retried batch keeps it


_NAME, _ATTRIBUTES = 5, 9  # positions in a span's row
_name_of, _attributes_of = itemgetter(_NAME), itemgetter(_ATTRIBUTES)
_ROWS_AT_ONCE = 256


def redact_rows(rows: list[tuple[Any, ...]]) -> None:
    """Redact the names and attributes of rows that spans have made themselves, in place. Never raises."""
    if not screen.policy.enabled:
        return
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        chunk = rows[first : first + _ROWS_AT_ONCE]
        if not _are_clear(chunk):
            rows[first : first + _ROWS_AT_ONCE] = _redacted_rows(chunk)


def _are_clear(chunk: list[tuple[Any, ...]]) -> bool:
    """One look at many rows: a look at each of them costs twice as much."""
    try:
        if not screen.names.issuperset(map(_name_of, chunk)):
            return False
    except TypeError:  # a name that is no text
        return False
    texts = list(filter(None, map(_attributes_of, chunk)))
    joined = "\n".join(texts)
    has_objects = joined.count("{") > len(texts)
    return not (has_objects or screen.policy.patterns or (has_start(joined) and find_part(joined, 0)))


def _redacted_rows(chunk: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    texts = [row[_ATTRIBUTES] or "{" for row in chunk]
    if screen.policy.patterns:
        suspects = set(range(len(chunk)))
    else:
        suspects = {index for index, text in enumerate(texts) if text.rfind("{")}  # an object inside
        joined, ends, position = "\n".join(texts), list(accumulate(len(text) + 1 for text in texts)), 0
        while found := find_part(joined, position):
            index = bisect_right(ends, found.start())
            suspects.add(index)
            position = ends[index]
    redacted = []
    for index, row in enumerate(chunk):
        name, text = redact_name(row[_NAME]), row[_ATTRIBUTES]
        if index in suspects and text is not None:
            text = redact_json(text)
        is_same = name is row[_NAME] and text is row[_ATTRIBUTES]
        redacted.append(row if is_same else (*row[:_NAME], name, *row[_NAME + 1 : _ATTRIBUTES], text))
    return redacted


def _redacted(value: Any) -> Any:
    return redact_text(value) if type(value) is str else value


def span_row(span: RecordingSpan) -> tuple[Any, ...]:
    """Values of the columns of `insert_spans`, of a span without details whose trace and resource are numbered."""
    return (
        span.scope.trace_no,
        span.start_ns,
        span.span_id,
        span.parent_id,
        span.duration_ns,
        redact_name(span.name),
        span.task_no,
        span.resource.no,
        span.instrumentation.no,
        encode_attributes(span.attributes),
    )


def full_span_row(span: RecordingSpan) -> tuple[Any, ...]:
    """Values of the columns of `insert_full_spans`, of any span that is numbered."""
    return (
        *span_row(span),
        span.otlp_kind,
        span.status_code,
        _redacted(span.status_message),
        span.encoded_links(),
        _redacted(span.scope.trace_state),
        span.dropped_attributes,
        span.dropped_events,
        span.dropped_links,
    )


def event_rows(span: RecordingSpan) -> Iterator[tuple[Any, ...]]:
    """Values of the columns of `insert_events` for each event of a span."""
    for number, (name, time_ns, attributes) in enumerate(span.events or (), span.dropped_events):
        yield (span.scope.trace_no, time_ns, span.span_id, number, redact_name(name), encode_attributes(attributes))


def log_row(log: LogItem, scopes: dict[str, Scope]) -> tuple[Any, ...]:
    """Values of the columns of `insert_logs`."""
    return (
        0 if log.scope is None else log.scope.trace_no,
        log.time_ns,
        log.log_no,
        None if log.span_id is None else signed64(log.span_id),
        log.severity_number,
        log.severity_text,
        redact_text(log.body),
        log.task_no,
        int(log.has_task_id),
        int(log.is_span_event),
        log.resource.no,
        scopes[log.logger].no,
        encode_attributes(log.attributes),
    )
