"""Write to a store on a disk that remembers: `python power_process.py STORE NOTES SEED DURABILITY (ok | ...)`.

The clock goes when this script says so, and with every other SEED the log is checkpointed after a few pages already.
NOTES gets the events of the disk, with a mark for each acknowledgement. Controls: `off` never waits for the disk,
`lazy` only at checkpoints, and `forget` has a disk that forgets to sync the log.
"""

import pickle
import random
import sys
import threading
from pathlib import Path

from batches import append_batch, commit_batch
from recorded_disk import RecordingDisk

from tilebox_local import Client, Task, clock
from tilebox_local.storage import checkpointer, connection, writer

BATCHES = 60
STEP_NS = 50_000_000
SECOND_NS = 1_000_000_000


class Step(Task):
    """Submits one leaf."""

    number: int

    def execute(self, context):
        context.submit_subtask(Leaf(self.number))


class Leaf(Task):
    """The effect of a step."""

    number: int

    def execute(self, context):
        pass


class Clock:
    """Goes when it is told to."""

    def __init__(self, disk):
        self.now = 10**15
        self._disk = disk

    def __call__(self):
        return self.now

    def go(self, ns):
        """Let time pass."""
        self.now += ns
        self._disk.mark("clock", self.now)


def sync_when_idle(client, disk):
    """Let the time pass after which an idle store is synced, and wait for it."""
    synced = threading.Event()
    client._store.writer.on_commit.append(synced.set)
    clock.monotonic_ns.go(SECOND_NS)
    while client._store.writer._unsynced:
        client._store.writer.queue.attend()
        synced.wait(0.01)
    client._store.writer.on_commit.remove(synced.set)
    disk.mark("synced")


def write(client, disk, rng, batches):
    """Write batches and run jobs, at a different pace each, and say when each is acknowledged."""
    for batch in batches:
        clock.monotonic_ns.go(rng.randint(1, 8) * STEP_NS)
        payload = "x" * rng.choice((0, 0, 0, 100, 20_000))
        append_batch(client, "w", batch, payload)
        commit_batch(client, "w", batch)
        disk.mark("batch", batch)
        if rng.random() < 0.1:
            client.jobs().submit(f"job {batch}", Step(batch))
            disk.mark("submitted", batch)
            client.runner(tasks=[Step, Leaf]).run_all()
            disk.mark("computed", batch)
        if rng.random() < 0.1:
            len(client.jobs().query())
        if rng.random() < 0.1 and writer._SYNC_INTERVAL_NS == SECOND_NS:
            sync_when_idle(client, disk)


def main(path, notes, seed, durability, disk_kind):
    """Create the store, write, close, open it again, write, close."""
    disk = RecordingDisk(unsynced="-wal" if disk_kind == "forget" else None)
    clock.monotonic_ns = Clock(disk)
    if int(seed) % 2 == 0:  # a checkpoint syncs, too: without any, only the clock does
        checkpointer._BACKGROUND_PAGES, checkpointer._COMMITTER_PAGES, checkpointer._OVERDUE_PAGES = 25, 60, 120
    if disk_kind == "lazy":
        writer._SYNC_INTERVAL_NS = 10**18
    if disk_kind == "off":
        connection.set_synchronous = writer.set_synchronous = lambda opened, full: opened.pragma("synchronous", 0)
    rng = random.Random(seed)
    for batches in (range(BATCHES // 2), range(BATCHES // 2, BATCHES)):
        with Client(path, durability=durability) as client:
            disk.mark("opened")
            write(client, disk, rng, batches)
            disk.mark("closing")
        disk.mark("synced")  # closing waits for the disk
        clock.monotonic_ns.go(SECOND_NS)
    Path(notes).write_bytes(pickle.dumps([tuple(event) for event in disk.events]))


if __name__ == "__main__":
    main(*sys.argv[1:])
