"""jobs, job, wait, cancel, retry: what runs, and what becomes of it."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import click

from tilebox_local.cli.options import DURATION, FIRST_NS, LAST_NS, limit_option, period_options
from tilebox_local.cli.settings import find_job, job_argument, store_command
from tilebox_local.cli.tables import Column, show_json, show_rows
from tilebox_local.cli.telemetry import logs, spans

if TYPE_CHECKING:
    from datetime import timedelta

    from tilebox_local.cli.settings import Settings
    from tilebox_local.client import Client
    from tilebox_local.data import Job

__all__ = ["COMMANDS"]

_COMPLETED, _NOT_COMPLETED, _TIMED_OUT = 0, 1, 124
_STATES = ["SUBMITTED", "RUNNING", "STARTED", "COMPLETED", "FAILED", "CANCELED"]
_JOBS = (
    Column("id", "job_id", "word"),
    Column("state", "state", "word"),
    Column("submitted", "submitted_at", "time"),
    Column("elapsed", "elapsed_ms", "ms"),
    Column("tasks", "tasks", "count"),
    Column("failed", "failed", "count"),
    Column("name", "name"),
)


@store_command(
    "jobs",
    epilog="""\b
Examples:
  tilebox-local jobs
  tilebox-local jobs --state FAILED --since 2d
  tilebox-local jobs --name 'nightly-*' --limit 0 --json""",
)
@click.option("--state", type=click.Choice(_STATES, case_sensitive=False), help="Only jobs in this state.")
@click.option("--name", metavar="GLOB", help="Only jobs whose name matches, such as 'nightly-*'.")
@period_options
@limit_option(20)
def jobs(
    settings: Settings, state: str | None, name: str | None, since: int | None, until: int | None, limit: int
) -> None:
    """List jobs, newest first."""
    from tilebox_local.query.listings import list_jobs

    with settings.open() as client:
        rows = list_jobs(
            client._store,
            state=state,
            name=name,
            since_ns=FIRST_NS if since is None else since,
            until_ns=LAST_NS if until is None else until,
            limit=limit or -1,
        )
    show_rows(settings, rows, _JOBS, empty="No jobs.", red="failed")


@store_command(
    "show",
    epilog="""\b
Examples:
  tilebox-local job show
  tilebox-local job show 01a2 --depth 2
  tilebox-local job show name:nightly --errors --logs""",
)
@job_argument
@click.option("--depth", type=click.IntRange(1), metavar="N", help="Fold what is deeper than N levels.")
@click.option("--errors", is_flag=True, help="Only failed spans, and what they are in.")
@click.option("--logs", "with_logs", is_flag=True, help="Show log records below their spans.")
@click.option("--max-rows", type=click.IntRange(0), default=200, metavar="N", help="Spans, 0: all; default 200.")
@click.option("--ascii", "ascii_only", is_flag=True, help="No characters outside of ASCII.")
def show(
    settings: Settings, job: str, depth: int | None, errors: bool, with_logs: bool, max_rows: int, ascii_only: bool
) -> None:
    """Draw the trace of a job: its spans as a tree, with bars on the time axis."""
    from tilebox_local.analysis.subject import find_subject
    from tilebox_local.formatting.waterfall import render_waterfall
    from tilebox_local.query.listings import list_jobs, waterfall_notes, waterfall_rows

    with settings.open() as client:
        found = find_job(client, job)
        with client._store.snapshot() as connection:
            subject = find_subject(connection, found.id)
        if settings.json:
            instant = subject.submitted_ns
            rows_of_job = list_jobs(client._store, state=None, name=None, since_ns=instant, until_ns=instant, limit=-1)
            show_json(settings, next(row for row in rows_of_job if row["job_id"] == str(found.id)))
            return
        rows = waterfall_rows(client._store, subject.trace_no)
        notes = waterfall_notes(client._store, subject.trace_no, with_logs=with_logs)
    if errors:
        rows = _failed_and_ancestors(rows)
    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 120
    picture = render_waterfall(
        rows,
        width=width,
        color=settings.has_color,
        max_rows=max_rows or None,
        max_depth=depth,
        ascii_only=ascii_only,
        notes=notes,
    )
    settings.print(f"{_headline(found, ascii_only=ascii_only)}\n{picture}")


def _failed_and_ancestors(rows: list[Any]) -> list[Any]:
    parents = {row.span_id: row.parent_span_id for row in rows}
    kept: set[str | None] = set()
    for row in rows:
        span_id = row.span_id if row.is_error else None
        while span_id is not None and span_id not in kept:
            kept.add(span_id)
            span_id = parents.get(span_id)
    return [row for row in rows if row.span_id in kept]


def _headline(job: Job, *, ascii_only: bool) -> str:
    from tilebox_local.clock import datetime_to_ns
    from tilebox_local.formatting.text import visible
    from tilebox_local.formatting.waterfall import format_duration

    stats = job.execution_stats
    parts = [job.state.name, str(job.id), f"submitted {job.submitted_at:%Y-%m-%d %H:%M:%S}Z"]
    if stats.first_task_started_at is not None and stats.last_task_stopped_at is not None:
        elapsed = datetime_to_ns(stats.last_task_stopped_at) - datetime_to_ns(stats.first_task_started_at)
        parts.append(f"elapsed {format_duration(elapsed)}")
    counts = ", ".join(f"{count:,} {state.name.lower()}" for state, count in stats.tasks_by_state.items())
    parts.append(f"{stats.total_tasks:,} tasks ({counts})")
    parts += [f"{one.label or 'progress'} {one.done:,}/{one.total:,}" for one in job.progress[:5]]
    lines = [visible(job.name), "  ".join(map(visible, parts))]
    return "\n".join(line.encode("ascii", "backslashreplace").decode() if ascii_only else line for line in lines)


@store_command(
    "wait",
    epilog="""\b
Examples:
  tilebox-local wait && echo completed
  tilebox-local wait name:nightly --timeout 2h""",
)
@job_argument
@click.option("--timeout", type=DURATION, metavar="DURATION", help="Give up after this time, with exit code 124.")
def wait(settings: Settings, job: str, timeout: timedelta | None) -> int:
    """Wait until a job has ended. Exit code: 0 COMPLETED, 1 FAILED or CANCELED, 124 it goes on."""
    from tilebox_local.storage.watch import ChangeWatch

    deadline = None if timeout is None else time.monotonic() + timeout.total_seconds()
    with settings.open() as client:
        found = find_job(client, job)
        watch = ChangeWatch(client._store)
        try:
            with _Progress(settings) as progress:
                while not _has_ended(found):
                    progress.show(found)
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        settings.say(f"Job {found.id} goes on: {found.state.name}.")
                        return _TIMED_OUT
                    watch.wait(left)
                    found = client.jobs().find(found)
        finally:
            watch.close()
    if settings.json:
        show_json(settings, {"job_id": str(found.id), "state": found.state.name})
    else:
        settings.say(f"Job {found.id}: {found.state.name}.")
    return _COMPLETED if found.state.name == "COMPLETED" else _NOT_COMPLETED


def _has_ended(job: Job) -> bool:
    from tilebox_local.data import TaskState

    is_running = job.execution_stats.tasks_by_state.get(TaskState.RUNNING, 0) > 0
    return job.state.name in ("COMPLETED", "FAILED", "CANCELED") and not is_running


class _Progress:
    """How many tasks of a job have ended, as a bar on stderr, if that is a terminal."""

    def __init__(self, settings: Settings) -> None:
        self._is_on = sys.stderr.isatty() and not settings.quiet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_on:
            click.echo("\r\x1b[K", nl=False, err=True)

    def show(self, job: Job) -> None:
        """Draw the bar anew."""
        if not self._is_on:
            return
        from tilebox_local.data import TaskState

        stats = job.execution_stats
        open_states = (TaskState.QUEUED, TaskState.RUNNING)
        left = sum(stats.tasks_by_state.get(state, 0) for state in open_states)
        done = stats.total_tasks - left
        filled = 30 * done // max(1, stats.total_tasks)
        bar = "#" * filled + "-" * (30 - filled)
        click.echo(f"\r\x1b[K[{bar}] {done:,}/{stats.total_tasks:,} tasks  {job.state.name}", nl=False, err=True)


def _changed(settings: Settings, client: Client, job: Job) -> None:
    found = client.jobs().find(job)
    if settings.json:
        show_json(settings, {"job_id": str(found.id), "state": found.state.name})
    else:
        settings.say(f"Job {found.id}: {found.state.name}.")


@store_command(
    "cancel",
    epilog="""\b
Examples:
  tilebox-local cancel 01a20a86""",
)
@click.argument("job")
def cancel(settings: Settings, job: str) -> None:
    """Stop handing out the tasks of JOB; running ones end normally. `retry` resumes it."""
    with settings.open(read_only=False) as client:
        found = find_job(client, job)
        client.jobs().cancel(found)
        _changed(settings, client, found)


@store_command(
    "retry",
    epilog="""\b
Examples:
  tilebox-local retry latest""",
)
@click.argument("job")
def retry(settings: Settings, job: str) -> None:
    """Run the failed tasks of JOB again, and what waited for them."""
    with settings.open(read_only=False) as client:
        found = find_job(client, job)
        count = client.jobs().retry(found)
        settings.say("1 failed task is queued again." if count == 1 else f"{count:,} failed tasks are queued again.")
        _changed(settings, client, found)


@click.group("job", no_args_is_help=True)
def job() -> None:
    """Show, list, cancel or retry jobs; their spans and logs."""


for _name, _command in (
    ("show", show),
    ("list", jobs),
    ("spans", spans),
    ("logs", logs),
    ("wait", wait),
    ("cancel", cancel),
    ("retry", retry),
):
    job.add_command(_command, _name)

COMMANDS = {"jobs": jobs, "job": job, "wait": wait, "cancel": cancel, "retry": retry}
