"""The guard: keeps other libraries of this process from opening the files of a store that it has open.

POSIX gives a lock to a process, not to a descriptor: when a process closes any descriptor of a file, all locks that it
holds on that file are gone. Two SQLite libraries in one process (apsw's and the one of the standard library) do not
know of each other, so a `sqlite3.connect(...)` that only reads destroys a store in use, and so does
`open(...).close()`. Other processes may do both.

How it works: an audit hook, installed when the process first opens a store, sees `sqlite3.connect` and `open` before
they happen, and refuses what has the device and inode of a guarded file. The files are told by os.stat, which opens
nothing; so symbolic links, hard links, relative paths and `file:` URIs make no difference. What was open before the
store is found among the descriptors of the process. A file is guarded until the last connection of ours is gone.

What it cannot see:
- Libraries that open files in C: DuckDB's sqlite extension, polars and connectorx, ADBC, GDAL (GeoPackage), pysqlite3,
  sqlean, memory maps of pyarrow. Give them a snapshot, or let another process run them.
- ATTACH on a connection of the standard library's sqlite3 to another file.
- `os.open(name, dir_fd=...)` through a link whose name differs from the file's.
- Subinterpreters, which have audit hooks of their own.
- An open that another thread begins in the microseconds in which the store is opened for the first time.

The environment variable TILEBOX_LOCAL_GUARD=off switches it off for stores that are opened from then on. That is
dangerous: the next foreign open can lose committed rows or corrupt the file.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from tilebox_local.errors import ForeignOpenError, StoreError

__all__ = [
    "after_fork_in_child",
    "after_fork_in_parent",
    "before_fork",
    "fork_error",
    "guard",
    "refuse_inherited",
    "release",
]

_VARIABLE = "TILEBOX_LOCAL_GUARD"
_SIDE_FILES = ("-wal", "-shm")
_DESCRIPTORS = ("/proc/self/fd", "/dev/fd")

_Identity = tuple[int, int]  # device and inode


class _Guarded:
    """One file under guard."""

    __slots__ = ("identity", "is_inherited", "path", "users")

    def __init__(self, path: str, identity: _Identity) -> None:
        self.path = path
        self.identity = identity
        self.users: weakref.WeakSet[object] = weakref.WeakSet()  # weak: Ctrl-C may come before one is known to anybody
        self.is_inherited = False  # open connections came with a fork: this process must not use the file


_lock = threading.RLock()
_guarded: dict[_Identity, _Guarded] = {}
_identities: dict[_Identity, _Guarded] = {}  # of all three files of each; replaced as a whole, read without the lock
_names: frozenset[str] = frozenset()  # of the same files
_is_incomplete = False  # a log or shared memory is not there yet, or was not when we looked
_is_installed = False


def guard(path: Path, user: object) -> None:
    """Refuse foreign opens of the existing file at `path`, in this process, from now on, unless switched off.

    It lasts until each of its users has called `release`; or longer, until the last open connection is closed.

    Raises:
        ForeignOpenError: this process has the file open already, not through this package.
        StoreError: the process was forked while its parent had the file open.
    """
    global _is_installed
    if os.environ.get(_VARIABLE, "").lower() == "off":
        return
    status = path.stat()
    identity = status.st_dev, status.st_ino
    with _lock:
        if not _is_installed:
            sys.addaudithook(_audit)
            _is_installed = True
        _forget_unused()
        found = _guarded.get(identity)
        if found is None:
            found = _guarded[identity] = _Guarded(str(path), identity)
            _refresh()  # first refuse what comes, then look for what is there
            descriptors = _descriptors(_identities_of(found))
            if descriptors:
                del _guarded[identity]
                _refresh()
                raise _already_open(str(path), descriptors)
        refuse_inherited(path)
        found.users.add(user)


def refuse_inherited(path: Path) -> None:
    """Raises StoreError: the process was forked while its parent had the file open."""
    found = None
    if _guarded:
        with contextlib.suppress(OSError):
            status = path.stat()
            found = _guarded.get((status.st_dev, status.st_ino))
    if found is not None and found.is_inherited:
        raise fork_error(str(path))


def release(user: object) -> None:
    """One user less, if it was one."""
    with _lock:
        for one in list(_guarded.values()):
            one.users.discard(user)
        _forget_unused()


def fork_error(path: str) -> StoreError:
    """The error of a child whose parent could not let go of the store before the fork."""
    return StoreError(
        f"{path} cannot be used in this process: it was forked while the store was in use.",
        hint="Fork while no thread reads or commits, or start the process with multiprocessing's 'spawn'.",
    )


def before_fork() -> None:
    """Keep other threads out: who opens a file in the child, in whatever hook, would wait for them for ever."""
    _lock.acquire()


def after_fork_in_parent() -> None:
    """Go on."""
    _lock.release()


def after_fork_in_child() -> None:
    """The parent's open connections, if there are any, make their files unusable here."""
    global _lock
    _lock = threading.RLock()
    for found in list(_guarded.values()):
        if _descriptors(_identities_of(found)):
            found.is_inherited = True
    _refresh()


# -- the hook ---------------------------------------------------------------------------------------------------


def _audit(event: str, arguments: tuple[Any, ...], _stat: Any = os.stat) -> None:
    """Runs for every audit event of the process: nearly all of them have to leave at once."""
    if not _identities:
        return
    if event == "open":
        path = arguments[0]
        if path.__class__ is not int:  # a descriptor: it is open already
            _check(event, path, _stat)
            if arguments[1] is None:  # os.open; the event does not tell its dir_fd
                _check_relative(path)
    elif event == "sqlite3.connect":
        _check(event, arguments[0], _stat)
        path = _uri_path(arguments[0])
        if path is not None:
            _check(event, path, _stat)


def _check(event: str, path: Any, _stat: Any) -> None:
    if _is_incomplete:
        _refresh()
    try:
        status = _stat(path)
    except (OSError, ValueError, TypeError):
        return  # not there, or not a path: whoever opens it finds out
    identity = status.st_dev, status.st_ino
    if identity in _identities:
        _refuse(event, identity)
    elif path.__class__ is str and path.endswith(_SIDE_FILES):  # made again since we looked
        _refresh()
        if identity in _identities:
            _refuse(event, identity)


def _refuse(event: str, identity: _Identity) -> None:
    with _lock:
        _forget_unused()
        _refresh()  # a log that was deleted may have left its inode to another file
        found = _identities.get(identity)
    if found is None:
        return
    call, instead = "sqlite3.connect", "client.sql('select ...'), or client.connect_readonly() for a connection"
    if event == "open":
        call, instead = "open", "client.snapshot('copy.db') for a copy, client.sql('select ...') to read it"
    raise ForeignOpenError(
        f"{call}() of {found.path} was refused: a tilebox-local client of this process has it open, and closing it "
        "again would drop the client's locks and can corrupt the file.",
        hint=f"Use {instead}, or another process.",
    )


def _uri_path(database: Any) -> Any:
    """The file that SQLite opens for a `file:` URI; None if it is none."""
    try:
        uri = os.fsencode(database)
    except TypeError:
        return None
    if not uri.startswith(b"file:"):
        return None
    path = uri[len(b"file:") :].split(b"#", 1)[0].split(b"?", 1)[0]
    if path.startswith(b"//"):
        path = b"/" + path[2:].partition(b"/")[2]
    return os.fsdecode(unquote_to_bytes(path).split(b"\0", 1)[0])


def _check_relative(path: Any) -> None:
    """Look for a relative path in all directories that are open, since any of them may be meant."""
    try:
        name = os.fsdecode(path)
    except TypeError:
        return
    if name.startswith("/") or name.rpartition("/")[2] not in _names:
        return
    for descriptor in _open_descriptors():
        try:
            status = os.stat(name, dir_fd=descriptor)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in _identities:
            _refuse("open", (status.st_dev, status.st_ino))


# -- which files ------------------------------------------------------------------------------------------------


def _refresh() -> None:
    """Look again which files belong to the guarded ones."""
    global _identities, _names, _is_incomplete
    with _lock:
        found: dict[_Identity, _Guarded] = {}
        names: set[str] = set()
        for one in list(_guarded.values()):
            if one.is_inherited:
                continue  # this process has no locks that could be dropped
            found |= dict.fromkeys(_identities_of(one), one)
            names |= {Path(one.path).name + suffix for suffix in ("", *_SIDE_FILES)}
        _identities, _names = found, frozenset(names)
        _is_incomplete = len(found) < len(names)


def _identities_of(one: _Guarded) -> set[_Identity]:
    """The file that was opened, and what is at its path and beside it now."""
    found = {one.identity}
    for suffix in ("", *_SIDE_FILES):
        try:
            status = os.stat(one.path + suffix)  # noqa: PTH116 -- no Path: its names may be gone at exit
        except OSError:
            continue
        found.add((status.st_dev, status.st_ino))
    return found


def _forget_unused() -> None:
    """Stop guarding files without users and without connections that outlive their store."""
    unused = [one for one in list(_guarded.values()) if not (one.users or one.is_inherited)]
    for one in unused:
        if not _descriptors({one.identity}):
            _guarded.pop(one.identity, None)  # unless a signal handler was faster
    if unused:
        _refresh()


def _open_descriptors() -> list[int]:
    for folder in _DESCRIPTORS:
        try:
            return [int(name) for name in os.listdir(folder)]  # noqa: PTH208
        except OSError:
            continue
    return []


def _descriptors(identities: set[_Identity]) -> list[int]:
    """The descriptors of this process that are open on any of these files."""
    found = []
    for descriptor in _open_descriptors():
        try:
            status = os.fstat(descriptor)
        except OSError:
            continue  # the one that listed them
        if (status.st_dev, status.st_ino) in identities:
            found.append(descriptor)
    return sorted(found)


def _already_open(path: str, descriptors: list[int]) -> ForeignOpenError:
    numbers = ", ".join(map(str, descriptors))
    return ForeignOpenError(
        f"{path} cannot be opened: this process has it open already, not through tilebox-local (descriptor {numbers}). "
        "Closing that later would drop the client's locks and can corrupt the file.",
        hint="Close it first (connection.close(), engine.dispose(); gc.collect() if it was only forgotten), and use "
        "client.sql('select ...') or client.connect_readonly() from then on.",
    )
