"""A wait for another thread that Ctrl-C may interrupt, and that can then be repeated."""

from __future__ import annotations

import threading

__all__ = ["Completion"]


class Completion:
    """Something that one thread does and another one waits for.

    Instead of `Thread.join` and `Event.wait`, which do not survive a KeyboardInterrupt in Python 3.11: an interrupted
    join() takes the thread for one that has ended (bpo-45274), and an interrupted wait() may release a lock twice.
    """

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
        """Wait until it is finished; whether it is. One thread at a time; as often as it likes."""
        # Ctrl-C may have come after an earlier wait had taken the lock, or before finish() could release it.
        timeout_s = -1 if timeout_s is None else max(0.0, timeout_s)
        return self.is_finished or self._lock.acquire(timeout=timeout_s) or self.is_finished
