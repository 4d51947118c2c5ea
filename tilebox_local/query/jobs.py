"""Jobs, clusters and tasks as the API shows them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from tilebox_local.catalog import run, value
from tilebox_local.clock import datetime_to_ns, ns_to_datetime, ns_to_timedelta
from tilebox_local.data import Cluster, ExecutionStats, JobState, ProgressIndicator, TaskState
from tilebox_local.engine.clusters import DEFAULT_CLUSTER_SLUG
from tilebox_local.errors import ArgumentError, NotFoundError
from tilebox_local.formatting.job import RichDisplayJob

if TYPE_CHECKING:
    import apsw

    from tilebox_local.data import QueryFilters
    from tilebox_local.formatting.diagram import TaskNode
    from tilebox_local.storage.store import Store

__all__ = ["find_cluster", "find_job", "list_clusters", "query_jobs", "task_nodes"]

_COUNTED_STATES = (
    TaskState.QUEUED,
    TaskState.RUNNING,
    TaskState.COMPUTED,
    TaskState.FAILED,
    TaskState.SKIPPED,
    TaskState.FAILED_OPTIONAL,
)
_FIRST_NS, _LAST_NS = -(1 << 63), (1 << 63) - 1
_FIRST_ID, _LAST_ID = UUID(int=0), UUID(int=(1 << 128) - 1)


def find_job(store: Store, job_id: UUID) -> RichDisplayJob:
    """The job as it is now. Raises NotFoundError."""
    with store.snapshot() as connection:
        return read_job(connection, job_id)


def read_job(connection: apsw.Connection, job_id: UUID) -> RichDisplayJob:
    """The job as `connection` sees it, which is in a transaction. Raises NotFoundError."""
    rows = run(connection, "job", (job_id.bytes,))
    if not rows:
        raise NotFoundError("job", job_id, hint="List the jobs of this store with client.jobs().query().")
    return _job(rows[0], run(connection, "progress_of_job", (rows[0][0],)))


def query_jobs(store: Store, filters: QueryFilters) -> list[RichDisplayJob]:
    """Jobs that match all filters, newest first."""
    if filters.automation_ids:
        return []  # no job here was made by an automation
    with store.snapshot() as connection:
        rows = run(connection, "query_jobs", _parameters(filters))
        progress = _progress_by_job(connection, [row[0] for row in rows])
    return [_job(row, progress[row[0]]) for row in rows]


def _parameters(filters: QueryFilters) -> dict[str, Any]:
    first_ns, last_ns = _FIRST_NS, _LAST_NS
    if filters.time_interval is not None:
        # Datetimes stop at microseconds: an exclusive start and an inclusive end cover all of their microsecond.
        first_ns = datetime_to_ns(filters.time_interval.start) + (1000 if filters.time_interval.start_exclusive else 0)
        last_ns = datetime_to_ns(filters.time_interval.end) + (999 if filters.time_interval.end_inclusive else -1)
    first_id, last_id = _FIRST_ID, _LAST_ID
    if filters.id_interval is not None:
        first_id = UUID(int=min(filters.id_interval.start_id.int + filters.id_interval.start_exclusive, _LAST_ID.int))
        last_id = UUID(int=max(filters.id_interval.end_id.int - (not filters.id_interval.end_inclusive), 0))
    return {
        "first_ns": first_ns,
        "last_ns": last_ns,
        "first_id": first_id.bytes,
        "last_id": last_id.bytes,
        "states": _json([state.name for state in filters.job_states]),
        "name": _fuzzy_pattern(filters.name) if filters.name else None,
        "task_states": _json([state.value for state in filters.task_states]),
        "clusters": _json(filters.cluster_slugs),
    }


def _json(values: list[Any]) -> str | None:
    return orjson.dumps(values).decode() if values else None


def _fuzzy_pattern(name: str) -> str:
    """The characters of `name` in this order, with anything in between; case-insensitive for ASCII."""
    if len(name) > 100:
        raise ArgumentError(f"A name filter has at most 100 characters, not {len(name)}.")
    return "%" + "".join(("\\" + char if char in "%_\\" else char) + "%" for char in name)


def _progress_by_job(connection: apsw.Connection, job_nos: list[int]) -> dict[int, list[tuple[str, int, int]]]:
    found: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    if job_nos:
        rows = run(connection, "progress_of_jobs", (orjson.dumps(job_nos).decode(),))
        for job_no, label, total, done in rows:
            found[job_no].append((label, total, done))
    return found


def _job(row: tuple[Any, ...], progress: list[tuple[str, int, int]]) -> RichDisplayJob:
    _, job_id, name, trace_parent, state, submitted_ns, started_ns, stopped_ns, compute_ns, *counts = row
    elapsed_ns = max(0, stopped_ns - started_ns) if started_ns is not None and stopped_ns is not None else 0
    parallelism = max(1.0, compute_ns / elapsed_ns if elapsed_ns else 1.0) if compute_ns else 0.0
    return RichDisplayJob(
        id=UUID(bytes=job_id),
        name=name,
        trace_parent=trace_parent,
        state=JobState[state],
        submitted_at=ns_to_datetime(submitted_ns),
        progress=[ProgressIndicator(label or None, total, done) for label, total, done in progress],
        execution_stats=ExecutionStats(
            first_task_started_at=None if started_ns is None else ns_to_datetime(started_ns),
            last_task_stopped_at=None if stopped_ns is None else ns_to_datetime(stopped_ns),
            compute_time=ns_to_timedelta(compute_ns),
            elapsed_time=ns_to_timedelta(elapsed_ns),
            parallelism=parallelism,
            total_tasks=sum(counts),
            tasks_by_state={
                task_state: count for task_state, count in zip(_COUNTED_STATES, counts, strict=True) if count
            },
        ),
    )


def list_clusters(store: Store) -> list[Cluster]:
    """All clusters, the default one first."""
    with store.read() as connection:
        return [_cluster(row) for row in run(connection, "clusters")]


def find_cluster(store: Store, slug: str) -> Cluster:
    """The cluster with this slug; "" is the default one. Raises NotFoundError."""
    with store.read() as connection:
        rows = run(connection, "cluster", (slug or DEFAULT_CLUSTER_SLUG,))
    if not rows:
        hint = "`tilebox-local clusters`, or client.clusters(), lists those that exist, and creates new ones."
        raise NotFoundError("cluster", slug, hint=hint)
    return _cluster(rows[0])


def _cluster(row: tuple[Any, ...]) -> Cluster:
    slug, name, deletable, description = row
    return Cluster(slug, name, bool(deletable), description)


def task_nodes(store: Store, job_id: UUID) -> list[TaskNode]:
    """Tasks of a job for its diagram, in the order of submission. Raises NotFoundError and ArgumentError (too many)."""
    from tilebox_local.formatting.diagram import MAX_DIAGRAM_TASKS, TaskNode

    job = find_job(store, job_id)
    if job.execution_stats.total_tasks > MAX_DIAGRAM_TASKS:
        raise ArgumentError(
            f"The job has {job.execution_stats.total_tasks} tasks; a diagram shows at most {MAX_DIAGRAM_TASKS}. "
            f"Query its spans, or the view `tasks`, instead."
        )
    with store.snapshot() as connection:
        job_no = value(connection, "find_job_no", (job_id.bytes,))
        rows = run(connection, "tasks_of_job", (job_no,))
        edges = run(connection, "group_dependencies_of_job", (job_no,))
    members: dict[int, list[int]] = defaultdict(list)
    for task_no, _, _, _, _, group_no in rows:
        members[group_no].append(task_no)
    dependencies: dict[int, list[int]] = defaultdict(list)
    for group_no, depends_on_no in edges:
        dependencies[group_no] += members[depends_on_no]
    return [
        TaskNode(
            key=task_no,
            label=display,
            state=TaskState(state),
            parent=parent_no,
            depends_on=tuple(dependencies[group_no]),
        )
        for task_no, _, display, state, parent_no, group_no in rows
    ]
