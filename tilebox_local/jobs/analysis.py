"""The questions of `client.jobs()` about why jobs took as long as they did; see docs/analysis.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilebox_local.storage.store import Store

__all__ = ["JobAnalysis"]


class JobAnalysis:
    """Analysis of jobs; part of JobClient. Sees what was recorded before the call. Thread-safe.

    Args:
        open_store: Gives the store, or raises StoreClosedError once the client is closed.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store

    @property
    def _store(self) -> Store:
        return self._open_store()
