"""Wake up when a store changes: at once for commits of this process, through watchdog for those of others."""

from __future__ import annotations

import contextlib
import os
import sys
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilebox_local.storage.store import Store

__all__ = ["ChangeWatch"]

_BACKSTOP_S = 0.5
# The log changes a moment before what was written can be seen, and nothing tells when it can: so look again.
_LOOK_AGAIN_S = (0.001, 0.005, 0.02, 0.1)
_END_TIMEOUT_S = 1.0


class ChangeWatch:
    """Wait for commits, in one thread. A wake-up is a hint: it may come early, more than once, or for nothing.

    Close it after use.
    """

    def __init__(self, store: Store) -> None:
        # Not an Event: `wake` is called from signal handlers, which may interrupt a wait of the same thread.
        self._changes: SimpleQueue[None] = SimpleQueue()
        self._look_again: list[float] = []
        self._writer = store.writer
        self._pid = os.getpid()
        self._writer.on_commit.append(self.wake)
        self._observer: Any = None
        if store.path is not None:
            from watchdog.events import FileSystemEvent, FileSystemEventHandler
            from watchdog.observers import Observer

            self._folder = str(store.path.parent)
            wal = f"{store.path}-wal"
            wake = self.wake

            class Handler(FileSystemEventHandler):
                def on_any_event(self, change: FileSystemEvent) -> None:
                    if change.src_path == wal and change.event_type in ("modified", "created"):
                        wake()

            observer: Any = None
            try:
                observer = Observer()
                # The folder, not the file: the write-ahead log is deleted and created again.
                observer.schedule(Handler(), self._folder, recursive=False)
                observer.start()
                self._observer = observer
            except OSError:  # out of inotify instances or watches: the backstop has to do
                if observer is not None:
                    observer.stop()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for a change, at most `timeout_s` seconds and at most half a second; after one, for its sequel."""
        again_s = self._look_again.pop(0) if self._look_again else _BACKSTOP_S
        with contextlib.suppress(Empty):
            self._changes.get(timeout=min(again_s, _BACKSTOP_S, _BACKSTOP_S if timeout_s is None else timeout_s))
            self._look_again = list(_LOOK_AGAIN_S)
            while True:
                self._changes.get_nowait()

    def wake(self) -> None:
        """End a wait now, or the next one. Reentrant."""
        self._changes.put(None)

    def close(self) -> None:
        """Stop watching."""
        self._writer.on_commit.remove(self.wake)
        # A forked child has none of the threads, and shares what the parent's wait for.
        if self._observer is not None and self._pid == os.getpid():
            self._end_emitters()
            self._observer.stop()
            self._observer.join()
            self._observer = None

    def _end_emitters(self) -> None:
        """Let watchdog's threads end by themselves.

        Its `stop` takes away what a thread reads changes from, also while the thread is about to do so, which then logs
        an error. A thread that is told to end before leaves its loop with the next change.
        """
        if sys.platform != "linux":
            return
        for emitter in self._observer.emitters:
            emitter.stopped_event.set()
        try:
            os.close(os.open(self._folder, os.O_RDONLY))  # a change, as far as inotify is concerned
        except OSError:
            return  # it is gone
        for emitter in self._observer.emitters:
            emitter.join(_END_TIMEOUT_S)
