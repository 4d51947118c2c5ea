"""Analyses of one job with very many spans, beside pandas and DuckDB on the same rows."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
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
    from collections.abc import Callable, Iterator

    import apsw

TITLE = "Analyses of one job"
METHOD = """\
A job of one task per 100 spans: in each, eleven spans of 8 children below the task's own, with two attributes. The
first call of `bottlenecks(job)` in a process, with the file in the page cache; *again* is the second call. The other
analyses of 100,000 spans are the first calls of theirs. Peers work out the same self time by name, from the same file:
*pandas* reads the columns it needs through our read-only connection and uses groupby and cummax; *DuckDB* attaches a
snapshot with its sqlite extension and runs the same window query on all cores.

*commit beside reading*: transactions that update one row, one after the other for ten seconds, while another process,
or another thread of the same process, works out `span_durations` of 100,000 spans again and again. The peer is the same
with a reader of a copy, which keeps the cores as busy but has nothing to do with the file. The ratio is that of the
p99: 2 means that a commit waits for as long as one more commit takes.
"""

_NAMES = ("read", "warp", "compute-index", "write", "download", "mask", "upload", "cloud-filter")
_BLOCKS = 11


class Tile(Task):
    """One of many."""

    number: int

    def execute(self, context: ExecutionContext) -> None:
        """Nothing: its spans are written afterwards."""


class Tiles(Task):
    """Submits the others."""

    count: int

    def execute(self, context: ExecutionContext) -> None:
        """Submit `count` tiles."""
        context.submit_subtasks([Tile(number) for number in range(self.count)])


def prepare(folder: Path, target: str, count: int) -> dict[str, Any]:  # noqa: ARG001
    """Fill a store with a job of about `count` spans, and snapshot it for DuckDB."""
    store = Path(target)
    with Client(store / "store.db") as client:
        job = client.jobs().submit("tiles", Tiles(max(1, count // 100)))
        client.runner(tasks=[Tile, Tiles]).run_all()
        client._store.transact(_add_spans)  # the fastest way to as many spans as real tasks would have taken hours for
        client.snapshot(store / "snapshot.db")
    return {"job": str(job.id)}


def _add_spans(connection: apsw.Connection) -> None:
    chance = random.Random(4)
    tasks = connection.execute(
        "SELECT trace_no, start_ns, span_id, task_no, resource_no FROM span_records WHERE name = 'task/Tile'"
    ).fetchall()
    rows = []
    for trace_no, start_ns, task_span, task_no, resource_no in tasks:
        at = start_ns + 1_000
        for block in range(_BLOCKS):
            block_id, block_ns = chance.getrandbits(63), at
            for name in _NAMES:
                length = chance.randrange(1_000, 200_000)
                attributes = json.dumps({"band": f"B{block:02}", "tile": task_no})
                rows.append(
                    (trace_no, at, chance.getrandbits(63), block_id, length, name, task_no, resource_no, attributes)
                )
                at += length + chance.randrange(100, 2_000)
            rows.append(
                (trace_no, block_ns, block_id, task_span, at - block_ns, f"block-{block}", task_no, resource_no, None)
            )
        connection.execute(
            "UPDATE span_records SET duration_ns = ? WHERE trace_no = ? AND start_ns = ? AND span_id = ?",
            (at - start_ns, trace_no, start_ns, task_span),
        ).fetchall()
    rows.sort(key=lambda row: (row[1], row[2]))
    connection.executemany(
        "INSERT INTO span_records (trace_no, start_ns, span_id, parent_span_id, duration_ns, name, task_no, "
        "resource_no, attributes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    ).fetchall()


def _timed(ask: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    answer = ask()
    return time.perf_counter() - started, answer


def ask_ours(folder: Path, target: str, job: str, question: str, arguments: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """The first and the second answer to a question."""
    with Client(Path(target) / "store.db", read_only=True) as client:
        given = {name: job if value == _THE_JOB else value for name, value in arguments.items()}
        ask = partial(getattr(client.jobs(), question), **given)
        client.jobs().find(job)
        first, found = _timed(ask)
        again, _ = _timed(ask)
        return {"seconds": first, "again": again, "records": len(getattr(found, "paths", found))}


def ask_pandas(folder: Path, target: str, job: str) -> dict[str, Any]:  # noqa: ARG001
    """Self time by name with pandas, from reading the rows on."""
    import numpy as np
    import pandas as pd

    query = (
        "SELECT s.span_id, s.parent_span_id, s.start_ns, s.start_ns + s.duration_ns AS end_ns, s.name "
        "FROM span_records s JOIN trace_records t ON t.trace_no = s.trace_no JOIN job_records j ON j.job_no = t.job_no "
        "WHERE j.job_id_text = ?"
    )
    with Client(Path(target) / "store.db", read_only=True) as client, client.connect_readonly() as connection:

        def rank() -> Any:
            spans = pd.DataFrame(
                connection.execute(query, (job,)).fetchall(), columns=["span", "parent", "start", "end", "name"]
            )
            children = spans[spans["parent"].notna()].merge(
                spans[["span", "start", "end"]], left_on="parent", right_on="span", suffixes=("", "_parent")
            )
            children["start"] = np.maximum(children["start"], children["start_parent"])
            children["end"] = np.minimum(children["end"], children["end_parent"])
            children = children.sort_values(["parent", "start"])
            reached = children.groupby("parent")["end"].cummax().groupby(children["parent"]).shift()
            begin = np.maximum(children["start"], reached.fillna(children["start"]))
            covered = (children["end"] - begin).clip(lower=0).groupby(children["parent"]).sum()
            spans["self"] = spans["end"] - spans["start"] - spans["span"].map(covered).fillna(0)
            return spans.groupby("name")["self"].sum().sort_values(ascending=False)

        seconds, found = _timed(rank)
    return {"seconds": seconds, "records": len(found)}


_DUCKDB = """
WITH spans AS (
  SELECT s.span_id, s.parent_span_id, s.start_ns, s.start_ns + s.duration_ns AS end_ns, s.name
  FROM store.span_records s JOIN store.trace_records t ON t.trace_no = s.trace_no
  WHERE t.job_no IS NOT NULL),
children AS (
  SELECT p.span_id, greatest(c.start_ns, p.start_ns) AS start_ns, least(c.end_ns, p.end_ns) AS end_ns
  FROM spans c JOIN spans p ON p.span_id = c.parent_span_id),
reached AS (
  SELECT *, max(end_ns) OVER (PARTITION BY span_id ORDER BY start_ns
    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached_ns FROM children),
covered AS (
  SELECT span_id, sum(greatest(0, end_ns - greatest(start_ns, coalesce(reached_ns, start_ns)))) AS covered_ns
  FROM reached GROUP BY span_id)
SELECT name, sum(end_ns - start_ns - coalesce(covered_ns, 0)) AS self_ns
FROM spans LEFT JOIN covered USING (span_id) GROUP BY name ORDER BY self_ns DESC
"""


def ask_duckdb(folder: Path, target: str, job: str) -> dict[str, Any]:  # noqa: ARG001
    """Self time by name with DuckDB on a snapshot."""
    import duckdb

    connection = duckdb.connect()
    _load_sqlite(connection)
    connection.execute(f"ATTACH '{Path(target) / 'snapshot.db'}' AS store (TYPE sqlite, READ_ONLY)")
    seconds, found = _timed(lambda: connection.execute(_DUCKDB).fetchall())
    return {"seconds": seconds, "records": len(found)}


def _load_sqlite(connection: Any) -> None:
    """Load DuckDB's sqlite extension from its package: DuckDB itself would download it."""
    import duckdb_extension_sqlite_scanner as package

    folder = Path(str(package.__file__)).parent / "extensions"
    (extension,) = folder.glob("*/sqlite_scanner.duckdb_extension")
    connection.execute(f"LOAD '{extension}'")


_THE_JOB = "the job"
_OF_JOB = {"job_id": _THE_JOB}
_QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("durations", _OF_JOB),
    ("bottlenecks", _OF_JOB | {"by": "critical_path"}),
    ("bottlenecks", _OF_JOB | {"by": "queue_wait"}),
    ("critical_path", _OF_JOB),
    ("concurrency", _OF_JOB),
    ("queue_waits", _OF_JOB),
    ("failures", _OF_JOB),
    ("error_rates", _OF_JOB),
    ("why_slow", _OF_JOB),
    ("why_slow", _OF_JOB | {"name": "read"}),
    ("search_spans", _OF_JOB | {"attributes": {"tile": 77}}),
    ("search_structure", _OF_JOB | {"pattern": "read ~ warp"}),
    ("search_structure", _OF_JOB | {"pattern": "task/* !>> read"}),
    ("compare", {"job_a": _THE_JOB, "job_b": _THE_JOB}),
)
_READING = "SELECT * FROM span_durations WHERE job_id = ?"


def measure_commits(folder: Path, target: str, job: str, reader: str, read: str, seconds: float) -> dict[str, Any]:  # noqa: ARG001
    """Percentiles in ms of commits while a "process" or a "thread" reads a file of the folder."""
    path = Path(target) / "store.db"
    times = []
    with Client(path) as client, ExitStack() as readers:

        def update(connection: apsw.Connection) -> None:
            connection.execute("UPDATE cluster_records SET description = ?", (time.time_ns(),)).fetchall()

        stop = threading.Event()
        if reader == "thread":
            client_of_reader = client if path.name == read else readers.enter_context(Client(path.with_name(read)))
            thread = threading.Thread(target=_read_until, args=(client_of_reader, job, stop))
            thread.start()
            readers.callback(thread.join)
            readers.callback(stop.set)
        else:
            command = [sys.executable, "-m", "benchmarks.bench_analysis", str(path.with_name(read)), job]
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
            readers.callback(process.communicate)
            readers.callback(process.terminate)
            assert process.stdout is not None
            process.stdout.readline()  # it has read once
        for warm_up in (1.0, seconds):
            times.clear()
            until = time.perf_counter() + warm_up
            while (began := time.perf_counter()) < until:
                client._store.transact(update)
                times.append((time.perf_counter() - began) * 1000)
    shares = {"p50": 0.5, "p99": 0.99}
    found: dict[str, Any] = {name: percentile(times, share) for name, share in shares.items()}
    return found | {"max": max(times), "commits": len(times)}


def _read_until(client: Client, job: str, stop: threading.Event) -> None:
    while not stop.is_set():
        client.sql(_READING, [job])


def run(options: Options) -> Iterator[Result]:
    """The ranking at two sizes beside its peers, then the other analyses."""
    for count, limit in ((options.pick(100_000, 1_000), 0.3), (options.pick(1_000_000, 2_000), 3.0)):
        with tempfile.TemporaryDirectory(prefix="tilebox-local-benchmark-") as folder:
            job = in_fresh_process(prepare, target=folder, count=count)["job"]
            yield from _ranking(folder, job, count, limit, options)
            if limit < 1:
                yield from _others(folder, job, count, options)
                yield from _commits(folder, job, count, options)


def _ranking(folder: str, job: str, count: int, limit: float, options: Options) -> Iterator[Result]:
    rounds = options.pick(3, 1)
    arguments = {"target": folder, "job": job, "question": "bottlenecks", "arguments": _OF_JOB}
    peers = [("pandas", ask_pandas), ("DuckDB on a snapshot", ask_duckdb)]
    measures: list[Callable[[], Any]] = [partial(in_fresh_process, ask_ours, **arguments)]
    measures += [partial(in_fresh_process, ask, target=folder, job=job) for _, ask in peers]
    ours, *theirs = alternate(rounds, *measures)
    for found in ours:
        check_equal("names", found["records"], len(_NAMES) + _BLOCKS + 3)
    case = f"analysis/bottlenecks/{count}"
    seconds = [found["seconds"] for found in ours]
    for number, ((name, _), values) in enumerate(zip(peers, theirs, strict=True)):
        yield Result(
            case=case if not number else f"{case}/{name.split()[0].lower()}",
            unit="s",
            n=count,
            values=seconds,
            target=Target("median", "<=", limit) if not number else None,
            peer=name,
            peer_values=[found["seconds"] for found in values],
        )
    yield Result(
        case=f"{case}/again",
        unit="s",
        n=count,
        values=[found["again"] for found in ours],
        target=Target("median", "<=", limit / 10),
    )


def _others(folder: str, job: str, count: int, options: Options) -> Iterator[Result]:
    for question, arguments in _QUESTIONS:
        ask = partial(in_fresh_process, ask_ours, target=folder, job=job, question=question, arguments=arguments)
        (found,) = alternate(options.pick(3, 1), ask)
        told = [value for value in arguments.values() if isinstance(value, str) and value != _THE_JOB]
        yield Result(
            case="/".join(["analysis", question, *told, str(count)]),
            unit="s",
            n=count,
            values=[one["seconds"] for one in found],
            target=Target("median", "<=", 1.0),
        )


def _commits(folder: str, job: str, count: int, options: Options) -> Iterator[Result]:
    seconds = options.pick(10, 1)
    measure = partial(in_fresh_process, measure_commits, target=folder, job=job, seconds=seconds)
    for reader in ("process", "thread"):
        copy, found = alternate(
            options.pick(3, 1),
            partial(measure, reader=reader, read="snapshot.db"),
            partial(measure, reader=reader, read="store.db"),
        )
        yield Result(
            case=f"analysis/commit_p99_beside_reading_{reader}",
            unit="ms",
            n=count,
            values=[one["p99"] for one in found],
            target=Target("ratio", "<=", 2.0),
            peer="reader of a copy",
            peer_values=[one["p99"] for one in copy],
            durability=NORMAL,
            notes={
                f"{side}_{name}": [one[name] for one in values]
                for side, values in (("copy", copy), ("store", found))
                for name in ("p50", "max", "commits")
            },
        )


if __name__ == "__main__":
    with Client(sys.argv[1], read_only=True) as _client:
        while True:
            _client.sql(_READING, [sys.argv[2]])
            print("read", flush=True)
