"""Snapshots: a copy of a store in use."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from store_support import add_scope, added_scopes, make_spans, names, outside, read_line, run_ok, start, until
from upkeep_support import everything, fill

from tilebox_local import Client
from tilebox_local.errors import ArgumentError, StoreFullError, StoreOpenError
from tilebox_local.storage.store import Store, open_store
from tilebox_local.upkeep import snapshot as snapshot_module
from tilebox_local.upkeep.snapshot import snapshot_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tilebox_local.observability.tracing import WorkflowTracer

# -- under load -------------------------------------------------------------------------------------------------

# Commits one span after the other, and notes each one's number in a file when it is committed.
WRITER = """
import os, sys
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage.store import open_store
store = open_store(sys.argv[1])
tracer = WorkflowTracer(store.writer.queue, store.resource(None))
acks = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
print("ready", flush=True)
number = 0
while not os.path.exists(sys.argv[4]):
    with tracer.span(f"{sys.argv[2]} {number}") as span:
        span.set_attribute("payload", "x" * 1000)
    store.transact(lambda connection: None)
    os.write(acks, f"{number}\\n".encode())
    number += 1
store.close()
"""
WRITERS = ("a", "b")
COPY = """
import shutil, sys
shutil.copyfile(*sys.argv[1:])
"""


class Load:
    """Two processes that write."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._files = {name: path.with_name(f"acks of {name}") for name in WRITERS}
        self._stop = path.with_name("stop")
        self.processes = [
            stack.enter_context(start(WRITER, path, name, file, self._stop)) for name, file in self._files.items()
        ]
        stack.callback(self._stop.touch)
        for process in self.processes:
            assert read_line(process) == "ready"

    def acked(self) -> dict[str, int]:
        """How many spans each process knows to be committed."""
        return {name: len(file.read_bytes().splitlines()) for name, file in self._files.items() if file.exists()}

    def wait_for_more(self, count: int = 20) -> None:
        """Wait until each process has committed so many more."""
        before = self.acked()
        until(lambda: all(self.acked().get(name, 0) >= before.get(name, 0) + count for name in WRITERS))

    def end(self) -> None:
        """Let the processes end by themselves."""
        self._stop.touch()
        for process in self.processes:
            assert process.wait(60) == 0


def complaints(copy: Path, acked: dict[str, int]) -> list[str]:
    """What is wrong with a copy, as another process sees it: damage, gaps, and what was committed and is not there."""
    try:
        (integrity,) = outside(copy, "SELECT group_concat(integrity_check) FROM pragma_integrity_check")
        found = [name for (name,) in outside(copy, "SELECT name FROM span_records")]
    except AssertionError as error:
        return [str(error)]
    wrong = [] if integrity == ("ok",) else [f"integrity: {integrity}"]
    for writer, count in acked.items():
        numbers = sorted(int(name.split()[1]) for name in found if name.startswith(f"{writer} "))
        if numbers != list(range(len(numbers))):
            wrong.append(f"{writer} has gaps")
        if len(numbers) < count:
            wrong.append(f"{writer} has {len(numbers)} of {count}")
    return wrong


def test_snapshots_while_two_processes_write(store: Store, path: Path) -> None:
    """Each copy is sound and has a prefix of what each process wrote, with all that was committed before it."""
    with ExitStack() as stack:
        load = Load(path, stack)
        for number in range(3):
            load.wait_for_more()
            acked = load.acked()
            copy = snapshot_store(store, path.with_name(f"copy {number}"))
            assert complaints(copy, acked) == []
        load.wait_for_more()
        load.end()
    assert complaints(path, load.acked()) == []


def test_a_plain_copy_is_no_snapshot(store: Store, path: Path) -> None:
    """The test above can fail: a copy of the file without its write-ahead log does not have what was committed."""
    with ExitStack() as stack:
        with store.snapshot() as connection:
            connection.execute(
                "SELECT count(*) FROM span_records"
            ).fetchall()  # nothing is copied into the file past it
            load = Load(path, stack)
            load.wait_for_more()
            acked = load.acked()
            run_ok(COPY, path, path.with_name("copy"))
        assert complaints(path.with_name("copy"), acked) != []
        load.end()


def test_a_snapshot_is_of_the_moment_when_it_began(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed while pages are copied does not wait for the copy, and is not in it."""
    store.transact(add_scope("before"))
    original = snapshot_module.open_copy

    def commit_and_open(filename: str) -> Any:
        store.transact(add_scope("while it is copied"))
        return original(filename)

    monkeypatch.setattr(snapshot_module, "open_copy", commit_and_open)
    copy = snapshot_store(store, path.with_name("copy"))
    assert outside(copy, "SELECT name FROM scope_records WHERE scope_no > 1") == [("before",)]
    assert added_scopes(store) == ["before", "while it is copied"]


# -- the copy ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "copies"
    folder.mkdir()
    return folder


def test_the_copy_is_one_file(path: Path, folder: Path) -> None:
    """A copy has all rows of the store in one file of mode 0600 that can be read as it is, also as immutable."""
    with Client(path) as client:
        fill(client)
        before = everything(client._store)
        assert client.snapshot(folder / "copy.db") == folder / "copy.db"
        assert everything(client._store) == before
    assert [file.name for file in folder.iterdir()] == ["copy.db"]
    assert stat.S_IMODE((folder / "copy.db").stat().st_mode) == 0o600
    read = """
import sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro&immutable=1", uri=True)
for question in ("PRAGMA journal_mode", "SELECT count(*) FROM tasks"):
    print(connection.execute(question).fetchone()[0])
"""
    folder.chmod(0o500)
    assert run_ok(read, folder / "copy.db") == f"delete\n{len(before['task_records'])}\n"
    folder.chmod(0o700)
    with Client(folder / "copy.db", read_only=True) as client:
        assert everything(client._store) == before
        assert client.check(full=True).problems == ()


def test_a_client_goes_on_from_a_copy(path: Path, folder: Path) -> None:
    """A client that opens a copy writes to it, in WAL mode, and leaves the original alone."""
    with Client(path) as client:
        client.snapshot(folder / "copy.db")
        with Client(folder / "copy.db") as other:
            make_spans(other.tracer, 3)
            other.flush()
            assert len(names(other._store)) == 3
            with other._store.read() as connection:
                assert connection.pragma("journal_mode") == "wal"
        assert names(client._store) == []


def test_a_copy_that_was_used_is_replaced(path: Path, folder: Path) -> None:
    """A newer snapshot in the place of one that has been written to lacks nothing of its own: that is no lost tail."""
    copy = folder / "copy.db"
    with Client(path) as client:
        client.snapshot(copy)
        with Client(copy) as other:
            for _ in range(5):
                make_spans(other.tracer, 1)
                other.flush()
        client.snapshot(copy, overwrite=True)
        with Client(copy) as other:
            assert other.doctor().incidents == []


def test_what_this_process_has_recorded_is_in_the_copy(store: Store, tracer: WorkflowTracer, folder: Path) -> None:
    """Telemetry that still waits for the writer is written before the copy is made."""
    make_spans(tracer, 50)
    copy = snapshot_store(store, folder / "copy.db")
    assert outside(copy, "SELECT count(*) FROM span_records") == [(50,)]


def test_a_store_in_memory_is_copied(folder: Path) -> None:
    """A store that only this process sees can be saved to a file."""
    with Client(":memory:") as client:
        fill(client)
        before = everything(client._store)
        client.snapshot(folder / "copy.db")
    with Client(folder / "copy.db", read_only=True) as client:
        assert everything(client._store) == before


# -- where it goes ----------------------------------------------------------------------------------------------


def test_a_file_that_exists_is_kept(store: Store, folder: Path) -> None:
    """A target that exists is refused, unless it may be overwritten; nothing else is left in the folder."""
    target = folder / "copy.db"
    target.write_text("mine")
    with pytest.raises(ArgumentError, match=r"copy\.db exists; name a new file"):
        snapshot_store(store, target)
    assert target.read_text() == "mine"
    snapshot_store(store, target, overwrite=True)
    snapshot_store(store, target, overwrite=True)
    assert outside(target, "SELECT count(*) FROM store_records") == [(2,)]
    assert [file.name for file in folder.iterdir()] == ["copy.db"]


def test_a_store_in_use_is_not_overwritten(store: Store, path: Path, folder: Path) -> None:
    """A target that is the store itself, or one that somebody has open, is refused, whatever is allowed."""
    link = folder / "link.db"
    link.symlink_to(path)
    live = open_store(folder / "live.db")
    for target in (path, link, folder / "live.db"):
        with pytest.raises(ArgumentError, match="in use"):
            snapshot_store(store, target, overwrite=True)
    live.close()
    before = len(list(folder.iterdir()))
    with pytest.raises(ArgumentError, match="is a directory"):
        snapshot_store(store, folder)
    with pytest.raises(StoreOpenError, match="No such file or directory"):
        snapshot_store(store, folder / "missing" / "copy.db")
    assert len(list(folder.iterdir())) == before


READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM store_records").fetchall()
print("ready", flush=True)
sys.stdin.readline()
"""


def test_a_copy_that_somebody_reads_is_not_overwritten(store: Store, folder: Path) -> None:
    """A target that another process reads right now is refused; afterwards it can be replaced."""
    target = snapshot_store(store, folder / "copy.db")
    with start(READER, target) as reader:
        assert read_line(reader) == "ready"
        with pytest.raises(ArgumentError, match=r"copy\.db is in use"):
            snapshot_store(store, target, overwrite=True)
        reader.communicate("go\n")
    assert snapshot_store(store, target, overwrite=True) == target


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(store: Store, tracer: WorkflowTracer, small_disk: Path) -> None:
    """Where there is no room, snapshot raises StoreFullError and leaves nothing behind; the store goes on."""
    for number in range(300):
        with tracer.span(f"span {number}") as span:
            span.set_attribute("payload", "x" * 2000)
    with pytest.raises(StoreFullError):
        snapshot_store(store, small_disk / "copy.db")
    assert list(small_disk.iterdir()) == []
    make_spans(tracer, 1)
    store.flush()
    assert len(names(store)) == 301


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_ctrl_c_leaves_nothing_behind(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot that is interrupted removes what it has written, and the next one works."""
    original = snapshot_module.open_copy

    def interrupt(filename: str) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return original(filename)

    monkeypatch.setattr(snapshot_module, "open_copy", interrupt)
    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(KeyboardInterrupt):
        snapshot_store(store, folder / "copy.db")
    assert list(folder.iterdir()) == []
    monkeypatch.undo()
    snapshot_store(store, folder / "copy.db")
