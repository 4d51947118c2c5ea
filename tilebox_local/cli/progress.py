"""A bar on stderr while somebody waits, which is gone afterwards.

Not click's: that is drawn from the first moment, has one length and one label, and stays in its line.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilebox_local.cli.session import Session
    from tilebox_local.upkeep.progress import Progress, Report

__all__ = ["Bar", "can_draw", "progress_bar"]

_CELLS = 30
_AFTER_S = 0.5  # what is done by then needs no bar
_EVERY_S = 0.1


def can_draw(session: Session) -> bool:
    """Whether stderr is a terminal that can draw a bar, and wanted."""
    return sys.stderr.isatty() and not session.is_quiet and os.environ.get("TERM") != "dumb"


class Bar:
    """One line on stderr that changes."""

    def __init__(self) -> None:
        self._shown = ""

    def draw(self, done: int, total: int, text: str) -> None:
        """Show `done` of `total` with a text, as far as there is room."""
        filled = _CELLS * done // max(1, total)
        room = shutil.get_terminal_size().columns - 1  # in the last column the line would wrap
        line = f"[{'#' * filled}{'.' * (_CELLS - filled)}] {text}"
        line = line if len(line) <= room else text[: max(0, room)]
        if line != self._shown:
            self._shown = line
            sys.stderr.write(f"\r{line}\x1b[K")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._shown = ""
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextmanager
def progress_bar(session: Session) -> Iterator[Report | None]:
    """What draws the progress of the block, if it takes a while; None if nothing is to be drawn."""
    if not can_draw(session):
        yield None
        return
    bar = Bar()
    next_s = time.monotonic() + _AFTER_S

    def report(progress: Progress) -> None:
        nonlocal next_s
        now = time.monotonic()
        if now >= next_s:
            next_s = now + _EVERY_S
            text = f"{progress.step} {progress.done:,}/{progress.total:,} {progress.unit}"
            bar.draw(progress.done, progress.total, text)

    try:
        yield report
    finally:
        bar.clear()
