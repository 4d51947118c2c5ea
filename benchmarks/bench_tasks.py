"""No-op tasks per second, each with its span: one runner, two runners on one file, and huey where it is installed."""

from __future__ import annotations

import importlib.util
import multiprocessing
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any

from benchmarks.harness import NORMAL, Options, Result, Target, alternate, check_equal, in_fresh_process
from tilebox_local import Client, ExecutionContext, Task

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

TITLE = "Tasks"
METHOD = """\
*one_runner*: a root task submits no-op subtasks; the clock runs around `run_all()` in this process, from claiming
the root task to the commit of the last span. The report of a task and the claim of the next are one transaction,
which commits the task's span, too. *two_runners*: the subtasks are queued beforehand, the runners are processes of
their own (spawn), started and ready before the clock starts, which stops when the last of them is done; the peer is
one such process. *huey*: `SqliteHuey` without fsync, queued beforehand, `dequeue` and `execute` in a loop; no
trace, no dependencies, no subtasks. Task states, job state and spans are counted afterwards.
"""


class Noop(Task):
    """Does nothing."""

    def execute(self, context: ExecutionContext) -> None:
        """Nothing."""


class Root(Task):
    """Submits the subtasks."""

    count: int

    def execute(self, context: ExecutionContext) -> None:
        """Submit `count` tasks that do nothing."""
        context.submit_subtasks([Noop() for _ in range(self.count)])


def _check(client: Client, job: Any, count: int) -> None:
    found = client.jobs().find(job)
    check_equal(f"tasks computed, job is {found.state.name}", _computed(found), count + 1)
    # One span for each task, one for the job.
    check_equal("spans", len(client.jobs().query_spans(job)), count + 2)


def _computed(job: Any) -> int:
    return sum(number for state, number in job.execution_stats.tasks_by_state.items() if state.name == "COMPUTED")


def measure_one_runner(folder: Path, count: int) -> dict[str, Any]:
    """Tasks per second of `run_all` in this process."""
    client = Client(folder / "store.db")
    runner = client.runner(tasks=[Root, Noop])
    job = client.jobs().submit("warm-up", Root(20))
    runner.run_all()
    job = client.jobs().submit("noop", Root(count))
    started, cpu = time.perf_counter(), time.process_time()
    runner.run_all()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    _check(client, job, count)
    client.close()
    return {"rate": (count + 1) / seconds, "cpu_us_per_task": cpu / (count + 1) * 1e6}


def _run_in_child(path: str, pipe: Connection) -> None:
    client = Client(path)
    runner = client.runner(tasks=[Noop])
    runner.run_all()  # nothing to do yet: imports, registers, opens connections
    pipe.send("ready")
    pipe.recv()
    runner.run_all()
    pipe.send(client.stats().lock_wait_count)
    pipe.recv()
    client.close()


def measure_processes(folder: Path, count: int, processes: int) -> dict[str, Any]:
    """Tasks per second of `processes` runners on one file."""
    client = Client(folder / "store.db")
    context = multiprocessing.get_context("spawn")
    pipes, children = [], []
    for _ in range(processes):
        ours, theirs = context.Pipe()
        child = context.Process(target=_run_in_child, args=(str(folder / "store.db"), theirs))
        child.start()
        pipes.append(ours)
        children.append(child)
    for pipe in pipes:
        check_equal("ready runners", pipe.recv() == "ready", True)
    # Only now: a runner that still warms up would take them before the clock starts.
    job = client.jobs().submit("noop", Root(count))
    client.runner(tasks=[Root]).run_all()
    with client._store.read() as connection:
        check_equal("queued tasks", connection.execute("SELECT sum(ready) FROM task_records").get, count)
    started = time.perf_counter()
    for pipe in pipes:
        pipe.send("go")
    waits = [pipe.recv() for pipe in pipes]
    seconds = time.perf_counter() - started
    for pipe, child in zip(pipes, children, strict=True):
        pipe.send("end")
        child.join()
    _check(client, job, count)
    with client._store.read() as connection:
        query = "SELECT count(*) FROM task_records WHERE identifier_no > 1 GROUP BY runner_no"
        shares = [row[0] for row in connection.execute(query)]
    client.close()
    return {"rate": count / seconds, "tasks_per_runner": shares, "lock_waits": waits}


def measure_huey(folder: Path, count: int) -> dict[str, Any]:
    """Tasks per second of huey."""
    from huey import SqliteHuey

    huey = SqliteHuey(filename=str(folder / "huey.db"), fsync=False, journal_mode="wal")

    @huey.task()
    def noop() -> None:
        pass

    for _ in range(count):
        noop()
    started = time.perf_counter()
    done = 0
    while (task := huey.dequeue()) is not None:
        huey.execute(task)
        done += 1
    seconds = time.perf_counter() - started
    check_equal("tasks executed", done, count)
    return {"rate": done / seconds}


def run(options: Options) -> Iterator[Result]:
    """One runner (beside huey), then two runners beside one."""
    count = options.pick(5_000, 300)
    measures = [lambda: in_fresh_process(measure_one_runner, count=count)]
    has_huey = importlib.util.find_spec("huey") is not None
    if has_huey:
        measures.append(lambda: in_fresh_process(measure_huey, count=count))
    ours, *peers = alternate(options.pick(3, 1), *measures)
    yield Result(
        case="tasks/one_runner",
        unit="tasks/s",
        n=count,
        values=[one["rate"] for one in ours],
        target=Target("median", ">=", 3_000),
        peer=f"huey {metadata.version('huey')}, SqliteHuey without fsync, no trace" if has_huey else None,
        peer_values=[one["rate"] for one in peers[0]] if has_huey else [],
        durability=NORMAL,
        notes={"cpu_us_per_task": [one["cpu_us_per_task"] for one in ours]},
    )
    two, one = alternate(
        options.pick(5, 1),
        lambda: in_fresh_process(measure_processes, count=count, processes=2),
        lambda: in_fresh_process(measure_processes, count=count, processes=1),
    )
    yield Result(
        case="tasks/two_runners",
        unit="tasks/s",
        n=count,
        values=[found["rate"] for found in two],
        target=Target("ratio", ">", 1),
        peer="one runner process",
        peer_values=[found["rate"] for found in one],
        durability=NORMAL,
        notes={key: [found[key] for found in two] for key in ("tasks_per_runner", "lock_waits")},
    )
