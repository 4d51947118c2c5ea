"""Spans that make their own row as they end, because their trace and resource are known to be stored."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import apsw
import pytest
from opentelemetry.trace import NonRecordingSpan, StatusCode, set_span_in_context
from store_support import PATIENCE_S, Disk, make_spans, names, note_waits, rows, run_ok, standing_still, until

from tilebox_local.errors import StoreError
from tilebox_local.observability.tracing import LocalTracerProvider, WorkflowTracer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tilebox_local.storage.store import Store

TRACES = "SELECT s.name, t.trace_id FROM span_records s LEFT JOIN trace_records t ON t.trace_no = s.trace_no"


@contextmanager
def stored_trace(store: Store, tracer: WorkflowTracer) -> Iterator[int]:
    """A current span whose trace is committed; yields the trace id."""
    with tracer.span("parent") as parent:
        with tracer.span("first") as first:
            first.set_attribute("n", 0)  # the writer looks at a key before spans that have it make their own rows
        store.flush()
        yield parent.get_span_context().trace_id


def test_a_span_of_a_stored_trace_waits_as_a_row(store: Store, tracer: WorkflowTracer) -> None:
    """Such a span is queued as the values of its columns; one with more to store, or of a new trace, as itself."""
    with stored_trace(store, tracer), standing_still(store):
        with tracer.span("plain") as span:
            span.set_attribute("n", 1)
        with tracer.span("event") as span:
            span.add_event("event")
        with tracer.span("status") as span:
            span.set_status(StatusCode.OK)
        with tracer.span("surrogate") as span:
            span.set_attribute("text", "\ud800")
        with tracer.span("long") as span:
            span.set_attribute("text", "x" * 70_000)
        make_spans(WorkflowTracer(store.writer.queue, store.resource("other")), 1, "resource")
        thread = threading.Thread(target=make_spans, args=(tracer, 1, "trace"))
        thread.start()
        thread.join()
        assert [(row[5], row[9]) for row in store.writer.queue.span_rows] == [("plain", '{"n":1}')]
        waiting = [span.name for span in store.writer.queue.spans]
        assert waiting == ["event", "status", "surrogate", "long", "resource 0", "trace 0"]
    store.flush()
    assert rows(store, "SELECT name, status_code, length(attributes) FROM span_records ORDER BY start_ns") == [
        ("parent", 0, None),
        ("first", 0, 7),
        ("plain", 0, 7),
        ("event", 0, None),
        ("status", 1, None),
        ("surrogate", 0, 18),
        ("long", 0, 65_567),
        ("resource 0", 0, None),
        ("trace 0", 0, None),
    ]


def test_both_ways_store_the_same(store: Store, tracer: WorkflowTracer) -> None:
    """A span looks the same in the file whether it made its row itself or the writer did."""
    with stored_trace(store, tracer):
        for way in ("by the writer", "by itself"):
            with tracer.span("span") as span, tracer.span("child") as child:
                child.set_attribute("way", way)
                child.set_attributes({"text": "é", "n": -(2**63), "list": [1, 2.5, None], "flag": True})
                if way == "by the writer":
                    child.has_details = True  # type: ignore[attr-defined]
            assert child.parent_id == span.span_id  # type: ignore[attr-defined]
    store.flush()
    columns = [
        column
        for (column,) in rows(store, "SELECT name FROM pragma_table_info('span_records')")
        if column not in ("start_ns", "span_id", "parent_span_id", "duration_ns", "attributes")
    ]
    query = f"""
      SELECT json_remove(attributes, '$.way'), duration_ns > 0, {", ".join(columns)}
      FROM span_records WHERE name = 'child' ORDER BY start_ns
    """
    by_writer, by_itself = rows(store, query)
    assert by_writer == by_itself
    assert by_itself[0] == '{"text":"é","n":-9223372036854775808,"list":[1,2.5,null],"flag":true}'


@pytest.mark.usefixtures("eager")
def test_rows_survive_failed_commits(store: Store, disk: Disk, tracer: WorkflowTracer) -> None:
    """Rows whose commits failed several times are stored once when it works."""
    with stored_trace(store, tracer):
        with standing_still(store):
            make_spans(tracer, 700)
            assert len(store.writer.queue.span_rows) == 700
            disk.failures = 4
        until(lambda: store.stats().queued_count == 0)
    store.flush()
    assert names(store) == sorted(["parent", "first", *(f"span {number}" for number in range(700))])


@pytest.mark.usefixtures("patient")
def test_numbers_of_a_failed_transaction_are_not_used(store: Store, tracer: WorkflowTracer, path: Path) -> None:
    """A trace and a resource that were numbered in vain get the numbers that are free when it works."""
    insert = """
import sys
from tilebox_local import Client
with Client(sys.argv[1], name="elsewhere") as client, client.tracer.span("elsewhere"):
    pass
"""
    trace_ids: dict[str, bytes] = {}

    def end_spans_and_fail(connection: apsw.Connection) -> None:
        # The transaction has numbered the trace, but nobody knows yet whether the numbers will stand.
        context.run(make_spans, tracer, 3, "inside")
        raise apsw.FullError("made up")

    with tracer.span("parent") as parent:
        trace_ids["mine"] = parent.get_span_context().trace_id.to_bytes(16, "big")
        make_spans(tracer, 1, "before")
        context = copy_context()
        with pytest.raises(StoreError):
            store.transact(end_spans_and_fail)
        run_ok(insert, path)  # takes the numbers
        store.flush()
        make_spans(tracer, 1, "after")
    store.flush()
    stored = dict(rows(store, TRACES))
    theirs = stored.pop("elsewhere")
    assert stored == dict.fromkeys(
        ["parent", "before 0", *(f"inside {n}" for n in range(3)), "after 0"], trace_ids["mine"]
    )
    assert theirs not in (None, trace_ids["mine"])
    query = "SELECT count(DISTINCT resource_no) FROM span_records WHERE name != 'elsewhere'"
    assert rows(store, query) == [(1,)]


def test_rows_make_the_producer_wait(store: Store, tracer: WorkflowTracer) -> None:
    """A producer of rows stops at the limit of the queue while the writer is busy; nothing is dropped."""
    awaited = note_waits(store.writer.queue)
    errors: list[BaseException] = []

    def produce() -> None:
        with stored_trace(store, tracer):
            started.set()
            assert go_on.wait(PATIENCE_S)
            make_spans(tracer, 200)

    started, go_on = threading.Event(), threading.Event()
    producer = threading.Thread(target=produce)
    producer.start()
    assert started.wait(PATIENCE_S)
    store.writer.queue.limit = 50
    with standing_still(store):
        go_on.set()
        assert awaited.wait(PATIENCE_S)
        assert (len(store.writer.queue.span_rows), producer.is_alive()) == (51, True)
    producer.join()
    store.flush()
    assert errors == []
    assert len(names(store)) == 202
    assert store.stats().dropped_count == 0


def test_a_producer_gives_way(store: Store, tracer: WorkflowTracer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a batch's worth of waiting spans, a producer lets the writer in every few hundred spans."""
    queued: list[int] = []
    monkeypatch.setattr(
        "tilebox_local.storage.queue.time.sleep", lambda _seconds: queued.append(len(store.writer.queue.span_rows))
    )
    with stored_trace(store, tracer), standing_still(store):
        make_spans(tracer, 5_000)
    assert queued == [4_097, 4_354, 4_611, 4_868]


@pytest.mark.parametrize("count", [1, 8, 9, 64, 65, 512, 513, 4096, 4097, 9_000])
def test_batches_of_rows_of_all_sizes(count: int, store: Store, tracer: WorkflowTracer) -> None:
    """Inserting many rows per statement loses none at the edges of the statements and batches."""
    with stored_trace(store, tracer):
        with standing_still(store):
            make_spans(tracer, count)
        store.flush()
    store.flush()
    assert names(store) == sorted(["parent", "first", *(f"span {number}" for number in range(count))])


def test_a_row_that_cannot_be_stored(store: Store, tracer: WorkflowTracer) -> None:
    """A row that SQLite refuses is repaired or put into quarantine; its neighbours are stored."""
    with stored_trace(store, tracer):
        make_spans(tracer, 1, "before")
        with tracer.span("\ud800"):
            pass
        name: Any = 5.5
        with tracer.span(name):
            pass
        with tracer.span("not a number") as span:
            span.start_ns = "soon"  # type: ignore[attr-defined]
        make_spans(tracer, 1, "after")
    store.flush()
    assert names(store) == sorted(["parent", "first", "before 0", "\\ud800", "5.5", "after 0"])
    ((kind, reason, content),) = rows(store, "SELECT kind, reason, content FROM quarantine_records")
    assert (kind, "start_ns" in reason, "'soon'" in content) == ("span", True, True)


def test_many_traces_at_once(store: Store, tracer: WorkflowTracer) -> None:
    """Spans that each begin a trace get a row each in trace_records; a trace that is stored already is found again."""
    seen: list[int] = []
    with standing_still(store):
        for number in range(600):
            with tracer.span(f"root {number}") as root:
                seen.append(root.get_span_context().trace_id)
    store.flush()
    found = dict(rows(store, TRACES))
    assert found == {f"root {number}": trace_id.to_bytes(16, "big") for number, trace_id in enumerate(seen)}
    assert rows(store, "SELECT count(*), max(trace_no) FROM trace_records WHERE trace_no > 0") == [(600, 600)]


@pytest.mark.parametrize("flushes", [True, False])
def test_a_trace_that_came_back(flushes: bool, store: Store, tracer: WorkflowTracer) -> None:
    """A span that began a trace shares its row with spans that continue the trace by its ids, in any order."""
    with tracer.span("root") as root:
        context = set_span_in_context(NonRecordingSpan(root.get_span_context()))
        with tracer.span("continued", context=context):
            pass
        if flushes:
            store.flush()
    store.flush()
    trace_id = root.get_span_context().trace_id.to_bytes(16, "big")
    assert dict(rows(store, TRACES)) == {"root": trace_id, "continued": trace_id}
    assert rows(store, "SELECT count(*) FROM trace_records WHERE trace_no > 0") == [(1,)]


def test_spans_of_libraries_are_rows_once_their_scope_is_stored(store: Store, tracer: WorkflowTracer) -> None:
    """A library's first spans wait as themselves, the later ones as rows; all carry its name and version."""
    library = LocalTracerProvider(store.writer, store.resource(None)).get_tracer("library", "1.0")
    with stored_trace(store, tracer):
        with library.start_as_current_span("early"):
            pass
        store.flush()
        with standing_still(store):
            with library.start_as_current_span("late", attributes={"n": 1}):
                pass
            assert [(row[5], row[9]) for row in store.writer.queue.span_rows] == [("late", '{"n":1}')]
    store.flush()
    query = """
      SELECT s.name, c.name, c.version FROM span_records s JOIN scope_records c USING (scope_no)
      WHERE scope_no > 1 ORDER BY start_ns"""
    assert rows(store, query) == [("early", "library", "1.0"), ("late", "library", "1.0")]
