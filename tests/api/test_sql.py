"""client.sql() and client.connect_readonly(): one's own questions to the store, without harm to it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from uuid import UUID

import apsw
import numpy as np
import pandas as pd
import pytest

from tilebox_local import Client
from tilebox_local.errors import ArgumentError, QueryTimeoutError, StoreClosedError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture(params=["file", "memory"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    """A client of a store with three spans, in a file and in memory."""
    with Client(tmp_path / "store.db" if request.param == "file" else ":memory:") as client:
        for name in ("a", "b", "c"):
            with client.tracer.span(name):
                pass
        client.flush()
        yield client


def _spans(client: Client) -> int:
    return int(client.sql("SELECT count(*) AS n FROM spans")["n"][0])


# -- what comes back --------------------------------------------------------------------------------------------


def test_rows_of_a_view(client: Client) -> None:
    """sql() gives the rows of a view in the query's order, with its columns."""
    frame = client.sql("SELECT name, status FROM spans ORDER BY name DESC")
    pd.testing.assert_frame_equal(frame, pd.DataFrame({"name": ["c", "b", "a"], "status": ["UNSET"] * 3}))


@pytest.mark.parametrize(
    ("query", "params", "expected"),
    [
        ("SELECT ?, ?2, ?1", (1, "x"), [[1, "x", 1]]),
        ("SELECT :a, $b, @c", {"a": None, "b": 2.5, "c": b"\x00\xff", "unused": 1}, [[None, 2.5, b"\x00\xff"]]),
        ("SELECT ?, ?", [np.int64(2**62 + 1), np.float64(0.5)], [[2**62 + 1, 0.5]]),
        ("SELECT ?", [True], [[1]]),
        ("SELECT name FROM spans WHERE name = :name", {"name": "b"}, [["b"]]),
        ("SELECT name FROM spans WHERE name = ?", ["' OR 1 --"], []),
        ("SELECT ';', '--', ';' -- ; SELECT 2", None, [[";", "--", ";"]]),
        (";; /* a */ -- b\n SELECT 1 ; ; /* c; */ -- d; ", (), [[1]]),
        ("SELECT 1 /* never closed", {}, [[1]]),
        ("VALUES (1), (2)", None, [[1], [2]]),
        ("PRAGMA encoding", None, [["UTF-8"]]),
        ("SELECT name FROM pragma_table_info('store_records')", None, [["key"], ["value"]]),
    ],
)
def test_values(query: str, params: Any, expected: list[list[Any]], client: Client) -> None:
    """Values are bound by position or by name, and come back as they are; comments and semicolons may surround it."""
    assert [list(row) for row in client.sql(query, params).itertuples(index=False)] == expected


def test_columns_without_rows(client: Client) -> None:
    """A result without rows has the columns of the query."""
    frame = client.sql("SELECT name, start_ns AS n, name FROM spans WHERE 0")
    assert (list(frame.columns), len(frame)) == (["name", "n", "name"], 0)


def test_types_of_columns(client: Client) -> None:
    """Integers stay exact, also beside NULL; what a float can hold, and everything else, is as pandas has it."""
    frame = client.sql(
        "SELECT column1 AS big, column2 AS big_or_null, column3 AS small_or_null, column4 AS real_or_null, "
        "column5 AS text, column6 AS blob, column7 AS absent, column2 AS big_or_null "
        "FROM (VALUES (9223372036854775807, -9007199254740993, 1, 0.5, 'x', x'00', NULL), (1, NULL, NULL, NULL, 'y', "
        "NULL, NULL))"
    )
    natural = pd.DataFrame({"t": ["x", "y"]}).dtypes.iloc[0]
    assert list(frame.dtypes) == ["int64", "Int64", "float64", "float64", natural, "object", "object", "Int64"]
    assert frame["big"].tolist() == [2**63 - 1, 1]
    assert frame.iloc[:, 1].tolist() == [-(2**53) - 1, pd.NA]
    assert frame.iloc[:, 7].tolist() == [-(2**53) - 1, pd.NA]
    assert frame["blob"].tolist() == [b"\x00", None]


# -- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("INSERT INTO scope_records (name) VALUES ('x')", "INSERT scope_records"),
        ("UPDATE job_records SET name = 'x'", "UPDATE job_records"),
        ("DELETE FROM span_records", "DELETE span_records"),
        ("EXPLAIN DELETE FROM span_records", "DELETE span_records"),
        ("WITH x AS (SELECT 1) DELETE FROM span_records", "DELETE span_records"),
        ("CREATE TABLE x (a)", "INSERT sqlite_master"),
        ("CREATE TEMP TABLE x (a)", "INSERT sqlite_temp_master"),
        ("DROP VIEW spans", "DELETE sqlite_master"),
        ("ATTACH 'other.db' AS other", "ATTACH other.db"),
        ("VACUUM INTO 'other.db'", "ATTACH other.db"),
        ("BEGIN", "TRANSACTION BEGIN"),
        ("SAVEPOINT x", "SAVEPOINT BEGIN"),
        ("PRAGMA query_only = 0", "PRAGMA query_only"),
        ("PRAGMA journal_mode = DELETE", "PRAGMA journal_mode"),
        ("PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA wal_checkpoint"),
        ("PRAGMA incremental_vacuum", "PRAGMA incremental_vacuum"),
        ("PRAGMA optimize", "PRAGMA optimize"),
        ("REINDEX", "REINDEX writer_records_open"),
    ],
)
def test_writing_is_refused(query: str, what: str, client: Client, tmp_path: Path) -> None:
    """A statement that would write, or change the connection, is refused by what it would do; reading goes on."""
    files = sorted(tmp_path.iterdir())
    with pytest.raises(ArgumentError) as caught:
        client.sql(query)
    assert str(caught.value) == (
        f"Queries only read; the statement would do {what}. client.jobs() and `tilebox-local cancel`, `retry` and "
        "`prune` change jobs and tasks."
    )
    assert (_spans(client), sorted(tmp_path.iterdir())) == (3, files)


PLAIN = "Params are None, int (64 bits), float, str or bytes; pass str(value) of others."


@pytest.mark.parametrize(
    ("query", "params", "message"),
    [
        ("", None, "The query '' contains no statement."),
        (" ; -- x", None, "The query ' ; -- x' contains no statement."),
        ("SELECT 1; SELECT 2", None, "A query is one statement; this is another one: 'SELECT 2'."),
        (f"{ENDLESS}; DELETE FROM x", None, "A query is one statement; this is another one: 'DELETE FROM x'."),
        ("SELEC 1", None, 'The query failed: near "SELEC": syntax error.'),
        ("SELECT nope FROM spans", None, "The query failed: no such column: nope."),
        ('SELECT "nope" FROM spans', None, ('The query failed: no such column: "nope" - should this be a '
         "string literal in single-quotes?.")),
        ("SELECT json('{')", None, "The query failed: malformed JSON."),
        ("SELECT zeroblob(100000000)", None, "The query failed: string or blob too big."),
        ("SELECT load_extension('x')", None, "The query failed: not authorized."),
        ("SELECT :a", {"b": 1}, "The query asks for the parameter 'a', which is not given."),
        ("SELECT ?", "x", "params is a sequence of values or a mapping by name, not str."),
        ("SELECT ?", 5, "params is a sequence of values or a mapping by name, not int."),
        ("SELECT ?", [UUID(int=1)], ("The query or one of its params cannot be used: Bad binding argument type "
         f"supplied - argument #1: type UUID. {PLAIN}")),
        ("SELECT ?", [2**63], f"The query or one of its params cannot be used: int too big to convert. {PLAIN}"),
        ("SELECT ?", ["\ud800"], ("The query or one of its params cannot be used: 'utf-8' codec can't encode "
         f"character '\\ud800' in position 0: surrogates not allowed. {PLAIN}")),
        (b"SELECT 1", None, "The query is a str, not bytes."),
    ],
)  # fmt: skip
def test_mistakes(query: Any, params: Any, message: str, client: Client) -> None:
    """A mistake raises ArgumentError with SQLite's words, before anything runs; the next query works."""
    with pytest.raises(ArgumentError) as caught:
        client.sql(query, params, timeout_s=None)
    assert (str(caught.value), _spans(client)) == (message, 3)


@pytest.mark.parametrize("params", [None, (), (1, 2), {"a": 1}])
def test_wrong_number_of_params(params: Any, client: Client) -> None:
    """Too few, too many or named values for a `?` raise ArgumentError."""
    with pytest.raises(ArgumentError, match=r"^The query failed: .*[Bb]inding"):
        client.sql("SELECT ?", params)


def test_a_query_ends(client: Client) -> None:
    """A query that takes longer than its deadline is stopped with advice, and leaves nothing behind."""
    with pytest.raises(QueryTimeoutError) as caught:
        client.sql(ENDLESS, timeout_s=0.05)
    assert isinstance(caught.value, StoreError | TimeoutError)
    assert str(caught.value) == (
        "The query took longer than 0.05 s and was stopped. Narrow it down (the views have job_id and start_ns), or "
        "pass a longer timeout_s."
    )
    long = ENDLESS.replace("FROM n) ", "FROM n LIMIT 100000) ")
    with client._store.read() as connection:  # the same one, after the deadline
        assert connection.execute(long).get == 100_000
    assert client.sql(long, timeout_s=None).iloc[0, 0] == 100_000


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), "5", True])
def test_bad_timeouts(timeout_s: Any, client: Client) -> None:
    """timeout_s is a number above 0, or None."""
    with pytest.raises(ArgumentError, match=r"^timeout_s is a number of seconds above 0, or None, not "):
        client.sql("SELECT 1", timeout_s=timeout_s)


def test_what_sql_refuses_stays_allowed_to_others(client: Client) -> None:
    """The rules of a query end with it: the connection that it used serves the package's own reads as before."""
    for query in ("DELETE FROM spans", "SELECT 1"):
        try:
            client.sql(query)
        except ArgumentError:
            continue
    with client._store.snapshot() as connection:  # BEGIN, which sql() refuses
        assert connection.execute("SELECT count(*) FROM spans").get == 3
        assert connection.authorizer is None


def test_many_threads(client: Client) -> None:
    """Queries of several threads do not disturb each other."""
    results: list[int] = []

    def ask(number: int) -> None:
        results.extend(int(client.sql("SELECT ? AS n", (number,))["n"][0]) for _ in range(20))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [number for number in range(4) for _ in range(20)]


# -- a connection of one's own ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:pandas only supports SQLAlchemy:UserWarning")
def test_pandas_reads_through_the_connection(client: Client) -> None:
    """pandas.read_sql_query works on connect_readonly(), in chunks, with params, and without rows."""
    with client.connect_readonly() as connection:
        frame = pd.read_sql_query("SELECT name FROM spans WHERE name > ? ORDER BY name", connection, params=("a",))
        assert frame["name"].tolist() == ["b", "c"]
        chunks = pd.read_sql_query("SELECT name FROM spans ORDER BY name", connection, chunksize=2)
        assert [chunk["name"].tolist() for chunk in chunks] == [["a", "b"], ["c"]]
        empty = pd.read_sql_query("SELECT name, start_ns FROM spans WHERE 0", connection)
        assert (list(empty.columns), len(empty)) == (["name", "start_ns"], 0)


def test_the_connection_reads_row_by_row_and_sees_commits(client: Client) -> None:
    """Rows come one by one; each new statement sees what was committed meanwhile."""
    with client.connect_readonly() as connection:
        assert next(iter(connection.execute("SELECT name FROM spans ORDER BY name"))) == ("a",)
        with client.tracer.span("d"):
            pass
        client.flush()
        assert connection.execute("SELECT count(*) FROM spans").get == 4


@pytest.mark.parametrize("first", ["SELECT 1", "PRAGMA query_only = 0"])
def test_the_connection_cannot_write(first: str, client: Client) -> None:
    """SQLite refuses to write through it, whatever its pragmas say, and to attach other files."""
    with client.connect_readonly() as connection:
        connection.execute(first).fetchall()
        with pytest.raises(apsw.ReadOnlyError):
            connection.execute("DELETE FROM span_records")
        with pytest.raises(apsw.SQLError, match="too many attached databases"):
            connection.execute("ATTACH ':memory:' AS other")
    assert _spans(client) == 3


def test_the_connection_is_the_callers(client: Client) -> None:
    """It outlives the client; leaving its block or close() closes it, and close() may be repeated."""
    connection = client.connect_readonly()
    with client.connect_readonly() as other:
        assert other.execute("SELECT count(*) FROM spans").get == 3
    for use in (lambda: other.execute("SELECT 1"), other.cursor):
        with pytest.raises(apsw.ConnectionClosedError):
            use()
    other.close()
    client.close()
    assert connection.execute("SELECT count(*) FROM spans").get == 3
    connection.close()


def test_after_close(client: Client) -> None:
    """A closed client answers no queries and gives out no connections."""
    client.close()
    for use in (lambda: client.sql("SELECT 1"), client.connect_readonly):
        with pytest.raises(StoreClosedError):
            use()
