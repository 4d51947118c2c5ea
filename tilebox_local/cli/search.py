"""`search`: spans by what they are, log records by their words, spans by how they lie to each other."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from tilebox_local.cli.analysis import length, limit_option, show_records
from tilebox_local.cli.records import LEVELS
from tilebox_local.cli.session import Session, command, common_options
from tilebox_local.cli.types import DURATION, INSTANT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta
    from uuid import UUID

    from tilebox_local.jobs.client import JobClient

__all__ = ["search"]

_JOB = click.option("--job", metavar="JOB", help="Only this job; default: all, newest first.")


@click.group("search", no_args_is_help=True, params=common_options(with_json=True))
def search() -> None:
    """Search spans, log records, and structures of traces."""


@contextmanager
def _asked(session: Session, job: str | None) -> Iterator[tuple[JobClient, UUID | None]]:
    from tilebox_local.query.listing import find_job_key

    with session.look() as client:
        yield client.jobs(), None if job is None else find_job_key(client._open_store(), job).job_id


def _condition(text: str) -> tuple[str, Any]:
    """`key`, `key=value`, `key>5` and so on, `key~text`; the value as JSON if it is some, else as text."""
    import orjson

    found = re.fullmatch(r"(.+?)(!=|>=|<=|=|>|<|~)(.*)", text, re.DOTALL)
    if found is None:
        return text, ("exists", None)
    key, operator, value = found.groups()
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        parsed = value
    if operator == "~":
        return key, ("contains", parsed if value.startswith('"') else value)
    if operator == "=" and not isinstance(parsed, str | list | dict):
        return key, ("in", [parsed, value])  # people see no quotes where they look
    return key, (operator, parsed)


@command(
    "spans",
    examples=[
        "tilebox-local search spans --name 'task/*' --min-duration 10ms --since 24h",
        "tilebox-local search spans --attribute scene_id=S2A_001 --status error --json",
        "tilebox-local search spans --attribute 'cloud_cover>20' --attribute 'cloud_cover<=80' --json",
    ],
)
@_JOB
@click.option("--name", metavar="GLOB", help="Whose name matches, with * and ?.")
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    metavar="CONDITION",
    help="KEY, KEY=VALUE, KEY!=VALUE, KEY>=5 (>, <, <=), KEY~PART; repeatable.",
)
@click.option("--status", type=click.Choice(["unset", "ok", "error", "open"], case_sensitive=False))
@click.option("--min-duration", type=DURATION, metavar="TIME", help="At least this long: 250ms, 10s, 2m.")
@click.option("--max-duration", type=DURATION, metavar="TIME", help="At most this long.")
@click.option("--since", type=INSTANT, metavar="TIME", help="Started then or later: 2026-05-01T12:00Z, or 10m (ago).")
@click.option("--until", type=INSTANT, metavar="TIME", help="Started before.")
@click.option("--task", metavar="NAME", help="Of tasks of this name.")
@click.option("--runner", metavar="ID", help="Of this runner.")
@limit_option(100)
def search_spans(
    session: Session,
    job: str | None,
    name: str | None,
    attributes: tuple[str, ...],
    status: Any,
    min_duration: timedelta | None,
    max_duration: timedelta | None,
    since: int | None,
    until: int | None,
    task: str | None,
    runner: str | None,
    limit: int,
) -> None:
    """Search spans by name, attributes, length, time and status."""
    from tilebox_local.cli.output import Column, left_out, time_of_day

    with _asked(session, job) as (jobs, job_id):
        found = jobs.search_spans(
            job_id,
            name=name,
            attributes=list(map(_condition, attributes)) or None,
            status=status,
            min_duration=min_duration,
            max_duration=max_duration,
            since=since,
            until=until,
            task=task,
            runner=runner,
            limit=limit,
        )
    columns = [
        Column("start_time", "start", lambda time: f"{time[:23]}Z", brief=time_of_day),
        length("duration_ms", "duration"),
        Column("status"),
        Column("name", gives_way=True),
        Column("status_message", "message", gives_way=True),
        Column("job_name", "job"),
        Column("span_id", "span", brief=left_out),
    ]
    show_records(session, found, columns, empty="No spans found.")


@command(
    "logs",
    examples=[
        "tilebox-local search logs computed",
        "tilebox-local search logs '\"no data\" OR timeout*' --level warning --json",
    ],
)
@click.argument("text")
@_JOB
@click.option("--level", type=click.Choice(list(LEVELS), case_sensitive=False), help="At least.")
@limit_option(100)
def search_logs(session: Session, text: str, job: str | None, level: Any, limit: int) -> None:
    """Search log records by their words.

    All words of TEXT must occur; "a phrase", beginning*, AND, OR, NOT are understood (SQLite's FTS5).
    """
    from tilebox_local.cli.output import Column, time_of_day

    with _asked(session, job) as (jobs, job_id):
        found = jobs.search_logs(text, job_id, level=level, limit=limit)
    columns = [
        Column("time", show=lambda time: f"{time[:23]}Z", brief=time_of_day),
        Column("severity", paints=True),
        Column("job_name", "job"),
        Column("snippet", "message"),
    ]
    show_records(session, found, columns, empty="No log records found.")


@command(
    "structure",
    examples=[
        "tilebox-local search structure 'job/* > task/*'",
        "tilebox-local search structure 'task/* !> write*' --json",
    ],
)
@click.argument("pattern")
@_JOB
@limit_option(100)
def search_structure(session: Session, pattern: str, job: str | None, limit: int) -> None:
    """Search spans by how they lie to each other.

    PATTERN: A > B (child), A >> B (anywhere below), A ~ B (follows), A !> B and A !>> B (there is none).
    """
    from tilebox_local.cli.output import Column

    with _asked(session, job) as (jobs, job_id):
        found = jobs.search_structure(pattern, job_id, limit=limit)
    span = [
        Column("a", show=lambda one: str(one["name"]), gives_way=True),
        Column("b", show=lambda one: str(one["name"]), gives_way=True),
        Column("a", "start", lambda one: f"{one['start_time'][:23]}Z"),
        Column("a", "job", lambda one: str(one["job_name"] or "")),
    ]
    show_records(session, found, span, empty="Nothing lies like that.")


for _name, _command in (("spans", search_spans), ("logs", search_logs), ("structure", search_structure)):
    search.add_command(_command, _name)
