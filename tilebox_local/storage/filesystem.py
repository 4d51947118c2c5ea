"""Where a store may live: on a file system of this machine, in a folder that is not everybody's.

SQLite's write-ahead log needs memory that all processes using the file share, so they must run on one machine. On a
network file system two machines could open the store, each with memory of its own, and destroy it.

Not refused: `overlay` (Docker), `fuse-overlayfs` (rootless Podman), `virtiofs` and other file systems that one machine
or virtual machine has for itself, and what we do not know. 9p is refused where it is mounted beside another root, as
WSL2 does with the drives of Windows (/mnt/c); where / itself is 9p, as in gVisor, it is the sandbox's own disk.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from pathlib import Path
from typing import NamedTuple

from tilebox_local.errors import StoreOpenError

__all__ = ["check_folder", "check_local", "filesystem_type", "is_network"]

_VARIABLE = "TILEBOX_LOCAL_ALLOW_NETWORK_FILESYSTEM"
_MOUNTINFO = Path("/proc/self/mountinfo")
_NETWORK = {
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "drvfs", "gfs", "gfs2", "glusterfs", "gpfs",
    "lustre", "ncp", "ncpfs", "nfs", "nfs4", "ocfs2", "openafs", "orangefs", "panfs", "prl_fs", "pvfs2", "smb2",
    "smb3", "smbfs", "vboxsf", "vmhgfs", "wekafs",
}  # fmt: skip
# FUSE programs that keep their files on this machine; all others are taken for remote.
_LOCAL_FUSE = {
    "apfs-fuse", "bindfs", "cryfs", "dwarfs", "encfs", "exfat", "exfat-fuse", "ext2", "ext4", "fuse2fs", "fuse-ext2",
    "fuse-overlayfs", "gocryptfs", "lklfuse", "mergerfs", "ntfs", "ntfs-3g", "ntfs3g", "portal", "securefs",
    "squashfuse", "unionfs", "unionfs-fuse", "veracrypt", "zfs-fuse",
}  # fmt: skip
_ESCAPE = re.compile(r"\\([0-7]{3})")

_warned: set[str] = set()  # folders


class _Mount(NamedTuple):
    number: int
    parent: int
    point: str
    kind: str


def check_local(path: Path) -> None:
    """Raise StoreOpenError if `path`, which is resolved, is on a network file system, unless that is asked for."""
    if os.environ.get(_VARIABLE) == "1":
        return
    try:
        mounts = _MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # not Linux: unknown
    kind = filesystem_type(str(path), mounts)
    if kind is not None and is_network(kind, root=filesystem_type("/", mounts)):
        raise StoreOpenError(
            f"{path} is on a network file system ({kind}). The write-ahead log needs memory that all processes share, "
            "which processes on different machines do not: they could destroy the store.",
            hint="Choose a folder on a disk of this machine, and copy with `tilebox-local snapshot` from there. Set "
            f"{_VARIABLE}=1 if no other machine ever opens the file.",
        )


def filesystem_type(path: str, mounts: str) -> str | None:
    """Type of the file system that an absolute path without links is on, such as "ext4"; None if it is not told.

    Args:
        path: The path.
        mounts: Text in the format of /proc/self/mountinfo.
    """
    found = _parse(mounts)
    numbers = {mount.number for mount in found}
    # Go down the path as the kernel does, so that a mount hides what was mounted below its place before. What has no
    # parent in the list, as the root in a container, is where we begin.
    reachable = [mount for mount in found if mount.parent not in numbers or mount.parent == mount.number]
    kind: str | None = None
    entered: set[int] = set()
    while True:
        crossed = [mount for mount in reachable if mount.number not in entered and _is_below(path, mount.point)]
        if not crossed:
            return kind
        nearest = min(len(mount.point) for mount in crossed)
        mount = [mount for mount in crossed if len(mount.point) == nearest][-1]  # the later one is on top
        entered.add(mount.number)
        kind = mount.kind
        reachable = [child for child in found if child.parent == mount.number]


def is_network(kind: str, *, root: str | None) -> bool:
    """Whether a type of file system is one that several machines can use at once; `root` is the type of /."""
    if kind == "fuse" or kind.startswith("fuse."):
        return kind[len("fuse.") :] not in _LOCAL_FUSE
    return kind in _NETWORK and not (kind == "9p" and root == "9p")


def _parse(mounts: str) -> list[_Mount]:
    found = []
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if separator and len(fields) >= 6 and fields[0].isdigit() and fields[1].isdigit():
            point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
            found.append(_Mount(int(fields[0]), int(fields[1]), point, after.split(" ", 1)[0]))
    return found


def _is_below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def check_folder(path: Path) -> None:
    """Warn, once per folder, if everybody may replace the files of a store at `path`."""
    folder = str(path.parent)
    mode = path.parent.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX and folder not in _warned:
        _warned.add(folder)
        warnings.warn(
            f"Every user of this machine can replace or delete the store {path}: its folder is writable by all. Choose "
            "another folder, or `chmod o-w` this one.",
            stacklevel=2,
        )
