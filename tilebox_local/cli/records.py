"""`spans` and `logs`: the records of one job, as a list or as they come."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from tilebox_local.cli.session import Session, command, job_argument
from tilebox_local.cli.types import COUNT, DURATION, INSTANT

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from tilebox_local.cli.output import Column

__all__ = ["LEVELS", "logs", "span_columns", "spans"]

LEVELS = {"trace": 1, "debug": 5, "info": 9, "warning": 13, "error": 17, "fatal": 21}  # OTLP: the first of each group
_SINCE = "Then or later: 2026-05-01T12:00Z, or 10m (ago)."
_TASK = "Of tasks with this beginning of their id, or this class or label, with * and ?."


def _following(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--keep-going", is_flag=True, help="With --follow: go on when the job has ended."),
        click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until the job ends or Ctrl-C."),
        click.option("--attributes", is_flag=True, help="Show attributes, too."),
        click.option("--limit", type=COUNT, metavar="N", help="The newest N."),
        click.option("--since", type=INSTANT, metavar="TIME", help=_SINCE),
    ):
        function = option(function)
    return function


@command(
    "spans",
    examples=[
        "tilebox-local spans",
        "tilebox-local spans latest --status error --attributes",
        "tilebox-local spans --name 'task/*' --min-duration 10ms --limit 20 --json",
        "tilebox-local spans latest --follow  # until the job ends",
    ],
)
@job_argument()
@click.option("--task", metavar="TASK", help=_TASK)
@click.option("--name", metavar="GLOB", help="Whose name matches, with * and ?.")
@click.option("--status", type=click.Choice(["unset", "ok", "error", "open"], case_sensitive=False))
@click.option("--min-duration", type=DURATION, metavar="TIME", help="At least this long: 250ms, 10s, 2m.")
@_following
def spans(
    session: Session,
    job: str,
    task: str | None,
    name: str | None,
    status: str | None,
    min_duration: timedelta | None,
    since: int | None,
    limit: int | None,
    attributes: bool,
    follow: bool,
    keep_going: bool,
) -> None:
    """List the spans of a job, or follow them as they end.

    They come in the order of their start, with --follow in the order of their end. Open spans are listed, too.
    """
    from tilebox_local.cli.output import show_rows
    from tilebox_local.cli.stream import Stream
    from tilebox_local.query.listing import each_span, find_job_key, list_spans

    if follow and status == "open":
        raise click.UsageError("--follow shows spans when they end; --status open excludes that.")
    min_ns = None if min_duration is None else round(min_duration.total_seconds() * 1e9)
    with session.look() as client:
        store = client._open_store()
        key = find_job_key(store, job)
        if not follow:
            columns = span_columns(attributes=attributes)
            chosen: dict[str, Any] = {
                "task": task,
                "name": name,
                "status": status.upper() if status else None,
                "since_ns": since,
                "min_duration_ns": min_ns,
            }
            if _is_collected(session, limit):
                show_rows(session, list_spans(store, key.job_no, **chosen, limit=limit), columns)
            else:
                with Stream() as stream, each_span(store, key.job_no, **chosen) as rows:
                    show_rows(session, rows, columns, stream=stream)
            return
        from tilebox_local.cli.live import follow_job
        from tilebox_local.query.following import Filters

        filters = Filters(
            kinds=("span",), task=task, name=name, status=status.upper() if status else None, min_duration_ns=min_ns
        )
        follow_job(
            session, store, key, filters, since_ns=since, limit=limit, keep_going=keep_going, attributes=attributes
        )


@command(
    "logs",
    examples=[
        "tilebox-local logs",
        "tilebox-local logs latest --level warning --attributes",
        "tilebox-local logs --task Scene --limit 100 --json",
        "tilebox-local logs latest --follow  # until the job ends",
    ],
)
@job_argument()
@click.option("--task", metavar="TASK", help=_TASK)
@click.option("--name", metavar="GLOB", help="Whose logger's name matches, with * and ?.")
@click.option("--level", type=click.Choice(list(LEVELS), case_sensitive=False), default="trace", help="At least.")
@_following
def logs(
    session: Session,
    job: str,
    task: str | None,
    name: str | None,
    level: str,
    since: int | None,
    limit: int | None,
    attributes: bool,
    follow: bool,
    keep_going: bool,
) -> None:
    """List the log records of a job, or follow them."""
    from tilebox_local.cli.output import show_rows
    from tilebox_local.cli.stream import Stream
    from tilebox_local.query.listing import each_log, find_job_key, list_logs

    number = 0 if level == "trace" else LEVELS[level]
    with session.look() as client:
        store = client._open_store()
        key = find_job_key(store, job)
        if not follow:
            columns = _log_columns(attributes=attributes)
            chosen: dict[str, Any] = {"task": task, "name": name, "level": number, "since_ns": since}
            if _is_collected(session, limit):
                show_rows(session, list_logs(store, key.job_no, **chosen, limit=limit), columns)
            else:
                with Stream() as stream, each_log(store, key.job_no, **chosen) as rows:
                    show_rows(session, rows, columns, stream=stream)
            return
        from tilebox_local.cli.live import follow_job
        from tilebox_local.query.following import Filters

        filters = Filters(kinds=("log",), task=task, name=name, level=number)
        follow_job(
            session, store, key, filters, since_ns=since, limit=limit, keep_going=keep_going, attributes=attributes
        )


def _is_collected(session: Session, limit: int | None) -> bool:
    """Whether all rows are needed at once: the newest ones are read backwards, a terminal gets a table that fits."""
    return limit is not None or (sys.stdout.isatty() and not session.as_json)


def span_columns(*, attributes: bool) -> list[Column]:
    """The columns of a table of spans."""
    from tilebox_local.cli.output import Column, left_out, time_of_day
    from tilebox_local.formatting.waterfall import format_duration

    columns = [
        Column("start_time", "start", _time, brief=time_of_day),
        Column("duration_ns", "duration", format_duration, right=True),
        Column("status", paints=True),
        Column("span_id", "span", brief=left_out),
        Column("runner", show=lambda runner: runner[:8]),
        Column("name", gives_way=True),
        Column("status_message", "message"),
    ]
    return [*columns, Column("attributes")] if attributes else columns


def _log_columns(*, attributes: bool) -> list[Column]:
    from tilebox_local.cli.output import Column, left_out, time_of_day

    columns = [
        Column("time", show=_time, brief=time_of_day),
        Column("severity", paints=True),
        Column("span_id", "span", brief=left_out),
        Column("runner", show=lambda runner: runner[:8]),
        Column("body", "message"),
    ]
    return [*columns, Column("attributes")] if attributes else columns


def _time(text: str) -> str:
    return f"{text[:26]}Z"  # to the microsecond
