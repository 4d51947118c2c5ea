"""`sql`: one question of the user's own."""

from __future__ import annotations

import sys
from typing import Any

import click

from tilebox_local.cli.session import Session, command

__all__ = ["sql"]


@command(
    "sql",
    examples=[
        'tilebox-local sql "select name, duration_ms from spans order by duration_ms desc limit 5"',
        'tilebox-local sql "select state, count(*) as tasks from tasks group by state" --csv',
        'echo "select * from incidents" | tilebox-local sql - --json',
    ],
)
@click.argument("query", metavar="QUERY")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, metavar="SECONDS"
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N rows.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV (RFC 4180).")
def sql(session: Session, query: str, timeout: float, limit: int | None, as_csv: bool) -> None:
    """Ask the store one question in SQL.

    QUERY is one statement that reads, `-` stands for stdin. The views jobs, tasks, spans, events, logs, runners,
    writers and incidents are described by `tilebox-local schema`.
    """
    if as_csv and session.as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    from tilebox_local.cli.output import Column, show_rows
    from tilebox_local.query.sql import query_rows

    text = sys.stdin.read() if query == "-" else query
    with session.look() as client:
        columns, rows = query_rows(client._open_store(), text, None, timeout, limit=limit)
    if as_csv:
        _write_csv(columns, rows)
        return
    keys = _distinct(columns)
    if session.as_json:
        show_rows(session, [dict(zip(keys, row, strict=True)) for row in rows], [])
        return
    numbers = [
        all(row[index] is None or isinstance(row[index], int | float) for row in rows) for index in range(len(keys))
    ]
    show_rows(
        session,
        [dict(zip(keys, row, strict=True)) for row in rows],
        [Column(key, show=_shown, right=is_number) for key, is_number in zip(keys, numbers, strict=True)],
    )


def _distinct(names: list[str]) -> list[str]:
    """Names of columns, those that are there already with a number."""
    found: list[str] = []
    for name in names:
        number, distinct = 2, name
        while distinct in found:
            number, distinct = number + 1, f"{name}_{number}"
        found.append(distinct)
    return found


def _shown(value: Any) -> str:
    return f"x'{value.hex()}'" if isinstance(value, bytes) else str(value)


def _write_csv(columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    import csv
    from io import StringIO

    text = StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_shown(value) if isinstance(value, bytes) else value for value in row] for row in rows)
    sys.stdout.write(text.getvalue())
