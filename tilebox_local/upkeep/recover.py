"""Get out of a damaged store what can be read, into a new one.

SQLite is not asked: the pages of the file and of its write-ahead log are read as they are, and nothing is written to
either. The rows go into a new store, of which `repair` then makes a whole.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from tilebox_local.catalog import run
from tilebox_local.errors import ArgumentError, NotATileboxStoreError, SchemaVersionError
from tilebox_local.storage.connection import immediate, open_copy, translate_errors
from tilebox_local.storage.schema import APPLICATION_ID, SCHEMA_VERSION, ensure_schema
from tilebox_local.upkeep.files import new_file, nobody_has_open
from tilebox_local.upkeep.pages import Image
from tilebox_local.upkeep.progress import Progress
from tilebox_local.upkeep.repair import Repair
from tilebox_local.upkeep.salvage import Salvage, read_tables
from tilebox_local.upkeep.snapshot import close_copy

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from tilebox_local.upkeep.progress import Report
    from tilebox_local.upkeep.salvage import Row, Table

__all__ = ["RecoverResult", "recover"]

_ROWS_PER_STATEMENT = 1000


@dataclass(frozen=True)
class RecoverResult:
    """What came of a recovery; all counts by table.

    `recovered`: rows in the new store. `rebuilt`: rows among them that stand for lost ones that others name. `lost`:
    rows that were seen but cannot be read or kept. `damaged_pages`: pages that cannot be read at all; nobody knows how
    many rows were on them. `altered`: rows in which something unreadable was replaced. `damaged_frames`: pages in the
    write-ahead log that are damaged, by the number. `foreign_tables`: tables of somebody else, which are not copied.
    `withheld_jobs`: unfinished jobs that lost something: their tasks do not run until the jobs are retried.
    """

    source: Path
    target: Path
    recovered: Mapping[str, int]
    rebuilt: Mapping[str, int]
    lost: Mapping[str, int]
    damaged_pages: Mapping[str, int]
    altered: Mapping[str, int]
    damaged_frames: int
    foreign_tables: tuple[str, ...]
    withheld_jobs: int

    @property
    def is_complete(self) -> bool:
        """Whether nothing was found to be missing."""
        return not (
            self.rebuilt
            or self.lost
            or self.damaged_pages
            or self.altered
            or self.damaged_frames
            or self.foreign_tables
            or self.withheld_jobs
        )


def recover(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, progress: Report | None = None
) -> RecoverResult:
    """Read all that can be read of a store that may be damaged, and make a new store of it.

    The file and its write-ahead log (`-wal`) are not changed; keep them until you have looked at the result. Rows that
    others name and that are lost are replaced by rows that say so ("lost"); counters are computed anew. Tasks stay in
    their states: those that were running are queued again by the next runner, as after every crash. The tasks of
    unfinished jobs that lost something are withheld: look at such a job, then retry or cancel it.

    Args:
        source: The damaged file, with its -wal beside it, if there is one.
        target: The new file; it must not exist. It is one file of mode 0600, and appears when it is complete.
        progress: Is told how far it is: pages, then tables.

    Returns:
        What was recovered and what was lost, by table.

    Raises:
        ArgumentError: `source` is no file, or `target` exists.
        StoreBusyError: a process has `source` open.
        NotATileboxStoreError: nothing of a store was found in it. SchemaVersionError: a newer version wrote it.
        StoreFullError: the disk is full; nothing is left of the new file.
    """
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        raise ArgumentError(f"{path} is not a file; name the store to recover from.")
    with nobody_has_open(path), new_file(target, overwrite=False) as unfinished, closing(Image(path)) as image:
        is_ours = _check_header(image, path)
        with translate_errors(str(target)), _new_store(unfinished) as connection:
            tables = read_tables(connection)
            salvage = Salvage(image, tables, dict(run(connection, "table_roots")))
            loading = _Loading(connection, tables, salvage, progress)
            with immediate(connection):
                loading.load(salvage.rows())
            if not (is_ours or salvage.schema_rows or loading.count):
                raise NotATileboxStoreError(f"Nothing of a tilebox-local store was found in {path}.")
            if progress is not None:
                progress(Progress("repairing", 0, len(tables), "tables"))
            with immediate(connection):
                repair = Repair(connection, tables)
                repair.run()
            if progress is not None:
                progress(Progress("repairing", len(tables), len(tables), "tables"))
            close_copy(connection)
    lost = salvage.lost_rows + loading.refused + repair.dropped
    return RecoverResult(
        source=path,
        target=Path(target).expanduser().resolve(),
        recovered=repair.row_counts,
        rebuilt=dict(repair.rebuilt),
        lost=dict(lost),
        damaged_pages=dict(salvage.damaged_pages),
        altered=dict(loading.altered + repair.altered),
        damaged_frames=image.damaged_frames,
        foreign_tables=tuple(salvage.foreign_tables),
        withheld_jobs=repair.withheld_jobs,
    )


def _check_header(image: Image, path: Path) -> bool:
    """Whether the header says that it is a store. Raises SchemaVersionError."""
    header = image.header
    if header is None:
        return False
    version = int.from_bytes(header[60:64], "big")
    application_id = int.from_bytes(header[68:72], "big")
    if application_id == APPLICATION_ID and version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path} was written by a newer tilebox-local (schema {version}, this version knows {SCHEMA_VERSION}).",
            found=version,
            supported=SCHEMA_VERSION,
            hint="Upgrade the package tilebox-local.",
        )
    return application_id == APPLICATION_ID


@contextmanager
def _new_store(path: Path) -> Iterator[apsw.Connection]:
    """An empty store, on a connection that does not wait for the disk."""
    connection = open_copy(path.as_uri())
    try:
        ensure_schema(connection, str(path))
        connection.pragma("journal_mode", "memory")
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)  # rows come with their counters
        yield connection
    finally:
        connection.close()


class _Loading:
    """Puts rows into an empty store. Where a key comes twice, the first row wins."""

    def __init__(
        self, connection: apsw.Connection, tables: dict[str, Table], salvage: Salvage, progress: Report | None
    ) -> None:
        self._connection = connection
        self._tables = tables
        self._salvage = salvage
        self._progress = progress
        self.count = 0
        self._changes = 0
        self.refused: Counter[str] = Counter()
        self.altered: Counter[str] = Counter()

    def load(self, rows: Iterator[Row]) -> None:
        """Insert all rows, then those of an empty store that are missing."""
        initial = {name: self._take(table) for name, table in self._tables.items()}
        self._changes = self._connection.total_changes()
        for (name, width), group in groupby(rows, key=lambda row: (row.table, len(row.values))):
            statement = self._insert(self._tables[name], width)
            while chunk := [self._clean(row) for row in islice(group, _ROWS_PER_STATEMENT)]:
                self._insert_rows(name, statement, chunk)
                self._report(is_done=False)
        self._report(is_done=True)
        for name, values in initial.items():
            table = self._tables[name]
            self._connection.executemany(self._insert(table, len(table.columns)), values).fetchall()

    def _report(self, *, is_done: bool) -> None:
        if self._progress is not None:
            total = self._salvage.page_count
            self._progress(Progress("reading", total if is_done else self._salvage.pages_read, total, "pages"))

    def _take(self, table: Table) -> list[tuple[apsw.SQLiteValue, ...]]:
        columns = ", ".join(table.columns)
        rows = self._connection.execute(f"SELECT {columns} FROM {table.name}").fetchall()
        self._connection.execute(f"DELETE FROM {table.name}").fetchall()
        return rows

    def _insert(self, table: Table, width: int) -> str:
        columns, values = ", ".join(table.columns[:width]), ", ".join("?" * width)
        return f"INSERT OR IGNORE INTO {table.name} ({columns}) VALUES ({values})"

    def _insert_rows(self, name: str, statement: str, rows: list[tuple[apsw.SQLiteValue, ...]]) -> None:
        for row in rows:
            try:
                self._connection.execute(statement, row).fetchall()
            except apsw.ConstraintError:
                self.refused[name] += 1
                continue
            # Not changes(): an ignored row leaves it as it was.
            if self._connection.total_changes() == self._changes:
                self.refused[name] += 1
            else:
                self.count += 1
            self._changes = self._connection.total_changes()

    def _clean(self, row: Row) -> tuple[apsw.SQLiteValue, ...]:
        """The values, with U+FFFD where text is damaged."""
        if not any(type(value) is bytearray for value in row.values):
            return row.values
        self.altered[row.table] += 1
        return tuple(
            bytes(value).decode(errors="replace") if isinstance(value, bytearray) else value for value in row.values
        )
