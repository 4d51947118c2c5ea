"""`jobs`: the list of jobs."""

from __future__ import annotations

import click

from tilebox_local.cli.session import Session, command
from tilebox_local.cli.types import COUNT, INSTANT

__all__ = ["jobs"]

_STATES = ["submitted", "running", "started", "completed", "failed", "canceled"]


@command(
    "jobs",
    examples=[
        "tilebox-local jobs",
        "tilebox-local jobs --state failed --since 24h",
        "tilebox-local jobs --name 'mosaic-*' --sort elapsed --json",
    ],
)
@click.option(
    "--state", "states", multiple=True, type=click.Choice(_STATES, case_sensitive=False), help="May be repeated."
)
@click.option("--name", metavar="GLOB", help="Whose name matches, with * and ?.")
@click.option("--since", type=INSTANT, metavar="TIME", help="Submitted then or later: 2026-05-01T12:00Z, or 10m (ago).")
@click.option("--until", type=INSTANT, metavar="TIME", help="Submitted before.")
@click.option("--limit", type=COUNT, default=20, show_default=True, metavar="N", help="At most N jobs.")
@click.option(
    "--sort",
    type=click.Choice(["submitted", "name", "elapsed", "compute", "tasks", "failed"]),
    default="submitted",
    show_default=True,
    help="Largest or newest first; names from A to Z.",
)
def jobs(
    session: Session,
    states: tuple[str, ...],
    name: str | None,
    since: int | None,
    until: int | None,
    limit: int,
    sort: str,
) -> None:
    """List jobs, newest first."""
    from tilebox_local.cli.output import Column, show_rows
    from tilebox_local.formatting.waterfall import format_duration
    from tilebox_local.query.listing import list_jobs

    with session.look() as client:
        rows = list_jobs(
            client._open_store(),
            states=[state.upper() for state in states],
            name=name,
            since_ns=since,
            until_ns=until,
            sort=sort,
            limit=limit,
        )
    if not rows:
        session.say("No jobs found.")
    show_rows(
        session,
        rows,
        [
            Column("job_id", "job", brief=lambda text: text[:13]),  # as much as differs from millisecond to millisecond
            Column("state", paints=True),
            Column("name", gives_way=True),
            Column("elapsed_ms", "elapsed", lambda ms: format_duration(round(ms * 1e6)), right=True),
            Column("tasks", right=True),
            Column("submitted_at", "submitted", lambda time: f"{time[:19]}Z", brief=lambda text: text[5:16]),
            Column("failed", right=True),
        ],
    )
