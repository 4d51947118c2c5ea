"""The command line `tilebox-local`.

Data goes to stdout, messages to stderr. Nothing but click is imported before a command needs it: `--help` stays fast.

To add a command, say `lengths`:

1. Write a module here, with a function whose docstring is the help:

       @command("lengths", examples=["tilebox-local lengths latest"])
       @job_argument()
       def lengths(session: Session, job: str) -> None:
           '''Say how long the spans of each name take.'''
           with session.look() as client:                   # read-only; `session.change()` may write
               store = client._open_store()
               rows = ask(store, find_job_key(store, job))  # list of dicts: in query/, with SQL in sql/*.sql
           show_rows(session, rows, [Column("name"), Column("total_ms", "total", format_ms, right=True)])

   `command` adds --db, --json, --color, --no-pager, -q and -v, and hands over the Session that they fill. `show_rows`
   prints a table, or with --json one array of the rows as they are. A number that is returned is the exit code;
   errors of errors.py become one line and a code. Import what is heavy inside of the function.
   (analysis.py has `show_records` and columns for what the methods of `client.jobs()` return.)
2. Add a line to `COMMANDS` in registry.py: where the function is, and the first sentence of its help.
3. Test it in tests/cli/; the examples are run by tests/cli/test_help.py.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from tilebox_local import __version__
from tilebox_local.cli.registry import COMMANDS, LazyGroup
from tilebox_local.cli.running import USAGE, run_group
from tilebox_local.cli.session import common_options

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "program"]

_HELP = """Run tasks, look into a store, and keep it.

A store is one SQLite file: --db, else $TILEBOX_LOCAL_DB, else tilebox.db in the working directory.

Where a command takes JOB: its id, a unique beginning of it of at least 4 characters, `latest`, or `name:` and the name
of the job, of which the newest one is meant.

Exit codes: 0 done, 1 the job failed, 2 wrong usage, 3 the store cannot be used, 4 not found, 70 a bug, 74 no
output, 124 --timeout, 130 Ctrl-C.
"""


@click.pass_context
def _without_command(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        sys.stderr.write(f"{ctx.get_help()}\n")
        ctx.exit(USAGE)


program = LazyGroup(
    "tilebox-local",
    COMMANDS,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
    callback=_without_command,
    invoke_without_command=True,
    params=common_options(with_json=True),
)
click.version_option(__version__, message="tilebox-local %(version)s")(program)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises SystemExit."""
    return run_group(program, arguments)
