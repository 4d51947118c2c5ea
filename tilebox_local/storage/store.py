"""Store: one SQLite file as this process sees it. Owns the writer and the readers; shared by all clients of a path."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import sys
import threading
import weakref
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tilebox_local.errors import (
    FlushTimeoutError,
    NotATileboxStoreError,
    StoreClosedError,
    StoreError,
    StoreOpenError,
)
from tilebox_local.resource import process_resource, resource_key
from tilebox_local.storage.checkpointer import Checkpointer
from tilebox_local.storage.connection import (
    keep_log_at_close,
    open_checkpointer,
    open_reader,
    open_writer,
    translate_errors,
)
from tilebox_local.storage.lockfile import LockFile
from tilebox_local.storage.readers import ReaderPool
from tilebox_local.storage.redaction import redact_json
from tilebox_local.storage.rows import Reference
from tilebox_local.storage.schema import ensure_schema
from tilebox_local.storage.writer import Writer, WriterStats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import apsw

__all__ = ["MEMORY", "Store", "open_store", "open_stores"]

T = TypeVar("T")

MEMORY = ":memory:"
_EXIT_TIMEOUT_S = 10.0
_SMALLEST_DATABASE = 512
_MAGIC = b"SQLite format 3\0"

_log = logging.getLogger("tilebox.workflows.internal")

_stores: dict[str, Store] = {}
_stores_lock = threading.Lock()
_all_stores: weakref.WeakSet[Store] = weakref.WeakSet()
_memory_numbers = itertools.count(1)


def open_store(path: str | os.PathLike[str], *, full_sync: bool = False) -> Store:
    """The store at `path`, created if the file does not exist. Each call must be matched by one `close()`.

    Clients of the same file share one store. ":memory:" makes a new store that only this process sees.

    Raises:
        StoreOpenError: the path cannot be opened or created.
        NotATileboxStoreError, SchemaVersionError, StoreCorruptError: the file cannot be used; it is unchanged.
    """
    if os.fspath(path) == MEMORY:
        return Store(None, full_sync=False)
    resolved = Path(path).expanduser().resolve()
    with _stores_lock:
        store = _stores.get(str(resolved))
        if store is not None:
            store.share(full_sync=full_sync)
            return store
        store = Store(resolved, full_sync=full_sync)
        _stores[str(resolved)] = store
        return store


def open_stores() -> list[Store]:
    """The stores that this process has open."""
    return [store for store in list(_all_stores) if not store.is_closed]


class Store:
    """Use `open_store`. Thread-safe; after a fork the child gets its own writer and readers on first use."""

    def __init__(self, path: Path | None, *, full_sync: bool) -> None:
        self.path = path
        self._full_sync = full_sync
        self._users = 1
        self._released = True  # whether this process let go of the file before the last fork
        self._resources: dict[str | None, Reference] = {}
        self.running_here: set[int] = set()  # rows of the runners of this process that are at work
        if path is None:
            name = f"tilebox-local-{next(_memory_numbers)}"
            self.filename, self._label = f"file:/{name}?vfs=memdb", MEMORY
            self._lock = LockFile(None)
        else:
            self.filename, self._label = path.as_uri(), str(path)
            self._lock = LockFile(f"{path}.lock")
        connection = self._open_checked()
        self._checkpointer = Checkpointer(partial(open_checkpointer, self.filename))
        self.writer = Writer(
            self._open_writer,
            path=self._label,
            lock=self._lock,
            full_sync=full_sync,
            is_durable=path is not None,
        )
        self._readers = ReaderPool(partial(open_reader, self.filename))
        self._prepare(connection)
        self.writer.adopt(connection)
        # An in-memory database lives as long as a connection to it.
        self._anchor = open_reader(self.filename) if path is None else None
        _all_stores.add(self)

    def _open_writer(self) -> apsw.Connection:
        """The write connection of a forked child; the file has been checked."""
        connection = open_writer(self.filename, full_sync=self._full_sync)
        self._prepare(connection)
        return connection

    def _prepare(self, connection: apsw.Connection) -> None:
        if self.path is not None:
            self._checkpointer.attach(connection)

    def _open_checked(self) -> apsw.Connection:
        """Open the write connection under the lock file, and make sure of the schema."""
        try:
            if self.path is not None:
                _check_path(self.path)
            with self._lock.held(), translate_errors(self._label):
                if self.path is not None and not self.path.exists():
                    self.path.touch(mode=0o600)
                has_log = self.path is not None and self.path.with_name(f"{self.path.name}-wal").exists()
                connection = open_writer(self.filename, full_sync=self._full_sync)
                try:
                    keep_log_at_close(connection, has_log)
                    ensure_schema(connection, self._label)
                    keep_log_at_close(connection, False)
                except BaseException:
                    connection.close()
                    raise
                return connection
        except NotATileboxStoreError:
            self._lock.remove_if_new()
            raise
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            hint = "Check that the directory exists and that you may write to it."
            raise StoreOpenError(f"{self._label} cannot be opened: {error.strerror}.", hint=hint) from error

    def __repr__(self) -> str:
        return f"Store({self._label!r})"

    @property
    def is_closed(self) -> bool:
        """Whether the last user has closed it."""
        return self._users == 0

    def share(self, *, full_sync: bool) -> None:
        """Add a user; the strictest durability that any user asked for holds."""
        self._users += 1
        if full_sync:
            self._full_sync = True
            self.writer.require_full_sync()

    def transact(self, function: Callable[[apsw.Connection], T]) -> T:
        """Run `function(connection)` in one write transaction; return its result after the commit. See Writer."""
        return self.writer.transact(function)

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """A read-only connection for the block; sees what was committed when each statement starts.

        Drain every cursor inside the block: an open one keeps the write-ahead log from being reset.
        """
        if self.is_closed:
            raise StoreClosedError(f"{self._label} is closed.", hint="Open a new Client.")
        if not self._released:
            raise self._fork_error()
        with translate_errors(self._label), self._readers.borrowed() as connection:
            yield connection

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
        """Return when all telemetry appended so far is committed. See Writer.flush."""
        self.writer.flush(timeout_s)

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
            if _stores.get(self._label) is self:
                del _stores[self._label]
        self._shut_down()

    def _shut_down(self) -> None:
        self._users = 0
        try:
            self._checkpointer.close()  # before the writer, whose close is to be the last of this process
            self.writer.close(_EXIT_TIMEOUT_S)
        finally:
            self._readers.close()
            if self._anchor is not None:
                self._anchor.close()
                self._anchor = None
            self._lock.close()

    def before_fork(self) -> None:
        """Let go of the file: SQLite must not be carried across a fork."""
        if self.path is None or self.is_closed:
            return
        self._checkpointer.before_fork()
        is_released = self.writer.before_fork()
        self._released = self._readers.before_fork() and is_released

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self.path is None or self.is_closed:
            return
        self._released = True
        self._readers.after_fork_in_parent()
        self.writer.after_fork_in_parent()
        self._checkpointer.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Drop what belongs to the parent without closing it.

        If the parent could not let go of the file, SQLite believes in this process, too, that it holds locks, which
        it does not: what it wrote might be lost. So the store cannot be used here.
        """
        self._lock.after_fork_in_child()
        self.running_here = set()
        self._readers.after_fork_in_child()
        for service, reference in self._resources.items():
            reference.key = _resource_key(service)
            reference.forget()
        self._checkpointer.after_fork_in_child()
        self.writer.after_fork_in_child(None if self._released else self._fork_error())

    def _fork_error(self) -> StoreError:
        return StoreError(
            f"{self._label} cannot be used in this process: it was forked while the store was in use.",
            hint="Fork while no thread reads or commits, or start the process with multiprocessing's 'spawn'.",
        )


def _resource_key(service: str | None) -> str:
    return redact_json(resource_key(process_resource(service)))


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise StoreOpenError(f"{path} is a directory.", hint="Name a file in it, such as tilebox.db.")
    if not path.parent.is_dir():
        raise StoreOpenError(f"{path} cannot be created: {path.parent} does not exist.", hint="Create it first.")
    # SQLite takes a file that is too small to be a database for an empty one, and would write over it.
    if path.exists() and 0 < path.stat().st_size < _SMALLEST_DATABASE and not path.read_bytes().startswith(_MAGIC):
        raise NotATileboxStoreError(
            f"{path} is not a SQLite database.", hint="Nothing was written to it; choose another path for the store."
        )


def _close_all() -> None:
    for store in list(_all_stores):
        if not store.is_closed:
            try:
                store._shut_down()
            except (FlushTimeoutError, StoreError) as error:
                _log.error("%s", error)  # the interpreter exits: there is nobody to raise to


# Held from before a fork until after it; two threads must not fork, and pause the writers, at once.
_fork_lock = threading.Lock()
_forking: list[Store] = []


def _before_fork() -> None:
    _fork_lock.acquire()
    _forking[:] = list(_all_stores)
    for store in _forking:
        store.before_fork()


def _after_fork_in_parent() -> None:
    for store in _forking:
        store.after_fork_in_parent()
    _forking.clear()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    global _stores_lock, _fork_lock
    _stores_lock, _fork_lock = threading.Lock(), threading.Lock()  # a thread of the parent may hold them
    _forking.clear()
    for store in list(_all_stores):
        store.after_fork_in_child()
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        # A child of multiprocessing ends without atexit; it runs these finalizers instead.
        util.register_after_fork(_all_stores, lambda _: util.Finalize(None, _close_all, exitpriority=100))


atexit.register(_close_all)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
