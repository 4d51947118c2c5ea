"""Telemetry objects to rows: what the writer thread takes from its queues, and the tuples that it inserts.

The objects that name a row by number (`Reference` and `TraceScope`) are numbered by the writer, inside the transaction
that first needs them; the writer takes the numbers back if that transaction fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from tilebox_local.ids import signed64
from tilebox_local.storage.attributes import MAX_TEXT_CHARS, encode_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tilebox_local.observability.span import RecordingSpan

__all__ = ["EVENT_WIDTH", "FULL_SPAN_WIDTH", "LOG_WIDTH", "SPAN_WIDTH", "LogItem", "Reference", "TraceScope"]

_dumps = orjson.dumps

SPAN_WIDTH = 11
FULL_SPAN_WIDTH = 19
EVENT_WIDTH = 6
LOG_WIDTH = 13


class Reference:
    """A resource or scope: `key` identifies it, `no` is its row in this store, None until it is written."""

    __slots__ = ("key", "no")

    def __init__(self, key: str, no: int | None = None) -> None:
        self.key = key
        self.no = no


class TraceScope:
    """The part of a trace that belongs to one job, or to none (`trace_no` is None until it is written).

    `parent_span_id` (signed) is the span elsewhere that the first span here continues; it tells the job where
    several jobs share a trace id.
    """

    __slots__ = ("flags", "parent_span_id", "trace_id", "trace_no")

    def __init__(
        self, trace_id: int, flags: int, *, trace_no: int | None = None, parent_span_id: int | None = None
    ) -> None:
        self.parent_span_id = parent_span_id
        self.trace_id = trace_id
        self.flags = flags
        self.trace_no = trace_no


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


def span_values(spans: Iterable[RecordingSpan], number: Callable[[RecordingSpan], None]) -> tuple[list[Any], list[Any]]:
    """Values of the columns of `insert_spans` in one flat list, and the spans that have details and need another one.

    `number` gives a span's trace, resource and scope their rows. This loop is what a busy program waits for.
    """
    flat: list[Any] = []
    detailed: list[RecordingSpan] = []
    extend = flat.extend
    for span in spans:
        trace_no = span.scope.trace_no
        resource_no = span.resource.no
        if trace_no is None or resource_no is None or span.has_details:
            number(span)
            trace_no, resource_no = span.scope.trace_no, span.resource.no
            if span.has_details:
                detailed.append(span)
                continue
        attributes = span.attributes
        text = None
        if attributes:
            try:
                encoded = _dumps(attributes)
                text = encoded.decode() if len(encoded) <= MAX_TEXT_CHARS else encode_attributes(attributes)
            except TypeError:
                text = encode_attributes(attributes)
        task_no = span.task_no
        extend(
            (
                trace_no,
                span.start_ns,
                span.span_id,
                span.parent_id,
                span.duration_ns,
                span.name,
                span.status_code,
                task_no,
                task_no is not None,
                resource_no,
                text,
            )
        )
    return flat, detailed


def full_span_values(spans: Iterable[RecordingSpan], scopes: dict[str, int]) -> list[Any]:
    """Values of the columns of `insert_full_spans` in one flat list, for spans that are numbered."""
    flat: list[Any] = []
    for span in spans:
        flat += (
            span.scope.trace_no,
            span.start_ns,
            span.span_id,
            span.parent_id,
            span.duration_ns,
            span.name,
            span.status_code,
            span.task_no,
            span.task_no is not None,
            span.resource.no,
            encode_attributes(span.attributes),
            span.otlp_kind,
            span.status_message,
            scopes[span.instrumentation],
            span.encoded_links(),
            span.trace_state,
            span.dropped_attributes,
            span.dropped_events,
            0,
        )
    return flat


def event_values(spans: Iterable[RecordingSpan]) -> list[Any]:
    """Values of the columns of `insert_events` for all events of the spans, in one flat list."""
    flat: list[Any] = []
    for span in spans:
        for number, (name, time_ns, attributes) in enumerate(span.events or (), span.dropped_events):
            flat.extend((span.scope.trace_no, time_ns, span.span_id, number, name, encode_attributes(attributes)))
    return flat


def log_values(logs: Iterable[LogItem], scopes: dict[str, int]) -> list[Any]:
    """Values of the columns of `insert_logs`, all records in one flat list."""
    flat: list[Any] = []
    for log in logs:
        flat.extend(
            (
                0 if log.scope is None else log.scope.trace_no,
                log.time_ns,
                log.log_no,
                None if log.span_id is None else signed64(log.span_id),
                log.severity_number,
                log.severity_text,
                log.body,
                log.task_no,
                int(log.has_task_id),
                int(log.is_span_event),
                log.resource.no,
                scopes[log.logger],
                encode_attributes(log.attributes),
            )
        )
    return flat
