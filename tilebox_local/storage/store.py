"""Store: one SQLite file as this process sees it. Owns the writer and the readers; shared by all clients of a path."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
import weakref
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tilebox_local.errors import (
    FlushTimeoutError,
    StoreClosedError,
    StoreError,
    StoreOpenError,
    StoreReplacedError,
)
from tilebox_local.resource import process_resource, resource_key
from tilebox_local.storage import guard
from tilebox_local.storage.checkpointer import Checkpointer
from tilebox_local.storage.connection import (
    close_quietly,
    open_checkpointer,
    open_lent,
    open_reader,
    translate_errors,
)
from tilebox_local.storage.ending import MultiprocessingEnd
from tilebox_local.storage.opening import MEMORY, Opener
from tilebox_local.storage.readers import ReaderPool
from tilebox_local.storage.redaction import redact_json
from tilebox_local.storage.rows import Reference
from tilebox_local.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import apsw

    from tilebox_local.storage.bookkeeping import WriterStats
    from tilebox_local.storage.connection import LentConnection
    from tilebox_local.storage.file import StoreFile

__all__ = ["MEMORY", "Store", "is_open_here", "open_store", "open_stores"]

T = TypeVar("T")

_EXIT_TIMEOUT_S = 10.0
_TERMINATION_TIMEOUT_S = 2.0
_FORK_PATIENCE_S = 5.0
_SMALLEST_DATABASE = 512
_MAGIC = b"SQLite format 3\0"

_log = logging.getLogger("tilebox.workflows.internal")

_stores: dict[tuple[str, bool], Store] = {}  # by path, and whether it only reads
_stores_lock = threading.Lock()
_all_stores: weakref.WeakSet[Store] = weakref.WeakSet()
_memory_numbers = itertools.count(1)


def open_store(path: str | os.PathLike[str], *, full_sync: bool = False, read_only: bool = False) -> Store:
    """The store at `path`, created if the file does not exist. Each call must be matched by one `close()`.

    Clients of the same file share one store, those that only read another one. ":memory:" makes a new store that only
    this process sees. `read_only` opens an existing file, also where nothing may be written; what would write raises
    StoreOpenError.

    Raises:
        StoreOpenError: the path cannot be opened or created.
        NotATileboxStoreError, SchemaVersionError, StoreCorruptError: the file cannot be used; it is unchanged.
    """
    if os.fspath(path) == MEMORY:
        return Store(None, full_sync=False)
    resolved = Path(path).expanduser().resolve()
    with _stores_lock:
        store = _stores.get((str(resolved), read_only)) or _same_file(resolved, read_only)
        if store is not None and store.is_usable():
            store.share(full_sync=full_sync)
            return store
        store = Store(resolved, full_sync=full_sync, read_only=read_only)
        _stores[str(resolved), read_only] = store
        return store


def _same_file(path: Path, read_only: bool) -> Store | None:
    """The store that has the file open under another path: of another mount point, or in other letters on a Mac."""
    return next((store for store in _stores.values() if store.is_read_only == read_only and store.is_at(path)), None)


def is_open_here(path: Path) -> bool:
    """Whether this process has the file open as a store, under whatever name."""
    return any(store.is_at(path) for store in open_stores())


def open_stores() -> list[Store]:
    """The stores that this process has open."""
    return [store for store in list(_all_stores) if not store.is_closed]


class Store:
    """Use `open_store`. Thread-safe; after a fork the child gets its own writer and readers on first use."""

    def __init__(self, path: Path | None, *, full_sync: bool, read_only: bool = False) -> None:
        self.path = path
        self.is_read_only = read_only
        self._users = 1
        self._holds_file = True  # until it is closed; longer than it has users, if Ctrl-C came in between
        self._released = True  # whether the file may be used here: every fork that led to this process let go of it
        self._has_let_go = True  # for the fork under way, if there is something to let go of
        self._resources: dict[str | None, Reference] = {}
        self.running_here: set[int] = set()  # rows of the runners of this process that are at work
        self._opener = opener = Opener(path, full_sync=full_sync)
        self._label, self._lock, self._file = opener.label, opener.lock, opener.file
        connection = None
        if read_only:
            opener.open_to_read()
        else:
            connection = opener.open_checked()
        self.filename = opener.filename
        self._readers = ReaderPool(partial(open_reader, self.filename), partial(open_lent, self.filename))
        self._checkpointer = Checkpointer(
            partial(open_checkpointer, self.filename), opener.name_readers, self._readers.interrupt
        )
        self.writer = Writer(
            self._open_again,
            path=self._label,
            lock=self._lock,
            full_sync=full_sync,
            file=self._file,
            on_slow=self._explain_wait,
            checkpointer=self._checkpointer,
        )
        if connection is None:
            self.writer.refuse(self._read_only_error())
        else:
            self._prepare(connection)
            self.writer.adopt(connection)
        # An in-memory database lives as long as a connection to it.
        self._anchor = open_reader(self.filename) if path is None else None
        _all_stores.add(self)
        _multiprocessing_end.prepare()

    def _prepare(self, connection: apsw.Connection) -> None:
        if self.path is not None:
            self._checkpointer.attach(connection)

    def _open_again(self) -> apsw.Connection:
        connection = self._opener.open_again()
        self._prepare(connection)
        return connection

    def _explain_wait(self) -> None:
        """Say what keeps us from writing."""
        if not self._opener.name_lockers() and self.writer.last_error is not None:
            _log.error("%s cannot be written: %s. Trying again.", self._label, self.writer.last_error)

    def _read_only_error(self) -> StoreError:
        return StoreOpenError(f"{self._label} is open for reading only.", hint="Open a Client without read_only=True.")

    def __repr__(self) -> str:
        return f"Store({self._label!r})"

    @property
    def is_closed(self) -> bool:
        """Whether the last user has closed it."""
        return self._users == 0

    def is_at(self, path: Path) -> bool:
        """Whether a path leads to what is at the path of this store now."""
        try:
            return self.path is not None and path.samefile(self.path)
        except OSError:
            return False

    def is_usable(self) -> bool:
        """Whether the path still leads to this store; False once it leads to another file, or nowhere.

        Raises StoreReplacedError: it is the same file, but its write-ahead log was deleted. What SQLite knows about it
        in this process is wrong from then on.
        """
        if self._file is None or self.is_closed:
            return True
        if self._file.is_same_file:
            self._file.verify()
            return True
        return False

    def share(self, *, full_sync: bool) -> None:
        """Add a user; the strictest durability that any user asked for holds."""
        self._users += 1
        if full_sync:
            self._opener.full_sync = True
            self.writer.require_full_sync()

    def transact(self, function: Callable[[apsw.Connection], T]) -> T:
        """Run `function(connection)` in one write transaction; return its result after the commit. See Writer."""
        return self.writer.transact(function)

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """A read-only connection for the block; sees what was committed when each statement starts.

        Drain every cursor inside the block: an open one keeps the write-ahead log from being reset.
        """
        self._check_readable()
        with translate_errors(self._label), self._readers.borrowed() as connection:
            yield connection

    def connect_readonly(self) -> LentConnection:
        """A read-only connection that the caller closes. See Client.connect_readonly."""
        self._check_readable()
        with translate_errors(self._label):
            return self._readers.lend()

    def _check_readable(self) -> None:
        if self.is_closed:
            raise StoreClosedError(f"{self._label} is closed.", hint="Open a new Client.")
        if not self._released:
            raise self._fork_error()
        if self._file is not None:
            self._verify_file(self._file)

    def _verify_file(self, file: StoreFile) -> None:
        try:
            file.verify()
        except StoreReplacedError:
            if self.is_read_only:
                raise
            self.transact(lambda connection: None)  # noqa: ARG005 -- saves what the file held, and says so
            raise

    @contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """Like `read`, with one read transaction around the block, so that several statements see the same data."""
        with self.read() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    def resource(self, service: str | None) -> Reference:
        """The resource of this process under a service name (None: the default), as this store's rows refer to it."""
        reference = self._resources.get(service)
        if reference is None:
            reference = self._resources.setdefault(service, Reference(_resource_key(service)))
        return reference

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when all telemetry appended so far is committed (nothing, if this store only reads)."""
        if self.is_read_only and self._released and not self.is_closed:
            return
        self.writer.flush(timeout_s)

    def checkpoint(self) -> bool:
        """Copy the write-ahead log into the file and empty it; False if a reader or a fork is in the way.

        Waits for the turnstile, so that writers are not in the way, and for nobody else.
        """
        if self.path is None:
            return True
        with translate_errors(self._label):
            return self._checkpointer.truncate(self._lock)

    def stats(self) -> WriterStats:
        """Counts of this process's writer."""
        return self.writer.stats()

    def close(self) -> None:
        """Give up one use; the last one writes what is queued and closes the file."""
        with _stores_lock:
            if self._users == 0:
                return
            self._users -= 1
            if self._users:
                return
            if _stores.get((self._label, self.is_read_only)) is self:
                del _stores[self._label, self.is_read_only]
        self._shut_down()

    def _shut_down(self) -> None:
        with _fork_lock:  # a child must not inherit a file that is half closed
            self._users = 0
            if not self._holds_file:
                return  # another thread was faster
            try:
                self._checkpointer.close()  # before the writer, whose close is to be the last of this process
                self.writer.close(_EXIT_TIMEOUT_S)
            except Exception:
                self._let_go()
                raise
            self._let_go()  # not after Ctrl-C: the writer goes on, and the end of the process waits for it

    def _let_go(self) -> None:
        self._readers.close()
        if self._anchor is not None:
            close_quietly(self._anchor)
            self._anchor = None
        self._lock.close()
        self._opener.stop_guarding()
        self._holds_file = False

    def before_fork(self) -> None:
        """Let go of the file: SQLite must not be carried across a fork."""
        self._has_let_go = False
        self._checkpointer.before_fork()
        is_released = self.writer.before_fork()
        self._has_let_go = self._readers.before_fork() and is_released

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._has_let_go = True
        self._readers.after_fork_in_parent()
        self.writer.after_fork_in_parent()
        self._checkpointer.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Drop what belongs to the parent without closing it.

        If the parent could not let go of the file, SQLite believes in this process, too, that it holds locks, which
        it does not: what it wrote might be lost. So the store cannot be used here.
        """
        self._released = self._released and self._has_let_go
        self._lock.after_fork_in_child()
        self.running_here = set()
        self._readers.after_fork_in_child(self._fork_error())
        for service, reference in self._resources.items():
            reference.key = _resource_key(service)
            reference.forget()
        self._checkpointer.after_fork_in_child()
        refusal = self._read_only_error() if self.is_read_only else None
        self.writer.after_fork_in_child(refusal if self._released else self._fork_error())

    def _fork_error(self) -> StoreError:
        return guard.fork_error(self._label)


def _resource_key(service: str | None) -> str:
    return redact_json(resource_key(process_resource(service)))


def _close_all() -> None:
    for store in list(_all_stores):
        if store._holds_file:
            try:
                store._shut_down()
            except (FlushTimeoutError, StoreError) as error:
                _log.error("%s", error)  # the interpreter exits: there is nobody to raise to


def _flush_all() -> None:
    """Commit what is queued, and wait for a thread that is closing a store."""
    if _fork_lock.acquire(timeout=_TERMINATION_TIMEOUT_S):
        _fork_lock.release()
    for store in list(_all_stores):
        if not store.is_closed:
            store.flush(_TERMINATION_TIMEOUT_S)


_multiprocessing_end = MultiprocessingEnd(_close_all, _flush_all)

# Held from before a fork until after it; two threads must not fork, and pause the writers, at once.
_fork_lock = threading.RLock()
_forking: list[Store] = []
_stores_lock_is_held = False


def _before_fork() -> None:
    global _stores_lock_is_held
    _fork_lock.acquire()
    # Nobody may open a store meanwhile. Who is at it may be waiting for another process.
    _stores_lock_is_held = _stores_lock.acquire(timeout=_FORK_PATIENCE_S)
    _forking[:] = [store for store in _all_stores if store.path is not None and store._holds_file]
    for store in _forking:
        store.before_fork()
    _multiprocessing_end.before_fork()
    guard.before_fork()  # last: the threads that have just been waited for may have opened files


def _after_fork_in_parent() -> None:
    guard.after_fork_in_parent()
    _multiprocessing_end.after_fork_in_parent()
    for store in _forking:
        store.after_fork_in_parent()
    _forking.clear()
    if _stores_lock_is_held:
        _stores_lock.release()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    global _stores_lock, _fork_lock
    _stores_lock, _fork_lock = threading.Lock(), threading.RLock()  # threads of the parent hold them
    _forking.clear()
    guard.after_fork_in_child()
    for store in list(_all_stores):
        store.after_fork_in_child()
    _multiprocessing_end.after_fork_in_child()
    _multiprocessing_end.prepare()


atexit.register(_close_all)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
