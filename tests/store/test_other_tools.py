"""The views in other tools, and exports, in processes of their own, while a runner writes."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from store_support import outside, read_line, start

from tilebox_local.export.datasette import datasette_metadata
from tilebox_local.export.questions import read_questions
from tilebox_local.export.schema_docs import read_schema_docs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VIEWS = [one.name for one in read_schema_docs().views]
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


OF_FIRST = {
    "tasks": 3, "attempts": 3, "spans": 7, "events": 6, "logs": 3, "span_durations": 3, "task_durations": 1,
    "critical_path": 1, "queue_waits": 1, "runner_use": 1, "stragglers": 0, "failures": 0,
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


@contextmanager
def datasette(path: Path) -> Iterator[str]:
    """Datasette on a store, with our metadata; its address. A question may take 30 seconds."""
    metadata = path.with_name("metadata.json")
    metadata.write_text(json.dumps(datasette_metadata(path.stem)))
    command = [
        sys.executable, "-m", "datasette", "serve", str(path), "--metadata", str(metadata), "--port", "0",
        "--setting", "sql_time_limit_ms", "30000", "--setting", "facet_time_limit_ms", "30000",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr is not None
            address, lines = None, []
            while address is None:
                lines.append(process.stderr.readline())
                assert lines[-1], "".join(lines)
                address = re.search(r"running on (http://127\.0\.0\.1:\d+)", lines[-1])
            yield address[1]
        finally:
            process.kill()


def fetch(address: str) -> Any:
    """What a server answers, as JSON."""
    try:
        with urlopen(address, timeout=60) as answer:
            return json.load(answer)
    except HTTPError as error:
        raise AssertionError(f"{address}: {error.read()!r:.2000}") from error


def test_datasette(busy: Path) -> None:
    """Datasette shows every view beside a runner, with facets and descriptions, and answers every question."""
    (job_id,) = (row[0] for row in outside(busy, "SELECT job_id FROM jobs WHERE name = 'first'"))
    with datasette(busy) as address:
        counts = {}
        for view, table in datasette_metadata("store")["databases"]["store"]["tables"].items():
            if table.get("hidden"):
                continue
            query = {"_shape": "objects", "_size": "max"} | ({"job_id": job_id} if "job_id" in table["columns"] else {})
            page = fetch(f"{address}/store/{view}.json?{urlencode(query)}")
            counts[view] = len(page["rows"])
            assert set(table["facets"]) <= set(page["facet_results"]), view
        with urlopen(f"{address}/store/bottlenecks", timeout=60) as answer:
            text = answer.read().decode()
        assert "what is ranked: self_time, critical_path or queue_wait" in text
        first = {"job_id": job_id, "job_a": job_id, "job_b": job_id, "name": "task/Step", "parent": "task/*",
                 "child": "nothing", "text": "care", "attribute": "task_id"}  # fmt: skip
        answers = {}
        for name, question in read_questions().items():
            query = {"_shape": "array"} | {key: first.get(key, "") for key in question.parameters}
            answers[name] = len(fetch(f"{address}/store/{name}.json?{urlencode(query)}"))
    assert counts.pop("runners") >= 1
    assert {view: counts[view] for view in OF_FIRST} == OF_FIRST
    others = {view: count for view, count in counts.items() if view not in OF_FIRST}
    assert others == {"jobs": 1, "bottlenecks": 6, "concurrency": 7, "trends": 1, "incidents": 0, "writers": 1}
    assert answers == {
        "recent_failures": 1, "flaky_tasks": 0, "error_rates": 0, "slowest_spans": 7, "search_spans": 3,
        "search_logs": 3, "spans_without_child": 3, "time_by_attribute": 3, "why_slow": 0, "compare_jobs": 0,
        "trace_tree": 7,
    }  # fmt: skip


def test_sqlite_utils(busy: Path) -> None:
    """The command line of sqlite-utils reads views beside a runner."""
    query = "select name, count, failed from task_durations where job_name = 'first'"
    command = [sys.executable, "-m", "sqlite_utils", "query", str(busy), query]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [{"name": "Step", "count": 3, "failed": 0}]


@pytest.mark.parametrize("kind", ["csv", "json", "ndjson"])
def test_exports(busy: Path, tmp_path: Path, kind: str) -> None:
    """`tilebox-local export` writes the rows of a view beside a runner, through a snapshot that sqlite-utils reads."""
    for view, count in OF_FIRST.items():
        target = tmp_path / f"{view}.{kind}"
        command = [sys.executable, "-m", "tilebox_local", "--db", str(busy), "export", view, "--output", str(target)]
        subprocess.run([*command, "--job", "name:first"], capture_output=True, check=True)
        text = target.read_text()
        rows: list[dict[str, Any]] = (
            list(csv.DictReader(io.StringIO(text))) if kind == "csv"
            else json.loads(text) if kind == "json"
            else [json.loads(line) for line in text.splitlines()]
        )  # fmt: skip
        assert {row["job_name"] for row in rows} <= {"first"}
        assert len(rows) == count
