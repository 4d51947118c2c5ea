"""Checkpoints: move pages from the write-ahead log into the file, mostly beside the writer and not in its way.

A checkpoint waits for the disk twice. Done by a committing writer, as SQLite does it, that takes 20 to 30 ms every few
hundred transactions. So a thread copies in the background what has been committed, and the writer only finishes the
rest, which must be done by a committer: only when nothing is left to copy does the log start over.

A reader that stays in one transaction keeps the log from starting over, for as long as it likes; nothing bounds the log
meanwhile. So a log that has grown large is told about, with who reads, and started over between readers that overlap;
one that has grown very large interrupts the readers of this process. A log that nobody writes to any more is emptied.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import apsw

from tilebox_local import clock
from tilebox_local.storage.connection import close_quietly, impatient
from tilebox_local.storage.threads import BackgroundThread, call_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from tilebox_local.storage.lockfile import LockFile

    class Connect(Protocol):
        """Opens a connection of a file, which waits so long for readers."""

        def __call__(self, *, timeout_s: float = ...) -> apsw.Connection: ...


__all__ = ["Checkpointer"]

_BACKGROUND_PAGES = 1000
_COMMITTER_PAGES = 4000
_OVERDUE_PAGES = 8000
_PATIENCE_S = 1.0  # a fork holds the lock, too, and waits for the committer
_LARGE_PAGES = 16_384  # 64 MiB
_HUGE_PAGES = 262_144  # 1 GiB
_RESTART_EVERY_NS = 5_000_000_000
_RESTART_PATIENCE_S = 0.1  # writers wait as long
_WARN_EVERY_NS = 60_000_000_000
_PAGE_BYTES = 4096

_log = logging.getLogger("tilebox.workflows.internal")


class Checkpointer:
    """Checkpoint policy of one writer. `attach` it to each write connection; the rest happens by itself.

    Args:
        connect: Opens a connection of the same file, for the background thread and for `truncate`.
        name_readers: Names who is in the middle of reading, for messages.
        interrupt_readers: Ends what this process is reading, with an error for whoever reads.
    """

    def __init__(
        self, connect: Connect, name_readers: Callable[[], str], interrupt_readers: Callable[[], None]
    ) -> None:
        self._connect = connect
        self._name_readers = name_readers
        self._interrupt_readers = interrupt_readers
        self._reset()

    def _reset(self) -> None:
        self._due: SimpleQueue[None] = SimpleQueue()  # an Event does not survive a handler that interrupts its set()
        self._thread: BackgroundThread | None = None
        self._is_closed = False
        self._connection: apsw.Connection | None = None
        self._lock = threading.Lock()  # held during a checkpoint, and from before a fork until after it
        self._forking_thread: int | None = None
        self._requested_at = 0  # pages in the log when the background thread was last asked
        self._pages = 0  # in the log after the last commit of this process
        self._restarted_at = 0
        self._warned_at = 0

    def attach(self, connection: apsw.Connection) -> None:
        """Take over the checkpoints of a write connection."""
        connection.pragma("wal_autocheckpoint", 0)
        connection.set_wal_hook(self._after_commit)

    def _after_commit(self, connection: apsw.Connection, _database: str, pages: int) -> int:
        self._pages = pages
        if pages < self._requested_at:
            self._requested_at = 0  # the log has started over
        if pages >= _COMMITTER_PAGES:
            # While the background thread is still at it, this finds the log busy. That bounds the log only once the
            # committer waits.
            is_alone = pages >= _OVERDUE_PAGES and self._lock.acquire(timeout=_PATIENCE_S)
            # The commit stands whatever happens here: an error would make it look as if it had failed.
            with contextlib.suppress(apsw.Error, MemoryError):
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            if is_alone:
                self._lock.release()
            if pages >= _LARGE_PAGES and clock.monotonic_ns() - self._restarted_at >= _RESTART_EVERY_NS:
                self._request()
        elif pages - self._requested_at >= _BACKGROUND_PAGES:
            self._requested_at = pages
            self._request()
        return apsw.SQLITE_OK

    def _request(self) -> None:
        if self._thread is None:
            thread = BackgroundThread(self._run, "tilebox-local-checkpoint")
            # Without a thread to be had, the committer's checkpoints have to do until there is one.
            with contextlib.suppress(RuntimeError, MemoryError):
                self._thread = thread
                try:
                    thread.start()
                except BaseException:
                    if thread.give_up():
                        self._thread = None
                    raise
        self._due.put(None)

    def has_log(self) -> bool:
        """Whether this process has written to the log since it was last emptied."""
        return self._pages > 0

    def empty(self, connection: apsw.Connection) -> None:
        """Move the whole log into the file and cut it to nothing, unless somebody uses it. On the writer's thread."""
        self._pages = self._requested_at = 0
        # In use, or the disk refuses: it is tried again after the next commits.
        with contextlib.suppress(apsw.Error, MemoryError), impatient(connection, 0.0):
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def _run(self) -> None:
        while True:
            self._due.get()
            with contextlib.suppress(Empty):
                while True:
                    self._due.get_nowait()
            with self._lock:
                if self._is_closed:
                    self._close_connection()
                    return
                # A full disk or a foreign lock is the writer's to report; the next request tries again.
                with contextlib.suppress(apsw.Error, MemoryError):
                    if self._connection is None:
                        self._connection = self._connect()
                    self._connection.execute("SELECT count(*) FROM store_records").fetchall()  # else it sees no log
                    self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                    if self._pages >= _LARGE_PAGES:
                        self._restart(self._connection)

    def _restart(self, connection: apsw.Connection) -> None:
        """Have the log start over although there are always readers; if one does not move on, say which."""
        now = self._restarted_at = clock.monotonic_ns()
        try:
            with impatient(connection, _RESTART_PATIENCE_S):
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.BusyError:
            self._complain(self._name_readers(), now)

    def _complain(self, readers: str, now: int) -> None:
        if self._pages < _LARGE_PAGES:
            return  # somebody else has started it over meanwhile
        if self._pages >= _HUGE_PAGES:
            self._interrupt_readers()
        if now - self._warned_at >= _WARN_EVERY_NS:
            self._warned_at = now
            _log.error(
                "The write-ahead log has grown to %d MiB, since %s in one long read transaction; it shrinks when that "
                "ends.",
                self._pages * _PAGE_BYTES // (1 << 20),
                readers or "somebody is",
            )

    def truncate(self, turnstile: LockFile) -> bool:
        """Checkpoint everything and make the log empty; False if that is not possible right now. Any thread.

        Most is copied beside the writers; only the rest while they wait at the turnstile.
        """
        if self._forking_thread == threading.get_ident():
            return False  # a signal handler has interrupted the fork
        return call_in_thread(lambda: self._truncate(turnstile), "tilebox-local-truncate")

    def _truncate(self, turnstile: LockFile) -> bool:
        with self._lock:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        # In this order, as a committing writer takes them. A fork takes the second lock and waits for the writer.
        with turnstile.held():
            if not self._lock.acquire(timeout=_PATIENCE_S):
                return False
            try:
                return self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
            finally:
                self._lock.release()

    def _checkpoint(self, mode: int) -> bool:
        """One checkpoint that waits for nobody; whether the log is empty after it."""
        connection = self._connect(timeout_s=0.0)
        try:
            connection.execute("SELECT count(*) FROM store_records").fetchall()  # else it sees no log
            log_pages, _ = connection.wal_checkpoint(mode=mode)
        except apsw.BusyError:  # a reader, or the checkpoint of somebody else
            return False
        finally:
            close_quietly(connection)
        return log_pages == 0

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            close_quietly(connection)

    def before_fork(self) -> None:
        """Finish the checkpoint under way and let go of the file, until `after_fork_in_parent`."""
        self._forking_thread = threading.get_ident()
        self._lock.acquire()
        self._close_connection()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()
        self._forking_thread = None

    def close(self) -> None:
        """Stop the background thread."""
        self._is_closed = True
        self._due.put(None)
        if self._thread is not None:
            self._thread.wait_for_end()
            self._thread = None

    def after_fork_in_child(self) -> None:
        """The thread belongs to the parent."""
        self._reset()
