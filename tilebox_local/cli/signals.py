"""SIGTERM and SIGHUP end a command in an orderly way: a store that is not closed counts as a crash."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["ToldToEndError", "ends_when_told"]

_PATIENCE_S = 5.0
_handlers: dict[int, Any] = {}  # that are ours in this process, by signal


class ToldToEndError(SystemExit):
    """A signal has told the process to end. The exit code is that of a process that it has killed, in a shell."""


@contextmanager
def ends_when_told() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise ToldToEndError; not if somebody (nohup) handles them otherwise.

    While a runner works, it first finishes its task or gives it back. If the block has not ended five seconds after
    the exception, since a task waits for its threads, say, or catches whatever is raised, all stores are closed, and
    the process ends without it. Children that are forked in the block are ended by these signals as any process is.
    """
    if _handlers or threading.current_thread() is not threading.main_thread():
        yield
        return
    _reset_in_forks()
    end = _End()
    for name, handler in (("SIGTERM", end.terminate), ("SIGHUP", end.hang_up)):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            _handlers[number] = handler
            signal.signal(number, handler)
    try:
        yield
    finally:
        end.has_come.set()
        for number in list(_handlers):
            signal.signal(number, signal.SIG_DFL)
            del _handlers[number]


class _End:
    """The end that a signal asks for."""

    def __init__(self) -> None:
        self.has_come = threading.Event()
        self._pid = os.getpid()
        self._told = 0  # the first signal
        self._is_raised = False

    def terminate(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if os.getpid() != self._pid:  # it came before the handlers of the child were reset
            _take_course(number)
        elif not self._is_raised:  # a second one must not interrupt the closing of the store
            self._is_raised = True
            self._told = self._told or number
            with suppress(RuntimeError):  # no thread to be had
                threading.Thread(target=self._insist, name="tilebox-local-end", daemon=True).start()
            raise ToldToEndError(128 + self._told)

    def hang_up(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            _take_course(number)
            return
        self._told = self._told or number
        handler = signal.getsignal(signal.SIGTERM)  # of a runner that is at work, which gives its task back
        (handler if callable(handler) else self.terminate)(signal.SIGTERM, frame)

    def _insist(self) -> None:
        if self.has_come.wait(_PATIENCE_S):
            return
        from tilebox_local.storage.store import close_all

        close_all()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(128 + self._told)


def _take_course(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


@cache
def _reset_in_forks() -> None:
    # Their steps of a fork come first: they put handlers back in the child.
    import tilebox_local.runner.shutdown
    import tilebox_local.storage.store  # noqa: F401

    def reset() -> None:
        for number, handler in _handlers.items():
            if signal.getsignal(number) == handler:
                signal.signal(number, signal.SIG_DFL)
        _handlers.clear()

    os.register_at_fork(after_in_child=reset)
