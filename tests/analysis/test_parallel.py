"""Questions that are answered on two cores see the same, and end together."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from slow import traces
from test_durations import expected

from tilebox_local import Client
from tilebox_local.analysis import parallel
from tilebox_local.analysis.parallel import ask_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import apsw
    from trace_builder import SpanSpec, TraceBuilder

COUNT = "SELECT count(*) FROM scope_records"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A client of an empty store in a file: only there do two connections read at the same time."""
    with Client(tmp_path / "store.db") as client:
        yield client


def count(connection: apsw.Connection) -> tuple[int, int]:
    """How many scopes there are, and the thread that has counted them."""
    return int(connection.execute(COUNT).get), threading.get_ident()


def add_scope(client: Client, name: str) -> None:
    """A commit."""
    client._store.transact(
        lambda connection: connection.execute("INSERT INTO scope_records (name) VALUES (?)", (name,)).fetchall()
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(traces())
def test_durations_in_a_file(client: Client, build: TraceBuilder, spans: list[SpanSpec]) -> None:
    """Durations that two connections have worked out are those of the definition."""
    job = build.job()
    job.spans(spans)
    assert client.jobs().durations(job.id) == expected(spans)


def test_both_threads_work(client: Client) -> None:
    """Two questions that wait for each other are both answered: by two threads, in the order of the questions."""
    meet = threading.Barrier(2, timeout=30)

    def ask(connection: apsw.Connection) -> tuple[int, int]:
        meet.wait()
        return count(connection)

    with client._store.snapshot() as connection:
        (first, first_thread), (second, second_thread) = ask_all(client._store, connection, [ask, ask])
    assert (first, second) == (1, 1)
    assert first_thread != second_thread


def test_a_commit_meanwhile(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that would see more than the first one is not used, however often it is tried."""
    opened = []
    real = client._store.snapshot

    def snapshot() -> Any:
        add_scope(client, f"scope {len(opened)}")
        opened.append(1)
        return real()

    with real() as connection:
        before = count(connection)[0]
        monkeypatch.setattr(client._store, "snapshot", snapshot)
        answers = ask_all(client._store, connection, [count, count, count])
    assert answers == [(before, threading.get_ident())] * 3
    assert len(opened) == parallel._TRIES


def test_a_question_that_fails(client: Client) -> None:
    """An error of either thread is raised, and both connections can be used again."""
    meet = threading.Barrier(2, timeout=30)
    main = threading.get_ident()

    for fails_in_main in (True, False):

        def ask(connection: apsw.Connection, fails_in_main: bool = fails_in_main) -> int:
            meet.wait()
            if (threading.get_ident() == main) == fails_in_main:
                raise ValueError("no answer")
            return count(connection)[0]

        with client._store.snapshot() as connection, pytest.raises(ValueError, match="no answer"):
            ask_all(client._store, connection, [ask, ask])
        with client._store.snapshot() as connection:
            assert [number for number, _ in ask_all(client._store, connection, [count, count])] == [1, 1]


def test_an_interrupt_ends_both(client: Client) -> None:
    """Ctrl-C in the first thread ends the query of the second one before its connection goes back."""
    running = threading.Event()
    main = threading.get_ident()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

    def ask(connection: apsw.Connection) -> int:
        if threading.get_ident() == main:
            assert running.wait(30)
            raise KeyboardInterrupt
        running.set()
        return int(connection.execute(endless).get)

    with client._store.snapshot() as connection, pytest.raises(KeyboardInterrupt):
        ask_all(client._store, connection, [ask, ask])
    assert client._store._readers._out() == []


def test_no_thread_to_be_had(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, the first one answers all."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with client._store.snapshot() as connection:
        answers = ask_all(client._store, connection, [count, count])
    monkeypatch.undo()
    assert answers == [(1, threading.get_ident())] * 2
