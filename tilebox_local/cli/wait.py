"""`wait`: until a job ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tilebox_local.cli.progress import Bar, can_draw
from tilebox_local.cli.running import FAILED, OK, TIMED_OUT
from tilebox_local.cli.session import Session, command, job_argument
from tilebox_local.cli.types import TIMEOUT

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Any

    from tilebox_local.query.listing import JobKey
    from tilebox_local.storage.store import Store

__all__ = ["has_ended", "wait", "wait_for"]


@command(
    "wait",
    examples=["tilebox-local wait latest", "tilebox-local wait name:process-scenes --timeout 10m --json"],
)
@job_argument()
@click.option("--timeout", type=TIMEOUT, metavar="TIME", help="Give up after 90s, 10m, 2h with exit code 124.")
def wait(session: Session, job: str, timeout: timedelta | None) -> int:
    """Wait until a job ends.

    Exit code 0 if it is completed, 1 if it failed or was canceled. On a terminal a bar shows how far it is.
    """
    from tilebox_local.cli.output import write_json
    from tilebox_local.query.listing import find_job_key, view_job

    with session.look() as client:
        store = client._open_store()
        key = find_job_key(store, job)
        code = wait_for(session, store, key, timeout_s=None if timeout is None else timeout.total_seconds())
        if session.as_json:
            with store.snapshot() as connection:
                write_json(view_job(connection, key.job_no))
    return code


def has_ended(row: dict[str, Any]) -> bool:
    """Whether nothing of a job (row of the view `jobs`) goes on, unless it is retried."""
    return row["state"] in ("COMPLETED", "FAILED", "CANCELED") and row["running"] == 0


def wait_for(session: Session, store: Store, key: JobKey, *, timeout_s: float | None) -> int:
    """Return when a job has ended, or after `timeout_s` seconds; the exit code."""
    from tilebox_local import clock
    from tilebox_local.query.listing import view_job
    from tilebox_local.storage.watch import ChangeWatch

    deadline = None if timeout_s is None else clock.monotonic_ns() + round(timeout_s * 1e9)
    bar = Bar() if can_draw(session) else None
    watch = ChangeWatch(store)  # before the first look, so that no change is missed
    try:
        while True:
            with store.snapshot() as connection:
                row = view_job(connection, key.job_no)
            if bar is not None:
                done = row["tasks"] - row["queued"] - row["running"]
                bar.draw(done, row["tasks"], f"{done}/{row['tasks']} tasks, {row['running']} running")
            if has_ended(row):
                break
            left = None if deadline is None else (deadline - clock.monotonic_ns()) / 1e9
            if left is not None and left <= 0:
                break
            watch.wait(left)
    finally:
        watch.close()
        if bar is not None:
            bar.clear()
    if not has_ended(row):
        session.say(f"Job {key.job_id} is still {row['state']}.")
        return TIMED_OUT
    failed = f", {row['failed']} failed" if row["failed"] else ""
    tasks = "1 task" if row["tasks"] == 1 else f"{row['tasks']} tasks"
    session.say(f"Job {key.job_id} ({key.name}) is {row['state']}: {tasks}{failed}.")
    return OK if row["state"] == "COMPLETED" else FAILED
