"""`sql`: one question of the user's own."""

from __future__ import annotations

import re
import sys
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import click

from tilebox_local.cli.running import OK, TIMED_OUT
from tilebox_local.cli.session import Session, command
from tilebox_local.cli.types import COUNT, TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timedelta

    from tilebox_local.cli.output import Column
    from tilebox_local.cli.stream import Stream
    from tilebox_local.client import Client

__all__ = ["sql"]

_JOBS = ("job_id", "job_a", "job_b")  # parameters that name a job
_ON_TERMINAL = (100_000, 100_000_000)  # rows and bytes of a table that has to be complete before it is shown


@command(
    "sql",
    examples=[
        'tilebox-local sql "select name, duration_ms from spans order by duration_ms desc limit 5"',
        'tilebox-local sql "select state, count(*) as tasks from tasks group by state" --csv',
        "tilebox-local sql @slowest_spans -p job_id=latest --limit 5",
        'echo "select * from incidents" | tilebox-local sql - --json',
    ],
)
@click.argument("query", metavar="QUERY")
@click.option("--timeout", type=TIMEOUT, default="60s", show_default=True, metavar="TIME", help="Stop then, code 124.")
@click.option("--limit", type=COUNT, metavar="N", help="At most N rows.")
@click.option(
    "-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="Value of :NAME; of :job_id a JOB, as latest."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV (RFC 4180).")
def sql(
    session: Session, query: str, timeout: timedelta, limit: int | None, params: tuple[str, ...], as_csv: bool
) -> int:
    """Ask the store one question in SQL.

    QUERY is one statement that reads; `-` stands for stdin, `@name` for a question of `tilebox-local schema --format
    questions`. The views jobs, tasks, spans, events, logs and others are described by `tilebox-local schema`.
    """
    if as_csv and session.as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    from tilebox_local.errors import QueryTimeoutError

    try:
        _ask(session, query, timeout.total_seconds(), limit, params, as_csv=as_csv)
    except QueryTimeoutError:
        sys.stderr.write(
            f"tilebox-local: The query took longer than {timeout.total_seconds():g} s and was stopped. Narrow it down "
            "(the views have job_id and start_ns), or pass a longer --timeout.\n"
        )
        return TIMED_OUT
    return OK


def _ask(
    session: Session, query: str, timeout: float, limit: int | None, params: tuple[str, ...], *, as_csv: bool
) -> None:
    from tilebox_local.cli.output import MEASURED, show_rows, take
    from tilebox_local.cli.stream import Stream
    from tilebox_local.query.sql import query_rows

    text, given = _statement(query, _given(params))
    with Stream() as stream, session.look() as client:
        parameters = _parameters(client, given) or None
        with query_rows(client._open_store(), text, parameters, timeout) as found:
            stream.deadline = found.deadline
            keys = _distinct(found.columns)
            rows = islice(found, limit)
            if as_csv:
                _write_csv(stream, found.columns, rows)
                return
            if session.as_json or not sys.stdout.isatty():
                first = [] if session.as_json else take(rows, MEASURED)
                named = (dict(zip(keys, row, strict=True)) for row in chain(first, rows))
                show_rows(session, named, _columns(keys, first), stream=stream)
                return
            kept = take(rows, _ON_TERMINAL)
            is_all = next(rows, None) is None
    # The query has ended, however long somebody looks at its rows.
    show_rows(session, [dict(zip(keys, row, strict=True)) for row in kept], _columns(keys, kept))
    if not is_all:
        session.say(
            f"Rows are missing: these are the first {len(kept):,}. --limit chooses fewer; --csv and --json write all."
        )


def _statement(query: str, given: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The statement, and its parameters: those given, and what a question has for others."""
    if query == "-":
        return sys.stdin.read(), given
    if not query.startswith("@"):
        return query, given
    from tilebox_local.export.questions import read_questions

    questions = read_questions()
    if query[1:] not in questions:
        raise click.BadParameter(
            f"there is no question {query}; there are @{', @'.join(questions)}.", param_hint="QUERY"
        )
    question = questions[query[1:]]
    parameters = {"job_id": "latest"} if "job_id" in question.parameters else {}
    parameters |= {
        name: "" for name, meaning in question.parameters.items() if meaning.endswith("may be empty")
    } | given
    for name, meaning in question.parameters.items():
        if name not in parameters:
            raise click.UsageError(f"{query} needs -p {name}=VALUE, the {meaning}.")
    return question.sql, parameters


def _parameters(client: Client, given: Mapping[str, str]) -> dict[str, str | int | float]:
    """Values by name. What names a job may be a JOB; what looks like a number is one."""
    from tilebox_local.query.listing import find_job_key

    found: dict[str, str | int | float] = {}
    for name, value in given.items():
        if name in _JOBS:
            found[name] = str(find_job_key(client._open_store(), value).job_id)
        elif re.fullmatch(r"0|-?[1-9]\d{0,17}", value):
            found[name] = int(value)
        else:
            found[name] = float(value) if re.fullmatch(r"-?\d{1,15}\.\d{1,15}", value) else value
    return found


def _given(values: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE, each."""
    found = {}
    for one in values:
        name, is_there, value = one.partition("=")
        if not (is_there and name):
            raise click.BadParameter(f"{one!r} is not NAME=VALUE.", param_hint="--param")
        found[name.removeprefix(":")] = value
    return found


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


def _write_csv(stream: Stream, columns: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
    import csv

    writer = csv.writer(stream)
    writer.writerow(columns)
    writer.writerows([_shown(value) if isinstance(value, bytes) else value for value in row] for row in rows)


def _columns(keys: list[str], rows: list[tuple[Any, ...]]) -> list[Column]:
    """Columns of a table; numbers are at the right."""
    from tilebox_local.cli.output import Column

    return [
        Column(key, show=_shown, right=all(row[index] is None or isinstance(row[index], int | float) for row in rows))
        for index, key in enumerate(keys)
    ]
