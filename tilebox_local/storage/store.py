"""Store: one SQLite file as this process sees it. Owns the writer and the readers; shared by all clients of a path."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections import deque
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tilebox_local import clock
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
from tilebox_local.storage.forking import Forking, ForkLock
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
    from tilebox_local.storage.forking import ForkStep

__all__ = ["MEMORY", "Store", "close_all", "close_uses", "is_open_here", "open_store", "open_stores"]

T = TypeVar("T")

_EXIT_TIMEOUT_S = 10.0
_TERMINATION_TIMEOUT_S = 2.0

_log = logging.getLogger("tilebox.workflows.internal")

_stores: dict[tuple[str, bool], Store] = {}  # by path, and whether it only reads
_all_stores: weakref.WeakValueDictionary[int, Store] = weakref.WeakValueDictionary()  # by the id of the object
_closing: set[Store] = set()  # whose close() has begun: after Ctrl-C nobody else may know them


class _Opening(ForkLock):
    """Who is opening a store may be waiting for another process. A child had better go on without it after a while."""

    def __init__(self) -> None:
        super().__init__(threading.RLock, patience_s=5.0)
        self.paths: set[Path] = set()  # what is being opened

    def after_fork_in_child(self) -> None:
        super().after_fork_in_child()
        self.paths.clear()


# A fork waits for all of them. They are reentrant, since a signal handler may do anything: so what they protect may
# change between any two steps.
_opening = _Opening()
_sharing = ForkLock(threading.RLock)  # which stores there are, and who uses them; never held for long
_shutting_down = ForkLock(threading.RLock)  # a child must not inherit a file that is half closed; never held for long


def open_store(
    path: str | os.PathLike[str], *, full_sync: bool = False, read_only: bool = False, user: object = None
) -> Store:
    """The store at `path`, created if the file does not exist. Each call must be matched by one `close(user)`.

    Clients of the same file share one store, those that only read another one. ":memory:" makes a new store that only
    this process sees. `read_only` opens an existing file, also where nothing may be written; what would write raises
    StoreOpenError.

    Raises:
        StoreOpenError: the path cannot be opened or created.
        NotATileboxStoreError, SchemaVersionError, StoreCorruptError: the file cannot be used; it is unchanged.
        StoreError: a signal handler has interrupted this thread while it opens the same file.
    """
    if os.fspath(path) == MEMORY:
        return Store(None, full_sync=False, user=user)
    resolved = Path(path).expanduser().resolve()
    with _opening.lock:
        store = _share(resolved, read_only, user)
        if store is None:
            return _open(resolved, full_sync=full_sync, read_only=read_only, user=user)
    if full_sync:
        store.require_full_sync(user)
    return store


def _open(path: Path, *, full_sync: bool, read_only: bool, user: object) -> Store:
    if path in _opening.paths:
        raise StoreError(
            f"{path} cannot be opened here: this signal handler has interrupted somebody who opens it.",
            hint="Open it where the program begins, before signals come.",
        )
    try:
        _opening.paths.add(path)
        store = Store(path, full_sync=full_sync, read_only=read_only, user=user)
        with _sharing.lock:
            _stores[str(path), read_only] = store
        return store
    finally:
        _opening.paths.discard(path)


def close_uses(user: object) -> None:
    """Give up what `user` has opened, if an error came before it knew which store that is."""
    for store in open_stores():
        if store.has_user(user):
            store.close(user)


def _share(path: Path, read_only: bool, user: object) -> Store | None:
    """The store that is open already, if there is one, with one more user."""
    with _sharing.lock:
        store = _stores.get((str(path), read_only)) or _same_file(path, read_only)
        if store is None or store.is_closed or not store.is_usable():
            return None
        store.add_user(user)
        if store not in list(_stores.values()):  # a signal handler has closed it just now
            store.drop_user(user)
            return None
        return store


def _same_file(path: Path, read_only: bool) -> Store | None:
    """The store that has the file open under another path: of another mount point, or in other letters on a Mac."""
    return next(
        (store for store in list(_stores.values()) if store.is_read_only == read_only and store.is_at(path)), None
    )


def is_open_here(path: Path) -> bool:
    """Whether this process has the file open as a store, under whatever name."""
    return any(store.is_at(path) for store in open_stores())


def open_stores() -> list[Store]:
    """The stores that this process has open."""
    return [store for store in _known_stores() if not store.is_closed]


def _known_stores() -> list[Store]:
    references = _all_stores.valuerefs()  # all at once: other threads and signal handlers may add one meanwhile
    return [store for store in (reference() for reference in references) if store is not None]


def _stores_with_files() -> list[Store]:
    return [store for store in _known_stores() if store.holds_file]


class Store:
    """Use `open_store`. Thread-safe; after a fork the child gets its own writer and readers on first use."""

    def __init__(self, path: Path | None, *, full_sync: bool, read_only: bool = False, user: object = None) -> None:
        self.path = path
        self.is_read_only = read_only
        self._users = [user]
        self.holds_file = True  # until it is closed; longer than it has users, if Ctrl-C came in between
        self._released = True  # whether the file may be used here: every fork that led to this process let go of it
        self._has_let_go = False  # for the fork under way
        self._resources: dict[str | None, Reference] = {}
        self.running_here: set[int] = set()  # rows of the runners of this process that are at work
        self._opener = opener = Opener(path, full_sync=full_sync)
        self._label, self._lock, self._file = opener.label, opener.lock, opener.file
        try:
            self._open()
        except BaseException:
            self.holds_file = False
            self._users.clear()
            opener.give_up()
            raise

    def _open(self) -> None:
        opener = self._opener
        connection = None
        if self.is_read_only:
            opener.open_to_read()
        else:
            connection = opener.open_checked()
        try:
            self._begin(connection)
        except BaseException:
            if connection is not None:
                close_quietly(connection)
            raise

    def _begin(self, connection: apsw.Connection | None) -> None:
        opener = self._opener
        self.filename = opener.filename
        self._readers = ReaderPool(partial(open_reader, self.filename), partial(open_lent, self.filename))
        self._checkpointer = Checkpointer(
            partial(open_checkpointer, self.filename), opener.name_readers, self._readers.interrupt
        )
        self.writer = Writer(
            self._open_again,
            path=self._label,
            lock=self._lock,
            full_sync=opener.full_sync,
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
        self._anchor = open_reader(self.filename) if self.path is None else None
        with _sharing.lock:
            _all_stores[id(self)] = self
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
        return not self._users

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
        if self._file is None:
            return True
        if self._file.is_same_file:
            self._file.verify()
            return True
        return False

    def add_user(self, user: object) -> None:
        """One use more, which is given up by `close(user)`."""
        self._users.append(user)

    def drop_user(self, user: object) -> None:
        """One use less, if there was one."""
        with suppress(ValueError):
            self._users.remove(user)

    def has_user(self, user: object) -> bool:
        """Whether somebody uses it who has not closed it yet."""
        return user in self._users

    def require_full_sync(self, user: object) -> None:
        """Wait for the disk at every commit from now on, since `user` asks for it; if that fails, it is none."""
        try:
            self._opener.full_sync = True
            self.writer.require_full_sync()
        except BaseException:
            self.close(user)
            raise

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

    def _check_open(self) -> None:
        if self.is_closed:
            raise StoreClosedError(f"{self._label} is closed.", hint="Open a new Client.")
        if not self._released:
            raise self._fork_error()

    def _check_readable(self) -> None:
        self._check_open()
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
                if connection.in_transaction:  # else an error has ended it, which is the one to raise
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
        self._check_open()
        if self.path is None:
            return True
        with translate_errors(self._label):
            return self._checkpointer.truncate(self._lock)

    def stats(self) -> WriterStats:
        """Counts of this process's writer."""
        return self.writer.stats()

    def close(self, user: object = None) -> None:
        """Write what is queued and give up one use, that of `user`; the last one closes the file.

        May be repeated: after Ctrl-C or FlushTimeoutError it goes on where it was. If nobody does, the writer writes
        what is queued nevertheless, and the file is free as soon as it has closed it.
        """
        try:
            self._close(user)
        except BaseException:
            if self.is_closed:
                self.begin_to_shut_down()
                self._readers.close()
                self._opener.give_up()  # the writer opens the lock file for a moment when it needs it
            raise

    def _close(self, user: object) -> None:
        with _sharing.lock:
            self.drop_user(user)
            is_last = not self._users
            if is_last and _stores.get((self._label, self.is_read_only)) is self:
                _stores.pop((self._label, self.is_read_only), None)
        if is_last:
            self.shut_down(_EXIT_TIMEOUT_S)
        elif self.writer.queue.refusal is None:
            try:
                self.flush(_EXIT_TIMEOUT_S)
            except StoreClosedError:  # by the last user, meanwhile, who may not be done with it
                self.shut_down(_EXIT_TIMEOUT_S)

    def settle(self, timeout_s: float) -> None:
        """Wait until what is queued is committed, if it can be, also while another thread closes the store."""
        with suppress(FlushTimeoutError, StoreError):  # such as that of a store that this child cannot use
            if self.is_closed:
                self.writer.close(timeout_s)
            else:
                self.flush(timeout_s)

    def begin_to_shut_down(self) -> None:
        """Accept nothing more, whoever uses it, and have the writer write what is queued."""
        with _shutting_down.lock:
            self._users.clear()
            if self.holds_file:
                _closing.add(self)
                self._checkpointer.close()  # before the writer, whose close is to be the last of this process
                self.writer.stop()

    def shut_down(self, timeout_s: float) -> None:
        """Wait until what is queued is written, and close the file. May be repeated.

        Raises FlushTimeoutError: it takes longer than so many seconds. StoreError: what is queued is lost.
        """
        self.begin_to_shut_down()
        if not self.holds_file:
            return
        try:
            self.writer.close(timeout_s)
        except StoreError:
            self._let_go()
            raise
        self._let_go()  # not before the writer has ended: until then a fork pauses it, and the exit waits for it

    def _let_go(self) -> None:
        with _shutting_down.lock:
            if not self.holds_file:
                return  # another thread was faster
            self._readers.close()
            anchor, self._anchor = self._anchor, None
            if anchor is not None:
                close_quietly(anchor)
            self._opener.give_up()
            self.holds_file = False
            _closing.discard(self)

    def before_fork(self) -> None:
        """Let go of the file: SQLite must not be carried across a fork."""
        self._checkpointer.before_fork()
        is_released = self.writer.before_fork()
        self._has_let_go = self._readers.before_fork() and is_released

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._has_let_go = False
        self._readers.after_fork_in_parent()
        self.writer.after_fork_in_parent()
        self._checkpointer.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Drop what belongs to the parent without closing it.

        If the parent could not let go of the file, SQLite believes in this process, too, that it holds locks, which
        it does not: what it wrote might be lost. So the store cannot be used here.
        """
        has_let_go = self._has_let_go and not self._readers.are_in_use()  # by a signal handler, since then
        self._released = self._released and (has_let_go or not self.holds_file)
        self._has_let_go = False
        self._lock.after_fork_in_child()
        self.running_here = set()
        self._readers.after_fork_in_child(self._fork_error())
        if not self._released:
            _leaked_anchors.append(self._anchor)  # a thread of the parent may have held SQLite's lock of the memory
            self._anchor = None
        for service, reference in self._resources.items():
            reference.key = _resource_key(service)
            reference.forget()
        self._checkpointer.after_fork_in_child()
        refusal = self._read_only_error() if self.is_read_only else None
        self.writer.after_fork_in_child(refusal if self._released else self._fork_error())

    def _fork_error(self) -> StoreError:
        return guard.fork_error(self._label)


_leaked_anchors: list[apsw.Connection | None] = []


def _resource_key(service: str | None) -> str:
    return redact_json(resource_key(process_resource(service)))


def close_all() -> None:
    """Close what is still open at the end of the process. Every store gets its chance, whatever becomes of others."""
    steps: deque[Callable[[], None]] | None = None
    interrupted: Callable[[], None] | None = None
    interrupt: BaseException | None = None
    while steps is None or steps:
        try:
            if steps is None:
                steps = _steps_of_closing()
            while steps:
                steps[0]()
                steps.popleft()
        except BaseException as error:  # noqa: BLE001 -- Ctrl-C, or a handler that exits: less patience, but no loss
            interrupt = error
            if steps and steps[0] is interrupted:
                steps.popleft()
            elif steps:
                interrupted = steps[0]
    if interrupt is not None:
        raise interrupt


def _steps_of_closing() -> deque[Callable[[], None]]:
    deadline_ns = _deadline_ns(_EXIT_TIMEOUT_S)

    def finish(store: Store) -> None:
        try:
            store.shut_down(_seconds_until(deadline_ns))
        except (FlushTimeoutError, StoreError) as error:
            _log.error("%s", error)  # there is nobody to raise it to

    stores = _stores_with_files()
    # First tell all of them, so that they write at the same time.
    return deque([*(store.begin_to_shut_down for store in stores), *(partial(finish, store) for store in stores)])


def _flush_all() -> None:
    """Commit what is queued, also by those that another thread is closing."""
    stores = _known_stores()
    for store in stores:
        store.settle(0)  # first tell all of them, so that they write at the same time
    deadline_ns = _deadline_ns(_TERMINATION_TIMEOUT_S)
    for store in stores:
        store.settle(_seconds_until(deadline_ns))


def _deadline_ns(timeout_s: float) -> int:
    return clock.monotonic_ns() + int(timeout_s * 1e9)


def _seconds_until(deadline_ns: int) -> float:
    return max(0.0, (deadline_ns - clock.monotonic_ns()) / 1e9)


_multiprocessing_end = MultiprocessingEnd(close_all, _flush_all)


def _fork_steps() -> Iterator[ForkStep]:
    yield _shutting_down
    yield _opening
    yield _sharing
    yield from _stores_with_files()
    yield _multiprocessing_end
    yield guard  # last: the threads that have just been waited for may have opened files


def _child_steps() -> Iterator[ForkStep]:
    yield _shutting_down
    yield _opening
    yield _sharing
    yield guard
    yield from _known_stores()
    yield _multiprocessing_end


_forking = Forking(_fork_steps, _child_steps, lambda: bool(_stores_with_files()))
os.register_at_fork(
    before=_forking.before_fork,
    after_in_parent=_forking.after_fork_in_parent,
    after_in_child=_forking.after_fork_in_child,
)
os.register_at_fork(after_in_child=_multiprocessing_end.prepare)  # when the handlers of signals are back
atexit.register(close_all)
