"""Several questions to the same state of a store on two cores, since SQLite answers each on one core only."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, TypeVar

from tilebox_local.catalog import value
from tilebox_local.storage.threads import BackgroundThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import apsw

    from tilebox_local.storage.store import Store

__all__ = ["ask_all"]

T = TypeVar("T")

_TRIES = 5
_PATIENCE_S = 0.01


def ask_all(store: Store, connection: apsw.Connection, questions: Sequence[Callable[[apsw.Connection], T]]) -> list[T]:
    """What functions of read-only connections return, in their order; all see what `connection` sees.

    `connection` is in a read transaction. A second thread helps if another connection can be had that sees the same:
    every transaction counts up one number, so two connections that read the same number see the same.
    """
    answers: dict[int, T] = {}
    waiting = deque(enumerate(questions))

    def work(connection: apsw.Connection) -> None:
        while waiting:
            try:
                number, question = waiting.popleft()
            except IndexError:  # the other thread was faster
                return
            try:
                answers[number] = question(connection)
            except BaseException:
                waiting.clear()  # nobody wants the rest
                raise

    with ExitStack() as stack:
        other = _same_state(store, connection, stack)
        if other is None:
            work(connection)
        else:
            _work_together(work, connection, other)
    return [answers[number] for number in range(len(questions))]


def _work_together(
    work: Callable[[apsw.Connection], None], connection: apsw.Connection, other: apsw.Connection
) -> None:
    errors: list[BaseException] = []

    def help_out() -> None:
        try:
            work(other)
        except BaseException as error:  # noqa: BLE001 -- raised in the thread that waits
            errors.append(error)

    thread = BackgroundThread(help_out, "tilebox-local-analysis")
    try:
        has_help = _starts(thread)
        work(connection)
    except BaseException:
        if not thread.give_up():
            _end(thread, other)
        raise
    if has_help:
        thread.wait_for_end()
    if errors:
        raise errors[0]


def _starts(thread: BackgroundThread) -> bool:
    """Start a thread; False if there is none to be had."""
    try:
        thread.start()
    except RuntimeError:
        if thread.give_up():
            return False
        raise
    return True


def _end(thread: BackgroundThread, other: apsw.Connection) -> None:
    """Ctrl-C, say: the thread must not use the connection once that goes back."""
    is_ended = False
    while not is_ended:
        with suppress(KeyboardInterrupt):  # a second one; this takes a moment only
            other.interrupt()  # again and again: one that comes between two statements is lost
            is_ended = thread.wait_for_end(_PATIENCE_S)


def _same_state(store: Store, connection: apsw.Connection, stack: ExitStack) -> apsw.Connection | None:
    """Another connection that sees what `connection` sees; None if commits come faster than it can be opened."""
    if store.path is None:  # in memory, its reads would wait for each other
        return None
    commit_no = value(connection, "commit_no")
    for _ in range(_TRIES):
        with ExitStack() as attempt:
            other = attempt.enter_context(store.snapshot())
            if value(other, "commit_no") == commit_no:
                stack.push(attempt.pop_all())
                return other
    return None
