"""The file is deleted, renamed or replaced under an open store, or commits vanish from its end: both are noticed."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from store_support import add_scope, added_scopes, change_closed_file, make_spans, outside, read_line, run, start

from tilebox_local import Client
from tilebox_local.errors import StoreReplacedError
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage.file import StoreFile
from tilebox_local.storage.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tilebox_local.storage.store import Store


def delete(path: Path) -> None:
    """`rm store.db*`."""
    for file in list(path.parent.glob("store.db*")):
        file.unlink()


def rename(path: Path) -> None:
    """`mv store.db elsewhere.db`."""
    path.rename(path.with_name("elsewhere.db"))


def replace(path: Path) -> None:
    """`cp old.db new.db; mv new.db store.db`."""
    subprocess.run(["cp", path, path.with_name("new.db")], check=True)
    path.with_name("new.db").rename(path)


def delete_log(path: Path) -> None:
    """What SQLite of another copy in this process does when it closes the file."""
    path.with_name("store.db-wal").unlink()


def rescued(path: Path) -> Path:
    """The only rescued file."""
    (file,) = [file for file in path.parent.glob("store.db.rescued-*") if file.suffix[-4:] not in ("-wal", "-shm")]
    return file


def store_id(store: Store) -> str:
    """What the store calls itself."""
    with store.read() as connection:
        return str(connection.execute("SELECT value FROM store_records WHERE key = 'store_id'").get)


@pytest.fixture
def lost(path: Path) -> Iterator[Store]:
    """A store with three stored spans."""
    store = open_store(path)
    make_spans(WorkflowTracer(store.writer.queue, store.resource(None)), 3)
    store.flush()
    yield store
    store.close()


@pytest.mark.parametrize("lose", [delete, rename, replace, delete_log])
def test_a_transaction_is_not_acknowledged_when_the_file_is_gone(
    lost: Store, path: Path, lose: Callable[[Path], None]
) -> None:
    """The transaction raises; all that the file held, with what was queued, is in a complete store beside it."""
    make_spans(WorkflowTracer(lost.writer.queue, lost.resource(None)), 2, "queued")
    lose(path)
    with pytest.raises(
        StoreReplacedError, match=r"while this process had it open\. What it held is in .*rescued-"
    ) as caught:
        lost.transact(add_scope("late"))
    assert caught.value.code == "store_replaced"
    assert outside(rescued(path), "SELECT name FROM spans ORDER BY name") == [
        ("queued 0",),
        ("queued 1",),
        ("span 0",),
        ("span 1",),
        ("span 2",),
    ]
    assert outside(rescued(path), "SELECT integrity_check FROM pragma_integrity_check") == [("ok",)]
    assert rescued(path).stat().st_mode & 0o777 == 0o600
    Client(rescued(path)).close()


def test_without_the_comparison_an_acknowledged_commit_is_gone(
    lost: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: SQLite itself commits to a deleted file without an error, and nobody finds the commit again."""
    monkeypatch.setattr(StoreFile, "verify", lambda self: None)
    delete(path)
    lost.transact(add_scope("late"))
    assert not path.exists()
    with Client(path) as client:
        assert added_scopes(client._store) == []


def test_telemetry_after_the_file_is_gone(lost: Store, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Spans raise nothing: what was queued is rescued, what comes later is dropped and counted, and the log says so."""
    tracer = WorkflowTracer(lost.writer.queue, lost.resource(None))
    delete(path)
    make_spans(tracer, 1, "queued")
    with caplog.at_level(logging.ERROR), pytest.raises(StoreReplacedError):
        lost.flush()
    make_spans(tracer, 5, "late")
    with pytest.raises(StoreReplacedError):
        lost.flush()
    assert lost.stats().dropped_count == 5
    assert len(caplog.records) == 2  # that the file is gone; that records are dropped
    assert outside(rescued(path), "SELECT count(*) FROM spans WHERE name = 'queued 0'") == [(1,)]


def test_each_process_rescues_what_it_sees(lost: Store, path: Path) -> None:
    """A rescued file that is there already is not overwritten."""
    taken = path.with_name(f"store.db.rescued-{store_id(lost)[:8]}")
    taken.write_bytes(b"of another process")
    rename(path)
    with pytest.raises(StoreReplacedError, match=rf"What it held is in {taken}-2\."):
        lost.transact(add_scope("late"))
    assert taken.read_bytes() == b"of another process"
    assert outside(taken.with_name(f"{taken.name}-2"), "SELECT count(*) FROM spans") == [(3,)]


def test_a_store_that_lost_its_count_of_commits(path: Path) -> None:
    """Without its row of commit_records a store opens, says that commits are missing, and counts from there."""
    with Client(path) as client:
        client._store.transact(add_scope("old"))
    change_closed_file(path, "DELETE FROM commit_records")
    with Client(path) as client:
        client._store.transact(add_scope("new"))
        assert added_scopes(client._store) == ["old", "new"]
    ((kind, _),) = incidents(path)
    assert kind == "tail lost"


def test_a_reader_notices(lost: Store, path: Path) -> None:
    """Reading from a deleted file raises, too, instead of showing what nobody else sees."""
    delete(path)
    with pytest.raises(StoreReplacedError), lost.read():
        pass
    assert outside(rescued(path), "SELECT count(*) FROM spans") == [(3,)]


def test_a_new_client_begins_a_new_file(lost: Store, path: Path) -> None:
    """After the file was deleted, a new client of the path has a new store, while the old one stays refused."""
    delete(path)
    with Client(path) as client:
        make_spans(client.tracer, 1, "new")
        client.flush()
        with pytest.raises(StoreReplacedError):
            lost.flush() if lost.writer.has_work() else lost.transact(add_scope("late"))
        assert outside(path, "SELECT name FROM spans") == [("new 0",)]


def test_a_lost_log_ends_the_use_of_the_file_in_this_process(lost: Store, path: Path) -> None:
    """SQLite's idea of a file whose log was deleted stays wrong in this process: the file cannot be opened again."""
    delete_log(path)
    with pytest.raises(StoreReplacedError, match="lost its write-ahead log"):
        Client(path)


def test_closing_a_deleted_store_rescues_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who deletes a file on purpose, and closes the client then, is told so, and gets no new file."""
    store = open_store(path)
    make_spans(WorkflowTracer(store.writer.queue, store.resource(None)), 1)
    store.flush()
    delete(path)
    store.close()
    assert list(path.parent.iterdir()) == []
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_file_that_is_replaced_during_a_fork(path: Path) -> None:
    """After a fork it must be the same file: nobody writes to another one, and what cannot be stored is counted."""
    script = """
import os, pathlib, shutil, sys
from tilebox_local import Client
from tilebox_local.errors import StoreReplacedError
client = Client(sys.argv[1])
with client.tracer.span("before"):
    pass
client.flush()
def replace():
    os.unlink(sys.argv[1])
    pathlib.Path(sys.argv[1]).touch()
os.register_at_fork(before=replace)  # runs before ours: the last one registered goes first
def tries():
    with client.tracer.span("late"):
        pass
    try:
        client._store.transact(lambda connection: None)
    except StoreReplacedError:
        return 7
    return 0
pid = os.fork()
if pid == 0:
    os._exit(tries())
child = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(child, tries(), os.stat(sys.argv[1]).st_size, client._store.stats().dropped_count)
"""
    assert run(script, path, warnings="ignore").stdout == "7 7 0 1\n"


# -- the end of the log -----------------------------------------------------------------------------------------

KILLED = """
import sys
from tilebox_local.storage.store import open_store
store = open_store(sys.argv[1])
for number in range(10):
    store.transact(lambda c: c.execute("INSERT INTO scope_records (name) VALUES (?)", (f"{number}",)).fetchall())
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def killed(path: Path) -> Path:
    """A store whose writer was killed after ten commits, all of which are in its write-ahead log."""
    with start(KILLED, path) as process:
        assert read_line(process) == "done"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return path


def flip(path: Path, offset: int) -> None:
    """Change one bit."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def incidents(path: Path) -> list[tuple[str, str]]:
    """What the flight recorder has, without the instants in its messages."""
    found = outside(path, "SELECT kind, message FROM incidents")
    return [(kind, message.partition(", the newest")[0]) for kind, message in found]


def test_a_bit_flip_in_the_log_is_noticed(killed: Path) -> None:
    """SQLite drops all commits from the damaged one on, without an error; the store says how many are missing."""
    log = killed.with_name("store.db-wal")
    flip(log, log.stat().st_size // 2)
    with Client(killed) as client:
        kept = added_scopes(client._store)
    assert 0 < len(kept) < 10
    assert kept == [str(number) for number in range(len(kept))]
    assert incidents(killed) == [("tail lost", f"The last {10 - len(kept)} commits are missing")]


def test_a_killed_writer_loses_nothing(killed: Path) -> None:
    """The control: with an undamaged log all is there, and nothing is reported, now or at the next opening."""
    for _ in range(2):
        with Client(killed) as client:
            assert added_scopes(client._store) == [str(number) for number in range(10)]
    assert incidents(killed) == []


def test_without_the_note_nobody_notices(killed: Path) -> None:
    """The other control: SQLite alone says that the file with the damaged log is in order."""
    log = killed.with_name("store.db-wal")
    flip(log, log.stat().st_size // 2)
    killed.with_name("store.db.lock").unlink()
    with Client(killed) as client:
        assert len(added_scopes(client._store)) < 10
    assert incidents(killed) == []
    assert outside(killed, "SELECT integrity_check FROM pragma_integrity_check") == [("ok",)]


def test_a_lost_tail_is_reported_once(killed: Path) -> None:
    """The log that was deleted with its commits is reported by the first who opens the file, and not again."""
    killed.with_name("store.db-wal").unlink()
    killed.with_name("store.db-shm").unlink()
    for _ in range(2):
        Client(killed).close()
    assert incidents(killed) == [("tail lost", "The last 10 commits are missing")]


def test_an_older_copy_is_noticed(path: Path) -> None:
    """Who puts an older copy of the file in its place is told which commits it lacks; another store is just another."""
    with Client(path) as client:
        client._store.transact(add_scope("old"))
    shutil.copy(path, path.with_name("copy"))
    with Client(path) as client:
        client._store.transact(add_scope("new"))
    shutil.copy(path.with_name("copy"), path)
    Client(path).close()
    assert incidents(path) == [("tail lost", "The last 1 commits are missing")]
    path.unlink()
    Client(path).close()
    assert incidents(path) == []


def test_the_note_is_right_when_processes_take_turns(path: Path) -> None:
    """Each commit is noted with its own number, whoever made those before it."""
    script = """
import sys
from tilebox_local.storage.store import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    store.transact(lambda connection: None)
    print("done", flush=True)
store.close()
"""

    def noted() -> int:
        return int(path.with_name("store.db.lock").read_bytes().split()[1])

    store = open_store(path)
    with start(script, path) as other:
        assert read_line(other) == "ready"
        assert other.stdin is not None
        store.transact(add_scope("before"))
        before = noted()
        found = []
        for turn in range(1, 9):
            if turn in (1, 2, 5, 7, 8):
                other.stdin.write("go\n")
                other.stdin.flush()
                assert read_line(other) == "done"
            else:
                store.transact(add_scope(f"{turn}"))
            found.append(noted() - before)
        assert found == list(range(1, 9))
        other.communicate("", timeout=60)
    store.close()
    assert outside(path, "SELECT commit_no FROM commit_records") == [(noted(),)]


def test_a_process_that_lost_the_log_leaves_the_new_one_alone(path: Path) -> None:
    """What others commit after the log was deleted stays, also when the process that had it open ends."""
    script = """
import sys
from tilebox_local import Client
from tilebox_local.errors import StoreReplacedError
client = Client(sys.argv[1])
with client.tracer.span("mine"):
    pass
client.flush()
print("ready", flush=True)
sys.stdin.readline()
try:
    client.jobs().cancel("00000000-0000-0000-0000-000000000000")
except StoreReplacedError:
    print("lost", flush=True)
sys.stdin.readline()
"""
    process = start(script, path)
    assert read_line(process) == "ready"
    path.with_name("store.db-wal").unlink()
    path.with_name("store.db-shm").unlink()
    assert process.stdin is not None
    process.stdin.write("go\n")
    assert read_line(process) == "lost"
    other = """
import sys
from tilebox_local import Client
with Client(sys.argv[1]) as client:
    with client.tracer.span("theirs"):
        pass
"""
    assert run(other, path).returncode == 0
    process.communicate("end\n", timeout=60)
    assert outside(path, "SELECT count(*) FROM spans WHERE name = 'theirs'") == [(1,)]
