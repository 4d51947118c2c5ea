"""What the fault tests write, and the oracle that says what is wrong with what they find.

A batch is ROWS spans, and, if its number is odd, ROWS rows of a transaction after them. A process that is about to
suffer writes batches in order and acknowledges each one once it is committed. The oracle compares what was acknowledged
with what a store holds when it is opened again, in another process.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from tilebox_local.errors import StoreError
from tilebox_local.storage.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import apsw

    from tilebox_local import Client

ROWS = 10


class Problem(NamedTuple):
    """One broken promise: `kind` is lost, duplicate, torn, gap, count or corrupt."""

    kind: str
    detail: str


def kinds(problems: Iterable[Problem]) -> set[str]:
    """What kinds of problems there are."""
    return {problem.kind for problem in problems}


# -- the process that suffers -----------------------------------------------------------------------------------


def append_batch(client: Client, writer: str, batch: int, payload: str = "") -> None:
    """Append the spans of a batch, the first of them with an event."""
    for row in range(ROWS):
        with client.tracer.span(f"{writer} {batch} {row}") as span:
            if row == 0:
                span.add_event("first")
            if payload:
                span.set_attribute("payload", payload)


def commit_batch(client: Client, writer: str, batch: int) -> None:
    """Return when the batch is committed: by flush() if its number is even, else with its transaction."""
    if batch % 2:
        client._store.transact(adding(writer, batch))
    else:
        client.flush()


def adding(writer: str, batch: int) -> Callable[[apsw.Connection], None]:
    """The transaction of a batch: statement by statement, so that half of it can be told from the whole."""

    def add(connection: apsw.Connection) -> None:
        for row in range(ROWS):
            connection.execute("INSERT INTO scope_records (name) VALUES (?)", (f"{writer} {batch} {row}",)).fetchall()

    return add


# -- the oracle -------------------------------------------------------------------------------------------------


def examine(
    path: Path,
    acked: Mapping[str, Iterable[int]],
    *,
    integrity: bool = True,
    further: Callable[[apsw.Connection], list[Problem]] | None = None,
) -> list[Problem]:
    """What is wrong with the store at `path`, opened as everybody would, given the acknowledged batches by writer.

    `further` looks for more on the same connection.
    """
    try:
        store = open_store(path)
    except StoreError as error:
        return [Problem("corrupt", f"cannot be opened: {error}")]
    try:
        try:
            with store.read() as connection:
                problems = examine_rows(connection, acked)
                if integrity:
                    problems += examine_pages(connection)
                if further is not None:
                    problems += further(connection)
            store.transact(lambda connection: connection.pragma("user_version"))  # and it can be written
        finally:
            store.close()
    except (StoreError, ValueError) as error:  # ValueError: text that is none
        return [Problem("corrupt", f"{type(error).__name__}: {error}")]
    return problems


def examine_pages(connection: apsw.Connection) -> list[Problem]:
    """What SQLite itself finds wrong."""
    found = [text for (text,) in connection.execute("PRAGMA integrity_check").fetchall()]
    found += [f"foreign key: {row}" for row in connection.execute("PRAGMA foreign_key_check").fetchall()]
    return [Problem("corrupt", text) for text in found if text != "ok"]


def examine_rows(connection: apsw.Connection, acked: Mapping[str, Iterable[int]]) -> list[Problem]:
    """Acknowledged batches that are missing, rows that are there twice, halves of transactions, holes in sequences."""
    spans = _stored(connection, "SELECT name FROM span_records WHERE name GLOB '* * *'")
    added = _stored(connection, "SELECT name FROM scope_records WHERE name GLOB '* * *'")
    problems: list[Problem] = []
    for what, stored in (("span", spans), ("row", added)):
        for (writer, batch), rows in stored.items():
            problems += [Problem("duplicate", f"{what} {writer} {batch} {row}") for row in rows if rows[row] > 1]
    for (writer, batch), rows in added.items():
        if len(rows) != ROWS:
            problems.append(Problem("torn", f"{len(rows)} rows of {writer} {batch}"))
        if len(spans[writer, batch]) != ROWS:
            problems.append(Problem("torn", f"{writer} {batch} without the spans before it"))
    for writer, batches in acked.items():
        for batch in batches:
            if len(spans[writer, batch]) != ROWS or (batch % 2 and (writer, batch) not in added):
                problems.append(Problem("lost", f"{writer} {batch}"))
    problems += _gaps(spans, added)
    dangling = connection.execute(
        "SELECT count(*) FROM span_records s LEFT JOIN trace_records t USING (trace_no)"
        " LEFT JOIN resource_records r USING (resource_no) WHERE t.trace_no IS NULL OR r.resource_no IS NULL"
    ).get
    if dangling:
        problems.append(Problem("corrupt", f"{dangling} spans without their trace or resource"))
    events = connection.execute("SELECT count(*) FROM event_records WHERE name = 'first'").get
    firsts = sum(1 for rows in spans.values() if 0 in rows)
    if events != firsts:
        problems.append(Problem("torn", f"{events} events of {firsts} spans"))
    return problems


_Stored = defaultdict[tuple[str, int], Counter[int]]


def _stored(connection: apsw.Connection, query: str) -> _Stored:
    stored: _Stored = defaultdict(Counter)
    for (name,) in connection.execute(query).fetchall():
        writer, batch, row = name.split()
        stored[writer, int(batch)][int(row)] += 1
    return stored


def _gaps(spans: _Stored, added: _Stored) -> list[Problem]:
    """Each writer's rows must be the beginning of what it wrote: nothing may be missing before something else."""
    last = {writer: max(batch for other, batch in spans if other == writer and spans[writer, batch])
            for writer in {writer for writer, batch in spans if spans[writer, batch]}}  # fmt: skip
    problems = []
    for writer, end in last.items():
        for batch in range(end):
            if len(spans[writer, batch]) != ROWS or (batch % 2 and (writer, batch) not in added):
                problems.append(Problem("gap", f"{writer} {batch} of {end}"))  # noqa: PERF401
        if sorted(spans[writer, end]) != list(range(len(spans[writer, end]))):
            problems.append(Problem("gap", f"{writer} {end} has rows {sorted(spans[writer, end])}"))
    return problems
