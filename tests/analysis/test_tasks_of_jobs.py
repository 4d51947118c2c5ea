"""Critical path, waits, concurrency and runners of jobs that the engine has played, against plain definitions."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulation import NAMES, Simulation, groups
from slow import nearest_rank
from trace_builder import T0, Attempt, TraceBuilder

from tilebox_local import clock

if TYPE_CHECKING:
    import pytest
    from simulation import Node

    from tilebox_local import Client

    Plan = list[tuple[list[int], list[Node]]]

shared_store = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
PLANS = groups(2)
RUNNERS = st.integers(1, 3)


@shared_store
@given(PLANS, RUNNERS)
def test_critical_path(client: Client, build: TraceBuilder, plan: Plan, runners: int) -> None:
    """The path leads from the last stop back over what released each task; its parts add up to the whole time."""
    played = Simulation(build, plan, runners)
    chain = []
    node: Node | None = max(played.nodes.values(), key=lambda node: (node.attempts[-1][2], node.number))
    while node is not None:
        chain.insert(0, node)
        node = node.caused_by
    expected, last = [], 0
    for node in chain:
        for number, (ready, start, stop, outcome, runner) in enumerate(node.attempts, start=1):
            name = (node.name, number, outcome, f"runner-{runner}")
            expected.append((*name, ready - last, start - ready, stop - start, T0 + start, T0 + stop))
            last = stop
    path = client.jobs().critical_path(played.job_id)
    assert [
        (
            step.name,
            step.attempt,
            step.outcome,
            step.runner,
            step.delay_duration_ns,
            step.queue_wait_duration_ns,
            step.run_duration_ns,
            step.started_at_ns,
            step.stopped_at_ns,
        )
        for step in path
    ] == expected
    assert [step.step for step in path] == list(range(1, len(path) + 1))
    assert path.whole_duration_ns == last
    if last:
        assert abs(sum(step.share or 0 for step in path) - 1) < 1e-9


def length_of(roots: list[tuple[list[int], list[Node]]], free: str | None) -> int:
    """When the last task of a plan ends if waits stay as they were, and tasks named `free` take no time."""

    @cache
    def end(node: Node) -> int:
        ready = max([0 if node.parent is None else end(node.parent), *(settled(other) for other in node.depends_on)])
        length = node.attempts[-1][2] - node.attempts[0][0]
        run = sum(stop - start for _, start, stop, *_ in node.attempts)
        return ready + length - (run if node.name == free else 0)

    @cache
    def settled(node: Node) -> int:
        return max(end(other) for other in node.below())

    return max(settled(node) for _, tasks in roots for node in tasks)


@shared_store
@given(PLANS, RUNNERS)
def test_savings(client: Client, build: TraceBuilder, plan: Plan, runners: int) -> None:
    """What is saved is the time until the last task ends, less what it is when the tasks of a name take no time."""
    played = Simulation(build, plan, runners)
    path = client.jobs().critical_path(played.job_id)
    on_path = {name: sum(step.run_duration_ns or 0 for step in path if step.name == name) for name in NAMES}
    names = {step.name for step in path}
    expected = {name: (on_path[name], length_of(plan, None) - length_of(plan, name)) for name in names}
    assert {one.name: (one.run_duration_ns, one.saved_duration_ns) for one in path.savings} == expected
    saved = [one.saved_duration_ns for one in path.savings]
    assert saved == sorted(saved, reverse=True)


@shared_store
@given(PLANS, RUNNERS)
def test_queue_waits(client: Client, build: TraceBuilder, plan: Plan, runners: int) -> None:
    """Waits, run times and what failed, lost and returned attempts cost are those of all attempts of a name."""
    played = Simulation(build, plan, runners)
    found = {one.name: one for one in client.jobs().queue_waits(played.job_id)}
    assert set(found) == {node.name for node in played.nodes.values()}
    for name, one in found.items():
        runs = [attempt for node, _, attempt in played.runs() if node.name == name]
        waits = [start - ready for ready, start, *_ in runs]
        cost = {
            outcome: [stop - start for _, start, stop, ended, _ in runs if ended == outcome]
            for outcome in ("FAILED", "LOST", "RELEASED")
        }
        assert (one.version, one.attempts, one.wait_duration_ns) == ("v0.0", len(runs), sum(waits))
        assert one.run_duration_ns == sum(stop - start for _, start, stop, *_ in runs)
        assert (one.p50_wait_duration_ns, one.p95_wait_duration_ns, one.max_wait_duration_ns) == (
            nearest_rank(waits, 50),
            nearest_rank(waits, 95),
            max(waits),
        )
        assert (one.retries, one.retry_cost_duration_ns) == (len(cost["FAILED"]), sum(cost["FAILED"]))
        detection = Simulation.DETECTION * len(cost["LOST"])
        assert (one.lost, one.lost_cost_duration_ns) == (len(cost["LOST"]), sum(cost["LOST"]) + detection)
        assert (one.released, one.released_cost_duration_ns) == (len(cost["RELEASED"]), sum(cost["RELEASED"]))


@shared_store
@given(PLANS, RUNNERS, st.integers(1, 8))
def test_concurrency(client: Client, build: TraceBuilder, plan: Plan, runners: int, slots: int) -> None:
    """Levels and means are those of counting at every instant; runners are busy while any of their attempts runs."""
    played = Simulation(build, plan, runners)
    runs = [attempt for _, _, attempt in played.runs()]
    whole = max(stop for _, _, stop, *_ in runs)
    running = [sum(start <= at < stop for _, start, stop, *_ in runs) for at in range(whole)]
    queued = [sum(ready <= at < start for ready, start, *_ in runs) for at in range(whole)]
    found = client.jobs().concurrency(played.job_id, slots=slots)
    width = max(1, -(-whole // slots))
    assert [
        (one.start_time_ns - T0, one.duration_ns, one.running, one.max_running, one.queued, one.max_queued)
        for one in found
    ] == [
        (
            first,
            len(running[first : first + width]),
            sum(running[first : first + width]) / len(running[first : first + width]),
            max(running[first : first + width]),
            sum(queued[first : first + width]) / len(queued[first : first + width]),
            max(queued[first : first + width]),
        )
        for first in range(0, whole, width)
    ]
    assert found.peak_running == max(running, default=0)
    begin = min(start for _, start, *_ in runs)
    busy = {
        f"runner-{number}": [
            any(start <= at < stop for _, start, stop, _, runner in runs if runner == number)
            for at in range(begin, whole)
        ]
        for number in {runner for *_, runner in runs}
    }
    assert {one.runner: (one.busy_duration_ns, one.idle_duration_ns) for one in found.runners} == {
        runner: (sum(instants), len(instants) - sum(instants)) for runner, instants in busy.items()
    }
    gaps = {}
    for runner, instants in busy.items():
        gaps[runner] = gap = 0
        starts = {start for _, start, _, _, number in runs if f"runner-{number}" == runner}
        for at, is_busy in enumerate(instants, start=begin):
            gap = 0 if is_busy else 1 if at in starts else gap + 1  # an attempt of no length ends a gap, too
            gaps[runner] = max(gaps[runner], gap)
    assert {one.runner: one.longest_idle_duration_ns for one in found.runners} == gaps


def test_stragglers(client: Client, build: TraceBuilder) -> None:
    """An attempt far above the others of its task is a straggler; one of four attempts is not, nor a slow group."""
    job = build.job()
    for number, length in enumerate([10, 11, 10, 12, 11, 10, 50]):
        job.task("tile", Attempt(0, number * 100, number * 100 + length))
    for number, length in enumerate([10, 11, 10, 500]):
        job.task("rare", Attempt(0, number * 100, number * 100 + length))
    found = client.jobs().concurrency(job.id).stragglers
    assert [(one.name, one.duration_ns, one.median_duration_ns, one.fence_duration_ns) for one in found] == [
        ("tile", 50, 11, 15)
    ]


def test_bottlenecks_of_the_path(client: Client, build: TraceBuilder) -> None:
    """The ranking by critical path says how many runners were idle, what would be saved, and how long tasks waited."""
    job = build.job()
    group = job.group()
    job.task("load", Attempt(0, 2_000_000, 10_000_000, runner_no=2), group=group)
    last = job.task("slow", Attempt(0, 0, 60_000_000), group=group)
    job.task("store", Attempt(60_000_000, 70_000_000, 100_000_000), depends_on=(group,), released_by=last)
    found = client.jobs().bottlenecks(job.id, "critical_path")
    assert [(one.name, one.count, one.duration_ns) for one in found] == [
        ("slow", 1, 60_000_000),
        ("store", 1, 30_000_000),
        ("(queue wait)", 1, 10_000_000),
    ]
    part = "of the time from submission to the end, in"
    assert [one.reason for one in found] == [
        f"60 % {part} 1 attempt; 0.9 of 2 runners idle meanwhile; would save 50.0 ms if it took no time",
        f"30 % {part} 1 attempt; 1 of 2 runners idle meanwhile; would save 30.0 ms if it took no time",
        f"10 % {part} which the next task could have been claimed and was not, once",
    ]
    assert [one.reason for one in client.jobs().bottlenecks(job.id, "queue_wait")] == [
        "83 % of all waiting, in 1 attempt: 10.0 ms on average, at most 10.0 ms; they ran for 30.0 ms",
        "17 % of all waiting, in 1 attempt: 2.00 ms on average, at most 2.00 ms; they ran for 8.00 ms",
    ]


def test_a_running_job(client: Client, build: TraceBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a job runs, the path ends in the attempt that has run for the longest, whose length is not known yet."""
    job = build.job()
    root = job.task("root", Attempt(0, 5, 10))
    job.task("late", Attempt(10, 30, None), parent=root, submitted=10)
    job.task("early", Attempt(10, 20, None, runner_no=2), parent=root, submitted=10)
    job.task("queued", parent=root, submitted=10)
    path = client.jobs().critical_path(job.id)
    assert [(step.name, step.outcome, step.queue_wait_duration_ns, step.run_duration_ns) for step in path] == [
        ("root", "COMPUTED", 5, 5),
        ("early", "RUNNING", 10, None),
    ]
    assert path.whole_duration_ns == 20
    assert [(one.name, one.run_duration_ns) for one in path.savings] == [("root", 5), ("early", 0)]
    assert [(one.name, one.attempts, one.run_duration_ns) for one in client.jobs().queue_waits(job.id)] == [
        ("late", 1, 0),
        ("early", 1, 0),
        ("root", 1, 5),
    ]
    monkeypatch.setattr(clock, "wall_ns", lambda: T0 + 50)
    assert [(slot.running, slot.queued) for slot in client.jobs().concurrency(job.id, slots=5)] == [
        (0.5, 0.5),
        (0, 2),
        (1, 1),
        (2, 0),
        (2, 0),
    ]


def test_clocks_that_ran_backwards(client: Client, build: TraceBuilder) -> None:
    """Steps that seem to begin before what caused them keep their times; nothing that is ranked is negative."""
    job = build.job()
    root = job.task("root", Attempt(0, 10, 100))
    job.task("child", Attempt(50, 40, 60), parent=root, submitted=50)
    last = job.task("last", Attempt(30, 20, 110), parent=root, submitted=30)
    assert last
    path = client.jobs().critical_path(job.id)
    assert [
        (step.name, step.delay_duration_ns, step.queue_wait_duration_ns, step.run_duration_ns) for step in path
    ] == [
        ("root", 0, 10, 90),
        ("last", -70, -10, 90),
    ]
    assert path.whole_duration_ns == 110
    assert all(one.wait_duration_ns >= 0 for one in client.jobs().queue_waits(job.id))
    assert all(one.duration_ns > 0 for one in client.jobs().bottlenecks(job.id, "critical_path"))
    assert all(slot.max_running >= 0 for slot in client.jobs().concurrency(job.id))


def test_a_clock_that_began_in_1970(client: Client, build: TraceBuilder) -> None:
    """Tasks that were submitted before the clock was set have waited for decades; all of that can be added up."""
    job = build.job(start=0)
    for number in range(12):
        job.task("task", Attempt(0, T0 + number, T0 + number + 10))
    waited = 12 * T0
    (found,) = client.jobs().queue_waits(job.id)
    assert (found.wait_duration_ns, found.run_duration_ns) == (waited, 120)
    assert [one.duration_ns for one in client.jobs().bottlenecks(job.id, "queue_wait")] == [waited]
    (slot,) = client.jobs().concurrency(job.id, slots=1)
    assert (round(slot.queued, 9), slot.max_queued) == (12.0, 12)
    (trend,) = client.jobs().trends("job")
    assert trend.queue_wait_duration_ns == (1 << 63) - 1
    assert trend.elapsed_duration_ns == 21
