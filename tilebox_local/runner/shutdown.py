"""SIGINT and SIGTERM while a runner works: finish the task if it ends soon, else give it back, then go."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Self

from tilebox_local.observability._logging import StructuredLogger, internal_logger
from tilebox_local.storage.threads import Completion

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

__all__ = ["GracefulShutdown", "RunnerShutdown"]

GRACE_PERIOD_S = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_log = StructuredLogger(internal_logger)


class RunnerShutdown(Exception):  # noqa: N818 -- the official name
    """Why a task was given back: its runner was told to stop."""


class GracefulShutdown:
    """Inside the block, a signal stops the claiming of tasks.

    A task that still runs after the grace period is given back through `give_back`, on another thread. At the end of
    that or of the block, the signal is delivered once more, to whoever handled it before, unless the program is exiting
    by then. Elsewhere than in the main thread the block does nothing.
    """

    def __init__(self, give_back: Callable[[], None], grace_period_s: float = GRACE_PERIOD_S) -> None:
        self.is_stopping = False  # not an Event: setting one takes a lock that the interrupted code may hold
        self._give_back = give_back
        self._grace_period_s = grace_period_s
        self._previous: dict[int, Any] = {}
        self._received: int | None = None
        self._is_passed_on = False  # by a second one
        self._pid = os.getpid()
        self._thread_id = threading.get_ident()
        self._end = Completion()  # of the block
        self._delivery = Completion()  # of the signal, after the grace period
        self._delivers = threading.Lock()  # taken by the thread that delivers it, for good
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
        self._end.finish()
        self._restore()
        if self._received is None:
            return
        if not self._delivers.acquire(blocking=False):
            self._delivery.wait()  # what it raises belongs here, not to whatever comes next
        elif not self._is_passed_on and not isinstance(exc_val, SystemExit):  # it does what it would have done at once
            self._deliver(self._received)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}  # not before: a signal may come in the middle of it, and begins it again

    def after_fork_in_child(self) -> None:
        """The signals of a child are its own: it neither finishes the task of its parent nor gives it back."""
        self._received = None
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
            # On a thread of its own, since the interrupted code may hold locks that giving back takes.
            with contextlib.suppress(RuntimeError):  # no thread to be had: the grace has no end but a second signal
                _thread.start_new_thread(self._wait, ())
            return
        self._is_passed_on = True
        previous = self._previous.get(number)
        self._restore()
        if callable(previous):
            previous(number, frame)
        else:
            os.kill(os.getpid(), number)

    def _wait(self) -> None:
        """Give the block the grace period to end."""
        if self._end.wait(self._grace_period_s) or not self._delivers.acquire(blocking=False):
            return
        try:
            self._give_back()
        except Exception as error:  # noqa: BLE001 -- the process was told to go, also if the store refuses
            _log.error("The running task could not be given back: %s", error)
        finally:
            assert self._received is not None  # noqa: S101 -- this thread was started after that
            self._deliver(self._received)
            self._delivery.finish()

    def _deliver(self, number: int) -> None:
        # Not to the process: if another of its threads got the signal, a main thread that sleeps would sleep on.
        if sys.platform == "win32":
            _thread.interrupt_main(number)
        else:
            signal.pthread_kill(self._thread_id, number)


_active: weakref.WeakSet[GracefulShutdown] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    if threading.current_thread() is threading.main_thread():
        for shutdown in list(_active):
            shutdown.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
