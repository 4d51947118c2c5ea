"""A disk that is really full: what was acknowledged is there, what was dropped is counted, opening works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from batches import examine, kinds
from store_support import sizes

from tilebox_local import Client
from tilebox_local.storage.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).with_name("full_process.py")
TIMEOUT_S = 60
SIZE = 16 * 2**20
FLOOD, ROOM = 3000, 1000  # as in the script
RESERVE = 128 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a small file system")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)], check=False)
    if done.returncode:
        pytest.skip("this system does not let root mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(file: Path, leave: int = 0) -> None:
    """Take all the room there is, but for `leave` bytes."""
    with file.open("wb", buffering=0) as filler:
        try:
            for _ in range(SIZE // 4096):
                filler.write(bytes(4096))
        except OSError:
            pass
        size = filler.tell()
        filler.truncate(max(0, size - leave))


def suffer(disk: Path, what: str) -> list[dict[str, Any]]:
    """What the script says while it uses the store on this disk."""
    command = [sys.executable, str(SCRIPT), str(disk / "store.db"), str(disk / "filler"), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def acks(told: list[dict[str, Any]]) -> list[int]:
    """The batches that were acknowledged."""
    return [line["ack"] for line in told if "ack" in line]


@pytest.mark.parametrize("rounds", sizes(1, 3, 50))
def test_a_disk_gets_full_and_is_freed(small_disk: Path, rounds: int) -> None:
    """On a full disk nothing that was acknowledged is lost, and each span is either stored or counted as dropped."""
    path = small_disk / "store.db"
    for number in range(rounds):
        fill(small_disk / "filler", leave=(4 + number % 5) * 2**20)
        told = suffer(small_disk, "fill")
        full, end = next(line for line in told if "flush" in line), told[-1]
        assert len(acks(told)) > 5
        assert (full["flush"], full["transact"], full["read"]) == ("StoreFullError", "StoreFullError", 0)
        assert FLOOD - 2 * ROOM <= full["dropped"] <= FLOOD  # a queue and a batch of that size are kept
        stats = end["stats"]
        assert (stats["dropped_count"], stats["queued_count"], stats["quarantined_count"]) == (full["dropped"], 0, 0)
        assert examine(path, {"w": acks(told)}) == []
        store = open_store(path)
        with store.read() as connection:
            stored = connection.execute("SELECT count(*) FROM span_records").get
            dropped = connection.execute("SELECT dropped_count FROM writer_records").fetchall()
        store.close()
        assert stored == end["spans"] - full["dropped"]
        assert dropped == [(full["dropped"],)]
        for file in small_disk.iterdir():
            file.unlink()


def test_the_oracle_notices_what_did_not_fit(small_disk: Path) -> None:
    """Control: what was acknowledged before it was committed is lost on a disk that gets full."""
    fill(small_disk / "filler", leave=4 * 2**20)
    told = suffer(small_disk, "fill-early")
    (small_disk / "filler").unlink()
    assert kinds(examine(small_disk / "store.db", {"w": acks(told)})) == {"lost"}


def test_a_store_is_opened_on_a_full_disk(small_disk: Path) -> None:
    """On a full disk a store without its -shm file can be opened and read: the lock file keeps the room for that."""
    told = suffer(small_disk, "die")
    (small_disk / "store.db-shm").unlink()
    lock = small_disk / "store.db.lock"
    assert lock.stat().st_blocks * 512 == RESERVE
    note = lock.read_bytes()[:78]
    fill(small_disk / "filler")
    opened, full, end = suffer(small_disk, "start")
    assert opened == {"opened": None}
    assert (full["read"], full["flush"]) == (10 * len(acks(told)), "StoreFullError")
    assert full["reserve"] < RESERVE
    assert end["reserve"] == RESERVE  # taken back as soon as there was room
    after = lock.read_bytes()[:80]
    assert (after[:36], after[78:]) == (note[:36], b"\n\0")  # the note of the last commit is in its place
    assert after[37:57] > note[37:57]
    assert examine(small_disk / "store.db", {"w": acks(told), "cold": [0]}) == []


def test_a_store_of_a_killed_process_is_opened_on_a_full_disk(small_disk: Path) -> None:
    """That there is no room to record the crash does not keep anybody from reading; it is recorded later."""
    told = suffer(small_disk, "die")
    fill(small_disk / "filler")
    opened, full, _ = suffer(small_disk, "start")
    assert opened == {"opened": None}
    assert (full["read"], full["flush"]) == (10 * len(acks(told)), "StoreFullError")
    with Client(small_disk / "store.db") as client:
        assert [incident.kind for incident in client.doctor().incidents] == ["crash"]


def test_without_the_reserve_it_cannot_be_opened(small_disk: Path) -> None:
    """Control: without the reserve such a store cannot be opened until there is room; the error says so."""
    told = suffer(small_disk, "die-bare")
    (small_disk / "store.db-shm").unlink()
    fill(small_disk / "filler")
    opened, then, end = suffer(small_disk, "start")
    assert opened == {"opened": "StoreFullError"}
    assert (then["read"], then["flush"]) == (10 * len(acks(told)), None)
    assert end["reserve"] == RESERVE
