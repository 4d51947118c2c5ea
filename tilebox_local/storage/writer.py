"""The one writer of a process and store: a thread that owns the write connection.

Two verbs, two promises. `queue.append_*` takes telemetry and returns at once; it is durable after a later commit, and
may be dropped, and counted, if the store cannot keep up. `transact` runs a function inside the next transaction and
returns after the commit; it is never dropped. A transaction first writes all telemetry that was appended before, so a
task's spans and logs commit together with its change of state.

Who appends, and what happens when that is too much, is in `queue.py`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from tilebox_local import clock
from tilebox_local.catalog import run, value
from tilebox_local.errors import ArgumentError, FlushTimeoutError, StoreClosedError, StoreError, StoreReplacedError
from tilebox_local.storage.batch import STORE_ERRORS, Batch
from tilebox_local.storage.bookkeeping import Bookkeeping, WriterStats
from tilebox_local.storage.connection import (
    close_quietly,
    is_full_sync,
    keep_log_at_close,
    set_synchronous,
    translate_error,
)
from tilebox_local.storage.queue import BATCH_LIMIT, TelemetryQueue, take
from tilebox_local.storage.schema import check_version
from tilebox_local.storage.threads import BackgroundThread, Completion

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilebox_local.observability.span import RecordingSpan
    from tilebox_local.storage.checkpointer import Checkpointer
    from tilebox_local.storage.file import StoreFile
    from tilebox_local.storage.lockfile import LockFile
    from tilebox_local.storage.rows import Reference

__all__ = ["Writer"]

T = TypeVar("T")

_TICK_S = 0.05
_IDLE_TIMEOUT_S = 30.0
_EMPTY_LOG_AFTER_S = 2.0
_SYNC_INTERVAL_NS = 1_000_000_000
_PATIENCE_S = 5.0
_RETRY_S = (0.05, 0.1, 0.25, 0.5, 1.0)

_log = logging.getLogger("tilebox.workflows.internal")


class _Command(Completion):
    """A function to run inside a transaction, which another thread waits for."""

    __slots__ = ("error", "function", "is_submitted", "result")

    def __init__(self, function: Callable[[apsw.Connection], Any]) -> None:
        super().__init__()
        self.function = function
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_submitted = False


class _Pause:
    """Between the request of a fork that the writer lets go of the file, and the end of the fork."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()  # which forks
        self.begin = Completion()
        self.end = Completion()


class _CommandError(Exception):
    """The only command of a transaction failed, for this reason."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(reason)
        self.reason = reason


class Writer:
    """Batches telemetry and runs transactions on one connection, in one thread. Thread-safe.

    Args:
        connect: Opens the write connection; called on the writer thread after a fork, else the given one is used.
        path: Name of the store in error messages.
        lock: The turnstile between processes.
        full_sync: Wait for the disk at every commit; otherwise at least once a second.
        file: What the path leads to; None for in-memory stores, which have no disk to wait for.
        on_slow: Called, in the thread that waits, when a transaction has not been possible for some seconds.
        checkpointer: Attached to each connection; empties the log when there is nothing else to do.
    """

    def __init__(
        self,
        connect: Callable[[], apsw.Connection],
        *,
        path: str,
        lock: LockFile,
        full_sync: bool,
        file: StoreFile | None,
        on_slow: Callable[[], None],
        checkpointer: Checkpointer,
    ) -> None:
        self._connect = connect
        self._path = path
        self._lock = lock
        self._full_sync = full_sync
        self._file = file
        self._on_slow = on_slow
        self._checkpointer = checkpointer
        self.queue = TelemetryQueue(self._wake)
        self._books = Bookkeeping(self.queue, lock)
        self._closed = False
        self.on_commit: list[Callable[[], None]] = []
        self._reset()

    def _reset(self) -> None:
        self._commands: deque[_Command] = deque()
        self._wakeups: SimpleQueue[None] = SimpleQueue()
        # Reentrant: Python may collect garbage inside of it, and whatever is collected may make spans.
        self._start_lock = threading.RLock()
        self._is_start_held = False
        self._thread: BackgroundThread | None = None
        self._connection: apsw.Connection | None = None
        self._batch = Batch()
        self._books.reset()
        self._log_count = 0
        self._stopping = False
        self._synced_at = 0
        self._unsynced = False
        self._is_connection_full = self._full_sync
        self._failures = 0
        self._commit_no = 0  # of the last commit of this connection, and what SQLite called the file's content then
        self._data_version: int | None = None
        self._lingers = False
        self._is_writing = False  # between taking records from the queues and the end of their transaction
        self._has_ended = False  # nothing more is taken from the queues
        self._is_done = False  # the thread does nothing more
        self._pause: _Pause | None = None  # requested by a fork

    # -- any thread ---------------------------------------------------------------------------------------------

    def transact(self, function: Callable[[apsw.Connection], T]) -> T:
        """Run `function(connection)` in a transaction after all telemetry appended so far; return after the commit.

        If `function` raises, its changes are undone and the exception is raised here; other transactions and
        telemetry of the same batch commit nevertheless. May run together with functions of other threads.

        Raises:
            StoreClosedError: the store is closed.
            StoreError: the commit failed, or there is none, since a signal handler has interrupted a fork; nothing of
                `function` was stored.
            ArgumentError: `function` asked for what the database refuses, such as a value that a constraint forbids.
        """
        if threading.current_thread() is self._thread:
            return function(self._require_connection())  # a transaction inside of a transaction joins it
        command = _Command(function)
        try:
            self._submit(command)
            self._wait_for(command)
        except BaseException:  # Ctrl-C: what has not begun does not happen, what has begun is waited for
            if not self._take_back(command) and command.is_submitted:
                command.wait()
            raise
        if command.error is not None:
            raise command.error
        return command.result  # type: ignore[no-any-return]

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when everything appended before is committed.

        Raises:
            FlushTimeoutError: it took longer than `timeout_s` seconds, or would, since a signal handler has interrupted
                a fork; the records stay queued.
            StoreError: the records cannot be written now; they stay queued.
        """
        if self.queue.refusal is not None:
            raise self.queue.refusal
        if not self.has_work():
            return
        self._refuse_to_wait()
        command = _Command(_nothing)
        self._submit(command)
        if not self._wait_for(command, timeout_s):
            pending = self._pending()
            raise FlushTimeoutError(f"{pending} records are still queued after {timeout_s} s.", pending=pending)
        if command.error is not None:
            raise command.error

    def _is_forking_here(self) -> bool:
        """Whether a fork is under way in this thread: this is a signal handler, and the file is used after the fork."""
        pause = self._pause
        return pause is not None and pause.thread == threading.get_ident()

    def _refuse_to_wait(self) -> None:
        if self._is_forking_here():
            pending = self._pending()
            message = f"{self._path}: {pending} records wait for the end of the fork that this handler has interrupted."
            raise FlushTimeoutError(message, pending=pending)

    def _wait_for(self, command: _Command, timeout_s: float | None = None) -> bool:
        """Wait until a command is done; whether it is. Says why, after a while."""
        patience_s = _PATIENCE_S if timeout_s is None else min(_PATIENCE_S, timeout_s)
        if command.wait(patience_s):
            return True
        if timeout_s is not None and timeout_s <= patience_s:
            return False
        self._on_slow()
        return command.wait(None if timeout_s is None else timeout_s - patience_s)

    def has_work(self) -> bool:
        """Whether anything was appended that is not committed yet."""
        return bool(self._is_writing or self.queue or self._commands or self._batch)

    def stop(self) -> None:
        """Have the thread write what is queued, then close the connection and end. Idempotent.

        What other threads append meanwhile is dropped.
        """
        self._closed = True
        self.queue.close()
        self._stopping = True
        if not (self._has_ended or self._is_forking_here()):
            try:
                self._start()  # if there was nothing to write; Ctrl-C must not hit the end of the file's use
            except RuntimeError:  # no thread to be had, as when the interpreter is shutting down
                self._run()
        self._wakeups.put(None)

    def close(self, timeout_s: float = 10.0) -> None:
        """`stop`, and wait for the end. Idempotent.

        Raises:
            FlushTimeoutError: it takes longer than `timeout_s` seconds, or would, as in `flush`.
            StoreError: the disk refuses what is queued; it is lost.
        """
        self.stop()
        self._refuse_to_wait()
        thread = self._thread
        if thread is not None and not thread.wait_for_end(timeout_s):
            pending = self._pending()
            message = f"{self._path}: {pending} records are not written yet; the writer goes on trying."
            raise FlushTimeoutError(message, pending=pending)
        if self._batch:
            message = (
                f"{self._path}: {len(self._batch)} records are lost, they could not be written: "
                f"{self._books.last_error}."
            )
            raise StoreError(message) from self._books.last_error

    def _pending(self) -> int:
        return len(self.queue) + len(self._batch)

    def stats(self) -> WriterStats:
        """Counts since the process opened the store."""
        return self._books.stats(self._batch)

    @property
    def last_error(self) -> BaseException | None:
        """Why the last transaction failed; None if it did not."""
        return self._books.last_error

    def adopt(self, connection: apsw.Connection) -> None:
        """Use this connection, which the opener of the store has checked."""
        self._connection = connection

    def require_full_sync(self) -> None:
        """From now on, wait for the disk at every commit."""

        def apply(connection: apsw.Connection) -> None:  # noqa: ARG001 -- takes effect with the next transaction
            self._full_sync = True

        if not self._full_sync and self._file is not None:
            self.transact(apply)

    def before_fork(self) -> bool:
        """Finish the transaction under way and close the connection, until `after_fork_in_parent`.

        SQLite notes in the memory of the process which locks it holds; a child that inherited such notes would go on
        without locks of its own. False if it is still open: inside of a transaction there is no letting go, and after
        some seconds it gives up, if another process keeps the lock that we wait for.
        """
        if threading.current_thread() is self._thread:
            return False
        self._start_lock.acquire()
        self._give_up_start()
        pause = self._pause = _Pause()
        if self._thread is None or self._is_done:
            self._let_go()
            self._is_start_held = True  # until after the fork: a thread that starts would open the file again
            return True
        self._start_lock.release()
        self._wakeups.put(None)
        return self._is_done or pause.begin.wait(_PATIENCE_S)  # it may have been past its last look

    def after_fork_in_parent(self) -> None:
        """Go on; the connection is opened again when it is needed."""
        pause, self._pause = self._pause, None
        if pause is not None:
            pause.end.finish()
        if self._is_start_held:
            self._is_start_held = False
            self._start_lock.release()
        if not self._has_ended and (self.has_work() or self._stopping):  # what a signal handler has left
            with contextlib.suppress(RuntimeError):
                self._start()

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._file is not None:
                self._file.detach()
            keep_log_at_close(connection, True)  # others may not have it open, but we will again
            close_quietly(connection)

    def after_fork_in_child(self, refusal: StoreError | None = None) -> None:
        """Start afresh: the queue, the thread and the connection belong to the parent.

        With `refusal`, which every use from now on raises, there is no start: telemetry is dropped and counted. A
        writer that was closed stays so.
        """
        # Closing an inherited connection would drop the parent's locks and checkpoint its file: leak it.
        _leaked_connections.append(self._connection)
        self._reset()
        self.queue.after_fork_in_child()
        if refusal is not None or self._closed:
            self.refuse(refusal)

    def refuse(self, refusal: StoreError | None) -> None:
        """Never start: every use raises `refusal` (None: that it is closed), telemetry is dropped and counted."""
        self._closed = self._has_ended = self._is_done = True
        self.queue.close(refusal)
        self.queue.end()

    def _submit(self, command: _Command) -> None:
        if self._closed:
            raise self._closed_error()
        if self._is_forking_here():
            raise StoreError(
                f"{self._path} cannot be written now: this signal handler has interrupted a fork.",
                hint="Record spans and logs instead: they are stored after the fork.",
            )
        self._commands.append(command)
        command.is_submitted = True
        if self._has_ended and self._take_back(command):  # it came after the last look
            raise self._closed_error()
        try:
            self._wake()
        except RuntimeError as error:
            if self._take_back(command):
                raise StoreError(f"{self._path} cannot be written now: {error}.") from error

    def _take_back(self, command: _Command) -> bool:
        """Whether a command had not begun; then it will not."""
        try:
            self._commands.remove(command)
        except ValueError:
            return False
        command.is_submitted = False
        return True

    def _closed_error(self) -> StoreError:
        if self.queue.refusal is not None:
            return self.queue.refusal
        return StoreClosedError(f"{self._path} is closed.", hint="Open a new Client.")

    def _wake(self) -> None:
        if self._is_forking_here():
            return  # after the fork there is another look
        if not self._closed:
            self._start()
        self.queue.idle = False  # not before there is a thread, or nobody would try to start it again
        self._wakeups.put(None)

    def _start(self) -> None:
        while (current := self._thread) is None or not current.is_decided:
            thread = BackgroundThread(self._run, "tilebox-local-writer")
            with self._start_lock:
                self._give_up_start()
                # First the name, then the start: the thread asks at once whether it is the writer.
                self._thread = self._thread or thread
                if self._thread is thread:
                    try:
                        thread.start()
                    except BaseException:
                        if thread.give_up():
                            self._thread = None
                        raise

    def _give_up_start(self) -> None:
        """Take the place of the code that this signal handler has interrupted while it starts the thread."""
        if self._thread is not None and not self._thread.is_decided and self._thread.give_up():
            self._thread = None

    # -- writer thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Write until told to stop; then once more, and as often again as the disk may be given a chance."""
        while True:
            self._wait()
            pause = self._pause
            if pause is not None:
                self._let_go()
                pause.begin.finish()
                pause.end.wait()
            is_last = self._stopping
            try:
                self._write()
            except BaseException as error:  # noqa: BLE001 -- the thread must live; the batch is kept and tried again
                with contextlib.suppress(BaseException):
                    self._fail(error)
                if not is_last or self._failures < len(_RETRY_S):
                    continue
            if is_last:
                break
        try:
            self._finish()
        finally:
            self._is_done = True
            pause = self._pause
            if pause is not None:
                pause.begin.finish()

    def _wait(self) -> None:
        """Sleep until there is something to do: a command, queued records, a span to show as open, a sync."""
        if self._failures:
            delay = _RETRY_S[min(self._failures, len(_RETRY_S)) - 1]
            self._get_wakeup(delay)
            return
        if self._commands or self.queue.has_batch() or self._stopping:
            self._drain_wakeups()
            return
        if self.queue or self.queue.has_unwritten_open_span():
            self._get_wakeup(_TICK_S)
            return
        if self._lingers:
            # What comes soon after a transaction is not worth waking up for: a task that begins, then ends.
            self._lingers = False
            self._get_wakeup(_TICK_S)
            return
        self.queue.idle = True
        if not (self._commands or self.queue or self.queue.has_unwritten_open_span() or self._stopping):
            if self._unsynced:
                self._get_wakeup(self._until_sync_s())
            elif not self._checkpointer.has_log():
                self._get_wakeup(_IDLE_TIMEOUT_S)
            elif not self._get_wakeup(_EMPTY_LOG_AFTER_S):
                self._empty_log()
        self.queue.idle = False

    def _until_sync_s(self) -> float:
        """What is left of the second that a power cut may cost: it begins with the last commit that waited."""
        return max(0, self._synced_at + _SYNC_INTERVAL_NS - clock.monotonic_ns()) / 1e9

    def _get_wakeup(self, timeout_s: float) -> bool:
        """Wait to be woken up; whether somebody did."""
        try:
            self._wakeups.get(timeout=timeout_s)
        except Empty:
            return False
        self._drain_wakeups()
        return True

    def _empty_log(self) -> None:
        """For readers who have nothing but the file itself, and for the space."""
        if self._connection is not None:
            with self._lock.held_if_free() as is_free:
                if is_free:
                    self._checkpointer.empty(self._connection)

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._wakeups.get_nowait()

    def _write(self) -> None:
        """One transaction: queued telemetry, then the waiting commands."""
        self._is_writing = True
        try:
            self._write_batch()
        finally:
            self._is_writing = False

    def _write_batch(self) -> None:
        if self.queue.refusal is not None:
            return  # the file has gone
        commands = take(self._commands, len(self._commands))
        batch = self._batch
        # Everything appended before a command commits with it; without one, batches stay small. While the disk refuses,
        # what has been taken must not grow: memory is bounded by the queue and one batch.
        limit = None if commands or self._stopping else BATCH_LIMIT
        if self._failures:
            limit = max(0, self.queue.limit - len(batch))
        self.queue.move_to(batch, limit)
        postponed: list[_Command] = []
        if self._failures and self.queue:
            commands, postponed = [], commands
        now = clock.monotonic_ns()
        batch.open_spans = self.queue.old_open_spans(now)
        is_sync_due = self._unsynced and now - self._synced_at >= _SYNC_INTERVAL_NS
        if batch:
            self._books.taken(now)
        if not (batch or commands or batch.open_spans or is_sync_due):
            return
        try:
            with self._lock.held(is_urgent=bool(commands)):
                self._transaction(commands, now)
                if self._failures:
                    self._lock.reserve()  # an opener on a full disk may have used it up
        except StoreReplacedError as error:
            self._abandon(error, commands + postponed)
            return
        except BaseException as error:
            if isinstance(error, apsw.BusyError) and not self._stopping:
                # Somebody else's write lock: nobody's fault here, and worth waiting for.
                self._commands.extendleft(reversed(commands + postponed))
                raise
            failure = translate_error(error, self._path) if isinstance(error, apsw.Error) else error
            for command in commands + postponed:
                command.error = failure
                command.finish()
            raise
        batch.commit()
        self._lingers = True
        self._books.commit(clock.monotonic_ns())
        self.queue.is_shedding = False
        self._failures = 0
        for command in commands:
            command.finish()
        self._commands.extendleft(reversed(postponed))
        for notify in list(self.on_commit):
            with contextlib.suppress(BaseException):  # whoever listens must not stop the writer
                notify()

    def _transaction(self, commands: list[_Command], now: int, *, is_last: bool = False) -> None:
        connection = self._require_connection()
        is_durable = self._file is not None
        is_full = self._full_sync or (is_durable and (is_last or now - self._synced_at >= _SYNC_INTERVAL_NS))
        if is_full != self._is_connection_full:
            set_synchronous(connection, full=is_full)
            self._is_connection_full = is_full
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Unless somebody else has written since our last commit, the file is as we know it.
            is_ours = connection.data_version() == self._data_version
            if not is_ours:
                check_version(connection, self._path)
            self._write_telemetry(connection)
            if len(commands) == 1:
                self._run_only_command(connection, commands[0])
            else:
                for command in commands:
                    self._run_command(connection, command)
            self._books.write(connection, self._batch, now, is_last=is_last)
            run(connection, "count_commit")
            commit_no = self._commit_no + 1 if is_ours else value(connection, "commit_no")
            connection.execute("COMMIT")
        except _CommandError as error:
            self._batch.rollback()
            self._roll_back(connection)
            commands[0].error = error.reason
            self._transaction([], now, is_last=is_last)
            return
        except BaseException:
            self._batch.rollback()
            self._roll_back(connection)
            raise
        self._commit_no, self._data_version = commit_no, connection.data_version()
        if is_full:
            self._synced_at = now
        self._unsynced = is_durable and not is_full
        if self._file is not None:
            self._file.verify()  # before anybody is told
            self._file.note_commit(commit_no)

    def _abandon(self, error: StoreReplacedError, commands: list[_Command]) -> None:
        """The file has gone: save what it held, what is queued included, and write nothing more.

        The connection is not closed: that would copy the log of a file that is gone over one that is not.
        """
        connection = self._connection
        if connection is None:  # it was noticed before the file was opened again
            rescued = error
        else:
            with contextlib.suppress(BaseException), self._lock.held():
                self.queue.move_to(self._batch, None)
                with contextlib.suppress(StoreReplacedError):
                    self._transaction([], clock.monotonic_ns())
                self._batch.commit()
            assert self._file is not None  # noqa: S101 -- who else has raised the error
            rescued = self._file.rescue(connection, error)
        _leak(connection)
        self._connection = None
        self._closed = True
        self.queue.close(rescued)
        self.queue.dropped_count += self._batch.drop()  # what has not been rescued
        self._stopping = True
        _log.error("%s", rescued)
        for command in commands:
            command.error = rescued
            command.finish()

    def _roll_back(self, connection: apsw.Connection) -> None:
        """End a failed transaction. If not even that works, as without memory, closing the connection does it."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except BaseException:  # noqa: BLE001 -- what made the transaction fail is the error to show
            self._connection = None  # opened again when it is needed
            if self._file is not None:
                self._file.detach()
            connection.close(True)

    def _write_telemetry(self, connection: apsw.Connection) -> None:
        batch = self._batch
        if not (batch or batch.open_spans):
            return
        writer_no = batch.number_writer(connection)
        for log in batch.logs:
            if log.log_no is None:
                self._log_count += 1
                log.log_no = (writer_no << 40) + self._log_count
        batch.insert(connection)

    def number_resource(self, connection: apsw.Connection, resource: Reference) -> int:
        """Row number of a resource, inserted if it is new. Inside of a transaction only."""
        return self._batch.number_resource(connection, resource)

    def number_writer(self, connection: apsw.Connection) -> int:
        """Row number of this process in writer_records, inserted if it is new. Inside of a transaction only."""
        return self._batch.number_writer(connection)

    def write_span(self, connection: apsw.Connection, span: RecordingSpan) -> None:
        """Write a span, as it is now, so that it commits with the transaction. Inside of a transaction only."""
        self._batch.number_writer(connection)
        self._batch.insert_spans(connection, [span])

    def _fail(self, error: BaseException) -> None:
        self._failures += 1
        self._books.fail(error)
        self.queue.fail(is_full=self._pending() > self.queue.limit)
        if self._failures in (1, 100):
            _log.error("The store %s cannot be written: %s. Telemetry is kept and tried again.", self._path, error)

    def _run_command(self, connection: apsw.Connection, command: _Command) -> None:
        """Run one command in a savepoint: if it fails, only its own changes are undone."""
        command.error = None  # of an earlier try
        savepoint = self._batch.savepoint()
        connection.execute("SAVEPOINT command")
        try:
            command.result = command.function(connection)
        except STORE_ERRORS:
            raise  # the whole transaction has to go
        except BaseException as error:  # noqa: BLE001 -- raised again in the thread that waits
            connection.execute("ROLLBACK TO command")
            self._batch.rollback_to(savepoint)
            command.error = self._command_error(error)
        connection.execute("RELEASE command")

    def _run_only_command(self, connection: apsw.Connection, command: _Command) -> None:
        """Run it without a savepoint, which most commands need not: if it fails, the transaction is done again.

        Raises _CommandError.
        """
        command.error = None
        try:
            command.result = command.function(connection)
        except STORE_ERRORS:
            raise
        except BaseException as error:
            raise _CommandError(self._command_error(error)) from error

    def _command_error(self, error: BaseException) -> BaseException:
        if not isinstance(error, apsw.Error):
            return error
        # Not of the store: what the function asked for cannot be stored.
        translated = translate_error(error, self._path, otherwise=ArgumentError)
        translated.__cause__ = error
        return translated

    def _finish(self) -> None:
        self._has_ended = True
        commands = take(self._commands, len(self._commands))
        for command in commands:
            command.error = self._closed_error()
            command.finish()
        self.queue.end()
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._connection = connection
        try:
            if self._file is not None and (self._unsynced or self._batch.writer_no is not None):
                with self._lock.held():
                    self._transaction([], clock.monotonic_ns(), is_last=True)
        except StoreReplacedError as error:  # nothing is lost with it that was not lost before
            _log.error("%s", error)
            _leak(connection)
            return
        except apsw.Error as error:
            _log.error("The store %s could not be synced: %s", self._path, error)
        finally:
            self._connection = None
        close_quietly(connection)

    def _require_connection(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = self._connect()
            self._data_version = None
            self._is_connection_full = is_full_sync(self._connection)
        return self._connection


_leaked_connections: list[apsw.Connection | None] = []


def _leak(connection: apsw.Connection | None) -> None:
    """Never close a connection whose file or log has gone.

    The end of the interpreter closes it nevertheless. If nobody else has the file open then, SQLite would copy the log
    that is gone over what others have committed since, and delete theirs.
    """
    if connection is not None:
        keep_log_at_close(connection, True)
    _leaked_connections.append(connection)


def _nothing(connection: apsw.Connection) -> None:
    """A transaction of its own for flush()."""
