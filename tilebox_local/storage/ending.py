"""How a process of multiprocessing ends: without atexit, and those of a Pool by SIGTERM as a matter of course.

Other processes end with atexit, which the store uses directly. One that dies of a signal, or of os._exit(), loses what
is not committed yet: what was appended within about the last 50 ms.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from tilebox_local.storage.signals import RepeatedSignal

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["MultiprocessingEnd"]

_FINALIZE_FIRST = 100
_PATIENCE_S = 0.05


class MultiprocessingEnd:
    """Close the stores of this process, if multiprocessing has started it, when it ends.

    Args:
        close: Closes all stores of the process. Called at a normal end, when no thread but daemons is left.
        flush: Commits what is queued. Called on a thread of its own when SIGTERM arrives, unless the program handles
            the signal.
    """

    def __init__(self, close: Callable[[], None], flush: Callable[[], None]) -> None:
        self._close = close
        self._flush = flush
        self._is_registered = False
        self._finalizer: Any = None
        self._pid: int | None = None  # whose finalizer it is
        self._ending: threading.Thread | None = None
        self._repeated = RepeatedSignal()
        self._pipe: tuple[int, int] | None = None  # to which Python writes the signals that come
        self._is_blocked = False  # SIGTERM, by a fork

    def prepare(self) -> None:
        """Make sure of the end of this process. Called when a store is opened, and in every forked child."""
        util = sys.modules.get("multiprocessing.util")
        process = sys.modules.get("multiprocessing.process")
        if util is None or process is None:
            return
        self._register(util)  # a forked child drops its finalizers before it begins to work
        is_importing_main = getattr(process.current_process(), "_inheriting", False)
        if is_importing_main or process.parent_process() is not None:
            self._begin(util)

    def _register(self, util: Any) -> None:
        if not self._is_registered:
            self._is_registered = True
            util.register_after_fork(self, lambda self: self._begin(util))

    def _begin(self, util: Any) -> None:
        if self._pid != os.getpid() or not self._finalizer.still_active():
            self._pid = os.getpid()
            self._finalizer = util.Finalize(None, self._end, exitpriority=_FINALIZE_FIRST)
            if getattr(util, "_exiting", False):  # a thread that goes on has opened its first store
                with contextlib.suppress(RuntimeError):  # no thread to be had
                    self._start_ending()
        if not _is_main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and not self._repeated.is_noticed:
            signal.signal(signal.SIGTERM, self._terminate)
        if self._is_handler() and self._pipe is None:
            self._watch()

    def _end(self) -> None:
        """multiprocessing calls its finalizers before it waits for threads, which may still be at work."""
        if _other_threads():
            with contextlib.suppress(RuntimeError):  # no thread to be had
                self._start_ending()
                return
        self._close()

    def _start_ending(self) -> None:
        if self._ending is None or not self._ending.is_alive():  # two would wait for each other
            self._ending = threading.Thread(target=self._end_after_threads, name="tilebox-local-end", daemon=False)
            self._ending.start()

    def _end_after_threads(self) -> None:
        with contextlib.suppress(RuntimeError, AssertionError):  # not one that Python knows
            threading.main_thread().join()
        while threads := _other_threads():
            for thread in threads:
                thread.join()
        self._close()

    def _is_handler(self) -> bool:
        return signal.getsignal(signal.SIGTERM) == self._terminate

    def _watch(self) -> None:
        """Start a thread that sees to it that the main thread notices SIGTERM.

        If it were overlooked by a worker that waits for its next task, Pool.terminate() would wait for ever.
        """
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        other = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        if other != -1:
            signal.set_wakeup_fd(other)  # an event loop's, which wakes up by it
        else:
            try:
                _thread.start_new_thread(self._repeat, (reading, threading.get_ident()))
            except RuntimeError:  # no thread to be had
                signal.set_wakeup_fd(-1)
            else:
                self._pipe = reading, writing
                return
        os.close(reading)
        os.close(writing)

    def _repeat(self, reading: int, main_thread: int) -> None:
        while not self._repeated.is_noticed:
            try:
                numbers = os.read(reading, 512)
            except OSError:
                return  # the program has closed all files that it did not know
            if signal.SIGTERM in numbers:
                time.sleep(_PATIENCE_S)  # it is hardly ever overlooked
                self._repeated.send(signal.SIGTERM, main_thread, self._is_handler)

    def before_fork(self) -> None:
        """Block SIGTERM in the thread that forks, and so in the child.

        Until it has a pipe of its own, the child would write it to the pipe of its parent, which would end itself; and
        Python forgets what comes to a child before its hooks are called.
        """
        if self._pid == os.getpid():
            self._is_blocked = signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._is_blocked:
            self._is_blocked = False
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def after_fork_in_child(self) -> None:
        """The pipe and the thread are the parent's. `prepare` is still to be called."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            other = signal.set_wakeup_fd(-1)
            if other not in (-1, pipe[1]):
                signal.set_wakeup_fd(other)
        for fd in pipe or ():
            with contextlib.suppress(OSError):
                os.close(fd)
        self._repeated = RepeatedSignal()
        self.after_fork_in_parent()

    def _terminate(self, number: int, _frame: FrameType | None) -> None:
        """End by the signal as if nobody had handled it, after the commit. A second signal does not wait."""
        if not self._repeated.notice():
            return
        signal.signal(number, signal.SIG_DFL)
        # Another thread, since the interrupted code may hold the locks that a commit takes.
        _thread.start_new_thread(self._flush_and_die, (number,))

    def _flush_and_die(self, number: int) -> None:
        try:
            with contextlib.suppress(BaseException):  # there is nobody to raise to
                self._flush()
        finally:
            os.kill(os.getpid(), number)


def _other_threads() -> list[threading.Thread]:
    """Those that Python waits for before it ends, but for the main thread and the current one."""
    known = (threading.main_thread(), threading.current_thread())
    return [thread for thread in threading.enumerate() if not (thread.daemon or thread in known)]


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
