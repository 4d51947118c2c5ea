"""Delete finished jobs and old telemetry, and give the space back.

Everything happens in short transactions, so that other writers get their turn, and can be interrupted between any two
of them: what a job consists of is deleted from its leaves to its root, after a mark that hides the job. The next prune
goes on with jobs that have the mark.

Foreign keys are not enforced while a slice deletes tasks: SQLite would look for children of each row that goes, by
columns that have no index because nothing else needs one. The order of deletion keeps them true; check() looks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import apsw

from tilebox_local import clock
from tilebox_local.catalog import run, value
from tilebox_local.errors import ArgumentError
from tilebox_local.upkeep.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tilebox_local.storage.store import Store
    from tilebox_local.upkeep.progress import Report

__all__ = ["PruneResult", "prune_store"]

_SLICE_S = 0.008  # of deleting in one transaction; the commit comes on top
_FIRST_CHUNK, _MAX_CHUNK = 32, 4096  # rows per statement
_CHUNK_S = 0.002
_TRACE_PAGE = 10_000
_LOGS_PER_UNIT = 1000
_TRUNCATE_TRIES = 20
_NO_TRACE = 0
_LAST = (1 << 63) - 1
# Somebody may be about to add to a trace that has had something this recently.
_UNITS = "jobs and traces"
_IN_USE_NS = 60_000_000_000


@dataclass(frozen=True)
class PruneResult:
    """What was deleted, or, of a dry run, what would be: jobs, jobless traces, and rows.

    `freed_bytes` is by how much the file has become smaller, as soon as no reader uses the old part of the write-ahead
    log (`is_log_empty`); of a dry run, an estimate. `file_bytes` is the size of the file after it.
    """

    jobs: int = 0
    traces: int = 0
    tasks: int = 0
    spans: int = 0
    events: int = 0
    logs: int = 0
    freed_bytes: int = 0
    file_bytes: int = 0
    is_log_empty: bool = True
    is_dry_run: bool = False

    def _plus(self, **counts: int) -> PruneResult:
        return replace(self, **{name: getattr(self, name) + count for name, count in counts.items()})


class _Unit(NamedTuple):
    """What goes as a whole: a job (`job_no`), or what came into a trace before an instant.

    `from_ns` is where the unit before it ended, for counting what is in this one.
    """

    ended_ns: int
    job_no: int | None
    trace_no: int
    before_ns: int
    from_ns: int = -_LAST


def prune_store(
    store: Store,
    *,
    older_than: timedelta | datetime | None = None,
    keep_last: int | None = None,
    max_bytes: int | None = None,
    dry_run: bool = False,
    progress: Report | None = None,
) -> PruneResult:
    """Delete what is too old, too much or too large; see Client.prune."""
    before_ns = _instant(older_than)
    _check_count("keep_last", keep_last)
    _check_count("max_bytes", max_bytes)
    if older_than is None and keep_last is None and max_bytes is None:
        raise ArgumentError(
            "Say what may go by age, number or size: older_than, keep_last, max_bytes "
            "(--older-than, --keep-last, --max-size)."
        )
    must_go, may_go = _plan(store, before_ns, keep_last, is_limited=max_bytes is not None)
    if dry_run:
        return _estimate(store, must_go, may_go, max_bytes, progress)
    pages_before, page_size = _size(store)
    pruning = _Pruning(store, page_size, progress)
    pruning.delete(must_go)
    if max_bytes is not None:
        pruning.delete(may_go, max_bytes=max_bytes)
    pruning.vacuum()
    is_log_empty = _empty_log(store)
    pages, _ = _size(store)
    return replace(
        pruning.result,
        freed_bytes=(pages_before - pages) * page_size,
        file_bytes=pages * page_size,
        is_log_empty=is_log_empty,
    )


def _instant(older_than: timedelta | datetime | None) -> int | None:
    if older_than is None:
        return None
    if isinstance(older_than, timedelta):
        if older_than < timedelta(0):
            raise ArgumentError(f"older_than is {older_than}; a length of time must not be negative.")
        return clock.wall_ns() - older_than // timedelta(microseconds=1) * 1000
    if isinstance(older_than, datetime):
        return clock.datetime_to_ns(older_than)
    raise ArgumentError(f"older_than is {older_than!r:.100}; pass a timedelta or a datetime.")


def _check_count(name: str, count: object) -> None:
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        raise ArgumentError(f"{name} is {count!r:.100}; pass a whole number that is not negative.")


# -- what goes ----------------------------------------------------------------------------------------------------


def _plan(
    store: Store, before_ns: int | None, keep_last: int | None, *, is_limited: bool
) -> tuple[list[_Unit], list[_Unit]]:
    """What goes in any case, and what goes, in this order, until the file is small enough."""
    with store.read() as connection:
        marked = [job_no for (job_no,) in run(connection, "half_pruned_jobs")]
        ended = run(connection, "prunable_jobs")
    if keep_last:
        ended = ended[:-keep_last]
    ended = [(job_no, ended_ns) for job_no, ended_ns, must_stay in ended if not must_stay]
    rest = [_Unit(0, job_no, _NO_TRACE, _LAST) for job_no in marked]
    rest += [_Unit(0, None, trace_no, _LAST) for trace_no in _traces_without_row(store)]
    units = [_Unit(ended_ns, job_no, _NO_TRACE, _LAST) for job_no, ended_ns in ended]
    if before_ns is None and not is_limited:
        return rest + units, []  # all jobs beyond the last ones
    units += _jobless_traces(store)
    old = [unit for unit in units if before_ns is not None and unit.ended_ns < before_ns]
    if before_ns is not None:
        old.append(_Unit(before_ns, None, _NO_TRACE, before_ns))
    young = [unit for unit in units if before_ns is None or unit.ended_ns >= before_ns]
    young += _logs_outside_of_traces(store, 0 if before_ns is None else before_ns)
    return rest + sorted(old, key=_by_age), sorted(young, key=_by_age) if is_limited else []


def _by_age(unit: _Unit) -> int:
    return unit.ended_ns


def _jobless_traces(store: Store) -> Iterator[_Unit]:
    """Traces of no job that nothing is added to any more."""
    latest_ns = clock.wall_ns() - _IN_USE_NS
    after = 0
    while True:
        with store.read() as connection:
            rows = run(connection, "jobless_traces", {"after": after, "limit": _TRACE_PAGE})
        for trace_no, ended_ns in rows:
            if ended_ns < latest_ns:
                yield _Unit(ended_ns, None, trace_no, ended_ns + 1)
        if len(rows) < _TRACE_PAGE:
            break
        after = rows[-1][0]


def _logs_outside_of_traces(store: Store, from_ns: int) -> Iterator[_Unit]:
    """Log records outside of traces, some at a time."""
    while True:
        with store.read() as connection:
            last_ns = value(connection, "log_outside_of_traces", (from_ns, _LOGS_PER_UNIT - 1))
            if last_ns is None:
                last_ns = value(connection, "last_log_outside_of_traces")
        if last_ns is None or last_ns < from_ns:
            return
        yield _Unit(last_ns, None, _NO_TRACE, last_ns + 1, from_ns)
        from_ns = last_ns + 1


def _traces_without_row(store: Store) -> list[int]:
    """Numbers of traces that were pruned, and have got late spans, events or log records since."""
    found: set[int] = set()
    with store.read() as connection:
        for trace_no in chain(
            _numbers(lambda after: value(connection, "next_span_trace", (after,))),
            _numbers(lambda after: value(connection, "next_event_trace", (after,))),
            _numbers(lambda after: value(connection, "next_log_trace", (after,))),
        ):
            if not value(connection, "trace_exists", (trace_no,)):
                found.add(trace_no)
    return sorted(found)


def _numbers(following: Callable[[int], int | None]) -> Iterator[int]:
    number = following(_NO_TRACE)
    while number is not None:
        yield number
        number = following(number)


def _estimate(
    store: Store, must_go: list[_Unit], may_go: list[_Unit], max_bytes: int | None, progress: Report | None
) -> PruneResult:
    """What would be deleted: rows are counted, bytes estimated from the lengths of texts."""
    result = PruneResult(is_dry_run=True)
    pages, page_size = _size(store)
    with store.read() as connection:
        excess = (pages - connection.pragma("freelist_count")) * page_size - (max_bytes or 0)
    count = len(must_go) + len(may_go)
    for index, unit in enumerate(must_go + may_go):
        if index >= len(must_go) and result.freed_bytes >= excess:
            break
        if progress is not None:
            progress(Progress("counting", index, count, _UNITS))
        with store.read() as connection:
            result = _estimate_unit(connection, unit, result)
    if progress is not None:
        progress(Progress("counting", count, count, _UNITS))
    return replace(result, file_bytes=max(0, pages * page_size - result.freed_bytes))


def _estimate_unit(connection: apsw.Connection, unit: _Unit, result: PruneResult) -> PruneResult:
    trace_no = unit.trace_no
    tasks = size = 0
    if unit.job_no is not None:
        trace_no = value(connection, "trace_no_of_job", (unit.job_no,)) or _LAST
        tasks, size = run(connection, "size_of_tasks", (unit.job_no,))[0]
    rows = {"trace_no": trace_no, "before_ns": unit.before_ns}
    spans, span_bytes = run(connection, "size_of_spans", rows)[0]
    events, event_bytes = run(connection, "size_of_events", rows)[0]
    logs, log_bytes = run(connection, "size_of_logs", rows | {"from_ns": unit.from_ns})[0]
    return result._plus(
        jobs=int(unit.job_no is not None),
        traces=int(unit.job_no is None and trace_no != _NO_TRACE),
        tasks=tasks,
        spans=spans,
        events=events,
        logs=logs,
        freed_bytes=size + span_bytes + event_bytes + log_bytes,
    )


def _size(store: Store) -> tuple[int, int]:
    """Pages of the file, once the log is copied into it, and their size in bytes."""
    with store.read() as connection:
        return connection.pragma("page_count"), connection.pragma("page_size")


# -- deleting -----------------------------------------------------------------------------------------------------


class _Pruning:
    """Deletes units, one slice of some milliseconds after the other."""

    def __init__(self, store: Store, page_size: int, progress: Report | None) -> None:
        self._store = store
        self._progress = progress
        self._page_size = page_size
        self._chunk = _FIRST_CHUNK
        self.result = PruneResult()

    def delete(self, units: Sequence[_Unit], *, max_bytes: int | None = None) -> None:
        """Delete the units in their order; with `max_bytes`, only until the file can be as small as that."""
        done = 0
        while done < len(units):
            # A transaction may be tried again, so what it has done counts only after its commit.
            counts, done, is_enough, self._chunk = self._store.transact(
                partial(self._slice, units=units, first=done, max_bytes=max_bytes)
            )
            self.result = self.result._plus(**counts)
            self._report("deleting", len(units) if is_enough else done, len(units), _UNITS)
            if is_enough:
                break

    def _report(self, step: str, done: int, total: int, unit: str) -> None:
        if self._progress is not None:
            self._progress(Progress(step, done, total, unit))

    def _slice(
        self, connection: apsw.Connection, units: Sequence[_Unit], first: int, max_bytes: int | None
    ) -> tuple[dict[str, int], int, bool, int]:
        """Delete for a moment: counts of rows, units done so far, whether it is enough, rows for the next statement."""
        slice_ = _Slice(connection, self._chunk)
        is_enough = False
        done = first
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 0)
        try:
            while done < len(units):
                is_enough = max_bytes is not None and self._used_bytes(connection) <= max_bytes
                if is_enough or not slice_.delete(units[done]):
                    break
                done += 1
        finally:
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1)
        return slice_.counts, done, is_enough, slice_.chunk

    def _used_bytes(self, connection: apsw.Connection) -> int:
        used: int = (connection.pragma("page_count") - connection.pragma("freelist_count")) * self._page_size
        return used

    def vacuum(self) -> None:
        """Move pages from the end of the file to free ones, and cut the file off behind the last one."""
        with self._store.read() as connection:
            total = left = connection.pragma("freelist_count")
        pages = _FIRST_CHUNK
        while left > 0:
            moved, pages = self._store.transact(partial(_vacuum, pages=pages))
            left = max(0, left - moved) if moved > 0 else 0
            self._report("giving back", total - left, total, "pages")


def _vacuum(connection: apsw.Connection, pages: int) -> tuple[int, int]:
    """Take about so many pages away; how many it were, and how many to try next."""
    began = time.monotonic()
    before = connection.pragma("freelist_count")
    # Each step of the statement takes one page: it has to be drained. A pragma takes no bound value.
    connection.execute(f"PRAGMA incremental_vacuum({pages:d})").fetchall()
    taken = before - connection.pragma("freelist_count")
    return taken, _paced(pages, time.monotonic() - began, _SLICE_S)


def _paced(count: int, took_s: float, goal_s: float) -> int:
    """How many to do next time, so that it takes about as long as it should."""
    if took_s > goal_s:
        return max(_FIRST_CHUNK // 4, count // 2)
    return min(_MAX_CHUNK, count * 2) if took_s < goal_s / 2 else count


class _Slice:
    """One transaction's worth of deleting."""

    def __init__(self, connection: apsw.Connection, chunk: int) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + _SLICE_S
        self._has_begun = False  # each slice does something
        self.chunk = chunk
        self.counts: dict[str, int] = {}

    def delete(self, unit: _Unit) -> bool:
        """Delete a unit as far as there is time; whether nothing is left of it. Goes on where it was interrupted."""
        if self._has_begun and time.monotonic() > self._deadline:
            return False
        self._has_begun = True
        if unit.job_no is not None:
            return self._delete_job(unit.job_no)
        rows = {"trace_no": unit.trace_no, "before_ns": unit.before_ns}
        if not self._delete_telemetry(rows):
            return False
        if unit.trace_no != _NO_TRACE:
            connection = self._connection
            run(connection, "prune_jobless_trace", {"trace_no": unit.trace_no})
            self._count("traces", connection.changes())
        return True

    def _delete_job(self, job_no: int) -> bool:
        connection = self._connection
        if value(connection, "mark_half_pruned", (job_no,)) is None:
            return True  # it has been retried, or somebody else has pruned it
        trace_no = value(connection, "trace_no_of_job", (job_no,))
        if trace_no is not None and not self._delete_telemetry({"trace_no": trace_no, "before_ns": _LAST}):
            return False
        while self._delete_tasks(job_no):
            if time.monotonic() > self._deadline:
                return False
        run(connection, "prune_trace_of_job", (job_no,))
        run(connection, "prune_job", (job_no,))
        self._count("jobs")
        return True

    def _delete_telemetry(self, rows: dict[str, int]) -> bool:
        return (
            self._repeat("spans", partial(self._delete_spans, rows))
            and self._repeat("events", partial(self._delete_events, rows))
            and self._repeat("logs", partial(self._delete_logs, rows))
        )

    def _delete_spans(self, rows: dict[str, int]) -> bool:
        connection = self._connection
        end = value(connection, "span_to_prune_to", (rows["trace_no"], self.chunk))
        run(connection, "prune_spans", rows | _up_to(end))
        return end is not None

    def _delete_events(self, rows: dict[str, int]) -> bool:
        connection = self._connection
        end = value(connection, "event_to_prune_to", (rows["trace_no"], self.chunk))
        run(connection, "prune_events", rows | _up_to(end))
        return end is not None

    def _delete_logs(self, rows: dict[str, int]) -> bool:
        connection = self._connection
        end = value(connection, "log_to_prune_to", (rows["trace_no"], self.chunk))
        run(connection, "prune_logs", rows | _up_to(end))
        return end is not None

    def _repeat(self, kind: str, delete: Callable[[], bool]) -> bool:
        """Delete rows of a kind, chunk by chunk; False if the time is over before all that are old enough are gone."""
        while True:
            began = time.monotonic()
            is_more = delete()
            deleted = self._connection.changes()
            self._count(kind, deleted)
            now = time.monotonic()
            if not is_more or not deleted:
                return True
            self.chunk = _paced(self.chunk, now - began, _CHUNK_S)
            if now > self._deadline:
                return False

    def _delete_tasks(self, job_no: int) -> bool:
        """Delete the last tasks of a job, with their groups, attempts and progress; whether there are more."""
        connection = self._connection
        began = time.monotonic()
        end = value(connection, "task_to_prune_to", (job_no, self.chunk))
        task_no, group_no = end or (-1, -1)
        groups = value(connection, "groups_to_prune", {"job_no": job_no, "task_no": task_no, "group_no": group_no})
        run(connection, "prune_progress", (job_no, task_no))
        run(connection, "prune_attempts", (job_no, task_no))
        run(connection, "prune_dependencies", (groups,))
        run(connection, "prune_dependents", (groups,))
        run(connection, "prune_tasks", (job_no, task_no))
        self._count("tasks", connection.changes())
        run(connection, "prune_groups", (groups,))
        self.chunk = _paced(self.chunk, time.monotonic() - began, _CHUNK_S)
        return end is not None

    def _count(self, kind: str, count: int = 1) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + count


def _up_to(end: tuple[int, int] | None) -> dict[str, int]:
    """The last row of a slice, as parameters; None: all that is there."""
    last_ns, last_no = end or (_LAST, _LAST)
    return {"last_ns": last_ns, "last_no": last_no}


def _empty_log(store: Store) -> bool:
    """Until the log is copied, the file keeps its size. A reader that was there before ends in a moment, mostly."""
    for _ in range(_TRUNCATE_TRIES):
        if store.checkpoint():
            return True
        time.sleep(0.01)
    return False
