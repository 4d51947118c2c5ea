"""One transaction's worth of telemetry: numbers what is new, inserts in large statements, isolates what is unfit.

Each INSERT carries up to 512 rows. A statement that fails changes nothing, so its rows are tried one by one; a row
that still fails is repaired, else quarantined with the reason. Owned by the writer thread.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import apsw

from tilebox_local import clock
from tilebox_local.catalog import run, sql, value
from tilebox_local.process import process_identity
from tilebox_local.storage import rows
from tilebox_local.storage.attributes import clean_text, encodable, text_of
from tilebox_local.storage.redaction import redact_text
from tilebox_local.storage.rows import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tilebox_local.observability.span import RecordingSpan
    from tilebox_local.storage.rows import LogItem, Reference, TraceScope

__all__ = ["STORE_ERRORS", "Batch"]

# apsw caches statements of up to 16 KiB; 512 rows of 13 columns stay below.
_CHUNK_SIZES = (512, 64, 8, 1)
_JSON_COLUMNS = {
    "insert_spans": {9},
    "insert_full_spans": {9, 13},
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
        self.span_rows: list[tuple[Any, ...]] = []
        self.spans: list[RecordingSpan] = []
        self.logs: list[LogItem] = []
        self.open_spans: list[RecordingSpan] = []
        self.writer_no: int | None = None
        self.written_count = 0
        self.quarantined_count = 0
        self.new_quarantined_count = 0
        self._numbered: list[TraceScope | Reference | _Provisional] = []
        self._loggers: dict[str, Scope] = {}
        self.inserted_count = 0  # in the transaction under way

    def __len__(self) -> int:
        return len(self.span_rows) + len(self.spans) + len(self.logs)

    def insert(self, connection: apsw.Connection) -> None:
        """Insert everything. Delivering a record twice stores it once."""
        self._insert_rows(connection, "span", "insert_spans", self.span_rows)
        self.insert_spans(connection, self.spans + self.open_spans)
        if self.logs:
            self._number_logs(connection)
            self._insert_rows(connection, "log", "insert_logs", [rows.log_row(log, self._loggers) for log in self.logs])

    def insert_spans(self, connection: apsw.Connection, spans: list[RecordingSpan]) -> None:
        """Insert spans and their events; one without a duration counts as open."""
        if not spans:
            return
        self._number_traces(connection, spans)
        for span in spans:
            if span.resource.no is None:
                self.number_resource(connection, span.resource)
            if span.instrumentation.no is None:
                self._number_scope(connection, span.instrumentation)
        plain = [rows.span_row(span) for span in spans if not span.has_details]
        self._insert_rows(connection, "span", "insert_spans", plain)
        detailed = [span for span in spans if span.has_details]
        full = list(map(rows.full_span_row, detailed))
        self._insert_rows(connection, "span", "insert_full_spans", full)
        events = list(chain.from_iterable(map(rows.event_rows, detailed)))
        self._insert_rows(connection, "event", "insert_events", events)
        for span in detailed:
            if span.dropped_events and span.is_written:
                dropped = (span.scope.trace_no, span.span_id, span.dropped_events)
                run(connection, "delete_dropped_events", dropped)

    def commit(self) -> None:
        """The transaction is durable: forget the records."""
        for span in self.open_spans:
            span.is_written = True
        self.written_count += self.inserted_count
        self.quarantined_count += self.new_quarantined_count
        self.inserted_count = self.new_quarantined_count = 0
        self.span_rows, self.spans, self.logs, self.open_spans = [], [], [], []
        for numbered in self._numbered:
            numbered.publish()
        self._numbered.clear()

    def drop(self) -> int:
        """Nobody will store the records: forget them; their number."""
        count = len(self)
        self.span_rows, self.spans, self.logs, self.open_spans = [], [], [], []
        return count

    def savepoint(self) -> int:
        """Where `rollback_to` may return to."""
        return len(self._numbered)

    def rollback_to(self, savepoint: int) -> None:
        """What happened since the savepoint is rolled back: take back the numbers it gave."""
        while len(self._numbered) > savepoint:
            self._numbered.pop().forget()

    def rollback(self) -> None:
        """The transaction is rolled back: take back the numbers it gave."""
        self.rollback_to(0)
        self.open_spans = []
        self.inserted_count = self.new_quarantined_count = 0

    # -- numbers ------------------------------------------------------------------------------------------------

    def _number_logs(self, connection: apsw.Connection) -> None:
        self._number_traces(connection, self.logs)
        for log in self.logs:
            if log.resource.no is None:
                self.number_resource(connection, log.resource)
            scope = self._loggers.get(log.logger)
            if scope is None:
                scope = self._loggers[log.logger] = Scope(log.logger)
            if scope.no is None:
                self._number_scope(connection, scope)

    def _number_traces(self, connection: apsw.Connection, records: Sequence[RecordingSpan | LogItem]) -> None:
        new = {record.scope: None for record in records if record.scope is not None and record.scope.trace_no is None}
        if not new:
            return
        begun_here = [scope for scope in new if scope.parent_span_id is None]
        numbers = self._numbers_of_traces(connection, {_trace_key(scope): None for scope in begun_here})
        for scope in new:
            key = _trace_key(scope)
            if scope.parent_span_id is None:
                number = numbers[key]
            else:
                number = value(connection, "find_trace", {"trace_id": key, "parent_span_id": scope.parent_span_id})
                if number is None:
                    number = value(connection, "insert_trace", (key, None))
            scope.trace_no = number
            self._numbered.append(scope)

    def _numbers_of_traces(self, connection: apsw.Connection, keys: Iterable[bytes]) -> dict[bytes, int]:
        """Rows of traces of no job, those that are new inserted in large statements: a program may begin many."""
        rows_of_keys = [(key,) for key in keys]
        numbers: dict[bytes, int] = {}
        for chunk in _chunks(rows_of_keys):
            numbers.update(_execute(connection, "find_jobless_traces", chunk))
        missing = [key for (key,) in rows_of_keys if key not in numbers]
        if missing:
            new = list(enumerate(missing, value(connection, "next_trace_no")))
            for chunk in _chunks(new):
                _execute(connection, "insert_traces", chunk)
            numbers.update((key, number) for number, key in new)
        return numbers

    def number_resource(self, connection: apsw.Connection, resource: Reference) -> int:
        """Row number of a resource, inserted if it is new."""
        if resource.no is None:
            row = resource.key, self.number_writer(connection)
            resource.no = value(connection, "find_resource", row)
            if resource.no is None:
                resource.no = value(connection, "insert_resource", row)
            self._numbered.append(resource)
        return resource.no

    def _number_scope(self, connection: apsw.Connection, scope: Scope) -> None:
        key = redact_text(text_of(scope.key)), redact_text(text_of(scope.version))
        scope.no = value(connection, "find_scope", key)
        if scope.no is None:
            scope.no = value(connection, "insert_scope", key)
        self._numbered.append(scope)

    def number_writer(self, connection: apsw.Connection) -> int:
        """Row of this process in writer_records, inserted before the first use."""
        if self.writer_no is None:
            row = {**asdict(process_identity()), "now_ns": clock.wall_ns()}
            self.writer_no = value(connection, "insert_writer", row)
            self._numbered.append(_Provisional(self._forget_writer))
        number: int = self.writer_no
        return number

    def _forget_writer(self) -> None:
        self.writer_no = None

    # -- rows ---------------------------------------------------------------------------------------------------

    def _insert_rows(
        self, connection: apsw.Connection, kind: str, name: str, rows_to_insert: list[tuple[Any, ...]]
    ) -> None:
        for chunk in _chunks(rows_to_insert):
            try:
                _execute(connection, name, chunk)
                self.inserted_count += len(chunk)
            except STORE_ERRORS:
                raise
            except Exception:  # noqa: BLE001 -- an unfit row; find it
                for row in chunk:
                    self._insert_suspect(connection, kind, name, row)

    def _insert_suspect(self, connection: apsw.Connection, kind: str, name: str, row: tuple[Any, ...]) -> None:
        """Insert one row of a statement that failed; repair its text, or quarantine it."""
        try:
            _execute(connection, name, [row])
        except STORE_ERRORS:
            raise
        except Exception:  # noqa: BLE001
            whole = _JSON_COLUMNS[name]  # cut JSON is no JSON
            repaired = tuple(
                value if not isinstance(value, str) else encodable(value) if column in whole else clean_text(value)
                for column, value in enumerate(row)
            )
            try:
                _execute(connection, name, [repaired])
            except STORE_ERRORS:
                raise
            except Exception as error:  # noqa: BLE001
                if kind == "span" and row[_DURATION] is None:
                    return  # still open: it is judged when it ends
                self._quarantine(connection, kind, error, repaired)
                return
        self.inserted_count += 1

    def _quarantine(self, connection: apsw.Connection, kind: str, error: Exception, row: tuple[Any, ...]) -> None:
        reason = redact_text(text_of(f"{type(error).__name__}: {text_of(error)}"))
        content = redact_text(clean_text(f"[{', '.join(_shown(value) for value in row)}]"))
        run(connection, "insert_quarantine", (self.writer_no, clock.wall_ns(), kind, reason, content))
        self.new_quarantined_count += 1


def _shown(value: object) -> str:
    try:
        return ascii(value)
    except Exception:  # noqa: BLE001 -- user objects may raise anything
        return f"<unprintable {type(value).__name__}>"


class _Provisional:
    """A number that only the writer knows."""

    __slots__ = ("forget",)

    def __init__(self, forget: Callable[[], None]) -> None:
        self.forget = forget

    def publish(self) -> None:
        pass


def _trace_key(scope: TraceScope) -> bytes:
    return scope.trace_id.to_bytes(16, "big")


def _chunks(values: list[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """The rows in as few statements as there may be, of few different lengths."""
    position, end = 0, len(values)
    while position < end:
        count = next(size for size in _CHUNK_SIZES if size <= end - position)
        yield values[position : position + count]
        position += count


def _execute(connection: apsw.Connection, name: str, chunk: list[tuple[Any, ...]]) -> list[Any]:
    return connection.execute(_statement(name, len(chunk[0]), len(chunk)), list(chain.from_iterable(chunk))).fetchall()


@cache
def _statement(name: str, width: int, count: int) -> str:
    row = f"({','.join('?' * width)})"
    return sql[name].replace(":rows", ",".join([row] * count))
