"""Disks that refuse or are slow: what was acknowledged is stored, the rest is told, and the log stays small."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import apsw
import pytest
from store_support import (
    PATIENCE_S,
    Disk,
    add_scope,
    added_scopes,
    log_item,
    make_spans,
    names,
    outside,
    rows,
    run,
    run_ok,
    standing_still,
    until,
)

from tilebox_local import Client, ExecutionContext, Task
from tilebox_local.errors import StoreError, StoreFullError
from tilebox_local.storage.store import Store, open_store

if TYPE_CHECKING:
    from pathlib import Path

    from tilebox_local.observability.tracing import WorkflowTracer

# -- the disk fails ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
def test_nothing_is_lost_or_doubled_when_commits_fail(store: Store, disk: Disk, tracer: WorkflowTracer) -> None:
    """Records whose commits failed several times are stored once, with events, logs and references, when it works."""
    with standing_still(store):
        for number in range(700):  # more than one statement's worth
            with tracer.span(f"span {number}") as span:
                if number % 100 == 0:
                    span.add_event("event", {"number": number})
            if number % 100 == 0:
                store.writer.queue.append_log(log_item(store, f"log {number}"))
        disk.failures = 4  # the transaction that stands still is the first of them
    until(lambda: store.stats().queued_count == 0)
    assert names(store) == sorted(f"span {number}" for number in range(700))
    assert rows(store, "SELECT name, attributes FROM event_records ORDER BY time_ns") == [
        ("event", f'{{"number":{number}}}') for number in range(0, 700, 100)
    ]
    assert rows(store, "SELECT body FROM log_records ORDER BY log_no") == [
        (f"log {number}",) for number in range(0, 700, 100)
    ]
    lost = "SELECT count(*) FROM span_records s LEFT JOIN {0}_records r ON r.{0}_no = s.{0}_no WHERE r.{0}_no IS NULL"
    assert [rows(store, lost.format(kind)) for kind in ("trace", "resource", "scope")] == [[(0,)]] * 3
    stats = store.stats()
    assert (stats.failed_transaction_count, stats.dropped_count, stats.quarantined_count) == (4, 0, 0)
    assert stats.written_count == 700 + 7 + 7


@pytest.mark.usefixtures("patient")
def test_flush_and_transact_say_that_the_disk_refuses(store: Store, disk: Disk, tracer: WorkflowTracer) -> None:
    """While commits fail, flush and transact raise StoreError; afterwards the records are there, the function's not."""
    make_spans(tracer, 2)
    disk.failures = 2
    with pytest.raises(StoreError, match=r"store\.db: constraint failed"):
        store.flush()
    with pytest.raises(StoreError, match=r"store\.db: constraint failed"):
        store.transact(add_scope("doomed"))
    assert names(store) == []
    store.flush()
    assert (names(store), added_scopes(store)) == (["span 0", "span 1"], [])


def test_a_transaction_that_cannot_be_rolled_back(store: Store) -> None:
    """If not even ROLLBACK works, as without memory, the connection is given up, and the store goes on with another."""

    def fail(connection: apsw.Connection) -> None:
        add_scope("doomed")(connection)
        deny = lambda code, what, *_: (  # noqa: E731
            apsw.SQLITE_DENY if (code, what) == (apsw.SQLITE_TRANSACTION, "ROLLBACK") else apsw.SQLITE_OK
        )
        connection.set_authorizer(deny)
        raise apsw.IOError("disk I/O error")

    with pytest.raises(StoreError, match="disk I/O error"):
        store.transact(fail)
    store.transact(add_scope("next"))
    assert added_scopes(store) == ["next"]


@pytest.mark.usefixtures("patient")
def test_a_full_disk(store: Store, tracer: WorkflowTracer) -> None:
    """When the file may not grow, flush raises StoreFullError; when it may again, everything is stored."""
    with standing_still(store) as connection:
        pages = connection.pragma("page_count")
    connection.pragma("max_page_count", pages + 2)  # the writer is idle now
    for number in range(300):
        with tracer.span(f"span {number}") as span:
            span.set_attribute("payload", "x" * 1000)
    with pytest.raises(StoreFullError, match="Free some space; everything stored before is intact"):
        store.flush()
    assert names(store) == []
    connection.pragma("max_page_count", 1_000_000)
    store.flush()
    assert len(names(store)) == 300


LIMITED_FILE = """
import resource, signal, sys
from tilebox_local.errors import StoreError
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage.store import open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = open_store(sys.argv[1])
tracer = WorkflowTracer(store.writer.queue, store.resource(None))
with tracer.span("before"):
    pass
store.flush()
import os
size = os.path.getsize(sys.argv[1] + "-wal")
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
for number in range(1000):
    with tracer.span(f"during {number}"):
        pass
try:
    store.flush()
except StoreError as error:
    print(type(error).__name__)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.flush()
print(store.stats().dropped_count, store.stats().quarantined_count)
store.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of file sizes")
def test_writes_that_the_kernel_refuses(path: Path) -> None:
    """When the kernel refuses to make the files longer, nothing is lost, and writing goes on once it allows it."""
    done = run(LIMITED_FILE, path)
    complaint = f"The store {path} cannot be written: disk I/O error. Telemetry is kept and tried again.\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, "StoreError\n0 0\n", complaint)
    assert outside(path, "SELECT count(*), count(DISTINCT name) FROM span_records") == [(1001, 1001)]


SORTING = """
import resource, signal, sys
from tilebox_local.errors import StoreError
from tilebox_local.storage.store import open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = open_store(sys.argv[1], read_only=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
numbers = (
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
    "SELECT i, s.name FROM sqlite_schema s JOIN n WHERE s.name = 'span_records' "
)
try:
    with store.snapshot() as connection:
        connection.pragma("cache_size", -1000)
        connection.execute(numbers + "ORDER BY randomblob(100)").fetchall()
except StoreError as error:
    print(error)
with store.snapshot() as connection:
    print(len(connection.execute(numbers + "ORDER BY -i").fetchall()))
store.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of file sizes")
def test_a_question_without_room_for_its_temporary_file(store: Store, path: Path) -> None:
    """A sort that does not fit into memory and finds no room on the disk says so; the next question is answered."""
    store.close()
    assert run_ok(SORTING, path) == f"{path}: disk I/O error.\n20000\n"


# -- waiting for the disk ---------------------------------------------------------------------------------------

NORMAL, FULL = 1, 2


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The writer's monotonic clock."""
    clock = Clock(10**15)
    monkeypatch.setattr("tilebox_local.clock.monotonic_ns", clock)
    return clock


def synchronous(store: Store) -> int:
    """What a commit waits for right now."""
    return store.transact(lambda connection: connection.pragma("synchronous"))


def test_commits_wait_for_the_disk_once_a_second(clock: Clock, store: Store) -> None:
    """A commit waits for the disk (synchronous=FULL) if the last one that did so is a second ago; others do not."""
    found = []
    for step in (0, 0, 999_999_999, 1, 0, 500_000_000, 3_000_000_000, 10):
        clock.now += step
        found.append(synchronous(store))
    assert found == [FULL, NORMAL, NORMAL, FULL, NORMAL, NORMAL, FULL, NORMAL]


def test_an_idle_store_is_synced(clock: Clock, store: Store) -> None:
    """After the last commit that did not wait for the disk, one that does follows by itself within a second."""
    assert [synchronous(store), synchronous(store)] == [FULL, NORMAL]
    synced = threading.Event()
    store.writer.on_commit.append(synced.set)
    ((before,),) = rows(store, "SELECT commit_no FROM commit_records")
    clock.now += 1_000_000_000
    until(lambda: store.writer.queue.idle)
    store.writer.queue.attend()  # or wait for a second
    assert synced.wait(PATIENCE_S)
    assert rows(store, "SELECT commit_no FROM commit_records") == [(before + 1,)]
    assert synchronous(store) == NORMAL  # the sync was a FULL commit


def test_the_second_begins_with_the_last_commit_that_waited(
    clock: Clock, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle writer sleeps for what is left of the second, not for another one, before it syncs what is not synced."""
    naps: list[float] = []
    get_wakeup = store.writer._get_wakeup
    monkeypatch.setattr(store.writer, "_get_wakeup", lambda nap: naps.append(nap) or get_wakeup(nap))
    assert synchronous(store) == FULL
    clock.now += 600_000_000
    assert synchronous(store) == NORMAL
    until(lambda: naps[-1:] == [0.4])


def test_a_connection_that_is_opened_again_is_synced(clock: Clock, store: Store) -> None:
    """The write connection that follows a fork waits for the disk as the one before would have."""
    assert synchronous(store) == FULL
    store.before_fork()
    store.after_fork_in_parent()
    clock.now += 1_000_000_000
    assert [synchronous(store), synchronous(store)] == [FULL, NORMAL]


@pytest.mark.usefixtures("clock")
def test_close_waits_for_the_disk(path: Path) -> None:
    """Closing syncs what the last commits left to the operating system."""
    store = open_store(path)
    assert [synchronous(store), synchronous(store)] == [FULL, NORMAL]
    ((before,),) = rows(store, "SELECT commit_no FROM commit_records")
    store.close()
    assert outside(path, "SELECT commit_no FROM commit_records") == [(before + 1,)]


@pytest.mark.usefixtures("clock")
def test_full_durability_waits_at_every_commit(path: Path) -> None:
    """With durability="full" every commit waits for the disk; a second client that asks for it makes it so for all."""
    with Client(path, durability="full") as client:
        assert [synchronous(client._store) for _ in range(3)] == [FULL] * 3
    with Client(path) as client:
        assert [synchronous(client._store) for _ in range(2)] == [FULL, NORMAL]
        with Client(path, durability="full"):
            assert [synchronous(client._store) for _ in range(3)] == [FULL] * 3


def test_full_durability_that_cannot_be_had(path: Path) -> None:
    """If the disk refuses as a second client asks for durability="full", there is no second client."""
    first = Client(path)
    disk = Disk(first._store)
    disk.failures = 1
    with pytest.raises(StoreError):
        Client(path, durability="full")
    first.close()
    assert first._store.is_closed


# -- the log ----------------------------------------------------------------------------------------------------


def test_the_log_does_not_grow_without_end(store: Store, path: Path) -> None:
    """Under steady writing the write-ahead log is moved into the file, and starts over, beside the writer."""
    log = path.with_name("store.db-wal")
    sizes = []
    for number in range(50):
        store.transact(
            lambda connection, number=number: connection.execute(
                "INSERT INTO scope_records (name) VALUES (hex(randomblob(500000)) || ?)", (number,)
            ).fetchall()
        )
        sizes.append(log.stat().st_size)
    assert len(added_scopes(store)) == 50
    assert max(sizes) < 64 * 2**20  # of more than 100 MB that went through it
    assert outside(path, "SELECT integrity_check FROM pragma_integrity_check") == [("ok",)]


def test_a_reader_sees_one_state(store: Store) -> None:
    """Inside of snapshot() all statements see the same data, whatever is committed meanwhile; read() sees it."""
    with store.snapshot() as still, store.read() as moving:
        before = still.execute("SELECT count(*) FROM scope_records").get
        store.transact(add_scope("new"))
        assert still.execute("SELECT count(*) FROM scope_records").get == before
        assert moving.execute("SELECT count(*) FROM scope_records").get == before + 1


def test_readers_cannot_write(store: Store) -> None:
    """The connections that are handed out for reading refuse to write."""
    with pytest.raises(StoreError, match="readonly"), store.read() as connection:
        connection.execute("INSERT INTO scope_records (name) VALUES ('x')")
    assert added_scopes(store) == []


def test_a_job_goes_on_after_a_full_disk(path: Path) -> None:
    """A task whose report met a full disk is run again by the next run_all() of its process, once there is room."""
    attempts: list[str] = []

    class Fills(Task):
        def execute(self, context: ExecutionContext) -> None:
            attempts.append("attempt")
            if len(attempts) == 1:
                connection.pragma("max_page_count", connection.pragma("page_count"))
                context.logger.info("x" * 60_000)

    with Client(path) as client:
        job = client.jobs().submit("job", Fills())
        client.flush()
        connection = client._store.writer._connection
        assert connection is not None
        runner = client.runner(tasks=[Fills])
        with pytest.raises(StoreFullError):
            runner.run_all()
        connection.pragma("max_page_count", 1_000_000)
        runner.run_all()
        assert client.jobs().find(job).state.name == "COMPLETED"
    assert attempts == ["attempt"] * 2
    assert outside(path, "SELECT state, crashes FROM tasks") == [("COMPUTED", 1)]
