"""spans, logs: what a job has recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tilebox_local.cli.options import DURATION, FIRST_NS, LAST_NS, limit_option, period_options
from tilebox_local.cli.settings import find_job, job_argument, store_command
from tilebox_local.cli.tables import Column, show_rows

if TYPE_CHECKING:
    from datetime import timedelta

    from tilebox_local.cli.settings import Settings

__all__ = ["COMMANDS"]

_SPANS = (
    Column("start", "start_time", "time"),
    Column("duration", "duration_ms", "ms"),
    Column("status", "status", "word"),
    Column("name", "name"),
    Column("message", "status_message"),
    Column("runner", "runner", "word"),
    Column("span", "span_id", "word"),
    Column("attributes", "attributes"),
)
_LOGS = (
    Column("time", "time", "time"),
    Column("level", "severity", "word"),
    Column("body", "body"),
    Column("runner", "runner", "word"),
    Column("span", "span_id", "word"),
    Column("attributes", "attributes"),
)
_LEVELS = {"trace": 1, "debug": 5, "info": 9, "warning": 13, "error": 17, "fatal": 21}


def _with_attributes(columns: tuple[Column, ...], *, attributes: bool) -> tuple[Column, ...]:
    return columns if attributes else columns[:-1]


def _decoded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Attributes as JSON objects instead of their text."""
    import orjson

    return [row | {"attributes": orjson.loads(row["attributes"])} for row in rows]


def _tell_of_more(settings: Settings, rows: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    if limit and len(rows) > limit:
        settings.say(f"There are more than {limit:,}; --limit 0 shows all.")
        return rows[:limit]
    return rows


@store_command(
    "spans",
    epilog="""\b
Examples:
  tilebox-local spans --status error
  tilebox-local spans 01a2 --name 'read*' --min-duration 250ms
  tilebox-local spans name:nightly --json --limit 0""",
)
@job_argument
@click.option("--name", metavar="GLOB", help="Only spans whose name matches, such as 'read*'.")
@click.option("--status", type=click.Choice(["ok", "error", "unset", "open"]), help="Only spans with this status.")
@click.option("--task", metavar="TASK_ID", help="Only those of this task.")
@click.option("--min-duration", type=DURATION, metavar="DURATION", help="Only spans that took at least so long.")
@click.option("--attributes", is_flag=True, help="Show attributes, too.")
@period_options
@limit_option(1000)
def spans(
    settings: Settings,
    job: str,
    name: str | None,
    status: str | None,
    task: str | None,
    min_duration: timedelta | None,
    attributes: bool,
    since: int | None,
    until: int | None,
    limit: int,
) -> None:
    """List the spans of a job, by start."""
    from tilebox_local.query.listings import list_spans

    with settings.open() as client:
        rows = list_spans(
            client._store,
            job_id=str(find_job(client, job).id),
            name=name,
            status=None if status in (None, "open") else status.upper(),
            is_open=1 if status == "open" else None,
            task=task,
            min_duration_ns=None if min_duration is None else round(min_duration.total_seconds() * 1e9),
            since_ns=FIRST_NS if since is None else since,
            until_ns=LAST_NS if until is None else until,
            limit=limit + 1 if limit else -1,
        )
    rows = _tell_of_more(settings, rows, limit)
    columns = _with_attributes(_SPANS, attributes=attributes)
    show_rows(settings, _decoded(rows) if settings.json else rows, columns, empty="No spans.")


@store_command(
    "logs",
    epilog="""\b
Examples:
  tilebox-local logs
  tilebox-local logs --level warning --since 10m
  tilebox-local logs 01a2 --attributes --json""",
)
@job_argument
@click.option("--level", type=click.Choice([*_LEVELS]), default="trace", help="Only from this level on.")
@click.option("--task", metavar="TASK_ID", help="Only those of this task.")
@click.option("--attributes", is_flag=True, help="Show attributes, too.")
@period_options
@limit_option(1000)
def logs(
    settings: Settings,
    job: str,
    level: str,
    task: str | None,
    attributes: bool,
    since: int | None,
    until: int | None,
    limit: int,
) -> None:
    """List the log records of a job, by time."""
    from tilebox_local.query.listings import list_logs

    with settings.open() as client:
        rows = list_logs(
            client._store,
            job_id=str(find_job(client, job).id),
            severity_number=_LEVELS[level] if level != "trace" else 0,
            task=task,
            since_ns=FIRST_NS if since is None else since,
            until_ns=LAST_NS if until is None else until,
            limit=limit + 1 if limit else -1,
        )
    rows = _tell_of_more(settings, rows, limit)
    columns = _with_attributes(_LOGS, attributes=attributes)
    show_rows(settings, _decoded(rows) if settings.json else rows, columns, empty="No log records.")


COMMANDS = {"spans": spans, "logs": logs}
