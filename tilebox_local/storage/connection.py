"""Open connections to a store. The only module that calls apsw.Connection or translates apsw's errors.

Each pragma is one statement of its own and is read back: apsw runs a string of several statements lazily and stops
at the first one that returns a row.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import apsw

from tilebox_local.errors import (
    NotATileboxStoreError,
    StoreBusyError,
    StoreClosedError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreOpenError,
    TileboxLocalError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = [
    "READER_TIMEOUT_S",
    "LentConnection",
    "close_quietly",
    "copy_database",
    "enable_wal",
    "immediate",
    "impatient",
    "is_full_sync",
    "is_out_of_room",
    "keep_log_at_close",
    "open_alone",
    "open_checkpointer",
    "open_copy",
    "open_lent",
    "open_private",
    "open_reader",
    "open_writer",
    "set_synchronous",
    "translate_error",
    "translate_errors",
]

# Earlier versions lose commits when a WAL is reset while another process writes; 3.52.0 was withdrawn.
_MIN_SQLITE = (3, 51, 3)
READER_TIMEOUT_S = 10.0
_WRITER_TIMEOUT_S = 60.0
_PATIENCE_S = 5.0
_MAX_LOG_BYTES = 64 * 1024 * 1024  # kept of the write-ahead log when it starts over
_MAX_VALUE_BYTES = 16 * 1024 * 1024
# Jitter for waiting readers: SQLite's own handler sleeps up to 100 ms between tries and misses its turn.
_jitter = random.Random()  # noqa: S311

if tuple(int(part) for part in apsw.sqlite_lib_version().split(".")) < _MIN_SQLITE:  # pragma: no cover
    raise ImportError(
        f"tilebox-local needs SQLite {'.'.join(map(str, _MIN_SQLITE))} or later; apsw brings "
        f"{apsw.sqlite_lib_version()}. Upgrade the package apsw."
    )

_ERRORS: dict[type[apsw.Error], type[StoreError]] = {
    apsw.BusyError: StoreBusyError,
    apsw.LockedError: StoreBusyError,
    apsw.FullError: StoreFullError,
    apsw.CorruptError: StoreCorruptError,
    apsw.NotADBError: NotATileboxStoreError,
    apsw.CantOpenError: StoreOpenError,
    apsw.ReadOnlyError: StoreOpenError,
    apsw.PermissionsError: StoreOpenError,
    apsw.AuthError: StoreOpenError,
    apsw.ConnectionClosedError: StoreClosedError,
}

_HINTS: dict[type[TileboxLocalError], str] = {
    StoreBusyError: "Another process holds the file locked; try again, or find it with `lsof`.",
    StoreFullError: "Free some space; everything stored before is intact and writing resumes by itself. "
    "What is sorted needs room, too, in SQLITE_TMPDIR, TMPDIR or /var/tmp.",
    StoreCorruptError: "Save what is readable with `tilebox-local recover FILE NEW_FILE`; it leaves FILE as it is.",
    NotATileboxStoreError: "Nothing was written to it; choose another path for the store.",
    StoreOpenError: "Check that the directory exists and that you may write to it.",
}


def translate_error(error: apsw.Error, path: str, otherwise: type[TileboxLocalError] = StoreError) -> TileboxLocalError:
    """Our error for one of apsw's, most specific first; `otherwise` for those that say nothing about the store."""
    kind: type[TileboxLocalError] = otherwise
    if is_out_of_room(error):
        kind = StoreFullError
    else:
        for cls in type(error).__mro__:
            if cls in _ERRORS:
                kind = _ERRORS[cls]
                break
    if kind is NotATileboxStoreError:
        return kind(f"{path} is not a SQLite database.", hint=_HINTS[kind])
    return kind(f"{path}: {error}.", hint=_HINTS.get(kind))


def is_out_of_room(error: apsw.Error) -> bool:
    """Whether the disk has no room for what was asked, or for the -shm file that the first to open a store needs."""
    return isinstance(error, apsw.FullError) or (
        isinstance(error, apsw.IOError) and getattr(error, "extendedresult", None) == apsw.SQLITE_IOERR_SHMSIZE
    )


@contextmanager
def translate_errors(path: str) -> Iterator[None]:
    """Raise our errors for apsw's inside the block."""
    try:
        yield
    except apsw.Error as error:
        raise translate_error(error, path) from error


@contextmanager
def immediate(connection: apsw.Connection) -> Iterator[None]:
    """One write transaction: the lock is taken at BEGIN, since a later upgrade from reading fails at once."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _set_pragma(connection: apsw.Connection, name: str, value: str | int, expected: str | int) -> None:
    # The assignment may return a row of its own, so the value is read back by a second statement.
    connection.pragma(name, value)
    found = connection.pragma(name)
    if found != expected:
        raise StoreError(f"PRAGMA {name} is {found!r} after setting it to {value!r}.")


class _BusyHandler:
    """Retry with short random sleeps until the timeout; SQLite calls it with the number of tries so far.

    `on_slow` is called once, when a lock has been waited for some seconds.
    """

    __slots__ = ("_begun", "_on_slow", "_timeout_s")

    def __init__(self, timeout_s: float, on_slow: Callable[[], object] | None = None) -> None:
        self._timeout_s = timeout_s
        self._on_slow = on_slow
        self._begun = 0.0

    def __call__(self, tries: int) -> bool:
        now = time.monotonic()
        if tries == 0:
            self._begun = now
        if now > self._begun + self._timeout_s:
            return False
        if self._on_slow is not None and now > self._begun + _PATIENCE_S:
            on_slow, self._on_slow = self._on_slow, None
            on_slow()
        time.sleep(_jitter.uniform(0.00005, 0.0002 if tries < 10 else 0.001))
        return True


@contextmanager
def impatient(connection: apsw.Connection, timeout_s: float) -> Iterator[None]:
    """Inside the block, wait for locks at most this long; after it, as long as a writer does."""
    connection.set_busy_handler(_BusyHandler(timeout_s) if timeout_s else None)
    try:
        yield
    finally:
        connection.set_busy_handler(_BusyHandler(_WRITER_TIMEOUT_S))


def _configure(
    connection: apsw.Connection,
    timeout_s: float,
    on_slow: Callable[[], object] | None = None,
    *,
    sorts_in_files: bool = False,
) -> None:
    connection.set_busy_handler(_BusyHandler(timeout_s, on_slow))  # before anything that takes a lock
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    # Without it, SQLite plans a statement anew for each value compared with a column of a partial index.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
    connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
    connection.pragma("mmap_size", 0)
    if connection.pragma("mmap_size"):  # None: the file system has no memory maps at all (in-memory stores)
        raise StoreError("PRAGMA mmap_size cannot be set to 0.")
    # In files: what is sorted takes 16 MB of memory at most, and one allocation rather than one for each row, for which
    # two threads that sort would wait for each other. In memory: needs no room on a disk.
    temp_store = 1 if sorts_in_files else 2
    _set_pragma(connection, "temp_store", temp_store, temp_store)
    _set_pragma(connection, "cache_size", -16000, -16000)
    _set_pragma(connection, "cell_size_check", 1, 1)


def open_writer(filename: str, *, full_sync: bool, on_slow: Callable[[], object] | None = None) -> apsw.Connection:
    """A connection for the writer thread of one process. Creates the file; the schema is checked elsewhere.

    `full_sync` waits for the disk at every commit (synchronous=FULL), else only when the writer asks for it.
    `on_slow` is called once, when a lock has been waited for some seconds.
    """
    connection = apsw.Connection(
        filename, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    )
    try:
        if connection.readonly("main"):  # SQLite falls back to reading without a word
            raise StoreOpenError(f"{connection.filename} cannot be written.", hint=_HINTS[StoreOpenError])
        _configure(connection, _WRITER_TIMEOUT_S, on_slow)
        _set_pragma(connection, "foreign_keys", 1, 1)
        set_synchronous(connection, full=full_sync)
        connection.pragma("journal_size_limit", _MAX_LOG_BYTES)
    except BaseException:
        close_quietly(connection)
        raise
    return connection


def set_synchronous(connection: apsw.Connection, *, full: bool) -> None:
    """FULL (2) waits for the disk at each commit, NORMAL (1) at checkpoints only. Outside of transactions."""
    value = 2 if full else 1
    connection.pragma("synchronous", value)


def is_full_sync(connection: apsw.Connection) -> bool:
    """Whether the connection waits for the disk at each commit."""
    return bool(connection.pragma("synchronous") == 2)


def close_quietly(connection: apsw.Connection) -> None:
    """Close a connection on which nothing is open. All that was committed is in the file or in its log already.

    A checkpoint that fails meanwhile is no error for SQLite; a VFS that is written in Python raises it nevertheless.
    """
    with suppress(apsw.Error):
        connection.close()


def keep_log_at_close(connection: apsw.Connection, keep: bool) -> None:
    """Whether closing the last connection leaves the write-ahead log alone: it may be a stranger's."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(keep))


def copy_database(source: apsw.Connection, target: str) -> None:
    """Copy all that `source` sees into a new file, which appears under its name when it is complete.

    Raises OSError and apsw.Error; nothing is left behind then.
    """
    unfinished = f"{target}.{os.getpid()}"
    os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        copy = apsw.Connection(unfinished)
        source.execute("BEGIN")  # else the copying starts over whenever somebody commits
        try:
            with copy.backup("main", source, "main") as backup:
                while not backup.done:
                    backup.step(1000)
        finally:
            source.execute("ROLLBACK")
            close_quietly(copy)
        os.replace(unfinished, target)  # noqa: PTH105
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def enable_wal(connection: apsw.Connection) -> None:
    """Switch a file to WAL mode. Raises StoreError where WAL is not available."""
    if connection.pragma("journal_mode") != "wal":
        connection.pragma("journal_mode", "wal")
    mode = connection.pragma("journal_mode")
    if mode not in ("wal", "memory"):  # "memory": an in-memory store has no file to protect
        raise StoreError(f"The store cannot use write-ahead logging here (journal_mode is {mode!r}).")


def open_checkpointer(filename: str, *, timeout_s: float = 1.0) -> apsw.Connection:
    """A connection that only checkpoints, and waits `timeout_s` seconds for readers where it has to."""
    connection = apsw.Connection(filename, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
    try:
        _configure(connection, timeout_s)
        set_synchronous(connection, full=False)
    except BaseException:
        close_quietly(connection)
        raise
    return connection


def open_reader(
    filename: str, *, timeout_s: float = READER_TIMEOUT_S, on_slow: Callable[[], object] | None = None
) -> apsw.Connection:
    """A connection that cannot write. Must not be used by two threads at once.

    It waits `timeout_s` seconds for locks; `on_slow` is called once, when one has been waited for some seconds.
    """
    connection = apsw.Connection(filename, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
    try:
        _configure(connection, timeout_s, on_slow, sorts_in_files=True)
        _set_pragma(connection, "query_only", 1, 1)
    except BaseException:
        close_quietly(connection)
        raise
    return connection


class LentConnection(apsw.Connection):
    """A read-only connection that its user closes, with `close()` or by leaving a `with` block.

    Not for two threads at once. In a child that was forked while it was open it raises StoreError.
    """

    refusal: StoreError | None = None  # in a forked child

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None, /
    ) -> Literal[False]:
        self.close()
        return False

    def close(self, force: bool = False) -> None:
        """Close it. Idempotent. Not in a forked child: that would end the parent's locks."""
        if self.refusal is None:
            super().close(force)


class _LentCursor(apsw.Cursor):
    """A cursor with what pandas needs beyond apsw's: a `description` that stays without rows, and `fetchmany`."""

    def __init__(self, connection: apsw.Connection) -> None:
        super().__init__(connection)
        self.columns: tuple[tuple[str, Any, None, None, None, None, None], ...] = ()
        self.exec_trace = _note_columns

    @property
    def description(self) -> tuple[tuple[str, Any, None, None, None, None, None], ...]:  # type: ignore[override]
        """Name and declared type of each column."""
        return self.columns

    def fetchmany(self, size: int = 1) -> list[tuple[Any, ...]]:
        """The next `size` rows; fewer at the end."""
        return list(itertools.islice(self, size))


def _note_columns(cursor: apsw.Cursor, _statement: str, _bindings: Any) -> bool:
    refusal = getattr(cursor.connection, "refusal", None)
    if refusal is not None:
        raise refusal
    if isinstance(cursor, _LentCursor):
        cursor.columns = tuple((name, kind, None, None, None, None, None) for name, kind in cursor.get_description())
    return True


def open_lent(filename: str) -> LentConnection:
    """A connection for the user's own hands: SQLite opens the file for reading only."""
    connection = LentConnection(filename, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        _configure(connection, READER_TIMEOUT_S, sorts_in_files=True)
        _set_pragma(connection, "query_only", 1, 1)
        connection.cursor_factory = _LentCursor
    except BaseException:
        close_quietly(connection)
        raise
    return connection


def open_alone(filename: str) -> apsw.Connection:
    """A connection that sees the database file without its write-ahead log, takes no locks and leaves nothing."""
    return apsw.Connection(f"{filename}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def open_copy(filename: str) -> apsw.Connection:
    """A connection that fills a new file, which nobody knows of before it is complete: no journal, no syncs."""
    connection = apsw.Connection(filename, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
    try:
        _configure(connection, timeout_s=1.0)
        connection.pragma("synchronous", 0)
        _set_pragma(connection, "locking_mode", "exclusive", "exclusive")
        connection.pragma("journal_mode", "off")
    except BaseException:
        close_quietly(connection)
        raise
    return connection


def open_private() -> apsw.Connection:
    """A connection to an empty database in memory, which nobody else sees and which goes with it."""
    connection = apsw.Connection(":memory:")
    try:
        _configure(connection, timeout_s=0)
        connection.pragma("journal_mode", "memory")
    except BaseException:
        close_quietly(connection)
        raise
    return connection
