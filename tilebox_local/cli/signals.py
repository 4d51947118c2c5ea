"""SIGTERM and SIGHUP end a command in an orderly way: a store that is not closed counts as a crash."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["ToldToEndError", "ends_when_told"]


class ToldToEndError(SystemExit):
    """A signal has told the process to end. The exit code is that of a process that it has killed, in a shell."""


def _end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise ToldToEndError(128 + number)


def _pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    signal.raise_signal(signal.SIGTERM)  # which a runner waits for, to give its task back


@contextmanager
def ends_when_told() -> Iterator[None]:
    """Within the block, SIGTERM raises ToldToEndError, and SIGHUP is one; not if somebody (nohup) handles them."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for name, handler in (("SIGTERM", _end), ("SIGHUP", _pass_on)):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)
