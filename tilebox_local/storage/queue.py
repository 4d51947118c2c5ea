"""What threads hand to the writer of their process: ended spans and log records, and which spans are open.

Appending never raises. When more than a batch of records waits, the appending thread gives way to the writer now and
then; when more than `limit` wait, it waits for the writer (backpressure). If the writer makes no progress because the
disk refuses, records are dropped and counted until it does.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from tilebox_local.storage.rows import redact_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilebox_local.errors import StoreError
    from tilebox_local.observability.span import RecordingSpan
    from tilebox_local.storage.batch import Batch
    from tilebox_local.storage.rows import LogItem

__all__ = ["BATCH_LIMIT", "TelemetryQueue", "take"]

T = TypeVar("T")

BATCH_LIMIT = 4_096
_LIMIT = 10_000
_STRIDE = 256
_PATIENCE_S = 5.0
_POLL_S = 0.001
_OPEN_SPAN_AGE_NS = 250_000_000

_log = logging.getLogger("tilebox.workflows.internal")


class TelemetryQueue:
    """Thread-safe. Spans go on using the queue they began with, so it lives as long as its store.

    Args:
        wake: Makes the writer thread look, and starts it first if need be.
        limit: Records of one kind that may wait before the appending thread has to.
    """

    def __init__(self, wake: Callable[[], None], limit: int = _LIMIT) -> None:
        self._wake = wake
        self._limit = limit
        self.reset()

    def reset(self) -> None:
        """Begin empty and open."""
        # Hot: read by every span. `idle` tells an appending thread to wake the writer, and so does a queue longer than
        # `attention`: a batch's worth, and again every few hundred records until the writer has come.
        self.attention = min(BATCH_LIMIT, self._limit)
        self.span_rows: deque[tuple[Any, ...]] = deque()  # made by the span as it ended, if nothing was in its way
        self.spans: deque[RecordingSpan] = deque()
        self.open_spans: dict[RecordingSpan, None] = {}
        self.idle = True
        self.logs: deque[LogItem] = deque()
        self.task_ids: dict[int, str] = {}  # of the tasks that run in this process: task_no -> task id
        self.dropped_count = 0
        self.is_shedding = False  # records over the limit are dropped at once
        self.refusal: StoreError | None = None
        self._is_closed = False
        self._has_ended = False

    def after_fork_in_child(self) -> None:
        """Begin anew: what is queued is the parent's to store, and what is open the parent's to end."""
        task_ids = self.task_ids  # a task that forks goes on here, too
        self.reset()
        self.task_ids = task_ids

    def __len__(self) -> int:
        return len(self.span_rows) + len(self.spans) + len(self.logs)

    # -- any thread ---------------------------------------------------------------------------------------------

    def append_span(self, span: RecordingSpan) -> None:
        """Queue an ended span. Waits only while the queue is over its limit."""
        self.spans.append(span)
        if self.idle or len(self.spans) > self.attention:
            self.attend(self.spans)

    def append_log(self, log: LogItem) -> None:
        """Queue a log record. Waits only while the queue is over its limit."""
        self.logs.append(log)
        if self.idle or len(self.logs) > self.attention:
            self.attend(self.logs)

    def attend(self, records: deque[Any] | None = None) -> None:
        """Wake the writer, and if there are too many `records`, wait for room or drop the newest one."""
        if self._is_closed:
            if records:
                self._refuse(records)
            return
        if self.idle:
            self._wake_writer()
        if records is None:
            return
        if len(records) > self._limit:
            self._make_room(records)
        elif len(records) > self.attention:
            self.attention = min(len(records) + _STRIDE, self._limit)
            self._wake_writer()
            # Give way: a writer that comes back from SQLite would wait 5 ms for the interpreter's lock, each time.
            time.sleep(0)

    @property
    def limit(self) -> int:
        """Records of one kind that may wait before the appending thread has to."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self.attention = min(BATCH_LIMIT, limit)

    def _wake_writer(self) -> None:
        with contextlib.suppress(RuntimeError):  # the interpreter has no thread to give; close() writes in its own
            self._wake()

    def _make_room(self, records: deque[Any]) -> None:
        if not self._sheds():
            deadline = time.monotonic() + _PATIENCE_S
            while time.monotonic() < deadline and not self._is_closed:
                if len(records) <= self._limit:
                    return
                self._wake_writer()
                self._wait_for_room()
                if self._sheds():
                    break
            self.is_shedding = True
        with contextlib.suppress(IndexError):
            records.pop()
            self.dropped_count += 1

    def _wait_for_room(self) -> None:
        time.sleep(_POLL_S)  # not with an Event: a signal handler that appends may have interrupted its methods

    def _sheds(self) -> bool:
        return self.is_shedding  # set by the writer thread, too

    def _refuse(self, records: deque[Any]) -> None:
        """Drop a record that comes after close()."""
        if self.refusal is not None and not self.dropped_count:
            _log.error("%s Spans and logs of this process are dropped.", self.refusal)
        with contextlib.suppress(IndexError):
            records.pop()
            self.dropped_count += 1
        if not self._has_ended:
            time.sleep(0.001)  # a loop that goes on would keep the closing writer from the interpreter's lock

    # -- the writer ---------------------------------------------------------------------------------------------

    def has_batch(self) -> bool:
        """Whether more waits than one batch takes."""
        return max(len(self.span_rows), len(self.spans)) > BATCH_LIMIT

    def move_to(self, batch: Batch, limit: int | None) -> None:
        """Move records to the batch, oldest first, at most `limit` of each kind (None: all that is there now)."""
        span_rows = take(self.span_rows, limit)
        redact_rows(span_rows)
        batch.span_rows.extend(span_rows)
        batch.spans.extend(take(self.spans, limit))
        batch.logs.extend(take(self.logs, limit))
        if not self._is_closed:
            self.attention = min(BATCH_LIMIT, self._limit)

    def fail(self, *, is_full: bool) -> None:
        """Nothing could be written; if that leaves too much waiting, let nobody wait for room."""
        self.is_shedding = self.is_shedding or is_full

    def has_unwritten_open_span(self) -> bool:
        """Whether a span is open that is not in the file."""
        return any(not span.is_written for span in list(self.open_spans))

    def old_open_spans(self, now_monotonic_ns: int) -> list[RecordingSpan]:
        """Spans that have been open for a while and are not in the file, oldest first."""
        horizon = now_monotonic_ns - _OPEN_SPAN_AGE_NS
        found = []
        for span in list(self.open_spans):
            if span.monotonic_start_ns > horizon:
                break
            if not span.is_written:
                found.append(span)
        return found

    def close(self, refusal: StoreError | None = None) -> None:
        """Drop what comes from now on. With `refusal`, say why once."""
        self._is_closed = True
        if refusal is not None:
            self.refusal = refusal
        self.attention = -1  # every further record comes to attend()

    def end(self) -> None:
        """Nobody will take records any more: what is left is dropped."""
        self._has_ended = True
        self.dropped_count += len(self)


def take(records: deque[T], limit: int | None) -> list[T]:
    """Remove and return the oldest records, at most `limit` (None: all that are there now)."""
    taken: list[T] = []
    if not records:
        return taken
    count = len(records) if limit is None else min(len(records), limit)
    popleft = records.popleft
    with contextlib.suppress(IndexError):  # an appending thread took back its record for want of room
        for _ in range(count):
            taken.append(popleft())  # noqa: PERF401 -- a comprehension would lose what it has when it fails
    return taken
