"""Runners: register, and end what they leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tilebox_local.catalog import run, value
from tilebox_local.storage.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    import apsw

__all__ = ["OpenSpan", "end_open_spans", "open_spans_of_task", "register_runner"]


class OpenSpan(NamedTuple):
    """A span without an end. Ids are signed."""

    trace_no: int
    start_ns: int
    span_id: int
    parent_span_id: int | None
    name: str


def register_runner(
    connection: apsw.Connection, *, resource_no: int, cluster_no: int, writer_no: int, now_ns: int
) -> int:
    """Insert a runner of this process; return its number."""
    row = {"resource_no": resource_no, "cluster_no": cluster_no, "writer_no": writer_no, "now_ns": now_ns}
    number: int = value(connection, "insert_runner", row)
    return number


def open_spans_of_task(connection: apsw.Connection, task_no: int) -> list[OpenSpan]:
    """The open spans of a task, by start."""
    return sorted(map(OpenSpan._make, run(connection, "open_spans_of_task", {"task_no": task_no})))


def end_open_spans(connection: apsw.Connection, spans: Iterable[OpenSpan], *, end_ns: int, reason: str) -> None:
    """End spans that nobody will end any more, with an error; one that ends after all stays as it is."""
    message = redact_text(f"interrupted: {reason}")
    for span in spans:
        row = {"trace_no": span.trace_no, "start_ns": span.start_ns, "span_id": span.span_id}
        run(connection, "end_open_span", {**row, "end_ns": end_ns, "message": message})
