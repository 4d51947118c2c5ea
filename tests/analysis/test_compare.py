"""Comparing two jobs: verdicts, contributions, words, odd jobs, and what is read."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_builder import FAILED, T0, Attempt, SpanSpec, TraceBuilder

from tilebox_local.analysis.compare import PathComparison
from tilebox_local.catalog import sql
from tilebox_local.errors import ArgumentError, NotFoundError

if TYPE_CHECKING:
    from trace_builder import JobBuilder

    from tilebox_local import Client
    from tilebox_local.analysis.compare import JobComparison

S = 1_000_000_000
MS = 1_000_000


def job_of(build: TraceBuilder, spans: dict[str, list[int]], name: str = "scenes") -> JobBuilder:
    """A job with root spans, one after the other: durations in ms by name."""
    job = build.job(name)
    specs, start = [], 0
    for span_name, durations in spans.items():
        for duration in durations:
            specs.append(SpanSpec(span_name, start, start + duration * MS))
            start += duration * MS
    job.spans(specs)
    return job


def compare(client: Client, a: JobBuilder, b: JobBuilder) -> JobComparison:
    """The comparison, whose contributions must sum to 1 where there is a difference."""
    found = client.jobs().compare(a.id, b.id)
    shares = [path.contribution for path in found.paths]
    if found.self_difference_duration_ns:
        assert sum(share for share in shares if share is not None) == pytest.approx(1)
        assert None not in shares
    else:
        assert set(shares) <= {None}
    sizes = [abs(path.self_difference_duration_ns) for path in found.paths]
    assert sizes == sorted(sizes, reverse=True)
    return found


def by_path(comparison: JobComparison) -> dict[str, PathComparison]:
    """Its paths."""
    return {path.path: path for path in comparison.paths}


# -- one path in all detail --------------------------------------------------------------------------------------------


def test_a_slower_path(client: Client, build: TraceBuilder) -> None:
    """Counts, totals, self times, medians and contribution of both jobs, and a sentence."""
    jobs = []
    for factor, name in ((1, "yesterday"), (2, "today")):
        job = build.job(name)
        root = job.span(f"job/{name}", 0, 100 * S)
        read = job.span("read", 0, 50 * S, parent=root)
        job.spans([SpanSpec("warp", n * S, n * S + (300 + n) * MS * factor, parent=read) for n in range(8)])
        job.span("warp", 20 * S, None, parent=read, status=2)
        jobs.append(job)
    found = compare(client, *jobs)
    total = sum(300 + n for n in range(8)) * MS
    assert by_path(found)["job > read > warp"] == PathComparison(
        path="job > read > warp",
        verdict="slower",
        is_certain=True,
        p=by_path(found)["job > read > warp"].p,
        a_count=9,
        b_count=9,
        a_open=1,
        b_open=1,
        a_failed=1,
        b_failed=1,
        a_total_duration_ns=total,
        b_total_duration_ns=2 * total,
        difference_duration_ns=total,
        a_self_duration_ns=total,
        b_self_duration_ns=2 * total,
        self_difference_duration_ns=total,
        a_median_duration_ns=303_500_000,
        b_median_duration_ns=607_000_000,
        contribution=None,
        description="job > read > warp: 2.43 s slower in total (+100 %)",
    )
    p = by_path(found)["job > read > warp"].p
    assert p is not None
    assert 0 < p < 0.01
    # What `warp` took more, `read` has less of its own: the difference of all self times is 0.
    assert by_path(found)["job > read"].self_difference_duration_ns == -total
    assert {name: (path.verdict, path.is_certain) for name, path in by_path(found).items()} == {
        "job > read > warp": ("slower", True),
        "job > read": ("same", False),
        "job": ("same", False),
    }


def test_contributions(client: Client, build: TraceBuilder) -> None:
    """They divide up the difference of all self times; what became faster counts against it."""
    a = job_of(build, {"read": [1000], "warp": [2000], "write": [3000]})
    b = job_of(build, {"read": [1900], "warp": [1600], "write": [3500]})
    found = compare(client, a, b)
    assert [(path.path, path.contribution) for path in found.paths] == [("read", 0.9), ("write", 0.5), ("warp", -0.4)]
    assert [path.description for path in found.paths] == [
        "read: 900 ms slower in total (+90 %), too few spans to be certain, 90 % of the difference",
        "write: about as long per span, 500 ms more in total (+17 %), 50 % of the difference",
        "warp: about as long per span, 400 ms less in total (-20 %), -40 % of the difference",
    ]


def test_added_and_missing(client: Client, build: TraceBuilder) -> None:
    """A path that only one job has is added or missing, certainly, whatever its length."""
    found = compare(client, job_of(build, {"old": [5, 5]}), job_of(build, {"new": [7]}))
    assert [(p.path, p.verdict, p.is_certain, p.a_count, p.b_count) for p in found.paths] == [
        ("old", "missing", True, 2, 0),
        ("new", "added", True, 0, 1),
    ]
    assert [(p.a_median_duration_ns, p.b_median_duration_ns) for p in found.paths] == [(5 * MS, None), (None, 7 * MS)]
    assert [p.description for p in found.paths] == [
        "old: only in a, 10.0 ms in 2 spans, 333 % of the difference",
        "new: only in b, 7.00 ms in 1 span, -233 % of the difference",
    ]


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([10], [12], "same"),  # 20 %
        ([10], [13], "slower"),
        ([13], [10], "faster"),
        ([1], [2], "same"),  # 1 ms, not more
        ([4] * 4, [6] * 9, "slower"),  # too few on one side
        ([0], [2], "slower"),
    ],
)
def test_few_spans(before: list[int], after: list[int], verdict: str, client: Client, build: TraceBuilder) -> None:
    """With fewer than five ended spans on a side the total decides: by more than 25 % and more than 1 ms."""
    found = compare(client, job_of(build, {"read": before}), job_of(build, {"read": after}))
    assert [(path.verdict, path.is_certain, path.p) for path in found.paths] == [(verdict, False, None)]


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (range(1000, 1020), range(1105, 1125), "slower"),
        (range(1105, 1125), range(1000, 1020), "faster"),
        (range(1000, 1020), range(1090, 1110), "same"),  # by 9 %, however certain
        (range(1000, 1005), range(9000, 9005), "same"),  # five and five: p = 0.012
        (range(1000, 1006), range(9000, 9006), "slower"),
        ([7] * 50, [7] * 80, "same"),
        ([0] * 50, [0] * 50, "same"),
    ],
)
def test_many_spans(before: Any, after: Any, verdict: str, client: Client, build: TraceBuilder) -> None:
    """With five or more on both sides the ranks decide, if the medians differ by at least 10 %."""
    found = compare(client, job_of(build, {"read": list(before)}), job_of(build, {"read": list(after)}))
    assert [(path.verdict, path.is_certain) for path in found.paths] == [(verdict, True)]


def test_more_and_shorter_spans(client: Client, build: TraceBuilder) -> None:
    """A verdict is about spans; where the total says otherwise, the sentence says both."""
    found = compare(client, job_of(build, {"read": [10] * 10}), job_of(build, {"read": [5] * 40}))
    assert [path.description for path in found.paths] == [
        (
            "read: faster, with a median of 5.00 ms instead of 10.0 ms, but 100 ms more in total (+100 %), 40 spans "
            "instead of 10, 100 % of the difference"
        )
    ]


def test_many_paths_are_corrected_for(client: Client, build: TraceBuilder) -> None:
    """Of 200 paths of noise none is called slower or faster, in 20 comparisons; a real change among them is."""
    rng = random.Random(1)

    def noise() -> dict[str, list[int]]:
        return {f"step {n}": [int(rng.lognormvariate(5, 0.6)) for _ in range(12)] for n in range(200)}

    alarms = 0
    for _ in range(20):
        a, b = noise(), noise()
        b["step 7"] = [5000 + n for n in range(12)]
        verdicts = {path.path: path.verdict for path in compare(client, job_of(build, a), job_of(build, b)).paths}
        assert verdicts.pop("step 7") == "slower"
        alarms += any(verdict != "same" for verdict in verdicts.values())
    assert alarms <= 1


# -- whole jobs --------------------------------------------------------------------------------------------------------


def test_the_jobs_themselves(client: Client, build: TraceBuilder) -> None:
    """Elapsed, compute, waits, tasks, failures and spans of both jobs, with differences and a sentence."""
    a, b = build.job("a"), build.job("b")
    a.task("Load", Attempt(0, S, 3 * S))
    b.task("Load", Attempt(0, 2 * S, 3 * S, outcome=FAILED), Attempt(3 * S, 4 * S, 8 * S))
    b.task("Save", Attempt(0, 8 * S, 9 * S, outcome=FAILED))
    a.span("read", 0, S)
    b.spans([SpanSpec("read", 0, 4 * S, status=2), SpanSpec("rest", 0, 1)])
    found = compare(client, a, b).to_dict()
    paths = found.pop("paths")
    assert found == {
        "a_job_id": str(a.id),
        "b_job_id": str(b.id),
        "a_name": "a",
        "b_name": "b",
        "a_state": "COMPLETED",
        "b_state": "RUNNING",
        "a_elapsed_ms": 2000.0,
        "b_elapsed_ms": 7000.0,
        "elapsed_difference_ms": 5000.0,
        "a_compute_ms": 2000.0,
        "b_compute_ms": 6000.0,
        "compute_difference_ms": 4000.0,
        "a_queue_wait_ms": 1000.0,
        "b_queue_wait_ms": 11000.0,
        "queue_wait_difference_ms": 10000.0,
        "a_self_ms": 1000.0,
        "b_self_ms": 4000.000001,
        "self_difference_ms": 3000.000001,
        "a_tasks": 1,
        "b_tasks": 2,
        "a_failed_tasks": 0,
        "b_failed_tasks": 1,
        "a_spans": 1,
        "b_spans": 2,
        "a_failed_spans": 0,
        "b_failed_spans": 1,
        "description": (
            "b took 5.00 s longer than a (+250 %); read: 3.00 s slower in total (+300 %), too few spans to be certain, "
            "100 % of the difference"
        ),
    }
    assert [path["path"] for path in paths] == ["read", "rest"]
    assert list(compare(client, a, b).paths.to_pandas()["difference"].dt.total_seconds()) == [3.0, 1e-9]


def test_a_job_with_itself(client: Client, build: TraceBuilder) -> None:
    """Everything is the same, and nothing contributes."""
    job = job_of(build, {"read": [1, 2, 3, 4, 5, 6], "warp": [7]})
    job.task("Load", Attempt(0, 0, S))
    found = compare(client, job, job)
    assert {(p.verdict, p.contribution, p.difference_duration_ns) for p in found.paths} == {("same", None, 0)}
    assert [p.description for p in found.paths] == ["read: the same in total", "warp: the same in total"]
    assert found.description == "both took 1.00 s"


def test_more_of_the_same(client: Client, build: TraceBuilder) -> None:
    """Spans that take as long as before, but of which there are more, are what has changed."""
    a = job_of(build, {"read": [1000] * 6, "warp": [1]})
    b = job_of(build, {"read": [1000] * 9, "warp": [1]})
    for job, end in ((a, 6 * S), (b, 9 * S)):
        job.task("Load", Attempt(0, 0, end))
    found = compare(client, a, b)
    assert [(path.path, path.verdict, path.has_changed) for path in found.paths] == [
        ("read", "same", True),
        ("warp", "same", False),
    ]
    assert found.description == (
        "b took 3.00 s longer than a (+50 %); read: about as long per span, 3.00 s more in total (+50 %), "
        "9 spans instead of 6, 100 % of the difference"
    )


def test_tasks_follow_their_submitters(client: Client, build: TraceBuilder) -> None:
    """The span of a task is listed below the task that submitted it, in jobs of different names alike."""
    jobs = []
    for name in ("one", "two"):
        job = build.job(name)
        root = job.span(f"job/{name}", 0, MS)
        parent = job.task("Root", Attempt(0, 0, S))
        child = job.task("Leaf", Attempt(S, S, 2 * S), parent=parent)
        job.span("task/Root", 0, S, parent=root, task_no=parent)
        leaf = job.span("task/Leaf", S, 2 * S, parent=root, task_no=child)
        job.span("read", S, 2 * S, parent=leaf, task_no=child)
        jobs.append(job)
    assert sorted(by_path(compare(client, *jobs))) == [
        "job",
        "job > task/Root",
        "job > task/Root > task/Leaf",
        "job > task/Root > task/Leaf > read",
    ]


def test_running_jobs(client: Client, build: TraceBuilder) -> None:
    """Open spans are counted and have no duration; a job that has not stopped yet has no elapsed time."""
    a, b = job_of(build, {"read": [10] * 6}), build.job("scenes")
    b.task("Load", Attempt(0, S, None))
    b.spans([SpanSpec("read", 0, None) for _ in range(6)])
    found = compare(client, a, b)
    assert (found.b_state, found.elapsed_difference_duration_ns) == ("RUNNING", None)
    assert found.description == "no elapsed time of a and b yet"
    (path,) = found.paths
    assert (path.b_count, path.b_open, path.b_total_duration_ns, path.b_median_duration_ns) == (6, 6, 0, None)
    assert (path.verdict, path.is_certain) == ("same", False)


def test_jobs_without_anything(client: Client, build: TraceBuilder) -> None:
    """Jobs without tasks and spans compare as nothing."""
    a, b = build.job("a"), build.job("b")
    found = compare(client, a, b)
    assert (found.paths, found.a_tasks, found.b_spans, found.self_difference_duration_ns) == ([], 0, 0, 0)
    assert list(found.paths.to_pandas().columns[:3]) == ["path", "verdict", "is_certain"]
    b.span("read", 0, S)
    assert [path.verdict for path in compare(client, a, b).paths] == ["added"]


def test_clocks_that_ran_backwards(client: Client, build: TraceBuilder) -> None:
    """Lengths of time of jobs and tasks are never negative."""
    job = build.job("a")
    job.task("Load", Attempt(ready=5 * S, started=4 * S, stopped=1 * S))
    found = compare(client, job, job)
    assert (found.a_elapsed_duration_ns, found.a_compute_duration_ns, found.a_queue_wait_duration_ns) == (0, 0, 0)


def test_bad_jobs(client: Client, build: TraceBuilder) -> None:
    """A job that is not there, and what is no id, are named."""
    job = build.job("a")
    unknown = UUID(int=7)
    for pair in ((job.id, unknown), (unknown, job.id)):
        with pytest.raises(NotFoundError, match=str(unknown)):
            client.jobs().compare(*pair)
    with pytest.raises(ArgumentError, match="is no job id"):
        client.jobs().compare(job.id, "yesterday")


def test_spans_of_real_jobs(client: Client) -> None:
    """Jobs that a runner has run compare by the names in their code; what has just ended is seen."""
    from tilebox_local import ExecutionContext, Task

    class Leaf(Task):
        def execute(self, context: ExecutionContext) -> None:
            with context.tracer.span("read"):
                pass

    class Root(Task):
        def execute(self, context: ExecutionContext) -> None:
            context.submit_subtasks([Leaf(), Leaf()])

    jobs = [client.jobs().submit(name, Root()) for name in ("one", "two")]
    client.runner(tasks=[Root, Leaf]).run_all()
    found = client.jobs().compare(*jobs)
    assert {path.path: (path.a_count, path.b_count) for path in found.paths} == {
        "job": (1, 1),
        "job > task/Root": (1, 1),
        "job > task/Root > task/Leaf": (2, 2),
        "job > task/Root > task/Leaf > read": (2, 2),
    }


# -- any two traces ----------------------------------------------------------------------------------------------------

SPANS = st.lists(
    st.builds(
        SpanSpec,
        name=st.sampled_from(["a", "b"]),
        start=st.integers(0, 20),
        end=st.none() | st.integers(20, 40),
        parent=st.none() | st.integers(1, 9),
        status=st.sampled_from([0, 2]),
        span_id=st.integers(1, 9),
    ),
    max_size=12,
    unique_by=lambda spec: (spec.start, spec.span_id),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(a=SPANS, b=SPANS)
def test_any_two_traces(a: list[SpanSpec], b: list[SpanSpec], client: Client, build: TraceBuilder) -> None:
    """Every span is counted once, totals are those of the spans, contributions sum to 1, and b with a is the mirror."""
    jobs = [build.job("x"), build.job("x")]
    for job, specs in zip(jobs, (a, b), strict=True):
        job.spans(specs)
    found = compare(client, *jobs)
    for side, specs in (("a", a), ("b", b)):
        sums = {
            name: sum(getattr(path, f"{side}_{name}") for path in found.paths)
            for name in ("count", "open", "failed", "total_duration_ns")
        }
        assert sums == {
            "count": len(specs),
            "open": sum(spec.end is None for spec in specs),
            "failed": sum(spec.status == 2 for spec in specs),
            "total_duration_ns": sum(spec.end - spec.start for spec in specs if spec.end is not None),
        }
    mirror = {"slower": "faster", "faster": "slower", "added": "missing", "missing": "added", "same": "same"}
    back = by_path(compare(client, *jobs[::-1]))
    assert {path: mirror[back[path].verdict] for path in back} == {p.path: p.verdict for p in found.paths}


# -- what is read, and how fast ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("job_to_compare", "SEARCH j USING INDEX sqlite_autoindex_job_records_1 (job_id=?)"),
        ("spans_to_compare", "SEARCH span_records USING PRIMARY KEY (trace_no=?)"),
        ("tasks_to_compare", "SEARCH t USING INDEX task_records_by_job (job_no=?)"),
    ],
)
def test_only_the_jobs_are_read(statement: str, expected: str, client: Client) -> None:
    """Each statement seeks the job or its trace; nothing is scanned or sorted."""
    with client._store.read() as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql[statement]}", (1,))]
    assert plan[0] == expected
    assert [line for line in plan if line.startswith(("SCAN", "USE TEMP"))] == []


def test_large_jobs_take_a_second(client: Client, build: TraceBuilder) -> None:
    """20,000 spans on each side, half of them in one chain, compare in a second, which is ten times what it takes."""
    jobs = []
    for _ in range(2):
        job = build.job("large", T0)
        chain = [SpanSpec("deep", n, 50_000 - n, parent=n or None, span_id=n + 1) for n in range(10_000)]
        job.spans(chain + [SpanSpec(f"n{n % 100}", n, n + 100, parent=1, span_id=n + 10_001) for n in range(10_000)])
        jobs.append(job)
    client.jobs().compare(jobs[0].id, jobs[0].id)
    begin = time.process_time()
    found = client.jobs().compare(*(job.id for job in jobs))
    assert time.process_time() - begin < 1
    assert len(found.paths) == 100 + 51
