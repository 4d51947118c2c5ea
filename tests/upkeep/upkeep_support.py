"""What the tests of snapshot, prune, check and recover share: a store with jobs in all states, and all of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from store_support import log_item

from tilebox_local import ExecutionContext, Task
from tilebox_local.catalog import run
from tilebox_local.engine.jobs import cancel_job

if TYPE_CHECKING:
    from tilebox_local import Client, Job
    from tilebox_local.storage.store import Store

TELEMETRY = ("span_records", "event_records", "log_records")


class Leaf(Task):
    """Leaves a span with an event, a log record and progress."""

    number: int

    def execute(self, context: ExecutionContext) -> None:
        with context.tracer.span(f"leaf {self.number}") as span:
            span.set_attribute("payload", "x" * 200)
            span.add_event("event", {"number": self.number})
        context.logger.info("log of leaf %s", self.number)
        context.progress("leaves").add(1)


class Root(Task):
    """Submits leaves, and one more that waits for them."""

    count: int

    def execute(self, context: ExecutionContext) -> None:
        leaves = context.submit_subtasks([Leaf(number) for number in range(self.count)])
        context.submit_subtask(Leaf(-1), depends_on=leaves)


class Broken(Task):
    """Fails."""

    def execute(self, context: ExecutionContext) -> None:
        raise ValueError("broken")


def run_jobs(client: Client, *names: str, leaves: int = 3) -> list[Job]:
    """Run a job per name to its end."""
    runner = client.runner(tasks=[Root, Leaf, Broken])
    jobs = []
    for name in names:
        jobs.append(client.jobs().submit(name, Root(leaves)))
        runner.run_all()
    return jobs


def fill(client: Client) -> None:
    """Jobs that are completed, failed, canceled, running and waiting; telemetry of no job, in traces and outside."""
    run_jobs(client, "completed", "completed, too")
    runner = client.runner(tasks=[Root, Leaf, Broken])
    client.jobs().submit("failed", [Broken(), Leaf(1)])
    runner.run_all()
    canceled = client.jobs().submit("canceled", Root(2))
    client._store.transact(lambda connection: cancel_job(connection, canceled.id))
    with client.tracer.span("jobless") as span:
        span.add_event("event")
    client._store.writer.queue.append_log(log_item(client._store, "outside"))
    client.jobs().submit("running", [Leaf(1), Leaf(2)])
    claim_one(client)
    client.jobs().submit("waiting", Root(2))
    client.flush()


def claim_one(client: Client) -> None:
    """A runner of a process that is gone has claimed the oldest claimable task."""

    def claim(connection: Any) -> None:
        run(
            connection,
            "claim_task",
            {
                "task_no": connection.execute("SELECT min(task_no) FROM task_records WHERE ready").get,
                "runner_no": connection.execute("SELECT max(runner_no) FROM runner_records").get,
                "now_ns": 1_000_000_000,
                "lease_expires_boot_ns": 1,
            },
        )

    client._store.transact(claim)


def everything(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables but those that change with each commit."""
    with store.snapshot() as connection:
        return {
            table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
            for table, _ in run(connection, "tables")
            if table not in ("store_records", "writer_records")
        }


def counts(store: Store) -> dict[str, int]:
    """Rows per table."""
    with store.snapshot() as connection:
        return {
            table: connection.execute(f"SELECT count(*) FROM {table}").get for table, _ in run(connection, "tables")
        }
