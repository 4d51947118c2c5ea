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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["MultiprocessingEnd"]

_FINALIZE_FIRST = 100


class MultiprocessingEnd:
    """Close the stores of this process, if multiprocessing has started it, when it ends.

    Args:
        close: Closes all stores of the process. Called at a normal end.
        flush: Commits what is queued. Called on a thread of its own when SIGTERM arrives, unless the program handles
            the signal.
    """

    def __init__(self, close: Callable[[], None], flush: Callable[[], None]) -> None:
        self._close = close
        self._flush = flush
        self._is_registered = False
        self._finalizer: Any = None
        self._pid: int | None = None  # whose finalizer it is

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
            self._finalizer = util.Finalize(None, self._close, exitpriority=_FINALIZE_FIRST)
        is_main_thread = threading.current_thread() is threading.main_thread()
        if is_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, _frame: FrameType | None) -> None:
        """End by the signal as if nobody had handled it, after the commit. A second signal does not wait."""
        signal.signal(number, signal.SIG_DFL)
        # Another thread, since the interrupted code may hold the locks that a commit takes.
        _thread.start_new_thread(self._flush_and_die, (number,))

    def _flush_and_die(self, number: int) -> None:
        try:
            with contextlib.suppress(BaseException):  # there is nobody to raise to
                self._flush()
        finally:
            os.kill(os.getpid(), number)
