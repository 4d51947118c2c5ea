"""What the command line lists: rows of the views as dictionaries, and which job somebody means."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import orjson

from tilebox_local.catalog import run, sql, value
from tilebox_local.errors import ArgumentError, NotFoundError
from tilebox_local.formatting.text import visible
from tilebox_local.formatting.trace_tree import Marks, arrange
from tilebox_local.ids import unsigned64

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import apsw

    from tilebox_local.storage.store import Store

__all__ = [
    "JobKey",
    "each_log",
    "each_span",
    "find_job_key",
    "list_jobs",
    "list_logs",
    "list_spans",
    "list_tree",
    "read_rows",
    "read_spans",
    "task_ids",
    "view_job",
]

FIRST_NS, LAST_NS = -(1 << 63), (1 << 63) - 1
_CANDIDATES = 10
_MIN_BEGINNING = 4
_PART = 1000  # rows that are read together


class JobKey(NamedTuple):
    """A job that somebody has named."""

    job_no: int
    job_id: UUID
    name: str


def read_rows(connection: apsw.Connection, statement: str, parameters: Any = None) -> list[dict[str, Any]]:
    """Rows of a statement of the catalog by column name."""
    return list(_by_name(connection.cursor().execute(statement, parameters)))


def find_job_key(store: Store, text: str) -> JobKey:
    """The job that is meant by an id, a unique beginning of one, "latest", or "name:" and its name.

    Raises:
        NotFoundError: there is none. ArgumentError: it is none of these, or the ids of several jobs begin like this.
    """
    with store.read() as connection:
        if text == "latest":
            rows = run(connection, "newest_job")
        elif text.startswith("name:"):
            rows = run(connection, "newest_job_of_name", (text.removeprefix("name:"),))
        else:
            rows = _by_beginning(connection, text)
    if not rows:
        hint = "List the jobs with `tilebox-local jobs`." if text != "latest" else "It has no jobs yet."
        raise NotFoundError("job", text, hint=hint)
    if len(rows) > 1:
        shown = "\n".join(f"  {row[2]}  {visible(row[3])}" for row in rows[:_CANDIDATES])
        more = "\n  and more" if len(rows) > _CANDIDATES else ""
        raise ArgumentError(f"Several jobs have an id that begins with {text!r}; type more of it:\n{shown}{more}")
    job_no, job_id, _, name = rows[0]
    return JobKey(job_no, UUID(bytes=job_id), name)


def _by_beginning(connection: apsw.Connection, text: str) -> list[tuple[Any, ...]]:
    digits = text.strip().lower().replace("-", "")
    if not re.fullmatch(r"[0-9a-f]{4,32}", digits):
        raise ArgumentError(
            f"{text!r} is no job: type its id, at least {_MIN_BEGINNING} characters of its beginning, `latest`, "
            f"or name: and its name."
        )
    first = "-".join(filter(None, (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])))
    return run(connection, "jobs_by_beginning", {"first": first, "last": f"{first}g", "limit": _CANDIDATES + 1})


def view_job(connection: apsw.Connection, job_no: int) -> dict[str, Any]:
    """The row of the view `jobs`. Raises NotFoundError: it was pruned meanwhile."""
    rows = read_rows(connection, sql["view_job"], (job_no,))
    if not rows:
        raise NotFoundError("job", job_no, hint="It was deleted meanwhile.")
    return rows[0]


def list_jobs(
    store: Store,
    *,
    states: Sequence[str] = (),
    name: str | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    sort: str = "submitted",
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Rows of the view `jobs`, newest first unless `sort` says otherwise. `until_ns` is not included."""
    parameters = {
        "states": orjson.dumps(list(states)).decode() if states else None,
        "name": name,
        "since_ns": FIRST_NS if since_ns is None else since_ns,
        "until_ns": LAST_NS if until_ns is None else until_ns - 1,
        "sort": sort,
        "limit": -1 if limit is None else limit,
    }
    with store.read() as connection:
        return read_rows(connection, sql["list_jobs"], parameters)


def task_ids(connection: apsw.Connection, job_no: int, text: str) -> list[str]:
    """Ids of the tasks of a job that are meant. Raises NotFoundError: none is."""
    rows = run(connection, "list_tasks_named", {"job_no": job_no, "text": text})
    if not rows:
        raise NotFoundError("task", text, hint="Type the beginning of its id, or the name of its class, also as 'Ti*'.")
    return [row[0] for row in rows]


def list_spans(
    store: Store,
    job_no: int,
    *,
    task: str | None = None,
    name: str | None = None,
    status: str | None = None,
    since_ns: int | None = None,
    min_duration_ns: int | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Rows of the view `spans` by start: of those that match, the newest `limit`."""
    filters = {"name": name, "status": status, "min_ns": min_duration_ns}
    with store.snapshot() as connection:
        parameters = _parameters(connection, job_no, task, since_ns, limit, filters)
        return read_rows(connection, sql["list_spans"], parameters)[::-1]


@contextmanager
def each_span(
    store: Store,
    job_no: int,
    *,
    task: str | None = None,
    name: str | None = None,
    status: str | None = None,
    since_ns: int | None = None,
    min_duration_ns: int | None = None,
) -> Iterator[Iterator[dict[str, Any]]]:
    """Like list_spans, row by row inside of the block, in one read transaction."""
    filters = {"name": name, "status": status, "min_ns": min_duration_ns}
    with store.snapshot() as connection:
        parameters = _parameters(connection, job_no, task, since_ns, None, filters)
        with _each_row(connection, sql["list_spans"], parameters) as rows:
            yield rows


def list_tree(
    connection: apsw.Connection, job_no: int, *, limit: int | None, depth: int | None, errors_only: bool
) -> list[tuple[int, int]]:
    """Start and id of the spans of a job that its tree shows, in the order of the tree. See `arrange`."""
    shape = run(connection, "waterfall_spans", (value(connection, "trace_of_job_no", (job_no,)),))
    if not shape:
        return []
    _, ids, parents, _, errors = zip(*shape, strict=True)
    nothing = Marks("", "", "")  # nothing is drawn
    tree = arrange(ids, parents, errors, limit=limit, max_levels=1, marks=nothing, depth=depth, errors_only=errors_only)
    return [shape[line.span][:2] for line in tree.lines]


def read_spans(store: Store, job_no: int, keys: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Rows of the view `spans` by start and id, in this order; those that were deleted meanwhile are left out.

    Each part is read as it is then, so that no transaction is open while the caller uses the rows.
    """
    for first in range(0, len(keys), _PART):
        rows = []
        with store.snapshot() as connection:
            for start_ns, span_id in keys[first : first + _PART]:
                parameters = {"job_no": job_no, "start_ns": start_ns, "span_id": f"{unsigned64(span_id):016x}"}
                rows += read_rows(connection, sql["view_span"], parameters)
        yield from rows


def list_logs(
    store: Store,
    job_no: int,
    *,
    task: str | None = None,
    name: str | None = None,
    level: int = 0,
    since_ns: int | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Rows of the view `logs` by time: of those that match, the newest `limit`. `level` is an OTLP severity number."""
    with store.snapshot() as connection:
        parameters = _parameters(connection, job_no, task, since_ns, limit, {"name": name, "level": level})
        return read_rows(connection, sql["list_logs"], parameters)[::-1]


@contextmanager
def each_log(
    store: Store,
    job_no: int,
    *,
    task: str | None = None,
    name: str | None = None,
    level: int = 0,
    since_ns: int | None = None,
) -> Iterator[Iterator[dict[str, Any]]]:
    """Like list_logs, row by row inside of the block, in one read transaction."""
    with store.snapshot() as connection:
        parameters = _parameters(connection, job_no, task, since_ns, None, {"name": name, "level": level})
        with _each_row(connection, sql["list_logs"], parameters) as rows:
            yield rows


def _parameters(
    connection: apsw.Connection,
    job_no: int,
    task: str | None,
    since_ns: int | None,
    limit: int | None,
    others: dict[str, Any],
) -> dict[str, Any]:
    return {
        "job_no": job_no,
        "since_ns": FIRST_NS if since_ns is None else since_ns,
        "tasks": _json(task_ids(connection, job_no, task)) if task else None,
        "limit": -1 if limit is None else limit,
        **others,
    }


@contextmanager
def _each_row(connection: apsw.Connection, newest_first: str, parameters: Any) -> Iterator[Iterator[dict[str, Any]]]:
    """Rows of a statement, the other way round: without a limit they need not be collected for that."""
    statement = newest_first.replace(" DESC", "")
    cursor = connection.cursor()
    try:
        yield _by_name(cursor.execute(statement, parameters))
    finally:
        cursor.close(True)  # it may not have been read to its end


def _by_name(cursor: apsw.Cursor) -> Iterator[dict[str, Any]]:
    names: list[str] = []
    for row in cursor:
        names = names or [column[0] for column in cursor.get_description()]
        yield dict(zip(names, row, strict=True))


def _json(values: Sequence[Any]) -> str:
    return orjson.dumps(list(values)).decode()
