"""What a writer says about itself: counts for this process, its row in writer_records, and gaps in what it stored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tilebox_local import clock
from tilebox_local.catalog import run, value
from tilebox_local.storage.redaction import redact_text, redacted_count

if TYPE_CHECKING:
    import apsw

    from tilebox_local.storage.batch import Batch
    from tilebox_local.storage.lockfile import LockFile
    from tilebox_local.storage.queue import TelemetryQueue

__all__ = ["Bookkeeping", "WriterStats", "write_incident"]

_SEEN_EVERY_NS = 1_000_000_000
_SAME_GAP_NS = 10_000_000_000
_INCIDENT_COLUMNS = (
    "writer_no",
    "last_seen_ns",
    "runner_no",
    "task_no",
    "attempt",
    "task_name",
    "trace_no",
    "span_id",
    "span_path",
    "log_time_ns",
    "log_body",
)


@dataclass(frozen=True)
class WriterStats:
    """What the writer of this process has done so far, in records (spans, events and logs).

    `max_lag_duration_ns` is the longest time from taking records from the queue to their commit,
    `lock_wait_duration_ns` the time spent waiting for other processes, altogether. `redacted_count` is in secrets,
    and of all stores of this process.
    """

    queued_count: int
    written_count: int
    dropped_count: int
    quarantined_count: int
    redacted_count: int
    transaction_count: int
    failed_transaction_count: int
    lock_wait_count: int
    lock_wait_duration_ns: int
    max_lag_duration_ns: int


class Bookkeeping:
    """Owned by the writer thread; `stats` may be called from any thread."""

    def __init__(self, queue: TelemetryQueue, lock: LockFile) -> None:
        self._queue = queue
        self._lock = lock
        self.reset()

    def reset(self) -> None:
        """Begin anew, after a fork."""
        self.transaction_count = 0
        self.failed_transaction_count = 0
        self.last_error: BaseException | None = None
        self._max_lag_ns = 0
        self._taken_at = 0
        self._seen_at = 0
        self._refused = (0, 0)  # dropped and quarantined, as the file has them
        self._refusing = (0, 0)  # the same in the transaction under way
        self._seeing_at = 0
        self._gap_no: int | None = None
        self._gap_at = 0
        self._gap_count = 0

    def taken(self, now: int) -> None:
        """Records have been taken from the queue; those of a failed transaction were taken before."""
        self._taken_at = self._taken_at or now

    def stats(self, batch: Batch) -> WriterStats:
        """Counts since the process opened the store."""
        return WriterStats(
            queued_count=len(self._queue) + len(batch),
            written_count=batch.written_count,
            dropped_count=self._queue.dropped_count,
            quarantined_count=batch.quarantined_count,
            redacted_count=redacted_count(),
            transaction_count=self.transaction_count,
            failed_transaction_count=self.failed_transaction_count,
            lock_wait_count=self._lock.wait_count,
            lock_wait_duration_ns=self._lock.wait_duration_ns,
            max_lag_duration_ns=self._max_lag_ns,
        )

    def is_due(self, now: int) -> bool:
        """Whether the file's idea of this process is old."""
        return now - self._seen_at >= _SEEN_EVERY_NS

    def write(self, connection: apsw.Connection, batch: Batch, now: int, *, is_last: bool = False) -> None:
        """Update this process's row if it is old, wrong about what was refused, or the last chance to."""
        refused = self._queue.dropped_count, batch.quarantined_count + batch.new_quarantined_count
        self._refusing = refused
        # A span that is shown as open is a sign of life that may be the last one.
        is_wrong = refused != self._refused or batch.open_spans
        if batch.writer_no is None or not (is_last or is_wrong or self.is_due(now)):
            return
        self._seeing_at = now
        dropped = refused[0] - self._refused[0]
        if dropped:
            self._write_gap(connection, batch.writer_no, dropped, now)
        now_ns = clock.wall_ns()
        counts = asdict(self.stats(batch)) | {
            "queued_count": len(self._queue),  # what is in the batch is being written
            "written_count": batch.written_count + batch.inserted_count,
            "quarantined_count": refused[1],
            "transaction_count": self.transaction_count + 1,
        }
        ended_ns = now_ns if is_last else None
        run(connection, "writer_seen", {**counts, "now_ns": now_ns, "ended_ns": ended_ns, "writer_no": batch.writer_no})

    def _write_gap(self, connection: apsw.Connection, writer_no: int, dropped: int, now: int) -> None:
        is_same = self._gap_no is not None and now - self._gap_at < _SAME_GAP_NS
        self._gap_count = self._gap_count + dropped if is_same else dropped
        reason = "the store could not keep up" if self.last_error is None else str(self.last_error)
        message = f"{self._gap_count} spans and log records were dropped: {reason}"
        if is_same:
            run(connection, "extend_gap", (clock.wall_ns(), message, self._gap_no))
        else:
            self._gap_no = write_incident(connection, "gap", message, writer_no=writer_no)
        self._gap_at = now

    def commit(self, now: int) -> None:
        """The transaction is durable, as of `now`."""
        self.transaction_count += 1
        self.last_error = None
        self._refused = self._refusing
        self._seen_at = max(self._seen_at, self._seeing_at)
        if self._taken_at:
            self._max_lag_ns = max(self._max_lag_ns, now - self._taken_at)
            self._taken_at = 0

    def fail(self, error: BaseException) -> None:
        """The transaction is rolled back."""
        self.failed_transaction_count += 1
        self.last_error = error
        self._seeing_at = 0
        self._gap_no = None  # may have been rolled back


def write_incident(connection: apsw.Connection, kind: str, message: str, **about: object) -> int:
    """Insert a row into incident_records, which documents kinds and columns; its number. Inside of a transaction."""
    columns = dict.fromkeys(_INCIDENT_COLUMNS) | about
    row = {**columns, "time_ns": clock.wall_ns(), "kind": kind, "message": redact_text(message)}
    number: int = value(connection, "insert_incident", row)
    return number
