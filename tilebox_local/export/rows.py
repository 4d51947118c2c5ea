"""Rows of a view as CSV, JSON or NDJSON, read by sqlite-utils from a snapshot.

Not from the store: another SQLite in a process that has the store open would destroy its locks (storage/guard.py), and
a long read keeps the write-ahead log from starting over.
"""

from __future__ import annotations

import csv
import tempfile
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tilebox_local.errors import ArgumentError, StoreError
from tilebox_local.export.schema_docs import read_schema_docs
from tilebox_local.upkeep.snapshot import snapshot_store

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from uuid import UUID

    from tilebox_local.storage.store import Store

__all__ = ["FORMATS", "export_rows"]

FORMATS = ("csv", "json", "ndjson")
_LEAST_SQLITE = (3, 37)  # tables that are STRICT
_JSON_COLUMNS = ("attributes", "links")


def export_rows(store: Store, view: str, target: IO[str], file_format: str, job_id: UUID | None = None) -> int:
    """Write the rows of a view as they are right now; while that lasts, others go on writing to the store.

    CSV is that of RFC 4180 with a line of headings; `attributes` and `links` are JSON text there, and objects in the
    other formats. Takes the space of a snapshot in the folder for temporary files (`$TMPDIR`), but
    no more memory than a row does.

    Args:
        store: The store.
        view: Name of a view of schema.sql.
        target: Text file to write to; left open.
        file_format: "csv"; "json", one array, a row on each line; "ndjson", an object on each line.
        job_id: Only rows of this job.

    Returns:
        How many rows there were.

    Raises:
        ArgumentError: no such view or format, or the rows of the view do not belong to jobs. StoreFullError: no room
        for the snapshot. StoreError: Python has a SQLite that is too old to read it.
    """
    if file_format not in FORMATS:
        raise ArgumentError(f"There is no format {file_format!r:.50}; choose one of {', '.join(FORMATS)}.")
    import sqlite3  # that of sqlite-utils; loaded here, so that nobody meets it who does not export

    columns = _columns(view, job_id)
    if sqlite3.sqlite_version_info < _LEAST_SQLITE:
        raise StoreError(
            f"The SQLite of this Python is {sqlite3.sqlite_version}; exports need 3.37 or later.",
            hint="`tilebox-local sql --csv` and `--json` do without.",
        )
    with tempfile.TemporaryDirectory(prefix="tilebox-local-") as folder:
        snapshot = snapshot_store(store, Path(folder) / "snapshot.db")
        with closing(sqlite3.connect(f"{snapshot.as_uri()}?mode=ro", uri=True)) as connection:
            rows = _rows(connection, view, job_id)
            if file_format == "csv":
                return _write_csv(columns, rows, target)
            return _write_json(rows, target) if file_format == "json" else _write_ndjson(rows, target)


def _columns(view: str, job_id: UUID | None) -> list[str]:
    views = {one.name: one for one in read_schema_docs().views}
    if view not in views:
        raise ArgumentError(f"There is no view {view!r:.100}.", hint=f"Choose one of {', '.join(views)}.")
    columns = [column.name for column in views[view].columns]
    if job_id is not None and "job_id" not in columns:
        raise ArgumentError(f"The rows of {view} do not belong to jobs.", hint="Export all of them.")
    return columns


def _rows(connection: sqlite3.Connection, view: str, job_id: UUID | None) -> Iterator[dict[str, Any]]:
    from sqlite_utils import Database

    table = Database(connection)[view]
    if job_id is None:
        return table.rows
    return table.rows_where("job_id = ?", [str(job_id)])


def _write_csv(columns: list[str], rows: Iterator[dict[str, Any]], target: IO[str]) -> int:
    writer = csv.writer(target)
    writer.writerow(columns)
    counter = count()
    writer.writerows(row.values() for row, _ in zip(rows, counter, strict=False))
    return next(counter)


def _write_ndjson(rows: Iterator[dict[str, Any]], target: IO[str]) -> int:
    counter = count()
    target.writelines(f"{_json(row)}\n" for row, _ in zip(rows, counter, strict=False))
    return next(counter)


def _write_json(rows: Iterator[dict[str, Any]], target: IO[str]) -> int:
    counter = count()
    for row, number in zip(rows, counter, strict=False):
        target.write(f"{',' if number else '['}\n{_json(row)}")
    written = next(counter)
    target.write("\n]\n" if written else "[]\n")
    return written


def _json(row: dict[str, Any]) -> str:
    import orjson

    for column in _JSON_COLUMNS:
        if row.get(column) is not None:
            row[column] = orjson.loads(row[column])
    return orjson.dumps(row).decode()
