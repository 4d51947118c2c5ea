"""The file behind a path: whether it is still the one that was opened, and whether it holds all that was committed.

Somebody may delete, rename or replace the file, or its write-ahead log, while it is open. SQLite would go on writing to
what nobody else can see. So what is at the path is compared with what was opened before anybody is told of a commit.

Who commits notes the number of the commit in the lock file, beside the database. A damaged write-ahead log ends for
SQLite where the damage begins, without an error: then the database knows of fewer commits than were noted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from itertools import chain, count
from typing import TYPE_CHECKING, NamedTuple

from tilebox_local import clock
from tilebox_local.catalog import value
from tilebox_local.errors import StoreReplacedError
from tilebox_local.storage.connection import copy_database

if TYPE_CHECKING:
    from pathlib import Path

    import apsw

    from tilebox_local.storage.lockfile import LockFile

__all__ = ["MissingCommits", "StoreFile"]

_MAX_RESCUED_BYTES = 1 << 30


@dataclass(frozen=True)
class MissingCommits:
    """Commits that are not in the file any more: how many, and when the last of them was made."""

    count: int
    last_ns: int


class _Note(NamedTuple):
    """The last commit: of which store, which one, and when."""

    store_id: str
    commit_no: int
    time_ns: int


class StoreFile:
    """One file and its write-ahead log. Used by one writer thread, `verify` by any thread.

    Args:
        path: Absolute path of the database.
        lock: Its lock file, which takes the note.
    """

    def __init__(self, path: Path, lock: LockFile) -> None:
        self._path = str(path)
        self._main_path, self._log_path = os.fsencode(path), os.fsencode(f"{path}-wal")  # bytes are quicker
        self._lock = lock
        self._main: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None
        self._store_id = b""

    def attach(self, connection: apsw.Connection) -> None:
        """Remember what `connection` has open. Later ones must have the same file open, but maybe a new log.

        Raises StoreReplacedError: the path leads to another file by now.
        """
        self._store_id = value(connection, "store_id").encode()  # SQLite opens the log when something is first read
        if self._main is None:
            self._main = _identity(self._main_path)
        self._log = _identity(self._log_path)
        self.verify()

    def attach_to_read(self) -> None:
        """Remember what the path leads to, for who only reads: the log comes and goes with those who write."""
        self._main = _identity(self._main_path)

    def detach(self) -> None:
        """The connection is about to be closed: others may delete the log then, and have a new one."""
        self._log = None

    def verify(self) -> None:
        """Compare what is at the path with what was opened. Two system calls.

        Raises StoreReplacedError: the file or its log was deleted, renamed or replaced.
        """
        self.verify_main()
        log = self._log
        if log is not None and _identity(self._log_path) != log:
            raise self._error("lost its write-ahead log, which somebody deleted,")

    def verify_main(self) -> None:
        """The same without the log, for before it is opened again."""
        if self._main is not None and _identity(self._main_path) != self._main:
            raise self._error("was deleted, renamed or replaced")

    @property
    def is_same_file(self) -> bool:
        """Whether the path still leads to the file that was opened, whatever has become of its log."""
        return _identity(self._main_path) == self._main

    def _error(self, what: str, rescued: str = "") -> StoreReplacedError:
        return StoreReplacedError(
            f"{self._path} {what} while this process had it open.{rescued}",
            hint="Nothing more is written to it; start again, with a new Client or a new process.",
        )

    def rescue(self, connection: apsw.Connection, error: StoreReplacedError) -> StoreReplacedError:
        """Copy what `connection` still sees to a file beside the path; the error that says so."""
        target = self._rescue_target()
        size = int(connection.pragma("page_count")) * int(connection.pragma("page_size"))
        try:
            if size > min(_MAX_RESCUED_BYTES, shutil.disk_usage(os.path.dirname(target)).free // 2):  # noqa: PTH120
                raise OSError("it is too large to be copied")
            copy_database(connection, target)
            rescued = f" What it held is in {target}."
        except Exception as failure:  # noqa: BLE001 -- the error that led here is the one to show
            rescued = f" What it held could not be saved ({failure})."
        return StoreReplacedError(f"{error.message}{rescued}", hint=error.hint)

    def _rescue_target(self) -> str:
        """A name that is free: several processes may have had the file open, and each rescues what it sees."""
        first = f"{self._path}.rescued-{self._store_id[:8].decode()}"
        numbered = (f"{first}-{number}" for number in count(2))
        return next(name for name in chain([first], numbered) if not os.path.lexists(name))

    # -- which commit was the last -------------------------------------------------------------------------------

    def note_commit(self, commit_no: int) -> None:
        """Note that this commit has happened. Inside of the lock."""
        with contextlib.suppress(OSError):  # no file system without room keeps a commit from counting
            self._lock.write_note(b"%s %020d %020d\n" % (self._store_id, commit_no, clock.wall_ns()))

    def forget_note(self) -> None:
        """There is no store here yet, so the note is of one that was. Inside of the lock."""
        if self._read_note() is not None:
            with contextlib.suppress(OSError):
                self._lock.erase_note()
                self._lock.sync_note()

    def note_store(self, connection: apsw.Connection) -> None:
        """Note which store is here, unless that is known, before it has a log of its own. Inside of the lock."""
        if self.noted_store_id() != self._store_id.decode():
            self.note_commit(value(connection, "commit_no"))
            # A power cut must not leave the note of a store that was here before beside the log of this one.
            with contextlib.suppress(OSError):
                self._lock.sync_note()

    def noted_store_id(self) -> str | None:
        """The store that was last written to at this path; None if nobody knows."""
        note = self._read_note()
        return None if note is None else note.store_id

    def missing_commits(self, connection: apsw.Connection) -> MissingCommits | None:
        """What was noted and is not there any more; None if nothing is missing. Inside of the lock."""
        note = self._read_note()
        if note is None or note.store_id != self._store_id.decode():
            return None
        missing = note.commit_no - value(connection, "commit_no")
        return MissingCommits(missing, note.time_ns) if missing > 0 else None

    def _read_note(self) -> _Note | None:
        try:
            store_id, commit_no, time_ns = self._lock.read_note().partition(b"\n")[0].split()
            return _Note(store_id.decode(), int(commit_no), int(time_ns))
        except ValueError:  # nothing is noted
            return None


def _identity(path: bytes) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 -- for speed; stat does not open the file, which would be dangerous
    except OSError:
        return None
    return status.st_dev, status.st_ino
