"""The views in other tools, in processes of their own, while a runner writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from store_support import read_line, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VIEWS = [
    "jobs", "tasks", "attempts", "spans", "events", "logs", "runners", "writers", "incidents", "span_durations",
    "task_durations", "bottlenecks", "critical_path", "queue_waits", "concurrency", "runner_use", "stragglers",
    "failures", "trends",
]  # fmt: skip
# DuckDB reads the text of a view with its own grammar, which knows no LIMIT in a recursion, and writes parentheses
# around the parts of a UNION, which SQLite does not take. sqlite_query() hands a query on as it is.
NEEDS_QUERY = {"events", "span_durations", "bottlenecks", "concurrency", "critical_path", "trends"}

WORK = """
import sys
from tilebox_local import Client, ExecutionContext, Task
from tilebox_local.observability.logging import configure_console_logging

class Step(Task):
    number: int
    def execute(self, context: ExecutionContext) -> None:
        with context.tracer.span("inner") as span:
            span.add_event("reached", {"n": self.number})
            context.logger.warning("careful")
        if self.number == 3:
            raise ValueError("three")

configure_console_logging(enabled=False)
client = Client(sys.argv[1])
client.jobs().submit("first", [Step(n) for n in range(3)])
client.jobs().submit("second", Step(3))
runner = client.runner(tasks=[Step])
runner.run_all()
print("ready", flush=True)
while True:
    client.jobs().submit("more", [Step(n) for n in range(3)])
    runner.run_all()
"""

DUCKDB = """
import json, pathlib, sys
import duckdb, duckdb_extension_sqlite_scanner as package
folder = pathlib.Path(package.__file__).parent / "extensions"
(extension,) = folder.glob("*/sqlite_scanner.duckdb_extension")
connection = duckdb.connect()
connection.execute(f"LOAD '{extension}'")
connection.execute(f"ATTACH '{sys.argv[1]}' AS store (TYPE sqlite, READ_ONLY)")
counts = {}
for view, needs_query in json.loads(sys.argv[2]).items():
    source = f"sqlite_query('store', 'SELECT * FROM {view}')" if needs_query else f"store.{view}"
    counts[view] = connection.execute(f"SELECT count(*) FROM {source} WHERE job_name IN ('first', 'second')"
                                      if view not in ("jobs", "runners", "writers", "incidents", "trends")
                                      else f"SELECT count(*) FROM {source}").fetchone()[0]
print(json.dumps(counts))
"""


@pytest.fixture
def busy(path: Path) -> Iterator[Path]:
    """A store to which a runner of another process writes all the time."""
    with start(WORK, path) as process:
        assert read_line(process) == "ready"
        yield path
        process.kill()
        process.communicate()


EXPECTED = {
    "tasks": 4, "attempts": 4, "spans": 10, "events": 9, "logs": 4, "span_durations": 6, "task_durations": 2,
    "critical_path": 2, "queue_waits": 2, "runner_use": 2, "stragglers": 0, "failures": 1,
}  # fmt: skip


def test_sqlite3(busy: Path) -> None:
    """Debian's sqlite3, which is older than ours, reads every view beside a runner."""
    program = shutil.which("sqlite3")
    if program is None:
        pytest.skip("There is no sqlite3 on this machine.")
    found = {}
    for view in EXPECTED:
        query = f"SELECT count(*) FROM {view} WHERE job_name IN ('first', 'second')"
        done = subprocess.run([program, "-readonly", busy, query], capture_output=True, text=True, check=True)
        found[view] = int(done.stdout)
    assert found == EXPECTED


def test_duckdb(busy: Path) -> None:
    """DuckDB reads every view beside a runner: as tables of its own, some through sqlite_query()."""
    views = json.dumps({view: view in NEEDS_QUERY for view in VIEWS})
    done = subprocess.run([sys.executable, "-c", DUCKDB, busy, views], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert {view: found[view] for view in EXPECTED} == EXPECTED
    assert found["jobs"] >= 2
    assert found["runners"] >= 1
