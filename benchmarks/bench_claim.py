"""One claim with few and with many tasks in the queue."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from benchmarks.harness import NORMAL, Options, Result, Target, alternate, check_equal, in_fresh_process
from tilebox_local import Client, ExecutionContext, Task, clock
from tilebox_local.engine.runners import register_runner
from tilebox_local.engine.tasks import Position, claim_task, fail_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import apsw

    from tilebox_local.engine.tasks import ClaimedTask

TITLE = "One claim, however many tasks wait"
METHOD = """\
One transaction that claims one task, from the call to the end of the commit, on two stores in turn, one with many
queued tasks and one with 1,000 (the peer). The value of a round is the median of its claims. *beside* looks as a
runner does after a task of the same job, *oldest* as one that has just started. The claimed tasks are given back
between the rounds, outside of the clock.
"""

_FEW = 1_000
_CLAIMS = 200


class Noop(Task):
    """Never executed."""

    def execute(self, context: ExecutionContext) -> None:
        """Nothing."""


class Queue:
    """A store with queued tasks, and a runner of this process in it."""

    def __init__(self, path: Path, count: int) -> None:
        self.client = Client(path)
        self.client.jobs().submit("queue", [Noop()] * count)
        self._store = self.client._store
        self._resource = self._store.resource(None)
        self._runner_no = self._store.transact(self._register)
        with self._store.read() as connection:
            self._job_no = connection.execute("SELECT job_no FROM job_records").get
            self._identifiers = [connection.execute("SELECT identifier_no FROM identifier_records").get]
            check_equal("queued tasks", connection.execute("SELECT sum(ready) FROM task_records").get, count)

    def _register(self, connection: apsw.Connection) -> int:
        return register_runner(
            connection,
            resource_no=self._store.writer.number_resource(connection, self._resource),
            cluster_no=1,
            writer_no=self._store.writer.number_writer(connection),
            now_ns=clock.wall_ns(),
        )

    def claim(self, *, beside: bool) -> dict[str, float]:
        """Microseconds per claim, median; and given back."""
        after = Position(self._job_no, None) if beside else None
        claimed: list[ClaimedTask | None] = []
        times = []
        for _ in range(_CLAIMS):
            started = time.perf_counter()
            claimed.append(self._store.transact(self._claim(after)))
            times.append(time.perf_counter() - started)
        self._store.transact(lambda connection: self._give_back(connection, claimed))
        return {"us": statistics.median(times) * 1e6}

    def _claim(self, after: Position | None) -> Callable[[apsw.Connection], ClaimedTask | None]:
        def claim(connection: apsw.Connection) -> ClaimedTask | None:
            return claim_task(
                connection,
                cluster_no=1,
                identifiers=self._identifiers,
                runner_no=self._runner_no,
                after=after,
                now_ns=clock.wall_ns(),
                lease_expires_boot_ns=clock.boot_ns() + 30_000_000_000,
            )

        return claim

    def _give_back(self, connection: apsw.Connection, claimed: list[ClaimedTask | None]) -> None:
        given = 0
        for task in claimed:
            if task is not None:
                given += fail_task(
                    connection,
                    task_no=task.task_no,
                    attempt=task.attempt,
                    display=None,
                    was_workflow_error=False,
                    progress=(),
                    now_ns=clock.wall_ns(),
                )
        check_equal("claims", given, _CLAIMS)


def measure(folder: Path, many: int, rounds: int) -> dict[str, Any]:
    """Rounds of claims on both stores, in turn."""
    large, small = Queue(folder / "large.db", many), Queue(folder / "small.db", _FEW)
    found = {}
    for name, beside in (("beside", True), ("oldest", False)):
        large.claim(beside=beside), small.claim(beside=beside)  # warm-up
        ours, peers = alternate(
            rounds,
            lambda beside=beside: large.claim(beside=beside),
            lambda beside=beside: small.claim(beside=beside),
        )
        found[name] = [[one["us"] for one in ours], [one["us"] for one in peers]]
    for queue in (large, small):
        queue.client.close()
    return found


def run(options: Options) -> Iterator[Result]:
    """Both ways to look for a task."""
    many = options.pick(1_000_000, 10_000)
    found = in_fresh_process(measure, many=many, rounds=options.pick(9, 2))
    for name, (ours, peers) in found.items():
        yield Result(
            case=f"claim/{name}",
            unit="us/claim",
            n=_CLAIMS,
            values=ours,
            target=Target("ratio", "<=", 1.25),
            peer=f"{_FEW:,} queued tasks",
            peer_values=peers,
            durability=NORMAL,
            notes={"queued_tasks": many},
        )
