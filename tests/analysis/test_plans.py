"""What analyses of one job read: nothing of other jobs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tilebox_local.catalog import sql

if TYPE_CHECKING:
    from tilebox_local import Client

STATEMENTS = [
    "analyzed_job", "trace_size", "span_counts", "span_covers", "span_covers_by_piece",
    "span_percentiles", "task_durations", "critical_path",
    "ended_tasks", "running_levels", "count_runners_of_job", "queue_waits", "end_of_job", "concurrency_slots",
    "runner_use", "stragglers", "failed_spans", "skipped_in_branches", "failed_tasks_without_span", "error_rates",
    "span_times", "exceptions_of_trace",
]  # fmt: skip
VIEWS = [
    "attempts", "span_durations", "task_durations", "bottlenecks", "critical_path", "queue_waits", "concurrency",
    "runner_use", "stragglers", "failures",
]  # fmt: skip


def plan(client: Client, query: str) -> list[str]:
    """The steps of SQLite's plan."""
    parameters: object = dict.fromkeys(re.findall(r":(\w+)", query), 1) or (1,) * query.count("?")
    with client._store.read() as connection:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", parameters)]


MADE = re.compile(r"(\w+)(?:\([\w, ]*\))? AS (?:NOT )?(?:MATERIALIZED )?\(")


def scans_of_tables(client: Client, query: str) -> list[str]:
    """Steps that go through a whole table or index of the file; what the query itself has made may be scanned."""
    with client._store.read() as connection:
        views = dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'view'"))
    made = {name for text in (query, *views.values()) for name in MADE.findall(text)} | set(views) | {"c", "p"}
    found = []
    for step in plan(client, query):
        scan = re.fullmatch(r"SCAN (\S+)(.*)", step)
        if scan is None or "VIRTUAL TABLE" in step or step == "SCAN CONSTANT ROW" or scan[1].startswith("(subquery"):
            continue
        if scan[1] not in made or "USING" in scan[2]:
            found.append(step)
    return found


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_read_one_job(client: Client, name: str) -> None:
    """No statement about a job goes through a table."""
    assert scans_of_tables(client, sql[name]) == []


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("column", ["job_id", "job_no"])
def test_views_read_one_job(client: Client, view: str, column: str) -> None:
    """A view that is asked for one job goes through no table, whichever way the job is named."""
    assert scans_of_tables(client, f"SELECT * FROM {view} WHERE {column} = ?") == []


def test_scans_are_noticed(client: Client) -> None:
    """Without the job, each view goes through a table: the tests above can fail."""
    assert [view for view in VIEWS if not scans_of_tables(client, f"SELECT * FROM {view}")] == []
