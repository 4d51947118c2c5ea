"""Client: the entry to everything, on one store."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self

from tilebox_local.cache import NoCache
from tilebox_local.clusters.client import ClusterClient, to_cluster_slug
from tilebox_local.data import RunnerContext
from tilebox_local.engine.clusters import cluster_no
from tilebox_local.engine.crashes import tidy_up
from tilebox_local.errors import ArgumentError, FlushTimeoutError, StoreClosedError, StoreError
from tilebox_local.jobs.client import JobClient
from tilebox_local.observability._logging import StructuredLogger, task_logger
from tilebox_local.observability.logging import initialize_logging
from tilebox_local.observability.tracing import LocalTracerProvider, WorkflowTracer
from tilebox_local.query.jobs import find_cluster
from tilebox_local.runner.executor import TaskExecutor
from tilebox_local.runner.runner import Runner
from tilebox_local.runner.task_runner import TaskRunner
from tilebox_local.storage.store import MEMORY, close_uses, open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path
    from types import TracebackType
    from uuid import UUID

    import pandas as pd

    from tilebox_local.automations.client import AutomationClient
    from tilebox_local.cache import JobCache
    from tilebox_local.data import Cluster
    from tilebox_local.doctor import Diagnosis
    from tilebox_local.storage.bookkeeping import WriterStats
    from tilebox_local.storage.connection import LentConnection
    from tilebox_local.storage.store import Store
    from tilebox_local.storage_locations.client import StorageLocationClient
    from tilebox_local.upkeep.check import CheckResult
    from tilebox_local.upkeep.progress import Report
    from tilebox_local.upkeep.prune import PruneResult
    from tilebox_local.workflows.client import WorkflowClient

__all__ = ["Client"]

DEFAULT_PATH = "tilebox.db"


class Client:
    """Tilebox Workflows on one SQLite file.

    Args:
        path: The file, created if it does not exist; ":memory:" for a store that only this client sees. Default: the
            environment variable TILEBOX_LOCAL_DB, else `tilebox.db` in the working directory.
        name: `service.name` of this client's spans and logs; default "tilebox-python".
        durability: What a commit waits for. "normal": nothing that was committed is lost when the process is killed,
            at most the last second when the power fails. "full": nothing that was acknowledged is lost either way.
        read_only: Look into an existing store, also in a folder or on a disk that cannot be written; nobody else may
            write to it there meanwhile. What would write raises StoreOpenError; spans and logs are dropped and counted.
        url, token, client_id, transport: Accepted and ignored, so that scripts for hosted Tilebox run unchanged.

    Raises:
        StoreOpenError (an OSError): the path cannot be opened or created.
        NotATileboxStoreError, SchemaVersionError, StoreCorruptError: the file cannot be used; it is left as it is.

    Thread-safe. Clients of the same file share one writer. `close()`, or leaving a `with` block, writes what is
    queued; so does a normal exit of the interpreter.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        name: str | None = None,
        durability: Literal["normal", "full"] = "normal",
        read_only: bool = False,
        url: str | None = None,  # noqa: ARG002
        token: str | None = None,  # noqa: ARG002
        client_id: UUID | None = None,  # noqa: ARG002
        transport: str = "grpc",  # noqa: ARG002
    ) -> None:
        if durability not in ("normal", "full"):
            raise ArgumentError(f"durability is 'normal' or 'full', not {durability!r}.")
        chosen = path if path is not None else os.environ.get("TILEBOX_LOCAL_DB") or DEFAULT_PATH
        if str(os.fspath(chosen)).startswith(("http://", "https://")):
            raise ArgumentError(f"{chosen!r} is a URL; a local store is a file, such as 'tilebox.db'.")
        if read_only and str(os.fspath(chosen)) == MEMORY:
            raise ArgumentError("read_only needs a file; a store in memory is new, and empty.")
        self._use = object()
        self._is_closed = False
        try:
            self._store = open_store(chosen, full_sync=durability == "full", read_only=read_only, user=self._use)
            tidy_up(self._store)
            self._resource = self._store.resource(name)
            self._tracer = WorkflowTracer(self._store.writer.queue, self._resource)
        except BaseException:  # Ctrl-C, say: nobody could close it
            with suppress(StoreError, FlushTimeoutError):
                close_uses(self._use)
            raise

    def __repr__(self) -> str:
        return f"Client({str(self._store.path or ':memory:')!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    # -- the official client's methods --------------------------------------------------------------------------

    def jobs(self) -> JobClient:
        """Submit, find, query, cancel and retry jobs; query their spans and logs."""
        return JobClient(self._open_store, self._tracer)

    def runner(
        self,
        cluster: Cluster | str | None = None,
        tasks: Sequence[type[Any]] | None = None,
        cache: JobCache | None = None,
        context: type[RunnerContext] | None = None,
    ) -> TaskRunner:
        """A runner that executes tasks in this process.

        Args:
            cluster: The cluster to serve; default: the default cluster.
            tasks: Task classes that it can execute.
            cache: Shared by the tasks of a job as `context.job_cache`; without one, its use raises NoCacheError.
            context: Class of the object that all executions share as `context.runner_context`.

        Raises:
            NotFoundError: an unknown cluster. TypeError, ArgumentError: see `Runner.register`.
        """
        return self._connect_runner(Runner(tasks=tasks, cache=cache, context=context), cluster)

    def clusters(self) -> ClusterClient:
        """Create, change, list and delete clusters."""
        return ClusterClient(self._open_store)

    def workflows(self) -> WorkflowClient:
        """Workflow releases, a hosted feature: every method raises NotImplementedError."""
        from tilebox_local.workflows.client import WorkflowClient

        return WorkflowClient()

    def automations(self) -> AutomationClient:
        """Automations, a hosted feature: every method raises NotImplementedError."""
        from tilebox_local.automations.client import AutomationClient

        return AutomationClient()

    def storage_locations(self) -> StorageLocationClient:
        """Storage locations, a hosted feature: every method raises NotImplementedError."""
        from tilebox_local.storage_locations.client import StorageLocationClient

        return StorageLocationClient()

    def configure_logging(self, level: Any, runner_level: int | None = None) -> None:  # noqa: ARG002
        """Deprecated, without effect: use `tilebox_local.observability.logging.configure_log_level`."""
        warnings.warn(
            "Client.configure_logging() has no effect; use "
            "tilebox_local.observability.logging.configure_log_level(), TILEBOX_LOG_LEVEL or TILEBOX_DEBUG.",
            DeprecationWarning,
            stacklevel=2,
        )

    # -- what a local store adds --------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The store's file, or ":memory:"."""
        return str(self._store.path or ":memory:")

    @property
    def tracer(self) -> WorkflowTracer:
        """Tracer for spans outside of tasks; inside of them use `context.tracer`."""
        return self._tracer

    @property
    def tracer_provider(self) -> LocalTracerProvider:
        """OpenTelemetry TracerProvider on this store, for instrumented libraries."""
        return LocalTracerProvider(self._store.writer, self._resource)

    def sql(
        self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None, *, timeout_s: float | None = 60.0
    ) -> pd.DataFrame:
        """Rows of one SELECT over the views `jobs`, `tasks`, `spans`, `events`, `logs`, `runners`, in its order.

        Sees what was committed when it starts; call `flush()` before to see the latest spans of this process.

        Args:
            query: One statement that reads. `?` and `:name` stand for values of `params`.
            params: Values by position or by name: None, int, float, str or bytes.
            timeout_s: Seconds after which the query is stopped; None: never. Reading for long lets the file grow.

        Returns:
            A DataFrame with the columns of the query, also without rows. BLOBs are bytes, NULL is None or NaN; a
            column of integers with NULLs that do not fit into a float is Int64.

        Raises:
            ArgumentError: a mistake in the query or in params, several statements, or one that would write.
            QueryTimeoutError: it took too long. StoreClosedError: after `close()`.
        """
        from tilebox_local.query.sql import query_frame

        return query_frame(self._open_store(), query, params, timeout_s)

    def connect_readonly(self) -> LentConnection:
        """A read-only apsw.Connection, for what `sql` cannot do: pandas.read_sql_query, or rows one by one.

        It is the caller's: close it, or use it in a `with` block; it outlives this client. One thread at a time. Read
        each result to its end soon: an unfinished one keeps the write-ahead log from being reset. A child that is
        forked while the connection is open cannot use the store.

        Raises StoreClosedError after `close()`.
        """
        return self._open_store().connect_readonly()

    def stats(self) -> WriterStats:
        """What this process has queued, written, dropped and quarantined."""
        return self._store.stats()

    def doctor(self) -> Diagnosis:
        """Look at the store, its file and its disk, and name what went wrong last.

        `str()` of the result is a report; `last_crash` tells which runner, process, task and attempt, the deepest span
        that was open, the last log record, and how long nothing had been seen of it. Takes milliseconds, and reads the
        whole file if it is smaller than 1 GiB. Raises StoreError if the store cannot be read at all.
        """
        from tilebox_local.doctor import examine

        return examine(self._open_store())

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when all telemetry so far is committed and other processes can read it.

        Raises FlushTimeoutError after `timeout_s` seconds, StoreClosedError after `close()`, and StoreError if it
        cannot be written now.
        """
        self._open_store().flush(timeout_s)

    # -- upkeep -------------------------------------------------------------------------------------------------

    def snapshot(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, progress: Report | None = None
    ) -> Path:
        """Copy the store to a new file while others go on writing to it.

        The copy is complete and consistent: it has everything that was committed before the call, and what this process
        has recorded so far; of later commits, all up to some moment. It is one file of mode 0600 in rollback mode, so
        that it can be read anywhere, also as `immutable`; it appears under its name when it is on the disk for good. A
        Client that opens it goes on from there.

        Writers do not wait for it. As long as it takes, the write-ahead log of this store cannot start over, and grows
        by what is written meanwhile.

        Args:
            path: The new file; its folder must exist.
            overwrite: Whether a file of this name may be replaced; one that is in use as a store never is.
            progress: Is called with a Progress (step, done, total, unit) after every thousand pages, on this thread.
                What it raises ends the work; nothing is left of the copy.

        Returns:
            The full path of the copy.

        Raises:
            ArgumentError: the file exists, or is in use. StoreOpenError: its folder cannot be written.
            StoreFullError: the disk is full; nothing is left of the copy.

        Thread-safe. A Client on ":memory:" is copied, too.
        """
        from tilebox_local.upkeep.snapshot import snapshot_store

        return snapshot_store(self._open_store(), path, overwrite=overwrite, progress=progress)

    def prune(
        self,
        *,
        older_than: timedelta | datetime | None = None,
        keep_last: int | None = None,
        max_bytes: int | None = None,
        dry_run: bool = False,
        progress: Report | None = None,
    ) -> PruneResult:
        """Delete finished jobs, with all that belongs to them, and old telemetry; then make the file smaller.

        A job is finished if it is COMPLETED, or FAILED or CANCELED and none of its tasks runs. It can be neither found
        nor retried from the moment on that its deletion begins. Telemetry of no job goes with its whole trace, unless a
        span of it is open or something was added to it within the last minute. The newest job always stays, and so do
        clusters, runners, resources and other small things that jobs have in common.

        Args:
            older_than: A length of time, or an instant (a naive one is UTC): jobs that ended before it go, and traces
                and log records of no job whose last record is older.
            keep_last: So many of the finished jobs stay, those that ended last. Without `older_than` and `max_bytes`,
                the others go.
            max_bytes: What is oldest goes until the file can be as small as this; of the jobs, at most down to
                `keep_last`.
            dry_run: Delete nothing, but count; `freed_bytes` is estimated.
            progress: Is called with a Progress after every few milliseconds of work, on this thread. What it raises
                ends the work; what is deleted by then is.

        Returns:
            How many jobs and rows were deleted, and how many bytes that freed. The file becomes smaller when no reader
            uses the old part of the write-ahead log any more, in most cases before the call returns.

        Raises:
            ArgumentError: nothing is asked for, or a value is out of range.

        Thread-safe; others may use the store meanwhile, since no transaction takes more than some milliseconds. A prune
        that is interrupted, even killed, has deleted part of a job; the next one completes it. Freed space is not
        overwritten: until it is used again, deleted text may still be found in the file.
        """
        from tilebox_local.upkeep.prune import prune_store

        return prune_store(
            self._open_store(),
            older_than=older_than,
            keep_last=keep_last,
            max_bytes=max_bytes,
            dry_run=dry_run,
            progress=progress,
        )

    def check(self, *, full: bool = False, progress: Report | None = None) -> CheckResult:
        """Look for damage: SQLite's own checks, foreign keys, and the rules that tasks and telemetry obey.

        Args:
            full: Also compare every index with its table and read all telemetry, however long it takes. Otherwise, at
                most about 30 seconds: what is not done by then is in `unfinished`.
            progress: Is called with a Progress before each check and after the last one, on this thread.

        Returns:
            The problems in words, with counts and examples; `ok` if there are none.

        Thread-safe. It only reads; each check sees one state of the store.
        """
        from tilebox_local.upkeep.check import check_store

        return check_store(self._open_store(), full=full, progress=progress)

    def close(self) -> None:
        """Write what is queued and let go of the store. May be repeated.

        After it, this client and the job clients, cluster clients and runners that it gave out raise StoreClosedError.
        Its tracers raise nothing: their spans are stored while another client of this process has the file open, else
        they are dropped and counted in `stats()`.

        Raises FlushTimeoutError if another program keeps the file locked for 10 seconds, and StoreError if the disk
        refuses what is queued, which is lost then. After FlushTimeoutError or Ctrl-C the writer goes on; another
        `close()` waits for it again, and so does the exit of the interpreter.
        """
        self._is_closed = True
        self._store.close(self._use)

    def _open_store(self) -> Store:
        """The store, which other clients may have open, too, while this client is open itself."""
        if self._is_closed:
            raise StoreClosedError(f"This client of {self.path} is closed.", hint="Open a new Client.")
        return self._store

    def _connect_runner(self, runner: Runner, cluster: Cluster | str | None) -> TaskRunner:
        store = self._open_store()
        initialize_logging(store.writer.queue, self._resource)
        found = find_cluster(store, to_cluster_slug(cluster or ""))
        with store.read() as connection:
            number = cluster_no(connection, found.slug)
        executor = TaskExecutor(
            queue=store.writer.queue,
            resource=self._resource,
            tracer=self._tracer,
            task_logger=StructuredLogger(task_logger),
            runner_context=(runner.context or RunnerContext)(self._tracer),
            cache=NoCache() if runner.cache is None else runner.cache,
            cluster_slug=found.slug,
            check_cluster=lambda slug: find_cluster(store, slug),
        )
        return TaskRunner(store, runner, executor, number, self._open_store)
