"""What is new in a store since the last look: each record once, however late it is committed.

Telemetry has no number that ascends with the commits: several processes write, a span is stored under its start, and
some are recorded with times of long ago. So what was shown is remembered by its key, and there are two ways to look.
A quick look reads the keys of the last seconds, and what has become of the spans that were open. A thorough one reads
the keys of all that may count; it comes when the store has come to rest, now and then if it does not, and at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from tilebox_local import clock
from tilebox_local.catalog import run, sql, value
from tilebox_local.query.listing import FIRST_NS, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    import apsw

    from tilebox_local.storage.store import Store

__all__ = ["Filters", "Follower", "News"]

_QUICK_NS = 10_000_000_000  # a quick look goes back so far from the newest record
_LATE_NS = 60_000_000_000  # spans of finished traces may have begun so long before what is followed without being open
_THOROUGH_SHARE = 20  # while the store does not rest, thorough looks take at most one part of so many of the time
_THOROUGH_EVERY_NS = 1_000_000_000
_PAGE = 1000
_FIRST_TRACE, _LAST_TRACE = 0, (1 << 63) - 1

Key = tuple[int, int, int]


@dataclass(frozen=True)
class Filters:
    """What is followed: kinds of news, and what of spans and log records."""

    kinds: tuple[str, ...] = ("span", "log", "task", "job")
    task: str | None = None
    name: str | None = None
    status: str | None = None
    min_duration_ns: int | None = None
    level: int = 0


class News(NamedTuple):
    """A record, or a task or a job in a new state. `row` is the row of the view."""

    time_ns: int  # of the end of a span, of a log record, of the change
    kind: str  # "span", "log", "task" or "job"
    row: dict[str, Any]


class Follower:
    """Follows a store, or one job of it. Use from one thread.

    Args:
        store: The store.
        since_ns: Log records from this instant on, spans that have ended and changes that have happened since.
        job_no: Only this job; None: everything.
        filters: What of it.
    """

    def __init__(self, store: Store, *, since_ns: int, job_no: int | None = None, filters: Filters) -> None:
        self._store = store
        self._since_ns = since_ns
        self._job_no = job_no
        self._filters = filters
        self._commit_no: int | None = None
        self._seen_logs: set[Key] = set()
        self._seen_spans: set[Key] = set()
        self._open: set[Key] = set()
        self._newest_ns = since_ns
        self._traces: set[int] = set()  # in which anything has happened
        self._jobs: dict[int, str] = {}
        self._job_states: dict[int, str] = {}
        self._tasks: dict[int, tuple[int, int]] = {}
        self._is_thorough = False  # whether nothing was committed since the last thorough look
        self._thorough_at = clock.monotonic_ns()
        self._thorough_cost_ns = 0

    def look(self, *, thorough: bool = False, newest: int | None = None) -> list[News]:
        """What is new, by time: all that was committed before, except what only a thorough look finds.

        A look at a store in which nothing was committed since the last one is thorough, or, the time after, free.

        Args:
            thorough: Find everything.
            newest: Tell only so many of the spans and log records each; the others count as told.
        """
        began = clock.monotonic_ns()
        with self._store.snapshot() as connection:
            commit_no = value(connection, "commit_no")
            has_rested = commit_no == self._commit_no
            if has_rested and self._is_thorough:
                return []
            pause = max(_THOROUGH_EVERY_NS, _THOROUGH_SHARE * self._thorough_cost_ns)
            thorough = thorough or has_rested or self._commit_no is None or began - self._thorough_at > pause
            news = [*self._changes(connection), *self._telemetry(connection, thorough=thorough, newest=newest)]
            self._commit_no = commit_no
        self._is_thorough = thorough
        if thorough:
            self._thorough_at = clock.monotonic_ns()
            self._thorough_cost_ns = self._thorough_at - began
        return sorted(news, key=lambda one: one.time_ns)

    # -- telemetry ----------------------------------------------------------------------------------------------

    def _telemetry(self, connection: apsw.Connection, *, thorough: bool, newest: int | None) -> list[News]:
        first, last = _FIRST_TRACE, _LAST_TRACE
        if self._job_no is not None:
            trace_no = value(connection, "trace_of_job_no", (self._job_no,))
            if trace_no is None:
                return []
            first = last = trace_no
        from_ns = self._since_ns if thorough else max(self._since_ns, self._newest_ns - _QUICK_NS)
        traces = {"first_trace": first, "last_trace": last}
        news: list[News] = []
        if "log" in self._filters.kinds:
            parameters = traces | {"from_ns": from_ns, "level": self._filters.level}
            news += self._new_logs(connection, parameters, newest)
        if "span" in self._filters.kinds:
            news += self._new_spans(connection, traces, from_ns, thorough=thorough, newest=newest)
        now_ns = clock.wall_ns()  # what claims to come from the future would make all that follows look late
        self._newest_ns = max([self._newest_ns, *(one.time_ns for one in news if one.time_ns <= now_ns)])
        return news

    def _new_logs(self, connection: apsw.Connection, parameters: dict[str, Any], newest: int | None) -> list[News]:
        keys = {key for key in run(connection, "follow_log_keys", parameters) if key not in self._seen_logs}
        if not keys:
            return []
        self._remember(keys, self._seen_logs)
        wanted = {"name": self._filters.name, "task": self._filters.task}
        by_time = sorted(keys, key=itemgetter(1), reverse=True)
        rows = _matching(connection, sql["follow_logs"], by_time, wanted, newest)
        return [News(row["time_ns"], "log", row) for row in rows]

    def _new_spans(
        self, connection: apsw.Connection, traces: dict[str, Any], from_ns: int, *, thorough: bool, newest: int | None
    ) -> list[News]:
        if thorough and self._job_no is None:
            from_ns = max(from_ns - _LATE_NS, FIRST_NS)
        elif thorough:
            from_ns = FIRST_NS
        found = run(connection, "follow_span_keys", traces | {"from_ns": from_ns, "since_ns": self._since_ns})
        still_open = set(run(connection, "follow_open_keys", traces))
        if gone := self._open - still_open:
            found += run(connection, "follow_ended_keys", {"keys": _json(gone)})
        self._open = still_open
        self._traces |= {trace_no for trace_no, _, _ in still_open}
        if thorough and self._job_no is None and self._traces:
            late = {"traces": _json(self._traces), "since_ns": self._since_ns}
            found += run(connection, "follow_late_span_keys", late)
        ends: dict[Key, int] = {(trace_no, start_ns, span_id): end_ns for trace_no, start_ns, span_id, end_ns in found}
        for key in ends.keys() & self._seen_spans:
            del ends[key]
        if not ends:
            return []
        self._remember(ends.keys(), self._seen_spans)
        filters = self._filters
        wanted = {
            "name": filters.name,
            "task": filters.task,
            "status": filters.status,
            "min_ns": filters.min_duration_ns,
        }
        by_end = sorted(ends, key=ends.__getitem__, reverse=True)
        rows = _matching(connection, sql["follow_spans"], by_end, wanted, newest)
        return [News(row["end_ns"], "span", row) for row in rows]

    def _remember(self, keys: Iterable[Key], seen: set[Key]) -> None:
        seen.update(keys)
        self._traces |= {trace_no for trace_no, _, _ in keys if trace_no}

    # -- states -------------------------------------------------------------------------------------------------

    def _changes(self, connection: apsw.Connection) -> list[News]:
        """Tasks and jobs whose state is not that of the last look; what is over between two looks is not seen."""
        parameters = {"job_no": self._job_no, "since_ns": self._since_ns, "known": _json(self._jobs)}
        rows = run(connection, "follow_jobs", parameters)
        changed = {job_no: times for job_no, mark, *times in rows if self._jobs.get(job_no) != mark}
        self._jobs |= {job_no: mark for job_no, mark, *_ in rows}
        if not changed:
            return []
        parameters = {"jobs": _json(changed)}
        self._traces |= {trace_no for (trace_no,) in run(connection, "traces_of_jobs", parameters)}
        news: list[News] = []
        if "task" in self._filters.kinds:
            news += self._task_changes(connection, changed)
        if "job" in self._filters.kinds:
            for row in read_rows(connection, sql["follow_job_rows"], parameters):
                job_no, state = row["job_no"], row["state"]
                submitted_ns, started_ns, stopped_ns = changed[job_no]
                times = {"SUBMITTED": submitted_ns, "RUNNING": started_ns, "STARTED": started_ns}
                time_ns = times.get(state, stopped_ns)
                is_known = job_no in self._job_states
                if is_known:  # it may be retried: then it is as new as what has become of its tasks
                    time_ns = max([time_ns, *(one.time_ns for one in news if one.row["job_no"] == job_no)])
                if self._job_states.get(job_no) != state and (is_known or time_ns >= self._since_ns):
                    news.append(News(time_ns, "job", row))
                self._job_states[job_no] = state
        return news

    def _task_changes(self, connection: apsw.Connection, jobs: Iterable[int]) -> list[News]:
        times: dict[int, int] = {}
        for task_no, state, attempt, time_ns in run(connection, "follow_tasks", {"jobs": _json(jobs)}):
            known = self._tasks.get(task_no)
            if known != (state, attempt):
                self._tasks[task_no] = (state, attempt)
                if known is not None or time_ns >= self._since_ns:
                    times[task_no] = time_ns
        if not times:
            return []
        rows = read_rows(connection, sql["follow_task_rows"], {"tasks": _json(times)})
        return [News(times[row["task_no"]], "task", row) for row in rows]


def _matching(
    connection: apsw.Connection, statement: str, keys: list[Key], wanted: dict[str, Any], newest: int | None
) -> list[dict[str, Any]]:
    """Rows of keys, which are newest first, that match the filters; the first `newest` of them."""
    page = len(keys) if newest is None else max(newest, _PAGE)
    rows: list[dict[str, Any]] = []
    for first in range(0, len(keys), page):
        found = read_rows(connection, statement, wanted | {"keys": _json(keys[first : first + page])})
        rows += found[::-1]  # newest first
        if newest is not None and len(rows) >= newest:
            break
    return rows[:newest]


def _json(values: Iterable[Any]) -> str:
    return orjson.dumps(list(values)).decode()
