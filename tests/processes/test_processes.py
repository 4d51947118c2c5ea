"""Several processes on one file, forked ones among them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from store_support import (
    add_scope,
    added_scopes,
    locked_elsewhere,
    outside,
    read_line,
    run,
    run_ok,
    run_together,
    start,
    until,
)

from tilebox_local.errors import StoreBusyError
from tilebox_local.storage import connection as connection_module
from tilebox_local.storage import lockfile
from tilebox_local.storage import writer as writer_module
from tilebox_local.storage.store import open_store

if TYPE_CHECKING:
    from tilebox_local.storage.store import Store

WORKER = """
import sys
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage.store import open_store
store = open_store(sys.argv[1])
tracer = WorkflowTracer(store.writer.queue, store.resource(None))
count = lambda connection: connection.execute(
    "UPDATE cluster_records SET description = coalesce(description, 0) + 1 WHERE cluster_no = 1"
).fetchall()
print("ready", flush=True)
sys.stdin.readline()
for number in range(1000):
    with tracer.span(f"{sys.argv[2]} {number}") as span:
        span.add_event("event")
    if number % 10 == 0:
        store.transact(count)
store.close()
"""


def test_processes_write_at_the_same_time(path: Path) -> None:
    """Three processes that write spans and increment one row together lose nothing, and none sees an error."""
    assert run_together(WORKER, [(path, number) for number in range(3)]) == [("", "", 0)] * 3
    assert outside(path, "SELECT count(*), count(DISTINCT name), count(DISTINCT span_id) FROM span_records") == [
        (3000, 3000, 3000)
    ]
    assert outside(path, "SELECT count(*) FROM event_records") == [(3000,)]
    assert outside(path, "SELECT description FROM cluster_records") == [("300",)]
    assert outside(path, "SELECT count(*), count(DISTINCT pid) FROM writer_records") == [(3, 3)]
    assert outside(path, "SELECT integrity_check FROM pragma_integrity_check") == [("ok",)]


CHURN = """
import sys
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage.store import open_store
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    store = open_store(sys.argv[1])
    with WorkflowTracer(store.writer.queue, store.resource(None)).span(f"{sys.argv[2]} {number}"):
        pass
    store.close()
"""


def test_processes_open_and_close_all_the_time(path: Path) -> None:
    """Processes that open and close the store in turns, so that each may be the last one, lose nothing."""
    assert run_together(CHURN, [(path, number) for number in range(3)]) == [("", "", 0)] * 3
    assert outside(path, "SELECT count(*), count(DISTINCT name) FROM span_records") == [(60, 60)]
    assert outside(path, "SELECT count(*) FROM writer_records") == [(60,)]
    assert outside(path, "SELECT integrity_check FROM pragma_integrity_check") == [("ok",)]


def test_a_transaction_waits_for_another_process(store: Store, path: Path) -> None:
    """While another process is in a write transaction, ours waits, without an error, until it is done."""
    script = """
import sys
from tilebox_local.storage.store import open_store
store = open_store(sys.argv[1])
def hold(connection):
    print("inside", flush=True)
    sys.stdin.readline()
    connection.execute("INSERT INTO scope_records (name) VALUES ('theirs')").fetchall()
store.transact(hold)
store.close()
"""
    with start(script, path) as other:
        assert read_line(other) == "inside"
        thread = threading.Thread(target=store.transact, args=(add_scope("ours"),))
        thread.start()
        until(lambda: store.stats().lock_wait_count)
        assert added_scopes(store) == []
        assert other.communicate("go\n", timeout=60) == ("", "")
    thread.join()
    assert added_scopes(store) == ["theirs", "ours"]


@pytest.mark.parametrize("how", ["SQLite's lock", "our lock"])
def test_who_keeps_a_transaction_waiting_is_named(
    store: Store, path: Path, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program may keep the file locked as long as it likes: nobody gets an error, but is told who it is."""
    monkeypatch.setattr(writer_module, "_PATIENCE_S", 0.05)
    with locked_elsewhere(path, how) as other:
        thread = threading.Thread(target=store.transact, args=(add_scope("ours"),))
        thread.start()
        until(lambda: caplog.records)
        assert caplog.messages == [f"{path} is locked by process {other.pid} (python); waiting for it."]
        assert thread.is_alive()
    thread.join()
    assert added_scopes(store) == ["ours"]


def test_who_keeps_a_store_from_opening_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Opening waits, too, and says for whom; meanwhile other stores can be closed."""
    monkeypatch.setattr(lockfile, "_PATIENCE_S", 0.05)
    open_store(path).close()
    free = open_store(path.with_name("free.db"))
    with locked_elsewhere(path) as other:
        thread = threading.Thread(target=lambda: open_store(path).close())
        thread.start()
        until(lambda: caplog.records)
        assert caplog.messages == [f"{path} is locked by process {other.pid} (python); waiting for it."]
        free.close()
        assert (free.holds_file, thread.is_alive()) == (False, True)
    thread.join()


def test_a_program_that_keeps_everybody_out_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who opens a store that another program has for itself is told for whom it waits, and in the end who it was."""
    monkeypatch.setattr(connection_module, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(connection_module, "_WRITER_TIMEOUT_S", 0.3)
    open_store(path).close()
    script = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA locking_mode=exclusive").fetchall()
connection.execute("BEGIN IMMEDIATE")
connection.execute("COMMIT")
print("locked", flush=True)
sys.stdin.read()
"""
    with start(script, path) as other:
        assert read_line(other) == "locked"
        with pytest.raises(StoreBusyError, match=rf"locked by process {other.pid} \(python\), and stays so") as caught:
            open_store(path)
        assert "locking_mode=exclusive" in str(caught.value.hint)
        other.communicate("")
    assert caplog.messages == [f"{path} is locked by process {other.pid} (python); waiting for it."]
    open_store(path).close()


def test_one_file_under_two_mount_points_is_one_store(path: Path, tmp_path: Path) -> None:
    """Two clients of one process share the store of a file, by whatever path they come to it."""
    mount = tmp_path / "mount"
    mount.mkdir()
    script = """
import pathlib, sys
from tilebox_local import Client
first, second = Client(sys.argv[1]), Client(pathlib.Path(sys.argv[2]) / "store.db")
assert first._store is second._store
first.close()
with second.tracer.span("made by the second"):
    pass
second.close()
assert not pathlib.Path(sys.argv[1] + "-wal").exists()
"""
    bind = 'mount --bind "$1" "$2" || exit 77; shift 2; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", bind, "sh", str(path.parent), str(mount)]
    command += [sys.executable, "-c", script, str(path), str(mount)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        pytest.skip("needs unshare, of Linux")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("needs the right to mount")
    assert (done.returncode, done.stderr) == (0, "")
    assert outside(path, "SELECT name FROM spans") == [("made by the second",)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_may_open_files_in_its_first_moment(path: Path) -> None:
    """A fork waits for a thread that is inside of the guard, so that a hook of the child that opens a file goes on."""
    path.with_name("other-wal").touch()
    script = """
import os, pathlib, signal, sys, threading, time
other = pathlib.Path(sys.argv[1]).with_name("other-wal")
os.register_at_fork(after_in_child=lambda: (signal.alarm(20), other.read_bytes()))  # before any hook of ours
from tilebox_local import Client
from tilebox_local.storage import guard
client, inside = Client(sys.argv[1]), threading.Event()
def work():
    with guard._lock:
        inside.set()
        time.sleep(0.5)
thread = threading.Thread(target=work)
thread.start()
inside.wait()
pid = os.fork()
if pid == 0:
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
thread.join()
"""
    assert run(script, path, warnings="ignore").stdout == "0\n"


FORK = """
import os, sys, threading
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage.store import open_store
store = open_store(sys.argv[1])
tracer = WorkflowTracer(store.writer.queue, store.resource(None))

def write(name, count=10):
    for number in range(count):
        with tracer.span(f"{name} {number}"):
            pass

def fork(child, timeout_s=20):
    '''Run `child` in a fork; its exit code, or None if it did not end in time.'''
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child()
            code = 0
        finally:
            os._exit(code)
    done = threading.Event()
    found = []
    def wait():
        found.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        done.set()
    threading.Thread(target=wait, daemon=True).start()
    if not done.wait(timeout_s):
        os.kill(pid, 9)
        return None
    return found[0]
"""


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@needs_fork
def test_a_forked_child_writes_to_the_same_file(path: Path) -> None:
    """Spans of a forked child are stored with its own process as resource; the parent's are not stored twice."""
    script = """
write("before")
def child():
    write("child")
    store.flush()
print(fork(child))
write("after")
store.close()
"""
    assert run_ok(FORK + script, path, warnings="ignore") == "0\n"
    query = (
        "SELECT substr(s.name, 1, instr(s.name, ' ') - 1), count(*), count(DISTINCT s.name), "
        "count(DISTINCT json_extract(r.attributes, '$.\"process.pid\"') || json_extract(r.attributes, "
        "'$.\"service.instance.id\"')) FROM span_records s JOIN resource_records r ON r.resource_no = s.resource_no "
        "GROUP BY 1 ORDER BY 1"
    )
    assert outside(path, query) == [("after", 10, 10, 1), ("before", 10, 10, 1), ("child", 10, 10, 1)]
    assert outside(path, "SELECT count(*) FROM resource_records") == [(2,)]
    assert outside(path, "SELECT count(DISTINCT pid) FROM writer_records") == [(2,)]


@needs_fork
def test_a_forked_child_may_close_the_store(path: Path) -> None:
    """A child that closes its copy of the store does not take anything from the parent."""
    script = """
write("before")
store.flush()
def child():
    write("child")
    store.close()
print(fork(child))
write("after")
store.flush()
print(fork(lambda: None))
write("last")
store.close()
"""
    assert run_ok(FORK + script, path, warnings="ignore") == "0\n0\n"
    query = "SELECT substr(name, 1, instr(name, ' ') - 1), count(*) FROM span_records GROUP BY 1 ORDER BY 1"
    assert outside(path, query) == [("after", 10), ("before", 10), ("child", 10), ("last", 10)]


@needs_fork
def test_a_closed_store_is_closed_in_a_child(path: Path) -> None:
    """Spans that a child makes with the tracer of a store that its parent has closed are dropped, without waiting."""
    script = """
store.close()
def child():
    write("late", 11_000)
    os.write(1, f"{store.stats().dropped_count} {len(store.writer.queue)}\\n".encode())
    store.close()
print(fork(child))
"""
    assert run_ok(FORK + script, path, warnings="ignore") == "11000 0\n0\n"


@needs_fork
def test_a_forked_child_outlives_the_parents_store(path: Path) -> None:
    """What a child flushed after the parent closed its store is there afterwards."""
    script = """
write("before")
store.flush()
child_wrote, write_end = os.pipe()
go_on, parent_closed = os.pipe()
def child():
    write("child")
    store.flush()
    os.write(write_end, b"x")
    os.read(go_on, 1)
    write("orphan", 100)
    store.flush()
    store.close()
result = []
thread = threading.Thread(target=lambda: result.append(fork(child)))
thread.start()
os.read(child_wrote, 1)
store.close()
os.write(parent_closed, b"x")
thread.join()
print(result)
"""
    assert run_ok(FORK + script, path, warnings="ignore") == "[0]\n"
    query = "SELECT substr(name, 1, instr(name, ' ') - 1), count(*) FROM span_records GROUP BY 1 ORDER BY 1"
    assert outside(path, query) == [("before", 10), ("child", 10), ("orphan", 100)]


@needs_fork
def test_a_fork_in_the_middle_of_a_transaction(path: Path) -> None:
    """A child that is forked while the parent's writer is in a transaction can write; neither blocks the other."""
    script = """
entered, leave = threading.Event(), threading.Event()
def hold(connection):
    entered.set()
    leave.wait(20)
threading.Thread(target=store.transact, args=(hold,), daemon=True).start()
entered.wait()
write("parent")
def child():
    write("child")
    store.flush(2)
threading.Timer(0.2, leave.set).start()
print(fork(child))
leave.set()
store.close()
"""
    assert run(FORK + script, path, warnings="ignore").stdout == "0\n"
    query = "SELECT substr(name, 1, instr(name, ' ') - 1), count(*) FROM span_records GROUP BY 1 ORDER BY 1"
    assert outside(path, query) == [("child", 10), ("parent", 10)]


@needs_fork
def test_forks_under_load(path: Path) -> None:
    """Children that are forked while three threads write can write, and neither they nor the parent hang."""
    script = """
stop = threading.Event()
def load():
    while not stop.is_set():
        write("load", 50)
        if len(store.writer.queue.spans) > 1000:
            store.flush()
threads = [threading.Thread(target=load, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
def child():
    write("child", 1)
    store.flush(1)
print([fork(child) for _ in range(3)])
stop.set()
for thread in threads:
    thread.join()
store.close()
"""
    done = run(FORK + script, path, warnings="ignore")
    assert done.stdout == "[0, 0, 0]\n"
    assert outside(path, "SELECT count(*) FROM span_records WHERE name LIKE 'child%'") == [(3,)]
    assert outside(path, "SELECT integrity_check FROM pragma_integrity_check") == [("ok",)]


@needs_fork
def test_durability_after_a_fork(path: Path) -> None:
    """Parent and child go on waiting for the disk as before the fork: at every commit, or once a second."""
    script = """
from tilebox_local import clock
now = 10**15
clock.monotonic_ns = lambda: now
synchronous = lambda: store.transact(lambda connection: connection.pragma("synchronous"))

def show(who):
    global now
    found = [synchronous()]
    now += 1_000_000_000
    found += [synchronous(), synchronous()]
    print(who, *found, flush=True)

print("before", synchronous(), flush=True)  # FULL
fork(lambda: show("child"))
show("parent")
strict = open_store(sys.argv[1], full_sync=True)
fork(lambda: show("strict child"))
show("strict parent")
strict.close()
store.close()
"""
    assert run_ok(FORK + script, path, warnings="ignore").splitlines() == [
        "before 2",
        "child 2 2 1",  # a new writer begins with a commit that waits
        "parent 1 2 1",
        "strict child 2 2 2",
        "strict parent 2 2 2",
    ]


REFUSED = """
from tilebox_local.errors import StoreError
def child():
    write("child")
    print(store.stats().dropped_count, store.stats().queued_count)
    def open_again():
        store.close()
        open_store(sys.argv[1])
    for use in (store.flush, lambda: store.transact(print), lambda: store.read().__enter__(), open_again):
        try:
            use()
            print("no error")
        except StoreError as error:
            print(str(error).split(": ", 1)[1])
    sys.stdout.flush()
"""
REFUSAL = (
    "it was forked while the store was in use. Fork while no thread reads or commits, or start the process with "
    "multiprocessing's 'spawn'."
)


@needs_fork
def test_a_fork_while_the_writer_ends(path: Path) -> None:
    """A fork waits for a writer that is about to close the file for good; its child may open it again."""
    script = """
from tilebox_local.storage import writer
from tilebox_local.storage.writer import Writer

writer._PATIENCE_S = 600
finish, ends = Writer._finish, threading.Event()

def finish_late(writer):
    ends.set()
    while writer._pause is None:
        pass
    finish(writer)

Writer._finish = finish_late
write("parent")
closing = threading.Thread(target=store.close)
closing.start()
ends.wait()

def child():
    again = open_store(sys.argv[1])
    again.transact(lambda connection: None)
    Writer._finish = finish
    again.close()

print(fork(child))
closing.join()
"""
    assert run_ok(FORK + script, path, warnings="ignore") == "0\n"
    assert outside(path, "SELECT count(*) FROM span_records") == [(10,)]


@needs_fork
def test_a_fork_while_another_thread_reads(path: Path) -> None:
    """A child that is forked while a thread of the parent reads on and on is refused; the parent goes on."""
    script = """
write("before")
reading, done = threading.Event(), threading.Event()
def read():
    with store.read() as connection:
        reading.set()
        done.wait(20)
        print("rows", connection.execute("SELECT count(*) FROM span_records").get)
reader = threading.Thread(target=read)
reader.start()
reading.wait()
print(fork(child))
write("after")
store.flush()
done.set()
reader.join()
store.close()
"""
    result = run(FORK + REFUSED + script, path, warnings="ignore")
    assert result.stdout.splitlines() == ["10 0", *[REFUSAL] * 4, "0", "rows 20"]
    assert result.stderr.count("Spans and logs of this process are dropped.") == 1
    query = "SELECT substr(name, 1, instr(name, ' ') - 1), count(*) FROM span_records GROUP BY 1 ORDER BY 1"
    assert outside(path, query) == [("after", 10), ("before", 10)]


def test_who_waits_for_the_lock_keeps_its_descriptor(path: Path) -> None:
    """A lock that is closed while a thread waits for it does not release the lock of a file with the same number."""
    ours, others = lockfile.LockFile(f"{path}.lock"), lockfile.LockFile(f"{path}.lock")

    def wait() -> None:
        with ours.held():
            pass

    third, again = lockfile.LockFile(f"{path}.third"), lockfile.LockFile(f"{path}.third")
    with others.held():
        waiter = threading.Thread(target=wait)
        waiter.start()
        until(lambda: ours.wait_count)
        ours.close()
        with third.held():
            pass  # has a descriptor now
        guarded = third.held()
        guarded.__enter__()
    waiter.join()
    with again.held_if_free() as is_free:
        assert not is_free
    guarded.__exit__(None, None, None)


@needs_fork
def test_the_parent_reads_during_a_fork_that_its_child_will_not_survive(path: Path) -> None:
    """That a child will be refused is no reason to refuse the parent, while the fork is under way."""
    store = open_store(path)
    reading, done = threading.Event(), threading.Event()

    def read() -> None:
        with store.read():
            reading.set()
            done.wait(20)

    reader = threading.Thread(target=read)
    reader.start()
    reading.wait()
    store.before_fork()
    try:
        with store.read() as connection:
            assert connection.execute("SELECT count(*) FROM span_records").get == 0
    finally:
        store.after_fork_in_parent()
        done.set()
        reader.join()
        store.close()


@needs_fork
def test_a_refused_child_stays_refused_after_its_own_fork(path: Path) -> None:
    """A fork in a child that may not use the store does not make it usable, there or in the grandchild."""
    script = """
def grandchild():
    refused()
def refused():
    try:
        with store.read():
            print("reads", flush=True)
    except StoreError:
        print("refused", flush=True)
def child():
    fork(grandchild)
    refused()
with store.read():
    fork(child)
store.close()
"""
    result = run(FORK + "from tilebox_local.errors import StoreError\n" + script, path, warnings="ignore")
    assert result.stdout.splitlines() == ["refused", "refused"]


@needs_fork
def test_a_fork_waits_for_readers(path: Path) -> None:
    """A fork waits for a thread that reads, which ends before long; the child can use the store."""
    script = """
reading, done = threading.Event(), threading.Event()
def read():
    with store.read():
        reading.set()
        done.wait(20)
reader = threading.Thread(target=read)
reader.start()
reading.wait()
os.register_at_fork(before=done.set)  # runs before the store's own
def child():
    write("child")
    store.close()
print(fork(child))
reader.join()
store.close()
"""
    assert run_ok(FORK + script, path, warnings="ignore") == "0\n"
    assert outside(path, "SELECT count(*) FROM span_records") == [(10,)]


@needs_fork
@pytest.mark.parametrize(
    "use", ["with store.read():\n    print(fork(child))", "print(store.transact(lambda connection: fork(child)))"]
)
def test_a_fork_inside_of_a_block(use: str, path: Path) -> None:
    """A child that is forked while its own thread reads, or inside of a transaction, is refused; the parent goes on."""
    script = f"""
{use}
write("after")
store.close()
"""
    result = run(FORK + REFUSED + script, path, warnings="ignore")
    assert result.stdout.splitlines() == ["10 0", *[REFUSAL] * 4, "0"]
    assert outside(path, "SELECT count(*) FROM span_records") == [(10,)]


MULTIPROCESSING = """
import multiprocessing, sys
from tilebox_local import Client

def work(path):
    client = Client(path)
    for number in range(10):
        with client.tracer.span(f"child {number}"):
            pass

if __name__ == "__main__":
    process = multiprocessing.get_context(sys.argv[2]).Process(target=work, args=(sys.argv[1],))
    process.start()
    process.join()
    print(process.exitcode)
"""


@pytest.mark.parametrize(
    "method",
    [
        "spawn",
        pytest.param(
            "fork",
            marks=needs_fork,
        ),
    ],
)
def test_multiprocessing_children_lose_nothing(method: str, path: Path, tmp_path: Path) -> None:
    """A process of multiprocessing that ends without close() has stored all of its spans."""
    script = tmp_path / "script.py"
    script.write_text(MULTIPROCESSING)
    done = run(
        "import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')", script, path, method
    )
    assert done.stdout == "0\n", done.stderr
    assert outside(path, "SELECT count(*) FROM span_records") == [(10,)]


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs /proc/locks")
def test_opening_again_keeps_the_locks_of_a_reader(path: Path) -> None:
    """Opening a path again while a reader of the closed store is still busy leaves the file locked in the kernel."""
    script = """
import os, pathlib, sys
from tilebox_local.storage.store import open_store
path = sys.argv[1]

def is_locked():
    inode = os.stat(path).st_ino
    fields = [line.split() for line in pathlib.Path("/proc/locks").read_text().splitlines()]
    return any(int(f[4]) == os.getpid() and f[5].endswith(f":{inode}") for f in fields)

store = open_store(path)
with store.read() as connection:
    connection.execute("SELECT count(*) FROM span_records").fetchall()
    store.close()
    print(is_locked())
    again = open_store(path)
    print(is_locked())
again.close()
"""
    assert run_ok(script, path).split() == ["True", "True"]
