"""JobClient: `client.jobs()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilebox_local import clock, ids
from tilebox_local.clusters.client import to_cluster_slug
from tilebox_local.data import (
    Job,
    JobState,
    LogSeverity,
    LogSeverityLiteral,
    QueryFilters,
    TaskState,
)
from tilebox_local.engine import jobs as engine
from tilebox_local.engine.jobs import validate_job_name
from tilebox_local.engine.submissions import validate_submissions
from tilebox_local.errors import ArgumentError
from tilebox_local.intervals import parse_temporal_extent
from tilebox_local.jobs.analysis import JobAnalysis
from tilebox_local.jobs.arguments import JobIDLike, as_list, shown, to_member, to_severity, to_uuid
from tilebox_local.observability.span import CurrentSpan
from tilebox_local.observability.tracing import get_trace_parent_of_current_span, start_job_span
from tilebox_local.query import jobs as job_queries
from tilebox_local.query import telemetry as telemetry_queries
from tilebox_local.task import FutureTask, TaskMeta, merge_future_tasks_to_submissions

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    import apsw

    from tilebox_local.clusters.client import ClusterSlugLike
    from tilebox_local.intervals import IDIntervalLike, TimeIntervalLike
    from tilebox_local.observability.tracing import WorkflowTracer
    from tilebox_local.storage.store import Store
    from tilebox_local.telemetry import LogRecords, Spans

__all__ = ["JobClient", "JobIDLike"]


class JobClient(JobAnalysis):
    """Jobs of one store. Thread-safe; changes are committed on return.

    Args:
        open_store: Gives the store, or raises StoreClosedError once the client is closed.
        tracer: Makes the spans of what is done here.
    """

    def __init__(self, open_store: Callable[[], Store], tracer: WorkflowTracer) -> None:
        super().__init__(open_store)
        self._tracer = tracer

    def submit(
        self,
        job_name: str,
        root_task_or_tasks: Any | list[Any],
        cluster: ClusterSlugLike | list[ClusterSlugLike] | None = None,
        max_retries: int = 0,
    ) -> Job:
        """Submit a job, and open its trace with the span `job/<job_name>`.

        Args:
            job_name: A name of 1 to 65,536 characters; need not be unique.
            root_task_or_tasks: A task, or a list of tasks, to start with.
            cluster: Where they run: one cluster for all of them, or one each. Default: the default cluster.
            max_retries: How often each of them is tried again after a failure.

        Raises:
            ArgumentError (a ValueError): no task, an input of more than 2,048 bytes, not as many clusters as tasks, a
                name that is empty, has more than 65,536 characters or cannot be encoded.
            TypeError: a name that is no text, a value that is no task, such as its class, or a task input of a type
                that cannot be stored.
            NotFoundError (a KeyError): an unknown cluster.
        """
        store = self._store  # refuses before a span begins
        validate_job_name(job_name)
        tasks = root_task_or_tasks if isinstance(root_task_or_tasks, list) else [root_task_or_tasks]
        slugs = (
            [to_cluster_slug(c) for c in cluster]
            if isinstance(cluster, list)
            else ([to_cluster_slug(cluster or "")] * len(tasks))
        )
        if len(tasks) != len(slugs):
            raise ArgumentError(
                f"Mismatch in number of provided clusters and tasks. Expected either one cluster to use for each task, "
                f"or exactly one cluster per task. But got {len(tasks)} tasks and {len(slugs)} clusters."
            )
        for task in tasks:
            TaskMeta.for_task(task)
        futures = [
            FutureTask(i, task, [], slug, max_retries, False)
            for i, (task, slug) in enumerate(zip(tasks, slugs, strict=True))
        ]
        submissions = merge_future_tasks_to_submissions(futures, "")
        if submissions is None:
            raise ArgumentError("At least one task must be submitted.")
        validate_submissions(submissions)
        with self._tracer.span(f"job/{job_name}") as span:
            if isinstance(span, CurrentSpan):
                span.is_written = True  # it has no job yet to show it under; the transaction below writes it
            trace_parent = get_trace_parent_of_current_span()
            now_ns = clock.wall_ns()
            job_id = ids.new_id(now_ns)
            trace_id = span.get_span_context().trace_id

            def submit(connection: apsw.Connection) -> Job:
                trace_no = engine.submit_job(
                    connection,
                    job_id=job_id,
                    name=job_name,
                    trace_id=trace_id,
                    trace_parent=trace_parent,
                    submissions=submissions,
                    now_ns=now_ns,
                )
                if isinstance(span, CurrentSpan):
                    span.move_to_trace(trace_no)
                    # A job without its root span would have no trace: both commit together, whatever comes then.
                    span.stop()
                    store.writer.write_span(connection, span)
                # Not after the commit: if that reading failed, who tries again would have two jobs.
                return job_queries.read_job(connection, job_id)

            try:
                return store.transact(submit)
            except BaseException:
                if isinstance(span, CurrentSpan):
                    span.move_to_trace(None)
                    span.resume()
                raise

    def retry(self, job_or_id: JobIDLike) -> int:
        """Run the failed tasks of a job again, and what waited for them. Computed tasks are not run again.

        Returns the number of failed tasks that were queued. Raises NotFoundError.
        """
        store = self._store
        job = job_or_id if isinstance(job_or_id, Job) else self.find(job_or_id)
        with start_job_span(self._tracer, job, "retry_job") as span:
            rescheduled = store.transact(lambda connection: engine.retry_job(connection, job.id, clock.wall_ns()))
            span.add_event("retried_succeeded", {"num_tasks_rescheduled": rescheduled})
        return rescheduled

    def cancel(self, job_or_id: JobIDLike) -> None:
        """Stop handing out the tasks of a job; running ones end normally. `retry` resumes it. Raises NotFoundError."""
        store = self._store
        job = job_or_id if isinstance(job_or_id, Job) else self.find(job_or_id)
        with start_job_span(self._tracer, job, "cancel_job") as span:
            store.transact(lambda connection: engine.cancel_job(connection, job.id))
            span.add_event("cancel_succeeded")

    def find(self, job_id: JobIDLike) -> Job:
        """The job as it is now; refreshes a Job. Raises NotFoundError, and ArgumentError for what is no job id."""
        return job_queries.find_job(self._store, to_uuid(job_id, "job"))

    def query(
        self,
        temporal_extent: TimeIntervalLike | IDIntervalLike | None = None,
        automation_ids: UUID | list[UUID] | None = None,
        job_states: JobState | list[JobState] | None = None,
        name: str | None = None,
        task_states: TaskState | list[TaskState] | None = None,
        clusters: ClusterSlugLike | list[ClusterSlugLike] | None = None,
    ) -> list[Job]:
        """Jobs that match all filters, newest first; values in a list are alternatives.

        Args:
            temporal_extent: Times of submission or job ids: a TimeInterval, an instant, a pair of instants
                [start, end), an IDInterval, or a pair of UUIDs (both included).
            automation_ids: Jobs of automations, of which there are none here.
            job_states: States of the job.
            name: Characters of the name in this order, in any case; others may stand in between.
            task_states: Jobs with at least one task in one of the states.
            clusters: Jobs with tasks on one of the clusters.

        Raises:
            ArgumentError (a ValueError): an extent that cannot be understood, a value that is no state, an empty
                cluster slug, a name of more than 100 characters.
            TypeError: a name or a cluster slug that is no text.
        """
        time_interval, id_interval = parse_temporal_extent(temporal_extent)
        slugs = [to_cluster_slug(cluster) for cluster in as_list(clusters)]
        for slug in slugs:
            if not isinstance(slug, str):
                raise TypeError(
                    f"{shown(slug)} in clusters is no cluster; pass a Cluster, its slug, or a list of them."
                )
        if name is not None and not isinstance(name, str):
            raise TypeError(f"The name to look for is {shown(name)}, which is no text; pass a str.")
        if "" in slugs:
            raise ArgumentError("Cluster filters must use explicit cluster slugs")
        filters = QueryFilters(
            time_interval=time_interval,
            id_interval=id_interval,
            automation_ids=[to_uuid(one, "automation") for one in as_list(automation_ids)],
            job_states=[to_member(one, "job_states", JobState) for one in as_list(job_states)],
            name=name,
            task_states=[to_member(one, "task_states", TaskState) for one in as_list(task_states)],
            cluster_slugs=slugs,
        )
        return list(job_queries.query_jobs(self._store, filters))

    def query_logs(
        self,
        job_id: JobIDLike,
        *,
        task_id: UUID | str | None = None,
        level: LogSeverity | LogSeverityLiteral | list[LogSeverity] | list[LogSeverityLiteral] | None = None,
    ) -> LogRecords:
        """Log records of a job, ascending by time.

        Args:
            job_id: The job.
            task_id: Only those of this task.
            level: Only those of this severity, or of one of these; not a minimum. "error" includes FATAL.

        Raises:
            NotFoundError, and ArgumentError (a ValueError) for an unknown level or what is no id.
        """
        severities = [to_severity(one) for one in as_list(level)]
        task = None if task_id is None else to_uuid(task_id, "task")
        self._store.flush()
        return telemetry_queries.query_logs(self._store, to_uuid(job_id, "job"), task_id=task, severities=severities)

    def query_spans(self, job_id: JobIDLike, *, task_id: UUID | str | None = None, include_open: bool = False) -> Spans:
        """Spans of a job, ascending by start time.

        Args:
            job_id: The job.
            task_id: Only those of this task.
            include_open: Also those that have not ended (`end_time` is None). The official client has no such option.

        Raises:
            NotFoundError, and ArgumentError (a ValueError) for what is no id.
        """
        task = None if task_id is None else to_uuid(task_id, "task")
        self._store.flush()
        return telemetry_queries.query_spans(
            self._store, to_uuid(job_id, "job"), task_id=task, include_open=include_open
        )

    def visualize(self, job: JobIDLike, direction: str = "down", layout: str = "dagre", sketchy: bool = True) -> str:
        """The tasks of a job as an SVG diagram, coloured by state; for jobs of up to 200 tasks.

        Raises NotFoundError, and ArgumentError for too many tasks or an unknown direction or layout.
        """
        from tilebox_local.formatting.diagram import render_task_graph

        found = self.find(job)
        nodes = job_queries.task_nodes(self._store, found.id)
        return render_task_graph(nodes, title=found.name, direction=direction, layout=layout, sketchy=sketchy)

    def display(self, job_id: JobIDLike, direction: str = "down", layout: str = "dagre", sketchy: bool = True) -> None:
        """Show `visualize` in a notebook. Raises RuntimeError outside of IPython."""
        try:
            from IPython.display import HTML, display
        except ImportError:
            message = "IPython is not available. Diagram can only be displayed in a notebook."
            raise RuntimeError(message) from None
        display(HTML(self.visualize(job_id, direction, layout, sketchy)))
