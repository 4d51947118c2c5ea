"""Where a store may live: network file systems are told from local ones, and refused before anything is created."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest

from tilebox_local import Client
from tilebox_local.errors import StoreOpenError
from tilebox_local.storage import filesystem
from tilebox_local.storage.filesystem import filesystem_type, is_network

if TYPE_CHECKING:
    from pathlib import Path

LAPTOP = r"""
24 31 0:22 / /proc rw,nosuid,nodev,noexec,relatime shared:13 - proc proc rw
25 31 0:23 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
31 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw,errors=remount-ro
36 31 0:27 / /tmp rw,nosuid,nodev shared:15 - tmpfs tmpfs rw,size=8012345k
98 31 259:1 / /boot/efi rw,relatime shared:51 - vfat /dev/nvme0n1p1 rw,fmask=0077,dmask=0077
112 31 0:49 / /home/ada/shared\040data\134old rw,relatime shared:60 - cifs //nas/data\040x rw,vers=3.1.1,username=ada
113 31 0:50 / /mnt/nas rw,relatime shared:61 - nfs4 nas.example:/volume1 rw,vers=4.2,rsize=262144,hard,proto=tcp
114 31 259:2 /srv/scratch /mnt/nas/scratch rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
115 31 0:50 /team /home/ada/team rw,relatime shared:61 - nfs4 nas.example:/volume1 rw,vers=4.2,hard,proto=tcp
116 31 8:17 / /media/ada/USB rw,nosuid,nodev shared:62 - fuseblk /dev/sdb1 rw,user_id=0,group_id=0,default_permissions
117 31 0:61 / /home/ada/remote rw,nosuid,nodev shared:63 - fuse.sshfs ada@host:/ rw,user_id=1000,group_id=1000
118 31 0:62 / /home/ada/drive rw,nosuid,nodev shared:64 - fuse rclone rw,user_id=1000,group_id=1000
119 31 0:63 / /home/ada/vault rw,nosuid,nodev shared:65 - fuse.gocryptfs /home/ada/.vault rw,user_id=1000
"""
STACKED = """
31 1 259:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw
40 31 0:40 / /data rw,relatime shared:2 - nfs server:/old rw,vers=3
41 40 8:1 / /data rw,relatime shared:3 - xfs /dev/sdb1 rw
50 31 0:41 / /site/deep rw,relatime shared:4 - nfs server:/deep rw,vers=3
51 31 8:2 / /site rw,relatime shared:5 - btrfs /dev/sdc1 rw
60 31 8:3 / /export rw,relatime shared:6 - xfs /dev/sdd1 rw
61 60 0:42 / /export/deep rw,relatime shared:7 - nfs server:/export rw,vers=3
70 31 0:43 / /net rw,relatime shared:8 - autofs /etc/auto.net rw,fd=7,pgrp=1,timeout=300,minproto=5,maxproto=5,indirect
71 70 0:44 / /net/filer/home rw,relatime shared:9 - nfs4 filer:/home rw,vers=4.2
"""
DOCKER = """
1021 733 0:70 / / rw,relatime master:301 - overlay overlay rw,lowerdir=/var/lib/docker/l/A,upperdir=/var/lib/docker/u
1022 1021 0:73 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
1023 1021 0:74 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
1029 1021 259:2 /var/lib/docker/volumes/v/_data /data rw,relatime master:1 - ext4 /dev/nvme0n1p2 rw
1030 1021 0:50 /team /team rw,relatime master:61 - nfs4 nas.example:/volume1 rw,vers=4.2
1031 1021 259:2 /var/lib/docker/c/hostname /etc/hostname rw,relatime - ext4 /dev/nvme0n1p2 rw
"""
PODMAN = """
612 589 0:55 / / rw,nodev,relatime - fuse.fuse-overlayfs fuse-overlayfs rw,user_id=0,group_id=0,default_permissions
613 612 0:58 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
"""
WSL2 = r"""
68 62 8:32 / / rw,relatime - ext4 /dev/sdc rw,discard,errors=remount-ro,data=ordered
77 68 0:31 / /init ro - 9p tools ro,dirsync,aname=tools;fmask=022,loose,access=client,trans=fd,rfd=6,wfd=6
117 68 0:63 / /mnt/c rw,noatime - 9p C:\134 rw,dirsync,aname=drvfs;path=C:\;uid=1000;gid=1000;symlinkroot=/mnt/,trans=fd
118 68 0:64 / /mnt/wsl rw,relatime shared:1 - tmpfs none rw
"""
WSL1 = r"""
2 1 0:2 / / rw,noatime - wslfs rootfs rw
9 2 0:9 / /mnt/c rw,noatime - drvfs C:\134 rw,uid=1000,gid=1000
"""
GVISOR = """
1 1 0:24 / / rw - 9p none rw,trans=fd,rfdno=5,wfdno=5,aname=/,dfltuid=4294967294,cache=remote_revalidating
2 1 0:25 / /proc rw - proc none rw
3 1 0:26 / /data rw - 9p none rw,trans=fd,rfdno=6,wfdno=6,aname=/,dfltuid=4294967294
4 1 0:27 / /tmp rw - tmpfs none rw
"""
CHROOT = """
200 150 0:5 / /dev rw,nosuid shared:2 - devtmpfs udev rw
201 150 0:60 / /srv/share rw,relatime shared:9 - cifs //nas/share rw
"""


@pytest.mark.parametrize(
    ("mounts", "path", "kind", "refused"),
    [
        (LAPTOP, "/home/ada/tilebox.db", "ext4", False),
        (LAPTOP, "/tmp/tilebox.db", "tmpfs", False),
        (LAPTOP, "/tmpx/tilebox.db", "ext4", False),
        (LAPTOP, "/home/ada/shared data\\old/x/tilebox.db", "cifs", True),
        (LAPTOP, "/home/ada/shared data/tilebox.db", "ext4", False),
        (LAPTOP, "/mnt/nas/tilebox.db", "nfs4", True),
        (LAPTOP, "/mnt/nas", "nfs4", True),
        (LAPTOP, "/home/ada/team/tilebox.db", "nfs4", True),
        (LAPTOP, "/media/ada/USB/tilebox.db", "fuseblk", False),
        (LAPTOP, "/home/ada/remote/tilebox.db", "fuse.sshfs", True),
        (LAPTOP, "/home/ada/drive/tilebox.db", "fuse", True),
        (LAPTOP, "/home/ada/vault/tilebox.db", "fuse.gocryptfs", False),
        (STACKED, "/data/tilebox.db", "xfs", False),  # the later mount lies on top
        (STACKED, "/site/deep/tilebox.db", "btrfs", False),  # hidden by what was mounted above it later
        (STACKED, "/export/deep/tilebox.db", "nfs", True),
        (STACKED, "/net/filer/home/ada/tilebox.db", "nfs4", True),
        (STACKED, "/net/tilebox.db", "autofs", False),
        (DOCKER, "/root/tilebox.db", "overlay", False),
        (DOCKER, "/data/tilebox.db", "ext4", False),
        (DOCKER, "/team/tilebox.db", "nfs4", True),
        (DOCKER, "/etc/hostname", "ext4", False),
        (PODMAN, "/tilebox.db", "fuse.fuse-overlayfs", False),
        (WSL2, "/home/ada/tilebox.db", "ext4", False),
        (WSL2, "/mnt/c/Users/ada/tilebox.db", "9p", True),
        (WSL1, "/home/ada/tilebox.db", "wslfs", False),
        (WSL1, "/mnt/c/Users/ada/tilebox.db", "drvfs", True),
        (GVISOR, "/root/tilebox.db", "9p", False),
        (GVISOR, "/data/tilebox.db", "9p", False),
        (CHROOT, "/srv/share/tilebox.db", "cifs", True),
        (CHROOT, "/home/tilebox.db", None, False),
        ("", "/tilebox.db", None, False),
        ("nonsense\n1 2 3 - ext4\n5 x 0:1 / / rw - nfs a rw", "/tilebox.db", None, False),
    ],
)
def test_file_systems_of_the_world(mounts: str, path: str, kind: str | None, refused: bool) -> None:
    """The type of a path is that of the mount that the kernel would use, and network types are known as such."""
    assert filesystem_type(path, mounts) == kind
    assert (kind is not None and is_network(kind, root=filesystem_type("/", mounts))) == refused


def test_the_type_is_the_kernels(tmp_path: Path) -> None:
    """For the places of this machine the answer is what the system's own `stat` and mount table say."""
    mounts = filesystem._MOUNTINFO
    if not mounts.exists():
        pytest.skip("needs /proc/self/mountinfo")
    assert filesystem_type("/proc/self", mounts.read_text()) == "proc"
    found = filesystem_type(str(tmp_path.resolve()), mounts.read_text())
    assert found is not None
    assert f" - {found} " in mounts.read_text()


@pytest.fixture
def nas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the mount table calls an NFS mount."""
    folder = tmp_path / "my nas"
    folder.mkdir()
    table = tmp_path / "mountinfo"
    point = str(folder).replace(" ", "\\040")
    table.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {point} rw - nfs4 nas:/volume rw\n")
    monkeypatch.setattr(filesystem, "_MOUNTINFO", table)
    return folder


def test_a_network_file_system_is_refused(nas: Path) -> None:
    """A store on NFS is refused with reason, remedy and the way to force it, and not a file is created."""
    with pytest.raises(StoreOpenError) as caught:
        Client(nas / "tilebox.db")
    assert str(caught.value) == (
        f"{nas / 'tilebox.db'} is on a network file system (nfs4). The write-ahead log needs memory that all processes "
        "share, which processes on different machines do not: they could destroy the store. Choose a folder on a disk "
        "of this machine, and copy with `tilebox-local snapshot` from there. Set "
        "TILEBOX_LOCAL_ALLOW_NETWORK_FILESYSTEM=1 if no other machine ever opens the file."
    )
    assert list(nas.iterdir()) == []


def test_a_link_to_a_network_file_system_is_refused(nas: Path) -> None:
    """What counts is where the file is, not where its link is."""
    (nas.parent / "here").symlink_to(nas)
    (nas.parent / "here.db").symlink_to(nas / "there.db")
    for path in (nas.parent / "here" / "tilebox.db", nas.parent / "here.db"):
        with pytest.raises(StoreOpenError, match=r"is on a network file system \(nfs4\)"):
            Client(path)
    assert list(nas.iterdir()) == []


def test_a_network_file_system_can_be_forced(nas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TILEBOX_LOCAL_ALLOW_NETWORK_FILESYSTEM=1, and only 1, opens it nevertheless; local folders need nothing."""
    monkeypatch.setenv("TILEBOX_LOCAL_ALLOW_NETWORK_FILESYSTEM", "0")
    with pytest.raises(StoreOpenError):
        Client(nas / "tilebox.db")
    monkeypatch.setenv("TILEBOX_LOCAL_ALLOW_NETWORK_FILESYSTEM", "1")
    Client(nas / "tilebox.db").close()
    monkeypatch.delenv("TILEBOX_LOCAL_ALLOW_NETWORK_FILESYSTEM")
    Client(nas.parent / "tilebox.db").close()


def test_an_unknown_system_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no mount table, as on macOS, stores are opened."""
    monkeypatch.setattr(filesystem, "_MOUNTINFO", tmp_path / "missing")
    Client(tmp_path / "tilebox.db").close()
    assert (tmp_path / "tilebox.db").stat().st_size > 0


# -- folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "is_told"), [(0o777, True), (0o1777, False), (0o755, False), (0o770, False)])
def test_a_folder_that_everybody_may_write_to(mode: int, is_told: bool, tmp_path: Path) -> None:
    """A world-writable folder without sticky bit is warned of once; the store is opened all the same."""
    folder = tmp_path / f"{mode:o}"
    folder.mkdir()
    folder.chmod(mode)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("a.db", "a.db", "b.db"):
            Client(folder / name).close()
    message = (
        f"Every user of this machine can replace or delete the store {folder / 'a.db'}: its folder is writable by all. "
        "Choose another folder, or `chmod o-w` this one."
    )
    assert [str(warning.message) for warning in caught] == [message] * is_told
