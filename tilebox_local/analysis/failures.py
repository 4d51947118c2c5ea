"""What failed, why, and what did not run because of it: `client.jobs().failures(job)` and `.error_rates(job)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilebox_local.analysis.records import Record, Records
from tilebox_local.analysis.subject import find_subject
from tilebox_local.catalog import run
from tilebox_local.data import TaskState
from tilebox_local.errors import ArgumentError
from tilebox_local.ids import unsigned64

if TYPE_CHECKING:
    from uuid import UUID

    import apsw

    from tilebox_local.analysis.subject import Subject
    from tilebox_local.storage.store import Store

__all__ = ["ErrorRate", "Failure", "Failures", "find_error_rates", "find_failures"]

_MAX_SLOTS = 10_000
_FAILED = (TaskState.FAILED.value, TaskState.FAILED_OPTIONAL.value)


@dataclass(frozen=True)
class Failure(Record):
    """A failed span, or a failed task that left none. What does not apply is None."""

    kind: str  #: "task": an attempt of a task; "span": any other span
    name: str
    failed_at_ns: int  #: when it ended
    exception_type: str | None  #: of the last exception that was recorded in the span
    exception_message: str | None
    stacktrace: str | None
    status_message: str | None
    duration_ns: int | None
    task_id: str | None
    attempt: int | None  #: of the task
    is_final: bool  #: the attempt was the last one of a task that failed for good
    is_origin: bool  #: no child of the span has failed: the failure began here
    skipped: int  #: tasks of the same optional branch that did not run because of it
    withheld: int  #: tasks that were still queued when it canceled the job, and have not run
    runner: str | None
    span_id: str | None
    parent_span_id: str | None


class Failures(Records[Failure]):
    """Failures in the order of time; of two at the same instant, the inner span comes first."""

    def __init__(self, failures: list[Failure]) -> None:
        super().__init__(Failure, failures)

    def __reduce__(self) -> Any:
        return Failures, (list(self),)

    @property
    def first(self) -> Failure | None:
        """The first failure in time; None if nothing failed."""
        return self[0] if self else None

    @property
    def failed_tasks(self) -> Records[Failure]:
        """Those of tasks that failed for good, one for each."""
        return Records(Failure, [failure for failure in self if failure.kind == "task" and failure.is_final])


@dataclass(frozen=True)
class ErrorRate(Record):
    """How many of the spans of one name that ended in a part of the job's time failed."""

    name: str
    start_time_ns: int
    duration_ns: int
    count: int
    failed: int
    rate: float  #: failed / count


def find_failures(store: Store, job_id: UUID) -> Failures:
    """Everything that failed in a job, by time. Raises NotFoundError."""
    with store.snapshot() as connection:
        subject = find_subject(connection, job_id)
        rows = run(connection, "failed_spans", {"trace_no": subject.trace_no})
        exceptions = {  # the last one of each span
            span_id: tuple(map(_text, texts))
            for span_id, *texts in run(connection, "exceptions_of_trace", (subject.trace_no,))
        }
        numbers = {"job_no": subject.job_no, "trace_no": subject.trace_no}
        bare = run(connection, "failed_tasks_without_span", numbers)
        skipped: dict[int, int] = dict(run(connection, "skipped_in_branches", (subject.job_no,)))
    failed_parents = {row[9] for row in rows}
    failures = [_of_span(row, exceptions, failed_parents, skipped) for row in rows]
    failures += [_of_task(row, skipped) for row in bare]
    failures.sort(key=lambda failure: failure.failed_at_ns)  # stable: rows keep their order within an instant
    return Failures(_with_withheld(failures, subject))


def _of_span(
    row: tuple[Any, ...],
    exceptions: dict[int, tuple[str | None, ...]],
    failed_parents: set[int | None],
    skipped: dict[int, int],
) -> Failure:
    name, is_task, task_id, attempt, failed_ns, duration_ns, status_message, runner, span_id = row[:9]
    parent_span_id, task_no, state, last_attempt = row[9:]
    exception_type, exception_message, stacktrace = exceptions.get(span_id, (None, None, None))
    is_final = bool(is_task) and state in _FAILED and attempt == last_attempt
    return Failure(
        kind="task" if is_task else "span",
        name=name,
        failed_at_ns=failed_ns,
        exception_type=exception_type,
        exception_message=exception_message,
        stacktrace=stacktrace,
        status_message=status_message,
        duration_ns=duration_ns,
        task_id=task_id,
        attempt=attempt,
        is_final=is_final,
        is_origin=span_id not in failed_parents,
        skipped=skipped.get(task_no, 0) if is_final else 0,
        withheld=0,
        runner=runner,
        span_id=_hex(span_id),
        parent_span_id=_hex(parent_span_id),
    )


def _of_task(row: tuple[Any, ...], skipped: dict[int, int]) -> Failure:
    name, task_id, attempt, stopped_ns, duration_ns, display, runner, task_no = row
    return Failure(
        kind="task",
        name=f"task/{name}",
        failed_at_ns=stopped_ns,
        exception_type=None,
        exception_message=None,
        stacktrace=None,
        status_message=display,  # the engine keeps the error there
        duration_ns=duration_ns,
        task_id=task_id,
        attempt=attempt,
        is_final=True,
        is_origin=True,
        skipped=skipped.get(task_no, 0),
        withheld=0,
        runner=runner,
        span_id=None,
        parent_span_id=None,
    )


def _with_withheld(failures: list[Failure], subject: Subject) -> list[Failure]:
    """The first task that failed for good canceled the job: what is queued still waits because of it."""
    from dataclasses import replace

    if subject.canceled and subject.queued_count and subject.failed_count:
        for index, failure in enumerate(failures):
            if failure.kind == "task" and failure.is_final:
                failures[index] = replace(failure, withheld=subject.queued_count)
                break
    return failures


def find_error_rates(store: Store, job_id: UUID, *, slots: int) -> Records[ErrorRate]:
    """Error rates over time of the span names of which at least one failed, by name and time; empty slots are left out.

    The time from the end of the first span to that of the last one is divided into at most `slots` parts. Raises
    NotFoundError, and ArgumentError unless `slots` is between 1 and 10,000.
    """
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= _MAX_SLOTS:
        raise ArgumentError(f"slots is a number from 1 to {_MAX_SLOTS:,}, not {slots!r}.")
    with store.snapshot() as connection:
        subject = find_subject(connection, job_id)
        return Records(ErrorRate, _error_rates(connection, subject.trace_no, slots))


def _error_rates(connection: apsw.Connection, trace_no: int, slots: int) -> list[ErrorRate]:
    from_ns, until_ns = run(connection, "span_times", (trace_no,))[0]
    if from_ns is None:
        return []
    width_ns = (until_ns - from_ns) // slots + 1  # the last end is inside of the last slot
    rows = run(connection, "error_rates", {"trace_no": trace_no, "from_ns": from_ns, "width_ns": width_ns})
    return [
        ErrorRate(name, from_ns + slot * width_ns, width_ns, count, failed, failed / count)
        for name, slot, count, failed in rows
    ]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _hex(span_id: int | None) -> str | None:
    return None if span_id is None else f"{unsigned64(span_id):016x}"
