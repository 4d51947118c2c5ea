"""Files that appear when they are complete, and files that nobody has open."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tilebox_local.errors import ArgumentError, StoreBusyError, StoreError, StoreFullError, StoreOpenError
from tilebox_local.storage.store import is_open_here

try:
    import fcntl
except ImportError:  # Windows: other processes keep the file from being replaced by themselves
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["new_file", "nobody_has_open"]

# SQLite's locks on the database file: whoever has it open in WAL mode, or reads it, has a share of these bytes.
_PENDING_BYTE, _LOCK_BYTES = 0x40000000, 512


@contextlib.contextmanager
def nobody_has_open(path: Path) -> Iterator[None]:
    """Keep every process from opening the database inside the block. It is neither opened by SQLite nor changed.

    Raises:
        StoreBusyError: a process has it open, this one maybe.
        StoreOpenError: the file cannot be read.
    """
    # Closing a descriptor of a file that SQLite has open would drop SQLite's locks, so this comes first.
    if is_open_here(path):
        raise StoreBusyError(f"{path} is open in this process.", hint="Close its clients first.")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # not ours to write: a lock cannot be had, but whoever reads it does no harm
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreOpenError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        if fcntl is not None:
            _lock(fd, path)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_BYTES, _PENDING_BYTE)
    except OSError as error:
        if error.errno == errno.EBADF:  # open for reading only
            return
        raise StoreBusyError(
            f"{path} is open in another process.", hint="Stop whoever uses it (`lsof` names them), then try again."
        ) from error


@contextlib.contextmanager
def new_file(target: str | os.PathLike[str], *, overwrite: bool) -> Iterator[Path]:
    """A new file of mode 0600 under a temporary name beside `target`, which it replaces when the block ends well.

    It is on the disk for good then. If the block raises, nothing is left.

    Raises:
        ArgumentError: `target` exists (unless `overwrite`), is a directory, or is in use as a store.
        StoreOpenError: the folder does not exist or cannot be written. StoreFullError: the disk is full.
    """
    path = Path(target).expanduser().resolve()
    _check_target(path, overwrite=overwrite)
    try:
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".unfinished", dir=path.parent)
    except OSError as error:
        raise _os_error(path, error) from error
    os.close(fd)
    unfinished = Path(name)
    try:
        yield unfinished
        _sync(unfinished)
        _check_target(path, overwrite=overwrite)
        # It notes the last commit of the file that goes, which the new one need not have.
        Path(f"{path}.lock").unlink(missing_ok=True)
        unfinished.replace(path)
        _sync(path.parent)
    except StoreError:
        raise
    except OSError as error:
        raise _os_error(path, error) from error
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(f"{name}{suffix}").unlink(missing_ok=True)


def _check_target(path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise ArgumentError(f"{path} is a directory; name a file in it.")
    for suffix in ("-wal", "-journal"):
        if Path(f"{path}{suffix}").exists():  # SQLite would apply it to the new file
            raise ArgumentError(
                f"{path}{suffix} exists: a store of this name is in use, or crashed. Name another file."
            )
    if not path.exists():
        return
    if not overwrite:
        raise ArgumentError(f"{path} exists; name a new file, or allow that it is overwritten.")
    try:
        with nobody_has_open(path):
            pass
    except StoreBusyError as error:
        raise ArgumentError(f"{path} is in use as a store; name another file.") from error


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _os_error(path: Path, error: OSError) -> StoreError:
    message = f"{path} cannot be written: {error.strerror}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFullError(message, hint="Free some space; nothing is left of the new file.")
    return StoreOpenError(message, hint="Check that the directory exists and that you may write to it.")
