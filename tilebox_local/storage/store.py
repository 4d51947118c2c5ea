"""Store: one SQLite file as this process sees it. Owns the writer and the readers; shared by all clients of a path."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
import weakref
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import apsw

from tilebox_local import clock
from tilebox_local.catalog import run, value
from tilebox_local.errors import (
    FlushTimeoutError,
    NotATileboxStoreError,
    StoreClosedError,
    StoreError,
    StoreOpenError,
    StoreReplacedError,
)
from tilebox_local.resource import process_resource, resource_key
from tilebox_local.storage.bookkeeping import write_incident
from tilebox_local.storage.checkpointer import Checkpointer
from tilebox_local.storage.connection import (
    immediate,
    is_out_of_room,
    keep_log_at_close,
    open_checkpointer,
    open_lent,
    open_reader,
    open_writer,
    translate_errors,
)
from tilebox_local.storage.ending import MultiprocessingEnd
from tilebox_local.storage.file import StoreFile
from tilebox_local.storage.filesystem import check_folder, check_local
from tilebox_local.storage.guard import Guarded, fork_error, guard
from tilebox_local.storage.guard import after_fork_in_child as guard_after_fork_in_child
from tilebox_local.storage.lockfile import LockFile
from tilebox_local.storage.locks import find_lock_holders, process_name
from tilebox_local.storage.readers import ReaderPool
from tilebox_local.storage.redaction import redact_json
from tilebox_local.storage.rows import Reference
from tilebox_local.storage.schema import check_schema, ensure_schema
from tilebox_local.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilebox_local.storage.bookkeeping import WriterStats
    from tilebox_local.storage.connection import LentConnection

__all__ = ["MEMORY", "Store", "is_open_here", "open_store", "open_stores"]

T = TypeVar("T")

MEMORY = ":memory:"
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
        store = _stores.get((str(resolved), read_only))
        if store is not None and store.is_usable():
            store.share(full_sync=full_sync)
            return store
        store = Store(resolved, full_sync=full_sync, read_only=read_only)
        _stores[str(resolved), read_only] = store
        return store


def is_open_here(path: Path) -> bool:
    """Whether this process has the file open as a store, under whatever name."""
    for store in open_stores():
        if store.path is not None:
            with suppress(OSError):
                if path.samefile(store.path):
                    return True
    return False


def open_stores() -> list[Store]:
    """The stores that this process has open."""
    return [store for store in list(_all_stores) if not store.is_closed]


class Store:
    """Use `open_store`. Thread-safe; after a fork the child gets its own writer and readers on first use."""

    def __init__(self, path: Path | None, *, full_sync: bool, read_only: bool = False) -> None:
        self.path = path
        self.is_read_only = read_only
        self._full_sync = full_sync
        self._users = 1
        self._released = True  # whether this process let go of the file before the last fork
        self._resources: dict[str | None, Reference] = {}
        self._guarded: Guarded | None = None
        self.running_here: set[int] = set()  # rows of the runners of this process that are at work
        if path is None:
            name = f"tilebox-local-{next(_memory_numbers)}"
            self.filename, self._label = f"file:/{name}?vfs=memdb", MEMORY
            self._lock = LockFile(None)
        else:
            self.filename, self._label = path.as_uri(), str(path)
            self._lock = LockFile(f"{path}.lock")
        self._file = None if path is None else StoreFile(path, self._lock)
        connection = None
        if read_only:
            self._open_to_read()
        else:
            connection = self._open_checked()
        self._readers = ReaderPool(partial(open_reader, self.filename), partial(open_lent, self.filename))
        self._checkpointer = Checkpointer(
            partial(open_checkpointer, self.filename), self._name_readers, self._readers.interrupt
        )
        self.writer = Writer(
            self._open_writer,
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

    def _open_writer(self) -> apsw.Connection:
        """The write connection after a fork; the file has been checked before it. The caller holds the lock file."""
        if self._file is not None:
            self._file.verify_main()  # SQLite would create what is missing
        connection = self._with_reserve(self._connect_writer)
        self._prepare(connection)
        return connection

    def _with_reserve(self, connect: Callable[[], apsw.Connection]) -> apsw.Connection:
        """`connect()`, on a full disk with the room that the lock file keeps in reserve."""
        try:
            connection = connect()
        except apsw.Error as error:
            if not (is_out_of_room(error) and self._lock.release_reserve()):
                raise
            connection = connect()
        self._lock.reserve()
        return connection

    def _connect_writer(self) -> apsw.Connection:
        connection = open_writer(self.filename, full_sync=self._full_sync)
        try:
            # Opening reads nothing: make SQLite find out now whether there is room for the -shm file.
            connection.pragma("schema_version")
            if self._file is not None:
                self._file.attach(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: apsw.Connection) -> None:
        if self.path is not None:
            self._checkpointer.attach(connection)

    def _open_checked(self) -> apsw.Connection:
        """Open the write connection under the lock file, and make sure of the schema."""
        try:
            if self.path is not None:
                _check_path(self.path)
            with self._lock.held(on_slow=self._name_lockers), translate_errors(self._label):
                log_bytes = 0 if self.path is None else _prepare_file(self.path)
                if self.path is not None:
                    self._guarded = guard(self.path)
                try:
                    return self._with_reserve(lambda: self._connect_checked(has_log=log_bytes > 0))
                except BaseException:
                    self._stop_guarding()
                    raise
        except NotATileboxStoreError:
            self._lock.remove_if_new()
            raise
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            hint = "Check that the directory exists and that you may write to it."
            raise StoreOpenError(f"{self._label} cannot be opened: {error.strerror}.", hint=hint) from error

    def _look_for_lost_tail(self, connection: apsw.Connection, file: StoreFile) -> None:
        missing = file.missing_commits(connection)
        if missing is None:
            return
        last = clock.ns_to_datetime(missing.last_ns).isoformat(timespec="milliseconds")
        message = (
            f"The last {missing.count} commits are missing, the newest of {last}: the power failed, the write-ahead "
            "log is damaged, or an older copy of the file was put in its place."
        )
        _log.error("%s: %s", self._label, message)
        with immediate(connection):
            write_incident(connection, "tail lost", message, last_seen_ns=missing.last_ns)
            run(connection, "count_commit")
        file.note_commit(value(connection, "commit_no"))

    def _explain_wait(self) -> None:
        """Say what keeps us from writing."""
        if not self._name_lockers() and self.writer.last_error is not None:
            _log.error("%s cannot be written: %s. Trying again.", self._label, self.writer.last_error)

    def _name_lockers(self) -> bool:
        """Say who keeps others from writing; whether somebody does."""
        holders = None if self.path is None else find_lock_holders(self.path)
        lockers = [] if holders is None else holders.writers or holders.inside
        others = [process_name(pid) for pid in lockers if pid != os.getpid()]
        if others:
            _log.error("%s is locked by %s; waiting for it.", self._label, ", ".join(others))
        return bool(others)

    def _name_readers(self) -> str:
        readers = [] if self.path is None else find_lock_holders(self.path).readers
        names = ", ".join(process_name(pid) for pid in readers)
        return names and f"{names} {'is' if len(readers) == 1 else 'are'}"

    def _open_to_read(self) -> None:
        """Check an existing file, and how it can be read."""
        assert self.path is not None  # noqa: S101 -- open_store sees to it
        try:
            _check_path(self.path)
            if not self.path.exists():
                raise StoreOpenError(f"{self._label} does not exist, and is not made to be read.")
            log = self.path.with_name(f"{self.path.name}-wal")
            if not log.exists() and not os.access(self.path.parent, os.W_OK):
                # Nobody has it open, and SQLite could not make the files that it needs beside one that may change.
                self.filename += "?immutable=1"
            self._guarded = guard(self.path)
            try:
                with translate_errors(self._label):
                    connection = open_reader(self.filename)
                    try:
                        check_schema(connection, self._label)
                        if self._file is not None:
                            self._file.attach_to_read()
                    finally:
                        connection.close()
            except BaseException:
                self._stop_guarding()
                raise
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreOpenError(f"{self._label} cannot be opened: {error.strerror}.") from error

    def _read_only_error(self) -> StoreError:
        return StoreOpenError(f"{self._label} is open for reading only.", hint="Open a Client without read_only=True.")

    def _stop_guarding(self) -> None:
        guarded, self._guarded = self._guarded, None
        if guarded is not None:
            guarded.release()

    def _connect_checked(self, *, has_log: bool) -> apsw.Connection:
        connection = open_writer(self.filename, full_sync=self._full_sync)
        try:
            keep_log_at_close(connection, has_log)
            ensure_schema(connection, self._label)
            keep_log_at_close(connection, False)
            if self._file is not None:
                self._file.attach(connection)
                self._look_for_lost_tail(connection, self._file)
        except BaseException:
            connection.close()
            raise
        return connection

    def __repr__(self) -> str:
        return f"Store({self._label!r})"

    @property
    def is_closed(self) -> bool:
        """Whether the last user has closed it."""
        return self._users == 0

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
            self._let_go()

    def _let_go(self) -> None:
        try:
            self._checkpointer.close()  # before the writer, whose close is to be the last of this process
            self.writer.close(_EXIT_TIMEOUT_S)
        finally:
            self._readers.close()
            if self._anchor is not None:
                self._anchor.close()
                self._anchor = None
            self._lock.close()
            self._stop_guarding()

    def before_fork(self) -> None:
        """Let go of the file: SQLite must not be carried across a fork."""
        self._checkpointer.before_fork()
        is_released = self.writer.before_fork()
        self._released = self._readers.before_fork() and is_released

    def after_fork_in_parent(self) -> None:
        """Go on."""
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
        self._readers.after_fork_in_child(self._fork_error())
        for service, reference in self._resources.items():
            reference.key = _resource_key(service)
            reference.forget()
        self._checkpointer.after_fork_in_child()
        refusal = self._read_only_error() if self.is_read_only else None
        self.writer.after_fork_in_child(refusal if self._released else self._fork_error())

    def _fork_error(self) -> StoreError:
        return fork_error(self._label)


def _resource_key(service: str | None) -> str:
    return redact_json(resource_key(process_resource(service)))


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise StoreOpenError(f"{path} is a directory.", hint="Name a file in it, such as tilebox.db.")
    if not path.parent.is_dir():
        raise StoreOpenError(f"{path} cannot be created: {path.parent} does not exist.", hint="Create it first.")
    check_local(path)
    check_folder(path)
    # SQLite takes a file that is too small to be a database for an empty one, and would write over it.
    if path.exists() and 0 < path.stat().st_size < _SMALLEST_DATABASE and not path.read_bytes().startswith(_MAGIC):
        raise NotATileboxStoreError(
            f"{path} is not a SQLite database.", hint="Nothing was written to it; choose another path for the store."
        )


def _prepare_file(path: Path) -> int:
    """Create the file if there is none; the size of its write-ahead log. The caller holds the lock file."""
    log = path.with_name(f"{path.name}-wal")
    log_bytes = log.stat().st_size if log.exists() else 0
    if log_bytes and not (path.exists() and path.stat().st_size):
        # SQLite would delete it, and with it what it holds of the store that was here.
        raise StoreOpenError(
            f"{log} is there, but the store that it belongs to is not.",
            hint=f"Put the store back to {path}, or move the -wal file away.",
        )
    if not path.exists():
        path.touch(mode=0o600)
    elif path.stat().st_nlink > 1:
        # Each name has a write-ahead log of its own: whoever uses the other name does not see ours.
        raise StoreOpenError(
            f"{path} has {path.stat().st_nlink} names (hard links); its write-ahead log belongs to one of them.",
            hint="Delete the other names, or copy the file and open the copy.",
        )
    return log_bytes


def _close_all() -> None:
    for store in list(_all_stores):
        if not store.is_closed:
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
    _forking[:] = [store for store in _all_stores if store.path is not None and not store.is_closed]
    for store in _forking:
        store.before_fork()


def _after_fork_in_parent() -> None:
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
    for store in list(_all_stores):
        store.after_fork_in_child()
    guard_after_fork_in_child()
    _multiprocessing_end.prepare()


atexit.register(_close_all)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
