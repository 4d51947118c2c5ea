"""sql: one's own question to a store. It cannot write, and it ends."""

from __future__ import annotations

import csv
import io
import sys
from typing import TYPE_CHECKING, Any

import click

from tilebox_local.cli.options import limit_option
from tilebox_local.cli.settings import store_command
from tilebox_local.cli.tables import Column, show_json, show_rows

if TYPE_CHECKING:
    from tilebox_local.cli.settings import Settings

__all__ = ["COMMANDS"]


@store_command(
    "sql",
    epilog="""\b
Examples:
  tilebox-local sql "select name, p95_ms from span_durations order by p95_ms desc limit 5"
  tilebox-local sql "select * from failures where job_id = ?" -p 01a20a86-3fc3-5357-5829-0f1ec81e10c4 --json
  echo "select count(*) from spans" | tilebox-local sql -
  tilebox-local sql "select * from jobs" --csv > jobs.csv""",
)
@click.argument("query")
@click.option("-p", "--param", "params", multiple=True, metavar="VALUE", help="A value for the next ? in the query.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV (RFC 4180).")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=60, metavar="SECONDS", help="Default 60.")
@limit_option(10_000)
def sql(settings: Settings, query: str, params: tuple[str, ...], as_csv: bool, timeout: float, limit: int) -> None:
    """Rows of one reading QUERY; - reads it from stdin. `tilebox-local schema` documents the views."""
    from tilebox_local.query.sql import query_rows

    if query == "-":
        query = sys.stdin.read()
    with settings.open() as client:
        names, rows = query_rows(client._store, query, params, timeout, limit + 1 if limit else None)
    if limit and len(rows) > limit:
        settings.say(f"There are more than {limit:,} rows; --limit 0 shows all.")
        rows = rows[:limit]
    if as_csv:
        settings.print(_csv(names, rows))
        return
    if settings.json:
        show_json(settings, [dict(zip(names, map(_plain, row), strict=True)) for row in rows])
        return
    # By position: a query may name two columns alike.
    cells = [{str(i): _shown(value) for i, value in enumerate(row)} for row in rows]
    columns = [Column(name, str(i)) for i, name in enumerate(names)]
    show_rows(settings, cells, columns, empty="No rows.")


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _shown(value: Any) -> str:
    return "" if value is None else str(_plain(value))


def _csv(names: list[str], rows: list[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return text.getvalue().rstrip("\r\n")


COMMANDS = {"sql": sql}
