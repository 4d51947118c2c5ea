"""Does a write-ahead log that was left behind belong to the database file beside it?

After a crash the log holds what the file does not have yet. Somebody may put a backup, or another store, in the place
of the file and leave the log: SQLite cannot tell, applies it at the next opening, and makes one database of the pages
of two. So who opens a file that has a log looks first at the file alone:

- A snapshot is in rollback mode; a file gets a log only after its header says otherwise.
- The lock file notes the store_id of the store that was here.
- Every transaction of ours counts itself in commit_records. The file alone has all commits before the first one of the
  log, since a log starts over only then, and none after its last one, since it gets them from there.

What cannot be read is no evidence: then SQLite has the last word.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import apsw

from tilebox_local.catalog import run, value
from tilebox_local.errors import StoreCorruptError, StoreOpenError
from tilebox_local.storage.connection import close_quietly, open_alone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Leftover"]

# https://www.sqlite.org/fileformat2.html, sections 1.3, 1.6, 2.1 and 4.
_WAL_MAGIC = 0x377F0682
_WAL_HEADER_BYTES, _FRAME_HEADER_BYTES, _PAGE_BYTES = 32, 24, 4096
_COOKIE_OFFSET = 40
_LEAF_TABLE = 13
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


class _Alone(NamedTuple):
    """What the database file says without its log."""

    store_id: str
    commit_no: int
    commit_page: int  # the page that has the number
    schema_version: int  # SQLite's: it changes when pages get other uses


class Leftover:
    """A database file and the log beside it. Changes nothing; others may commit and checkpoint meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._alone: _Alone | None = None

    def refuse_strange(self, noted_store_id: str | None) -> None:
        """Before SQLite opens the file. Raises StoreOpenError: the log belongs to another one."""
        alone = self._alone = self._look()
        if alone is None:
            return
        if noted_store_id not in (None, alone.store_id):
            # The log itself does not say whose it is.
            raise self._refusal(
                f"seems to belong to store {noted_store_id}, which was here, and the file is store {alone.store_id}",
                f" If they do belong to it, delete {self._path.name}.lock, which says who was here.",
            )
        try:
            is_snapshot, first = self._is_in_rollback_mode(), self._first_commit(alone)
        except apsw.Error:
            return
        if first is None:
            return
        if is_snapshot:
            raise self._refusal("belongs to the file that was here before, and the file is a snapshot")
        now = self._look()  # what was moved into the file meanwhile was in the log
        if now is not None and now.commit_no < first - 1:
            raise self._refusal(
                f"belongs to a newer copy: it begins with commit {first}, the file ends with {now.commit_no}"
            )

    def refuse_stale(self, connection: apsw.Connection) -> None:
        """After SQLite has opened the file. Raises StoreCorruptError: the log would take the file back in time."""
        commit_no = value(connection, "commit_no")
        if self._alone is not None and commit_no < self._alone.commit_no:
            raise StoreCorruptError(
                f"{self._path} was not opened: the file has commit {self._alone.commit_no}, and {self._log.name} ends "
                f"with commit {commit_no}. It is damaged, or belongs to an older copy of the file.",
                hint=f"If you have put the file there, move {self._log.name} and {self._path.name}-shm away; else save "
                "what is readable with `tilebox-local recover FILE NEW_FILE`.",
            )

    def _refusal(self, what: str, doubt: str = "") -> StoreOpenError:
        return StoreOpenError(
            f"{self._path} was not opened: {self._log.name} {what}. SQLite would mix the two.",
            hint=f"Move {self._log.name} and {self._path.name}-shm away to use the file as it is, or put the file back "
            f"that they belong to.{doubt}",
        )

    def _look(self) -> _Alone | None:
        """The database file alone; None if it cannot be read without its log."""
        try:
            connection = open_alone(self._path.as_uri())
        except apsw.Error:
            return None
        try:
            return _Alone(
                str(value(connection, "store_id")),
                value(connection, "commit_no"),
                dict(run(connection, "table_roots"))["commit_records"],
                connection.pragma("schema_version"),
            )
        except (apsw.Error, KeyError, TypeError, ValueError):  # torn by a checkpoint that did not end, or no store
            return None
        finally:
            close_quietly(connection)

    def _is_in_rollback_mode(self) -> bool:
        with _opened(self._path, apsw.SQLITE_OPEN_MAIN_DB) as file:
            return file.xRead(2, 18) == b"\1\1"

    def _first_commit(self, alone: _Alone) -> int | None:
        """Number of the first commit of ours in the log; None if there is none, or none that can be found."""
        with _opened(self._log, apsw.SQLITE_OPEN_WAL) as file:
            end = file.xFileSize() - _FRAME_HEADER_BYTES - _PAGE_BYTES
            if end < _WAL_HEADER_BYTES:
                return None
            header = file.xRead(_WAL_HEADER_BYTES, 0)
            if int.from_bytes(header[:4], "big") & ~1 != _WAL_MAGIC:
                return None
            for offset in range(_WAL_HEADER_BYTES, end + 1, _FRAME_HEADER_BYTES + _PAGE_BYTES):
                frame = file.xRead(_FRAME_HEADER_BYTES, offset)
                if frame[8:16] != header[16:24]:  # left from before the log started over
                    return None
                page_no, content = int.from_bytes(frame[:4], "big"), offset + _FRAME_HEADER_BYTES
                if page_no == alone.commit_page:
                    return _commit_no(file.xRead(_PAGE_BYTES, content))
                if page_no == 1:
                    cookie = int.from_bytes(file.xRead(4, content + _COOKIE_OFFSET), "big")
                    if cookie != alone.schema_version:
                        return None  # the number may be on another page from here on
        return None


def _commit_no(page: bytes) -> int | None:
    """The number in the only row of commit_records; None if the page is something else, or cut off."""
    if len(page) < _PAGE_BYTES:
        return None
    cell = int.from_bytes(page[8:10], "big")
    if page[0] != _LEAF_TABLE or page[3:5] != b"\0\1" or cell + 5 > len(page):
        return None
    # A cell: length, rowid (which is the key), length of the record's header, NULL for the key, type of the number.
    kind = page[cell + 4]
    if page[cell + 1 : cell + 4] != b"\1\3\0":
        return None
    if kind in (8, 9):
        return kind - 8
    return int.from_bytes(page[cell + 5 : cell + 5 + _INTEGER_BYTES[kind]], "big") if kind in _INTEGER_BYTES else None


@contextmanager
def _opened(path: Path, kind: int) -> Iterator[apsw.VFSFile]:
    # Not open(): closing a descriptor that SQLite does not know of would drop the locks of this process.
    file = apsw.VFSFile("", str(path), [kind | apsw.SQLITE_OPEN_READONLY, 0])
    try:
        yield file
    finally:
        file.xClose()
