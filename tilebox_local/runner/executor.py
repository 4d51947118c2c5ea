"""Execute one claimed task: its span, its context, its result. Does not claim or report."""

from __future__ import annotations

import asyncio
import inspect
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from opentelemetry.trace import StatusCode

from tilebox_local.clock import ns_to_datetime
from tilebox_local.data import (
    TASK_FAILED_STATUS,
    ComputedTask,
    ExecutionStats,
    FailedTask,
    Job,
    JobState,
    ProgressIndicator,
    RunnerContext,
    Task,
    TaskIdentifier,
    TaskLease,
    TaskState,
)
from tilebox_local.engine.submissions import validate_submissions
from tilebox_local.errors import ArgumentError
from tilebox_local.ids import parse_trace_parent
from tilebox_local.observability._logging import StructuredLogger
from tilebox_local.observability.span import CurrentSpan, current_task_span
from tilebox_local.observability.tracing import NoopWorkflowTracer, TaskTracer, WorkflowTracer, start_job_span
from tilebox_local.storage.rows import TraceScope
from tilebox_local.task import ExecutionContext as ExecutionContextBase
from tilebox_local.task import FutureTask, ProgressUpdate, merge_future_tasks_to_submissions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from opentelemetry.trace import Span

    from tilebox_local.cache import JobCache
    from tilebox_local.data import TaskSubmissions
    from tilebox_local.engine.tasks import ClaimedJob, ClaimedTask
    from tilebox_local.storage.queue import TelemetryQueue
    from tilebox_local.storage.rows import Reference

__all__ = ["ExecutionContext", "TaskExecutor", "to_task"]

_MAX_PROGRESS_INDICATORS = 1000
_SAMPLED = 0x01
_NO_STATS = ExecutionStats(None, None, timedelta(0), timedelta(0), 0.0, 0, {})


def to_task(claimed: ClaimedTask, claimed_job: ClaimedJob, identifier: TaskIdentifier, lease: TaskLease) -> Task:
    """A claimed task as user code sees it. Its job has id, name, trace_parent and submitted_at only."""
    job = Job(
        id=UUID(bytes=claimed_job.job_id),
        name=claimed_job.name,
        trace_parent=claimed_job.trace_parent,
        state=JobState.UNSPECIFIED,
        submitted_at=ns_to_datetime(claimed_job.submitted_ns),
        progress=[],
        execution_stats=_NO_STATS,
    )
    return Task(
        id=UUID(bytes=claimed.task_id),
        identifier=identifier,
        state=TaskState.RUNNING,
        input=claimed.input,
        display=claimed.display,
        job=job,
        lease=lease,
        retry_count=claimed.retry_count,
    )


@dataclass
class TaskExecutor:
    """What all executions of one runner share. `check_cluster` raises NotFoundError for an unknown slug."""

    queue: TelemetryQueue
    resource: Reference
    tracer: WorkflowTracer
    task_logger: StructuredLogger
    runner_context: RunnerContext
    cache: JobCache
    cluster_slug: str
    check_cluster: Callable[[str], object]

    def execute(
        self, task: Task, task_class: type[Any], *, task_no: int, trace_no: int | None
    ) -> ComputedTask | FailedTask:
        """Run `task_class.execute` once, inside the span `task/<Class>`.

        Exceptions become a FailedTask. SystemExit and KeyboardInterrupt pass through, after the span has ended.
        """
        assert task.job is not None  # noqa: S101 -- to_task always sets it
        context = ExecutionContext(self, task, self.cache.group(str(task.job.id)))
        parent = parse_trace_parent(task.job.trace_parent)
        name = f"task/{task_class.__name__}"
        if parent is None or not parent[2] & _SAMPLED or trace_no is None:
            # No place in a recorded trace: an unsampled job records nothing, a malformed one starts a new trace.
            with start_job_span(self.tracer, task.job, name) as foreign:
                context.enter_span(foreign)
                return self._run(context, task, task_class, foreign)
        trace_id, root_span_id, flags = parent
        span = CurrentSpan(self.queue, self.resource, name)
        span.attributes = {"identifier.name": task.identifier.name, "identifier.version": task.identifier.version}
        self.queue.task_ids[task_no] = str(task.id)
        scope = TraceScope(trace_id, flags, trace_no=trace_no)
        scope.publish()  # the job is committed
        span.enter_task(scope, root_span_id, task_no)
        context.enter_span(span)
        token = current_task_span.set(span)
        try:
            return self._run(context, task, task_class, span)
        finally:
            current_task_span.reset(token)
            span.__exit__(None, None, None)
            self.queue.task_ids.pop(task_no, None)

    def _run(
        self, context: ExecutionContext, task: Task, task_class: type[Any], span: Span
    ) -> ComputedTask | FailedTask:
        try:
            instance = task_class._deserialize(task.input, self.runner_context)
            _call(instance, context)
            return ComputedTask(task.id, task.display, context.submissions(), context.reported_progress())
        except Exception as error:  # noqa: BLE001 -- user code may raise anything; it becomes the task's failure
            span.record_exception(error)
            span.set_status(StatusCode.ERROR, TASK_FAILED_STATUS)
            return FailedTask.from_task_error(task, error, True, context.reported_progress())
        except BaseException as error:
            span.set_status(StatusCode.ERROR, f"interrupted: {error!r}")
            raise


def _call(instance: Any, context: ExecutionContext) -> None:
    result = instance.execute(context)
    if not inspect.isawaitable(result):
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(_wait_for(result))
        return
    # A notebook's loop runs in this thread and cannot be entered again.
    with ThreadPoolExecutor(max_workers=1) as executor:
        executor.submit(copy_context().run, asyncio.run, _wait_for(result)).result()


async def _wait_for(result: Awaitable[None]) -> None:
    await result


class ExecutionContext(ExecutionContextBase):
    """The context of one execution. `executor` is None only where there is no runner, as in unit tests of a task."""

    def __init__(self, executor: TaskExecutor | None, task: Task | None, job_cache: JobCache | None) -> None:
        self._executor = executor
        self.current_task = task  # type: ignore[assignment]
        self.job_cache = job_cache  # type: ignore[assignment]
        self._subtasks: list[FutureTask] = []
        self._progress: dict[str | None, ProgressUpdate] = {}
        self._task = task
        self._span: Span | None = None
        self._logger: StructuredLogger | None = None  # made when they are asked for: many tasks never do
        self._tracer: WorkflowTracer | None = None

    def enter_span(self, span: Span) -> None:
        """Tracer and logger belong to the span of the task, also in threads without a current span."""
        self._span = span

    def submit_subtask(
        self,
        task: Any,
        depends_on: FutureTask | list[FutureTask] | None = None,
        cluster: str | None = None,
        max_retries: int = 0,
        optional: bool = False,
    ) -> FutureTask:
        """Submit a task that runs after this one. See `tilebox_local.task.ExecutionContext`."""
        return self._append(task, self._dependencies(depends_on), cluster, max_retries, optional)

    def _dependencies(self, depends_on: FutureTask | list[FutureTask] | None) -> list[int]:
        if depends_on is None:
            return []
        if isinstance(depends_on, FutureTask):
            depends_on = [depends_on]
        elif not isinstance(depends_on, list):
            raise TypeError(f"Invalid dependency. Expected FutureTask or list[FutureTask], got {type(depends_on)}")
        for dependency in depends_on:
            if not isinstance(dependency, FutureTask):
                raise TypeError(f"Invalid dependency. Expected FutureTask, got {type(dependency)}")
            if dependency.index >= len(self._subtasks):
                raise ArgumentError(f"Dependent task {dependency.index} does not exist")
        return [dependency.index for dependency in depends_on]

    def _append(
        self, task: Any, dependencies: list[int], cluster: str | None, max_retries: int, optional: bool
    ) -> FutureTask:
        future = FutureTask(len(self._subtasks), task, dependencies, cluster, max_retries, optional)
        self._subtasks.append(future)
        return future

    def submit_subtasks(
        self,
        tasks: Sequence[Any],
        depends_on: FutureTask | list[FutureTask] | None = None,
        cluster: str | None = None,
        max_retries: int = 0,
        optional: bool = False,
    ) -> list[FutureTask]:
        """Submit several tasks with the same options, in this order."""
        shared = self._dependencies(depends_on)
        return [self._append(task, shared, cluster, max_retries, optional) for task in tasks]

    def submit_batch(self, tasks: Sequence[Any], cluster: str | None = None, max_retries: int = 0) -> list[FutureTask]:
        """Deprecated: `submit_subtasks`."""
        warnings.warn("submit_batch is deprecated, use submit_subtasks instead.", DeprecationWarning, stacklevel=2)
        return self.submit_subtasks(tasks, cluster=cluster, max_retries=max_retries)

    def progress(self, label: str | None = None) -> ProgressUpdate:
        """The progress indicator of this label; "" and None mean the job's own."""
        label = label or None
        found = self._progress.get(label)
        if found is None:
            if len(self._progress) > _MAX_PROGRESS_INDICATORS:
                raise ArgumentError(f"Cannot create more than {_MAX_PROGRESS_INDICATORS} progress indicators per task.")
            found = self._progress[label] = ProgressUpdate(label)
        return found

    @property
    def runner_context(self) -> RunnerContext:
        """The object that all executions of the runner share."""
        return RunnerContext() if self._executor is None else self._executor.runner_context

    @property
    def logger(self) -> StructuredLogger:
        """Logger whose records carry the task's id."""
        if self._logger is None:
            if self._executor is None or self._task is None:
                self._logger = StructuredLogger(logging.getLogger("tilebox.workflows.noop"))
            else:
                self._logger = self._executor.task_logger.bind(task_id=str(self._task.id))._below(self._span)
        return self._logger

    @property
    def tracer(self) -> WorkflowTracer:
        """Tracer for spans below the task's span, in threads of the task, too."""
        if self._tracer is None:
            if self._executor is None:
                self._tracer = NoopWorkflowTracer()
            elif self._span is None:
                self._tracer = self._executor.tracer
            else:
                self._tracer = TaskTracer(self._executor.queue, self._executor.resource, self._span)
        return self._tracer

    def submissions(self) -> TaskSubmissions | None:
        """The subtasks, checked: errors belong to this task, which submitted them."""
        executor = self._executor
        merged = merge_future_tasks_to_submissions(self._subtasks, "" if executor is None else executor.cluster_slug)
        if merged is not None:
            validate_submissions(merged)
            if executor is not None:
                for slug in merged.cluster_slug_lookup:
                    if slug != executor.cluster_slug:
                        executor.check_cluster(slug)
        return merged

    def reported_progress(self) -> list[ProgressIndicator]:
        """Progress as of now, one indicator per label."""
        return [ProgressIndicator(label, update._total, update._done) for label, update in self._progress.items()]
