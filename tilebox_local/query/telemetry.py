"""Spans and log records of a job, in columns."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from tilebox_local.catalog import run, value
from tilebox_local.clock import ns_to_datetime
from tilebox_local.data import LogSeverity
from tilebox_local.errors import NotFoundError
from tilebox_local.ids import unsigned64
from tilebox_local.storage.attributes import decode_attributes
from tilebox_local.telemetry import LogRecords, Spans, make_log_records, make_spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

    from tilebox_local.storage.store import Store

__all__ = ["query_logs", "query_spans"]

_STATUS_CODES = ("STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR")
# OTLP severity numbers of each group; FATAL (21-24) counts as error.
_SEVERITY_NUMBERS = {
    LogSeverity.TRACE: range(1, 5),
    LogSeverity.DEBUG: range(5, 9),
    LogSeverity.INFO: range(9, 13),
    LogSeverity.WARNING: range(13, 17),
    LogSeverity.ERROR: range(17, 25),
}
_EVENT_LIMIT = 128  # of a span; log records count, and all of them are still there as log records
_PYTHON_LEVELS = {"WARN": "WARNING", "FATAL": "CRITICAL"}
_EXCEPTION_KEYS = {"exception.type", "exception.message", "exception.stacktrace"}  # of log records, not of their events


def query_spans(store: Store, job_id: UUID, *, task_id: UUID | None, include_open: bool) -> Spans:
    """Spans of a job (of one task) ascending by start. Raises NotFoundError."""
    with store.snapshot() as connection:
        trace_no, trace_id = _trace_of_job(connection, job_id)
        parameters = {
            "trace_no": trace_no,
            "task_no": _task_no(connection, task_id),
            "include_open": include_open,
        }
        rows = run(connection, "spans_of_trace", parameters)
        events = _events(connection, trace_no, trace_id)
        resources = _resources(connection)
    if not rows:
        return Spans()
    starts, ends, span_ids, parents, names, codes, messages, attributes, task_ids, resource_nos = zip(
        *rows, strict=True
    )
    columns: dict[str, Sequence[Any]] = {
        "start_time": starts,
        "end_time": ends,
        "trace_id": [trace_id] * len(rows),
        "span_id": [_hex16(span_id) for span_id in span_ids],
        "parent_span_id": [None if parent is None else _hex16(parent) for parent in parents],
        "name": names,
        "status_code": [_STATUS_CODES[code] for code in codes],
        "status_message": [message or "" for message in messages],
        "attributes": _attribute_dicts(attributes, task_ids),
        "runner_attributes": [resources[number] for number in resource_nos],
        "events": [events.get(span_id, []) for span_id in span_ids] if events else [[] for _ in span_ids],
    }
    return Spans._from_columns(columns, len(rows), make_spans)  # type: ignore[no-any-return]


def query_logs(store: Store, job_id: UUID, *, task_id: UUID | None, severities: Sequence[LogSeverity]) -> LogRecords:
    """Log records of a job (of one task, of some severities) ascending by time. Raises NotFoundError."""
    numbers = [number for severity in severities for number in _SEVERITY_NUMBERS[severity]]
    with store.snapshot() as connection:
        trace_no, trace_id = _trace_of_job(connection, job_id)
        parameters = {
            "trace_no": trace_no,
            "task_no": _task_no(connection, task_id),
            "severities": orjson.dumps(numbers).decode() if numbers else None,
        }
        rows = run(connection, "logs_of_trace", parameters)
        resources = _resources(connection)
    if not rows:
        return LogRecords()
    times, severity_numbers, texts, bodies, spans, attributes, task_ids, resource_nos = zip(*rows, strict=True)
    span_ids = [None if span_id is None else _hex16(span_id) for span_id in spans]
    dicts = _attribute_dicts(attributes, task_ids)
    for found, span_id in zip(dicts, span_ids, strict=True):
        if span_id is not None:
            found.update(trace_id=trace_id, span_id=span_id)
    columns: dict[str, Sequence[Any]] = {
        "time": times,
        "severity_number": severity_numbers,
        "severity_text": texts,
        "body": bodies,
        "trace_id": [None if span_id is None else trace_id for span_id in span_ids],
        "span_id": span_ids,
        "attributes": dicts,
        "runner_attributes": [resources[number] for number in resource_nos],
    }
    return LogRecords._from_columns(columns, len(rows), make_log_records)  # type: ignore[no-any-return]


def _trace_of_job(connection: apsw.Connection, job_id: UUID) -> tuple[int, str]:
    rows = run(connection, "trace_of_job", (job_id.bytes,))
    if not rows:
        raise NotFoundError("job", job_id, hint="List the jobs of this store with client.jobs().query().")
    return rows[0][0], rows[0][1].hex()


def _task_no(connection: apsw.Connection, task_id: UUID | None) -> int | None:
    if task_id is None:
        return None
    number: int | None = value(connection, "find_task_no", (task_id.bytes,))
    if number is None:
        raise NotFoundError("task", task_id)
    return number


def _resources(connection: apsw.Connection) -> dict[int, dict[str, Any]]:
    rows = run(connection, "resources")
    return {number: decode_attributes(text) for number, text in rows}


def _events(connection: apsw.Connection, trace_no: int, trace_id: str) -> dict[int, list[dict[str, Any]]]:
    """Events per (signed) span id, ascending by time; log records are events log.message, as in the view `events`."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for span_id, time_ns, name, attributes in run(connection, "events_of_trace", (trace_no,)):
        found[span_id].append({"time": time_ns, "name": name, "attributes": decode_attributes(attributes)})
    for span_id, time_ns, severity, body, text, task_id in run(connection, "log_events_of_trace", (trace_no,)):
        level = _PYTHON_LEVELS.get(severity, severity)
        attributes = {"time": _iso_microseconds(time_ns), "body": body, "level": level}
        attributes |= {"trace_id": trace_id, "span_id": _hex16(span_id)}
        own = decode_attributes(text)
        if task_id is not None:
            attributes["task_id"] = str(UUID(bytes=task_id))
        attributes |= {key: value for key, value in own.items() if key not in _EXCEPTION_KEYS}
        found[span_id].append({"time": time_ns, "name": "log.message", "attributes": attributes})
    for events in found.values():
        events.sort(key=lambda event: event["time"])
        del events[:-_EVENT_LIMIT]
        for event in events:
            event["time"] = ns_to_datetime(event["time"])
    return found


def _iso_microseconds(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + (
        f"{time_ns // 1000 % 1_000_000:06d}Z"
    )


def _attribute_dicts(texts: Sequence[str | None], task_ids: Sequence[bytes | None]) -> list[dict[str, Any]]:
    """Attributes, with the task_id that is stored beside them in front."""
    known: dict[bytes, str] = {}
    dicts: list[dict[str, Any]] = []
    for text, task_id in zip(texts, task_ids, strict=True):
        attributes = decode_attributes(text)
        if task_id is not None and "task_id" not in attributes:
            shown = known.get(task_id)
            if shown is None:
                shown = known[task_id] = str(UUID(bytes=task_id))
            attributes = {"task_id": shown, **attributes}
        dicts.append(attributes)
    return dicts


def _hex16(span_id: int) -> str:
    return f"{unsigned64(span_id):016x}"
