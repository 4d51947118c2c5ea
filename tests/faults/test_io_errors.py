"""Disks that fail at the n-th call: no promise is broken, nothing leaks into user code, nothing hangs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from batches import Problem, examine, kinds
from store_support import sizes

if TYPE_CHECKING:
    import apsw

SCRIPT = Path(__file__).with_name("io_process.py")
TIMEOUT_S = 3600
FILE_CALLS = [
    ("xWrite", "SQLITE_IOERR_WRITE"),
    ("xWrite", "SQLITE_FULL"),
    ("xSync", "SQLITE_IOERR_FSYNC"),
    ("xTruncate", "SQLITE_IOERR_TRUNCATE"),
    ("xRead", "SQLITE_IOERR_READ"),
    ("xOpen", "SQLITE_CANTOPEN"),
    ("xDelete", "SQLITE_IOERR_DELETE"),
]
# The only way to the shared memory of the log; a quota is an errno, too.
SYSTEM_CALLS = [
    ("open", "EIO"),
    ("open", "ENOSPC"),
    ("ftruncate", "EIO"),
    ("mmap", "ENOMEM"),
    ("pwrite64", "ENOSPC"),
    ("pwrite64", "EDQUOT"),
    ("pread64", "EIO"),
]
MODES = ["once", "sticky"]


def suffer(folder: Path, faults: list[tuple[str, ...]], *, step: int, last: int, kind: str = "ok") -> list[Any]:
    """What becomes of stores whose disk fails so, for each number."""
    plan = {"faults": faults, "first": 1, "step": step, "last": last}
    command = [sys.executable, str(SCRIPT), str(folder / "stores"), kind, json.dumps(plan)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def count(connection: apsw.Connection, counts: Counter[str]) -> None:
    """Count what the store holds of the process that suffered: not of the one before, nor of the client after it."""
    mine = "SELECT span_id FROM span_records WHERE name GLOB 'w *' OR name GLOB 'job/*'"
    counts["spans"] = connection.execute(f"SELECT count(*) FROM ({mine})").get
    events = connection.execute(f"SELECT count(*) FROM event_records WHERE span_id IN ({mine})").get
    counts["rows"] = counts["spans"] + events


def judge(told: dict[str, Any]) -> list[Problem]:
    """What is wrong with a store that has suffered, and with what its process was told."""
    phase, _, _, mode, _ = told["fault"]
    counts: Counter[str] = Counter()
    problems = examine(Path(told["store"]), told["acked"], further=lambda connection: count(connection, counts) or [])
    problems += [Problem("leak", leak) for leak in told["leaks"]]
    stats = Counter(told["stats"])
    lost = stats["queued_count"]  # by a close that could not write them, and said so
    if lost and not (
        phase == "close" and mode == "sticky" and any(f"{lost} records are lost" in e for e in told["errors"])
    ):
        problems.append(Problem("count", f"{lost} records are queued after all"))
    if (stats["written_count"], stats["dropped_count"], told["spans"] - lost) != (counts["rows"], 0, counts["spans"]):
        problems.append(Problem("count", f"{told['stats']}, {told['spans']} spans; stored: {dict(counts)}"))
    if mode == "once" and len(told["errors"]) > 1:
        problems.append(Problem("leak", f"one fault, and {told['errors']}"))
    return problems


@pytest.mark.parametrize("size", sizes((47, 100), (3, 100), (7, 1000)))  # type: ignore[arg-type]
@pytest.mark.parametrize("phase", ["create", "open", "write", "checkpoint", "close"])
def test_a_disk_that_fails(folder: Path, phase: str, size: tuple[int, int]) -> None:
    """Whatever call fails, once or until further notice: promises hold, errors are StoreErrors, service comes back."""
    step, last = size
    faults = [(phase, *call, mode) for call, mode in product(FILE_CALLS + SYSTEM_CALLS, MODES)]
    outcomes = suffer(folder, faults, step=step, last=last)
    wrong = {tuple(told["fault"]): problems for told in outcomes if (problems := judge(told))}
    assert wrong == {}
    fired = {told["fault"][1] for told in outcomes if told["fired"]}
    assert fired >= {"xWrite", "xSync", "pwrite64"}


def test_the_oracle_notices_a_forgetful_writer(folder: Path) -> None:
    """Control: a writer that does not keep what a failed transaction was to write loses it."""
    faults = [("write", "xWrite", "SQLITE_FULL", mode) for mode in MODES]
    outcomes = suffer(folder, faults, step=20, last=100, kind="forgetful")
    found = [kinds(judge(told)) for told in outcomes]
    assert {"lost", "count"} <= set().union(*found)
