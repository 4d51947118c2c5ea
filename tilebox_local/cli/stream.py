"""Long output that is written while it is read, in flat memory."""

from __future__ import annotations

import math
import os
import select
import sys
import tempfile
import time
from typing import IO, TYPE_CHECKING, Self

from tilebox_local.errors import TileboxLocalError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Stream"]

_TOGETHER = 1 << 16  # bytes that are written together, unless the last ones were written long ago
_SOON_S = 0.1
_MEMORY = 1 << 22
_FILE = 1 << 30
# What select() promises to have room for, where it can be asked about pipes.
_CERTAIN = getattr(select, "PIPE_BUF", None)


class Stream:
    """Text for stdout that comes from rows of an open read transaction. Use it in a `with` block around that.

    The write-ahead log cannot start over as long as the transaction is open, so that it must not wait for a pager that
    somebody has left, or for a slow pipe. What stdout does not take at once waits in a temporary file, and is written
    when the rows have been read, at the end of the block. So the time that the output takes is none of the query's.

    With a `deadline` (of time.monotonic()) the file ends at 1 GiB. From then on the reading waits for the output until
    the deadline, when whoever reads the rows is to stop. Without one all that is read has to end by itself.

    Where stdout cannot be asked whether it has room (no file, Windows) the writing waits.
    """

    def __init__(self) -> None:
        self.deadline = math.inf
        self._encoding = sys.stdout.encoding or "utf-8"
        self._descriptor = _descriptor()
        self._leaving = memoryview(b"")  # the oldest bytes; then come those of the file, then these:
        self._waiting = bytearray()
        self._file: IO[bytes] | None = None
        self._read = self._written = 0  # in the file
        self._sent_at = -math.inf

    def __enter__(self) -> Self:
        sys.stdout.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None or isinstance(error, TileboxLocalError):  # what came before a query failed is printed
                self._send(math.inf)
        finally:
            if self._file is not None:
                self._file.close()

    def write(self, text: str) -> None:
        """Print text, whatever the encoding of stdout can show."""
        self._waiting += text.encode(self._encoding, "backslashreplace")
        if len(self._waiting) >= _TOGETHER or time.monotonic() - self._sent_at > _SOON_S:
            self._send(-math.inf)
            if len(self._waiting) > _MEMORY:
                self._put_aside()
            self._sent_at = time.monotonic()

    def _send(self, until: float) -> None:
        """Write what is there, and wait for stdout until then."""
        if self._descriptor is None:
            sys.stdout.write(self._waiting.decode(self._encoding))
            self._waiting.clear()
            return
        while self._leaving or self._refill():
            if until < math.inf:
                left = max(0.0, until - time.monotonic())
                if not select.select([], [self._descriptor], [], left)[1]:
                    return
            end = None if until == math.inf else _CERTAIN
            self._leaving = self._leaving[os.write(self._descriptor, self._leaving[:end]) :]

    def _refill(self) -> bool:
        """Whether there is something to write."""
        if self._file is not None and self._read < self._written:
            self._file.seek(self._read)
            self._leaving = memoryview(self._file.read(_TOGETHER))
            self._read += len(self._leaving)
        else:
            self._read = self._written = 0
            self._leaving, self._waiting = memoryview(self._waiting), bytearray()
        return bool(self._leaving)

    def _put_aside(self) -> None:
        if self._written >= _FILE and self.deadline < math.inf:
            self._send(self.deadline)
            return  # all of it has been written, or it is time to stop
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- closed at the end of the block
        self._file.seek(self._written)
        self._file.write(self._waiting)
        self._written += len(self._waiting)
        self._waiting.clear()


def _descriptor() -> int | None:
    try:
        return sys.stdout.fileno() if _CERTAIN else None
    except (OSError, ValueError, AttributeError):
        return None
