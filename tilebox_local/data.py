"""The values that the public API takes and returns, with the official package's names, fields and defaults.

Does not do: storage, or anything with a clock. Field order and comparison follow `tilebox.workflows.data`.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from enum import Enum
from functools import total_ordering
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from tilebox_local.errors import hosted_only

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from datetime import datetime, timedelta
    from uuid import UUID

    from tilebox_local.intervals import IDInterval, TimeInterval
    from tilebox_local.observability.tracing import WorkflowTracer
    from tilebox_local.telemetry import LogRecord, LogRecords, Span, Spans

__all__ = [
    "Cluster",
    "ComputedTask",
    "ExecutionStats",
    "FailedTask",
    "Idling",
    "Job",
    "JobState",
    "LogRecord",
    "LogRecords",
    "LogSeverity",
    "LogSeverityLiteral",
    "ProgressIndicator",
    "QueryFilters",
    "RunnerContext",
    "Span",
    "Spans",
    "Task",
    "TaskIdentifier",
    "TaskLease",
    "TaskState",
    "TaskSubmissionGroup",
    "TaskSubmissions",
]

MAX_DISPLAY_CHARS = 1024
TASK_FAILED_STATUS = "Task failed with exception"  # of the spans of all such tasks; their exception is an event
_VERSION = re.compile(r"v(\d+)\.(\d+)")


class TaskState(Enum):
    """State of a task; the values are the wire's and the store's."""

    UNSPECIFIED = 0
    QUEUED = 1
    RUNNING = 2
    COMPUTED = 3
    FAILED = 4
    SKIPPED = 5
    FAILED_OPTIONAL = 6


class JobState(Enum):
    """State of a job, derived from its tasks; the values are the wire's."""

    UNSPECIFIED = 0
    SUBMITTED = 1
    RUNNING = 2
    STARTED = 3
    COMPLETED = 4
    FAILED = 5
    CANCELED = 6
    QUEUED = 1  # noqa: PIE796 -- deprecated alias of SUBMITTED


class LogSeverity(Enum):
    """Severity groups of log queries; OpenTelemetry's FATAL belongs to ERROR."""

    TRACE = 1
    DEBUG = 2
    INFO = 3
    WARNING = 4
    ERROR = 5


LogSeverityLiteral: TypeAlias = Literal["trace", "debug", "info", "warning", "error"]


def parse_version(version: str) -> tuple[int, int]:
    """(major, minor) of "v<major>.<minor>". Raises ValueError for anything else."""
    match = _VERSION.fullmatch(version)
    if match is None:
        raise ValueError(f"Invalid version string: {version}")
    return int(match[1]), int(match[2])


@dataclass(order=True, frozen=True, unsafe_hash=True)
class TaskIdentifier:
    """Name and version under which runners register a task."""

    name: str
    version: str

    @classmethod
    def from_name_and_version(cls, name: str, version: str) -> Self:
        """The identifier, checked: a name of 1 to 256 characters, a version "v<major>.<minor>". Raises ValueError."""
        if not name:
            raise ValueError("A task name is required")
        if len(name) > 256:
            raise ValueError("The task name is too long")
        parse_version(version)
        return cls(name=name, version=version)


@dataclass
class TaskLease:
    """How long a runner may hold a task, and when to ask again; both in whole seconds."""

    lease: int
    recommended_wait_until_next_extension: int


@dataclass(order=True)
class ProgressIndicator:
    """Units of work done out of total under one label (None: the job's own)."""

    label: str | None
    total: int
    done: int


@dataclass(order=True)
class Task:
    """A task as a runner gets it. Only `display` may be changed while it runs."""

    id: UUID
    identifier: TaskIdentifier
    state: TaskState = field(default=TaskState.QUEUED)
    input: bytes = field(default=b"")
    display: str | None = field(default=None)
    job: Job | None = field(default=None)
    parent_id: UUID | None = field(default=None)
    depends_on: list[UUID] = field(default_factory=list)
    lease: TaskLease | None = field(default=None)
    retry_count: int = field(default=0)


@dataclass(order=True)
class Idling:
    """Answer to a claim when there is nothing to run."""

    suggested_idling_duration: timedelta


@dataclass(order=True, frozen=True)
class ExecutionStats:
    """Times and task counts of a job.

    `compute_time` is the sum of all attempts' run times, `elapsed_time` the last stop minus the first start,
    `parallelism` is 0.0 before anything ran, else max(1.0, compute_time / elapsed_time). `tasks_by_state` holds
    only states that occur.
    """

    first_task_started_at: datetime | None
    last_task_stopped_at: datetime | None
    compute_time: timedelta
    elapsed_time: timedelta
    parallelism: float
    total_tasks: int
    tasks_by_state: dict[TaskState, int]


@total_ordering
@dataclass(frozen=True)
class Job:
    """One execution of a workflow, as of the moment it was read."""

    id: UUID
    name: str
    trace_parent: str
    state: JobState
    submitted_at: datetime
    progress: list[ProgressIndicator]
    execution_stats: ExecutionStats

    def _sort_key(self) -> tuple[UUID, int, str, int]:
        return self.id, self.state.value, self.name, self.execution_stats.total_tasks

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Job):
            return NotImplemented
        return self._sort_key() < other._sort_key()

    @property
    def canceled(self) -> bool:
        """Deprecated: whether the state is CANCELED or FAILED."""
        warnings.warn("Job.canceled is deprecated, compare Job.state instead.", DeprecationWarning, stacklevel=2)
        return self.state in (JobState.CANCELED, JobState.FAILED)

    @property
    def started_at(self) -> datetime | None:
        """Deprecated: `execution_stats.first_task_started_at`."""
        warnings.warn(
            "Job.started_at is deprecated, use Job.execution_stats.first_task_started_at.",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.execution_stats.first_task_started_at


@dataclass(order=True)
class Cluster:
    """Named pool that tasks are assigned to and runners serve; its key is the slug."""

    slug: str
    display_name: str
    deletable: bool
    description: str | None = None
    deployed_workflows: list[Any] = field(default_factory=list)


@dataclass
class TaskSubmissionGroup:
    """Tasks with the same dependencies and dependants. All lists but the first have one entry per task."""

    dependencies_on_other_groups: list[int]
    inputs: list[bytes] = field(default_factory=list)
    identifier_pointers: list[int] = field(default_factory=list)
    cluster_slug_pointers: list[int] = field(default_factory=list)
    display_pointers: list[int] = field(default_factory=list)
    max_retries_values: list[int] = field(default_factory=list)
    optional_values: list[bool] = field(default_factory=list)


@dataclass
class TaskSubmissions:
    """Tasks to insert together; pointers in the groups index the three look-up lists."""

    task_groups: list[TaskSubmissionGroup]
    cluster_slug_lookup: list[str]
    identifier_lookup: list[TaskIdentifier]
    display_lookup: list[str]


@dataclass
class ComputedTask:
    """Report of an execution that succeeded."""

    id: UUID
    display: str | None
    sub_tasks: TaskSubmissions | None
    progress_updates: list[ProgressIndicator]


def _shown(value: object, show: Callable[[object], str]) -> str:
    """`show(value)`, or a note: a failure of a task is one whatever its display text and its exception are."""
    try:
        return show(value)
    except Exception:  # noqa: BLE001 -- user objects may raise anything
        return f"<unprintable {type(value).__name__}>"


@dataclass
class FailedTask:
    """Report of an execution that failed. Errors outside the task's code do not use up a retry."""

    task_id: UUID
    display: str | None
    was_workflow_error: bool
    progress_updates: list[ProgressIndicator]

    @classmethod
    def from_task_error(
        cls, task: Task, error: Exception, was_workflow_error: bool, progress_updates: list[ProgressIndicator]
    ) -> FailedTask:
        """Append the error to the task's display text, which holds at most 1,024 characters."""
        from tilebox_local.storage.redaction import redact_text

        # Before it is cut, since half a secret is not recognised.
        display = redact_text(f"{_shown(task.display, str)}\n{_shown(error, repr)}")
        return cls(task.id, display[:MAX_DISPLAY_CHARS], was_workflow_error, progress_updates)


@dataclass(frozen=True)
class QueryFilters:
    """Filters of a job query: they are combined with AND, the values of one list with OR; empty means no filter."""

    time_interval: TimeInterval | None
    id_interval: IDInterval | None
    automation_ids: list[UUID]
    job_states: list[JobState]
    name: str | None
    task_states: list[TaskState]
    cluster_slugs: list[str] = field(default_factory=list)


class RunnerContext:
    """One object per runner that all its task executions share; subclass it to share clients or models.

    Tasks may run on several threads, so subclasses must guard mutable state.
    """

    def __init__(self, tracer: WorkflowTracer | None = None, storage_locations: list[Any] | None = None) -> None:
        if tracer is None:
            from tilebox_local.observability.tracing import NoopWorkflowTracer

            tracer = NoopWorkflowTracer()
        self.tracer = tracer
        self.storage_locations: MutableMapping[UUID, Any] = {
            location.id: location for location in storage_locations or []
        }

    def gcs_client(self, location: str) -> Any:
        """Not available: storage locations are a hosted feature."""
        raise hosted_only(f"The GCS client of storage location {location!r}")

    def s3_client(self, location: str, region: str | None = None) -> Any:  # noqa: ARG002
        """Not available: storage locations are a hosted feature."""
        raise hosted_only(f"The S3 client of storage location {location!r}")

    def azure_client(self, storage_account_resource_id: str, container: str) -> Any:  # noqa: ARG002
        """Not available: storage locations are a hosted feature."""
        raise hosted_only(f"The Azure client of storage location {container!r}")

    def local_path(self, location: str) -> Path:
        """The location as a path."""
        return Path(location)


def __getattr__(name: str) -> Any:
    # Telemetry records live in their own module; the official package exports them from here.
    if name in {"LogRecord", "LogRecords", "Span", "Spans"}:
        from tilebox_local import telemetry

        return getattr(telemetry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
