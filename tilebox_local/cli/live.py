"""`tail`, and --follow: what happens in a store, as it is committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tilebox_local.cli.records import LEVELS
from tilebox_local.cli.session import Session, command
from tilebox_local.cli.types import INSTANT

if TYPE_CHECKING:
    from tilebox_local.query.following import Filters, Follower, News
    from tilebox_local.query.listing import JobKey
    from tilebox_local.storage.store import Store

__all__ = ["follow", "follow_job", "tail"]


@command(
    "tail",
    examples=[
        "tilebox-local tail  # until Ctrl-C",
        "tilebox-local tail latest --since 10m  # until the job ends",
        "tilebox-local tail --level warning --json  # until Ctrl-C",
    ],
)
@click.argument("job", metavar="[JOB]", required=False)
@click.option("--since", type=INSTANT, metavar="TIME", help="Begin then, as 2026-05-01T12:00Z, or 10m (ago).")
@click.option("--level", type=click.Choice(list(LEVELS), case_sensitive=False), default="trace", help="Of log records.")
@click.option("--attributes", is_flag=True, help="Show attributes, too.")
@click.option("--keep-going", is_flag=True, help="Go on when JOB has ended.")
def tail(session: Session, job: str | None, since: int | None, level: str, attributes: bool, keep_going: bool) -> None:
    """Follow everything: spans as they end, log records, changes of state.

    Of all jobs, and what belongs to none, or of one job, until it ends. With --json one object a line: `type` is span,
    log, task or job, the other keys are those of the view. A state that is over before anybody looks is not shown.
    """
    from tilebox_local import clock
    from tilebox_local.query.following import Filters, Follower
    from tilebox_local.query.listing import find_job_key

    filters = Filters(level=0 if level == "trace" else LEVELS[level])
    with session.look() as client:
        store = client._open_store()
        key = None if job is None else find_job_key(store, job)
        follower = Follower(
            store,
            since_ns=clock.wall_ns() if since is None else since,
            job_no=None if key is None else key.job_no,
            filters=filters,
        )
        follow(session, store, follower, None if keep_going else key, attributes=attributes, has_types=True)


def follow_job(
    session: Session,
    store: Store,
    key: JobKey,
    filters: Filters,
    *,
    since_ns: int | None,
    limit: int | None,
    keep_going: bool,
    attributes: bool,
) -> None:
    """Print the records of a job, the newest `limit` of those that are there, and those that come, until it ends."""
    from tilebox_local.query.following import Follower
    from tilebox_local.query.listing import FIRST_NS

    follower = Follower(store, since_ns=FIRST_NS if since_ns is None else since_ns, job_no=key.job_no, filters=filters)
    follow(session, store, follower, None if keep_going else key, attributes=attributes, limit=limit)


def follow(
    session: Session,
    store: Store,
    follower: Follower,
    until: JobKey | None,
    *,
    attributes: bool = False,
    has_types: bool = False,
    limit: int | None = None,
) -> None:
    """Print what a follower finds, until the job `until` has ended, or Ctrl-C.

    Args:
        has_types: Whether there are several kinds of news, which are told apart.
        limit: Of what is there already, the newest ones.
    """
    from tilebox_local.cli.output import json_line, use_color
    from tilebox_local.cli.wait import has_ended
    from tilebox_local.query.listing import view_job
    from tilebox_local.storage.watch import ChangeWatch

    color = use_color(session)
    watch = ChangeWatch(store)  # before the first look, so that no change is missed
    try:
        is_first = True
        while True:
            ended = False
            if until is not None:
                with store.snapshot() as connection:
                    ended = has_ended(view_job(connection, until.job_no))
            # After it has ended: what it has recorded is committed by then.
            for one in follower.look(thorough=ended, newest=limit if is_first else None):
                if session.as_json:
                    json_line({"type": one.kind, **one.row} if has_types else one.row)
                else:
                    _print(one, attributes=attributes, color=color)
            is_first = False
            if ended:
                return
            watch.wait()
    finally:
        watch.close()


def _print(news: News, *, attributes: bool, color: bool) -> None:
    import sys

    from tilebox_local.cli.output import paint_state, write_line
    from tilebox_local.formatting.text import visible

    word, text = _described(news)
    shown = visible(f" {news.row['attributes']}") if attributes and "attributes" in news.row else ""
    write_line(f"{_clock(news.time_ns)}  {paint_state(word, 15, color=color)}  {visible(text)}{shown}")
    sys.stdout.flush()


def _described(news: News) -> tuple[str, str]:
    """What kind of news it is, in a word, and what is new."""
    from tilebox_local.formatting.waterfall import format_duration

    row: dict[str, Any] = news.row
    if news.kind == "log":
        return row["severity"], f"{_job(row)}{row['body']}"
    if news.kind == "span":
        message = f": {row['status_message']}" if row["status_message"] else ""
        word = "ERROR" if row["status"] == "ERROR" else "SPAN"
        return word, f"{_job(row)}{row['name']} {format_duration(row['duration_ns'])}{message}"
    if news.kind == "task":
        display = (row["display"] or row["name"]).replace("\n", ": ")
        return row["state"], f"{_job(row)}task {display} ({row['task_id'][:8]})"
    return row["state"], f"job {row['name']} ({row['job_id']})"


def _job(row: dict[str, Any]) -> str:
    return f"[{row['job_name']}] " if row["job_name"] else ""


def _clock(time_ns: int) -> str:
    from tilebox_local.clock import ns_to_datetime

    return ns_to_datetime(time_ns).strftime("%H:%M:%S.%f")[:-3] + "Z"
