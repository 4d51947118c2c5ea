"""The command line `tilebox-local`. Data goes to stdout, messages to stderr.

A command is a function in one of the modules of this package:

    @store_command("queue-waits")          # adds --db, --json and so on, and what turns errors into exit codes
    @job_argument
    def queue_waits(settings, job): ...    # settings.open() is a client, settings.show(...) prints a table or JSON

and a line in `app.COMMANDS`, so that nothing but its module is imported when it runs. Everything heavy (the client,
pandas, watchdog) is imported inside of functions: `tilebox-local --help` is to appear at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 1 a job failed, 2 wrong usage, 3 the store cannot be used, 4 not found, 130 Ctrl-C.
    """
    from tilebox_local.cli.app import run

    return run(arguments)
