"""One SELECT of the user's own, as rows or as a DataFrame. It cannot write, and it ends."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING, Any

import apsw

from tilebox_local.errors import ArgumentError, QueryTimeoutError
from tilebox_local.storage.connection import translate_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from tilebox_local.storage.store import Store

__all__ = ["Rows", "query_frame", "query_rows"]

_STEPS = 10_000  # of SQLite's virtual machine between two looks at the clock
_EXACT_FLOAT = 2**53
# What is not a statement: blanks, semicolons and comments.
_NOTHING = re.compile(r"(?:[\s;]|--[^\n]*|/\*(?:.*?\*/|.*\Z))*", re.DOTALL)
_READING = {apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE}
# Pragmas that only tell, whatever their argument, and those that only tell without one.
_TELLING_PRAGMAS = {
    "collation_list", "compile_options", "database_list", "foreign_key_check", "foreign_key_list", "function_list",
    "index_info", "index_list", "index_xinfo", "integrity_check", "module_list", "pragma_list", "quick_check",
    "table_info", "table_list", "table_xinfo",
}  # fmt: skip
_READABLE_PRAGMAS = {
    "application_id", "auto_vacuum", "cache_size", "data_version", "encoding", "freelist_count", "journal_mode",
    "journal_size_limit", "max_page_count", "page_count", "page_size", "query_only", "schema_version", "synchronous",
    "user_version", "wal_autocheckpoint",
}  # fmt: skip


class _Rule:
    """Authorizer of one query: reading is allowed. Keeps what was refused first."""

    def __init__(self) -> None:
        self.refused: str | None = None

    def __call__(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if action in _READING:
            return apsw.SQLITE_OK
        if action == apsw.SQLITE_PRAGMA and first is not None:
            name = first.lower()
            if name in _TELLING_PRAGMAS or (second is None and name in _READABLE_PRAGMAS):
                return apsw.SQLITE_OK
        if self.refused is None:
            name = str(apsw.mapping_authorizer_function[action]).removeprefix("SQLITE_").replace("_", " ")
            self.refused = " ".join(filter(None, (name, first)))
        return apsw.SQLITE_DENY


class _Trace:
    """Sees the statements of a query before they run: takes the columns of the first, refuses a second one."""

    def __init__(self, query: str) -> None:
        self._query = query
        self.columns: list[str] = []

    def __call__(self, cursor: apsw.Cursor, statement: str, _bindings: Any) -> bool:
        if not cursor.has_vdbe:
            return True  # the comment behind the statement
        rest = self._query[len(statement) :]
        if not _NOTHING.fullmatch(rest):
            raise ArgumentError(f"A query is one statement; this is another one: {rest.strip()[:80]!r}.")
        self.columns = [column[0] for column in cursor.get_description()]
        return True


class Rows:
    """The rows of a query, read one by one. `deadline` is that of time.monotonic()."""

    def __init__(self, columns: list[str], rows: Iterator[tuple[Any, ...]], deadline: float) -> None:
        self.columns = columns
        self.deadline = deadline
        self._rows = rows

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self._rows


def query_frame(store: Store, query: str, parameters: Any, timeout_s: float | None) -> pd.DataFrame:
    """Rows of one reading statement, in its order. See Client.sql."""
    with query_rows(store, query, parameters, timeout_s) as found:
        rows = list(found)
    return _frame(rows, found.columns)


@contextmanager
def query_rows(store: Store, query: str, parameters: Any, timeout_s: float | None) -> Iterator[Rows]:
    """Rows of one reading statement, which is running inside of the block. Raises as Client.sql does, there too.

    The read transaction is open until the end of the block, or the last row. What the block does between the rows
    counts for the deadline.
    """
    if not isinstance(query, str):
        raise ArgumentError(f"The query is a str, not {type(query).__name__}.")
    beginning = _NOTHING.match(query)
    statement = query[beginning.end() :] if beginning else query
    if not statement:
        raise ArgumentError(f"The query {query!r} contains no statement.")
    bindings = _bindings(parameters)
    deadline = _deadline(timeout_s)
    rule, trace = _Rule(), _Trace(statement)
    with store.read() as connection:
        cursor = connection.cursor()
        try:
            connection.authorizer = rule
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
            cursor.exec_trace = trace
            with _explained(rule, timeout_s):
                cursor.execute(statement, bindings)
            yield Rows(trace.columns, _read(cursor, rule, deadline, timeout_s), deadline)
        finally:
            cursor.close(True)
            connection.set_progress_handler(None)
            connection.authorizer = None


def _read(cursor: apsw.Cursor, rule: _Rule, deadline: float, timeout_s: float | None) -> Iterator[tuple[Any, ...]]:
    with _explained(rule, timeout_s):
        for row in cursor:
            yield row
            if time.monotonic() > deadline:  # SQLite looks at the clock after many rows only
                raise _timeout(timeout_s)


@contextmanager
def _explained(rule: _Rule, timeout_s: float | None) -> Iterator[None]:
    """Raise our errors for those of a statement that runs in the block."""
    try:
        yield
    except apsw.InterruptError as error:
        raise _timeout(timeout_s) from error
    except apsw.Error as error:
        if rule.refused is not None:
            raise ArgumentError(
                f"Queries only read; the statement would do {rule.refused}.",
                hint="client.jobs() and `tilebox-local cancel`, `retry` and `prune` change jobs and tasks.",
            ) from error
        raise translate_error(error, "The query failed", otherwise=ArgumentError) from error
    except KeyError as error:
        raise ArgumentError(f"The query asks for the parameter {error}, which is not given.") from error
    except (TypeError, OverflowError, ValueError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise ArgumentError(
            f"The query or one of its params cannot be used: {error}.",
            hint="Params are None, int (64 bits), float, str or bytes; pass str(value) of others.",
        ) from error


def _timeout(timeout_s: float | None) -> QueryTimeoutError:
    return QueryTimeoutError(
        f"The query took longer than {timeout_s} s and was stopped.",
        hint="Narrow it down (the views have job_id and start_ns), or pass a longer timeout_s.",
    )


def _bindings(parameters: Any) -> Any:
    if parameters is None:
        return None
    if isinstance(parameters, Mapping):
        return {name: _plain(value) for name, value in parameters.items()}
    if isinstance(parameters, Sequence) and not isinstance(parameters, str | bytes | bytearray | memoryview):
        return tuple(_plain(value) for value in parameters)
    raise ArgumentError(f"params is a sequence of values or a mapping by name, not {type(parameters).__name__}.")


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, Integral) else value  # numpy's integers are not int


def _deadline(timeout_s: float | None) -> float:
    if timeout_s is None:
        return math.inf
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not timeout_s > 0:
        raise ArgumentError(f"timeout_s is a number of seconds above 0, or None, not {timeout_s!r}.")
    return time.monotonic() + timeout_s


def _frame(rows: list[tuple[Any, ...]], columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=columns)
    for position in range(len(columns)):
        if frame.dtypes.iloc[position] == "float64":
            values = [row[position] for row in rows]
            # Pandas makes floats of integers beside NULL, which would change the digits of an instant or an id.
            if all(value is None or type(value) is int for value in values) and any(
                value is not None and abs(value) > _EXACT_FLOAT for value in values
            ):
                frame.isetitem(position, pd.array(values, dtype="Int64"))
    return frame
