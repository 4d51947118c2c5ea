"""Rows of the views as the command line lists them: dictionaries with the columns of the views as keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apsw

from tilebox_local.catalog import run, sql
from tilebox_local.clock import ns_to_text
from tilebox_local.data import TASK_FAILED_STATUS
from tilebox_local.formatting.waterfall import SpanRow
from tilebox_local.ids import unsigned64

if TYPE_CHECKING:
    from tilebox_local.storage.store import Store

__all__ = ["list_jobs", "list_logs", "list_spans", "waterfall_notes", "waterfall_rows"]


def _rows(store: Store, name: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    with store.read() as connection:
        cursor = connection.cursor().execute(sql[name], parameters)
        try:
            names = [column[0] for column in cursor.get_description()]
        except apsw.ExecutionCompleteError:  # no rows
            return []
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def list_jobs(store: Store, **filters: Any) -> list[dict[str, Any]]:
    """Jobs, newest first, as in the view `jobs`."""
    return _rows(store, "list_jobs", filters)


def list_spans(store: Store, **filters: Any) -> list[dict[str, Any]]:
    """Spans of a job by start, as in the view `spans`."""
    return _rows(store, "list_spans", filters)


def list_logs(store: Store, **filters: Any) -> list[dict[str, Any]]:
    """Log records of a job by time, as in the view `logs`."""
    return _rows(store, "list_logs", filters)


def waterfall_rows(store: Store, trace_no: int) -> list[SpanRow]:
    """The spans of a trace by start, as far as a picture shows them."""
    with store.snapshot() as connection:
        rows = run(connection, "waterfall_spans", (trace_no,))
        runners = {number: str(name or "") for number, name in run(connection, "runner_names")}
        reasons = {}
        if any(row[6] for row in rows):
            for span_id, kind, text, _ in run(connection, "exceptions_of_trace", (trace_no,)):
                reasons[span_id] = ": ".join(str(part) for part in (kind, text) if part)
    return [
        SpanRow(
            _hex(span_id),
            None if parent is None else _hex(parent),
            name,
            start_ns,
            end_ns,
            runners.get(resource_no) or "",
            bool(is_error),
            # The last exception, where the status gives no reason.
            (reasons.get(span_id) if message in (None, "", TASK_FAILED_STATUS) else None) or message or "",
        )
        for span_id, parent, name, start_ns, end_ns, resource_no, is_error, message in rows
    ]


def _hex(span_id: int) -> str:
    return f"{unsigned64(span_id):016x}"


def waterfall_notes(store: Store, trace_no: int, *, with_logs: bool) -> dict[str, list[str]]:
    """What to show below spans: log records, if asked for, by span id."""
    notes: dict[str, list[str]] = {}
    if with_logs:
        with store.read() as connection:
            for span_id, time_ns, severity, body in run(connection, "waterfall_logs", (trace_no,)):
                notes.setdefault(_hex(span_id), []).append(f"{ns_to_text(time_ns)[11:23]} {severity:5} {body}")
    return notes
