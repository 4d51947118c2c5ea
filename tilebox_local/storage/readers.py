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


class _Loan:
    """A connection that is out, and the thread that has it."""

    __slots__ = ("__weakref__", "connection", "is_clean", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.connection: apsw.Connection | None = None
        self.is_clean = False  # whoever is interrupted may leave a transaction, a timeout or an authorizer on it


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
        # Taken itself, not through the condition: Ctrl-C in Condition.__enter__() would leave it locked.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._idle: list[apsw.Connection] = []
        self._borrowed: weakref.WeakSet[_Loan] = weakref.WeakSet()  # weak: Ctrl-C may keep one from coming back
        self._lent: weakref.WeakSet[LentConnection] = weakref.WeakSet()
        self._is_closed = False
        self._forking_thread: int | None = None

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[apsw.Connection]:
        """A connection for the block. Raises apsw.Error if none can be opened."""
        loan = _Loan()
        try:  # before it is taken: Ctrl-C may come before it is in hand
            yield self._take(loan)
            loan.is_clean = True
        except Exception:
            loan.is_clean = True
            raise
        finally:
            self._give_back(loan)

    def _take(self, loan: _Loan) -> apsw.Connection:
        with self._lock:
            self._changed.wait_for(lambda: self._forking_thread in (None, loan.thread))
            connection = loan.connection = self._idle.pop() if self._idle else self._connect()
            self._borrowed.add(loan)
            return connection

    def _give_back(self, loan: _Loan) -> None:
        with self._lock:
            connection = loan.connection
            if connection is None or loan not in self._borrowed:
                return  # a child was forked inside of the block: the connection is the parent's
            self._borrowed.remove(loan)
            if self._forking_thread is not None:  # a signal handler has read
                keep_log_at_close(connection, True)
                close_quietly(connection)
            elif self._is_closed or not loan.is_clean or connection.in_transaction:
                close_quietly(connection)
            else:
                self._idle.append(connection)
            self._changed.notify_all()

    def interrupt(self) -> None:
        """End what is being read, with apsw.InterruptError for whoever reads."""
        with self._lock:
            for connection in self._out():
                connection.interrupt()

    def lend(self) -> LentConnection:
        """A connection that is the caller's from now on. Raises apsw.Error if none can be opened."""
        thread = threading.get_ident()
        with self._lock:
            self._changed.wait_for(lambda: self._forking_thread in (None, thread))
            connection = self._connect_lent()
            self._lent.add(connection)
            return connection

    def _out(self) -> list[apsw.Connection]:
        return [loan.connection for loan in list(self._borrowed) if loan.connection is not None]

    def _has_lent(self) -> bool:
        return any(_is_open(connection) for connection in list(self._lent))

    def close(self) -> None:
        """Close the connections; those that are out are closed when they come back."""
        with self._lock:
            self._is_closed = True
            self._close_idle()

    def _close_idle(self, *, keep_log: bool = False) -> None:
        with contextlib.suppress(IndexError):  # a signal handler may be faster
            while True:
                connection = self._idle.pop()
                if keep_log:
                    keep_log_at_close(connection, True)
                close_quietly(connection)

    def before_fork(self) -> bool:
        """Let nobody begin to read until after the fork, and close the connections; False if one is still in use.

        Waits for other threads for a moment. The forking thread's own reading cannot end before the fork.
        """
        thread = threading.get_ident()
        with self._lock:
            self._forking_thread = thread
            if all(loan.thread != thread for loan in list(self._borrowed)):
                self._changed.wait_for(lambda: not self._out(), _FORK_PATIENCE_S)
            self._close_idle(keep_log=True)  # the last one may be the last one of the file for a moment
            return not self.are_in_use()

    def are_in_use(self) -> bool:
        """Whether a connection is open that others have in hand."""
        return bool(self._out()) or self._has_lent()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        with self._lock:
            self._forking_thread = None
            self._changed.notify_all()

    def after_fork_in_child(self, refusal: StoreError) -> None:
        """Forget the parent's connections without closing them: that would end the parent's locks.

        `refusal` is what those raise that the user has in hand.
        """
        _leaked.extend(self._out())
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
