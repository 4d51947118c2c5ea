"""Stores in odd places and with odd companions: links, logs without a store, shared memory that is gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from store_support import add_scope, added_scopes, outside, run

from tilebox_local import Client
from tilebox_local.errors import StoreOpenError
from tilebox_local.storage.store import open_store

KILLED = """
import os, sys
from tilebox_local.storage.store import open_store
store = open_store(sys.argv[1])
add = "INSERT INTO scope_records (name) VALUES ('committed')"
store.transact(lambda connection: connection.execute(add).fetchall())
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def killed(path: Path) -> Path:
    """A store whose only process was killed: one row is in its write-ahead log."""
    assert run(KILLED, path).returncode == -9
    assert Path(f"{path}-wal").stat().st_size > 0
    return path


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".lock"}


@pytest.mark.parametrize("is_empty", [False, True], ids=["missing", "empty"])
def test_a_log_without_its_store_is_refused_untouched(is_empty: bool, killed: Path) -> None:
    """A log whose store is gone, or is empty, is not thrown away: opening is refused until somebody decides."""
    kept = killed.with_name("kept")
    killed.rename(kept)
    if is_empty:
        killed.touch()
    before = _contents(killed.parent)
    with pytest.raises(StoreOpenError) as caught:
        Client(killed)
    assert str(caught.value) == (
        f"{killed}-wal is there, but the store that it belongs to is not. Put the store back to {killed}, or move the "
        "-wal file away."
    )
    assert _contents(killed.parent) == before
    kept.replace(killed)  # what the error advises
    store = open_store(killed)
    assert added_scopes(store) == ["committed"]
    store.close()


def test_an_empty_log_without_store_does_no_harm(path: Path) -> None:
    """A log of 0 bytes holds nothing, and does not stand in the way of a new store."""
    Path(f"{path}-wal").touch()
    store = open_store(path)
    store.transact(add_scope("new"))
    assert outside(path, "SELECT name FROM scope_records WHERE scope_no > 1") == [("new",)]
    store.close()


@pytest.mark.parametrize("suffixes", [("-shm",), ("-shm", ".lock")])
def test_deleted_shared_memory_is_made_again(suffixes: tuple[str, ...], killed: Path) -> None:
    """Shared memory (and lock file) that went away while nobody had the store open are made anew from the log."""
    for suffix in suffixes:
        Path(f"{killed}{suffix}").unlink()
    store = open_store(killed)
    store.transact(add_scope("later"))
    assert added_scopes(store) == ["committed", "later"]
    store.close()
    assert outside(killed, "SELECT integrity_check FROM pragma_integrity_check") == [("ok",)]


def test_shared_memory_of_another_time_is_not_believed(killed: Path) -> None:
    """Garbage in place of the shared memory is replaced by what the log says."""
    Path(f"{killed}-shm").write_bytes(os.urandom(32768))
    store = open_store(killed)
    assert added_scopes(store) == ["committed"]
    store.close()


def test_a_symbolic_link_is_the_store_that_it_names(path: Path, tmp_path: Path) -> None:
    """Through a link one gets the same store, with its log and lock beside the file and nothing beside the link."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    link = folder / "link.db"
    link.symlink_to(path)
    with Client(link) as first, Client(path) as second:
        assert first._store is second._store
        assert first.path == str(path)
        first._store.transact(add_scope("through the link"))
        assert [file.name for file in folder.iterdir()] == ["link.db"]
        assert outside(path, "SELECT name FROM scope_records WHERE scope_no > 1") == [("through the link",)]
    assert link.is_symlink()


def test_a_hard_link_is_refused(path: Path) -> None:
    """A file with two names is refused by either of them, since each would have a log of its own; one name is fine."""
    Client(path).close()
    other = path.with_name("other.db")
    os.link(path, other)
    before = _contents(path.parent)
    for name in (path, other):
        with pytest.raises(StoreOpenError) as caught:
            Client(name)
        assert str(caught.value) == (
            f"{name} has 2 names (hard links); its write-ahead log belongs to one of them. Delete the other names, or "
            "copy the file and open the copy."
        )
    assert _contents(path.parent) == before
    path.unlink()
    store = open_store(other)
    store.transact(add_scope("one name"))
    assert added_scopes(store) == ["one name"]
    store.close()
