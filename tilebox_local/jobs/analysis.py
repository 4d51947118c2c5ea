"""The questions of `client.jobs()` about why jobs took as long as they did; see docs/analysis.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilebox_local.analysis import compare as compare_analysis
from tilebox_local.analysis import trends as trends_analysis
from tilebox_local.clock import datetime_to_ns
from tilebox_local.engine.jobs import validate_job_name
from tilebox_local.errors import ArgumentError
from tilebox_local.intervals import TimeInterval
from tilebox_local.jobs.arguments import JobIDLike, shown, to_uuid

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilebox_local.analysis.compare import JobComparison
    from tilebox_local.analysis.records import Records
    from tilebox_local.analysis.trends import JobTrend, StepTrend
    from tilebox_local.intervals import DatetimeScalar
    from tilebox_local.storage.store import Store

__all__ = ["JobAnalysis"]


class JobAnalysis:
    """Analysis of jobs; part of JobClient. Sees what was recorded before the call. Thread-safe.

    Args:
        open_store: Gives the store, or raises StoreClosedError once the client is closed.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store

    @property
    def _store(self) -> Store:
        return self._open_store()

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
