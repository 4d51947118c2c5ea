"""Who holds the locks of a store, for messages to people: /proc/locks by inode (Linux; elsewhere nobody is found)."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["LockHolders", "find_lock_holders", "process_name"]

# Bytes of the shared memory file that SQLite locks in WAL mode (https://sqlite.org/walformat.html, section 2.2).
_WRITE_BYTE = 120
_FIRST_READER_BYTE, _LAST_READER_BYTE = 123, 127
_PENDING_BYTE = 0x40000000  # the first of the bytes of the database that SQLite locks


class LockHolders:
    """Pids, ascending: who writes, who waits inside of our lock file, who is in the middle of reading."""

    __slots__ = ("inside", "readers", "writers")

    def __init__(self, writers: set[int], inside: set[int], readers: set[int]) -> None:
        self.writers = sorted(writers)
        self.inside = sorted(inside)
        self.readers = sorted(readers)


def find_lock_holders(path: Path, locks: Path = Path("/proc/locks")) -> LockHolders:
    """Processes that hold locks of the store at `path` right now. Never raises."""
    writers: set[int] = set()
    inside: set[int] = set()
    readers: set[int] = set()
    database, shared_memory, lock_file = _inode(str(path)), _inode(f"{path}-shm"), _inode(f"{path}.lock")
    try:
        lines = locks.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields = line.split()
        if len(fields) < 8 or fields[1] == "->":  # "->": waits for the lock of the line before
            continue
        _, kind, _, mode, pid, place, first, last = fields[:8]
        inode = place.rpartition(":")[2]
        if kind == "FLOCK" and inode == lock_file:
            inside.add(int(pid))
        elif kind == "POSIX" and inode == database and mode == "WRITE":
            # With locking_mode=exclusive there is no shared memory. Other bytes than SQLite's may be locked at will.
            if last == "EOF" or int(last) >= _PENDING_BYTE:
                writers.add(int(pid))
        elif kind == "POSIX" and inode == shared_memory:
            end = _LAST_READER_BYTE if last == "EOF" else int(last)
            if mode == "WRITE" and int(first) <= _WRITE_BYTE <= end:
                writers.add(int(pid))
            elif mode == "READ" and int(first) <= _LAST_READER_BYTE and end >= _FIRST_READER_BYTE:
                readers.add(int(pid))
    return LockHolders(writers, inside, readers)


def process_name(pid: int) -> str:
    """How to name a process to people: "process 12 (python3)", "this process"."""
    if pid == os.getpid():
        return "this process"
    try:
        return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    except OSError:
        return f"process {pid}"


def _inode(path: str) -> str | None:
    try:
        return str(os.stat(path).st_ino)  # noqa: PTH116 -- stat does not open the file, which would be dangerous
    except OSError:
        return None
