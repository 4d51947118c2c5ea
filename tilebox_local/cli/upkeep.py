"""doctor, snapshot, prune, check, recover: keep a store."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from tilebox_local.cli.running import OK, STORE
from tilebox_local.cli.session import Session, command
from tilebox_local.cli.types import DURATION, SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from tilebox_local.upkeep.prune import PruneResult

__all__ = ["check", "doctor", "prune", "recover", "snapshot"]


@command("doctor", examples=["tilebox-local doctor", "tilebox-local doctor --json"])
def doctor(session: Session) -> int:
    """Name the last crash, and what is wrong with a store.

    Exit code 3 if something is an error.
    """
    from tilebox_local.cli.output import show_text, write_json
    from tilebox_local.errors import StoreOpenError

    try:
        with session.change() as client:
            diagnosis = client.doctor()
    except StoreOpenError:  # on a disk that cannot be written, for example; looking says what is wrong, too
        with session.look() as client:
            diagnosis = client.doctor()
    if session.as_json:
        write_json(diagnosis)
    else:
        show_text(session, str(diagnosis))
    return STORE if any(finding.level == "error" for finding in diagnosis.findings) else OK


@command("snapshot", examples=["tilebox-local snapshot copy.db", "tilebox-local snapshot copy.db --overwrite"])
@click.argument("target", type=click.Path(), metavar="TARGET")
@click.option("--overwrite", is_flag=True, help="Replace TARGET if it exists.")
def snapshot(session: Session, target: str, overwrite: bool) -> None:
    """Copy a store that is in use.

    TARGET is the new file: one file, complete and consistent, readable anywhere. Its path is printed.
    """
    from tilebox_local.cli.output import write_json, write_path
    from tilebox_local.cli.progress import progress_bar

    with session.look() as client, progress_bar(session) as progress:
        path = client.snapshot(target, overwrite=overwrite, progress=progress)
    if session.as_json:
        write_json({"path": str(path)})
    else:
        write_path(path)


@command(
    "prune",
    examples=[
        "tilebox-local prune --older-than 30d --dry-run",
        "tilebox-local prune --keep-last 100 --yes",
        "tilebox-local prune --max-size 2GB --keep-last 10 --yes",
    ],
)
@click.option("--older-than", type=DURATION, metavar="AGE", help="Jobs that ended so long ago: 90m, 12h, 30d.")
@click.option("--keep-last", type=int, metavar="N", help="Keep the N finished jobs that ended last.")
@click.option("--max-size", type=SIZE, metavar="SIZE", help="The oldest, until the file has 500MB, 2GiB.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask; nothing asks if this is no terminal.")
def prune(
    session: Session,
    older_than: timedelta | None,
    keep_last: int | None,
    max_size: int | None,
    dry_run: bool,
    yes: bool,
) -> int:
    """Delete old jobs and give the space back."""
    from tilebox_local.cli.progress import progress_bar

    with session.change() as client:

        def run(*, dry: bool) -> PruneResult:
            with progress_bar(session) as progress:
                return client.prune(
                    older_than=older_than, keep_last=keep_last, max_bytes=max_size, dry_run=dry, progress=progress
                )

        if not (yes or dry_run) and sys.stdin.isatty() and sys.stderr.isatty():
            count = run(dry=True)
            question = f"Delete {count.jobs} jobs with {count.tasks} tasks and {count.spans} spans?"
            if not click.confirm(question, err=True):
                session.say("Nothing was deleted.")
                return OK
        result = run(dry=dry_run)
    _show_prune(session, result)
    return OK


def _show_prune(session: Session, result: PruneResult) -> None:
    from tilebox_local.cli.output import write_json, write_line

    if session.as_json:
        write_json(result)
    else:
        for name in ("jobs", "tasks", "traces", "spans", "events", "logs"):
            write_line(f"{name:12} {getattr(result, name)}")
        write_line(f"{'freed bytes':12} {result.freed_bytes}\n{'file bytes':12} {result.file_bytes}")
    if result.is_dry_run:
        session.say("Nothing was deleted; the bytes are an estimate.")
    elif not result.is_log_empty:
        session.say("The file gets smaller when those who read it right now have finished.")


@command("check", examples=["tilebox-local check", "tilebox-local check --full --json"])
@click.option("--full", is_flag=True, help="All of it, however long it takes.")
def check(session: Session, full: bool) -> int:
    """Look for damage.

    Exit code 3 if there is any.
    """
    from tilebox_local.cli.output import write_json, write_line
    from tilebox_local.cli.progress import progress_bar

    with session.look() as client, progress_bar(session) as progress:
        result = client.check(full=full, progress=progress)
    if session.as_json:
        problems = [{"check": problem.check, "message": str(problem)} for problem in result.problems]
        write_json({"ok": result.ok, "problems": problems, "unfinished": list(result.unfinished)})
    else:
        from tilebox_local.formatting.text import visible

        for problem in result.problems:
            write_line(visible(f"{problem.check}: {problem}"))
    for name in result.unfinished:
        session.say(f"There was not enough time for {name}; use --full.")
    if result.ok:
        session.say("No problems found.")
        return OK
    hint = "Copy what is readable to a new store with `tilebox-local recover SOURCE TARGET`."
    session.say(f"{len(result.problems)} kinds of problems found. {hint}")
    return STORE


@command("recover", examples=["tilebox-local recover damaged.db new.db"])
@click.argument("source", type=click.Path(), metavar="SOURCE")
@click.argument("target", type=click.Path(), metavar="TARGET")
def recover(session: Session, source: str, target: str) -> None:
    """Read a damaged store into a new one.

    SOURCE is the damaged file, which is not changed; TARGET the new one. Exit code 0 also if something was lost.
    """
    from tilebox_local.cli.output import write_json, write_line
    from tilebox_local.cli.progress import progress_bar
    from tilebox_local.upkeep.recover import recover as recover_store

    with progress_bar(session) as progress:
        result = recover_store(source, target, progress=progress)
    if session.as_json:
        write_json(result)
    else:
        for table, count in sorted(result.recovered.items()):
            write_line(f"{table:26} {count}")
    _report(session, "rows that stand for lost ones", result.rebuilt)
    _report(session, "rows lost", result.lost)
    _report(session, "pages lost", result.damaged_pages)
    _report(session, "rows with replaced text", result.altered)
    if result.damaged_frames:
        session.say(f"damaged pages in the write-ahead log: {result.damaged_frames}")
    if result.foreign_tables:
        session.say(f"not copied, since they are not ours: {', '.join(result.foreign_tables)}")
    if result.withheld_jobs:
        session.say(f"{result.withheld_jobs} unfinished jobs lost something; retry them to go on.")
    if result.is_complete:
        session.say("Nothing was found to be missing.")


def _report(session: Session, what: str, counts: Mapping[str, int]) -> None:
    for table, count in sorted(counts.items()):
        session.say(f"{what}: {count} in {table}")
