"""`durations`, `bottlenecks`, `critical-path` and so on: why a job took as long as it did."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tilebox_local.cli.session import Session, command, job_argument
from tilebox_local.cli.types import COUNT, DURATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import timedelta
    from uuid import UUID

    from tilebox_local.cli.output import Column
    from tilebox_local.jobs.client import JobClient

__all__ = [
    "bottlenecks",
    "concurrency",
    "count",
    "critical_path",
    "durations",
    "failures",
    "length",
    "limit_option",
    "percent",
    "queue_waits",
    "show_records",
    "why_slow",
]


_F = TypeVar("_F", bound="Callable[..., Any]")


def limit_option(default: int) -> Callable[[_F], _F]:
    """The option --limit."""
    return click.option("--limit", type=COUNT, default=default, show_default=True, metavar="N", help="At most N rows.")


def show_records(session: Session, records: Iterable[Any], columns: list[Column], *, empty: str) -> None:
    """Records of an analysis as a table, or as JSON; `empty` is said if there are none."""
    from tilebox_local.cli.output import show_rows

    rows = [record.to_dict() for record in records]
    if not rows and empty:
        session.say(empty)
    used = [column for column in columns if any(column.text(row) for row in rows)]
    show_rows(session, rows, used)


def count(key: str, heading: str | None = None) -> Column:
    """A column of numbers of things."""
    from tilebox_local.cli.output import Column

    return Column(key, heading, lambda number: f"{number:,}", right=True)


def length(key: str, heading: str | None = None) -> Column:
    """A column of lengths of time."""
    from tilebox_local.cli.output import Column
    from tilebox_local.formatting.waterfall import format_duration

    return Column(key, heading, lambda ms: format_duration(round(ms * 1e6)), right=True)


def percent(key: str, heading: str | None = None) -> Column:
    """A column of shares."""
    from tilebox_local.cli.output import Column

    return Column(key, heading, lambda share: f"{share * 100:.1f} %", right=True)


def _mean(key: str, heading: str) -> Column:
    from tilebox_local.cli.output import Column

    return Column(key, heading, lambda number: f"{number:.2f}", right=True)


@contextmanager
def _asked(session: Session, job: str) -> Iterator[tuple[JobClient, UUID]]:
    """Where to ask, and about which job."""
    from tilebox_local.query.listing import find_job_key

    with session.look() as client:
        yield client.jobs(), find_job_key(client._open_store(), job).job_id


@command("durations", examples=["tilebox-local durations", "tilebox-local durations latest --kind task --json"])
@job_argument()
@click.option("--kind", type=click.Choice(["span", "task"]), help="Only spans, or only tasks.")
@limit_option(50)
def durations(session: Session, job: str, kind: str | None, limit: int) -> None:
    """How long spans and tasks take.

    By name: how many, total and self time (without that of child spans), percentiles, share of all self time.
    """
    from tilebox_local.cli.output import Column

    with _asked(session, job) as (jobs, job_id):
        found = [row for row in jobs.durations(job_id) if kind in (None, row.kind)]
        columns = [
            Column("kind"),
            Column("name", gives_way=True),
            Column("version"),
            count("count"),
            Column("open", show=lambda number: f"{number:,}" if number else "", right=True),
            Column("failed", show=lambda number: f"{number:,}" if number else "", right=True),
            length("total_ms", "total"),
            length("self_ms", "self"),
            length("mean_ms", "mean"),
            length("p50_ms", "p50"),
            length("p95_ms", "p95"),
            length("p99_ms", "p99"),
            length("max_ms", "max"),
            percent("share"),
        ]
        show_records(session, found[:limit], columns, empty="The job has no spans and attempts yet.")


@command(
    "bottlenecks",
    examples=["tilebox-local bottlenecks", "tilebox-local bottlenecks latest --by critical_path --json"],
)
@job_argument()
@click.option(
    "--by",
    type=click.Choice(["self_time", "critical_path", "queue_wait"]),
    default="self_time",
    show_default=True,
    help="Of spans; of tasks on the critical path; of tasks in the queue.",
)
@limit_option(20)
def bottlenecks(session: Session, job: str, by: Any, limit: int) -> None:
    """Where the time of a job went, most first, with reasons."""
    from tilebox_local.cli.output import Column

    with _asked(session, job) as (jobs, job_id):
        columns = [
            count("rank", ""),
            Column("name", gives_way=True),
            length("duration_ms", "time"),
            percent("share"),
            Column("reason", "why"),
        ]
        found = jobs.bottlenecks(job_id, by)[:limit]
        show_records(session, found, columns, empty="Nothing of this job has taken any time yet.")


@command("critical-path", examples=["tilebox-local critical-path", "tilebox-local critical-path latest --json"])
@job_argument()
def critical_path(session: Session, job: str) -> None:
    """What decided when a job ended.

    The chain of attempts, each with the delay and the wait before it, and what would be saved if a task took no time.
    """
    from tilebox_local.cli.output import Column, write_json

    with _asked(session, job) as (jobs, job_id):
        path = jobs.critical_path(job_id)
        if session.as_json:
            write_json({"steps": path.to_dicts(), "savings": path.savings.to_dicts()})
            return
        columns = [
            count("step", ""),
            Column("name", "task", gives_way=True),
            count("attempt"),
            Column("outcome", paints=True),
            length("delay_ms", "delay"),
            length("queue_wait_ms", "queue wait"),
            length("run_ms", "run"),
            percent("share"),
            Column("runner", show=lambda runner: runner[:8]),
        ]
        show_records(session, path, columns, empty="No task of this job has started yet.")
        if path.savings:
            _heading(session, "If a task took no time")
            columns = [Column("name", "task"), length("run_ms", "on the path"), length("saved_ms", "saves")]
            show_records(session, path.savings, columns, empty="")


@command("concurrency", examples=["tilebox-local concurrency", "tilebox-local concurrency latest --slots 10 --json"])
@job_argument()
@click.option(
    "--slots", type=click.IntRange(1, 10_000), default=20, show_default=True, metavar="N", help="Parts of time."
)
def concurrency(session: Session, job: str, slots: int) -> None:
    """How much went on at the same time; runners and stragglers."""
    from tilebox_local.cli.output import Column, time_of_day, write_json

    with _asked(session, job) as (jobs, job_id):
        found = jobs.concurrency(job_id, slots=slots)
        if session.as_json:
            facts = {name: getattr(found, name) for name in ("peak_running", "mean_running", "parallelism_score")}
            runners, stragglers = found.runners.to_dicts(), found.stragglers.to_dicts()
            write_json(facts | {"slots": found.to_dicts(), "runners": runners, "stragglers": stragglers})
            return
        columns = [
            Column("start_time", "from", lambda time: f"{time[:23]}Z", brief=time_of_day),
            _mean("running", "running"),
            count("max_running", "max running"),
            _mean("queued", "queued"),
            count("max_queued", "max queued"),
            _mean("open_spans", "open spans"),
            count("max_open_spans", "max open"),
        ]
        show_records(session, found, columns, empty="No task of this job has started yet.")
        if found.runners:
            score = "" if found.parallelism_score is None else f", {found.parallelism_score:.0%} of the runners' time"
            _heading(session, f"Runners: {found.mean_running:.2f} tasks at once on average{score}")
            columns = [
                Column("runner", brief=lambda runner: runner[:8]),
                count("attempts"),
                count("failed"),
                length("busy_ms", "busy"),
                length("idle_ms", "idle"),
                percent("utilization", "used"),
                length("longest_idle_ms", "longest gap"),
            ]
            show_records(session, found.runners, columns, empty="")
        if found.stragglers:
            _heading(session, "Stragglers")
            columns = [
                Column("name", "task"),
                Column("task_id", "id"),
                length("duration_ms", "took"),
                length("median_ms", "median"),
                Column("runner", show=lambda runner: runner[:8]),
            ]
            show_records(session, found.stragglers, columns, empty="")


@command("queue-waits", examples=["tilebox-local queue-waits", "tilebox-local queue-waits latest --json"])
@job_argument()
def queue_waits(session: Session, job: str) -> None:
    """Where tasks waited for a runner, and what retries cost."""
    from tilebox_local.cli.output import Column

    with _asked(session, job) as (jobs, job_id):
        columns = [
            Column("name", "task", gives_way=True),
            Column("version"),
            count("attempts"),
            length("wait_ms", "waited"),
            length("mean_wait_ms", "mean"),
            length("p95_wait_ms", "p95"),
            length("max_wait_ms", "max"),
            length("run_ms", "ran"),
            percent("wait_share", "waiting"),
            count("retries"),
            length("retry_cost_ms", "retry cost"),
            count("lost"),
            length("lost_cost_ms", "lost cost"),
        ]
        show_records(session, jobs.queue_waits(job_id), columns, empty="No task of this job has been claimed yet.")


@command(
    "why-slow",
    examples=[
        "tilebox-local why-slow",
        "tilebox-local why-slow latest --name task/Scene",
        "tilebox-local why-slow latest --threshold 2s --json",
    ],
)
@job_argument()
@click.option("--name", metavar="NAME", help="Of the spans; default: with the largest self time.")
@click.option(
    "--threshold", type=DURATION, metavar="LENGTH", help="Longer ones are slow: 250ms, 2s; default: outliers."
)
@limit_option(20)
def why_slow(session: Session, job: str, name: str | None, threshold: timedelta | None, limit: int) -> None:
    """What slow spans have in common that others have not.

    Attributes, fields of task inputs, runners, parents, retries, time and concurrency are tested against chance.
    """
    from tilebox_local.cli.output import Column, write_json

    with _asked(session, job) as (jobs, job_id):
        found = jobs.why_slow(job_id, name, threshold=threshold)
    if session.as_json:
        facts = {"name": found.name, "threshold_ms": found.threshold_ns / 1e6}
        counts = {"spans": found.span_count, "slow_spans": found.slow_count}
        write_json(facts | counts | {"explanations": found.to_dicts()[:limit]})
        return
    session.say(str(found).partition("\n")[0])
    columns = [
        Column("condition", gives_way=True),
        count("spans"),
        count("slow_spans", "slow"),
        percent("recall", "of all slow"),
        length("with_ms", "median with"),
        length("without_ms", "without"),
        Column("effect", show=lambda effect: f"{effect:.2f}", right=True),
        Column("p", show=lambda p: f"{p:.2g}", right=True),
        Column("same_spans", "for the same spans", ", ".join),
    ]
    show_records(session, found[:limit], columns, empty="")


@command(
    "failures",
    examples=[
        "tilebox-local failures",
        "tilebox-local failures latest --stack",
        "tilebox-local failures --rates --json",
    ],
)
@job_argument()
@click.option("--stack", is_flag=True, help="Print the stack trace of the first failure.")
@click.option("--rates", is_flag=True, help="Error rates by name over time instead.")
@limit_option(50)
def failures(session: Session, job: str, stack: bool, rates: bool, limit: int) -> None:
    """What failed, the first failure first, and why.

    And what did not run because of it: skipped tasks of an optional branch, tasks that a canceled job withholds.
    """
    from tilebox_local.cli.output import Column, time_of_day, write_line
    from tilebox_local.formatting.text import visible

    with _asked(session, job) as (jobs, job_id):
        if rates:
            columns = [
                Column("name", gives_way=True),
                Column("start_time", "from", lambda time: f"{time[:23]}Z"),
                count("count"),
                count("failed"),
                percent("rate"),
            ]
            show_records(session, jobs.error_rates(job_id)[:limit], columns, empty="Nothing failed.")
            return
        found = jobs.failures(job_id)
        columns = [
            Column("failed_at", "time", lambda time: f"{time[:23]}Z", brief=time_of_day),
            Column("kind"),
            Column("name", gives_way=True),
            count("attempt"),
            Column("exception_type", "exception"),
            Column("exception_message", "message", gives_way=True),
            Column("status_message", "status"),
            Column("skipped", show=lambda number: str(number or ""), right=True),
            Column("withheld", show=lambda number: str(number or ""), right=True),
        ]
        show_records(session, found[:limit], columns, empty="Nothing failed.")
        if stack and found.first is not None and found.first.stacktrace and not session.as_json:
            _heading(session, f"The first failure, in {visible(found.first.name)}")
            write_line(visible(found.first.stacktrace.rstrip(), keep_newlines=True))


def _heading(session: Session, text: str) -> None:
    from tilebox_local.cli.output import use_color, write_line

    write_line(f"\n\x1b[1m{text}\x1b[0m" if use_color(session) else f"\n{text}")
