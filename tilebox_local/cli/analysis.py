"""durations, bottlenecks, critical-path and so on: why a job took as long as it did."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from tilebox_local.cli.options import limit_option, period_options
from tilebox_local.cli.settings import find_job, job_argument, store_command
from tilebox_local.cli.tables import Column, show_json, show_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilebox_local.cli.settings import Settings

__all__ = ["COMMANDS"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _section(settings: Settings, title: str) -> None:
    settings.print(click.style(f"\n{title}", bold=True))


def _table(settings: Settings, rows: Sequence[Any], *columns: Column, empty: str, red: str | None = None) -> None:
    show_rows(settings, [row.to_dict() for row in rows], columns, empty=empty, red=red)


@store_command(
    "durations",
    epilog="""\b
Examples:
  tilebox-local durations
  tilebox-local durations name:nightly --kind task --json""",
)
@job_argument
@click.option("--kind", type=click.Choice(["span", "task"]), help="Only spans, or only tasks.")
@limit_option(50)
def durations(settings: Settings, job: str, kind: str | None, limit: int) -> None:
    """How long spans and tasks take: count, total, self time and percentiles by name."""
    with settings.open() as client:
        rows = client.jobs().durations(find_job(client, job))
    kept = [row for row in rows if kind in (None, row.kind)]
    _table(
        settings,
        kept[: limit or None],
        Column("kind", "kind", "word"),
        Column("name", "name"),
        Column("version", "version", "word"),
        Column("count", "count", "count"),
        Column("open", "open", "count"),
        Column("failed", "failed", "count"),
        Column("total", "total_ms", "ms"),
        Column("self", "self_ms", "ms"),
        Column("mean", "mean_ms", "ms"),
        Column("p50", "p50_ms", "ms"),
        Column("p95", "p95_ms", "ms"),
        Column("p99", "p99_ms", "ms"),
        Column("max", "max_ms", "ms"),
        Column("share", "share", "share"),
        empty="The job has no spans and attempts yet.",
        red="failed",
    )


@store_command(
    "bottlenecks",
    epilog="""\b
Examples:
  tilebox-local bottlenecks
  tilebox-local bottlenecks name:nightly --by critical_path
  tilebox-local bottlenecks 01a2 --by queue_wait --json""",
)
@job_argument
@click.option(
    "--by", type=click.Choice(["self_time", "critical_path", "queue_wait"]), default="self_time", help="The measure."
)
@limit_option(20)
def bottlenecks(settings: Settings, job: str, by: Any, limit: int) -> None:
    """Where the time of a job went, most first, with the reason in words."""
    with settings.open() as client:
        rows = client.jobs().bottlenecks(find_job(client, job), by)
    _table(
        settings,
        rows[: limit or None],
        Column("", "rank", "count"),
        Column("name", "name"),
        Column("time", "duration_ms", "ms"),
        Column("share", "share", "share"),
        Column("why", "reason", "prose"),
        empty="Nothing of this job has taken any time yet.",
    )


@store_command(
    "critical-path",
    epilog="""\b
Examples:
  tilebox-local critical-path
  tilebox-local critical-path 01a2 --json""",
)
@job_argument
def critical_path(settings: Settings, job: str) -> None:
    """The chain of attempts, waits and delays that decided when a job ended."""
    with settings.open() as client:
        path = client.jobs().critical_path(find_job(client, job))
    if settings.json:
        show_json(settings, {"steps": path.to_dicts(), "savings": path.savings.to_dicts()})
        return
    _table(
        settings,
        path,
        Column("", "step", "count"),
        Column("task", "name"),
        Column("attempt", "attempt", "count"),
        Column("outcome", "outcome", "word"),
        Column("delay", "delay_ms", "ms"),
        Column("queue wait", "queue_wait_ms", "ms"),
        Column("run", "run_ms", "ms"),
        Column("share", "share", "share"),
        Column("runner", "runner", "word"),
        empty="No task of this job has started yet.",
    )
    if path.savings:
        _section(settings, "If it took no time")
        _table(
            settings,
            path.savings,
            Column("task", "name"),
            Column("ran on the path", "run_ms", "ms"),
            Column("would save", "saved_ms", "ms"),
            empty="",
        )


@store_command(
    "concurrency",
    epilog="""\b
Examples:
  tilebox-local concurrency
  tilebox-local concurrency --slots 10 --json""",
)
@job_argument
@click.option("--slots", type=click.IntRange(1, 10_000), default=20, metavar="N", help="Parts of time; default 20.")
def concurrency(settings: Settings, job: str, slots: int) -> None:
    """How much went on at the same time; how busy the runners were; stragglers."""
    with settings.open() as client:
        found = client.jobs().concurrency(find_job(client, job), slots=slots)
    if settings.json:
        summary = {
            "peak_running": found.peak_running,
            "mean_running": found.mean_running,
            "parallelism_score": found.parallelism_score,
        }
        runners, stragglers = found.runners.to_dicts(), found.stragglers.to_dicts()
        show_json(settings, summary | {"slots": found.to_dicts(), "runners": runners, "stragglers": stragglers})
        return
    _table(
        settings,
        found,
        Column("from", "start_time", "time"),
        Column("running", "running", "number"),
        Column("at most", "max_running", "count"),
        Column("queued", "queued", "number"),
        Column("at most", "max_queued", "count"),
        Column("open spans", "open_spans", "number"),
        Column("at most", "max_open_spans", "count"),
        empty="No task of this job has started yet.",
    )
    if found.runners:
        share = found.parallelism_score
        score = "" if share is None else f", {share:.0%} of the runners' time"
        _section(settings, f"Runners: {found.mean_running:.2f} tasks at once on average{score}")
        _table(
            settings,
            found.runners,
            Column("runner", "runner", "word"),
            Column("attempts", "attempts", "count"),
            Column("failed", "failed", "count"),
            Column("busy", "busy_ms", "ms"),
            Column("idle", "idle_ms", "ms"),
            Column("used", "utilization", "share"),
            Column("longest gap", "longest_idle_ms", "ms"),
            empty="",
        )
    if found.stragglers:
        _section(settings, "Stragglers")
        _table(
            settings,
            found.stragglers,
            Column("task", "name"),
            Column("id", "task_id", "word"),
            Column("took", "duration_ms", "ms"),
            Column("median", "median_ms", "ms"),
            Column("runner", "runner", "word"),
            empty="",
        )


@store_command(
    "queue-waits",
    epilog="""\b
Examples:
  tilebox-local queue-waits
  tilebox-local queue-waits 01a2 --json""",
)
@job_argument
def queue_waits(settings: Settings, job: str) -> None:
    """Where tasks waited for a runner, and what failed and lost attempts cost."""
    with settings.open() as client:
        rows = client.jobs().queue_waits(find_job(client, job))
    _table(
        settings,
        rows,
        Column("task", "name"),
        Column("version", "version", "word"),
        Column("attempts", "attempts", "count"),
        Column("waited", "wait_ms", "ms"),
        Column("mean", "mean_wait_ms", "ms"),
        Column("p95", "p95_wait_ms", "ms"),
        Column("max", "max_wait_ms", "ms"),
        Column("ran", "run_ms", "ms"),
        Column("waiting", "wait_share", "share"),
        Column("retries", "retries", "count"),
        Column("cost", "retry_cost_ms", "ms"),
        Column("lost", "lost", "count"),
        Column("cost", "lost_cost_ms", "ms"),
        empty="No task of this job has been claimed yet.",
    )


@store_command(
    "failures",
    epilog="""\b
Examples:
  tilebox-local failures
  tilebox-local failures name:nightly --stack
  tilebox-local failures --rates --json""",
)
@job_argument
@click.option("--stack", is_flag=True, help="Print the stack trace of the first failure.")
@click.option("--rates", is_flag=True, help="Error rates by name over time instead.")
@limit_option(50)
def failures(settings: Settings, job: str, stack: bool, rates: bool, limit: int) -> None:
    """What failed, the first failure first, and what did not run because of it."""
    with settings.open() as client:
        found = find_job(client, job)
        if rates:
            _table(
                settings,
                client.jobs().error_rates(found)[: limit or None],
                Column("name", "name"),
                Column("from", "start_time", "time"),
                Column("count", "count", "count"),
                Column("failed", "failed", "count"),
                Column("rate", "rate", "share"),
                empty="Nothing failed.",
                red="failed",
            )
            return
        rows = client.jobs().failures(found)
    _table(
        settings,
        rows[: limit or None],
        Column("time", "failed_at", "time"),
        Column("kind", "kind", "word"),
        Column("name", "name"),
        Column("attempt", "attempt", "count"),
        Column("exception", "exception_type"),
        Column("message", "exception_message"),
        Column("status", "status_message"),
        Column("skipped", "skipped", "count"),
        Column("withheld", "withheld", "count"),
        empty="Nothing failed.",
    )
    if stack and rows.first is not None and rows.first.stacktrace and not settings.json:
        from tilebox_local.formatting.text import visible

        _section(settings, f"The first failure, in {visible(rows.first.name)}")
        settings.print(visible(rows.first.stacktrace, keep_newlines=True))


def _instant(ns: int | None) -> datetime | None:
    return None if ns is None else _EPOCH + timedelta(microseconds=ns // 1000)


@store_command(
    "trends",
    epilog="""\b
Examples:
  tilebox-local trends nightly
  tilebox-local trends nightly --steps --since 30d --json""",
)
@click.argument("name")
@click.option("--steps", is_flag=True, help="By task instead of by job.")
@period_options
@limit_option(50)
def trends(settings: Settings, name: str, steps: bool, since: int | None, until: int | None, limit: int) -> None:
    """The jobs named NAME over time, each judged against those before it."""
    with settings.open() as client:
        ask = client.jobs().step_trends if steps else client.jobs().trends
        rows = ask(name, since=_instant(since), until=_instant(until), limit=limit or 1_000_000)
    columns = [Column("submitted", "submitted_at", "time")]
    if steps:
        columns += [
            Column("task", "step"),
            Column("attempts", "attempts", "count"),
            Column("median", "median_ms", "ms"),
            Column("total", "total_ms", "ms"),
        ]
    else:
        columns += [
            Column("state", "state", "word"),
            Column("elapsed", "elapsed_ms", "ms"),
            Column("compute", "compute_ms", "ms"),
            Column("tasks", "tasks", "count"),
            Column("failed", "failed", "count"),
        ]
    columns += [Column("verdict", "verdict", "word"), Column("in words", "description", "prose")]
    _table(settings, rows, *columns, empty="No jobs of this name in that time.")


@store_command(
    "compare",
    epilog="""\b
Examples:
  tilebox-local compare 01a2 01b7
  tilebox-local compare name:nightly latest --all --json""",
)
@click.argument("job_a")
@click.argument("job_b")
@click.option("--all", "show_all", is_flag=True, help="Also what did not change.")
@limit_option(30)
def compare(settings: Settings, job_a: str, job_b: str, show_all: bool, limit: int) -> None:
    """What changed from JOB_A to JOB_B: added, missing, slower and faster, by place in the trace."""
    with settings.open() as client:
        found = client.jobs().compare(find_job(client, job_a), find_job(client, job_b))
    paths = [path for path in found.paths if show_all or path.verdict != "same"]
    if settings.json:
        show_json(settings, found.to_dict() | {"paths": [path.to_dict() for path in paths[: limit or None]]})
        return
    settings.print(found.description)
    _table(
        settings,
        paths[: limit or None],
        Column("verdict", "verdict", "word"),
        Column("path", "path"),
        Column("before", "a_count", "count"),
        Column("after", "b_count", "count"),
        Column("self", "a_self_ms", "ms"),
        Column("self", "b_self_ms", "ms"),
        Column("contribution", "contribution", "share"),
        Column("in words", "description", "prose"),
        empty="Nothing changed.",
    )


COMMANDS = {
    "durations": durations,
    "bottlenecks": bottlenecks,
    "critical-path": critical_path,
    "concurrency": concurrency,
    "queue-waits": queue_waits,
    "failures": failures,
    "trends": trends,
    "compare": compare,
}
