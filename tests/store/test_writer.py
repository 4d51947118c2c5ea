"""The writer's promises: what was flushed or transacted is stored, whatever happens to threads, processes and disks."""

from __future__ import annotations

import logging
import os
import platform
import sys
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import pytest
from store_support import outside, read_line, run, run_ok, run_together, start

from tilebox_local import Client
from tilebox_local.errors import FlushTimeoutError, StoreClosedError, StoreError, StoreFullError
from tilebox_local.observability.span import RecordingSpan
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage import writer as writer_module
from tilebox_local.storage.rows import LogItem, Reference
from tilebox_local.storage.store import Store, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 30


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another thread is about to do."""
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        pause.wait(0.0005)


@contextmanager
def standing_still(store: Store) -> Iterator[apsw.Connection]:
    """The writer thread waits inside of a transaction for as long as the block lasts."""
    entered, leave = threading.Event(), threading.Event()
    connections = []

    def hold(connection: apsw.Connection) -> None:
        connections.append(connection)
        entered.set()
        assert leave.wait(PATIENCE_S)

    def transact() -> None:
        with suppress(StoreError):  # its commit may fail on purpose
            store.transact(hold)

    thread = threading.Thread(target=transact)
    thread.start()
    assert entered.wait(PATIENCE_S)
    try:
        yield connections[0]
    finally:
        leave.set()
        thread.join()


class Disk:
    """Refuses the next `failures` commits of a store."""

    def __init__(self, store: Store) -> None:
        self.failures = 0
        store.transact(lambda connection: connection.set_commit_hook(self._refuse))

    def _refuse(self) -> bool:
        self.failures -= 1
        return self.failures >= 0


@pytest.fixture
def disk(store: Store) -> Disk:
    """The disk of `store`; all is well until a test says otherwise."""
    return Disk(store)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure the writer tries again when it is asked to, not by itself."""
    monkeypatch.setattr(writer_module, "_RETRY_S", (3600.0,) * 5)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure the writer tries again at once."""
    monkeypatch.setattr(writer_module, "_RETRY_S", (0.001,) * 5)


def make_spans(tracer: WorkflowTracer, count: int, name: str = "span") -> None:
    """Append finished spans, numbered."""
    for number in range(count):
        with tracer.span(f"{name} {number}"):
            pass


def add_scope(name: str) -> Callable[[apsw.Connection], str]:
    """A transaction that is easy to recognise: it inserts a scope of this name, and returns the name."""

    def add(connection: apsw.Connection) -> str:
        connection.execute("INSERT INTO scope_records (name) VALUES (?)", (name,)).fetchall()
        return name

    return add


def rows(store: Store, query: str) -> list[tuple[Any, ...]]:
    """What readers of this process see."""
    with store.read() as connection:
        return connection.execute(query).fetchall()


def names(store: Store) -> list[str]:
    """Names of the stored spans, sorted."""
    return sorted(name for (name,) in rows(store, "SELECT name FROM span_records"))


def added_scopes(store: Store) -> list[str]:
    """Names of the scopes that `add_scope` inserted, in order."""
    return [name for (name,) in rows(store, "SELECT name FROM scope_records WHERE scope_no > 1 ORDER BY scope_no")]


def log_item(store: Store, body: str) -> LogItem:
    """A log record outside of any span."""
    return LogItem(
        time_ns=1,
        severity_number=9,
        severity_text="INFO",
        body=body,
        attributes=None,
        logger="tests",
        resource=store.resource(None),
        scope=None,
        span_id=None,
        task_no=None,
        has_task_id=False,
        is_span_event=False,
    )


def transact_within(store: Store, seconds: float, function: Callable[[apsw.Connection], Any]) -> Any:
    """The result of a transaction, or "hangs" if there is none in time. Leaves no thread behind."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(store.transact(function)))
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        command = store.writer._commands.popleft()
        command.result = "hangs"
        command.done.release()
        thread.join()
    return results[0]


# -- the two promises -------------------------------------------------------------------------------------------


def test_transact_returns_after_the_commit(store: Store, path: Path) -> None:
    """When transact returns, another process sees what the function wrote, and the caller has its result."""
    assert store.transact(add_scope("mine")) == "mine"
    assert outside(path, "SELECT name FROM scope_records") == [("tilebox.com/observability",), ("mine",)]


def test_flush_returns_after_the_commit(store: Store, path: Path, tracer: WorkflowTracer) -> None:
    """When flush returns, another process sees every span and log record that was appended before."""
    make_spans(tracer, 1000)
    store.writer.append_log(log_item(store, "hello"))
    store.flush()
    assert outside(path, "SELECT count(*), count(DISTINCT name) FROM span_records") == [(1000, 1000)]
    assert outside(path, "SELECT body FROM log_records") == [("hello",)]


def test_flush_of_nothing_writes_nothing(store: Store) -> None:
    """Flushing a store without new telemetry costs no transaction."""
    store.flush()
    store.flush(0)
    assert store.stats().transaction_count == 0


def test_flush_waits_for_records_that_the_writer_has_just_taken(
    store: Store, tracer: WorkflowTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush that comes while the writer moves records from the queue to its batch waits for their commit."""
    taken, go_on = threading.Event(), threading.Event()
    take = writer_module._take

    def slow_take(queue: Any, limit: int | None) -> Any:
        found = take(queue, limit)
        if queue is store.writer.spans and found:
            taken.set()
            assert go_on.wait(PATIENCE_S)
        return found

    monkeypatch.setattr(writer_module, "_take", slow_take)
    make_spans(tracer, 1)
    assert taken.wait(PATIENCE_S)
    stored_at_return = []
    flusher = threading.Thread(target=lambda: (store.flush(), stored_at_return.append(names(store))))
    flusher.start()
    until(lambda: store.writer._commands or not flusher.is_alive())
    go_on.set()
    flusher.join()
    assert stored_at_return == [["span 0"]]


def test_telemetry_commits_together_with_the_transaction_after_it(
    store: Store, path: Path, tracer: WorkflowTracer
) -> None:
    """A transaction finds the telemetry that was appended before it, which nobody else sees until both commit."""
    with standing_still(store):
        make_spans(tracer, 3)
        seen = []

        def look(connection: apsw.Connection) -> None:
            seen.append(connection.execute("SELECT count(*) FROM span_records").get)
            seen.extend(outside(path, "SELECT count(*) FROM span_records"))

        thread = threading.Thread(target=store.transact, args=(look,))
        thread.start()
        until(lambda: store.writer._commands)
    thread.join()
    assert seen == [3, (0,)]
    assert outside(path, "SELECT count(*) FROM span_records") == [(3,)]


@pytest.mark.usefixtures("patient")
def test_telemetry_fails_together_with_the_transaction_after_it(
    store: Store, path: Path, tracer: WorkflowTracer
) -> None:
    """If a transaction fails at COMMIT, neither it nor the telemetry before it is stored; the telemetry comes later."""

    def break_foreign_key(connection: apsw.Connection) -> None:
        connection.execute("PRAGMA defer_foreign_keys = ON").fetchall()
        connection.execute(
            "INSERT INTO quarantine_records (writer_no, time_ns, kind, reason, content) VALUES (99, 0, 'span', '', '')"
        ).fetchall()

    with standing_still(store):
        make_spans(tracer, 3)
        store.writer.append_log(log_item(store, "before"))
        caught = []

        def attempt() -> None:
            with pytest.raises(StoreError, match="FOREIGN KEY constraint failed") as error:
                store.transact(break_foreign_key)
            caught.append(error.value)

        thread = threading.Thread(target=attempt)
        thread.start()
        until(lambda: store.writer._commands)
    thread.join()
    assert len(caught) == 1
    tables = ("span_records", "log_records", "quarantine_records", "writer_records", "resource_records")
    counts = f"SELECT {', '.join(f'(SELECT count(*) FROM {name})' for name in tables)}"
    assert outside(path, counts) == [(0, 0, 0, 0, 0)]
    assert store.stats().queued_count == 4
    store.flush()
    assert outside(path, counts) == [(3, 1, 0, 1, 1)]
    assert store.stats().failed_transaction_count == 1


# -- one function fails, the others do not ----------------------------------------------------------------------


def transact_together(
    store: Store, tracer: WorkflowTracer, functions: list[Callable[[apsw.Connection], Any]]
) -> list[Any]:
    """Run functions from threads of their own in one transaction, after one span; their results or exceptions."""
    results: dict[int, Any] = {}

    def call(number: int) -> None:
        try:
            results[number] = store.transact(functions[number])
        except BaseException as error:  # noqa: BLE001
            results[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(functions))]
    with standing_still(store):
        make_spans(tracer, 1)
        for number, thread in enumerate(threads, 1):
            thread.start()
            until(lambda number=number: len(store.writer._commands) == number)
    for thread in threads:
        thread.join()
    return [results[number] for number in range(len(functions))]


class Unforeseen(BaseException):
    """As KeyboardInterrupt: no Exception."""


@pytest.mark.parametrize("kind", [ValueError, KeyError, StoreError, Unforeseen, SystemExit])
def test_a_failing_function_undoes_only_itself(kind: type[BaseException], store: Store, tracer: WorkflowTracer) -> None:
    """A function that raises gets its own exception back; the others and the telemetry of its batch are stored."""
    error = kind("own")

    def fail(connection: apsw.Connection) -> None:
        add_scope("doomed")(connection)
        raise error

    results = transact_together(store, tracer, [add_scope("first"), fail, add_scope("last")])
    assert results == ["first", error, "last"]
    assert results[1] is error
    assert added_scopes(store) == ["first", "last"]
    assert names(store) == ["span 0"]
    assert (store.stats().transaction_count, store.stats().failed_transaction_count) == (2, 0)


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("INSERT INTO scope_records (scope_no, name) VALUES (1, 'doomed')", id="constraint"),
        pytest.param("SELECT nonsense", id="syntax"),
        pytest.param("INSERT INTO scope_records (name) VALUES (x'00')", id="type"),
    ],
)
def test_a_failing_statement_undoes_only_its_function(statement: str, store: Store, tracer: WorkflowTracer) -> None:
    """SQL that fails because of what the function asked for does not fail the other transactions of the batch."""

    def fail(connection: apsw.Connection) -> None:
        add_scope("doomed")(connection)
        connection.execute(statement).fetchall()

    first, error, last = transact_together(store, tracer, [add_scope("first"), fail, add_scope("last")])
    assert isinstance(error, (StoreError, apsw.Error))
    assert (first, last) == ("first", "last")
    assert added_scopes(store) == ["first", "last"]
    assert names(store) == ["span 0"]


def test_a_failing_function_gives_its_row_numbers_back(store: Store, tracer: WorkflowTracer) -> None:
    """A resource that a failing function inserted is gone with it, and is inserted again when a span needs it."""
    resource = store.resource("mine")

    def fail(connection: apsw.Connection) -> None:
        store.writer.number_resource(connection, resource)
        raise Unforeseen

    with pytest.raises(Unforeseen):
        store.transact(fail)
    make_spans(WorkflowTracer(store.writer, resource), 1)
    store.flush()
    query = "SELECT r.attributes FROM span_records s LEFT JOIN resource_records r ON r.resource_no = s.resource_no"
    assert rows(store, query) == [(resource.key,)]


def test_a_transaction_inside_a_transaction_joins_it(store: Store) -> None:
    """transact may be called from inside of a function; there is one commit, and no deadlock."""

    def outer(connection: apsw.Connection) -> list[str]:
        return ["outer", store.transact(add_scope("inner"))]

    assert store.transact(outer) == ["outer", "inner"]
    assert store.stats().transaction_count == 1


def test_a_transaction_inside_the_first_transaction(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining works however early the writer thread gets to the function: also before start() has returned."""
    entered = threading.Event()

    class EarlyThread(threading.Thread):
        def start(self) -> None:
            super().start()
            if self.name == "tilebox-local-writer":
                assert entered.wait(PATIENCE_S)

    def outer(connection: apsw.Connection) -> str:
        entered.set()
        return store.transact(add_scope("inner"))

    monkeypatch.setattr(threading, "Thread", EarlyThread)
    assert transact_within(store, 2, outer) == "inner"


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
                store.writer.append_log(log_item(store, f"log {number}"))
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
tracer = WorkflowTracer(store.writer, store.resource(None))
with tracer.span("before"):
    pass
store.flush()
import os
size = max(os.path.getsize(sys.argv[1] + suffix) for suffix in ("", "-wal"))
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


# -- delivered twice --------------------------------------------------------------------------------------------


def test_delivering_twice_stores_once(store: Store, tracer: WorkflowTracer) -> None:
    """A span with events and a log record that are appended again, in the same batch and later, are stored once."""
    with tracer.span("span") as span:
        span.add_event("first")
        span.add_event("second", {"n": 2})
    log = log_item(store, "log")
    for _ in range(2):
        for _ in range(3):
            store.writer.append_span(span)
            store.writer.append_log(log)
        store.flush()
    assert names(store) == ["span"]
    assert rows(store, "SELECT event_no, name, attributes FROM event_records ORDER BY event_no") == [
        (0, "first", None),
        (1, "second", '{"n":2}'),
    ]
    assert rows(store, "SELECT body FROM log_records") == [("log",)]


def test_a_stored_span_does_not_change(store: Store, tracer: WorkflowTracer) -> None:
    """What was stored as complete wins over what is delivered later under the same key."""
    with tracer.span("span") as span:
        span.set_attribute("n", 1)
    store.flush()
    assert isinstance(span, RecordingSpan)
    span.name, span.attributes, span.duration_ns = "other", {"n": 2}, 1
    store.writer.append_span(span)
    store.flush()
    assert rows(store, "SELECT name, attributes, duration_ns > 1 FROM span_records") == [("span", '{"n":1}', 1)]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64, 65, 511, 512, 513, 1000, 8192 + 513])
def test_batches_of_all_sizes(count: int, store: Store, tracer: WorkflowTracer) -> None:
    """Inserting many rows per statement loses none at the edges of the statements and batches."""
    with standing_still(store):
        make_spans(tracer, count)
    store.flush()
    assert names(store) == sorted(f"span {number}" for number in range(count))
    assert store.stats().written_count == count


# -- more than the queue takes ----------------------------------------------------------------------------------


class Room(threading.Event):
    """Notes that a producer waits for room."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.awaited.set()
        return super().wait(timeout)


@pytest.mark.parametrize("kind", ["spans", "logs"])
def test_a_full_queue_makes_the_producer_wait(kind: str, store: Store, tracer: WorkflowTracer) -> None:
    """While the writer is busy, a producer stops at the limit of the queue; nothing is dropped."""
    writer = store.writer
    writer.queue_limit = 50
    room = writer._room = Room()
    queue: Any = getattr(writer, kind)

    def produce() -> None:
        if kind == "spans":
            make_spans(tracer, 200)
        else:
            for number in range(200):
                writer.append_log(log_item(store, f"log {number}"))

    producer = threading.Thread(target=produce)
    with standing_still(store):
        producer.start()
        assert room.awaited.wait(PATIENCE_S)
        assert (len(queue), producer.is_alive()) == (51, True)
    producer.join()
    store.flush()
    table = "span_records" if kind == "spans" else "log_records"
    assert rows(store, f"SELECT count(*) FROM {table}") == [(200,)]
    assert store.stats().dropped_count == 0


@pytest.mark.usefixtures("patient")
def test_what_is_dropped_is_counted(
    store: Store, disk: Disk, tracer: WorkflowTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk refuses, records over the limit are dropped and counted exactly, in the file after recovery."""
    monkeypatch.setattr(writer_module, "_PATIENCE_S", 0)
    writer = store.writer
    writer.queue_limit = 20
    with standing_still(store):
        make_spans(tracer, 20, "kept")
        disk.failures = 1_000_000
    with pytest.raises(StoreError):
        store.flush()
    threads = [threading.Thread(target=make_spans, args=(tracer, 100, f"late {n}")) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(100):
        writer.append_log(log_item(store, f"log {number}"))
    disk.failures = 0
    dropped = store.stats().dropped_count
    assert dropped == (300 - 20) + (100 - 20)
    store.flush()
    assert rows(store, "SELECT (SELECT count(*) FROM span_records), (SELECT count(*) FROM log_records)") == [(40, 20)]
    assert rows(store, "SELECT dropped_count, quarantined_count FROM writer_records") == [(dropped, 0)]
    make_spans(tracer, 20, "again")
    store.flush()
    assert len(names(store)) == 60
    assert store.stats().dropped_count == dropped


@pytest.mark.usefixtures("patient")
def test_drops_are_in_the_file_when_the_report_failed_first(store: Store, disk: Disk, tracer: WorkflowTracer) -> None:
    """The count of drops in the file is right even if the first commit that would report it fails."""
    store.writer.queue_limit = 20
    store.writer._shedding = True
    with standing_still(store):
        make_spans(tracer, 50)
        disk.failures = 2
    with pytest.raises(StoreError):
        store.flush()
    store.flush()
    assert store.stats().dropped_count == 30
    assert rows(store, "SELECT dropped_count FROM writer_records") == [(30,)]


@pytest.mark.usefixtures("patient")
def test_memory_is_bounded_while_the_disk_refuses(store: Store, disk: Disk, tracer: WorkflowTracer) -> None:
    """However often the writer tries in vain, it holds no more records than the queue and one batch may have."""
    store.writer.queue_limit = 20
    disk.failures = 50
    for _ in range(50):
        make_spans(tracer, 20)
        with pytest.raises(StoreError):
            store.flush()
    stats = store.stats()
    assert stats.queued_count + stats.dropped_count == 1000
    assert stats.queued_count <= 100


def test_flush_gives_up_after_its_timeout(store: Store, tracer: WorkflowTracer) -> None:
    """A flush that takes too long raises FlushTimeoutError with the number of records that wait; they stay queued."""
    with standing_still(store):
        make_spans(tracer, 3)
        with pytest.raises(FlushTimeoutError) as caught:
            store.flush(0.01)
    assert caught.value.pending == 3
    assert isinstance(caught.value, TimeoutError)
    assert str(caught.value) == "3 records are still queued after 0.01 s."
    store.flush()
    assert len(names(store)) == 3


# -- closing ----------------------------------------------------------------------------------------------------


def test_close_writes_what_is_queued(path: Path) -> None:
    """Closing stores everything, leaves one file (and the lock) behind, and may be repeated."""
    client = Client(path)
    make_spans(client.tracer, 100)
    client.close()
    client.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["store.db", "store.db.lock"]
    assert outside(path, "SELECT count(*) FROM span_records") == [(100,)]


def test_use_after_close(path: Path) -> None:
    """A closed store refuses reads and transactions with a hint; late telemetry does no harm."""
    store = open_store(path)
    tracer = WorkflowTracer(store.writer, store.resource(None))
    store.close()
    store.close()
    assert store.is_closed
    for use in (lambda: store.transact(add_scope("late")), lambda: store.read().__enter__()):
        with pytest.raises(StoreClosedError) as caught:
            use()
        assert str(caught.value) == f"{path} is closed. Open a new Client."
    make_spans(tracer, 3)
    store.writer.append_log(log_item(store, "late"))


def test_use_after_close_of_the_client(path: Path) -> None:
    """The methods of a closed client say that it is closed."""
    with Client(path) as client:
        client.clusters().all()
    for use in (
        client.clusters().all,
        lambda: client.clusters().create("late"),
        lambda: client.jobs().query(),
        client.runner,
    ):
        with pytest.raises(StoreClosedError, match="is closed"):
            use()


def test_a_store_is_open_until_its_last_user_closes_it(path: Path) -> None:
    """Clients of one path share a store; the last one that closes it closes the file."""
    first, second = Client(path), Client(path.parent / "." / path.name)
    assert first._store is second._store
    first.close()
    make_spans(second.tracer, 1)
    second.flush()
    second.close()
    assert second._store.is_closed
    assert outside(path, "SELECT count(*) FROM span_records") == [(1,)]


def test_a_store_can_be_opened_again(path: Path) -> None:
    """After closing, the same path can be opened in the same process; each time counts as a new writer."""
    for number in range(3):
        with Client(path) as client:
            make_spans(client.tracer, 1, f"time {number}")
    assert outside(path, "SELECT name FROM span_records ORDER BY name") == [(f"time {n} 0",) for n in range(3)]
    assert outside(path, "SELECT pid, host FROM writer_records") == [(os.getpid(), platform.node())] * 3


def test_close_while_the_file_is_locked(path: Path) -> None:
    """close() gives up after its timeout while another process holds the lock; the rest is written once it is free."""
    script = """
import fcntl, sys
file = open(sys.argv[1] + ".lock", "r+")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""
    store = open_store(path)
    make_spans(WorkflowTracer(store.writer, store.resource(None)), 3)
    store.flush()
    with start(script, path) as other:
        assert read_line(other) == "locked"
        make_spans(WorkflowTracer(store.writer, store.resource(None)), 4, "late")
        with pytest.raises(FlushTimeoutError) as caught:
            store.writer.close(0.05)
        assert caught.value.pending == 4
        other.communicate("")
    store.writer._thread.join()
    store.close()
    assert outside(path, "SELECT count(*) FROM span_records") == [(7,)]


def test_close_does_not_wait_for_other_threads_to_stop(path: Path) -> None:
    """close() writes what was appended before it, and returns although other threads go on making spans."""
    store = open_store(path)
    tracer = WorkflowTracer(store.writer, store.resource(None))
    make_spans(tracer, 10, "before")
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            make_spans(tracer, 1, "more")

    producer = threading.Thread(target=go_on)
    producer.start()
    until(lambda: store.stats().written_count > 10)
    try:
        store.writer.close(10)
    finally:
        stop.set()
        producer.join()
        store.writer._thread.join()
        store.close()
    assert outside(path, "SELECT count(*) FROM span_records WHERE name LIKE 'before%'") == [(10,)]


@pytest.mark.usefixtures("eager")
def test_close_says_that_records_were_lost(path: Path) -> None:
    """If the last records cannot be written, close() raises an error that says how many."""
    store = open_store(path)
    disk = Disk(store)
    disk.failures = 1000
    make_spans(WorkflowTracer(store.writer, store.resource(None)), 3)
    with pytest.raises((StoreError, FlushTimeoutError), match="3"):
        store.close()


def test_transact_that_races_with_close_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that comes while another thread closes the store raises StoreClosedError; it does not hang."""
    store = open_store(path)
    store.transact(add_scope("before"))
    ready, closed = threading.Event(), threading.Event()

    class SlowCommand(writer_module._Command):
        __slots__ = ()

        def __init__(self, function: Any) -> None:
            super().__init__(function)
            ready.set()
            closed.wait(PATIENCE_S)

    monkeypatch.setattr(writer_module, "_Command", SlowCommand)
    errors: list[BaseException] = []

    def transact() -> None:
        try:
            store.transact(add_scope("late"))
        except StoreClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=transact, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_S)
    store.close()
    closed.set()
    thread.join(0.5)
    hangs = thread.is_alive()
    if hangs:
        store.writer._commands[0].done.release()
        thread.join()
    assert not hangs
    assert len(errors) == 1


# -- the writer thread lives ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no luck"),
        MemoryError(),
        SystemExit(1),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_writer_survives_errors_in_callbacks(error: BaseException, path: Path) -> None:
    """An exception in a callback after the commit, of whatever kind, does not stop the writer."""
    store = open_store(path)

    def fail() -> None:
        store.writer.on_commit.clear()
        raise error

    store.writer.on_commit.append(fail)
    store.transact(add_scope("first"))
    assert transact_within(store, 2, add_scope("second")) == "second"
    store.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_writer_survives_a_broken_log_handler(path: Path) -> None:
    """If the user's log handler raises when the writer reports a failure, the writer still goes on."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("broken handler")

    store = open_store(path)
    disk = Disk(store)
    logger, handler = logging.getLogger("tilebox.workflows.internal"), Broken()
    logger.addHandler(handler)
    try:
        disk.failures = 1
        with pytest.raises(StoreError):
            store.transact(add_scope("doomed"))
        assert transact_within(store, 2, add_scope("second")) == "second"
    finally:
        logger.removeHandler(handler)
        store.close()


# -- leaving without a word -------------------------------------------------------------------------------------

DAEMON_THREAD = """
import threading
started = threading.Event()
def go_on():
    while True:
        with client.tracer.span("daemon"):
            started.set()
        threading.Event().wait(0.01)
threading.Thread(target=go_on, daemon=True).start()
started.wait()
"""
LATE_THREAD = """
import threading
main = threading.main_thread()
def late():
    main.join()
    with client.tracer.span("late"):
        pass
threading.Thread(target=late).start()
"""
THREAD_POOL = """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(2)
def late():
    with client.tracer.span("late"):
        pass
pool.submit(late)
"""
ENDINGS = {
    "end of the script": ("", 0, ""),
    "sys.exit": ("sys.exit(3)", 3, ""),
    "exception": ("raise RuntimeError('unhandled')", 1, "RuntimeError: unhandled"),
    "interrupt": ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
    "daemon thread": (DAEMON_THREAD, 0, ""),
    "thread that outlives main": (LATE_THREAD, 0, ""),
    "thread pool": (THREAD_POOL, 0, ""),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_forgetting_to_close_loses_nothing(ending: str, path: Path) -> None:
    """However the interpreter ends by itself, without close() or flush(), all finished spans are stored."""
    code, returncode, last_line = ENDINGS[ending]
    script = f"""
import sys
from tilebox_local import Client
client = Client(sys.argv[1])
for number in range(500):
    with client.tracer.span(f"main {{number}}"):
        pass
{code}
"""
    done = run(script, path)
    assert (done.returncode, done.stdout, done.stderr.strip().rpartition("\n")[2]) == (returncode, "", last_line)
    counts = Counter(name.split()[0] for (name,) in outside(path, "SELECT name FROM span_records"))
    assert counts["main"] == 500
    assert (counts["late"] == 1) == (code in (LATE_THREAD, THREAD_POOL))
    assert (counts["daemon"] > 0) == (code == DAEMON_THREAD)


KILLED = """
import sys
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage.store import open_store
store = open_store(sys.argv[1])
tracer = WorkflowTracer(store.writer, store.resource(None))
number = int(sys.argv[2])
while True:
    for _ in range(10):
        with tracer.span(str(number)):
            pass
    if number % 2:
        store.flush()
    else:
        store.transact(
            lambda connection: connection.execute(
                "INSERT INTO scope_records (name) VALUES (?)", (str(number),)
            ).fetchall()
        )
    print(number, flush=True)
    number += 1
"""


def test_kill_minus_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    """Ten processes are killed in the middle of their work; everything that flush or transact confirmed stays."""
    acknowledged: list[int] = []
    for kill in range(10):
        with start(KILLED, path, kill * 1_000_000) as process:
            acknowledged += [int(read_line(process)) for _ in range(5 + 7 * kill)]
            process.kill()
            rest, errors = process.communicate()
        assert errors == ""
        acknowledged += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    spans = {int(name): n for name, n in outside(path, "SELECT name, count(*) FROM span_records GROUP BY name")}
    scopes = {int(name) for (name,) in outside(path, "SELECT name FROM scope_records WHERE scope_no > 1")}
    assert {number: spans.get(number) for number in acknowledged} == dict.fromkeys(acknowledged, 10)
    assert {number for number in acknowledged if number % 2 == 0} <= scopes
    assert {number: spans.get(number) for number in scopes} == dict.fromkeys(scopes, 10)
    assert outside(path, "SELECT integrity_check FROM pragma_integrity_check") == [("ok",)]
    with closing(open_store(path)) as store:
        assert len(rows(store, "SELECT 1 FROM span_records")) >= 10 * len(acknowledged)


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


def test_an_idle_store_is_synced(clock: Clock, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last commit that did not wait for the disk, one that does follows by itself within a second."""
    assert [synchronous(store), synchronous(store)] == [FULL, NORMAL]
    synced = threading.Event()
    store.writer.on_commit.append(synced.set)
    monkeypatch.setattr("tilebox_local.clock.wall_ns", lambda: 123)
    clock.now += 1_000_000_000
    until(lambda: store.writer.idle)
    store.writer.attend()  # or wait for a second
    assert synced.wait(PATIENCE_S)
    assert rows(store, "SELECT value FROM store_records WHERE key = 'synced_ns'") == [(123,)]
    assert synchronous(store) == NORMAL  # the sync was a FULL commit


@pytest.mark.usefixtures("clock")
def test_close_waits_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing syncs what the last commits left to the operating system."""
    store = open_store(path)
    assert [synchronous(store), synchronous(store)] == [FULL, NORMAL]
    monkeypatch.setattr("tilebox_local.clock.wall_ns", lambda: 456)
    store.close()
    assert outside(path, "SELECT value FROM store_records WHERE key = 'synced_ns'") == [(456,)]


@pytest.mark.usefixtures("clock")
def test_full_durability_waits_at_every_commit(path: Path) -> None:
    """With durability="full" every commit waits for the disk; a second client that asks for it makes it so for all."""
    with Client(path, durability="full") as client:
        assert [synchronous(client._store) for _ in range(3)] == [FULL] * 3
    with Client(path) as client:
        assert [synchronous(client._store) for _ in range(2)] == [FULL, NORMAL]
        with Client(path, durability="full"):
            assert [synchronous(client._store) for _ in range(3)] == [FULL] * 3


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


# -- threads ----------------------------------------------------------------------------------------------------


def test_clients_in_many_threads_share_one_store(path: Path) -> None:
    """Eight threads, each with a client of its own on the same path, write through one writer; all is stored."""
    barrier = threading.Barrier(8)
    stores: list[Store] = []

    def work(number: int) -> None:
        barrier.wait(PATIENCE_S)
        with Client(path, name=f"client {number}") as client:
            stores.append(client._store)
            barrier.wait(PATIENCE_S)
            make_spans(client.tracer, 200, f"thread {number}")
            client._store.transact(add_scope(f"scope {number}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 8
    assert len(set(stores)) == 1
    query = (
        "SELECT json_extract(r.attributes, '$.\"service.name\"'), count(*), count(DISTINCT s.name) "
        "FROM span_records s JOIN resource_records r ON r.resource_no = s.resource_no GROUP BY 1 ORDER BY 1"
    )
    assert outside(path, query) == [(f"client {number}", 200, 200) for number in range(8)]
    assert outside(path, "SELECT count(*) FROM scope_records") == [(9,)]
    assert outside(path, "SELECT count(*) FROM writer_records") == [(1,)]


def test_memory_stores_are_separate() -> None:
    """Two clients on ":memory:" do not see each other, and each is gone when it is closed."""
    with Client(":memory:") as first, Client(":memory:") as second:
        make_spans(first.tracer, 2)
        make_spans(second.tracer, 3)
        first.flush()
        second.flush()
        assert (len(names(first._store)), len(names(second._store))) == (2, 3)
    with Client(":memory:") as third:
        assert names(third._store) == []


# -- processes --------------------------------------------------------------------------------------------------

WORKER = """
import sys
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage.store import open_store
store = open_store(sys.argv[1])
tracer = WorkflowTracer(store.writer, store.resource(None))
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
    with WorkflowTracer(store.writer, store.resource(None)).span(f"{sys.argv[2]} {number}"):
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


FORK = """
import os, sys, threading
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage.store import open_store
store = open_store(sys.argv[1])
tracer = WorkflowTracer(store.writer, store.resource(None))

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
        if len(store.writer.spans) > 1000:
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
    for use in (store.flush, lambda: store.transact(print), lambda: store.read().__enter__()):
        try:
            use()
            print("no error")
        except StoreError as error:
            print(str(error).split(": ", 1)[1])
    store.close()
    sys.stdout.flush()
"""
REFUSAL = (
    "it was forked while the store was in use. Fork while no thread reads or commits, or start the process with "
    "multiprocessing's 'spawn'."
)


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
    assert result.stdout.splitlines() == ["10 0", REFUSAL, REFUSAL, REFUSAL, "0", "rows 20"]
    assert result.stderr.count("Spans and logs of this process are dropped.") == 1
    query = "SELECT substr(name, 1, instr(name, ' ') - 1), count(*) FROM span_records GROUP BY 1 ORDER BY 1"
    assert outside(path, query) == [("after", 10), ("before", 10)]


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
    assert result.stdout.splitlines() == ["10 0", REFUSAL, REFUSAL, REFUSAL, "0"]
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


# -- bookkeeping ------------------------------------------------------------------------------------------------


def test_a_process_registers_when_it_first_writes_telemetry(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """writer_records has a row per process that wrote telemetry: pid, host and when; transactions alone make none."""
    monkeypatch.setattr("tilebox_local.clock.wall_ns", lambda: 789)
    store.transact(add_scope("scope"))
    assert rows(store, "SELECT * FROM writer_records") == []
    for _ in range(2):
        make_spans(WorkflowTracer(store.writer, Reference("{}")), 1)
        store.flush()
    assert rows(store, "SELECT * FROM writer_records") == [(1, os.getpid(), platform.node(), 789, 0, 0)]


def test_stats(store: Store, tracer: WorkflowTracer) -> None:
    """The counts tell what the process has queued and written."""
    with standing_still(store):
        with tracer.span("span") as span:
            span.add_event("event")
        store.writer.append_log(log_item(store, "log"))
        assert store.stats() == writer_module.WriterStats(2, 0, 0, 0, 0, 0, 0)
    store.flush()
    stats = store.stats()
    assert stats == writer_module.WriterStats(0, 3, 0, 0, stats.transaction_count, 0, 0)
    assert stats.transaction_count in (2, 3)
