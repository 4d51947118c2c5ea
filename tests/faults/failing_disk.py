"""A disk that fails at the n-th call of a kind, once or until it is healed.

`FailingDisk` is a VFS of SQLite over the usual one, and fails what SQLite asks of files. `FailingKernel` fails system
calls of the usual VFS, which is the only way to those for the shared memory of the log.
"""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

import apsw

if TYPE_CHECKING:
    from collections.abc import Callable


class Fault:
    """Which call is to fail. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.heal()

    def arm(self, call: str, number: int, code: int, *, sticky: bool) -> None:
        """Let the `number`-th `call` from now on fail with `code`; if `sticky`, all those after it, too."""
        with self._lock:
            self._call, self._number, self._code, self._is_sticky = call, number, code, sticky
            self._count = 0
            self.fired_count = 0

    def heal(self) -> None:
        """From now on everything works."""
        self._call: str | None = None
        self.fired_count = 0

    def disarm(self) -> int:
        """As `heal`; how many calls have failed."""
        with self._lock:
            fired_count = self.fired_count
            self.heal()
            return fired_count

    def due(self, call: str) -> int | None:
        """The code with which this call is to fail, if it is to fail."""
        with self._lock:
            if call != self._call:
                return None
            self._count += 1
            if self._count == self._number or (self._is_sticky and self._count > self._number):
                self.fired_count += 1
                return self._code
            return None

    def check(self, call: str) -> None:
        """Raise apsw's error for this call, if it is to fail."""
        code = self.due(call)
        if code is not None:
            raise apsw.exception_for(code)


class FailingDisk(apsw.VFS):
    """The default VFS of this process from now on."""

    def __init__(self, fault: Fault) -> None:
        super().__init__("failing", "unix", makedefault=True)
        self._fault = fault

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        """Open a file."""
        self._fault.check("xOpen")
        return _FailingFile(self._fault, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """Delete a file."""
        self._fault.check("xDelete")
        super().xDelete(filename, syncdir)


class _FailingFile(apsw.VFSFile):
    def __init__(self, fault: Fault, name: Any, flags: list[int]) -> None:
        self._fault = fault
        super().__init__("unix", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._fault.check("xRead")
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._fault.check("xWrite")
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._fault.check("xTruncate")
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._fault.check("xSync")
        super().xSync(flags)


_long, _pointer, _int = ctypes.c_long, ctypes.c_void_p, ctypes.c_int
# Result, arguments, and what says that it failed.
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...], Any]] = {
    "open": (_int, (_pointer, _int, _int), -1),
    "ftruncate": (_int, (_int, _long), -1),
    "mmap": (_pointer, (_pointer, _long, _int, _int, _int, _long), _pointer(-1).value),
    "pwrite64": (_long, (_int, _pointer, _long, _long), -1),
    "pread64": (_long, (_int, _pointer, _long, _long), -1),
}


class FailingKernel:
    """System calls of SQLite that fail with an errno. Install it before the first store is opened."""

    def __init__(self, fault: Fault) -> None:
        self._vfs = apsw.VFS("probe", "unix")
        self._callbacks: list[Any] = []  # SQLite goes on calling them
        for call, (result, arguments, failure) in _SIGNATURES.items():
            kind = ctypes.CFUNCTYPE(result, *arguments, use_errno=True)
            real = kind(self._vfs.xGetSystemCall(call))
            callback = kind(_failing(fault, call, real, failure))
            self._callbacks.append(callback)
            assert self._vfs.xSetSystemCall(call, ctypes.cast(callback, _pointer).value)


def _failing(fault: Fault, call: str, real: Callable[..., Any], failure: Any) -> Callable[..., Any]:
    def call_or_fail(*arguments: Any) -> Any:
        code = fault.due(call)
        if code is None:
            return real(*arguments)
        ctypes.set_errno(code)
        return failure

    return call_or_fail
