"""`trends` and `compare`: what changed, over time and between two jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from tilebox_local.cli.analysis import count, length, limit_option, percent, show_records
from tilebox_local.cli.session import Session, command
from tilebox_local.cli.types import INSTANT

if TYPE_CHECKING:
    from tilebox_local.cli.output import Column

__all__ = ["compare", "trends"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _instant(ns: int | None) -> datetime | None:
    return None if ns is None else _EPOCH + timedelta(microseconds=ns // 1000)


@command(
    "trends",
    examples=["tilebox-local trends process-scenes", "tilebox-local trends process-scenes --steps --since 30d --json"],
)
@click.argument("name")
@click.option("--steps", is_flag=True, help="By task instead of by job.")
@click.option("--since", type=INSTANT, metavar="TIME", help="Submitted then or later: 2026-05-01T12:00Z, or 10m (ago).")
@click.option("--until", type=INSTANT, metavar="TIME", help="Submitted before.")
@limit_option(50)
def trends(session: Session, name: str, steps: bool, since: int | None, until: int | None, limit: int) -> None:
    """The jobs of a name over time, each judged against those before."""
    from tilebox_local.cli.output import Column

    with session.look() as client:
        ask = client.jobs().step_trends if steps else client.jobs().trends
        found = ask(name, since=_instant(since), until=_instant(until), limit=limit)
    columns = [Column("submitted_at", "submitted", lambda time: f"{time[:19]}Z")]
    if steps:
        columns += [
            Column("step", "task"),
            count("attempts"),
            length("median_ms", "median"),
            length("total_ms", "total"),
        ]
    else:
        columns += [
            Column("state", paints=True),
            length("elapsed_ms", "elapsed"),
            length("compute_ms", "compute"),
            count("tasks"),
            count("failed"),
        ]
    columns += [Column("verdict"), Column("description", "in words")]
    show_records(session, found, columns, empty="No jobs of this name in that time.")


@command(
    "compare",
    examples=["tilebox-local compare 'name:first mosaic' latest", "tilebox-local compare latest latest --all --json"],
)
@click.argument("job_a")
@click.argument("job_b")
@click.option("--all", "show_all", is_flag=True, help="Also what did not change.")
@limit_option(30)
def compare(session: Session, job_a: str, job_b: str, show_all: bool, limit: int) -> None:
    """What changed from one job to another.

    Spans that are added, missing, slower or faster, or of which there are more or fewer, by place in the trace, the
    largest contribution to the difference first.
    """
    from tilebox_local.cli.output import Column, write_json, write_line
    from tilebox_local.query.listing import find_job_key

    with session.look() as client:
        a_id, b_id = (find_job_key(client._open_store(), job).job_id for job in (job_a, job_b))
        found = client.jobs().compare(a_id, b_id)
    paths = [path for path in found.paths if show_all or path.has_changed][:limit]
    if session.as_json:
        write_json(found.to_dict() | {"paths": [path.to_dict() for path in paths]})
        return
    write_line(found.description)
    columns: list[Column] = [
        Column("verdict"),
        Column("path", gives_way=True),
        count("a_count", "spans before"),
        count("b_count", "after"),
        length("a_self_ms", "self before"),
        length("b_self_ms", "self after"),
        percent("contribution"),
        Column("description", "in words"),
    ]
    show_records(session, paths, columns, empty="No path has changed.")
