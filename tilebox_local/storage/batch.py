"""One transaction's worth of telemetry: numbers what is new, inserts in large statements, isolates what is unfit.

Each INSERT carries up to 512 rows. A statement that fails changes nothing, so its rows are tried one by one; a row
that still fails is repaired, else quarantined with the reason. Owned by the writer thread.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

import apsw

from tilebox_local import clock
from tilebox_local.catalog import run, sql, value
from tilebox_local.storage import rows
from tilebox_local.storage.attributes import clean_text, encodable, text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilebox_local.observability.span import RecordingSpan
    from tilebox_local.storage.rows import LogItem, Reference, TraceScope

__all__ = ["STORE_ERRORS", "Batch"]

# apsw caches statements of up to 16 KiB; 512 rows of 13 columns stay below.
_CHUNK_SIZES = (512, 64, 8, 1)
_JSON_COLUMNS = {
    "insert_spans": {10},
    "insert_full_spans": {10, 14},
    "insert_events": {5},
    "insert_logs": {12},
}
_DURATION = 4  # position of duration_ns in a span's row
# These say that the store, not the row, is at fault.
STORE_ERRORS = (
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.FullError,
    apsw.IOError,
    apsw.InterruptError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.NotADBError,
    apsw.PermissionsError,
    apsw.ReadOnlyError,
)


class Batch:
    """Records taken from the queues. Kept until a commit succeeds, so a failed transaction loses nothing."""

    def __init__(self) -> None:
        self.spans: list[RecordingSpan] = []
        self.logs: list[LogItem] = []
        self.open_spans: list[RecordingSpan] = []
        self.writer_no: int | None = None
        self.written_count = 0
        self.quarantined_count = 0
        self.new_quarantined_count = 0
        self.undo: list[Callable[[], None]] = []
        self._scopes: dict[str, int] = {"tilebox.com/observability": 1}
        self._inserted = 0

    def __len__(self) -> int:
        return len(self.spans) + len(self.logs)

    def insert(self, connection: apsw.Connection) -> None:
        """Insert everything. Delivering a record twice stores it once."""
        self.new_quarantined_count = 0
        self._inserted = 0
        self.insert_spans(connection, self.spans + self.open_spans)
        if self.logs:
            self._number_logs(connection)
            values = rows.log_values(self.logs, self._scopes)
            self._insert_rows(connection, "log", "insert_logs", rows.LOG_WIDTH, values)

    def insert_spans(self, connection: apsw.Connection, spans: list[RecordingSpan]) -> None:
        """Insert spans and their events; one without a duration counts as open."""
        values, detailed = rows.span_values(spans, partial(self._number_span, connection))
        self._insert_rows(connection, "span", "insert_spans", rows.SPAN_WIDTH, values)
        if detailed:
            values = rows.full_span_values(detailed, self._scopes)
            self._insert_rows(connection, "span", "insert_full_spans", rows.FULL_SPAN_WIDTH, values)
            self._insert_rows(connection, "event", "insert_events", rows.EVENT_WIDTH, rows.event_values(detailed))

    def commit(self) -> None:
        """The transaction is durable: forget the records."""
        for span in self.open_spans:
            span.is_written = True
        self.written_count += self._inserted
        self.quarantined_count += self.new_quarantined_count
        self._inserted = self.new_quarantined_count = 0
        self.spans, self.logs, self.open_spans = [], [], []
        self.undo.clear()

    def undo_since(self, mark: int) -> None:
        """What happened since `undo` was `mark` long is rolled back: take back the numbers it gave."""
        while len(self.undo) > mark:
            self.undo.pop()()

    def rollback(self) -> None:
        """The transaction is rolled back: take back the numbers it gave."""
        self.undo_since(0)
        self.open_spans = []

    # -- numbers ------------------------------------------------------------------------------------------------

    def _number_span(self, connection: apsw.Connection, span: RecordingSpan) -> None:
        if span.scope.trace_no is None:
            self._number_trace(connection, span.scope)
        if span.resource.no is None:
            self.number_resource(connection, span.resource)
        if span.instrumentation not in self._scopes:
            self._number_scope(connection, span.instrumentation)

    def _number_logs(self, connection: apsw.Connection) -> None:
        for log in self.logs:
            if log.scope is not None and log.scope.trace_no is None:
                self._number_trace(connection, log.scope)
            if log.resource.no is None:
                self.number_resource(connection, log.resource)
            if log.logger not in self._scopes:
                self._number_scope(connection, log.logger)

    def _number_trace(self, connection: apsw.Connection, scope: TraceScope) -> None:
        key = scope.trace_id.to_bytes(16, "big")
        if scope.parent_span_id is None:
            found = value(connection, "find_jobless_trace", (key,))
        else:
            found = value(connection, "find_trace", {"trace_id": key, "parent_span_id": scope.parent_span_id})
        if found is None:
            found = value(connection, "insert_trace", (key, None))
        scope.trace_no = found
        self.undo.append(lambda: setattr(scope, "trace_no", None))

    def number_resource(self, connection: apsw.Connection, resource: Reference) -> int:
        """Row number of a resource, inserted if it is new."""
        if resource.no is None:
            resource.no = value(connection, "find_resource", (resource.key,))
            if resource.no is None:
                resource.no = value(connection, "insert_resource", (resource.key,))
            self.undo.append(lambda: setattr(resource, "no", None))
        return resource.no

    def _number_scope(self, connection: apsw.Connection, name: str) -> None:
        cleaned = text_of(name)
        number = value(connection, "find_scope", (cleaned, ""))
        if number is None:
            number = value(connection, "insert_scope", (cleaned, ""))
        self._scopes[name] = number
        self.undo.append(lambda: _discard(self._scopes, name))

    # -- rows ---------------------------------------------------------------------------------------------------

    def _insert_rows(self, connection: apsw.Connection, kind: str, name: str, width: int, values: list[Any]) -> None:
        position, end = 0, len(values)
        while position < end:
            remaining = (end - position) // width
            count = next(size for size in _CHUNK_SIZES if size <= remaining)
            chunk = values[position : position + count * width]
            position += count * width
            try:
                connection.execute(_insert_statement(name, width, count), chunk)
                self._inserted += count
            except STORE_ERRORS:
                raise
            except Exception:  # noqa: BLE001 -- an unfit row; find it
                for first in range(0, len(chunk), width):
                    self._insert_suspect(connection, kind, name, chunk[first : first + width])

    def _insert_suspect(self, connection: apsw.Connection, kind: str, name: str, row: list[Any]) -> None:
        """Insert one row of a statement that failed; repair its text, or quarantine it."""
        statement = _insert_statement(name, len(row), 1)
        try:
            connection.execute(statement, row)
        except STORE_ERRORS:
            raise
        except Exception:  # noqa: BLE001
            whole = _JSON_COLUMNS[name]  # cut JSON is no JSON
            repaired = [
                value if not isinstance(value, str) else encodable(value) if column in whole else clean_text(value)
                for column, value in enumerate(row)
            ]
            try:
                connection.execute(statement, repaired)
            except STORE_ERRORS:
                raise
            except Exception as error:  # noqa: BLE001
                if kind == "span" and row[_DURATION] is None:
                    return  # still open: it is judged when it ends
                self._quarantine(connection, kind, error, repaired)
                return
        self._inserted += 1

    def _quarantine(self, connection: apsw.Connection, kind: str, error: Exception, row: list[Any]) -> None:
        reason = text_of(f"{type(error).__name__}: {text_of(error)}")
        content = clean_text(f"[{', '.join(_shown(value) for value in row)}]")
        run(connection, "insert_quarantine", (self.writer_no, clock.wall_ns(), kind, reason, content))
        self.new_quarantined_count += 1


def _shown(value: object) -> str:
    try:
        return ascii(value)
    except Exception:  # noqa: BLE001 -- user objects may raise anything
        return f"<unprintable {type(value).__name__}>"


def _discard(numbers: dict[str, int], name: str) -> None:
    numbers.pop(name, None)


@cache
def _insert_statement(name: str, width: int, count: int) -> str:
    row = f"({','.join('?' * width)})"
    return f"{sql[name]}\n{','.join([row] * count)}\n{sql[name + '_conflict']}"
