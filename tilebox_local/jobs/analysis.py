"""The questions of `client.jobs()` about why jobs took as long as they did; see docs/analysis.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilebox_local.analysis import compare as compare_analysis
from tilebox_local.analysis import trends as trends_analysis
from tilebox_local.analysis.bottlenecks import find_bottlenecks
from tilebox_local.analysis.concurrency import find_concurrency
from tilebox_local.analysis.critical_path import find_critical_path
from tilebox_local.analysis.durations import find_durations
from tilebox_local.analysis.failures import find_error_rates, find_failures
from tilebox_local.analysis.queue_waits import find_queue_waits
from tilebox_local.analysis.search import SpanFilters, search_logs, search_spans
from tilebox_local.analysis.structure import search_structure
from tilebox_local.analysis.why_slow import explain_slow_spans
from tilebox_local.clock import datetime_to_ns
from tilebox_local.engine.jobs import validate_job_name
from tilebox_local.errors import ArgumentError
from tilebox_local.intervals import TimeInterval
from tilebox_local.jobs.arguments import shown, to_severity, to_uuid

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from uuid import UUID

    from tilebox_local.analysis.bottlenecks import Basis, Bottleneck
    from tilebox_local.analysis.compare import JobComparison
    from tilebox_local.analysis.concurrency import Concurrency
    from tilebox_local.analysis.critical_path import CriticalPath
    from tilebox_local.analysis.durations import DurationStats
    from tilebox_local.analysis.failures import ErrorRate, Failures
    from tilebox_local.analysis.queue_waits import QueueWait
    from tilebox_local.analysis.records import Records
    from tilebox_local.analysis.search import AttributeConditions, FoundLog, FoundSpan, SpanStatus
    from tilebox_local.analysis.structure import FoundPair
    from tilebox_local.analysis.trends import JobTrend, StepTrend
    from tilebox_local.analysis.why_slow import Explanations
    from tilebox_local.data import LogSeverity, LogSeverityLiteral
    from tilebox_local.intervals import DatetimeScalar
    from tilebox_local.jobs.arguments import JobIDLike
    from tilebox_local.storage.store import Store

__all__ = ["JobAnalysis"]


class JobAnalysis:
    """Analysis of jobs; part of JobClient. Sees what was recorded before the call. Thread-safe.

    Every method takes a Job, its id or the text of one, and raises NotFoundError if there is no such job, and
    ArgumentError (a ValueError) for what is no id. The results are lists of records with `to_pandas()`.

    Args:
        open_store: Gives the store, or raises StoreClosedError once the client is closed.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store

    @property
    def _store(self) -> Store:
        return self._open_store()

    @property
    def _current(self) -> Store:
        """The store, with everything committed that was recorded so far."""
        store = self._store
        store.flush()
        return store

    def durations(self, job_id: JobIDLike) -> Records[DurationStats]:
        """How long the spans of each name and the attempts of each task took: count, total, self time, percentiles.

        Spans come first, then tasks, each descending by self time, the time in which no child was open. Open spans are
        counted, but have no duration yet; each attempt of a task counts on its own.
        """
        return find_durations(self._current, to_uuid(job_id, "job"))

    def bottlenecks(self, job_id: JobIDLike, by: Basis = "self_time") -> Records[Bottleneck]:
        """What the time of a job was spent on, most first, each with the reason in words.

        Args:
            job_id: The job.
            by: "self_time" of spans by name, "critical_path" (run time of tasks on it) or "queue_wait" of tasks.
        """
        return find_bottlenecks(self._current, to_uuid(job_id, "job"), by=by)

    def critical_path(self, job_id: JobIDLike) -> CriticalPath:
        """The chain of attempts, waits and delays that decided when the job ended, in the order of time.

        `savings` of the result tells how much earlier it would have ended if a task on the path had taken no time.
        """
        return find_critical_path(self._current, to_uuid(job_id, "job"))

    def concurrency(self, job_id: JobIDLike, *, slots: int = 60) -> Concurrency:
        """How many tasks ran and waited and how many spans were open, over time; how busy each runner was; stragglers.

        Args:
            job_id: The job.
            slots: Into how many parts of equal length the time from submission to the job's last stop is divided (to
                now, if it goes on), 1 to 10,000.
        """
        return find_concurrency(self._current, to_uuid(job_id, "job"), slots=slots)

    def queue_waits(self, job_id: JobIDLike) -> Records[QueueWait]:
        """How long tasks waited for a runner, against how long they ran, and what failed and lost attempts cost.

        Descending by the time in the queue.
        """
        return find_queue_waits(self._current, to_uuid(job_id, "job"))

    def failures(self, job_id: JobIDLike) -> Failures:
        """What failed in a job, the first failure first: exception, attempt, and what did not run because of it."""
        return find_failures(self._current, to_uuid(job_id, "job"))

    def error_rates(self, job_id: JobIDLike, *, slots: int = 20) -> Records[ErrorRate]:
        """Which part of the spans failed, by name and time, for names of which any did.

        Args:
            job_id: The job.
            slots: Into how many parts of equal length the time in which spans ended is divided, 1 to 10,000.
        """
        return find_error_rates(self._current, to_uuid(job_id, "job"), slots=slots)

    # -- trends --------------------------------------------------------------------------------------------------------

    def trends(
        self,
        name: str,
        *,
        since: DatetimeScalar | None = None,
        until: DatetimeScalar | None = None,
        limit: int = 100,
    ) -> Records[JobTrend]:
        """The jobs of a name over time, each judged against the completed jobs before it. Does not read spans.

        Args:
            name: The name, exactly.
            since: Only jobs that were submitted then or later.
            until: Only jobs that were submitted earlier.
            limit: At most so many, the newest ones.

        Returns:
            Oldest first; none if the interval holds none. What each is judged against does not depend on the interval.

        Raises:
            NotFoundError: no job has this name.
            ArgumentError (a ValueError): an instant that cannot be understood, `until` before `since`, a limit below 1.
            TypeError: a name that is no text.
        """
        arguments = _series_of_jobs(name, since, until, limit)
        self._store.flush()
        return trends_analysis.read_trends(self._store, *arguments)

    def step_trends(
        self,
        name: str,
        *,
        since: DatetimeScalar | None = None,
        until: DatetimeScalar | None = None,
        limit: int = 100,
    ) -> Records[StepTrend]:
        """The same for each step, which says which step made the jobs of a name slower or faster.

        A step is the tasks of one name. Arguments and errors are those of `trends`. Returns a record per step and job
        that ran it: by name of the step, then oldest job first.
        """
        arguments = _series_of_jobs(name, since, until, limit)
        self._store.flush()
        return trends_analysis.read_step_trends(self._store, *arguments)

    # -- comparison ----------------------------------------------------------------------------------------------------

    def compare(self, job_a: JobIDLike, job_b: JobIDLike) -> JobComparison:
        """What changed from one job to another: of the jobs as a whole, and by structural path of their spans.

        A structural path is the names of the spans from the root down. Works for jobs of different names, and for jobs
        that still run, whose open spans have no duration yet.

        Args:
            job_a: The job to compare with, such as yesterday's.
            job_b: The job in question. Differences are b minus a.

        Returns:
            Both jobs, and `paths`: added, missing, slower, faster and same ones, the largest difference first.

        Raises:
            NotFoundError, and ArgumentError (a ValueError) for what is no id.
        """
        a_id, b_id = to_uuid(job_a, "job"), to_uuid(job_b, "job")
        self._store.flush()
        return compare_analysis.compare_jobs(self._store, a_id, b_id)

    # -- search --------------------------------------------------------------------------------------------------------

    def search_spans(
        self,
        job_id: JobIDLike | None = None,
        *,
        name: str | None = None,
        attributes: AttributeConditions | None = None,
        min_duration: timedelta | None = None,
        max_duration: timedelta | None = None,
        since: DatetimeScalar | None = None,
        until: DatetimeScalar | None = None,
        status: SpanStatus | None = None,
        task: str | None = None,
        runner: str | None = None,
        limit: int | None = 100,
        newest_first: bool = False,
    ) -> Records[FoundSpan]:
        """Spans that match all conditions, open ones included, by start.

        Args:
            job_id: The job; None: the whole store, newest span first, also spans that belong to no job.
            name: A pattern, case-sensitive: `*` is any characters, `?` one, `[abc]` one of these.
            attributes: Key to value, or to (operator, value) with =, !=, <, <=, >, >=, "exists" (the value is
                ignored), "contains" (text in a text, an item in a list) or "in" (one of a list); or a list of such
                pairs. Types count: 5 is 5.0, but not "5". A span without the attribute matches no condition on it.
                Keys are whole keys, dots included.
            min_duration: Spans that took at least so long; leaves out open ones, as does `max_duration`.
            max_duration: Spans that took at most so long.
            since: Spans that started then or later.
            until: Spans that started earlier.
            status: "unset", "ok", "error", or "open" for spans that have not ended.
            task: Name of the task that was running.
            runner: Its `service.instance.id`.
            limit: At most so many, the first ones in this order; None: all.
            newest_first: Latest start first, also in one job.

        Raises:
            NotFoundError, and ArgumentError (a ValueError) for what cannot be looked for.
        """
        job = None if job_id is None else to_uuid(job_id, "job")
        filters = SpanFilters(name, attributes, min_duration, max_duration, since, until, status, task, runner)
        return search_spans(self._current, job, filters, limit=limit, newest_first=newest_first or job is None)

    def search_logs(
        self,
        text: str,
        job_id: JobIDLike | None = None,
        *,
        level: LogSeverity | LogSeverityLiteral | None = None,
        since: DatetimeScalar | None = None,
        until: DatetimeScalar | None = None,
        limit: int | None = 100,
    ) -> Records[FoundLog]:
        """Log records whose message matches, by time, each with a snippet that shows what was found in brackets.

        Args:
            text: Words that must all occur, in any order; "a phrase" in double quotes; `beg*` for words that begin so;
                AND, OR, NOT, parentheses, `NEAR(one two, 5)`: the query language of SQLite's FTS5. Case and diacritics
                do not count. Text with other characters than letters and digits, such as a path, has to be quoted.
            job_id: The job; None: the whole store, newest first, also what was logged outside of jobs.
            level: The lowest level.
            since: Records from then on.
            until: Records before then.
            limit: At most so many, the first ones in this order; None: all.

        Raises:
            NotFoundError, and ArgumentError (a ValueError) for a text with an error or another unusable argument.
        """
        job: UUID | None = None if job_id is None else to_uuid(job_id, "job")
        minimum = None if level is None else to_severity(level)
        return search_logs(self._current, text, job, level=minimum, since=since, until=until, limit=limit)

    def search_structure(
        self, pattern: str, job_id: JobIDLike | None = None, *, limit: int | None = 100
    ) -> Records[FoundPair]:
        """Spans that lie to each other as a pattern says, in pairs (a, b), by start of a, then of b.

        Args:
            pattern: `A > B`: B is a child of A. `A >> B`: B is anywhere below A, and no other A is in between.
                `A ~ B`: B is the first to start after A has ended, below the same parent. `A !> B`, `A !>> B`: A has no
                such child, or nothing such below it; b is None. A and B are patterns of names as in `search_spans`, in
                double quotes if they contain blanks, quotes (doubled) or one of > ~ !.
            job_id: The job; None: all jobs, newest first.
            limit: At most so many; None: all.

        Raises:
            NotFoundError, and ArgumentError (a ValueError) for what is no pattern.
        """
        job = None if job_id is None else to_uuid(job_id, "job")
        return search_structure(self._current, pattern, job, limit=limit)

    # -- why slow ------------------------------------------------------------------------------------------------------

    def why_slow(
        self, job_id: JobIDLike, name: str | None = None, *, threshold: timedelta | None = None
    ) -> Explanations:
        """What separates the slow spans of a name from the rest: which attribute, runner, task input, parent, time.

        Looks at each value of each attribute and field of a task's input, at numbers from each decile on, at runners,
        names of parents, retries, the time of the start, and how many tasks of the job ran then. What is returned
        passed a test that, in all, finds something where there is nothing in at most one job of a hundred.

        Args:
            job_id: The job.
            name: The name of the spans; those of tasks are named `task/<name>`. Default: the name with the
                largest self time, of those with at least 20 ended spans.
            threshold: Longer spans are slow. Default: Tukey's fence if at least 5 spans are above it, else the 90th
                percentile.

        Returns:
            Explanations, the largest effect first, at most 100, each with a reason in words; none if nothing stands
            out. As text, one line for each. Without a name, in a job of which no name has 20 ended spans: none, and
            `name` is empty.

        Raises:
            NotFoundError: there is no such job, or no span of the name in it. ArgumentError: name is no text, or
            threshold no timedelta of 0 or more.
        """
        return explain_slow_spans(self._current, to_uuid(job_id, "job"), name, threshold)


_FIRST_NS, _LAST_NS = -(1 << 63), (1 << 63) - 1


def _series_of_jobs(name: Any, since: Any, until: Any, limit: Any) -> tuple[str, int, int, int]:
    """(name, first and last ns of submission, limit), checked."""
    validate_job_name(name)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _LAST_NS:
        raise ArgumentError(f"The limit is a number of jobs from 1 on, not {shown(limit)}.")
    first_ns = _FIRST_NS if since is None else _instant_ns("since", since)
    last_ns = _LAST_NS if until is None else _instant_ns("until", until) - 1
    if since is not None and until is not None and last_ns + 1 < first_ns:
        raise ArgumentError(f"until ({shown(until)}) is before since ({shown(since)}).")
    return name, max(_FIRST_NS, min(first_ns, _LAST_NS)), max(_FIRST_NS, min(last_ns, _LAST_NS)), limit


def _instant_ns(argument: str, instant: Any) -> int:
    interval = TimeInterval.parse(instant)
    if interval.start != interval.end:
        raise ArgumentError(f"{argument} is one instant, not {shown(instant)}.")
    return datetime_to_ns(interval.start)
