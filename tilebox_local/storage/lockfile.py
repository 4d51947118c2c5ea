"""The turnstile: a lock file beside the store that writers pass one after the other.

SQLite's own lock is unfair: a waiter polls, and is mostly asleep when the lock frees. `flock` queues waiters in the
kernel, wakes them at once, and frees the lock of a process that dies. It guards creation and migration, too.

The file also holds 128 KiB of the disk in reserve. Without the -shm file, as after a reboot, even reading needs room
for a new one: on a full disk the reserve is what it is made of.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows: SQLite's own lock and its busy handler have to do
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LockFile"]

_RETRY_NS = 100_000
_NOTE_BYTES = 128  # kept when the reserve is given up
_PATIENCE_S = 5.0
_POLL_S = 0.002
_RESERVE_BYTES = 128 * 1024  # four times what SQLite allocates of the -shm file at a time


class LockFile:
    """Exclusive between processes and between threads. `path=None` locks between threads only (in-memory stores)."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._fd: int | None = None
        self._is_new = False
        self._is_closed = False
        self._lock = threading.Lock()
        self.wait_count = 0  # times that somebody else was inside
        self.wait_duration_ns = 0

    def _descriptor(self) -> int | None:
        if self._fd is None and self._path is not None and fcntl is not None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                self._fd = os.open(self._path, flags | os.O_EXCL, 0o600)
                self._is_new = True
            except FileExistsError:
                self._fd = os.open(self._path, flags, 0o600)
        return self._fd

    def read_note(self) -> bytes:
        """What `write_note` wrote last, also in another process; b"" if nothing."""
        if self._path is None:
            return b""
        if self._fd is not None:
            return os.pread(self._fd, _NOTE_BYTES, 0)
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return b""
        try:
            return os.read(fd, _NOTE_BYTES)
        finally:
            os.close(fd)

    def write_note(self, note: bytes) -> None:
        """Keep a note of always the same length, at most 128 bytes, in the file. Inside of the lock."""
        if self._fd is not None:
            os.pwrite(self._fd, note, 0)

    def erase_note(self) -> None:
        """Make `read_note` find nothing but zeros. Inside of the lock."""
        if self._fd is not None:
            os.pwrite(self._fd, bytes(_NOTE_BYTES), 0)

    def sync_note(self) -> None:
        """Wait until the note is on the disk."""
        if self._fd is not None:
            os.fsync(self._fd)

    @contextlib.contextmanager
    def held(self, *, is_urgent: bool = False, on_slow: Callable[[], object] | None = None) -> Iterator[None]:
        """Wait for the lock, as long as it takes, and hold it inside the block. Not reentrant.

        `is_urgent`: a thread waits for what is done inside, so try again for a moment before going to sleep: the lock
        is held for as long as it takes to wake a thread up. `on_slow`: called once when it takes some seconds.
        """
        with self._inside() as fd:
            if fd is None:
                yield
                return
            try:  # from the start: Ctrl-C may come between taking it and whatever is next
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    self.wait_count += 1
                    begun = time.monotonic_ns()
                    if not (is_urgent and self._retry(fd)) and not (on_slow and self._wait_a_while(fd, on_slow)):
                        fcntl.flock(fd, fcntl.LOCK_EX)
                    self.wait_duration_ns += time.monotonic_ns() - begun
                yield
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def held_if_free(self) -> Iterator[bool]:
        """Hold the lock inside the block if nobody else does; whether that is so."""
        with self._inside() as fd:
            if fd is None:
                yield True
                return
            try:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_free = True
                except OSError:
                    is_free = False
                yield is_free
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[int | None]:
        """No other thread is inside of the block. The descriptor, if there is one."""
        try:
            with self._lock:
                yield self._descriptor()
        finally:
            if self._is_closed:
                self.close()

    def _retry(self, fd: int) -> bool:
        """Try for the time of a short transaction, giving way to whoever wants the processor."""
        deadline = time.monotonic_ns() + _RETRY_NS
        while time.monotonic_ns() < deadline:
            os.sched_yield()
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        return False

    def _wait_a_while(self, fd: int, on_slow: Callable[[], object]) -> bool:
        """Try for some seconds, then tell."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            time.sleep(_POLL_S)
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        on_slow()
        return False

    def reserve(self) -> None:
        """Make sure of the reserve, if there is room for it. Only while the lock is held. Raises nothing."""
        fd = self._fd
        if fd is None or not hasattr(os, "posix_fallocate"):
            return
        with contextlib.suppress(OSError):
            if _allocated_bytes(fd) >= _RESERVE_BYTES:
                return
            try:
                os.posix_fallocate(fd, 0, _RESERVE_BYTES)  # changes no content
            except OSError:
                os.ftruncate(fd, _NOTE_BYTES)  # part of it may have been allocated
                raise

    def release_reserve(self) -> bool:
        """Give the reserve to whoever needs room. Only while the lock is held. False if there was none."""
        fd = self._fd
        if fd is None:
            return False
        try:
            if _allocated_bytes(fd) < _RESERVE_BYTES:
                return False
            os.ftruncate(fd, _NOTE_BYTES)
        except OSError:
            return False
        return True

    def remove_if_new(self) -> None:
        """Take back a lock file that this object has created, beside a file that turned out not to be a store."""
        if self._is_new and self._path is not None:
            with contextlib.suppress(OSError):
                Path(self._path).unlink()

    def close(self) -> None:
        """Close the descriptor; the file stays, since another process may wait on it.

        A thread that waits for the lock, or holds it, closes the descriptor when it is done: its number would be given
        to another file, whose lock that thread would release in the end.
        """
        self._is_closed = True
        if not self._lock.locked():
            with self._lock:  # no acquire(): Ctrl-C after it would leave the lock locked
                self._close_descriptor()

    def _close_descriptor(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def after_fork_in_child(self) -> None:
        """Forget the parent's lock: a flock belongs to the open file, which parent and child share."""
        self._lock = threading.Lock()
        with contextlib.suppress(OSError):
            self._close_descriptor()


def _allocated_bytes(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512
