"""Where the filters of job queries and the limits of pictures and reports end."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from scripted import Do

from tilebox_local.data import JobState, ProgressIndicator, TaskState
from tilebox_local.errors import ArgumentError
from tilebox_local.formatting.diagram import MAX_DIAGRAM_TASKS
from tilebox_local.intervals import IDInterval, TimeInterval

START = datetime(2027, 1, 15, 8, tzinfo=UTC)
START_NS = 1_800_000_000_000_000_000


@pytest.mark.parametrize(
    ("start_exclusive", "end_inclusive", "found"),
    [
        (False, False, [0, 999]),
        (True, False, []),
        (False, True, [0, 999, 1000, 1999]),
        (True, True, [1000, 1999]),
    ],
)
def test_time_interval(client, frozen, start_exclusive, end_inclusive, found):
    """The bounds of an interval are whole microseconds, as of `submitted_at`: jobs in them are in or out together."""
    nanoseconds = {}
    for offset in (-1, 0, 999, 1000, 1999, 2000):
        frozen.wall_ns = START_NS + offset
        nanoseconds[client.jobs().submit(f"at {offset}", Do("root")).id] = offset
    interval = TimeInterval(START, START + timedelta(microseconds=1), start_exclusive, end_inclusive)
    assert sorted(nanoseconds[job.id] for job in client.jobs().query(interval)) == found


@pytest.mark.parametrize(
    ("start_exclusive", "end_inclusive", "found"),
    [(False, False, "ab"), (True, False, "b"), (False, True, "abc"), (True, True, "bc")],
)
def test_id_interval(client, start_exclusive, end_inclusive, found):
    """Each bound of an interval of ids belongs to it or not, as it says."""
    first, middle, last = sorted(client.jobs().submit("job", Do("root")).id for _ in range(3))
    names = {first: "a", middle: "b", last: "c"}
    interval = IDInterval(first, last, start_exclusive, end_inclusive)
    assert [names[job.id] for job in client.jobs().query(interval)] == sorted(found, reverse=True)


@pytest.mark.parametrize("end", [0, (1 << 128) - 1])
def test_id_interval_at_the_first_and_last_id(client, end):
    """An interval without its only id, the first or the last one there is, is empty and no error."""
    client.jobs().submit("job", Do("root"))
    assert client.jobs().query(IDInterval(UUID(int=end), UUID(int=end), True, False)) == []


def test_longest_name_filter(client):
    """A name filter has up to 100 characters; the error tells the limit and how many there are."""
    job = client.jobs().submit("n" * 101, Do("root"))
    assert [found.id for found in client.jobs().query(name="n" * 100)] == [job.id]
    with pytest.raises(ArgumentError) as caught:
        client.jobs().query(name="n" * 101)
    assert str(caught.value) == "A name filter has at most 100 characters, not 101."


def test_largest_diagram(client):
    """A job of 200 tasks has a diagram, one of 201 is refused before its tasks are read."""
    assert MAX_DIAGRAM_TASKS == 200
    fits = client.jobs().submit("fits", [Do("root") for _ in range(200)])
    assert client.jobs().visualize(fits).count("<title>Do") == 200
    too_large = client.jobs().submit("too large", [Do("root") for _ in range(201)])
    with pytest.raises(ArgumentError) as caught:
        client.jobs().visualize(too_large)
    assert str(caught.value) == (
        "The job has 201 tasks; a diagram shows at most 200. Query its spans, or the view `tasks`, instead."
    )


def test_runner_last_seen_before_the_attempt(script, engine, frozen):
    """An attempt that is lost before its runner gave any sign of life ends when it began."""
    job = script.submit()
    claimed = engine.claim()
    frozen.advance(40)
    assert engine.lose(claimed, last_seen_ns=claimed.started_ns - 7)
    stats = script.jobs.find(job).execution_stats
    assert (stats.first_task_started_at, stats.last_task_stopped_at) == (START, START)
    assert (stats.compute_time, stats.elapsed_time) == (timedelta(0), timedelta(0))
    with script.client._store.read() as connection:
        assert list(connection.execute("SELECT started_ns, stopped_ns FROM task_records")) == [(START_NS, START_NS)]


def test_progress_beyond_all_bounds(script):
    """Counts of progress that are too large are stored as the largest one, negative ones as 0; the task counts."""

    def root(context):
        context.progress("large").add(2**70)
        context.progress("large").done(2**40)
        context.progress("largest").add(2**40 - 1)
        context.progress("negative").done(-5)

    job = script.play(root=root)
    assert (job.state, job.execution_stats.tasks_by_state) == (JobState.COMPLETED, {TaskState.COMPUTED: 1})
    assert job.progress == [
        ProgressIndicator("large", 2**40 - 1, 2**40 - 1),
        ProgressIndicator("largest", 2**40 - 1, 0),
        ProgressIndicator("negative", 0, 0),
    ]
