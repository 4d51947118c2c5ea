"""Many runner processes that are killed and stopped all the time: each task is done once, and none is lost.

What the tasks do is written to a file outside of the store, too. The kills come when so many tasks have begun, not
after so much time.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter

import exactly_once_process
import pytest
from exactly_once_process import Work

from tilebox_local import Client
from tilebox_local.data import JobState

TIMEOUT_S = 120  # without any progress
NIGHTLY = os.environ.get("TILEBOX_LOCAL_SOAK") == "nightly"
_HOLD_EVERY = 100


class Runner:
    """A runner process."""

    def __init__(self, path, effects, mode):
        command = [sys.executable, exactly_once_process.__file__, str(path), str(effects), mode]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.held = None  # number of the task that it holds, stopped

    def close(self):
        """Kill it if it still runs, and let go of its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class Storm:
    """Runs tasks on several runner processes until the job is done; kills and stops them meanwhile."""

    def __init__(self, path, effects, *, runners, count, kills, mode):
        self.path, self.effects, self.mode = path, effects, mode
        self.client = Client(path)
        self.runners = []
        self.selector = selectors.DefaultSelector()
        self.zombie_count = self.killed_count = 0
        self.kill_at = [count * (number + 1) // (kills + 1) for number in range(kills)]
        self.job = self.client.jobs().submit("storm", [Work(n, n % _HOLD_EVERY == 50) for n in range(count)])
        for _ in range(runners):
            self.start()

    def start(self):
        """One runner more."""
        runner = Runner(self.path, self.effects, self.mode)
        self.runners.append(runner)
        self.selector.register(runner.process.stdout, selectors.EVENT_READ, runner)

    def drop(self, runner):
        """One runner less."""
        self.selector.unregister(runner.process.stdout)
        self.runners.remove(runner)
        runner.close()

    def begun(self):
        """How many tasks have begun, as the file of effects tells."""
        return self.effects.read_bytes().count(b"work") if self.effects.exists() else 0

    def is_done(self, number):
        """Whether somebody has completed a task."""
        with self.client._store.read() as connection:
            query = "SELECT state FROM tasks WHERE name = 'Work' AND json_extract(input, '$.number') = ?"
            return connection.execute(query, (number,)).get == "COMPUTED"

    def run(self):
        """Until the job is done."""
        seen, deadline = -1, 0.0
        while self.client.jobs().find(self.job).state is not JobState.COMPLETED or any(r.held for r in self.runners):
            for key, _ in self.selector.select(0.05):
                self.hear(key.data)
            begun = self.begun()
            if begun != seen:
                seen, deadline = begun, time.monotonic() + TIMEOUT_S
            assert time.monotonic() < deadline, "nothing happens any more"
            while self.kill_at and begun >= self.kill_at[0]:
                self.kill_at.pop(0)
                self.kill(len(self.kill_at))
            for runner in self.runners:
                self.look_after(runner)
            if all(runner.held for runner in self.runners):
                self.start()

    def hear(self, runner):
        """Stop a runner in the middle of the task that it holds."""
        for line in os.read(runner.process.stdout.fileno(), 4096).decode().splitlines():
            if line.startswith("holding"):
                runner.held = int(line.split()[1])
                runner.process.send_signal(signal.SIGSTOP)
                runner.since = time.monotonic()
                self.zombie_count += 1

    def look_after(self, runner):
        """Let a zombie go on once its task is done by another one."""
        if runner.held is None:
            return
        if self.is_done(runner.held):
            runner.process.send_signal(signal.SIGCONT)
            runner.process.stdin.write(b"go on\n")
            runner.process.stdin.flush()
            runner.held = None
        elif time.monotonic() - runner.since > 5:
            # It may have been stopped inside of a transaction, which everybody waits for.
            runner.process.send_signal(signal.SIGCONT)
            time.sleep(0.02)
            runner.process.send_signal(signal.SIGSTOP)
            runner.since = time.monotonic()

    def kill(self, number):
        """Kill a runner and start another one; none of those that are stopped: they are to report late."""
        running = [runner for runner in self.runners if runner.held is None]
        if running:
            self.drop(running[number % len(running)])
            self.start()
            self.killed_count += 1

    def end(self):
        """Let the runners report what they still have, and end."""
        for runner in self.runners:
            runner.process.send_signal(signal.SIGTERM)
        assert [runner.process.wait(TIMEOUT_S) for runner in self.runners] == [-signal.SIGTERM] * len(self.runners)

    def close(self):
        """Leave no process."""
        while self.runners:
            self.drop(self.runners[0])
        self.selector.close()
        self.client.close()

    def rows(self, query):
        """What the store holds now."""
        with self.client._store.read() as connection:
            return connection.execute(query).fetchall()


@pytest.fixture
def storm(tmp_path):
    """Makes a storm and ends it after the test."""
    with contextlib.ExitStack() as stack:

        def make(**options):
            storm = Storm(tmp_path / "store.db", tmp_path / "effects", **options)
            stack.callback(storm.close)
            return storm

        yield make


def recorded_effects(storm):
    """How many tasks each effect is in the store, by how often."""
    query = "SELECT json_extract(input, '$'), count(*) FROM tasks WHERE name = 'Effect' GROUP BY 1"
    return Counter(count for _, count in storm.rows(query))


@pytest.mark.parametrize(
    ("runners", "count", "kills"),
    [
        (4, 500, 4),
        pytest.param(8 if NIGHTLY else 4, 10_000 if NIGHTLY else 2000, 100 if NIGHTLY else 15, marks=pytest.mark.soak),
    ],
)
def test_each_task_is_done_once(storm, runners, count, kills):
    """Runners are killed, others are stopped until their leases are gone: each effect is recorded once."""
    storm = storm(runners=runners, count=count, kills=kills, mode="fenced")
    storm.run()
    storm.end()
    assert storm.zombie_count == count // _HOLD_EVERY
    assert storm.killed_count > 0
    assert storm.rows("SELECT name, state, count(*) FROM tasks GROUP BY 1, 2 ORDER BY 1") == [
        ("Effect", "COMPUTED", count),
        ("Work", "COMPUTED", count),
    ]
    assert recorded_effects(storm) == {1: count}
    assert storm.rows("SELECT sum(total), sum(done) FROM progress_records") == [(0, count)]
    held = (
        f"SELECT min(attempts) FROM tasks WHERE name = 'Work' AND json_extract(input, '$.number') % {_HOLD_EVERY} = 50"
    )
    assert storm.rows(held)[0][0] >= 2
    done = Counter(storm.effects.read_text().splitlines())
    assert {line for line, _ in done.items()} == {f"{kind} {n}" for kind in ("work", "effect") for n in range(count)}
    # At least once: again are only those whose runner was killed or stopped, or had to wait too long for the processor.
    attempts = dict(
        storm.rows("SELECT lower(name) || ' ' || json_extract(input, '$'), attempts FROM tasks WHERE name = 'Effect'")
    )
    assert all(done[line] <= attempts[line] for line in attempts)


def test_without_the_fence_effects_come_twice(storm):
    """Were a late report believed, the effects of its task would be recorded twice."""
    storm = storm(runners=2, count=60, kills=0, mode="unfenced")
    storm.run()
    storm.end()
    assert storm.zombie_count == 1
    assert recorded_effects(storm)[2] >= 1
