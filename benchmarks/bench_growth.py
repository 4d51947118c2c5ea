"""Inserting into a small and into a large store, and while others read."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import apsw

from benchmarks.harness import (
    NORMAL,
    ROOT,
    Options,
    Result,
    Target,
    alternate,
    check_equal,
    in_fresh_process,
    produce_spans,
)
from tilebox_local import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TITLE = "Large stores, and readers"
METHOD = """\
A loop that opens and ends spans with two attributes without a pause, then `flush()`: spans committed per second.
*stored*: into a store that holds many spans already, and, in turn, into a new one, the peer. With `--large` there are
10 million of them (about 1.3 GB), else 1 million. *readers*: while four processes read:
each in turn counts the spans, looks at the latest of them and at the open ones, in transactions of its own.
"""

_READER = """
import sys, pathlib, sqlite3, time
connection = sqlite3.connect(pathlib.Path(sys.argv[1]).as_uri() + "?mode=ro", uri=True, timeout=10)
print("ready", flush=True)
number = 0
while True:
    last = connection.execute("SELECT max(trace_no) FROM span_records").fetchone()[0]
    connection.execute(
        "SELECT name, duration_ns FROM span_records WHERE trace_no = ? ORDER BY start_ns DESC LIMIT 100", (last,)
    ).fetchall()
    connection.execute("SELECT count(*) FROM span_records WHERE duration_ns IS NULL").fetchall()
    number += 1
    if number % 20 == 0:
        print(number, flush=True)
    time.sleep(0.01)
"""


def _rate(client: Client, count: int) -> float:
    began = time.perf_counter()
    with client.tracer.span("process-scenes"):
        produce_spans(client.tracer.span, count)
    client.flush()
    return count / (time.perf_counter() - began)


def measure_growth(folder: Path, stored: int, count: int, rounds: int) -> dict[str, Any]:
    """Rates of `count` spans into a large store and into a new one, in turn."""
    large = Client(folder / "large.db")
    while large.stats().written_count < stored:
        _rate(large, min(500_000, stored))
    numbers = iter(range(rounds))

    def into_new() -> float:
        with Client(folder / f"{next(numbers)}.db") as client:
            return _rate(client, count)

    ours, peers = alternate(rounds, lambda: _rate(large, count), into_new)
    dropped = large.stats().dropped_count
    large.close()
    check_equal("dropped", dropped, 0)
    return {"large": ours, "new": peers, "file_mb": (folder / "large.db").stat().st_size / 1e6}


def measure_readers(folder: Path, seconds: float) -> dict[str, Any]:
    """Rate with four readers, and how often each of them has read."""
    path = folder / "store.db"
    client = Client(path)
    produce_spans(client.tracer.span, 10_000)
    client.flush()
    readers = [
        subprocess.Popen([sys.executable, "-c", _READER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for reader in readers:
        assert reader.stdout is not None
        reader.stdout.readline()
    began, count, before = time.perf_counter(), 0, client.stats().written_count
    with client.tracer.span("process-scenes"):
        while time.perf_counter() < began + seconds:
            produce_spans(client.tracer.span, 1_000)
            count += 1_000
    client.flush()
    took = time.perf_counter() - began
    reads = []
    for reader in readers:
        reader.terminate()
        output = reader.communicate()[0].split()
        reads.append(int(output[-1]) if output else 0)
    stats = client.stats()
    client.close()
    stored = apsw.Connection(str(path)).execute("SELECT count(*) FROM span_records").get
    check_equal("spans stored or dropped", stored + stats.dropped_count, count + 10_001)
    check_equal("spans before", before, 10_000)
    return {"rate": count / took, "reads": reads, "dropped": stats.dropped_count}


def run(options: Options) -> Iterator[Result]:
    """Growth, then readers."""
    stored = 10_000_000 if options.large else options.pick(1_000_000, 20_000)
    count = options.pick(200_000, 5_000)
    grown = in_fresh_process(measure_growth, stored=stored, count=count, rounds=options.pick(7, 1))
    yield Result(
        case="growth/stored",
        unit="spans/s",
        n=count,
        values=grown["large"],
        target=Target("ratio", ">=", 0.8),
        peer="a new store",
        peer_values=grown["new"],
        durability=NORMAL,
        notes={"stored_spans": stored, "file_mb": grown["file_mb"]},
    )
    seconds = options.pick(10, 1)
    (found,) = alternate(options.pick(2, 1), lambda: in_fresh_process(measure_readers, seconds=seconds))
    yield Result(
        case="growth/readers",
        unit="spans/s",
        n=round(found[0]["rate"] * seconds),
        values=[one["rate"] for one in found],
        target=Target("median", ">=", 100_000),
        durability=NORMAL,
        notes={name: [one[name] for one in found] for name in ("reads", "dropped")},
    )
