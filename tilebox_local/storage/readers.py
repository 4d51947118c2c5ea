"""The read-only connections of one process and store: a pool, and who reads right now."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import TYPE_CHECKING

import apsw

from tilebox_local.storage.connection import close_quietly, keep_log_at_close

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilebox_local.errors import StoreError
    from tilebox_local.storage.connection import LentConnection

__all__ = ["ReaderPool"]

_FORK_PATIENCE_S = 1.0


class ReaderPool:
    """Lends a connection to one thread at a time, and opens another one if all are out. Thread-safe.

    Args:
        connect: Opens a connection.
        connect_lent: Opens a connection that the user is to close.
    """

    def __init__(self, connect: Callable[[], apsw.Connection], connect_lent: Callable[[], LentConnection]) -> None:
        self._connect = connect
        self._connect_lent = connect_lent
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[apsw.Connection] = []
        self._borrowed: list[tuple[int, apsw.Connection]] = []  # by which thread
        self._lent: weakref.WeakSet[LentConnection] = weakref.WeakSet()
        self._is_closed = False
        self._forking_thread: int | None = None

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[apsw.Connection]:
        """A connection for the block. Raises apsw.Error if none can be opened."""
        loan = self._take()
        try:
            yield loan[1]
        finally:
            self._give_back(loan)

    def _take(self) -> tuple[int, apsw.Connection]:
        thread = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: self._forking_thread in (None, thread))
            loan = thread, self._idle.pop() if self._idle else self._connect()
            self._borrowed.append(loan)
            return loan

    def _give_back(self, loan: tuple[int, apsw.Connection]) -> None:
        with self._changed:
            if loan not in self._borrowed:
                return  # a child was forked inside of the block: the connection is the parent's
            self._borrowed.remove(loan)
            if self._is_closed:
                close_quietly(loan[1])
            else:
                self._idle.append(loan[1])
            self._changed.notify_all()

    def interrupt(self) -> None:
        """End what is being read, with apsw.InterruptError for whoever reads."""
        with self._changed:
            for _, connection in self._borrowed:
                connection.interrupt()

    def lend(self) -> LentConnection:
        """A connection that is the caller's from now on. Raises apsw.Error if none can be opened."""
        thread = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: self._forking_thread in (None, thread))
            connection = self._connect_lent()
            self._lent.add(connection)
            return connection

    def _has_lent(self) -> bool:
        return any(_is_open(connection) for connection in list(self._lent))

    def close(self) -> None:
        """Close the connections; those that are out are closed when they come back."""
        with self._changed:
            self._is_closed = True
            self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            close_quietly(self._idle.pop())

    def before_fork(self) -> bool:
        """Let nobody begin to read until after the fork, and close the connections; False if one is still in use.

        Waits for other threads for a moment. The forking thread's own reading cannot end before the fork.
        """
        thread = threading.get_ident()
        with self._changed:
            self._forking_thread = thread
            if all(reader != thread for reader, _ in self._borrowed):
                self._changed.wait_for(lambda: not self._borrowed, _FORK_PATIENCE_S)
            for connection in self._idle:
                keep_log_at_close(connection, True)  # it may be the last one for a moment
            self._close_idle()
            return not self._borrowed and not self._has_lent()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        with self._changed:
            self._forking_thread = None
            self._changed.notify_all()

    def after_fork_in_child(self, refusal: StoreError) -> None:
        """Forget the parent's connections without closing them: that would end the parent's locks.

        `refusal` is what those raise that the user has in hand.
        """
        _leaked.extend(connection for _, connection in self._borrowed)
        for connection in list(self._lent):
            connection.refusal = refusal
            _leaked.append(connection)
        self._reset()


def _is_open(connection: apsw.Connection) -> bool:
    try:
        connection.in_transaction  # noqa: B018 -- asks a closed one
    except apsw.ConnectionClosedError:
        return False
    return True


_leaked: list[apsw.Connection] = []
