"""doctor, snapshot, prune, check, recover: keeping a store."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

from tilebox_local.cli.options import DURATION, SIZE
from tilebox_local.cli.settings import store_command
from tilebox_local.cli.tables import show_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from tilebox_local.cli.settings import Settings

__all__ = ["COMMANDS"]

_OK, _STORE = 0, 3
_PRUNED = ("jobs", "tasks", "traces", "spans", "events", "logs")


@store_command(
    "doctor",
    epilog="""\b
Examples:
  tilebox-local doctor
  tilebox-local doctor --json""",
)
def doctor(settings: Settings) -> int:
    """Name the last crash, and what is wrong with a store, its file or its disk. Exit code 3: an error."""
    with settings.open(read_only=False) as client:
        diagnosis = client.doctor()
    if settings.json:
        show_json(settings, dataclasses.asdict(diagnosis))
    else:
        settings.print(str(diagnosis))
    return _STORE if any(finding.level == "error" for finding in diagnosis.findings) else _OK


@store_command(
    "snapshot",
    epilog="""\b
Examples:
  tilebox-local snapshot copy.db
  tilebox-local snapshot /backup/tilebox.db --overwrite""",
)
@click.argument("target")
@click.option("--overwrite", is_flag=True, help="Replace TARGET if it exists.")
def snapshot(settings: Settings, target: str, overwrite: bool) -> None:
    """Copy a store to the new file TARGET, also while others write to it; prints its path."""
    with settings.open(read_only=False) as client:
        path = client.snapshot(target, overwrite=overwrite)
    if settings.json:
        show_json(settings, {"path": str(path), "bytes": path.stat().st_size})
    else:
        settings.print(str(path))


@store_command(
    "prune",
    epilog="""\b
Examples:
  tilebox-local prune --older-than 30d --dry-run
  tilebox-local prune --keep-last 100 --yes
  tilebox-local prune --max-size 2GB""",
)
@click.option("--older-than", type=DURATION, metavar="AGE", help="Jobs that ended so long ago: 90m, 12h, 30d.")
@click.option("--keep-last", type=click.IntRange(0), metavar="N", help="Keep the N finished jobs that ended last.")
@click.option("--max-size", type=SIZE, metavar="SIZE", help="The oldest, until the file has 500MB, 2GiB.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def prune(
    settings: Settings,
    older_than: timedelta | None,
    keep_last: int | None,
    max_size: int | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Delete finished jobs and old telemetry, and make the file smaller."""
    rules = {"older_than": older_than, "keep_last": keep_last, "max_bytes": max_size}
    with settings.open(read_only=False) as client:
        if not (dry_run or yes) and sys.stdin.isatty() and sys.stderr.isatty():
            planned = client.prune(**rules, dry_run=True)  # type: ignore[arg-type]
            if planned.jobs or planned.traces:
                what = f"{planned.jobs:,} jobs with {planned.spans:,} spans and {planned.logs:,} log records"
                click.confirm(f"Delete {what}?", abort=True, err=True)
        result = client.prune(**rules, dry_run=dry_run)  # type: ignore[arg-type]
    if settings.json:
        show_json(settings, dataclasses.asdict(result))
        return
    lines = [f"{name:12} {getattr(result, name)}" for name in _PRUNED]
    lines += [f"{'freed bytes':12} {result.freed_bytes}", f"{'file bytes':12} {result.file_bytes}"]
    settings.print("\n".join(lines))
    if result.is_dry_run:
        settings.say("Nothing was deleted; the bytes are an estimate.")
    elif not result.is_log_empty:
        settings.say("The file gets smaller when those who read it right now have finished.")


@store_command(
    "check",
    epilog="""\b
Examples:
  tilebox-local check
  tilebox-local check --full --db copy.db""",
)
@click.option("--full", is_flag=True, help="All of it, however long it takes.")
def check(settings: Settings, full: bool) -> int:
    """Look for damage. Exit code 3 if there is any."""
    with settings.open(read_only=False) as client:
        result = client.check(full=full)
    if settings.json:
        show_json(settings, dataclasses.asdict(result))
    elif result.problems:
        settings.print("\n".join(f"{problem.check}: {problem}" for problem in result.problems))
    for name in result.unfinished:
        settings.say(f"There was not enough time for {name}; use --full.")
    if result.ok:
        settings.say("No problems found.")
        return _OK
    hint = "Copy what is readable to a new store with `tilebox-local recover SOURCE TARGET`."
    click.echo(f"{len(result.problems)} kinds of problems found. {hint}", err=True)
    return _STORE


@store_command(
    "recover",
    epilog="""\b
Examples:
  tilebox-local recover damaged.db new.db""",
)
@click.argument("source")
@click.argument("target")
def recover(settings: Settings, source: str, target: str) -> None:
    """Read the damaged store SOURCE, which is not changed, into the new file TARGET."""
    from tilebox_local.upkeep.recover import recover as recover_store

    result = recover_store(source, target)
    if settings.json:
        show_json(settings, dataclasses.asdict(result))
    else:
        settings.print("\n".join(f"{table:26} {count}" for table, count in sorted(result.recovered.items())))
    _report(settings, "rows that stand for lost ones", result.rebuilt)
    _report(settings, "rows lost", result.lost)
    _report(settings, "pages lost", result.damaged_pages)
    _report(settings, "rows with replaced text", result.altered)
    if result.damaged_frames:
        settings.say(f"damaged pages in the write-ahead log: {result.damaged_frames}")
    if result.foreign_tables:
        settings.say(f"not copied, since they are not ours: {', '.join(result.foreign_tables)}")
    if result.withheld_jobs:
        settings.say(f"{result.withheld_jobs} unfinished jobs lost something; retry them to go on.")
    if result.is_complete:
        settings.say("Nothing was found to be missing.")


def _report(settings: Settings, what: str, counts: Mapping[str, int]) -> None:
    for table, count in sorted(counts.items()):
        settings.say(f"{what}: {count} in {table}")


COMMANDS: dict[str, Any] = {
    "doctor": doctor,
    "snapshot": snapshot,
    "prune": prune,
    "check": check,
    "recover": recover,
}
