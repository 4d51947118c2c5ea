"""What the tests of spans and logs share: code inside of a task, and a look at what was stored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilebox_local import Client, ExecutionContext, Job, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilebox_local.telemetry import Span

_ASK = """
import json, pathlib, sqlite3, sys
connection = sqlite3.connect(f"{pathlib.Path(sys.argv[1]).as_uri()}?mode=ro", uri=True)
connection.row_factory = sqlite3.Row
print(json.dumps([dict(row) for row in connection.execute(sys.argv[2])]))
"""


def run_in_task(client: Client, body: Callable[[ExecutionContext], Any], name: str = "job") -> Job:
    """Run `body(context)` as the only task, of class Body, of a job."""

    class Body(Task):
        def execute(self, context: ExecutionContext) -> None:
            return body(context)  # type: ignore[no-any-return]  # an awaitable is awaited

    job = client.jobs().submit(name, Body())
    client.runner(tasks=[Body]).run_all()
    return client.jobs().find(job)


def spans_by_name(client: Client, job: Job) -> dict[str, Span]:
    """The spans of a job, by their names, which must differ."""
    spans = client.jobs().query_spans(job)
    found = {span.name: span for span in spans}
    assert len(found) == len(spans)
    return found


def tree(client: Client, job: Job) -> dict[str, str | None]:
    """Name of each span of a job -> name of its parent."""
    spans = client.jobs().query_spans(job)
    names = {span.span_id: span.name for span in spans}
    return {span.name: names.get(span.parent_span_id or "", span.parent_span_id) for span in spans}


def table(client: Client, query: str) -> list[tuple[Any, ...]]:
    """What is stored, after a flush."""
    client.flush()
    with client._store.read() as connection:
        return connection.execute(query).fetchall()


def outside(path: Path | str, query: str) -> list[dict[str, Any]]:
    """Rows of a query as another process sees them, through the SQLite of the standard library, read-only."""
    command = [sys.executable, "-I", "-S", "-c", _ASK, str(Path(path)), query]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def run_script(script: str, *arguments: object, env: dict[str, str] | None = None) -> str:
    """Run a script in a process of its own, which must succeed silently; what it printed."""
    import os

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout
