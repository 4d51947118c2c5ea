"""Opening the file of a store: is it ours, may it be used here, and does it hold all that was committed to it?

Everything happens under the lock file, so that no two processes create, check or migrate at once. Owned by the store.
"""

from __future__ import annotations

import itertools
import logging
import os
from typing import TYPE_CHECKING

import apsw

from tilebox_local import clock
from tilebox_local.catalog import run, value
from tilebox_local.errors import NotATileboxStoreError, StoreBusyError, StoreError, StoreOpenError
from tilebox_local.storage.bookkeeping import write_incident
from tilebox_local.storage.connection import (
    close_quietly,
    immediate,
    is_out_of_room,
    keep_log_at_close,
    open_reader,
    open_writer,
    translate_errors,
)
from tilebox_local.storage.file import StoreFile
from tilebox_local.storage.filesystem import check_folder, check_local
from tilebox_local.storage.guard import guard, refuse_inherited, release
from tilebox_local.storage.leftover import Leftover
from tilebox_local.storage.lockfile import LockFile
from tilebox_local.storage.locks import find_lock_holders, process_name
from tilebox_local.storage.schema import check_schema, ensure_schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["MEMORY", "Opener"]

MEMORY = ":memory:"
_SMALLEST_DATABASE = 512
_MAGIC = b"SQLite format 3\0"

_log = logging.getLogger("tilebox.workflows.internal")
_memory_numbers = itertools.count(1)


class Opener:
    """Opens connections of one path, and says who is in the way. `filename` is what SQLite calls the file.

    Args:
        path: Absolute path of the database; None for one in memory.
        full_sync: Whether write connections wait for the disk at each commit.
    """

    def __init__(self, path: Path | None, *, full_sync: bool) -> None:
        self.path = path
        self.full_sync = full_sync
        if path is None:
            name = f"tilebox-local-{next(_memory_numbers)}"
            self.filename, self.label = f"file:/{name}?vfs=memdb", MEMORY
            self.lock = LockFile(None)
        else:
            self.filename, self.label = path.as_uri(), str(path)
            self.lock = LockFile(f"{path}.lock")
        self.file = None if path is None else StoreFile(path, self.lock)

    def open_checked(self) -> apsw.Connection:
        """Open the write connection under the lock file, and make sure of the schema."""
        try:
            if self.path is not None:
                _check_path(self.path)
                refuse_inherited(self.path)  # not only inside of the lock: the parent may hold it, and not let go
            with self.lock.held(on_slow=self.name_lockers), translate_errors(self.label):
                leftover = None if self.path is None else self._prepare_file(self.path)
                if self.path is not None:
                    guard(self.path, self)
                return self._with_reserve(lambda: self._connect_checked(leftover))
        except NotATileboxStoreError:
            self.lock.remove_if_new()
            raise
        except StoreBusyError as error:
            raise self._locked_error() from error
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            hint = "Check that the directory exists and that you may write to it."
            raise StoreOpenError(f"{self.label} cannot be opened: {error.strerror}.", hint=hint) from error

    def open_to_read(self) -> None:
        """Check an existing file, and how it can be read."""
        assert self.path is not None  # noqa: S101 -- open_store sees to it
        try:
            _check_path(self.path)
            if not self.path.exists():
                raise StoreOpenError(f"{self.label} does not exist, and is not made to be read.")
            log = self.path.with_name(f"{self.path.name}-wal")
            if not log.exists() and not os.access(self.path.parent, os.W_OK):
                # Nobody has it open, and SQLite could not make the files that it needs beside one that may change.
                self.filename += "?immutable=1"
            guard(self.path, self)
            with translate_errors(self.label):
                leftover = self._find_leftover(self.path)
                connection = open_reader(self.filename, on_slow=self.name_lockers)
                try:
                    keep_log_at_close(connection, leftover is not None)
                    check_schema(connection, self.label)
                    if leftover is not None:
                        leftover.refuse_stale(connection)
                    if self.file is not None:
                        self.file.attach_to_read()
                finally:
                    close_quietly(connection)
        except StoreBusyError as error:
            raise self._locked_error() from error
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreOpenError(f"{self.label} cannot be opened: {error.strerror}.") from error

    def open_again(self) -> apsw.Connection:
        """The write connection after a fork; the file has been checked before it. The caller holds the lock file."""
        if self.file is not None:
            self.file.verify_main()  # SQLite would create what is missing
        return self._with_reserve(self._connect_writer)

    def _with_reserve(self, connect: Callable[[], apsw.Connection]) -> apsw.Connection:
        """`connect()`, on a full disk with the room that the lock file keeps in reserve."""
        try:
            connection = connect()
        except apsw.Error as error:
            if not (is_out_of_room(error) and self.lock.release_reserve()):
                raise
            connection = connect()
        try:
            self.lock.reserve()
        except BaseException:
            close_quietly(connection)
            raise
        return connection

    def _connect_writer(self) -> apsw.Connection:
        connection = open_writer(self.filename, full_sync=self.full_sync)
        try:
            # Opening reads nothing: make SQLite find out now whether there is room for the -shm file.
            connection.pragma("schema_version")
            if self.file is not None:
                self.file.attach(connection)
        except BaseException:
            close_quietly(connection)
            raise
        return connection

    def give_up(self) -> None:
        """Close the lock file, and stop guarding: at once, or when the last connection is closed."""
        self.lock.close()
        release(self)

    def name_lockers(self) -> bool:
        """Say who keeps others from writing; whether somebody does."""
        others = self._lockers()
        if others:
            _log.error("%s is locked by %s; waiting for it.", self.label, others)
        return bool(others)

    def _lockers(self) -> str:
        holders = None if self.path is None else find_lock_holders(self.path)
        lockers = [] if holders is None else holders.writers or holders.inside
        return ", ".join(process_name(pid) for pid in lockers if pid != os.getpid())

    def _locked_error(self) -> StoreBusyError:
        """Nobody of ours keeps a file locked for so long."""
        return StoreBusyError(
            f"{self.label} is locked by {self._lockers() or 'another program'}, and stays so.",
            hint="End its transaction or the program; `PRAGMA locking_mode=exclusive` keeps everybody else out.",
        )

    def name_readers(self) -> str:
        """Who is in the middle of reading, for messages."""
        readers = [] if self.path is None else find_lock_holders(self.path).readers
        names = ", ".join(process_name(pid) for pid in readers)
        return names and f"{names} {'is' if len(readers) == 1 else 'are'}"

    def _connect_checked(self, leftover: Leftover | None) -> apsw.Connection:
        connection = open_writer(self.filename, full_sync=self.full_sync, on_slow=self.name_lockers)
        try:
            keep_log_at_close(connection, leftover is not None)
            ensure_schema(connection, self.label)
            if leftover is not None:
                leftover.refuse_stale(connection)
            keep_log_at_close(connection, False)
            if self.file is not None:
                self.file.attach(connection)
                self._look_for_lost_tail(connection, self.file)
                self.file.note_store(connection)
        except BaseException:
            close_quietly(connection)
            raise
        return connection

    def _prepare_file(self, path: Path) -> Leftover | None:
        """Create the file if there is none; its log, if it has one. The caller holds the lock file."""
        if _log_bytes(path) and not (path.exists() and path.stat().st_size):
            # SQLite would delete it, and with it what it holds of the store that was here.
            raise StoreOpenError(
                f"{path}-wal is there, but the store that it belongs to is not.",
                hint=f"Put the store back to {path}, or move the -wal file away.",
            )
        if not (path.exists() and path.stat().st_size):
            assert self.file is not None  # noqa: S101 -- there is a path
            self.file.forget_note()
        if not path.exists():
            path.touch(mode=0o600)
        elif path.stat().st_nlink > 1:
            # Each name has a write-ahead log of its own: whoever uses the other name does not see ours.
            raise StoreOpenError(
                f"{path} has {path.stat().st_nlink} names (hard links); its write-ahead log belongs to one of them.",
                hint="Delete the other names, or copy the file and open the copy.",
            )
        return self._find_leftover(path)

    def _find_leftover(self, path: Path) -> Leftover | None:
        """The log beside the file, if there is one. Raises StoreOpenError: it belongs to another file."""
        if not _log_bytes(path):
            return None
        leftover = Leftover(path)
        assert self.file is not None  # noqa: S101 -- there is a path
        leftover.refuse_strange(self.file.noted_store_id())
        return leftover

    def _look_for_lost_tail(self, connection: apsw.Connection, file: StoreFile) -> None:
        missing = file.missing_commits(connection)
        if missing is None:
            return
        last = clock.ns_to_datetime(missing.last_ns).isoformat(timespec="milliseconds")
        message = (
            f"The last {missing.count} commits are missing, the newest of {last}: the power failed, the write-ahead "
            "log is damaged, or an older copy of the file was put in its place."
        )
        _log.error("%s: %s", self.label, message)
        with immediate(connection):
            write_incident(connection, "tail lost", message, last_seen_ns=missing.last_ns)
            run(connection, "count_commit")
        file.note_commit(value(connection, "commit_no"))


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


def _log_bytes(path: Path) -> int:
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size
    except FileNotFoundError:
        return 0
