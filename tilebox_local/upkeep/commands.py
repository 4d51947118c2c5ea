"""The upkeep commands of the command line: their options, and what they print."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilebox_local.client import Client

__all__ = ["COMMANDS", "add_commands", "run_command", "run_recover"]

COMMANDS = ("snapshot", "prune", "check", "doctor")
_OK, _STORE = 0, 3
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser], store: argparse.ArgumentParser) -> None:
    """Add the parsers of the commands; `store` has the option --db."""
    snapshot = commands.add_parser("snapshot", help="copy a store that is in use", parents=[store])
    snapshot.add_argument("target", metavar="TARGET", help="the new file")
    snapshot.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")
    prune = commands.add_parser("prune", help="delete old jobs and give the space back", parents=[store])
    prune.add_argument("--older-than", type=_duration, metavar="AGE", help="jobs that ended so long ago: 90m, 12h, 30d")
    prune.add_argument("--keep-last", type=int, metavar="N", help="keep the N finished jobs that ended last")
    prune.add_argument("--max-size", type=_size, metavar="SIZE", help="the oldest, until the file has 500MB, 2GiB")
    prune.add_argument("--dry-run", action="store_true", help="only count")
    check = commands.add_parser("check", help="look for damage; exit code 3 if there is any", parents=[store])
    check.add_argument("--full", action="store_true", help="all of it, however long it takes")
    commands.add_parser("doctor", help="name the last crash, and what is wrong with a store", parents=[store])
    recover = commands.add_parser("recover", help="read a damaged store into a new one")
    recover.add_argument("source", metavar="SOURCE", help="the damaged file; it is not changed")
    recover.add_argument("target", metavar="TARGET", help="the new file")


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip().lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time, such as 30d (s, m, h, d or w).")
    try:
        return timedelta(seconds=float(found[1]) * _SECONDS[found[2]])
    except OverflowError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is too long.") from error


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", text.strip().lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, such as 2GB or 500MiB.")
    return int(float(found[1]) * _BYTES[found[2] or ""])


def run_command(client: Client, options: argparse.Namespace) -> int:
    """Run snapshot, prune, check or doctor; the exit code."""
    if options.command == "doctor":
        diagnosis = client.doctor()
        print(diagnosis)
        return _STORE if any(finding.level == "error" for finding in diagnosis.findings) else _OK
    if options.command == "snapshot":
        print(client.snapshot(options.target, overwrite=options.overwrite))
        return _OK
    return _prune(client, options) if options.command == "prune" else _check(client, full=options.full)


def _prune(client: Client, options: argparse.Namespace) -> int:
    result = client.prune(
        older_than=options.older_than,
        keep_last=options.keep_last,
        max_bytes=options.max_size,
        dry_run=options.dry_run,
    )
    for name in ("jobs", "tasks", "traces", "spans", "events", "logs"):
        print(f"{name:12} {getattr(result, name)}")
    print(f"{'freed bytes':12} {result.freed_bytes}\n{'file bytes':12} {result.file_bytes}")
    if result.is_dry_run:
        print("Nothing was deleted; the bytes are an estimate.", file=sys.stderr)
    elif not result.is_log_empty:
        print("The file gets smaller when those who read it right now have finished.", file=sys.stderr)
    return _OK


def _check(client: Client, *, full: bool) -> int:
    result = client.check(full=full)
    for problem in result.problems:
        print(f"{problem.check}: {problem}")
    for name in result.unfinished:
        print(f"There was not enough time for {name}; use --full.", file=sys.stderr)
    if result.ok:
        print("No problems found.", file=sys.stderr)
        return _OK
    hint = "Copy what is readable to a new store with `tilebox-local recover SOURCE TARGET`."
    print(f"{len(result.problems)} kinds of problems found. {hint}", file=sys.stderr)
    return _STORE


def run_recover(source: str, target: str) -> int:
    """Recover a store; the exit code: 0 also if something was lost, since that is what it is for."""
    from tilebox_local.upkeep.recover import recover

    result = recover(source, target)
    for table, count in sorted(result.recovered.items()):
        print(f"{table:26} {count}")
    _report("rows that stand for lost ones", result.rebuilt)
    _report("rows lost", result.lost)
    _report("pages lost", result.damaged_pages)
    _report("rows with replaced text", result.altered)
    if result.damaged_frames:
        print(f"damaged pages in the write-ahead log: {result.damaged_frames}", file=sys.stderr)
    if result.foreign_tables:
        print(f"not copied, since they are not ours: {', '.join(result.foreign_tables)}", file=sys.stderr)
    if result.withheld_jobs:
        print(f"{result.withheld_jobs} unfinished jobs lost something; retry them to go on.", file=sys.stderr)
    if result.is_complete:
        print("Nothing was found to be missing.", file=sys.stderr)
    return _OK


def _report(what: str, counts: Mapping[str, int]) -> None:
    for table, count in sorted(counts.items()):
        print(f"{what}: {count} in {table}", file=sys.stderr)
