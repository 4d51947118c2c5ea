"""How long single operations take: the end of a span under load, a commit, waking an idle runner."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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
)
from tilebox_local import Client, ExecutionContext, Task

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import apsw

TITLE = "Latency"
METHOD = """\
*span_end*: a thread opens and ends 100 spans with two attributes every 2.5 ms, 40,000 a second; the time that leaving
the block takes, of each span; a value is the percentile of one run. *commit*: a transaction that updates one row, from
the call to its return, one after the other; *fsync* in the notes is the median and the p99 of writing and syncing 4 KiB
of another file in the same folder, without any database. *wakeup*: a runner in a process of its own is idle; the time
from the submission of a task to its start, as the store tells, of each of the jobs that are submitted one at a time.
"""

_RATE = 40_000
_PER_PACE = 100
_FULL = "full (WAL, synchronous=FULL)"


class Noop(Task):
    """Does nothing."""

    def execute(self, context: ExecutionContext) -> None:
        """Nothing."""


def measure_span_end(folder: Path, count: int) -> dict[str, Any]:
    """Percentiles in us, of the end of a span and of the whole span."""
    client = Client(folder / "store.db")
    ends: list[int] = []
    perf_counter_ns = time.perf_counter_ns
    with client.tracer.span("process-scenes"):
        for warm_up in (2_000, count):
            ends.clear()
            began = time.perf_counter()
            for done in range(0, warm_up, _PER_PACE):
                for index in range(_PER_PACE):
                    with client.tracer.span("compute-index") as span:
                        span.set_attribute("scene_id", "S2A_31UFS_20240612")
                        span.set_attribute("tile", index)
                        ending = perf_counter_ns()
                    ends.append(perf_counter_ns() - ending)
                time.sleep(max(0.0, began + (done + _PER_PACE) / _RATE - time.perf_counter()))
            seconds = time.perf_counter() - began
    dropped = client.stats().dropped_count
    client.close()
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    found: dict[str, Any] = {name: percentile(ends, share) / 1000 for name, share in shares.items()}
    return found | {"max_ms": max(ends) / 1e6, "rate": count / seconds, "dropped": dropped}


def measure_commit(folder: Path, durability: str, count: int) -> dict[str, Any]:
    """Percentiles in ms, of commits and of the disk alone."""
    client = Client(folder / "store.db", durability=durability)  # type: ignore[arg-type]
    client.clusters().create("measured")

    def update(connection: apsw.Connection) -> None:
        connection.execute(
            "UPDATE cluster_records SET description = ? WHERE cluster_no = 2", (time.time_ns(),)
        ).fetchall()

    times = []
    for _ in range(count):
        began = time.perf_counter()
        client._store.transact(update)
        times.append((time.perf_counter() - began) * 1000)
    client.close()
    fd, syncs = os.open(folder / "file", os.O_WRONLY | os.O_CREAT), []
    for _ in range(200):
        began = time.perf_counter()
        os.write(fd, b"x" * 4096)
        os.fsync(fd)
        syncs.append((time.perf_counter() - began) * 1000)
    os.close(fd)
    return {
        "p50": percentile(times, 0.5),
        "p99": percentile(times, 0.99),
        "fsync_ms": [percentile(syncs, 0.5), percentile(syncs, 0.99)],
    }


def measure_wakeup(folder: Path, count: int) -> dict[str, Any]:
    """Milliseconds from submission to start, of jobs that find the runner idle."""
    path = folder / "store.db"
    client = Client(path)
    command = [sys.executable, "-m", "benchmarks.bench_latency", str(path)]
    runner = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    jobs = client.jobs()
    for number in range(count + 2):  # the first ones warm up
        job = jobs.submit(f"job {number}", Noop())
        while jobs.find(job).state.name != "COMPLETED":
            time.sleep(0.01)
        time.sleep(0.05)  # until it is idle again
    runner.terminate()
    runner.communicate()
    with client._store.read() as connection:
        waits = [wait for (wait,) in connection.execute("SELECT queue_wait_ms FROM tasks ORDER BY task_no")][2:]
    client.close()
    check_equal("tasks", len(waits), count)
    return {"p50": percentile(waits, 0.5), "p99": percentile(waits, 0.99), "max": max(waits)}


def run(options: Options) -> Iterator[Result]:
    """All three."""
    count = options.pick(200_000, 4_000)
    (found,) = alternate(options.pick(3, 1), lambda: in_fresh_process(measure_span_end, count=count))
    for name, target in (("p50", None), ("p99", 20), ("p999", 1000)):
        notes = {key: [one[key] for one in found] for key in ("rate", "max_ms", "dropped")}
        yield Result(
            case=f"latency/span_end_{name}",
            unit="us",
            n=count,
            values=[one[name] for one in found],
            target=None if target is None else Target("median", "<", target),
            durability=NORMAL,
            notes=notes if name == "p999" else {},
        )
    count = options.pick(1_000, 50)
    normal, full = alternate(
        options.pick(5, 1),
        lambda: in_fresh_process(measure_commit, durability="normal", count=count),
        lambda: in_fresh_process(measure_commit, durability="full", count=count),
    )
    for durability, mode, values in (("normal", NORMAL, normal), ("full", _FULL, full)):
        for name in ("p50", "p99"):
            yield Result(
                case=f"latency/commit_{durability}_{name}",
                unit="ms",
                n=count,
                values=[one[name] for one in values],
                durability=mode,
                notes={"fsync_ms": [one["fsync_ms"] for one in values]} if name == "p50" else {},
            )
    count = options.pick(100, 5)
    (found,) = alternate(options.pick(3, 1), lambda: in_fresh_process(measure_wakeup, count=count))
    yield Result(
        case="latency/wakeup_p50",
        unit="ms",
        n=count,
        values=[one["p50"] for one in found],
        target=Target("median", "<=", 10),
        durability=NORMAL,
        notes={name: [one[name] for one in found] for name in ("p99", "max")},
    )


if __name__ == "__main__":
    with Client(sys.argv[1]) as _client:
        _client.runner(tasks=[Noop]).run_forever()
