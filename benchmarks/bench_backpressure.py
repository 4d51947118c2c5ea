"""A loop that never sleeps and makes spans faster than they can be written: queue, memory, losses, time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from benchmarks.harness import (
    NORMAL,
    Options,
    Result,
    Target,
    alternate,
    check_equal,
    in_fresh_process,
    produce_spans,
    rss_mb,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TITLE = "Backpressure"
METHOD = """\
One thread opens and ends spans below a parent without a pause. Every 200 spans it reads the length of the writer's
queue, every 10,000 the resident memory. The clock stops when `flush()` returns. The rows are counted afterwards.
"""

_LOOK = 200
_RSS_EVERY = 10_000


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Queue, memory and time of one run."""
    import apsw

    from tilebox_local import Client

    client = Client(folder / "store.db")
    writer = client._store.writer
    queue, limit = writer.queue.spans, writer.queue.limit
    start_mb = peak_mb = rss_mb()
    longest = longest_pause = 0.0
    started = looked = time.perf_counter()
    with client.tracer.span("process-scenes"):
        for done in range(0, count, _LOOK):
            produce_spans(client.tracer.span, _LOOK)
            longest = max(longest, len(queue))
            now = time.perf_counter()
            longest_pause, looked = max(longest_pause, now - looked), now
            if done % _RSS_EVERY == 0:
                peak_mb = max(peak_mb, rss_mb())
    produced = time.perf_counter() - started
    client.flush()
    seconds = time.perf_counter() - started
    dropped = client.stats().dropped_count
    client.close()
    stored = apsw.Connection(str(folder / "store.db")).execute("SELECT count(*) FROM span_records").get
    check_equal("spans stored or dropped", stored + dropped, count + 1)
    return {
        "queue": longest,
        "limit": limit,
        "dropped": dropped,
        "growth": peak_mb - start_mb,
        "rate": count / seconds,
        "seconds": seconds,
        "loop_seconds": produced,
        "longest_pause_ms": longest_pause * 1000,
    }


def run(options: Options) -> Iterator[Result]:
    """One loop, several things to look at."""
    count = options.pick(1_000_000, 50_000)
    (found,) = alternate(options.pick(2, 1), lambda: in_fresh_process(measure, count=count))
    cases = (
        ("queue", "spans", "queue", Target("max", "<=", found[0]["limit"] + 1), ()),
        ("dropped", "spans", "dropped", Target("max", "<=", 0), ()),
        ("memory_growth", "MB", "growth", Target("max", "<", 100), ()),
        ("committed", "spans/s", "rate", None, ("seconds", "loop_seconds", "longest_pause_ms")),
    )
    for case, unit, key, target, notes in cases:
        yield Result(
            case=f"backpressure/{case}",
            unit=unit,
            n=count,
            values=[one[key] for one in found],
            target=target,
            durability=NORMAL,
            notes={note: [one[note] for one in found] for note in notes},
        )
