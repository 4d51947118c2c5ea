"""Ctrl-C at any moment of what a thread does with a store. Transactions are in test_writer.py."""

from __future__ import annotations

import contextlib
import os
import time
from contextvars import copy_context
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from opentelemetry import trace as otel_trace
from store_support import PATIENCE_S, add_scope, added_scopes, interrupt_after, make_spans, names, until

from tilebox_local import Client
from tilebox_local import client as client_module
from tilebox_local.errors import ForeignOpenError
from tilebox_local.observability import span as span_module
from tilebox_local.observability.tracing import LocalTracerProvider
from tilebox_local.query import sql
from tilebox_local.storage import checkpointer, guard, lockfile, opening, queue, readers, threads, writer
from tilebox_local.storage import store as store_module
from tilebox_local.storage.lockfile import LockFile
from tilebox_local.storage.threads import BackgroundThread

if TYPE_CHECKING:
    from pathlib import Path

    from tilebox_local.observability.tracing import WorkflowTracer
    from tilebox_local.storage.store import Store


def test_an_interrupted_read_does_not_go_on(store: Store) -> None:
    """Whoever is interrupted while reading leaves no transaction behind, in which others would read what once was."""

    def read() -> None:
        with store.snapshot() as connection:
            connection.execute("SELECT count(*) FROM scope_records").fetchall()

    for calls in count(1):
        was_hit = interrupt_after(calls, read, [store_module.__file__, readers.__file__])
        store.transact(add_scope(str(calls)))
        assert added_scopes(store) == [str(number) for number in range(1, calls + 1)]
        assert store._readers.before_fork()  # nobody is taken for a reader any more
        store._readers.after_fork_in_parent()
        if not was_hit:
            break
    assert calls > 15


def test_an_interrupted_query_of_the_user_leaves_nothing_behind(path: Path) -> None:
    """After an interrupted client.sql(), what it is not allowed to do, and its timeout, are forgotten."""
    with Client(path) as client:
        client.sql("SELECT 1", timeout_s=PATIENCE_S)

        def ask() -> None:
            with contextlib.suppress(Exception):
                client.sql("SELECT count(*) FROM spans", timeout_s=PATIENCE_S)

        for calls in count(1):
            was_hit = interrupt_after(calls, ask, [sql.__file__, readers.__file__])
            with client._store.read() as connection:
                assert connection.authorizer is None
                assert not connection.in_transaction
            if not was_hit:
                break
        assert calls > 20


def test_an_interrupt_beside_the_turnstile(tmp_path: Path) -> None:
    """Whoever is interrupted on the way through the turnstile does not keep others out."""
    ours, other = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")

    def through() -> None:
        with ours.held():
            pass

    def through_if_free() -> None:
        with ours.held_if_free() as is_free:
            assert is_free

    for go in (through, through_if_free):
        for calls in count(1):
            was_hit = interrupt_after(calls, go, [lockfile.__file__])
            with other.held_if_free() as is_free:
                assert is_free
            if not was_hit:
                break
        assert calls > 4
    ours.close()
    other.close()


def test_an_interrupted_span(store: Store, tracer: WorkflowTracer) -> None:
    """A span whose block was entered is stored, whenever Ctrl-C comes; then the span outside of it is current again.

    Only before the first instruction of `end()` or `__exit__()` can nothing be done: then the span stays open.
    """
    other = LocalTracerProvider(store.writer, store.resource(None)).get_tracer("other")

    def work(number: int, entered: list[str], current: list[otel_trace.Span]) -> None:
        try:
            for span in (
                tracer.span(f"plain {number}"),
                tracer.span(f"attributes {number}", attributes={"tile": 7}),
                other.start_as_current_span(f"configured {number}", start_time=time.time_ns()),
            ):
                with span:
                    entered.append(span.name)
                    by_hand = other.start_span(f"{span.name} by hand")
                    entered.append(by_hand.name)
                    by_hand.end()
        finally:
            current.append(otel_trace.get_current_span())

    stays_open = []
    with tracer.span("root") as root:
        make_spans(tracer, 1)  # from now on there are numbers to make rows with
        store.flush()
        context = copy_context()
        for calls in count(1):
            entered: list[str] = []
            current: list[otel_trace.Span] = []
            block = partial(context.run, work, calls, entered, current)
            was_hit = interrupt_after(calls, block, [span_module.__file__, queue.__file__])
            store.flush()
            left = {span.name: span for span in store.writer.queue.open_spans if span is not root}
            if left:
                stays_open.append(left)
                context = copy_context()
            else:
                assert current == [root]
            stored = names(store)
            assert sorted(set(stored)) == stored
            assert set(entered) - left.keys() <= set(stored)
            for span in left.values():
                span.end()
            if not was_hit:
                break
    # Three calls of end(), three of __exit__(), and one that a configured span passes it on to.
    assert len(stays_open) == 7
    assert calls > 100


CLOSING = [
    module.__file__ for module in (checkpointer, guard, lockfile, opening, readers, store_module, threads, writer)
]


def test_an_interrupted_close_goes_on(tmp_path: Path) -> None:
    """Closing again after an interrupt, whenever it came, stores what is queued and lets go of the file."""
    for calls in count(1):
        path = tmp_path / f"{calls}.db"
        client = Client(path)
        make_spans(client.tracer, 3)
        was_hit = interrupt_after(calls, client.close, [*CLOSING, client_module.__file__])
        client.close()
        path.open().close()  # nobody guards it any more
        with Client(path) as again:
            assert len(again.sql("SELECT 1 FROM spans")) == 3
        if not was_hit:
            break
    assert calls > 40


def test_an_interrupted_close_ends_by_itself(tmp_path: Path) -> None:
    """If nobody closes again after an interrupt, the writer writes what is queued and frees the file by itself."""
    opened = left_open = 0
    usual = len(os.listdir("/dev/fd"))  # noqa: PTH208
    for calls in count(1):
        path = tmp_path / f"{calls}.db"
        client = Client(path)
        make_spans(client.tracer, 3)
        was_hit = interrupt_after(calls, client.close, [*CLOSING, client_module.__file__])
        if not client._store.is_closed:  # it came before anything else
            opened += 1
            client.close()
        until(partial(is_free, path))
        left_open = max(left_open, len(os.listdir("/dev/fd")))  # noqa: PTH208
        with Client(path) as again:
            assert len(again.sql("SELECT 1 FROM spans")) == 3
        client.close()
        if not was_hit:
            break
    assert left_open == usual
    assert opened < calls / 5
    assert calls > 40


def is_free(path: Path) -> bool:
    """Whether nobody guards a file."""
    try:
        path.open().close()
    except ForeignOpenError:
        return False
    return True


def test_an_interrupted_open_leaves_nothing_open(tmp_path: Path) -> None:
    """Whoever is interrupted while opening a store has not opened it: nobody guards it, and it can be opened again."""
    path = tmp_path / "store.db"
    for calls in count(1):
        opened: list[Client] = []
        open_it = partial(lambda opened: opened.append(Client(path)), opened)
        was_hit = interrupt_after(calls, open_it, [*CLOSING, client_module.__file__])
        for client in opened:
            client.close()
        assert store_module.open_stores() == []
        if path.exists():
            path.open().close()
        if calls % 10 == 0:
            Client(path).close()
        if not was_hit:
            break
    assert calls > 100


def test_an_interrupted_exit_closes_all_stores(tmp_path: Path) -> None:
    """Ctrl-C at the exit, whenever it comes, loses nothing of any store, and is raised at the end."""
    for calls in count(1):
        paths = [tmp_path / f"{calls}-{number}.db" for number in range(2)]
        for path in paths:
            make_spans(Client(path).tracer, 3)
        # The first call is that of the function itself, which atexit makes.
        was_hit = interrupt_after(calls + 1, store_module.close_all, CLOSING)
        for path in paths:
            path.open().close()
            with Client(path) as again:
                assert len(again.sql("SELECT 1 FROM spans")) == 3
        if not was_hit:
            break
    assert calls > 60


def test_an_interrupted_start() -> None:
    """A thread whose start was interrupted says whether it runs; then one can wait for it."""
    outcomes = set()
    for calls in count(1):
        ran: list[bool] = []
        thread = BackgroundThread(lambda ran=ran: ran.append(True), "background")  # type: ignore[misc]
        was_hit = interrupt_after(calls, thread.start, [])
        is_given_up = thread.give_up()
        assert is_given_up or thread.wait_for_end(PATIENCE_S)
        assert ran == ([] if is_given_up else [True])
        outcomes.add((was_hit, is_given_up))
        if not was_hit:
            break
    assert (True, True) in outcomes
