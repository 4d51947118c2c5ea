"""Which commands there are. A command's module is imported when the command is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import click

from tilebox_local.cli.session import common_options

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["COMMANDS", "JOB_COMMANDS", "LazyGroup", "OutputClosedError", "job_group"]

#: name: ("module:function" in this package, first sentence of the help)
COMMANDS = {
    "jobs": ("jobs:jobs", "List jobs, newest first."),
    "job": ("registry:job_group", "Work with jobs: list, show, spans, logs, submit, wait, cancel, retry."),
    "show": ("show:show", "Draw the trace of a job."),
    "spans": ("records:spans", "List the spans of a job, or follow them as they end."),
    "logs": ("records:logs", "List the log records of a job, or follow them."),
    "tail": ("live:tail", "Follow everything: spans as they end, log records, changes of state."),
    "durations": ("analysis:durations", "How long spans and tasks take."),
    "bottlenecks": ("analysis:bottlenecks", "Where the time of a job went, most first, with reasons."),
    "critical-path": ("analysis:critical_path", "What decided when a job ended."),
    "concurrency": ("analysis:concurrency", "How much went on at the same time; runners and stragglers."),
    "queue-waits": ("analysis:queue_waits", "Where tasks waited for a runner, and what retries cost."),
    "why-slow": ("analysis:why_slow", "What slow spans have in common that others have not."),
    "failures": ("analysis:failures", "What failed, the first failure first, and why."),
    "trends": ("comparison:trends", "The jobs of a name over time, each judged against those before."),
    "compare": ("comparison:compare", "What changed from one job to another."),
    "search": ("search:search", "Search spans, log records, and structures of traces."),
    "sql": ("sql:sql", "Ask the store one question in SQL."),
    "export": ("export:export", "Write the rows of a view as CSV, JSON or NDJSON."),
    "run": ("run:run", "Run the tasks of modules or files."),
    "submit": ("submit:submit", "Submit a job of one task."),
    "wait": ("wait:wait", "Wait until a job ends."),
    "cancel": ("change:cancel", "Stop handing out the tasks of a job."),
    "retry": ("change:retry", "Run the failed tasks of a job again."),
    "clusters": ("clusters:clusters", "List, create and delete clusters."),
    "doctor": ("upkeep:doctor", "Name the last crash, and what is wrong with a store."),
    "snapshot": ("upkeep:snapshot", "Copy a store that is in use."),
    "prune": ("upkeep:prune", "Delete old jobs and give the space back."),
    "check": ("upkeep:check", "Look for damage."),
    "recover": ("upkeep:recover", "Read a damaged store into a new one."),
    "schema": ("schema:schema", "Print schema.sql, which documents tables and views."),
    "completion": ("completion:completion", "Print the completion script of a shell."),
}

JOB_COMMANDS = {
    "list": COMMANDS["jobs"],
    **{name: COMMANDS[name] for name in ("show", "spans", "logs", "submit", "wait", "cancel", "retry")},
}


class OutputClosedError(Exception):
    """Whoever read stdout has gone."""


class LazyGroup(click.Group):
    """A group that lists its commands from a table and imports one when it is used."""

    def __init__(self, name: str, table: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(name, **options)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names, in the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of this name; None if there is none."""
        if cmd_name not in self._table:
            return None
        module, _, function = self._table[cmd_name][0].partition(":")
        found = getattr(importlib.import_module(f"tilebox_local.cli.{module}"), function)
        return found if isinstance(found, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that was typed; of one that is not there, the error names those that look like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            similar = get_close_matches(args[0], self._table, n=3)
            if not similar:
                raise
            message = f"{error.message.rstrip('.')}. Did you mean {' or '.join(similar)}?"
            raise click.UsageError(message, ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. click would make exit code 1 of a closed pipe, and keep a wrapper around stdout."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise OutputClosedError from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._table.items()])


job_group = LazyGroup(
    "job",
    JOB_COMMANDS,
    help="Work with jobs: list, show, spans, logs, submit, wait, cancel, retry.\n\n"
    "The same commands as without `job`; `job list` is `jobs`.",
    no_args_is_help=True,
    params=common_options(with_json=True),
)
