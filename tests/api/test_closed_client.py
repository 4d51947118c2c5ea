"""A closed client refuses whatever needs its store, whoever else has the file open."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tilebox_local import Client, Runner, Task
from tilebox_local.data import JobState, TaskState
from tilebox_local.errors import StoreClosedError
from tilebox_local.storage.watch import ChangeWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tilebox_local import ExecutionContext

closed_by_task: list[Client] = []


class Work(Task):
    """Closes the clients in `closed_by_task`."""

    def execute(self, context: ExecutionContext) -> None:
        """Close them."""
        for client in closed_by_task:
            client.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Path of a store."""
    return tmp_path / "store.db"


@pytest.fixture
def other(path: Path) -> Iterator[Client]:
    """A client that stays open."""
    with Client(path) as other:
        yield other


def uses_of(client: Client, submitted_by: Client) -> dict[str, Callable[[], object]]:
    """What one can do with an open client, and with what it has given out."""
    jobs, clusters, runner = client.jobs(), client.clusters(), client.runner(tasks=[Work])
    job = submitted_by.jobs().submit("job", Work())
    return {
        "submit": lambda: jobs.submit("late", Work()),
        "retry": lambda: jobs.retry(job),
        "cancel": lambda: jobs.cancel(job),
        "find": lambda: jobs.find(job.id),
        "query": jobs.query,
        "query_logs": lambda: jobs.query_logs(job),
        "query_spans": lambda: jobs.query_spans(job),
        "visualize": lambda: jobs.visualize(job),
        "create": lambda: clusters.create("late"),
        "update": lambda: clusters.update("", "late"),
        "all": clusters.all,
        "find cluster": lambda: clusters.find(""),
        "delete": lambda: clusters.delete("late"),
        "run_all": runner.run_all,
        "run_forever": runner.run_forever,
        "new job client": lambda: client.jobs().query(),
        "new cluster client": lambda: client.clusters().all(),
        "new runner": lambda: client.runner(tasks=[Work]),
        "connected runner": lambda: Runner(tasks=[Work]).connect_to(client),
        "flush": client.flush,
    }


def test_closed_client_of_a_shared_store(path: Path, other: Client) -> None:
    """Everything raises StoreClosedError and changes nothing; the other client goes on."""
    client = Client(path)
    uses = uses_of(client, other)
    client.close()
    for name, use in uses.items():
        with pytest.raises(StoreClosedError) as caught:
            use()
        assert str(caught.value) == f"This client of {path} is closed. Open a new Client.", name
    (job,) = other.jobs().query()
    assert job.state is JobState.SUBMITTED
    assert [span.name for span in other.jobs().query_spans(job)] == ["job/job"]
    other.flush()
    with other._store.read() as connection:
        assert connection.execute("SELECT count(*) FROM spans").get == 1


def test_runner_whose_client_is_closed_meanwhile(path: Path, other: Client) -> None:
    """The running task counts, no other one starts, and the runner is marked as stopped."""
    client = Client(path)
    runner = client.runner(tasks=[Work])
    job = other.jobs().submit("job", [Work(), Work()])
    closed_by_task.append(client)
    try:
        for run in (runner.run_all, runner.run_forever):
            with pytest.raises(StoreClosedError, match=r"This client of .* is closed\."):
                run()
    finally:
        closed_by_task.clear()
    stats = other.jobs().find(job).execution_stats
    assert stats.tasks_by_state == {TaskState.COMPUTED: 1, TaskState.QUEUED: 1}
    with other._store.read() as connection:
        assert list(connection.execute("SELECT stopped_at IS NOT NULL FROM runners")) == [(1,)]
    other.runner(tasks=[Work]).run_all()
    assert other.jobs().find(job).state is JobState.COMPLETED


def test_idle_runner_whose_client_is_closed_meanwhile(path: Path, other: Client) -> None:
    """A runner that waits for tasks ends when its client is closed."""
    client = Client(path)
    job = other.jobs().submit("job", Work())
    errors: list[StoreClosedError] = []

    def serve() -> None:
        try:
            client.runner(tasks=[Work]).run_forever()
        except StoreClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    changes = ChangeWatch(other._store)
    while thread.is_alive() and other.jobs().find(job).state is not JobState.COMPLETED:
        changes.wait()
    changes.close()
    client.close()
    thread.join(20)
    assert not thread.is_alive()
    assert [str(error) for error in errors] == [f"This client of {path} is closed. Open a new Client."]


def test_telemetry_of_a_closed_client(path: Path) -> None:
    """Its spans are stored while another client has the file open, else dropped and counted; nothing is raised."""
    client, other = Client(path), Client(path)
    client.close()
    with client.tracer.span("shared"):
        pass
    client.tracer_provider.get_tracer("library").start_span("library").end()
    other.flush()
    with other._store.read() as connection:
        assert list(connection.execute("SELECT name FROM spans ORDER BY name")) == [("library",), ("shared",)]
    other.close()
    with client.tracer.span("alone"):
        pass
    assert client.stats().dropped_count == 1
    with Client(path) as reader, reader._store.read() as connection:
        assert list(connection.execute("SELECT name FROM spans ORDER BY name")) == [("library",), ("shared",)]
