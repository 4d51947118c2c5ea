"""Spans per second from user code until they are committed."""

from __future__ import annotations

import itertools
import random
import time
from typing import TYPE_CHECKING, Any

from benchmarks.harness import (
    NORMAL,
    PEER_NORMAL,
    ROOT,
    Options,
    Result,
    Target,
    alternate,
    check_equal,
    in_fresh_process,
    produce_spans,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

TITLE = "Spans until committed"
METHOD = """\
The same loop as above, never pausing, then `client.flush()`: the clock stops when everything is committed. Peer
*sdk*: opentelemetry-sdk, BatchSpanProcessor (queue large enough to drop nothing) and a hand-written exporter on
stdlib sqlite3: the same table and columns, orjson for the attributes, `executemany`, one transaction per export
batch; `force_flush()` at the end. Peer *floor*: nothing but apsw's `executemany` of ready-made tuples into the same
table, 2,000 rows per transaction. Each measurement in a fresh process; the rows are counted afterwards.
*own_traces* is ours without a parent span: each span begins a trace of its own, which costs a row and an index
entry more.
"""

_WARM_UP = 1_000
_COLUMNS = "trace_no, start_ns, span_id, parent_span_id, duration_ns, name, task_no, resource_no, scope_no, attributes"
_INSERT = f"INSERT INTO span_records ({_COLUMNS}) VALUES ({','.join('?' * 10)})"


def _produce(make_span: Callable[[str], Any], count: int) -> None:
    with make_span("process-scenes"):
        produce_spans(make_span, count)


def measure_ours(folder: Path, count: int, own_traces: bool = False) -> dict[str, Any]:
    """Spans per second of tilebox-local, below one parent or each the root of a trace."""
    import apsw

    from tilebox_local import Client

    client = Client(folder / "store.db")
    _produce(client.tracer.span, _WARM_UP)
    client.flush()
    started = time.perf_counter()
    if own_traces:
        produce_spans(client.tracer.span, count + 1)
    else:
        _produce(client.tracer.span, count)
    client.flush()
    seconds = time.perf_counter() - started
    stats = client.stats()
    client.close()
    found = apsw.Connection(str(folder / "store.db")).execute("SELECT count(*) FROM span_records").get
    check_equal("spans stored", found, _WARM_UP + count + 2)
    return {"rate": (count + 1) / seconds, "transactions": stats.transaction_count}


def measure_sdk(folder: Path, count: int, batch: int) -> dict[str, Any]:
    """Spans per second of opentelemetry-sdk with an exporter to SQLite."""
    import sqlite3

    import orjson
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    connection = sqlite3.connect(folder / "peer.db", check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("PRAGMA synchronous = normal")
    connection.executescript((ROOT / "schema.sql").read_text(encoding="utf-8"))
    traces: dict[int, int] = {}

    def row(span: ReadableSpan) -> tuple[Any, ...]:
        context = span.context
        trace_no = traces.get(context.trace_id)
        if trace_no is None:
            trace_no = traces[context.trace_id] = len(traces) + 1
            connection.execute(
                "INSERT INTO trace_records (trace_no, trace_id) VALUES (?, ?)",
                (trace_no, context.trace_id.to_bytes(16, "big")),
            )
        return (
            trace_no,
            span.start_time,
            _signed(context.span_id),
            None if span.parent is None else _signed(span.parent.span_id),
            span.end_time - span.start_time,
            span.name,
            None,
            1,
            1,
            orjson.dumps(dict(span.attributes)).decode() if span.attributes else None,
        )

    class SqliteExporter(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_INSERT, [row(span) for span in spans])
            connection.execute("COMMIT")
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(
        BatchSpanProcessor(SqliteExporter(), max_queue_size=count + _WARM_UP + 2, max_export_batch_size=batch)
    )
    tracer = provider.get_tracer("benchmark")
    _produce(tracer.start_as_current_span, _WARM_UP)
    provider.force_flush()
    started = time.perf_counter()
    _produce(tracer.start_as_current_span, count)
    provider.force_flush()
    seconds = time.perf_counter() - started
    provider.shutdown()
    found = connection.execute("SELECT count(*) FROM span_records").fetchone()[0]
    check_equal("spans stored", found, _WARM_UP + count + 2)
    return {"rate": (count + 1) / seconds}


def measure_floor(folder: Path, count: int) -> dict[str, Any]:
    """Rows per second of apsw alone, with the settings of our writer."""
    import apsw

    connection = apsw.Connection(str(folder / "floor.db"))
    for pragma in ("journal_mode = wal", "synchronous = normal", "wal_autocheckpoint = 4000", "cache_size = -16000"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute((ROOT / "schema.sql").read_text(encoding="utf-8")).fetchall()
    generator = random.Random(1)
    now, parent = time.time_ns(), generator.getrandbits(63)
    rows = [
        (1, now + i * 9_000, generator.getrandbits(63), parent, 5_000 + i % 4_000, "compute-index", None, 1, 1,
         f'{{"scene_id":"S2A_31UFS_20240612","tile":{i}}}')
        for i in range(count)
    ]  # fmt: skip
    started = time.perf_counter()
    for first in range(0, count, 2_000):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_INSERT, itertools.islice(rows, first, first + 2_000))
        connection.execute("COMMIT")
    seconds = time.perf_counter() - started
    check_equal("rows stored", connection.execute("SELECT count(*) FROM span_records").get, count)
    connection.close()
    return {"rate": count / seconds}


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def run(options: Options) -> Iterator[Result]:
    """Ours against the SDK with an exporter and against bare inserts, all three in turn; then without a parent."""
    count = options.pick(100_000, 10_000)
    ours, sdk, floor = alternate(
        options.pick(4, 1),
        lambda: in_fresh_process(measure_ours, count=count),
        lambda: in_fresh_process(measure_sdk, count=count, batch=512),
        lambda: in_fresh_process(measure_floor, count=count),
    )
    rates = [one["rate"] for one in ours]
    yield Result(
        case="span_throughput/vs_sdk",
        unit="spans/s",
        n=count,
        values=rates,
        target=Target("ratio", ">=", 5, goal=6),
        peer="opentelemetry-sdk, BatchSpanProcessor, sqlite3 exporter",
        peer_values=[one["rate"] for one in sdk],
        durability=f"{NORMAL}; {PEER_NORMAL}",
        notes={"transactions": [one["transactions"] for one in ours]},
    )
    yield Result(
        case="span_throughput/vs_floor",
        unit="spans/s",
        n=count,
        values=rates,
        target=Target("ratio", ">=", 0.4),
        peer="bare apsw executemany",
        peer_values=[one["rate"] for one in floor],
        durability=f"{NORMAL}; {PEER_NORMAL}",
    )
    (roots,) = alternate(options.pick(2, 1), lambda: in_fresh_process(measure_ours, count=count, own_traces=True))
    yield Result(
        case="span_throughput/own_traces",
        unit="spans/s",
        n=count,
        values=[one["rate"] for one in roots],
        durability=NORMAL,
    )
