"""Processes that are killed at any moment: what they acknowledged is there, once and whole."""

from __future__ import annotations

import multiprocessing
import random
import signal
import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from batches import Problem, examine, examine_pages, kinds
from crash_process import Leaf, Step, work
from store_support import sizes

from tilebox_local import Client
from tilebox_local.storage.store import open_store

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 60
# Children of a process that has imported everything, and has no store open: they begin at once.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["crash_process"])


class Victim:
    """A process that runs `crash_process.work`, and what it has acknowledged so far."""

    def __init__(self, path: Path, durability: str, kind: str, name: str) -> None:
        self.name = name
        self.acks: list[str] = []
        self._changed = threading.Condition()
        self._has_ended = False
        self._pipe, theirs = _processes.Pipe(duplex=False)
        with theirs:
            self._process = _processes.Process(target=work, args=(theirs, str(path), durability, kind, name))
            self._process.start()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        with suppress(EOFError):
            while True:
                ack = self._pipe.recv_bytes().decode()
                with self._changed:
                    self.acks.append(ack)
                    self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def kill(self, ack_count: int, spin_s: float) -> None:
        """Kill it a moment after so many further acknowledgements."""
        with self._changed:
            wanted = len(self.acks) + ack_count
            assert self._changed.wait_for(lambda: len(self.acks) >= wanted or self._has_ended, PATIENCE_S), "hangs"
        deadline = time.perf_counter() + spin_s
        while time.perf_counter() < deadline:
            pass
        self.end()

    def end(self) -> None:
        """Kill it now, and hear what it had said before. Idempotent."""
        self._process.kill()
        self._process.join(PATIENCE_S)
        self._thread.join(PATIENCE_S)
        self._pipe.close()
        assert self._process.exitcode in (0, -signal.SIGKILL)


def kill_writers(path: Path, *, kind: str, durability: str, together: int, kills: int) -> tuple[int, list[Problem]]:
    """Kill writers one after the other, `together` at a time, and open the store after the last of them.

    Returns how many batches they had acknowledged, and what is wrong.
    """
    rng = random.Random(f"{durability} {together}")
    acked: dict[str, list[int]] = {}
    problems: list[Problem] = []
    rounds = max(1, kills // together)
    for number in range(rounds):
        victims = [Victim(path, durability, kind, f"w{number}.{i}") for i in range(together)]
        try:
            for victim in rng.sample(victims, together):
                victim.kill(rng.randint(1, 20), rng.random() * 0.003)
        finally:
            for victim in victims:
                victim.end()
        acked |= {victim.name: [int(ack) for ack in victim.acks] for victim in victims}
        problems += examine(path, acked, integrity=number % 10 == 9 or number == rounds - 1)
    return sum(map(len, acked.values())), problems


@pytest.mark.parametrize("kills", sizes(4, 16, 500))
@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("durability", ["normal", "full"])
def test_killed_writers_lose_nothing(folder: Path, durability: str, together: int, kills: int) -> None:
    """Batches that were acknowledged before a kill -9 are there once and whole, whoever else wrote at the time."""
    acked, problems = kill_writers(
        folder / "store.db", kind="write", durability=durability, together=together, kills=kills
    )
    assert problems == []
    assert acked >= kills


def test_the_oracle_notices_an_early_acknowledgement(folder: Path) -> None:
    """Control: writers that acknowledge a batch before its commit lose some when they are killed."""
    _, problems = kill_writers(folder / "store.db", kind="write-early", durability="full", together=1, kills=3)
    assert kinds(problems) == {"lost"}


# -- runners ----------------------------------------------------------------------------------------------------

TASKS_SQL = "SELECT name, CAST(input AS INTEGER), state FROM tasks"


def tasks_of(path: Path) -> dict[tuple[str, int], list[str]]:
    """States of the tasks by name and number."""
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    with Client(path) as client, client._store.read() as connection:
        for name, number, state in connection.execute(TASKS_SQL).fetchall():
            found[name.lower(), number].append(state)
    return found


def examine_tasks(path: Path, acked: list[str]) -> list[Problem]:
    """Completions that are lost, steps that were computed without their leaf or have one too many."""
    tasks = tasks_of(path)
    problems = []
    for name, number in ((name, int(number)) for name, number in map(str.split, acked)):
        if tasks[name, number] != ["COMPUTED"]:
            problems.append(Problem("lost", f"{name} {number} is {tasks[name, number]}"))
    for (name, number), states in list(tasks.items()):
        if len(states) > 1:
            problems.append(Problem("duplicate", f"{name} {number} is {states}"))
        if name == "step" and (states == ["COMPUTED"]) != bool(tasks.get(("leaf", number))):
            problems.append(Problem("torn", f"step {number} is {states}, its leaf {tasks.get(('leaf', number))}"))
    store = open_store(path)
    with store.read() as connection:
        # What a task recorded commits with its completion at the latest.
        unrecorded = connection.execute(
            "SELECT count(*) FROM task_records t JOIN identifier_records i USING (identifier_no)"
            " WHERE i.name = 'Step' AND t.state = 3 AND (NOT EXISTS (SELECT 1 FROM log_records l WHERE"
            " l.task_no = t.task_no) OR NOT EXISTS (SELECT 1 FROM span_records s WHERE s.task_no = t.task_no"
            " AND s.name = 'working' AND s.duration_ns IS NOT NULL))"
        ).get
        if unrecorded:
            problems.append(Problem("torn", f"{unrecorded} steps without what they recorded"))
        problems += examine_pages(connection)
    store.close()
    return problems


@pytest.mark.parametrize("kills", sizes(4, 16, 500))
@pytest.mark.parametrize("durability", ["normal", "full"])
def test_killed_runners_complete_each_task_once(folder: Path, durability: str, kills: int) -> None:
    """Runners are killed in pairs: what they completed stays so, with its effects, and what they lost is run again."""
    path = folder / "store.db"
    steps = kills * 25
    with Client(path, durability=durability) as client:
        job = client.jobs().submit("steps", [Step(number) for number in range(steps)])
    rng = random.Random(durability)
    acked: list[str] = []
    for number in range(kills // 2):
        victims = [Victim(path, durability, "run", f"r{number}.{i}") for i in range(2)]
        try:
            for victim in rng.sample(victims, 2):
                victim.kill(rng.randint(1, 20), rng.random() * 0.003)
        finally:
            for victim in victims:
                victim.end()
        acked += [ack for victim in victims for ack in victim.acks]
        assert examine_tasks(path, acked) == []
    with Client(path, durability=durability) as client:
        client.runner(tasks=[Step, Leaf]).run_all()
        assert client.jobs().find(job).state.name == "COMPLETED"
        assert [(p.label, p.done) for p in client.jobs().find(job).progress] == [("steps", steps)]
    everything = [f"{name} {number}" for name in ("step", "leaf") for number in range(steps)]
    assert examine_tasks(path, everything) == []
    store = open_store(path)
    with store.read() as connection:
        lost, attempts = connection.execute("SELECT sum(crash_count), sum(attempt) FROM task_records").fetchall()[0]
    store.close()
    assert lost <= kills
    assert attempts == 2 * steps + lost
