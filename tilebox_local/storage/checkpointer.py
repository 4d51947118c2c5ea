"""Checkpoints: move pages from the write-ahead log into the file, mostly beside the writer and not in its way.

A checkpoint waits for the disk twice. Done by a committing writer, as SQLite does it, that takes 20 to 30 ms every few
hundred transactions. So a thread copies in the background what has been committed, and the writer only finishes the
rest, which must be done by a committer: only when nothing is left to copy does the log start over.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import apsw

if TYPE_CHECKING:
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


class Checkpointer:
    """Checkpoint policy of one writer. `attach` it to each write connection; the rest happens by itself.

    Args:
        connect: Opens a connection of the same file, for the background thread and for `truncate`.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._reset()

    def _reset(self) -> None:
        self._due = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._connection: apsw.Connection | None = None
        self._lock = threading.Lock()  # held during a checkpoint, and from before a fork until after it
        self._requested_at = 0  # pages in the log when the background thread was last asked

    def attach(self, connection: apsw.Connection) -> None:
        """Take over the checkpoints of a write connection."""
        connection.pragma("wal_autocheckpoint", 0)
        connection.set_wal_hook(self._after_commit)

    def _after_commit(self, connection: apsw.Connection, _database: str, pages: int) -> int:
        if pages < self._requested_at:
            self._requested_at = 0  # the log has started over
        if pages >= _COMMITTER_PAGES:
            # While the background thread is still at it, this finds the log busy. That bounds the log only once the
            # committer waits.
            is_alone = pages >= _OVERDUE_PAGES and self._lock.acquire(timeout=_PATIENCE_S)
            # The commit stands whatever happens here: an error would make it look as if it had failed.
            with contextlib.suppress(apsw.Error):
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            if is_alone:
                self._lock.release()
        elif pages - self._requested_at >= _BACKGROUND_PAGES:
            self._requested_at = pages
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tilebox-local-checkpoint", daemon=True)
                self._thread.start()
            self._due.set()
        return apsw.SQLITE_OK

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            with self._lock:
                if self._is_closed:
                    self._close_connection()
                    return
                # A full disk or a foreign lock is the writer's to report; the next request tries again.
                with contextlib.suppress(apsw.Error):
                    if self._connection is None:
                        self._connection = self._connect()
                    self._connection.execute("SELECT count(*) FROM store_records").fetchall()  # else it sees no log
                    self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def truncate(self, turnstile: LockFile) -> bool:
        """Checkpoint everything and make the log empty; False if that is not possible right now. Any thread.

        Most is copied beside the writers; only the rest while they wait at the turnstile.
        """
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
            connection.close()
        return log_pages == 0

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def before_fork(self) -> None:
        """Finish the checkpoint under way and let go of the file, until `after_fork_in_parent`."""
        self._lock.acquire()
        self._close_connection()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def close(self) -> None:
        """Stop the background thread."""
        self._is_closed = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def after_fork_in_child(self) -> None:
        """The thread belongs to the parent."""
        self._reset()
