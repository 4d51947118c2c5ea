"""More than the writer can take: who waits, what is dropped, and that it is counted."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from store_support import (
    PATIENCE_S,
    Disk,
    log_item,
    make_spans,
    names,
    note_waits,
    rows,
    standing_still,
)

from tilebox_local.errors import FlushTimeoutError, StoreError

if TYPE_CHECKING:
    from tilebox_local.observability.tracing import WorkflowTracer
    from tilebox_local.storage.store import Store


@pytest.mark.parametrize("kind", ["spans", "logs"])
def test_a_full_queue_makes_the_producer_wait(kind: str, store: Store, tracer: WorkflowTracer) -> None:
    """While the writer is busy, a producer stops at the limit of the queue; nothing is dropped."""
    writer = store.writer
    writer.queue.limit = 50
    awaited = note_waits(writer.queue)
    queue: Any = getattr(writer.queue, kind)

    def produce() -> None:
        if kind == "spans":
            make_spans(tracer, 200)
        else:
            for number in range(200):
                writer.queue.append_log(log_item(store, f"log {number}"))

    producer = threading.Thread(target=produce)
    with standing_still(store):
        producer.start()
        assert awaited.wait(PATIENCE_S)
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
    monkeypatch.setattr("tilebox_local.storage.queue._PATIENCE_S", 0)
    writer = store.writer
    writer.queue.limit = 20
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
        writer.queue.append_log(log_item(store, f"log {number}"))
    disk.failures = 0
    dropped = store.stats().dropped_count
    assert dropped == (300 - 20) + (100 - 20)
    store.flush()
    assert rows(store, "SELECT (SELECT count(*) FROM span_records), (SELECT count(*) FROM log_records)") == [(40, 20)]
    assert rows(store, "SELECT dropped_count, quarantined_count FROM writer_records") == [(dropped, 0)]
    assert rows(store, "SELECT kind, message, pid FROM incidents") == [
        ("gap", f"{dropped} spans and log records were dropped: constraint failed", os.getpid())
    ]
    make_spans(tracer, 20, "again")
    store.flush()
    assert len(names(store)) == 60
    assert store.stats().dropped_count == dropped


@pytest.mark.usefixtures("patient")
def test_drops_are_in_the_file_when_the_report_failed_first(store: Store, disk: Disk, tracer: WorkflowTracer) -> None:
    """The count of drops in the file is right even if the first commit that would report it fails."""
    store.writer.queue.limit = 20
    store.writer.queue.is_shedding = True
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
    store.writer.queue.limit = 20
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
