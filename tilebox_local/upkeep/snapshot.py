"""A copy of a store while it is in use: SQLite's backup, page by page, out of one read transaction.

Why not VACUUM INTO: it builds every table and index anew, which takes more than twice as long, and for all of that time
its read transaction keeps the write-ahead log of the source from starting over. What was free in the source is free in
the copy; prune() is what makes a store smaller. The copy is brought to the disk bit by bit: if all of it waited until
the end, a commit of somebody else that waits for the disk would wait for it, too.

The copy is in rollback mode. A file in WAL mode needs a -wal and a -shm beside it as soon as somebody reads it, so it
could not be read on read-only media or in somebody else's folder. A Client that opens the copy switches it to WAL.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from tilebox_local.catalog import run
from tilebox_local.errors import StoreError
from tilebox_local.storage.connection import open_copy, translate_errors
from tilebox_local.upkeep.files import new_file
from tilebox_local.upkeep.progress import Progress

if TYPE_CHECKING:
    import apsw

    from tilebox_local.storage.store import Store
    from tilebox_local.upkeep.progress import Report

__all__ = ["close_copy", "snapshot_store"]

_PAGES_PER_STEP = 1000  # Ctrl-C comes through between two steps
_STEPS_PER_SYNC = 2


def snapshot_store(
    store: Store, target: str | os.PathLike[str], *, overwrite: bool = False, progress: Report | None = None
) -> Path:
    """Copy all that is committed, and all telemetry of this process so far, to a new file; see Client.snapshot."""
    store.flush()
    with new_file(target, overwrite=overwrite) as unfinished, store.snapshot() as connection:
        run(connection, "begin_snapshot")  # the copy is of this moment
        with translate_errors(str(target)):
            _copy(connection, unfinished, progress)
    return Path(target).expanduser().resolve()


def _copy(source: apsw.Connection, path: Path, progress: Report | None) -> None:
    descriptor = os.open(path, os.O_RDWR)  # closed after SQLite's own: nobody else has the file open yet
    copy = open_copy(path.as_uri())
    try:
        # The source stays as it is inside of its read transaction, so the backup does not start over when others write.
        with copy.backup("main", source, "main") as backup:
            for step in count(1):
                backup.step(_PAGES_PER_STEP)
                if progress is not None:
                    pages = backup.page_count
                    progress(Progress("copying", pages - backup.remaining, pages, "pages"))
                if backup.done:
                    break
                if step % _STEPS_PER_SYNC == 0:
                    os.fsync(descriptor)
        close_copy(copy)
    finally:
        copy.close()
        os.close(descriptor)


def close_copy(copy: apsw.Connection) -> None:
    """Make one plain file of a new database: no write-ahead log, none expected by its header."""
    copy.pragma("journal_mode", "delete")
    if copy.pragma("journal_mode") != "delete":
        raise StoreError(f"{copy.filename} cannot be closed as one file.")
    copy.close()
