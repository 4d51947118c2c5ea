"""Threads, and waits for them, that Ctrl-C may interrupt at any moment, and that can then be repeated.

`Thread.start`, `Thread.join` and `Event.wait` do not survive a KeyboardInterrupt in Python 3.11: whoever is interrupted
in start() does not know whether the thread will run, an interrupted join() takes the thread for one that has ended
(bpo-45274), and an interrupted wait() may release a lock twice.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BackgroundThread", "Completion", "call_in_thread"]

T = TypeVar("T")


class Completion:
    """Something that one thread does and another one waits for."""

    __slots__ = ("_lock", "is_finished")

    def __init__(self) -> None:
        self.is_finished = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def finish(self) -> None:
        """Wake up the thread that waits. Call it once."""
        self.is_finished = True
        self._lock.release()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is finished; whether it is. Any number of threads, each as often as it likes."""
        timeout_s = -1 if timeout_s is None else max(0.0, timeout_s)
        # After Ctrl-C between taking the lock and giving it back, it is finished nevertheless.
        if not self.is_finished and self._lock.acquire(timeout=timeout_s):
            self._lock.release()  # for a wait that a signal handler has interrupted with another one
        return self.is_finished


class BackgroundThread(threading.Thread):
    """A daemon thread. If start() raises, also KeyboardInterrupt, `give_up` says whether it will never run."""

    def __init__(self, target: Callable[[], None], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._claim = threading.Lock()  # whoever takes it first, for good, decides whether it runs
        self._completion = Completion()

    @property
    def is_decided(self) -> bool:
        """Whether it is sure to run, has run, or is given up."""
        return self._claim.locked() or self.is_alive()

    def give_up(self) -> bool:
        """Whether it has not begun to run; then it never will."""
        return self._claim.acquire(blocking=False)

    def run(self) -> None:
        """Unless it is given up, run the target."""
        if self._claim.acquire(blocking=False):
            try:
                super().run()
            finally:
                self._completion.finish()

    def wait_for_end(self, timeout_s: float | None = None) -> bool:
        """Wait until the target has returned; whether it has. Any number of threads, each as often as it likes."""
        if not self._completion.wait(timeout_s):
            return False
        self.join()
        return True


def call_in_thread(function: Callable[[], T], name: str) -> T:
    """Call a function in a thread of its own, and return what it returns, or raise what it raises.

    For what takes locks that a signal handler may wait for: in the main thread it would wait for itself.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 -- raised in the thread that waits
            errors.append(error)

    thread = BackgroundThread(call, name)
    try:
        thread.start()
    except RuntimeError:  # no thread to be had
        if thread.give_up():
            return function()
        raise
    thread.wait_for_end()
    if errors:
        raise errors[0]
    return results[0]
