"""A disk that remembers every write, and what of it a cut of power may leave.

`RecordingDisk` is a VFS of SQLite: it does what the VFS below it does, and notes it. `Disk` replays such notes. At any
point it can say what a power cut there may leave behind: everything that was synced, and of the rest any selection of
512-byte sectors.

What is assumed, as SQLite does by default on Linux: a sector is written as a whole or not at all, and a write does not
touch bytes beside it. Names are made and removed in order, as on a journaling file system, and last once the folder
is synced: SQLite syncs it with the first sync of a journal or log that it has opened, and when it deletes a file with
that request. A disk that lies about a sync is not modelled.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import apsw

if TYPE_CHECKING:
    import random

_SECTOR = 512
_JOURNALS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL


class Event(NamedTuple):
    """What happened. `name` is the file's; for a mark, what it says. `value` is data, a size, or the mark's content."""

    kind: str  # create, write, truncate, sync, sync-folder, delete, mark
    name: str
    offset: int = 0
    value: Any = None


class RecordingDisk(apsw.VFS):
    """The default VFS of this process from now on. `events` is what happened, in order.

    Args:
        unsynced: Ending of the names of files whose syncs are swallowed: a disk that forgets.
    """

    def __init__(self, unsynced: str | None = None) -> None:
        super().__init__("recording", "unix", makedefault=True)
        self.events: list[Event] = []
        self.lock = threading.RLock()  # notes are in the order of what they note
        self.unsynced = unsynced
        self.known: set[str] = set()

    def mark(self, name: str, value: Any = None) -> None:
        """Note something of one's own."""
        self.events.append(Event("mark", name, value=value))

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        """Open a file; one that was not there is created."""
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None:
            return apsw.VFSFile("unix", name, flags)
        with self.lock:
            file = _RecordingFile(self, name, flags, Path(path).name)
            if file.name not in self.known:
                self.known.add(file.name)
                self.events.append(Event("create", file.name))
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """Delete a file."""
        with self.lock:
            super().xDelete(filename, syncdir)
            self.known.discard(Path(filename).name)
            self.events.append(Event("delete", Path(filename).name))
            if syncdir:
                self.events.append(Event("sync-folder", ""))


class _RecordingFile(apsw.VFSFile):
    def __init__(self, disk: RecordingDisk, name: Any, flags: list[int], short_name: str) -> None:
        self.name = short_name
        self._disk = disk
        self._syncs_folder = bool(flags[0] & _JOURNALS and flags[0] & apsw.SQLITE_OPEN_CREATE)
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        with self._disk.lock:
            super().xWrite(data, offset)
            self._disk.events.append(Event("write", self.name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        with self._disk.lock:
            super().xTruncate(newsize)
            self._disk.events.append(Event("truncate", self.name, value=newsize))

    def xSync(self, flags: int) -> None:
        with self._disk.lock:
            if self._disk.unsynced is not None and self.name.endswith(self._disk.unsynced):
                return
            super().xSync(flags)
            self._disk.events.append(Event("sync", self.name))
            if self._syncs_folder:
                self._syncs_folder = False
                self._disk.events.append(Event("sync-folder", ""))


class _File:
    """What is on the disk for sure, and what may be there."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.pending: list[Event] = []

    def sync(self) -> None:
        for event in self.pending:
            _apply(self.content, event)
        self.pending.clear()

    def after_cut(self, rng: random.Random) -> bytes:
        content = bytearray(self.content)
        chance = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for event in self.pending:
            if event.kind == "truncate":
                if rng.random() < chance:
                    _apply(content, event)
                continue
            position, end = event.offset, event.offset + len(event.value)
            while position < end:
                sector_end = min(end, (position // _SECTOR + 1) * _SECTOR)
                if rng.random() < chance:
                    part = event.value[position - event.offset : sector_end - event.offset]
                    _apply(content, Event("write", event.name, position, part))
                position = sector_end
        return bytes(content)


def _apply(content: bytearray, event: Event) -> None:
    if event.kind == "truncate":
        del content[event.value :]
        content.extend(bytes(event.value - len(content)))
        return
    content.extend(bytes(max(0, event.offset - len(content))))
    content[event.offset : event.offset + len(event.value)] = event.value


class Disk:
    """The disk on which the events happen that `replay` gets, one after the other."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}  # by name, as running processes see them
        self._lasting: dict[str, _File] = {}  # by name, as of the last sync of the folder
        self._changes: list[tuple[str, _File | None]] = []  # of names, since then

    def replay(self, event: Event) -> None:
        """Let it happen."""
        if event.kind == "create":
            file = self._files[event.name] = _File()
            self._changes.append((event.name, file))
        elif event.kind == "delete":
            del self._files[event.name]
            self._changes.append((event.name, None))
        elif event.kind == "sync":
            self._files[event.name].sync()
        elif event.kind == "sync-folder":
            _rename(self._lasting, self._changes)
            self._changes.clear()
        elif event.kind != "mark":
            self._files[event.name].pending.append(event)

    def cut_power(self, folder: Path, rng: random.Random) -> None:
        """Put into the folder what may be left if the power fails now. The disk goes on as if it had not."""
        names = dict(self._lasting)
        _rename(names, self._changes[: rng.randint(0, len(self._changes))])
        for name, file in names.items():
            (folder / name).write_bytes(file.after_cut(rng))
        if names and rng.random() < 0.3:  # shared memory is never synced: it may be anything
            (folder / f"{min(names, key=len)}-shm").write_bytes(rng.randbytes(32768))


def _rename(names: dict[str, _File], changes: list[tuple[str, _File | None]]) -> None:
    for name, file in changes:
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file
