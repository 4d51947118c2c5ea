"""The demo: a map of the Jacksboro Fault, computed by three processes, and the trace of how they did it.

    python examples/elevation.py [--db FILE] [--output FILE] [--runners N] [--full]

Starts the runners, submits the job of elevation_tasks.py, waits for it, and prints what the store knows about it.
Run it again: each run adds a job to the same database.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elevation_tasks import MOSAIC_KEY, TASKS, ElevationReport

from tilebox_local import Client, Job
from tilebox_local.cache import LocalFileSystemCache
from tilebox_local.data import JobState
from tilebox_local.errors import TileboxLocalError
from tilebox_local.formatting.waterfall import SpanRow, format_duration, render_waterfall
from tilebox_local.observability.logging import configure_console_logging

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.context import SpawnProcess
    from multiprocessing.synchronize import Semaphore

    from tilebox_local.data import Span

CHECKOUT = Path(__file__).resolve().parents[1]
JOB_NAME = "elevation-report"
SAMPLES = {"jacksboro": "jacksboro_fault_dem.npz", "topobathy": "topobathy.npz"}
MIRROR = "/nonexistent"  # publishing the preview fails, which does not fail the job
FINISHED = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELED)
START_TIMEOUT_S, JOB_TIMEOUT_S, STOP_TIMEOUT_S = 60, 120, 10


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


def main() -> int:
    """Run the demo. Returns 0 if the job was completed."""
    parser = argparse.ArgumentParser(description="Compute a shaded relief with several processes, and show the trace.")
    parser.add_argument("--db", type=Path, default=CHECKOUT / "tilebox.db", help="database (default: tilebox.db)")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "mosaic.png", help="picture (default: mosaic.png)")
    parser.add_argument("--runners", type=int, default=3, metavar="N", help="processes that work (default: 3)")
    parser.add_argument("--full", action="store_true", help="show the spans inside of all tasks")
    args = parser.parse_args()
    if args.runners < 1:
        parser.error("--runners must be at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the runners are stopped, too
    try:
        with Client(args.db.resolve()) as client:
            job = run_job(client, args.output, args.runners)
            report(client, job, args.output, full=args.full)
    except KeyboardInterrupt:
        print("Interrupted; an unfinished job of this run is canceled.", file=sys.stderr)
        return 128 + signal.SIGINT
    except (DemoError, TileboxLocalError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if job.state is JobState.COMPLETED else 1


# -- the job, in several processes -----------------------------------------------------------------------------------


def run_job(client: Client, output: Path, runner_count: int) -> Job:
    """Submit the job, wait until it is finished, and copy its picture to `output`."""
    from matplotlib.cbook import get_sample_data  # here, since the runners import this file, too

    paths = {layer: str(get_sample_data(file, asfileobj=False)) for layer, file in SAMPLES.items()}
    with tempfile.TemporaryDirectory(prefix="tilebox-demo-") as cache:
        with running(client.path, cache, runner_count) as runners:
            job = client.jobs().submit(JOB_NAME, ElevationReport(paths, MIRROR))
            try:
                job = wait_for(client, job, runners)
            except BaseException:
                client.jobs().cancel(job)  # its cache goes away: nobody should take up its tasks later
                raise
            for runner in runners:
                if runner.exitcode is not None:
                    print(f"{runner.name} has died ({runner.exitcode}); the others went on", file=sys.stderr)
        if job.state is JobState.COMPLETED:
            output.write_bytes(LocalFileSystemCache(cache).group(str(job.id))[MOSAIC_KEY])
    return job


@contextlib.contextmanager
def running(db: str, cache: str, count: int) -> Iterator[list[SpawnProcess]]:
    """Runners that are ready to work inside the block, and stopped after it."""
    context = multiprocessing.get_context("spawn")
    ready = context.Semaphore(0)
    names = [f"runner {number}" for number in range(1, count + 1)]
    runners = [context.Process(target=serve, name=name, args=(db, cache, name, ready)) for name in names]
    try:
        for runner in runners:
            runner.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        for _ in runners:
            while not ready.acquire(timeout=0.1):
                if time.monotonic() > deadline or any(runner.exitcode is not None for runner in runners):
                    raise DemoError(f"The runners did not start; their exit codes are {exit_codes(runners)}.")
        yield runners
    finally:
        started = [runner for runner in runners if runner.pid is not None]
        for runner in started:
            runner.terminate()  # SIGTERM: finish the running task, then go
        for runner in started:
            runner.join(STOP_TIMEOUT_S)
            if runner.is_alive():
                runner.kill()
                runner.join()


def serve(db: str, cache: str, name: str, ready: Semaphore) -> None:
    """Work on the tasks of the database until SIGTERM, SIGINT or the end of the driver. Runs in its own process."""
    configure_console_logging(enabled=False)  # the logs are in the database
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=follow_parent, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt), Client(db, name=name) as client:
        runner = client.runner(tasks=TASKS, cache=LocalFileSystemCache(cache))
        ready.release()
        runner.run_forever()


def follow_parent() -> None:
    """End this process when its parent has gone without saying so."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def wait_for(client: Client, job: Job, runners: Sequence[SpawnProcess]) -> Job:
    """The job when it is finished. Raises DemoError if all runners have died, or after JOB_TIMEOUT_S seconds."""
    start = time.monotonic()
    is_live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    try:
        while True:
            are_alive = any(runner.is_alive() for runner in runners)
            job = client.jobs().find(job)
            if job.state in FINISHED:
                return job
            if not are_alive:
                raise DemoError(f"All runners have died; their exit codes are {exit_codes(runners)}.")
            if time.monotonic() - start > JOB_TIMEOUT_S:
                raise DemoError(f"The job is not finished after {JOB_TIMEOUT_S} s: {tasks_by_state(job)}.")
            if is_live:
                done = ", ".join(f"{bar.done} of {bar.total} {bar.label}" for bar in job.progress)
                print(f"\r\x1b[K{job.name}  {done}  {tasks_by_state(job)}", end="", file=sys.stderr, flush=True)
            time.sleep(0.1)
    finally:
        if is_live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def exit_codes(runners: Sequence[SpawnProcess]) -> str:
    """Exit codes for people; "none" for a runner that has none yet."""
    return ", ".join("none" if runner.exitcode is None else str(runner.exitcode) for runner in runners)


def tasks_by_state(job: Job) -> str:
    """For example "58 computed, 1 failed optional"."""
    counts = job.execution_stats.tasks_by_state.items()
    return ", ".join(f"{count} {state.name.lower().replace('_', ' ')}" for state, count in counts)


# -- the report -------------------------------------------------------------------------------------------------------


def report(client: Client, job: Job, output: Path, *, full: bool) -> None:
    """Print the job, its trace, its slowest spans, and how to go on from there."""
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    bold, plain = ("\x1b[1m", "\x1b[0m") if color else ("", "")
    stats = job.execution_stats
    print(f"{bold}Job {job.name} {job.id}: {job.state.name}{plain}")
    print(
        f"{stats.total_tasks} tasks: {tasks_by_state(job)}; {seconds(stats.elapsed_time)} elapsed, "
        f"{seconds(stats.compute_time)} of work, parallelism {stats.parallelism:.1f}\n"
    )
    rows, hidden = trace_rows(client, job, full=full)
    width = min(shutil.get_terminal_size((100, 24)).columns, 160)
    is_ascii = "utf" not in (sys.stdout.encoding or "").lower()
    print(render_waterfall(rows, width=width, color=color, max_rows=None, ascii_only=is_ascii))
    if hidden:
        print(f"{hidden} more spans inside of the tasks; --full shows them")

    print(f"\n{bold}{'slowest spans':24}{'count':>7}{'total':>10}{'mean':>10}{'max':>10}{plain}")
    for row in select(client, SLOWEST.format(job.id)):
        times = "".join(f"{format_duration(round(row[key])):>10}" for key in ("total", "mean", "max"))
        print(f"{row['name']:24}{row['count']:7}{times}")

    (facts,) = select(client, FACTS.format(job.id))
    db = shlex.quote(shown(client.path))
    print(f"\n{bold}files{plain}")
    if job.state is JobState.COMPLETED:
        print(f"{shown(output)}  the map")
    print(f"{shown(client.path)}  the database, with {facts['jobs']} job{'s' if facts['jobs'] > 1 else ''} so far")
    print(f"\n{bold}ask the database{plain}")
    for query in EXAMPLES:
        print(f'sqlite3 -box {db} "{query.format(facts["job_no"])}"')


# The queries use the views, which are made for people. Those to try contain nothing that a shell would touch inside
# of double quotes.
SLOWEST = """
    SELECT name, count(*) AS count, sum(duration_ns) AS total, avg(duration_ns) AS mean, max(duration_ns) AS max
    FROM spans WHERE job_id = '{}' GROUP BY name ORDER BY total DESC LIMIT 5"""
DISPLAYS = "SELECT task_id, display FROM tasks WHERE job_id = '{}'"
FACTS = "SELECT job_no, (SELECT count(*) FROM jobs) AS jobs FROM jobs WHERE job_id = '{}'"
EXAMPLES = (
    "SELECT job_no, state, tasks, elapsed_ms, submitted_at FROM jobs",
    "SELECT display, attempts, state FROM tasks WHERE attempts > 1 OR optional",
    "SELECT time, severity, body FROM logs WHERE job_no = {} ORDER BY 1 LIMIT 5",
)


def select(client: Client, query: str) -> list[dict[str, Any]]:
    """Rows of a query, as the sqlite3 command line tool gives them.

    Never open the file with Python's own `sqlite3` module while a client has it open: two copies of SQLite in one
    process undo each other's locks, which corrupts the file. Other processes are fine.
    """
    if shutil.which("sqlite3"):
        command = ["sqlite3", "-readonly", "-json", client.path, query]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return list(json.loads(done.stdout or "[]"))
    with client._store.read() as connection:  # no tool, or one that is too old for the file
        cursor = connection.execute(query)
        names = [column[0] for column in cursor.get_description()]
        return [dict(zip(names, row, strict=True)) for row in cursor]


def trace_rows(client: Client, job: Job, *, full: bool) -> tuple[list[SpanRow], int]:
    """Spans to show, and how many are not: of what is inside of tasks, only that of failed ones and of one per kind."""
    displays = {row["task_id"]: row["display"].split("\n")[0] for row in select(client, DISPLAYS.format(job.id))}
    spans = client.jobs().query_spans(job)
    tasks = [span for span in spans if span.name.startswith("task/")]
    first_of_kind = {span.name: span.span_id for span in reversed(tasks)}.values()
    closed = {span.span_id for span in tasks if not full and not is_failed(span)}.difference(first_of_kind)
    rows = [to_row(span, displays) for span in spans if span.parent_span_id not in closed]
    return rows, len(spans) - len(rows)


def to_row(span: Span, displays: dict[str, str]) -> SpanRow:
    """What the waterfall shows of a span: for tasks display name and error, inside of tasks the runner's name."""
    row = SpanRow.from_span(span)
    is_task = span.name.startswith("task/")
    return replace(
        row,
        name=displays.get(span.attributes["task_id"], row.name) if is_task else row.name,
        runner=span.runner_attributes["service.name"] if "task_id" in span.attributes else "",
        message=row.message if is_task else "",
    )


def is_failed(span: Span) -> bool:
    """Whether the span ended with an error."""
    return span.status_code == "STATUS_CODE_ERROR"


def seconds(duration: Any) -> str:
    """A timedelta for people."""
    return format_duration(round(duration.total_seconds() * 1e9))


def shown(path: Path | str) -> str:
    """The path, relative if it is below the working directory."""
    path = Path(path).resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    sys.exit(main())
