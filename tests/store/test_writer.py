"""The writer's two promises: what was flushed or transacted is stored, and one failure is nobody else's."""

from __future__ import annotations

import os
import platform
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import apsw
import pytest
from store_support import (
    PATIENCE_S,
    add_scope,
    added_scopes,
    interrupt_after,
    log_item,
    make_spans,
    names,
    outside,
    rows,
    standing_still,
    transact_within,
    until,
)

from tilebox_local import Client
from tilebox_local.errors import ArgumentError, FlushTimeoutError, StoreError
from tilebox_local.observability.span import RecordingSpan
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage import queue as queue_module
from tilebox_local.storage import threads
from tilebox_local.storage import writer as writer_module
from tilebox_local.storage.rows import Reference
from tilebox_local.storage.store import Store, open_store
from tilebox_local.storage.writer import WriterStats

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# -- the two promises -------------------------------------------------------------------------------------------


def test_transact_returns_after_the_commit(store: Store, path: Path) -> None:
    """When transact returns, another process sees what the function wrote, and the caller has its result."""
    assert store.transact(add_scope("mine")) == "mine"
    assert outside(path, "SELECT name FROM scope_records") == [("tilebox.com/observability",), ("mine",)]


def test_flush_returns_after_the_commit(store: Store, path: Path, tracer: WorkflowTracer) -> None:
    """When flush returns, another process sees every span and log record that was appended before."""
    make_spans(tracer, 1000)
    store.writer.queue.append_log(log_item(store, "hello"))
    store.flush()
    assert outside(path, "SELECT count(*), count(DISTINCT name) FROM span_records") == [(1000, 1000)]
    assert outside(path, "SELECT body FROM log_records") == [("hello",)]


def test_flush_of_nothing_writes_nothing(store: Store) -> None:
    """Flushing a store without new telemetry costs no transaction."""
    store.flush()
    store.flush(0)
    assert store.stats().transaction_count == 0


@pytest.mark.parametrize("timeout_s", [0, -0.5, -1])
def test_flush_with_nothing_left_of_a_deadline(store: Store, tracer: WorkflowTracer, timeout_s: float) -> None:
    """It asks, and does not wait, least of all for ever."""
    with store._lock.held():
        make_spans(tracer, 1)
        with pytest.raises(FlushTimeoutError):
            store.flush(timeout_s)
    store.flush()


def test_flush_waits_for_records_that_the_writer_has_just_taken(
    store: Store, tracer: WorkflowTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush that comes while the writer moves records from the queue to its batch waits for their commit."""
    taken, go_on = threading.Event(), threading.Event()
    take = queue_module.take

    def slow_take(queue: Any, limit: int | None) -> Any:
        found = take(queue, limit)
        if queue is store.writer.queue.spans and found:
            taken.set()
            assert go_on.wait(PATIENCE_S)
        return found

    monkeypatch.setattr(queue_module, "take", slow_take)
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
        store.writer.queue.append_log(log_item(store, "before"))
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
    assert (type(error), isinstance(error.__cause__, apsw.Error)) == (ArgumentError, True)
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
    make_spans(WorkflowTracer(store.writer.queue, resource), 1)
    store.flush()
    query = "SELECT r.attributes FROM span_records s LEFT JOIN resource_records r ON r.resource_no = s.resource_no"
    assert rows(store, query) == [(resource.key,)]


@pytest.mark.parametrize("has_begun", [False, True])
def test_an_interrupted_transaction(has_begun: bool, store: Store) -> None:
    """Ctrl-C while a transaction waits takes it back; once it runs, Ctrl-C is raised when it is done."""
    entered, leave = threading.Event(), threading.Event()

    def slow(connection: apsw.Connection) -> str:
        entered.set()
        assert leave.wait(PATIENCE_S)
        return add_scope("interrupted")(connection)

    def interrupt_when(condition: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            until(condition)
            signal.pthread_kill(main, signal.SIGINT)
            leave.set()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    main = threading.get_ident()
    if has_begun:
        thread = interrupt_when(entered.is_set)
        with pytest.raises(KeyboardInterrupt):
            store.transact(slow)
    else:
        with standing_still(store):
            thread = interrupt_when(lambda: store.writer._commands)
            with pytest.raises(KeyboardInterrupt):
                store.transact(slow)
    thread.join()
    store.flush()
    assert added_scopes(store) == (["interrupted"] if has_begun else [])


def test_an_interrupt_at_any_moment(tmp_path: Path) -> None:
    """Ctrl-C may hit the first or a later transaction at any call: no thread waits for ever, and the store goes on."""

    def interrupted_everywhere(*, is_first: bool) -> int:
        calls, goes_on = 0, True
        while goes_on:
            calls += 1
            store = open_store(tmp_path / f"{is_first}-{calls}.db")
            try:
                if not is_first:
                    store.transact(add_scope("earlier"))
                transact = partial(store.transact, add_scope("hit"))
                goes_on = interrupt_after(calls, transact, [writer_module.__file__, threads.__file__])
                assert transact_within(store, PATIENCE_S, add_scope("later")) == "later"
                earlier = [] if is_first else ["earlier"]
                allowed = [[*earlier, "later"], [*earlier, "hit", "later"]] if goes_on else [[*earlier, "hit", "later"]]
                assert added_scopes(store) in allowed
            finally:
                store.close()
        return calls

    later = interrupted_everywhere(is_first=False)
    assert later > 5
    assert interrupted_everywhere(is_first=True) > later  # it starts the writer's thread


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


# -- delivered twice --------------------------------------------------------------------------------------------


def test_delivering_twice_stores_once(store: Store, tracer: WorkflowTracer) -> None:
    """A span with events and a log record that are appended again, in the same batch and later, are stored once."""
    with tracer.span("span") as span:
        span.add_event("first")
        span.add_event("second", {"n": 2})
    log = log_item(store, "log")
    for _ in range(2):
        for _ in range(3):
            store.writer.queue.append_span(span)
            store.writer.queue.append_log(log)
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
    store.writer.queue.append_span(span)
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


# -- bookkeeping ------------------------------------------------------------------------------------------------


def test_a_process_registers_when_it_first_writes_telemetry(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """writer_records has a row per process that wrote telemetry: pid, host and when; transactions alone make none."""
    monkeypatch.setattr("tilebox_local.clock.wall_ns", lambda: 789)
    store.transact(add_scope("scope"))
    assert rows(store, "SELECT * FROM writer_records") == []
    for _ in range(2):
        make_spans(WorkflowTracer(store.writer.queue, Reference("{}")), 1)
        store.flush()
    columns = "writer_no, pid, host, opened_ns, last_seen_ns, ended_ns, has_crashed"
    assert rows(store, f"SELECT {columns} FROM writer_records") == [
        (1, os.getpid(), platform.node(), 789, 789, None, 0)
    ]


def test_stats(store: Store, tracer: WorkflowTracer) -> None:
    """The counts tell what the process has queued and written."""
    with standing_still(store):
        with tracer.span("span") as span:
            span.add_event("event")
        store.writer.queue.append_log(log_item(store, "log"))
        redacted = store.stats().redacted_count  # of this process, so of other tests, too
        assert store.stats() == WriterStats(2, 0, 0, 0, redacted, 0, 0, 0, 0, 0)
    store.flush()
    stats = store.stats()
    assert stats == WriterStats(0, 3, 0, 0, redacted, stats.transaction_count, 0, 0, 0, stats.max_lag_duration_ns)
    assert stats.transaction_count in (2, 3)
