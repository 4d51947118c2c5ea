"""Use stores whose disk fails: `python io_process.py FOLDER (ok | forgetful) PLAN`.

The plan is JSON: {"faults": [[phase, call, code, mode], ...], "first": n, "step": n, "last": n}. For each fault and
each number, until there are no more such calls, it makes a store and lets the n-th call of a phase fail, once or from
then on: while the store is created, opened after a kill, written, checkpointed or closed. On stdout it says what came
of it, as one JSON object a line. `forgetful` is the control: a writer that does not keep what a failed transaction was
to write.
"""

import errno
import faulthandler
import json
import shutil
import subprocess
import sys
import traceback
from functools import partial
from pathlib import Path

import apsw
from batches import ROWS, append_batch, commit_batch
from failing_disk import FailingDisk, FailingKernel, Fault

from tilebox_local import Client, Task
from tilebox_local.errors import StoreError
from tilebox_local.storage import batch as batch_module
from tilebox_local.storage import checkpointer, writer

WATCHDOG_S = 60
BATCHES = 6
KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from batches import append_batch, commit_batch
from tilebox_local import Client
client = Client(sys.argv[1])
for batch in range(4):
    append_batch(client, "killed", batch)
    commit_batch(client, "killed", batch)
os._exit(0)
"""


class Nothing(Task):
    """Does nothing."""

    def execute(self, context):
        pass


class Outcome:
    """What came of one store."""

    def __init__(self):
        self.acked = {"w": []}
        self.errors = []  # those that were promised
        self.leaks = []  # others
        self.spans = 0
        self.stats = {}
        self.fired = 0

    def allow(self, function):
        """Call it; whether it worked. Only a StoreError may come out of it."""
        try:
            function()
        except StoreError as error:
            self.errors.append(f"{type(error).__name__}: {error}")
        except BaseException as error:  # noqa: BLE001
            self.leaks.append("".join(traceback.format_exception(error)))
        else:
            return True
        return False

    def must(self, function):
        """Call it; nothing may come out of it."""
        try:
            return function()
        except BaseException as error:  # noqa: BLE001
            self.leaks.append("".join(traceback.format_exception(error)))
            return None

    def opened(self, path, fault, *, sticky):
        """The client, once it can be opened: at the second try, or when the disk is healed."""
        clients = []
        for _ in range(2):
            if self.allow(lambda: clients.append(Client(path))):
                return clients[0]
        if sticky:
            self.fired += fault.disarm()
        return self.must(lambda: Client(path))


def write(client, outcome, pending, batches):
    """Write batches, a job and reads; what is not committed is left pending."""
    for batch in batches:
        outcome.must(lambda batch=batch: append_batch(client, "w", batch, "x" * 500))
        outcome.spans += ROWS
        pending.append(batch)
        commit(client, outcome, pending, outcome.allow)
        if batch % 3 == 0:
            outcome.spans += 1
            outcome.allow(lambda batch=batch: client.jobs().submit(f"job {batch}", Nothing()))
            outcome.allow(lambda: client.jobs().query())


def commit(client, outcome, pending, attempt):
    """Commit what is pending, in order, up to the first that cannot be."""
    while pending and attempt(lambda: commit_batch(client, "w", pending[0]) or True):
        outcome.acked["w"].append(pending.pop(0))


def run(path, phase, fault, arm, *, sticky):
    """One store: what is asked of it before, while and after its disk fails."""
    outcome, pending = Outcome(), []
    if phase in ("create", "open"):
        arm()
    client = outcome.opened(path, fault, sticky=sticky)
    if client is None:
        return outcome
    if phase == "checkpoint":
        thresholds = limits(10**6, 10**6, 10**6)
        write(client, outcome, pending, range(2))
        limits(*thresholds)
    if phase in ("write", "checkpoint"):
        arm()
    write(client, outcome, pending, range(2 if phase == "checkpoint" else 0, BATCHES))
    if phase == "close":
        outcome.must(lambda: append_batch(client, "w", BATCHES))
        outcome.spans += ROWS
        arm()
    else:
        outcome.fired += fault.disarm()
        commit(client, outcome, pending, outcome.must)
        outcome.must(client.flush)
    stats = client.stats
    (outcome.allow if phase == "close" else outcome.must)(lambda: close(client))
    outcome.fired += fault.disarm()
    outcome.stats = vars(stats())
    again = outcome.must(lambda: Client(path))
    if again is not None:
        outcome.must(lambda: append_batch(again, "again", 0))
        if outcome.must(lambda: commit_batch(again, "again", 0) or True):
            outcome.acked["again"] = [0]
        outcome.must(again.close)
    return outcome


def close(client):
    """Close it. Unlike the usual VFS, one in Python can raise while SQLite closes a file, and apsw hands that on."""
    try:
        client.close()
    except apsw.Error as error:
        if isinstance(error.__context__, StoreError):
            raise error.__context__ from None


def limits(*pages):
    """Set when the log is checkpointed; what it was before."""
    before = checkpointer._BACKGROUND_PAGES, checkpointer._COMMITTER_PAGES, checkpointer._OVERDUE_PAGES
    checkpointer._BACKGROUND_PAGES, checkpointer._COMMITTER_PAGES, checkpointer._OVERDUE_PAGES = pages
    return before


def forget(self):
    """A rollback that loses what it should keep."""
    keep(self)
    self.span_rows, self.spans, self.logs = [], [], []


keep = batch_module.Batch.rollback


def prepare_killed(folder):
    """A store as a killed process leaves it, with a log to recover."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", KILLED, str(folder / "store.db"), str(Path(__file__).parent)]
    subprocess.run(command, check=True, timeout=WATCHDOG_S)
    (folder / "store.db-shm").unlink()


def main(folder, kind, plan):
    """Go through the faults of the plan, and through the numbers of each."""
    global BATCHES
    folder, plan = Path(folder), json.loads(plan)
    BATCHES *= max(1, plan["last"] // 100)  # so that there are as many calls
    fault = Fault()
    kept = FailingKernel(fault), FailingDisk(fault)  # noqa: F841 -- SQLite goes on using them
    writer._RETRY_S = (0.001,) * 5
    limits(12, 30, 60)
    if kind == "forgetful":
        batch_module.Batch.rollback = forget
    killed = folder / "killed"
    prepare_killed(killed)
    for position, (phase, call, code, mode) in enumerate(plan["faults"]):
        value = getattr(apsw, code) if code.startswith("SQLITE_") else getattr(errno, code)
        for number in range(plan["first"], plan["last"] + 1, plan["step"]):
            faulthandler.dump_traceback_later(WATCHDOG_S, exit=True)
            place = folder / f"{position}-{number}"
            if phase == "open":
                shutil.copytree(killed, place)
            else:
                place.mkdir()
            arm = partial(fault.arm, call, number, value, sticky=mode == "sticky")
            outcome = run(place / "store.db", phase, fault, arm, sticky=mode == "sticky")
            if phase == "open":
                outcome.acked["killed"] = list(range(4))
            told = {"store": str(place / "store.db"), "fault": [phase, call, code, mode, number]} | vars(outcome)
            sys.stdout.write(json.dumps(told) + "\n")
            if not outcome.fired:
                break
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(*sys.argv[1:])
