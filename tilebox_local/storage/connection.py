"""Open connections to a store. The only module that calls apsw.Connection or translates apsw's errors.

Each pragma is one statement of its own and is read back: apsw runs a string of several statements lazily and stops
at the first one that returns a row.
"""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
    from collections.abc import Iterator

__all__ = [
    "READER_TIMEOUT_S",
    "enable_wal",
    "immediate",
    "keep_log_at_close",
    "open_checkpointer",
    "open_copy",
    "open_reader",
    "open_writer",
    "set_synchronous",
    "translate_error",
    "translate_errors",
]

# Earlier versions lose commits when a WAL is reset while another process writes; 3.52.0 was withdrawn.
_MIN_SQLITE = (3, 51, 3)
READER_TIMEOUT_S = 10.0
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
    StoreFullError: "Free some space; everything stored before is intact and writing resumes by itself.",
    StoreCorruptError: "Save what is readable with `tilebox-local recover FILE NEW_FILE`; it leaves FILE as it is.",
    NotATileboxStoreError: "Nothing was written to it; choose another path for the store.",
    StoreOpenError: "Check that the directory exists and that you may write to it.",
}


def translate_error(error: apsw.Error, path: str, otherwise: type[TileboxLocalError] = StoreError) -> TileboxLocalError:
    """Our error for one of apsw's, most specific first; `otherwise` for those that say nothing about the store."""
    for cls in type(error).__mro__:
        if cls in _ERRORS:
            kind: type[TileboxLocalError] = _ERRORS[cls]
            break
    else:
        kind = otherwise
    if kind is NotATileboxStoreError:
        return kind(f"{path} is not a SQLite database.", hint=_HINTS[kind])
    return kind(f"{path}: {error}.", hint=_HINTS.get(kind))


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
    """Retry with short random sleeps until the timeout; SQLite calls it with the number of tries so far."""

    __slots__ = ("_deadline", "_timeout_s")

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._deadline = 0.0

    def __call__(self, tries: int) -> bool:
        now = time.monotonic()
        if tries == 0:
            self._deadline = now + self._timeout_s
        if now > self._deadline:
            return False
        time.sleep(_jitter.uniform(0.00005, 0.0002 if tries < 10 else 0.001))
        return True


def _configure(connection: apsw.Connection, timeout_s: float) -> None:
    connection.set_busy_handler(_BusyHandler(timeout_s))  # before anything that takes a lock
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
    _set_pragma(connection, "temp_store", 2, 2)
    _set_pragma(connection, "cache_size", -16000, -16000)
    _set_pragma(connection, "cell_size_check", 1, 1)


def open_writer(filename: str, *, full_sync: bool) -> apsw.Connection:
    """A connection for the writer thread of one process. Creates the file; the schema is checked elsewhere.

    `full_sync` waits for the disk at every commit (synchronous=FULL), else only when the writer asks for it.
    """
    connection = apsw.Connection(
        filename, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    )
    try:
        if connection.readonly("main"):  # SQLite falls back to reading without a word
            raise StoreOpenError(f"{connection.filename} cannot be written.", hint=_HINTS[StoreOpenError])
        _configure(connection, timeout_s=60.0)
        _set_pragma(connection, "foreign_keys", 1, 1)
        set_synchronous(connection, full=full_sync)
        connection.pragma("journal_size_limit", _MAX_LOG_BYTES)
    except BaseException:
        connection.close()
        raise
    return connection


def set_synchronous(connection: apsw.Connection, *, full: bool) -> None:
    """FULL (2) waits for the disk at each commit, NORMAL (1) at checkpoints only. Outside of transactions."""
    value = 2 if full else 1
    connection.pragma("synchronous", value)


def keep_log_at_close(connection: apsw.Connection, keep: bool) -> None:
    """Whether closing the last connection leaves the write-ahead log alone: it may be a stranger's."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(keep))


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
        connection.close()
        raise
    return connection


def open_reader(filename: str, *, timeout_s: float = READER_TIMEOUT_S) -> apsw.Connection:
    """A connection that cannot write. Must not be used by two threads at once."""
    connection = apsw.Connection(filename, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
    try:
        _configure(connection, timeout_s)
        _set_pragma(connection, "query_only", 1, 1)
    except BaseException:
        connection.close()
        raise
    return connection


def open_copy(filename: str) -> apsw.Connection:
    """A connection that fills a new file, which nobody knows of before it is complete: no journal, no syncs."""
    connection = apsw.Connection(filename, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
    try:
        _configure(connection, timeout_s=1.0)
        connection.pragma("synchronous", 0)
        _set_pragma(connection, "locking_mode", "exclusive", "exclusive")
        connection.pragma("journal_mode", "off")
    except BaseException:
        connection.close()
        raise
    return connection
