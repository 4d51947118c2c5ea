"""Which process this is, and whether another one still lives.

A process is named by its pid, start time, boot and pid namespace together: pids alone are given out again.
"""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from tilebox_local import clock

__all__ = ["ProcessIdentity", "is_dead", "process_identity"]


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Names one process of one boot; empty strings where the platform does not tell."""

    host: str
    pid: int
    process_start: str
    boot_id: str
    pid_namespace: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def process_identity() -> ProcessIdentity:
    """This process."""
    return _identity_of(os.getpid())


@functools.lru_cache(maxsize=1)  # keyed by pid: a forked child is somebody else
def _identity_of(pid: int) -> ProcessIdentity:
    try:
        process_start = _process_start(pid) or ""
    except OSError:
        process_start = ""
    return ProcessIdentity(platform.node(), pid, process_start, clock.boot_id(), _pid_namespace())


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """Start time of a process in kernel ticks; None if there is no such process, or only its exit status is left.

    Raises OSError: this process cannot look, since it has no file descriptor left, say, or may not (hidepid).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        try:
            os.kill(pid, 0)  # sends nothing
        except ProcessLookupError:
            return None
        raise
    # The command name in parentheses may contain anything, so count fields from its end (proc(5)).
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def is_dead(process: ProcessIdentity) -> bool | None:
    """Whether a process is gone; None if this one cannot tell."""
    here = process_identity()
    if process.boot_id and here.boot_id and process.boot_id != here.boot_id:
        return True  # a store is used on one machine, which has been restarted since
    if not process.process_start or (process.boot_id, process.pid_namespace) != (here.boot_id, here.pid_namespace):
        return None
    try:
        return _process_start(process.pid) != process.process_start
    except OSError:
        return None
