"""After a crash a write-ahead log lies beside the file; a copy that is put in the file's place is not mixed with it."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from typing import TYPE_CHECKING

import pytest
from store_support import add_scope, added_scopes, outside, read_line, run, start

from tilebox_local import Client
from tilebox_local.errors import StoreCorruptError, StoreOpenError
from tilebox_local.storage.leftover import Leftover, _commit_no

if TYPE_CHECKING:
    from pathlib import Path

# Commits, makes a copy, commits again: with the whole log moved into the file in between, if that is asked for.
CRASHING = """
import sys
from tilebox_local import Client
path, copy, restarts = sys.argv[1:]
client = Client(path)
store = client._store
INSERT = "INSERT INTO scope_records (name) VALUES (?)"
def commit(count, name):
    for number in range(count):
        store.transact(lambda connection: connection.execute(INSERT, (f"{name} {number}",)).fetchall())
commit(20, "early")
client.snapshot(copy)
commit(5, "middle")
if int(restarts):
    assert store.checkpoint()
commit(20, "late")
print("done", flush=True)
sys.stdin.read()
"""


def crash(path: Path, *, restarts: bool = True) -> Path:
    """A store that was killed with commits in its log, and a snapshot of an earlier moment, which is returned."""
    copy = path.with_name("copy.db")
    with start(CRASHING, path, copy, str(int(restarts))) as process:
        assert read_line(process) == "done"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert path.with_name("store.db-wal").stat().st_size > 0
    return copy


def in_wal_mode(copy: Path) -> None:
    """Make of a snapshot what `cp` makes of a closed store."""
    connection = sqlite3.connect(copy)
    assert connection.execute("PRAGMA journal_mode=wal").fetchall() == [("wal",)]
    connection.close()


def contents(path: Path) -> dict[str, bytes]:
    """The database and its log, byte by byte."""
    return {name: path.with_name(name).read_bytes() for name in ("store.db", "store.db-wal")}


def move_log_away(path: Path) -> None:
    """What the error says is to be done."""
    for suffix in ("-wal", "-shm"):
        shutil.move(f"{path}{suffix}", f"{path}{suffix}.old")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_snapshot_beside_the_log_of_a_crash_is_refused(path: Path, read_only: bool) -> None:
    """A backup that is put back after a crash is not opened with the log of the crash, and neither is changed."""
    shutil.copy(crash(path), path)
    before = contents(path)
    with pytest.raises(StoreOpenError, match=r"store\.db-wal belongs to the file that was here before") as caught:
        Client(path, read_only=read_only)
    assert "Move store.db-wal" in str(caught.value.hint)
    assert contents(path) == before
    move_log_away(path)
    with Client(path) as client:
        assert added_scopes(client._store) == [f"early {number}" for number in range(20)]
        (incident,) = client.doctor().incidents
        assert incident.message.startswith("The last 25 commits are missing")


@pytest.mark.parametrize("read_only", [False, True])
def test_an_older_file_beside_the_log_of_a_crash_is_refused(path: Path, read_only: bool) -> None:
    """The same for a plain copy of the file as it was before the log began."""
    copy = crash(path)
    in_wal_mode(copy)
    shutil.copy(copy, path)
    before = contents(path)
    with pytest.raises(StoreOpenError, match=r"belongs to a newer copy: it begins with commit \d+, the file ends with"):
        Client(path, read_only=read_only)
    assert contents(path) == before


def test_without_the_comparison_two_files_are_mixed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: SQLite applies the log to whatever is there, and nobody is told what is missing."""
    copy = path.with_name("first.db")
    with Client(copy) as client:
        client._store.transact(add_scope("first"))
    crash(path)
    shutil.copy(copy, path)
    monkeypatch.setattr(Leftover, "refuse_strange", lambda self, noted: None)
    with Client(path) as client:
        assert added_scopes(client._store)[-1] == "late 19"
        assert "first" not in added_scopes(client._store)
        assert client.doctor().incidents == []


@pytest.mark.parametrize("is_noted", [True, False])
def test_another_store_beside_the_log_of_a_crash_is_refused(path: Path, is_noted: bool) -> None:
    """Another store is not opened with the log, also if its lock file is not there to say which store was here."""
    other = path.with_name("other.db")
    with Client(other) as client:
        client._store.transact(add_scope("other"))
    crash(path)
    shutil.copy(other, path)
    if not is_noted:
        path.with_name("store.db.lock").unlink()
    before = contents(path)
    with pytest.raises(StoreOpenError, match="seems to belong to store" if is_noted else "belongs to a newer copy"):
        Client(path)
    assert contents(path) == before
    move_log_away(path)
    with Client(path) as client:
        assert added_scopes(client._store) == ["other"]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_copy_beside_the_log_of_a_crash_is_refused(path: Path, read_only: bool) -> None:
    """A copy that has gone on elsewhere, and comes back beside the old log, is not taken back in time by it."""
    crash(path)
    newer = path.with_name("newer.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{newer}{suffix}")
    with Client(newer) as client:
        client._store.transact(add_scope("newer"))
    shutil.copy(newer, path)
    before = contents(path)
    with pytest.raises(StoreCorruptError, match="belongs to an older copy of the file"):
        Client(path, read_only=read_only)
    assert contents(path) == before
    move_log_away(path)
    with Client(path) as client:
        assert added_scopes(client._store)[-1] == "newer"


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("has_lock", [True, False])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_log_and_its_own_file_belong_together(path: Path, restarts: bool, has_lock: bool, read_only: bool) -> None:
    """After a crash the store opens with all that was committed, also as a copy of its files elsewhere."""
    crash(path, restarts=restarts)
    moved = path.with_name("moved.db")
    for suffix in ("", "-wal", *([".lock"] if has_lock else [])):
        shutil.copy(f"{path}{suffix}", f"{moved}{suffix}")
    with Client(moved, read_only=read_only) as client:
        assert added_scopes(client._store)[-1] == "late 19"
        assert client.doctor().incidents == []


def test_a_new_store_in_the_place_of_another_one(path: Path) -> None:
    """The lock file of a store that was deleted does not stand in the way of the next one, not even after a crash."""
    Client(path).close()
    path.unlink()
    crash(path)
    with Client(path) as client:
        assert added_scopes(client._store)[-1] == "late 19"


def test_a_store_that_is_killed_while_it_is_made(path: Path) -> None:
    """A new store whose creation ends before its log is emptied is not taken for the one that was deleted before."""
    Client(path).close()
    path.unlink()
    script = """
import os, sys
from tilebox_local import Client
from tilebox_local.storage import schema
class Copied(schema.apsw.Connection):
    def wal_checkpoint(self, *arguments, **options):
        super().wal_checkpoint(mode=schema.apsw.SQLITE_CHECKPOINT_PASSIVE)
        os._exit(0)
schema.apsw.Connection = Copied
Client(sys.argv[1])
"""
    assert run(script, path).returncode == 0
    assert path.with_name("store.db-wal").stat().st_size > 0
    with Client(path, read_only=True) as client:
        assert added_scopes(client._store) == []
    with Client(path) as client:
        client._store.transact(add_scope("one"))


def test_a_page_that_was_cut_off_is_no_evidence() -> None:
    """Somebody may empty the log while it is looked at."""
    assert [_commit_no(page) for page in (b"", b"\r\0\0\0\1", b"\r" * 4095)] == [None, None, None]


def test_a_log_after_a_foreign_vacuum(path: Path) -> None:
    """A log in which pages have got other uses is no evidence of anything; SQLite reads it."""
    with Client(path) as client:
        client._store.transact(add_scope("one"))
    script = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA wal_autocheckpoint=0")
connection.execute("CREATE TABLE theirs (value)")
connection.execute("DROP TABLE theirs")
connection.execute("VACUUM")
connection.execute("UPDATE commit_records SET commit_no = commit_no + 5")
os._exit(0)
"""
    assert run(script, path).returncode == 0
    assert path.with_name("store.db-wal").stat().st_size > 0
    with Client(path) as client:
        assert added_scopes(client._store) == ["one"]
    assert outside(path, "SELECT integrity_check FROM pragma_integrity_check") == [("ok",)]
