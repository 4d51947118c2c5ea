"""The write-ahead log: who keeps it from shrinking, and that it shrinks."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING

import apsw
import pytest
from store_support import PATIENCE_S, added_scopes, outside, read_line, start, until

from tilebox_local import Client
from tilebox_local.errors import StoreError
from tilebox_local.storage import checkpointer, writer
from tilebox_local.storage.connection import open_checkpointer

if TYPE_CHECKING:
    from pathlib import Path

    from tilebox_local.storage.store import Store

READER = """
import pathlib, sqlite3, sys
connection = sqlite3.connect(f"{pathlib.Path(sys.argv[1]).as_uri()}?mode=ro", uri=True, isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM store_records").fetchall()
print("reading", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
print("done", flush=True)
sys.stdin.read()
"""


ENDLESS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT (SELECT count(*) FROM scope_records) FROM n
"""


def fill(connection: apsw.Connection) -> None:
    """About 60 pages of changes."""
    rows = [(f"{number} {'x' * 2000}",) for number in range(100)]
    connection.executemany("INSERT OR REPLACE INTO scope_records (name) VALUES (?)", rows).fetchall()


def log_bytes(path: Path) -> int:
    """Size of the write-ahead log."""
    return path.with_name("store.db-wal").stat().st_size


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some hundred pages count as a large log, and attempts to shrink it follow each other at once."""
    for name, value in {
        "_BACKGROUND_PAGES": 25,
        "_COMMITTER_PAGES": 100,
        "_OVERDUE_PAGES": 200,
        "_LARGE_PAGES": 400,
        "_RESTART_EVERY_NS": 0,
    }.items():
        monkeypatch.setattr(checkpointer, name, value)


@pytest.mark.usefixtures("small")
def test_a_reader_that_stays(store: Store, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Writers go on beside a reader that stays in its transaction; it is named once, and the log shrinks after it."""
    with start(READER, path) as reader:
        assert read_line(reader) == "reading"
        for _ in range(20):
            store.transact(fill)
        until(lambda: caplog.records)
        for _ in range(20):
            store.transact(fill)
        pinned = log_bytes(path)
        assert pinned > 400 * 4096
        message = f"since process {reader.pid} (python"
        assert [message in record.message for record in caplog.records] == [True]
        assert reader.stdin is not None
        reader.stdin.write("go\n")
        reader.stdin.flush()
        assert read_line(reader) == "done"
        store.transact(fill)
        store.transact(fill)  # the first one finishes the checkpoint, this one starts the log over
        with store.read() as connection:
            pages = connection.wal_checkpoint()[0]
        assert pages < 200
        reader.communicate("")


def test_a_log_that_is_small_again_is_nothing_to_complain_of(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process may have started the log over since it was large; a reader that is in the way does no harm."""
    store.transact(fill)
    with start(READER, path) as reader:
        assert read_line(reader) == "reading"
        store.transact(fill)
        with closing(open_checkpointer(path.as_uri(), timeout_s=0.0)) as connection:
            connection.execute("SELECT count(*) FROM store_records").fetchall()
            with pytest.raises(apsw.BusyError):
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
            store._checkpointer._restart(connection)
        reader.communicate("")
    assert caplog.records == []


@pytest.mark.usefixtures("small")
def test_a_huge_log_ends_our_own_reading(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the log grows beyond all measure, a statement that reads in this process ends with an error."""
    monkeypatch.setattr(checkpointer, "_HUGE_PAGES", 400)
    reading, failed = threading.Event(), threading.Event()

    def read() -> None:
        with pytest.raises(StoreError, match="interrupted"), store.read() as connection:
            consume(connection.execute(ENDLESS))
        failed.set()

    def consume(cursor: apsw.Cursor) -> None:
        for _ in cursor:
            reading.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert reading.wait(PATIENCE_S)
    for _ in range(100):
        store.transact(fill)
        if failed.is_set():
            break
    assert failed.wait(PATIENCE_S)
    thread.join()
    assert "since this process is in one long read transaction" in caplog.text


def test_an_idle_store_empties_its_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing has been written for a while, the log is moved into the file, which is complete without it then."""
    monkeypatch.setattr(writer, "_SYNC_INTERVAL_NS", 1_000_000)
    monkeypatch.setattr(writer, "_EMPTY_LOG_AFTER_S", 0.001)
    with Client(path) as client:
        client._store.transact(fill)
        until(lambda: log_bytes(path) == 0)
        assert outside(path, "SELECT count(*) FROM scope_records") == [(101,)]
        client._store.transact(lambda connection: connection.execute("DELETE FROM scope_records WHERE scope_no > 1"))
        until(lambda: log_bytes(path) == 0)
        assert added_scopes(client._store) == []


def test_an_idle_store_leaves_the_log_to_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody reads, the log stays; nobody waits for it."""
    monkeypatch.setattr(writer, "_SYNC_INTERVAL_NS", 1_000_000)
    monkeypatch.setattr(writer, "_EMPTY_LOG_AFTER_S", 0.001)
    with Client(path) as client, start(READER, path) as reader:
        assert read_line(reader) == "reading"
        client._store.transact(fill)
        until(lambda: not client._store._checkpointer.has_log())
        assert log_bytes(path) > 0
        client._store.transact(fill)
        reader.communicate("go\n")
