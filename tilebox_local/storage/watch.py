"""Wake up when a store changes: at once for commits of this process, through watchdog for those of others."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilebox_local.storage.store import Store

__all__ = ["ChangeWatch"]

_BACKSTOP_S = 0.5


class ChangeWatch:
    """Wait for commits. A wake-up is a hint: it may come early, twice, or for nothing. Close it after use."""

    def __init__(self, store: Store) -> None:
        self._event = threading.Event()
        self._writer = store.writer
        self._writer.on_commit.append(self._event.set)
        self._observer: Any = None
        if store.path is not None:
            from watchdog.events import FileSystemEvent, FileSystemEventHandler
            from watchdog.observers import Observer

            wal = f"{store.path}-wal"
            event = self._event

            class Handler(FileSystemEventHandler):
                def on_any_event(self, change: FileSystemEvent) -> None:
                    if change.src_path == wal and change.event_type in ("modified", "created"):
                        event.set()

            observer = Observer()
            try:
                # The folder, not the file: the write-ahead log is deleted and created again.
                observer.schedule(Handler(), str(store.path.parent), recursive=False)
                observer.start()
                self._observer = observer
            except OSError:  # out of inotify watches: the backstop has to do
                self._observer = None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for a change, at most `timeout_s` seconds and at most half a second; whether there was one."""
        found = self._event.wait(_BACKSTOP_S if timeout_s is None else min(timeout_s, _BACKSTOP_S))
        self._event.clear()
        return found

    def wake(self) -> None:
        """End a wait now."""
        self._event.set()

    def close(self) -> None:
        """Stop watching."""
        self._writer.on_commit.remove(self._event.set)
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None
