"""Trends: the jobs of one name over time, each judged against those before it.

Does not read spans, so that its cost depends on the number of jobs and tasks only. docs/analysis.md, "Trends", has the
definitions and the false alarms that they cost.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from tilebox_local.analysis.records import Record, Records
from tilebox_local.analysis.statistics import exceedance, median, rank_p, rank_sum
from tilebox_local.analysis.words import counted, duration_in_words
from tilebox_local.catalog import run, value
from tilebox_local.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

    from tilebox_local.storage.store import Store

__all__ = ["JobTrend", "StepTrend", "read_step_trends", "read_trends"]

_ALPHA = 0.01  # of false alarms per job, and per step of a job; for single jobs and for shifts
_MIN_EFFECT = 1.1  # ratio to the median, or its inverse
_MIN_HISTORY, _MAX_HISTORY = 5, 30  # completed jobs before the one that is judged
_INFINITE = float("inf")  # ratio to a median of 0; None in records
_SHIFTS = range(3, 11)  # how many of the newest jobs are compared with those before them


@dataclass(frozen=True, kw_only=True)
class JobTrend(Record):
    """A job among those of its name. Judged are completed jobs, by `elapsed` and `compute`.

    Attributes:
        failed: Tasks that failed, also optional ones; `error_rate` is their share of all tasks, None without tasks.
        retries: Attempts beyond the first of each task.
        queue_wait_duration_ns: Sum over all attempts that have started.
        history: Completed jobs of this name before it, at most 30; below 5 there is no verdict.
        median_elapsed_duration_ns: Of the history; `elapsed_ratio` is the job's own over it.
        percentile_rank: Percent of the history that was faster, those that took as long counted half.
        slower_p: (1 + jobs of the history that took at least as long) / (n + 1).
        verdict: "regression", "improvement" or "", with the `measure` and its `ratio` to the median of the history.
        p: Of the verdict, or of what came nearest to one, corrected for the measures and directions; None: not judged.
        shift: The same for the `shift_count` newest completed jobs together; "" for any but the newest of them.
        description: All that in words.
    """

    job_id: str
    submitted_at_ns: int
    state: str
    elapsed_duration_ns: int | None
    compute_duration_ns: int
    queue_wait_duration_ns: int
    tasks: int
    failed: int
    error_rate: float | None
    retries: int
    history: int
    median_elapsed_duration_ns: int | None
    elapsed_ratio: float | None
    percentile_rank: float | None
    slower_p: float | None
    verdict: str
    measure: str
    ratio: float | None
    p: float | None
    shift: str
    shift_measure: str
    shift_count: int
    shift_ratio: float | None
    shift_p: float | None
    description: str


@dataclass(frozen=True, kw_only=True)
class StepTrend(Record):
    """A step (the tasks of one name) of a job, among the jobs of its name. Judged by `median` and `total`.

    Attributes:
        attempts: Those that ended, whatever their outcome; `median` and `total` are of their run times.
        history: Jobs of the history (see JobTrend) that ran the step; `typical_median` and `typical_total` are the
            medians over them.
        p: As of JobTrend, corrected also for the number of steps.
    """

    step: str
    job_id: str
    submitted_at_ns: int
    state: str
    attempts: int
    median_duration_ns: int
    total_duration_ns: int
    history: int
    typical_median_duration_ns: int | None
    typical_total_duration_ns: int | None
    verdict: str
    measure: str
    ratio: float | None
    p: float | None
    shift: str
    shift_measure: str
    shift_count: int
    shift_ratio: float | None
    shift_p: float | None
    description: str


@dataclass(frozen=True)
class _Job:
    number: int
    job_id: str
    submitted_ns: int
    state: str
    elapsed_ns: int | None
    compute_ns: int
    tasks: int
    failed: int

    @property
    def is_completed(self) -> bool:
        return self.state == "COMPLETED" and self.elapsed_ns is not None


@dataclass(frozen=True)
class _Finding:
    verdict: str
    measure: str
    ratio: float
    p: float
    count: int  # jobs that it is about
    before: int  # jobs that they are compared with


def read_trends(store: Store, name: str, first_ns: int, last_ns: int, limit: int) -> Records[JobTrend]:
    """The newest `limit` jobs of a name, submitted from `first_ns` to `last_ns` (included), oldest first.

    Raises NotFoundError if no job has this name.
    """
    with store.snapshot() as connection:
        earlier, jobs = _jobs(connection, name, first_ns, last_ns, limit)
        waits = {row[0]: row[1:] for row in run(connection, "waits_of_jobs", {"jobs": _json(jobs)})}
    past = list(earlier)
    newest = next((job.number for job in reversed(jobs) if job.is_completed), None)
    records = []
    for job in jobs:
        before = past[-_MAX_HISTORY:]
        if job.is_completed:
            past.append(job)
        shift = _shift(_series(past), looks=1) if job.number == newest else None
        records.append(_job_trend(job, before, shift, *waits.get(job.number, (0, 0))))
    return Records(JobTrend, records)


def read_step_trends(store: Store, name: str, first_ns: int, last_ns: int, limit: int) -> Records[StepTrend]:
    """The steps of these jobs (see read_trends), by name of the step and then oldest first."""
    with store.snapshot() as connection:
        earlier, jobs = _jobs(connection, name, first_ns, last_ns, limit)
        rows = run(connection, "steps_of_jobs", {"jobs": _json(earlier + jobs)})
    runs: dict[str, dict[int, tuple[int, int, int]]] = defaultdict(dict)
    for job_no, step, *figures in rows:
        runs[step][job_no] = tuple(figures)
    records = []
    for step, of_job in runs.items():
        past = list(earlier)
        newest = next((job.number for job in reversed(jobs) if job.is_completed and job.number in of_job), None)
        for job in jobs:
            before = [of_job[one.number] for one in past[-_MAX_HISTORY:] if one.number in of_job]
            if job.is_completed:
                past.append(job)
            if job.number not in of_job:
                continue
            shift = None
            if job.number == newest:
                figures = [of_job[one.number] for one in past if one.number in of_job]
                shift = _shift({"median": [f[1] for f in figures], "total": [f[2] for f in figures]}, len(runs))
            records.append(_step_trend(step, job, of_job[job.number], before, shift, len(runs)))
    return Records(StepTrend, records)


def _jobs(
    connection: apsw.Connection, name: str, first_ns: int, last_ns: int, limit: int
) -> tuple[list[_Job], list[_Job]]:
    """(completed jobs before those that are asked for, those themselves), oldest first."""
    interval = {"name": name, "first_ns": first_ns, "last_ns": last_ns, "limit": limit}
    jobs = [_Job(*row) for row in run(connection, "jobs_of_name", interval)][::-1]
    if not jobs:
        if not value(connection, "has_job_of_name", (name,)):
            hint = "Names are compared exactly; `tilebox-local jobs`, or client.jobs().query(), lists them."
            raise NotFoundError("job of the name", name, hint=hint)
        return [], []
    oldest = {"name": name, "submitted_ns": jobs[0].submitted_ns, "job_no": jobs[0].number, "limit": _MAX_HISTORY}
    earlier = [_Job(*row) for row in run(connection, "completed_jobs_before", oldest)][::-1]
    return earlier, jobs


def _json(jobs: Sequence[_Job]) -> str:
    return orjson.dumps([job.number for job in jobs]).decode()


def _series(jobs: Sequence[_Job]) -> dict[str, list[int]]:
    return {"elapsed": [job.elapsed_ns or 0 for job in jobs], "compute": [job.compute_ns for job in jobs]}


def _job_trend(job: _Job, before: list[_Job], shift: _Finding | None, wait_ns: int, retries: int) -> JobTrend:
    earlier = _series(before)
    elapsed = earlier["elapsed"]
    finding = None
    if job.is_completed and len(before) >= _MIN_HISTORY:
        finding = _judge({name: figures[0] for name, figures in _series([job]).items()}, earlier, looks=1)
    typical = median(elapsed) if elapsed else None
    own = job.elapsed_ns if job.is_completed and elapsed else None
    shown: dict[str, Any] = {} if job.elapsed_ns is None else {"elapsed": job.elapsed_ns, "compute": job.compute_ns}
    return JobTrend(
        job_id=job.job_id,
        submitted_at_ns=job.submitted_ns,
        state=job.state,
        elapsed_duration_ns=job.elapsed_ns,
        compute_duration_ns=job.compute_ns,
        queue_wait_duration_ns=wait_ns,
        tasks=job.tasks,
        failed=job.failed,
        error_rate=job.failed / job.tasks if job.tasks else None,
        retries=retries,
        history=len(before),
        median_elapsed_duration_ns=typical,
        elapsed_ratio=own / typical if own is not None and typical else None,
        percentile_rank=None if own is None else _percentile_rank(own, elapsed),
        slower_p=None if own is None else rank_p(own, elapsed),
        description=_describe(job, shown, earlier, finding, shift),
        **_verdicts(finding, shift),
    )


def _step_trend(
    step: str,
    job: _Job,
    figures: tuple[int, int, int],
    before: list[tuple[int, int, int]],
    shift: _Finding | None,
    looks: int,
) -> StepTrend:
    attempts, own_median, own_total = figures
    own = {"median": own_median, "total": own_total}
    earlier = {"median": [f[1] for f in before], "total": [f[2] for f in before]}
    finding = None
    if job.is_completed and len(before) >= _MIN_HISTORY:
        finding = _judge(own, earlier, looks)
    return StepTrend(
        step=step,
        job_id=job.job_id,
        submitted_at_ns=job.submitted_ns,
        state=job.state,
        attempts=attempts,
        median_duration_ns=own_median,
        total_duration_ns=own_total,
        history=len(before),
        typical_median_duration_ns=median(earlier["median"]) if before else None,
        typical_total_duration_ns=median(earlier["total"]) if before else None,
        description=_describe(job, own, earlier, finding, shift),
        **_verdicts(finding, shift),
    )


def _verdicts(finding: _Finding | None, shift: _Finding | None) -> dict[str, Any]:
    return {
        "verdict": finding.verdict if finding else "",
        "measure": finding.measure if finding and finding.verdict else "",
        "ratio": _finite(finding.ratio) if finding and finding.verdict else None,
        "p": finding.p if finding else None,
        "shift": shift.verdict if shift else "",
        "shift_measure": shift.measure if shift and shift.verdict else "",
        "shift_count": shift.count if shift and shift.verdict else 0,
        "shift_ratio": _finite(shift.ratio) if shift and shift.verdict else None,
        "shift_p": shift.p if shift else None,
    }


def _percentile_rank(own: int, others: Sequence[int]) -> float:
    return 100 * sum((other < own) + (other <= own) for other in others) / (2 * len(others))


def _judge(own: dict[str, int], earlier: dict[str, list[int]], looks: int) -> _Finding:
    """The verdict on one job; `looks` is how many such things are looked at together."""
    findings = []
    for measure, others in earlier.items():
        for direction in ("regression", "improvement"):
            p = exceedance(own[measure], others, below=direction == "improvement")
            ratio = _ratio(own[measure], median(others))
            findings.append(_finding(direction, measure, ratio, p * 2 * len(earlier) * looks, 1, len(others)))
    return _strongest(findings)


def _shift(series: dict[str, list[int]], looks: int) -> _Finding | None:
    """The verdict on the newest 3 to 10 jobs of a series together; None if there are too few."""
    length = len(next(iter(series.values())))
    counts = [count for count in _SHIFTS if length - count >= _MIN_HISTORY]
    findings = []
    for measure, figures in series.items():
        for count in counts:
            newest, before = figures[-count:], figures[-count - _MAX_HISTORY : -count]
            ratio = _ratio(median(newest), median(before))
            for direction, p in zip(("regression", "improvement"), rank_sum(newest, before), strict=True):
                corrected = p * 2 * len(series) * len(counts) * looks
                findings.append(_finding(direction, measure, ratio, corrected, count, len(before)))
    return _strongest(findings) if findings else None


def _finite(ratio: float) -> float | None:
    return None if ratio == _INFINITE else ratio


def _ratio(own: int, typical: int) -> float:
    if typical == 0:
        return 1.0 if own == 0 else _INFINITE
    return own / typical


def _finding(direction: str, measure: str, ratio: float, p: float, count: int, before: int) -> _Finding:
    is_large = ratio >= _MIN_EFFECT if direction == "regression" else ratio <= 1 / _MIN_EFFECT
    return _Finding(direction if is_large and p <= _ALPHA else "", measure, ratio, min(1.0, p), count, before)


def _strongest(findings: list[_Finding]) -> _Finding:
    """The first measure's strongest verdict, else the next one's, else what came nearest to a verdict."""
    for measure in dict.fromkeys(finding.measure for finding in findings):
        found = [finding for finding in findings if finding.verdict and finding.measure == measure]
        if found:
            return min(found, key=lambda finding: finding.p)
    return min(findings, key=lambda finding: finding.p)


def _describe(
    job: _Job,
    own: dict[str, int],
    earlier: dict[str, list[int]],
    finding: _Finding | None,
    shift: _Finding | None,
) -> str:
    """The verdicts in words."""
    measure = finding.measure if finding and finding.verdict else next(iter(earlier))
    others = earlier[measure]
    sentences = []
    if not job.is_completed:
        sentences.append(f"not judged, the job is {job.state}")
    elif len(others) < _MIN_HISTORY:
        jobs = "no completed job" if not others else f"only {counted(len(others), 'completed job')}"
        sentences.append(f"{measure} {duration_in_words(own[measure])}; no verdict, {jobs} before it to compare with")
    else:
        sentences.append(f"{measure} {_compared(own[measure], others)}")
    if shift is not None and shift.verdict:
        times = f"{_times(shift.ratio)} the median of the {shift.before} jobs before them"
        sentences.append(f"{shift.verdict} since {shift.count} jobs: their median of {shift.measure} is {times}")
    return ". ".join(sentences)


def _compared(own: int, others: list[int]) -> str:
    faster, slower = sum(other < own for other in others), sum(other > own for other in others)
    if faster == len(others):
        place = "slower than all of them"
    elif slower == len(others):
        place = "faster than all of them"
    else:
        place = f"slower than {faster} of them"
    times = _times(_ratio(own, median(others)))
    return f"{duration_in_words(own)}, {times} the median of the {len(others)} jobs before it; {place}"


def _times(ratio: float) -> str:
    if ratio == _INFINITE:
        return "infinitely many times"
    return f"{ratio:.3g} times" if ratio < 100 else f"{ratio:,.0f} times"
