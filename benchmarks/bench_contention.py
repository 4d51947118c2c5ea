"""Four processes that write to one file: as much as they can, and 10,000 spans a second each."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.harness import (
    NORMAL,
    ROOT,
    Options,
    Result,
    Target,
    alternate,
    check_equal,
    in_fresh_process,
    percentile,
    produce_spans,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TITLE = "Four processes on one file"
METHOD = """\
Four processes that start together, after a second of warm-up. *saturated*: each commits 500 spans in a transaction,
again and again; *fairness* is the least number of transactions of a process divided by the largest. *paced*: each opens
and ends 100 spans every 10 ms, 10,000 a second. *lock wait* is the time from asking for the turnstile to having it;
*commit lag* the time from the end of a span until it is committed, sampled every 100 spans; *wal* the largest size of
the write-ahead log, seen every 50 ms. The rows are counted afterwards. p99 and max are of all four processes together.
"""

_PROCESSES = 4
_BATCH = 500
_PACE_S = 0.01
_PER_PACE = 100


class Meter:
    """Waits for the turnstile, and from the end of a span to its commit, in ms."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.lags: list[float] = []
        self._marks: deque[tuple[float, int]] = deque()

    def watch_lock(self) -> None:
        """Measure each wait of this process."""
        from tilebox_local.storage.lockfile import LockFile

        held, waits = LockFile.held, self.waits

        @contextmanager
        def measured(lock: LockFile, **options: Any) -> Iterator[None]:
            asked = time.perf_counter()
            with held(lock, **options):
                waits.append((time.perf_counter() - asked) * 1000)
                yield

        LockFile.held = measured  # type: ignore[method-assign]

    def mark(self, count: int) -> None:
        """So many spans have ended by now."""
        self._marks.append((time.perf_counter(), count))

    def committed(self, count: int) -> None:
        """So many spans are committed by now."""
        now = time.perf_counter()
        while self._marks and self._marks[0][1] <= count:
            self.lags.append((now - self._marks.popleft()[0]) * 1000)


def work(path: str, mode: str, seconds: float) -> dict[str, Any]:
    """What one of the processes does, after a line on stdin."""
    from tilebox_local import Client

    meter = Meter()
    meter.watch_lock()
    client = Client(path)
    with client.tracer.span("process-scenes"):
        produce_spans(client.tracer.span, _BATCH)
        client.flush()
        print("ready", flush=True)
        sys.stdin.readline()
        before, count = client.stats().written_count, 0
        writer, done, ends = client._store.writer, 0, []
        if mode == "paced":
            writer.on_commit.append(lambda: meter.committed(client.stats().written_count - before))
        meter.waits.clear()
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            if mode == "saturated":
                produce_spans(client.tracer.span, _BATCH)
                client.flush()
                done += 1
                count += _BATCH
                continue
            for _ in range(_PER_PACE):
                with client.tracer.span("compute-index") as span:
                    span.set_attribute("scene_id", "S2A_31UFS_20240612")
                    span.set_attribute("tile", count)
                    ending = time.perf_counter_ns()
                ends.append(time.perf_counter_ns() - ending)
            count += _PER_PACE
            meter.mark(count)
            done += 1
            time.sleep(max(0.0, began + done * _PACE_S - time.perf_counter()))
        client.flush()
    stats = client.stats()
    client.close()
    return {
        "batches": done,
        "spans": count,
        "dropped": stats.dropped_count,
        "waits": meter.waits,
        "lags": meter.lags,
        "ends_us": [percentile(ends, share) / 1000 for share in (0.5, 0.99, 0.999)] if ends else [],
    }


def measure(folder: Path, mode: str, seconds: float) -> dict[str, Any]:
    """Four such processes at once."""
    import apsw

    path = folder / "store.db"
    command = [sys.executable, "-m", "benchmarks.bench_contention", str(path), mode, str(seconds)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(_PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    log, wal_bytes, end = folder / "store.db-wal", 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        wal_bytes = max(wal_bytes, log.stat().st_size)
        time.sleep(0.05)
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    stored = apsw.Connection(str(path)).execute("SELECT count(*) FROM span_records").get
    spans = sum(one["spans"] for one in found)
    dropped = sum(one["dropped"] for one in found)
    check_equal("spans stored or dropped", stored + dropped, spans + _PROCESSES * (_BATCH + 1))
    batches = [one["batches"] for one in found]
    waits = [wait for one in found for wait in one["waits"]]
    lags = [lag for one in found for lag in one["lags"]]
    return {
        "fairness": min(batches) / max(batches),
        "batches": batches,
        "wait_p99": percentile(waits, 0.99),
        "wait_max": max(waits),
        "waits": len(waits),
        "lag_p99": percentile(lags, 0.99) if lags else 0.0,
        "lag_max": max(lags, default=0.0),
        "dropped": dropped,
        "wal_mb": wal_bytes / 1e6,
        "rate": spans / seconds,
        "ends_us": [one["ends_us"] for one in found],
    }


def run(options: Options) -> Iterator[Result]:
    """Saturated, then paced."""
    seconds = options.pick(5, 1)
    (found,) = alternate(options.pick(3, 1), lambda: in_fresh_process(measure, mode="saturated", seconds=seconds))
    cases = (
        ("saturated/fairness", "share", "fairness", Target("median", ">=", 0.8), ("batches",)),
        ("saturated/lock_wait_p99", "ms", "wait_p99", None, ("waits",)),
        ("saturated/lock_wait_max", "ms", "wait_max", Target("median", "<", 200), ()),
        ("saturated/rate", "spans/s", "rate", None, ("wal_mb", "dropped")),
    )
    yield from _results(cases, found, seconds)
    seconds = options.pick(30, 1)
    (found,) = alternate(1, lambda: in_fresh_process(measure, mode="paced", seconds=seconds))
    cases = (
        ("paced/dropped", "spans", "dropped", Target("max", "<=", 0), ("rate", "ends_us")),
        ("paced/commit_lag_p99", "ms", "lag_p99", Target("max", "<", 500), ("lag_max",)),
        ("paced/lock_wait_p99", "ms", "wait_p99", Target("max", "<", 100), ("waits",)),
        ("paced/lock_wait_max", "ms", "wait_max", Target("max", "<", 1000), ()),
        ("paced/wal", "MB", "wal_mb", Target("max", "<", 64), ()),
    )
    yield from _results(cases, found, seconds)


def _results(cases: Any, found: list[dict[str, Any]], seconds: float) -> Iterator[Result]:
    for case, unit, key, target, notes in cases:
        yield Result(
            case=f"contention/{case}",
            unit=unit,
            n=round(found[0]["rate"] * seconds),
            values=[one[key] for one in found],
            target=target,
            durability=NORMAL,
            notes={note: [one[note] for one in found] for note in notes},
        )


if __name__ == "__main__":
    print(json.dumps(work(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
