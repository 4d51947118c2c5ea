"""Client: the entry to everything, on one store."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, Literal, Self

from tilebox_local.cache import NoCache
from tilebox_local.clusters.client import ClusterClient, to_cluster_slug
from tilebox_local.data import RunnerContext
from tilebox_local.engine.clusters import cluster_no
from tilebox_local.engine.crashes import tidy_up
from tilebox_local.errors import ArgumentError, StoreClosedError
from tilebox_local.jobs.client import JobClient
from tilebox_local.observability._logging import StructuredLogger, task_logger
from tilebox_local.observability.logging import initialize_logging
from tilebox_local.observability.tracing import LocalTracerProvider, WorkflowTracer
from tilebox_local.query.jobs import find_cluster
from tilebox_local.runner.executor import TaskExecutor
from tilebox_local.runner.runner import Runner
from tilebox_local.runner.task_runner import TaskRunner
from tilebox_local.storage.store import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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
        self._store = open_store(chosen, full_sync=durability == "full")
        tidy_up(self._store)
        self._resource = self._store.resource(name)
        self._tracer = WorkflowTracer(self._store.writer.queue, self._resource)
        self._is_closed = False

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

    def close(self) -> None:
        """Write what is queued and let go of the store. Idempotent.

        After it, this client and the job clients, cluster clients and runners that it gave out raise StoreClosedError.
        Its tracers raise nothing: their spans are stored while another client of this process has the file open, else
        they are dropped and counted in `stats()`.
        """
        if not self._is_closed:
            self._is_closed = True
            self._store.close()

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
