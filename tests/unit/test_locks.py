"""Who holds the locks of a store, read from /proc/locks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tilebox_local.storage.locks import find_lock_holders, process_name

if TYPE_CHECKING:
    from pathlib import Path

LOCKS = """\
1: POSIX  ADVISORY  READ  21 08:01:{shm} 123 123
2: POSIX  ADVISORY  READ  22 08:01:{shm} 128 128
3: POSIX  ADVISORY  READ  23 08:01:{shm} 120 EOF
4: POSIX  ADVISORY  WRITE 24 08:01:{shm} 120 120
5: POSIX  ADVISORY  WRITE 25 08:01:{shm} 121 122
6: FLOCK  ADVISORY  WRITE 26 08:01:{lock} 0 EOF
6: -> FLOCK  ADVISORY  WRITE 27 08:01:{lock} 0 EOF
7: FLOCK  ADVISORY  WRITE 28 08:01:1 0 EOF
8: OFDLCK ADVISORY  READ  -1 00:06:1 0 EOF
9: POSIX  ADVISORY  READ  20 08:01:{shm} 126 127
10: POSIX  ADVISORY  WRITE 29 08:01:{db} 1073741824 1073742335
11: POSIX  ADVISORY  WRITE 30 08:01:{db} 0 0
12: POSIX  ADVISORY  READ  31 08:01:{db} 1073741826 1073742335
13: POSIX  ADVISORY  WRITE 32 08:01:{db} 0 EOF
nonsense
"""


def test_lock_holders(tmp_path: Path) -> None:
    """Writers, readers and who is inside of our lock file are told apart by the bytes that SQLite locks."""
    for name in ("store.db", "store.db-shm", "store.db.lock"):
        (tmp_path / name).touch()
    locks = tmp_path / "locks"
    names = {"db": "store.db", "shm": "store.db-shm", "lock": "store.db.lock"}
    numbers = {key: (tmp_path / name).stat().st_ino for key, name in names.items()}
    locks.write_text(LOCKS.format(**numbers))
    holders = find_lock_holders(tmp_path / "store.db", locks)
    assert (holders.writers, holders.inside, holders.readers) == ([24, 29, 32], [26], [20, 21, 23])


def test_nothing_to_look_at(tmp_path: Path) -> None:
    """Without the files, or without /proc/locks, nobody is found."""
    for locks in (tmp_path / "missing", tmp_path):
        holders = find_lock_holders(tmp_path / "store.db", locks)
        assert (holders.writers, holders.inside, holders.readers) == ([], [], [])


def test_names_of_processes() -> None:
    """A process is named by its number and program; this one is just this one, and one that is gone has no program."""
    assert process_name(os.getpid()) == "this process"
    assert process_name(1).startswith("process 1 (")
    assert process_name(2**22 + 1) == f"process {2**22 + 1}"
