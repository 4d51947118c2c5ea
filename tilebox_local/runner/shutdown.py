"""SIGINT and SIGTERM while a runner works: finish the task if it ends soon, else give it back, then go."""

from __future__ import annotations

import os
import signal
import threading
import weakref
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

__all__ = ["GracefulShutdown", "RunnerShutdown"]

GRACE_PERIOD_S = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunnerShutdown(Exception):  # noqa: N818 -- the official name
    """Why a task was given back: its runner was told to stop."""


class GracefulShutdown:
    """Inside the block, a signal stops the claiming of tasks.

    A task that still runs after the grace period is given back through `give_back`, on another thread, and the signal
    is delivered again to whoever handled it before. Elsewhere than in the main thread the block does nothing.
    """

    def __init__(self, give_back: Callable[[], None], grace_period_s: float = GRACE_PERIOD_S) -> None:
        self.is_stopping = False  # not an Event: setting one takes a lock that the interrupted code may hold
        self._give_back = give_back
        self._grace_period_s = grace_period_s
        self._previous: dict[int, Any] = {}
        self._received: int | None = None
        self._pid = os.getpid()
        self._timer: threading.Timer | None = None
        self._on_stop: list[Callable[[], None]] = []

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call `callback` when a signal arrives; it runs in the signal handler and must not block."""
        self._on_stop.append(callback)

    def __enter__(self) -> Self:
        _active.add(self)
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._restore()
        # The task ended in time: now let the signal do what it would have done.
        if self._received is not None and exc_type is None:
            os.kill(os.getpid(), self._received)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous.clear()

    def after_fork_in_child(self) -> None:
        """The signals of a child are its own: it neither finishes the task of its parent nor gives it back."""
        self._received, self._timer = None, None
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # it came before after_fork_in_child
            self.after_fork_in_child()
            os.kill(os.getpid(), number)
            return
        if self._received is None:
            self._received = number
            self.is_stopping = True
            for callback in self._on_stop:
                callback()
            # Writing to the store from a signal handler could wait for a lock that the interrupted code holds.
            self._timer = threading.Timer(self._grace_period_s, self._expire)
            self._timer.daemon = True
            self._timer.start()
            return
        previous = self._previous.get(number)
        self._restore()
        if callable(previous):
            previous(number, frame)
        else:
            os.kill(os.getpid(), number)

    def _expire(self) -> None:
        try:
            self._give_back()
        finally:  # also if the store refuses: the process was told to go
            if self._received is not None:
                os.kill(os.getpid(), self._received)


_active: weakref.WeakSet[GracefulShutdown] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    if threading.current_thread() is threading.main_thread():
        for shutdown in list(_active):
            shutdown.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
