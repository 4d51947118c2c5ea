"""Signals at bad moments: handlers that raise in the middle of a fork, and signals that the main thread overlooks."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["HeldInterrupts", "RepeatedSignal"]

# Those whose handlers raise. Others are left alone, since to replace a handler undoes signal.siginterrupt() and what C
# code, such as faulthandler, has put in its place.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGBREAK")
_RAISING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_REPEAT_EVERY_S = 0.05
_POLL_S = 0.001


class RepeatedSignal:
    """Signals the main thread again and again until it notices.

    Python's handlers run in the main thread, when it next looks. A signal that comes between that look and a wait in C
    is not noticed before the wait ends.
    """

    def __init__(self) -> None:
        self.is_noticed = False
        self._sending = threading.Lock()

    def send(self, number: int, main_thread: int, is_wanted: Callable[[], bool]) -> None:
        """Send the signal until it is noticed, or not wanted any more. In another thread than the main one."""
        while not self.is_noticed and is_wanted():
            with self._sending:
                if not self.is_noticed:
                    signal.pthread_kill(main_thread, number)
            time.sleep(_REPEAT_EVERY_S)

    def notice(self) -> bool:
        """Whether it is the first one. In the handler, which may change then: no other one comes after it."""
        if self.is_noticed:
            return False
        self.is_noticed = True
        with self._sending:
            pass
        return True


class HeldInterrupts:
    """Keeps what the handlers of SIGINT, SIGTERM, SIGHUP and SIGALRM raise for a while; they run as always.

    They do so in the main thread: elsewhere this has no effect.
    """

    def __init__(self) -> None:
        self.are_held = False
        self._raised: BaseException | None = None  # what is kept
        self._pid: int | None = None  # of the process in which it was raised
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._number: int = signal.SIGINT  # of the signal whose handler raised it
        self._previous: Any = None  # handler of that signal
        self._is_to_be_raised = False
        self._is_over = False
        self._repeated = RepeatedSignal()

    def hold(self) -> None:
        """Begin. Raises what a handler raises that comes in the way; then it is to be repeated."""
        if _is_main_thread():
            for number in _RAISING:
                handler = signal.getsignal(number)
                if callable(handler) and handler != self._call:
                    self._handlers[number] = handler
                    try:
                        signal.signal(number, self._call)
                    except ValueError:  # in a program that embeds Python it may be another thread that runs handlers
                        del self._handlers[number]
        self.are_held = True

    def _call(self, number: int, frame: FrameType | None) -> None:
        try:
            self._handlers[number](number, frame)
        except BaseException as error:  # noqa: BLE001 -- it is raised later
            self.keep(error, number)

    def keep(self, error: BaseException, number: int = signal.SIGINT) -> None:
        """Keep what the handler of a signal has raised."""
        self._raised, self._number, self._pid = error, number, os.getpid()

    def let_go(self) -> None:
        """End. What has been kept is raised in the main thread as soon as the calling function has returned.

        In a child that was forked meanwhile, what came before the fork is not raised, as with signals in general.
        """
        while not self._is_over:
            try:
                for number, handler in self._handlers.items():
                    if signal.getsignal(number) == self._call:  # unless a handler has changed it
                        signal.signal(number, handler)
                if self._pid == os.getpid() and not self._is_to_be_raised:
                    self._prepare_to_raise()
                self._is_over = True
            except BaseException as error:  # noqa: BLE001 -- by a handler that is back already
                self._raised, self._pid = error, os.getpid()

    def _prepare_to_raise(self) -> None:
        handler = signal.getsignal(self._number)
        if handler != self._raise:  # else it was interrupted
            self._previous = handler or signal.SIG_DFL
            signal.signal(self._number, self._raise)
        self._is_to_be_raised = True
        with contextlib.suppress(RuntimeError):  # no thread to be had: the next signal has to do
            _thread.start_new_thread(self._deliver, (threading.get_ident(),))

    def _deliver(self, main_thread: int) -> None:
        while not self._is_over:
            time.sleep(_POLL_S)
        self._repeated.send(self._number, main_thread, lambda: signal.getsignal(self._number) == self._raise)

    def _raise(self, number: int, _frame: FrameType | None) -> None:
        if self._is_over and self._repeated.notice():
            signal.signal(number, self._previous)
            assert self._raised is not None  # noqa: S101 -- or it would not be delivered
            raise self._raised.with_traceback(None)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
