"""TaskRunner: the loop that claims, executes and reports, one task at a time.

A report and the next claim share one transaction, which also commits the spans, logs, progress and subtasks of the
task. A thread extends the lease of the running task; a task whose lease was lost is reported in vain.
"""

from __future__ import annotations

import contextlib
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from tilebox_local import clock
from tilebox_local.catalog import run, value
from tilebox_local.data import ComputedTask, FailedTask, TaskIdentifier, TaskLease, parse_version
from tilebox_local.engine.crashes import bury, find_remains
from tilebox_local.engine.runners import end_open_spans, open_spans_of_task, register_runner
from tilebox_local.engine.tasks import (
    ClaimedJob,
    ClaimedTask,
    Position,
    claim_task,
    complete_task,
    extend_leases,
    fail_task,
    job_of_task,
    lose_task,
    runnable_identifiers,
)
from tilebox_local.errors import StoreClosedError, StoreError
from tilebox_local.observability._logging import StructuredLogger, internal_logger
from tilebox_local.runner.executor import TaskExecutor, to_task
from tilebox_local.runner.shutdown import GracefulShutdown, RunnerShutdown
from tilebox_local.serialization import prepare_fields
from tilebox_local.storage.attributes import text_of
from tilebox_local.storage.watch import ChangeWatch
from tilebox_local.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import apsw

    from tilebox_local.runner.runner import Runner
    from tilebox_local.storage.store import Store

__all__ = ["LEASE_S", "TaskRunner"]

LEASE_S = 30
_EXTEND_EVERY_S = 5.0
_LOOK_AROUND_EVERY_NS = 1_000_000_000  # for dead runners and new kinds of tasks
_SEEN_EVERY_NS = 1_000_000_000
_IDLE_SEEN_EVERY_NS = 30_000_000_000  # for people only: a runner is alive as long as its process is
_KNOWN_JOBS = 1000

_log = StructuredLogger(internal_logger)


class _Kinds(NamedTuple):
    """The kinds of tasks in the store that a runner can run, as of some transaction."""

    class_count: int  # of the runner
    last_identifier_no: int | None  # of the store
    numbers: tuple[int, ...]
    classes: dict[int, TaskIdentifier]  # under which identifier the runner knows each of them


class _Step(NamedTuple):
    """What a runner's transaction has done."""

    is_accepted: bool
    kinds: _Kinds
    claimed: ClaimedTask | None
    job: ClaimedJob | None


class TaskRunner:
    """Runs the tasks of one cluster. Use from one thread; several runners, also in several processes, share the work.

    Made by `Client.runner` and `Runner.connect_to`.
    """

    def __init__(
        self,
        store: Store,
        runner: Runner,
        executor: TaskExecutor,
        cluster_no: int,
        check_open: Callable[[], object],  # raises StoreClosedError once the client is closed
    ) -> None:
        self._store = store
        self._check_open = check_open
        self._runner = runner
        self._executor = executor
        self._cluster_no = cluster_no
        self._runner_no: int | None = None
        self._kinds = _Kinds(0, None, (), {})
        self._jobs: dict[int, ClaimedJob] = {}
        self._active: ClaimedTask | None = None
        self._looked_around_at = 0
        self._seen_at = 0
        self._hinted: set[str] = set()

    def register(self, task: type[Any]) -> None:
        """Add a task class. Raises TypeError and ArgumentError, see `Runner.register`."""
        self._runner.register(task)

    @property
    def tasks_to_run(self) -> dict[TaskIdentifier, type[Any]]:
        """The registered tasks."""
        return self._runner.tasks_by_identifier

    def run_all(self) -> None:
        """Run tasks until none can be claimed; all of their telemetry is committed on return.

        Tasks that other runners work on may still submit more. SIGINT and SIGTERM end it after the running task.

        Raises:
            StoreClosedError: the client is closed; if that happens meanwhile, at the end of the running task.
        """
        self._run(forever=False)

    def run_forever(self) -> None:
        """Run tasks as they come, until SIGINT or SIGTERM.

        The running task may end within 2 seconds, else it goes back to the queue; then the signal takes its course.

        Raises:
            StoreClosedError: the client is closed; if that happens meanwhile, at the end of the running task.
        """
        self._run(forever=True)

    def _prepare_tasks(self) -> None:
        """Build the input readers, so that the first task's span does not show the time it takes."""
        for task in self._runner.tasks_by_identifier.values():
            if issubclass(task, Task):
                with contextlib.suppress(Exception):  # the task itself fails with it, where it can be seen
                    prepare_fields(task)

    # -- the loop -----------------------------------------------------------------------------------------------

    def _run(self, *, forever: bool) -> None:
        self._check_open()
        self._prepare_tasks()
        # A signal takes its course when the outer block ends, so everything is to be done before.
        with GracefulShutdown(self._give_back) as shutdown:
            with self._registered(), self._lease_kept():
                self._loop(shutdown, forever=forever)
            self._hint_unrunnable()
            self._store.flush()

    def _loop(self, shutdown: GracefulShutdown, *, forever: bool) -> None:
        watch: ChangeWatch | None = None
        try:
            claimed = self._step(None, None, claims=not shutdown.is_stopping)
            while True:
                if claimed is not None:
                    report = self._execute(claimed, shutdown)
                    claimed = self._step(claimed, report, claims=not shutdown.is_stopping and self._is_open())
                    continue
                if shutdown.is_stopping:
                    return
                self._check_open()
                if not forever:
                    return
                if watch is None:
                    watch = ChangeWatch(self._store)
                    shutdown.on_stop(watch.wake)
                claimed = self._wait_for_task(watch, shutdown)
        finally:
            if watch is not None:
                watch.close()

    def _wait_for_task(self, watch: ChangeWatch, shutdown: GracefulShutdown) -> ClaimedTask | None:
        """Wait until there may be something to claim. An idle runner reads; it takes no write lock in vain."""
        while not shutdown.is_stopping:
            self._check_open()
            if self._has_claimable() or self._has_remains():
                claimed = self._step(None, None, claims=True)
                if claimed is not None:
                    return claimed
            watch.wait()
        return None

    def _is_open(self) -> bool:
        try:
            self._check_open()
        except StoreClosedError:
            return False
        return True

    def _has_claimable(self) -> bool:
        with self._store.read() as connection:
            if value(connection, "last_identifier") != self._kinds.last_identifier_no:
                return True  # a new kind of task: look closer
            return any(
                value(connection, "oldest_claimable", (self._cluster_no, identifier)) is not None
                for identifier in self._kinds.numbers
            )

    def _has_remains(self) -> bool:
        """Whether there is something to tidy up after others, if it is time to look."""
        now = clock.monotonic_ns()
        if now - self._looked_around_at < _LOOK_AROUND_EVERY_NS:
            return False
        self._looked_around_at = now
        with self._store.read() as connection:
            return bool(find_remains(connection, own_runners=self._store.running_here, boot_ns=clock.boot_ns()))

    def _execute(self, claimed: ClaimedTask, shutdown: GracefulShutdown) -> ComputedTask | FailedTask:
        identifier = self._kinds.classes[claimed.identifier_no]
        task_class = self._runner.tasks_by_identifier[identifier]
        job = self._jobs[claimed.job_no]
        task = to_task(claimed, job, identifier, TaskLease(LEASE_S, int(_EXTEND_EVERY_S)))
        self._active = claimed
        try:
            report = self._executor.execute(task, task_class, task_no=claimed.task_no, trace_no=job.trace_no)
        except BaseException as error:
            if not self._is_at_work():
                raise
            if shutdown.is_stopping or isinstance(error, KeyboardInterrupt):
                self._give_back()  # it is the runner that was told to end
            else:
                # sys.exit(), say. Who restarts the runner would meet it again and again, so it counts as a crash.
                _log.error("Task %s ended its runner: %r", task_class.__name__, error)
                self._give_up(f"The task ended its runner: {error!r}.")
            raise
        if not self._is_at_work():
            raise StoreError(
                f"Task {task_class.__name__} forked, and this child process came back from its execute().",
                hint="End the child there, with os._exit() after client.flush(), or start it with multiprocessing.",
            )
        if isinstance(report, FailedTask):
            _log.error("Task %s failed!", task_class.__name__, display=report.display)
        return report

    def _is_at_work(self) -> bool:
        """False in a child that a task has forked: the task and its runner are the parent's."""
        return self._runner_no in self._store.running_here

    def _step(
        self, done: ClaimedTask | None, report: ComputedTask | FailedTask | None, *, claims: bool
    ) -> ClaimedTask | None:
        """One transaction: report the task that is done, claim the next one."""
        try:
            return self._report_and_claim(done, report, claims=claims)
        except StoreError:
            raise
        except Exception as error:
            if done is None or report is None:
                raise
            # The report is refused, for a reason that belongs to the task: it fails, and nothing else is reported.
            display = f"{done.display}\n{error!r}" if isinstance(report, ComputedTask) else report.display
            plain = FailedTask(UUID(bytes=done.task_id), text_of(display), True, [])
            return self._report_and_claim(done, plain, claims=claims)

    def _report_and_claim(
        self, done: ClaimedTask | None, report: ComputedTask | FailedTask | None, *, claims: bool
    ) -> ClaimedTask | None:
        """The transaction of `_step`.

        Nothing of it is remembered before the commit: numbers of rows that were rolled back are given out again.
        """
        after = _position_after(done, report)
        now = clock.monotonic_ns()
        looks_around = claims and now - self._looked_around_at >= _LOOK_AROUND_EVERY_NS
        is_seen = now - self._seen_at >= _SEEN_EVERY_NS
        # What others submit may wait until the runner looks around, but not what its own task has just submitted.
        looks_for_kinds = looks_around or done is None or _has_submitted(report) or self._has_new_classes()

        def step(connection: apsw.Connection) -> _Step:
            is_accepted = done is None or report is None or _apply(connection, done, report)
            kinds, claimed, job = self._kinds, None, None
            if claims:
                if looks_around:
                    self._give_up_lost(connection)
                if looks_for_kinds:
                    kinds = self._find_kinds(connection)
                claimed = self._claim(connection, kinds, after)
                if claimed is None and not looks_around:  # before it counts as idle
                    self._give_up_lost(connection)
                    kinds = self._find_kinds(connection)
                    claimed = self._claim(connection, kinds, after)
                if claimed is not None:
                    job = self._jobs.get(claimed.job_no) or job_of_task(connection, claimed.job_no)
            if is_seen:
                run(connection, "runner_seen", (clock.wall_ns(), self._runner_no))
            return _Step(is_accepted, kinds, claimed, job)

        step_done = self._store.transact(step)
        claimed = self._active = step_done.claimed
        self._kinds = step_done.kinds
        if claimed is not None and step_done.job is not None and claimed.job_no not in self._jobs:
            if len(self._jobs) >= _KNOWN_JOBS:
                self._jobs.clear()
            self._jobs[claimed.job_no] = step_done.job
        if looks_around or (claims and claimed is None):
            self._looked_around_at = now
        if is_seen:
            self._seen_at = now
        if not step_done.is_accepted and done is not None:
            _log.warning("The lease of task %s was lost; its result is discarded.", done.display)
        return claimed

    def _claim(self, connection: apsw.Connection, kinds: _Kinds, after: Position | None) -> ClaimedTask | None:
        return claim_task(
            connection,
            cluster_no=self._cluster_no,
            identifiers=kinds.numbers,
            runner_no=self._runner_no,
            after=after,
            now_ns=clock.wall_ns(),
            lease_expires_boot_ns=clock.boot_ns() + LEASE_S * 1_000_000_000,
        )

    def _has_new_classes(self) -> bool:
        return len(self._runner.tasks_by_identifier) != self._kinds.class_count

    def _find_kinds(self, connection: apsw.Connection) -> _Kinds:
        """What this runner can run of what the store knows by now."""
        last = value(connection, "last_identifier")
        if last == self._kinds.last_identifier_no and not self._has_new_classes():
            return self._kinds
        classes = list(self._runner.tasks_by_identifier)
        registered = [(identifier.name, *parse_version(identifier.version)) for identifier in classes]
        names: dict[int, TaskIdentifier] = {}
        for number in runnable_identifiers(connection, registered):
            name, major, minor = run(connection, "identifier", (number,))[0]
            identifier = self._runner.identifier_for(name, major, minor)
            assert identifier is not None  # noqa: S101 -- runnable_identifiers uses the same rule
            names[number] = identifier
        return _Kinds(len(classes), last, tuple(names), names)

    def _give_up_lost(self, connection: apsw.Connection) -> None:
        remains = find_remains(connection, own_runners=self._store.running_here, boot_ns=clock.boot_ns())
        bury(connection, remains, now_ns=clock.wall_ns())

    def _give_back(self) -> None:
        """Queue the running task again; it counts neither as a retry nor as a crash."""
        error = RunnerShutdown("Task was interrupted")

        def give_back(connection: apsw.Connection, active: ClaimedTask, now_ns: int) -> bool:
            return fail_task(
                connection,
                task_no=active.task_no,
                attempt=active.attempt,
                display=f"{active.display}\n{error!r}",
                was_workflow_error=False,
                progress=None,
                now_ns=now_ns,
            )

        self._abandon(give_back, "The runner was told to stop.")

    def _give_up(self, reason: str) -> None:
        """Queue the running task again, or fail it for good, as if its runner had died."""

        def give_up(connection: apsw.Connection, active: ClaimedTask, now_ns: int) -> bool:
            return lose_task(connection, task_no=active.task_no, attempt=active.attempt, reason=reason, now_ns=now_ns)

        self._abandon(give_up, reason)

    def _abandon(self, report: Callable[[apsw.Connection, ClaimedTask, int], bool], reason: str) -> None:
        """Report on the running task, if there is one, in the middle of its execution, and end its open spans."""
        active, self._active = self._active, None
        if active is None:
            return
        writer = self._store.writer

        def abandon(connection: apsw.Connection) -> None:
            now_ns = max(clock.wall_ns(), active.started_ns)
            if not report(connection, active, now_ns):
                return  # the open spans are those of whoever has the task now
            for span in list(writer.queue.open_spans):
                if span.task_no == active.task_no:
                    writer.write_span(connection, span)
            end_open_spans(connection, open_spans_of_task(connection, active.task_no), end_ns=now_ns, reason=reason)

        self._store.transact(abandon)

    # -- around the loop ------------------------------------------------------------------------------------------

    @contextmanager
    def _registered(self) -> Iterator[None]:
        """This runner has a row inside the block, and is marked as stopped after it."""
        resource = self._executor.resource

        def register(connection: apsw.Connection) -> int:
            writer = self._store.writer
            return register_runner(
                connection,
                resource_no=writer.number_resource(connection, resource),
                cluster_no=self._cluster_no,
                writer_no=writer.number_writer(connection),
                now_ns=clock.wall_ns(),
            )

        runner_no = self._runner_no = self._store.transact(register)
        self._store.running_here.add(runner_no)
        try:
            yield
        finally:
            if self._is_at_work():
                self._store.running_here.discard(runner_no)
                with contextlib.suppress(StoreError):  # whatever ended the loop is the error to show
                    self._store.transact(
                        lambda connection: run(
                            connection, "runner_stopped", {"now_ns": clock.wall_ns(), "runner_no": runner_no}
                        )
                    )

    @contextmanager
    def _lease_kept(self) -> Iterator[None]:
        """A thread extends the lease of the running task inside the block, and tells that the runner is there."""
        done = threading.Event()

        def keep() -> None:
            while not done.wait(_EXTEND_EVERY_S):
                active = self._active
                if active is not None or clock.monotonic_ns() - self._seen_at >= _IDLE_SEEN_EVERY_NS:
                    with contextlib.suppress(StoreError):  # tried again long before the lease runs out
                        self._extend(active)

        thread = threading.Thread(target=keep, name="tilebox-local-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _extend(self, active: ClaimedTask | None) -> None:
        now = clock.monotonic_ns()

        def extend(connection: apsw.Connection) -> None:
            if active is not None:
                expires = clock.boot_ns() + LEASE_S * 1_000_000_000
                extend_leases(connection, [(active.task_no, active.attempt)], expires)
            run(connection, "runner_seen", (clock.wall_ns(), self._runner_no))

        self._store.transact(extend)
        self._seen_at = now

    def _hint_unrunnable(self) -> None:
        """Say so, once each, if tasks wait that this runner has no class for."""
        with self._store.read() as connection:
            waiting = run(connection, "unrunnable_tasks", (self._cluster_no,))
        for name, major, minor in waiting:
            shown = f"{name} v{major}.{minor}"
            if shown not in self._hinted and self._runner.identifier_for(name, major, minor) is None:
                self._hinted.add(shown)
                self._executor.task_logger.warning(
                    "Tasks %s are queued in cluster %r, but this runner has no class for them. Register one with this "
                    "name, the same major and at least this minor version.",
                    shown,
                    self._executor.cluster_slug,
                )


def _position_after(done: ClaimedTask | None, report: ComputedTask | FailedTask | None) -> Position | None:
    """Look below the task that is done if it has submitted anything, else beside it."""
    if done is None:
        return None
    return Position(done.job_no, done.task_no if _has_submitted(report) else done.parent_no)


def _has_submitted(report: ComputedTask | FailedTask | None) -> bool:
    return isinstance(report, ComputedTask) and report.sub_tasks is not None


def _apply(connection: apsw.Connection, done: ClaimedTask, report: ComputedTask | FailedTask) -> bool:
    now_ns = max(clock.wall_ns(), done.started_ns)
    if isinstance(report, ComputedTask):
        return complete_task(
            connection,
            task_no=done.task_no,
            attempt=done.attempt,
            display=report.display,
            submissions=report.sub_tasks,
            progress=report.progress_updates,
            now_ns=now_ns,
        )
    return fail_task(
        connection,
        task_no=done.task_no,
        attempt=done.attempt,
        display=report.display,
        was_workflow_error=report.was_workflow_error,
        progress=report.progress_updates,
        now_ns=now_ns,
    )
