"""The command line `tilebox-local`: look into a store and keep it. Data goes to stdout, messages to stderr."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tilebox_local import __version__
from tilebox_local.upkeep import commands as upkeep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilebox_local.client import Client

__all__ = ["main"]

_OK, _FAILED, _USAGE, _STORE, _NOT_FOUND = 0, 1, 2, 3, 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 wrong usage, 3 the store cannot be used, 4 not found."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return _USAGE
    if options.command == "schema":
        from tilebox_local.storage.schema import read_schema_sql

        print(read_schema_sql(), end="")
        return _OK
    return _run(options)


def _parser() -> argparse.ArgumentParser:
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument(
        "--db",
        default=argparse.SUPPRESS,  # a default would undo what came before the command
        help="the store; default $TILEBOX_LOCAL_DB, else tilebox.db in the working directory",
    )
    parser = argparse.ArgumentParser(
        prog="tilebox-local", description="Look into a tilebox-local store, and keep it.", parents=[store]
    )
    parser.add_argument("--version", action="version", version=f"tilebox-local {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    jobs = commands.add_parser("jobs", help="list jobs, newest first", parents=[store])
    jobs.add_argument("--limit", type=int, default=20, metavar="N", help="at most N jobs (default 20)")
    show = commands.add_parser("show", help="draw the trace of a job", parents=[store])
    show.add_argument("job", nargs="?", help="its id; default: the newest job")
    upkeep.add_commands(commands, store)
    commands.add_parser("schema", help="print schema.sql, which documents tables and views")
    return parser


def _run(options: argparse.Namespace) -> int:
    from tilebox_local.client import DEFAULT_PATH, Client
    from tilebox_local.errors import ArgumentError, NotFoundError, StoreError

    path = getattr(options, "db", None) or os.environ.get("TILEBOX_LOCAL_DB") or DEFAULT_PATH
    is_recovery = options.command == "recover"
    if not (is_recovery or Path(path).is_file()):  # looking must not create a store
        print(f"tilebox-local: there is no store at {path}; name one with --db.", file=sys.stderr)
        return _STORE
    try:
        if is_recovery:
            return upkeep.run_recover(options.source, options.target)
        if options.command in upkeep.COMMANDS:
            with Client(path) as client:
                return upkeep.run_command(client, options)
        with Client(path, read_only=True) as client:
            return _list_jobs(client, options.limit) if options.command == "jobs" else _show_job(client, options.job)
    except StoreError as error:
        print(f"tilebox-local: {error}", file=sys.stderr)
        return _STORE
    except NotFoundError as error:
        print(f"tilebox-local: {error}", file=sys.stderr)
        return _NOT_FOUND
    except ArgumentError as error:
        print(f"tilebox-local: {error}", file=sys.stderr)
        return _USAGE
    except BrokenPipeError:  # `tilebox-local jobs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _OK


def _list_jobs(client: Client, limit: int) -> int:
    from tilebox_local.formatting.text import visible

    for job in client.jobs().query()[:limit]:
        submitted = job.submitted_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        tasks = job.execution_stats.total_tasks
        print(f"{job.id}  {job.state.name:9}  {submitted}  {tasks:6} tasks  {visible(job.name)}")
    return _OK


def _show_job(client: Client, job_id: str | None) -> int:
    from tilebox_local.formatting.text import visible
    from tilebox_local.formatting.waterfall import SpanRow, render_waterfall

    if job_id is None:
        jobs = client.jobs().query()
        if not jobs:
            print("tilebox-local: the store has no jobs yet.", file=sys.stderr)
            return _NOT_FOUND
        job = jobs[0]
    else:
        job = client.jobs().find(job_id)
    rows = [SpanRow.from_span(span) for span in client.jobs().query_spans(job, include_open=True)]
    print(f"{visible(job.name)}  {job.state.name}  {job.id}")
    use_color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(render_waterfall(rows, width=shutil.get_terminal_size((100, 24)).columns, color=use_color))
    return _OK
