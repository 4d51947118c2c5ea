"""The group of all commands, which are imported when they are used, and the way from errors to exit codes."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

import click

from tilebox_local import __version__
from tilebox_local.cli.settings import COMMON_OPTIONS, Settings, common_options

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COMMANDS", "run"]

_OK, _FAILED, _USAGE, _STORE, _NOT_FOUND, _INTERRUPTED = 0, 1, 2, 3, 4, 130

# Name, module and what the list of commands says.
COMMANDS = {
    "jobs": (".jobs", "List jobs, newest first."),
    "job": (".jobs", "Show, list, cancel or retry jobs; their spans and logs."),
    "spans": (".telemetry", "List the spans of a job."),
    "logs": (".telemetry", "List the log records of a job."),
    "durations": (".analysis", "How long spans and tasks take."),
    "bottlenecks": (".analysis", "Where the time of a job went, with reasons."),
    "critical-path": (".analysis", "What decided when a job ended."),
    "concurrency": (".analysis", "How much went on at the same time; runners and stragglers."),
    "queue-waits": (".analysis", "Where tasks waited for a runner, and what retries cost."),
    "failures": (".analysis", "What failed first, and why."),
    "trends": (".analysis", "The jobs of a name over time, regressions flagged."),
    "compare": (".analysis", "What changed between two jobs."),
    "sql": (".sql", "Ask the store in SQL."),
    "wait": (".jobs", "Wait for a job; the exit code is its state."),
    "cancel": (".jobs", "Stop handing out the tasks of a job."),
    "retry": (".jobs", "Run the failed tasks of a job again."),
    "clusters": (".clusters", "List, create and delete clusters."),
    "doctor": (".upkeep", "Name the last crash, and what is wrong with a store."),
    "snapshot": (".upkeep", "Copy a store that is in use."),
    "prune": (".upkeep", "Delete old jobs and give the space back."),
    "check": (".upkeep", "Look for damage."),
    "recover": (".upkeep", "Read a damaged store into a new one."),
    "schema": (".schema", "Print schema.sql, which documents tables and views."),
    "completion": (".completion", "Print a script that completes commands in a shell."),
}


class _LazyGroup(click.Group):
    """Imports the module of a command when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0], "tilebox_local.cli")
        command: click.Command = module.COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """As click does, but from COMMANDS: it would import every module."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  tilebox-local jobs
  tilebox-local job show
  tilebox-local bottlenecks --db runs/tilebox.db
  tilebox-local sql "select name, p95_ms from span_durations" --json""",
)
@common_options
@click.version_option(__version__, prog_name="tilebox-local", message="%(prog)s %(version)s")
def _group(**options: Any) -> None:
    """Ask a tilebox-local store what ran, where the time went and what failed, and keep it.

    The store is --db, else $TILEBOX_LOCAL_DB, else tilebox.db in the working directory. JOB is an id or its first
    characters, name:NAME (the newest job of that name), or latest.
    """
    click.get_current_context().obj = Settings(**{name: options[name] for name in COMMON_OPTIONS})


def run(arguments: Sequence[str] | None) -> int:
    """Run a command; its exit code. What goes wrong is one line on stderr that says what to do."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = _group.main(args=arguments, prog_name="tilebox-local", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return _USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(err=True)
        return _INTERRUPTED
    except BrokenPipeError:  # `tilebox-local jobs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _OK
    except Exception as error:  # noqa: BLE001 -- nobody wants a stack trace for a typing error
        return _explain(error, with_trace="-v" in arguments or "--verbose" in arguments)
    return result if isinstance(result, int) else _OK


def _explain(error: Exception, *, with_trace: bool) -> int:
    from tilebox_local.errors import ArgumentError, NotFoundError, StoreError

    if with_trace:
        traceback.print_exception(error)
    click.echo(f"tilebox-local: {error}", err=True)
    if isinstance(error, StoreError):
        return _STORE
    if isinstance(error, NotFoundError):
        return _NOT_FOUND
    if isinstance(error, ArgumentError):
        return _USAGE
    if not with_trace:
        click.echo(f"This is a {type(error).__name__} that was not expected; -v shows where it came from.", err=True)
    return _FAILED
