"""Cuts of power at any write: with full durability nothing is lost that was acknowledged, normally the last second."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from batches import Problem, examine, kinds
from recorded_disk import Disk, Event
from store_support import sizes

if TYPE_CHECKING:
    import apsw

SCRIPT = Path(__file__).with_name("power_process.py")
TIMEOUT_S = 120
SECOND_NS = 1_000_000_000
CUTS_PER_RECORDING = 50


def record(folder: Path, seed: int, durability: str, disk: str = "ok") -> list[Event]:
    """What a process does to its disk."""
    notes = folder / "notes"
    command = [sys.executable, str(SCRIPT), str(folder / "store.db"), str(notes), str(seed), durability, disk]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [Event(*event) for event in pickle.loads(notes.read_bytes())]


@dataclass
class Acknowledged:
    """What the process was told so far."""

    now: int = 0
    marks: list[tuple[str, int, int]] = field(default_factory=list)  # what, number, when
    synced_count: int = 0  # of the marks
    told_at: int = 0

    def note(self, mark: Event) -> None:
        """Take in one mark of the process."""
        if mark.name == "clock":
            self.now = mark.value
        elif mark.name == "synced":
            self.synced_count, self.told_at = len(self.marks), self.now
        elif mark.value is not None:
            self.marks.append((mark.name, mark.value, self.now))
            self.told_at = self.now

    def promised(self, durability: str) -> dict[str, list[int]]:
        """The numbers of what must survive a cut of power now, by kind."""
        kept = (
            (what, number)
            for position, (what, number, when) in enumerate(self.marks)
            if durability == "full" or position < self.synced_count or when <= self.told_at - SECOND_NS
        )
        found: dict[str, list[int]] = {"batch": [], "submitted": [], "computed": []}
        for what, number in kept:
            found[what].append(number)
        return found


def choose_cuts(events: list[Event], rng: random.Random, count: int) -> list[int]:
    """Where to cut: a quarter while the store is created, a quarter while it is closed, the others anywhere."""
    marks = {name: [k for k, e in enumerate(events) if e.kind == "mark" and e.name == name] for name in
             ("opened", "closing", "synced")}  # fmt: skip
    created = range(1, marks["opened"][0])
    closing = [k for begin in marks["closing"] for k in range(begin, min(s for s in marks["synced"] if s > begin) + 1)]
    quarter = count // 4
    chosen = rng.choices(created, k=quarter) + rng.choices(closing, k=quarter)
    return sorted(chosen + rng.choices(range(1, len(events) + 1), k=count - 2 * quarter))


def examine_jobs(connection: apsw.Connection, promised: dict[str, list[int]]) -> list[Problem]:
    """Jobs and completions that are lost, or there in halves; and whether the file is made as it should be."""
    problems: list[Problem] = []
    jobs = dict(connection.execute("SELECT name, job_no FROM job_records").fetchall())
    roots = {name for (name,) in connection.execute("SELECT name FROM span_records WHERE name GLOB 'job/*'").fetchall()}
    states: dict[int, dict[str, str]] = {}
    for number, name, state in connection.execute("SELECT CAST(input AS INTEGER), name, state FROM tasks").fetchall():
        states.setdefault(number, {})[name] = state
    problems += [Problem("lost", f"job {number}") for number in promised["submitted"] if f"job {number}" not in jobs]
    problems += [
        Problem("lost", f"tasks of job {number}: {states.get(number)}")
        for number in promised["computed"]
        if states.get(number) != {"Step": "COMPUTED", "Leaf": "COMPUTED"}
    ]
    problems += [
        Problem("torn", f"tasks of job {number}: {tasks}")
        for number, tasks in states.items()
        if ("Leaf" in tasks) != (tasks.get("Step") == "COMPUTED")
    ]
    problems += [Problem("torn", f"{name} without its span") for name in jobs if f"job/{name}" not in roots]
    made = connection.pragma("page_size"), connection.pragma("auto_vacuum"), connection.pragma("journal_mode")
    if made != (4096, 2, "wal"):
        problems.append(Problem("corrupt", f"page_size, auto_vacuum, journal_mode = {made}"))
    return problems


def cut_power(
    folder: Path, durability: str, disk: str, recordings: int, cuts: int, first_seed: int = 0
) -> Counter[str]:
    """Cut the power at random points of some recordings; how often there was which kind of problem."""
    found: Counter[str] = Counter()
    for seed in range(first_seed, first_seed + recordings):
        events = record(_fresh(folder / "recorded"), seed, durability, disk)
        rng = random.Random(seed)
        replayed, acknowledged, position = Disk(), Acknowledged(), 0
        for cut in choose_cuts(events, rng, cuts):
            for event in events[position:cut]:
                replayed.replay(event)
                if event.kind == "mark":
                    acknowledged.note(event)
            position = cut
            left = _fresh(folder / "left")
            replayed.cut_power(left, rng)
            promised = acknowledged.promised(durability)
            problems = examine(
                left / "store.db",
                {"w": promised["batch"]},
                further=lambda connection, promised=promised: examine_jobs(connection, promised),
            )
            found.update(kinds(problems))
            if disk == "ok":
                assert problems == [], f"{durability}, seed {seed}, cut at event {cut} of {len(events)}"
    return found


def _fresh(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    return folder


@pytest.mark.parametrize("cuts", sizes(40, 150, 10_000))
@pytest.mark.parametrize("durability", ["normal", "full"])
def test_a_power_cut_costs_what_was_promised(folder: Path, durability: str, cuts: int) -> None:
    """A store is whole after any power cut, and holds what was acknowledged: all of it, or but the last second's."""
    recordings = max(2, cuts // CUTS_PER_RECORDING)
    assert cut_power(folder, durability, "ok", recordings, cuts // recordings) == Counter()


@pytest.mark.parametrize(
    ("durability", "disk"), [("normal", "off"), ("normal", "lazy"), ("full", "off"), ("full", "forget")]
)
def test_the_oracle_notices_a_disk_that_is_not_waited_for(folder: Path, durability: str, disk: str) -> None:
    """Control: without waiting for the disk, or on one that forgets to sync the log, power cuts do damage."""
    found = cut_power(folder, durability, disk, recordings=1, cuts=40, first_seed=int(disk == "lazy"))
    if disk == "off":  # what is corrupt cannot be looked at for what is lost
        assert found["corrupt"] + found["torn"] + found["gap"] > 0
    else:
        assert found["lost"] > 0


def test_the_recordings_hold_what_is_to_be_cut(folder: Path) -> None:
    """A recording has a store's creation, checkpoints after which the log starts over, two closings, and jobs."""
    events = record(_fresh(folder / "recorded"), 0, "normal")
    deleted = Counter(event.name for event in events if event.kind == "delete")
    assert deleted == {"store.db-journal": 2, "store.db-wal": 2}
    marks = Counter(event.name for event in events if event.kind == "mark")
    assert marks["batch"] == 60
    assert marks["submitted"] == marks["computed"] > 0
    # Before the last close, the file itself is written at many times, each after a sync of the log.
    closing = max(k for k, event in enumerate(events) if event.kind == "mark" and event.name == "closing")
    kinds_of_file = [event.kind for event in events[:closing] if event.name == "store.db"]
    assert kinds_of_file.count("sync") > 5
    restarts = [event for event in events[:closing] if event.name == "store.db-wal" and event.offset == 0]
    assert sum(event.kind == "write" for event in restarts) > 3
