"""Arguments of a wrong kind are refused with the value and what to pass instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tilebox_local import Client, Runner, Task
from tilebox_local.data import Cluster, JobState, LogSeverity, TaskState
from tilebox_local.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilebox_local import ExecutionContext

JOB_STATES = "Pass a member of JobState or a list of them: SUBMITTED, RUNNING, STARTED, COMPLETED, FAILED, CANCELED."
TASK_STATES = (
    "Pass a member of TaskState or a list of them: QUEUED, RUNNING, COMPUTED, FAILED, SKIPPED, FAILED_OPTIONAL."
)
LEVELS = "Pass a member of LogSeverity or a list of them: TRACE, DEBUG, INFO, WARNING, ERROR."
JOB = "019a0000-0000-7000-8000-000000000000"


class Work(Task):
    """Does nothing."""

    def execute(self, context: ExecutionContext) -> None:
        """Log."""
        context.logger.info("working")


@pytest.fixture
def client() -> Iterator[Client]:
    """A client on a store that only this test sees."""
    with Client(":memory:") as client:
        yield client


REFUSED: dict[str, tuple[Callable[[Client], object], type[Exception], str]] = {
    "name of a state": (
        lambda client: client.jobs().query(job_states="COMPLETED"),  # type: ignore[arg-type]
        ArgumentError,
        f"'COMPLETED' in job_states is no JobState. {JOB_STATES}",
    ),
    "number of a state": (
        lambda client: client.jobs().query(job_states=[JobState.FAILED, 4]),  # type: ignore[list-item]
        ArgumentError,
        f"4 in job_states is no JobState. {JOB_STATES}",
    ),
    "state of a task for that of a job": (
        lambda client: client.jobs().query(task_states=JobState.FAILED),  # type: ignore[arg-type]
        ArgumentError,
        f"<JobState.FAILED: 5> in task_states is no TaskState. {TASK_STATES}",
    ),
    "automation": (
        lambda client: client.jobs().query(automation_ids="mine"),  # type: ignore[arg-type]
        ArgumentError,
        "'mine' is no automation id; expected a UUID or its text.",
    ),
    "name to look for": (
        lambda client: client.jobs().query(name=5),  # type: ignore[arg-type]
        TypeError,
        "The name to look for is 5, which is no text; pass a str.",
    ),
    "cluster to look for": (
        lambda client: client.jobs().query(clusters=["default", 5]),  # type: ignore[list-item]
        TypeError,
        "5 in clusters is no cluster; pass a Cluster, its slug, or a list of them.",
    ),
    "number of a level": (
        lambda client: client.jobs().query_logs(JOB, level=3),  # type: ignore[arg-type]
        ArgumentError,
        f"3 in level is no LogSeverity. {LEVELS}",
    ),
    "unknown level": (
        lambda client: client.jobs().query_logs(JOB, level=["info", "Loud"]),  # type: ignore[list-item]
        ArgumentError,
        "Invalid log severity level: loud. Levels are trace, debug, info, warning, error.",
    ),
    "job name": (
        lambda client: client.jobs().submit(5, Work()),  # type: ignore[arg-type]
        TypeError,
        "The job name is 5, which is no text; pass a str.",
    ),
    "no job name": (
        lambda client: client.jobs().submit("", Work()),
        ArgumentError,
        "A job needs a name of at least one character.",
    ),
    "long job name": (
        lambda client: client.jobs().submit("n" * 65_537, Work()),
        ArgumentError,
        f"A job name has at most 65536 characters, but '{'n' * 50}'... has 65537.",
    ),
    "job name with a lone surrogate": (
        lambda client: client.jobs().submit("tile \udcff", Work()),
        ArgumentError,
        "The job name 'tile \\udcff' is no text that can be stored: it has a lone surrogate.",
    ),
    "class for a list": (
        lambda client: client.runner(tasks=Work),  # type: ignore[arg-type]
        TypeError,
        f"tasks is {Work!r}; pass a list of task classes, such as tasks=[MyTask].",
    ),
    "number for a list": (
        lambda client: Runner(tasks=5),  # type: ignore[arg-type]
        TypeError,
        "tasks is 5; pass a list of task classes, such as tasks=[MyTask].",
    ),
}


@pytest.mark.parametrize(("use", "kind", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_value_of_a_wrong_kind(
    client: Client, use: Callable[[Client], object], kind: type[Exception], message: str
) -> None:
    """The error names the value and what to pass, and nothing is stored, not even a span."""
    with pytest.raises(kind) as caught:
        use(client)
    assert (type(caught.value), str(caught.value)) == (kind, message)
    client.flush()
    with client._store.read() as connection:
        assert list(connection.execute("SELECT name FROM spans")) == []


def test_values_of_the_right_kind(client: Client) -> None:
    """One value, a list or a tuple of values, and the official package's enums are filters."""
    official: Any = pytest.importorskip("tilebox.workflows.data")
    job = client.jobs().submit("n" * 65_536, Work())
    client.runner(tasks=(Work,)).run_all()
    for states in (JobState.COMPLETED, (JobState.COMPLETED, JobState.FAILED), official.JobState.COMPLETED):
        assert [found.id for found in client.jobs().query(job_states=states)] == [job.id]
    assert client.jobs().query(job_states=official.JobState.FAILED) == []
    for clusters in ("default", [Cluster("default", "Default", False)]):
        found = client.jobs().query(clusters=clusters, task_states=[official.TaskState.COMPUTED])
        assert [one.id for one in found] == [job.id]
    assert client.jobs().query(task_states=TaskState.QUEUED) == []
    for level in ("Info", LogSeverity.INFO, ["info"], [official.LogSeverity.INFO]):
        assert [record.body for record in client.jobs().query_logs(job, level=level)] == ["working"]
