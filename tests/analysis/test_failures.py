"""What failed, why, and what did not run because of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from trace_builder import COMPUTED, FAILED, FAILED_OPTIONAL, LOST, SKIPPED, Attempt, SpanSpec, TraceBuilder

from tilebox_local import ExecutionContext, Task
from tilebox_local.errors import ArgumentError

if TYPE_CHECKING:
    from tilebox_local import Client

TASK = {"identifier.name": "Tile", "identifier.version": "v0.0"}


class Broken(Task):
    """Fails inside of a span of its own."""

    def execute(self, context: ExecutionContext) -> None:
        """Raise in the inner of two spans."""
        with context.tracer.span("outer"), context.tracer.span("inner"):
            raise ValueError("no data")


class Never(Task):
    """Waits for Broken."""

    def execute(self, context: ExecutionContext) -> None:
        """Not called."""


class Root(Task):
    """Submits both."""

    def execute(self, context: ExecutionContext) -> None:
        """Broken, then Never."""
        broken = context.submit_subtask(Broken(), max_retries=1)
        context.submit_subtask(Never(), depends_on=[broken])


def test_a_failed_job(client: Client) -> None:
    """The first failure is where it began; each attempt counts; the last one says what still waits because of it."""
    job = client.jobs().submit("job", Root())
    client.runner(tasks=[Root, Broken, Never]).run_all()
    found = client.jobs().failures(job)
    assert [(one.kind, one.name, one.attempt, one.is_final, one.is_origin, one.withheld) for one in found] == [
        ("span", "inner", 1, False, True, 0),
        ("span", "outer", 1, False, False, 0),
        ("task", "task/Broken", 1, False, False, 0),
        ("span", "inner", 2, False, True, 0),
        ("span", "outer", 2, False, False, 0),
        ("task", "task/Broken", 2, True, False, 1),
    ]
    assert found.first is found[0]
    assert (found[0].exception_type, found[0].exception_message) == ("ValueError", "no data")
    assert found[0].stacktrace is not None
    assert 'raise ValueError("no data")' in found[0].stacktrace
    assert found[2].status_message == "Task failed with exception"
    assert found[1].span_id == found[0].parent_span_id
    assert [one.task_id for one in found.failed_tasks] == [found[5].task_id]
    assert len({one.task_id for one in found}) == 1
    frame = client.sql(
        "SELECT kind, name, exception_type, exception_message FROM failures WHERE job_id = ? ORDER BY start_ns",
        [str(job.id)],
    )
    assert [tuple(row) for row in frame.itertuples(index=False)] == [
        (kind, name, "ValueError", "no data")
        for kind, name in [("task", "task/Broken"), ("span", "outer"), ("span", "inner")] * 2
    ]


def test_what_a_branch_costs(client: Client, build: TraceBuilder) -> None:
    """A failure inside of an optional branch names how many of its tasks were skipped; the job goes on."""
    job = build.job()
    branch = job.task("Branch", Attempt(0, 0, 10), optional=True)
    failed = job.task("Tile", Attempt(10, 10, 30, outcome=FAILED_OPTIONAL), parent=branch, branch=branch)
    for _ in range(3):
        job.task("Tile", parent=branch, branch=branch, state=SKIPPED, submitted=10)
    job.span("task/Tile", 10, 30, task_no=failed, status=2, attributes=TASK, exception=("KeyError", "'x'", "..."))
    (found,) = client.jobs().failures(job.id)
    assert (found.kind, found.attempt, found.is_final, found.skipped, found.withheld) == ("task", 1, True, 3, 0)
    assert (found.exception_type, found.exception_message, found.stacktrace) == ("KeyError", "'x'", "...")


def test_tasks_without_spans(client: Client, build: TraceBuilder) -> None:
    """A task that failed for good and left no failed span is listed with what its display says."""
    job = build.job()
    job.task("Go", Attempt(0, 0, 5, outcome=FAILED))
    (found,) = client.jobs().failures(job.id)
    assert (found.kind, found.name, found.attempt, found.is_final, found.span_id) == ("task", "task/Go", 1, True, None)
    assert (found.exception_type, found.duration_ns) == (None, 5)


def test_lost_attempts(client: Client, build: TraceBuilder) -> None:
    """The span of an attempt that was lost with its runner is a failure, though the task was computed in the end."""
    job = build.job()
    task = job.task("Tile", Attempt(0, 0, 5, outcome=LOST), Attempt(8, 9, 20, outcome=COMPUTED))
    job.span("task/Tile", 0, 5, task_no=task, status=2, message="interrupted", attributes=TASK)
    job.span("task/Tile", 9, 20, task_no=task, attributes=TASK)
    (found,) = client.jobs().failures(job.id)
    assert (found.kind, found.attempt, found.is_final, found.status_message) == ("task", 1, False, "interrupted")


def test_the_last_exception_counts(client: Client, build: TraceBuilder) -> None:
    """Of several exceptions that a span has recorded, the last one is shown."""
    job = build.job()
    span = job.span("read", 0, 10, status=2, exception=("OSError", "second", "..."))
    job._write(
        "INSERT INTO event_records (trace_no, time_ns, span_id, event_no, name, attributes) "
        'VALUES (?, ?, ?, 0, \'exception\', \'{"exception.type": "ValueError", "exception.message": "first"}\')',
        job.trace_no,
        job.start + 3,
        span,
    )
    (found,) = client.jobs().failures(job.id)
    assert (found.exception_type, found.exception_message) == ("OSError", "second")


def test_nothing_failed(client: Client, build: TraceBuilder) -> None:
    """A job in which nothing failed has no failures, and no first one."""
    job = build.job()
    job.span("x", 0, 5)
    found = client.jobs().failures(job.id)
    assert (found, found.first, found.failed_tasks) == ([], None, [])
    assert client.jobs().error_rates(job.id) == []
    assert client.jobs().error_rates(build.job().id) == []


def test_error_rates(client: Client, build: TraceBuilder) -> None:
    """Per name that ever failed, and part of the time in which spans ended: how many ended, and how many failed."""
    job = build.job()
    job.spans([SpanSpec("read", at, at + 10, status=2 if at in (20, 30, 35) else 0) for at in range(0, 40, 5)])
    job.spans([SpanSpec("good", 0, 49), SpanSpec("read", 0, None)])
    found = client.jobs().error_rates(job.id, slots=2)
    assert [(one.name, one.start_time_ns - job.start, one.duration_ns) for one in found] == [
        ("read", 10, 20),
        ("read", 30, 20),
    ]
    assert [(one.count, one.failed, one.rate) for one in found] == [
        (4, 0, 0.0),
        (4, 3, 0.75),
    ]


@pytest.mark.parametrize("slots", [0, -1, 10_001, 1.5, True, "3"])
@pytest.mark.parametrize("question", ["error_rates", "concurrency"])
def test_wrong_numbers_of_slots(client: Client, build: TraceBuilder, question: str, slots: object) -> None:
    """The number of slots is between 1 and 10,000."""
    with pytest.raises(ArgumentError, match=r"^slots is a number from 1 to 10,000, not "):
        getattr(client.jobs(), question)(build.job().id, slots=slots)
