"""Durations of spans and tasks, and the ranking of bottlenecks by self time."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas import Timedelta
from slow import nearest_rank, self_time, traces
from trace_builder import COMPUTED, FAILED, LOST, T0, Attempt, SpanSpec, TraceBuilder

from tilebox_local.analysis.durations import DurationStats
from tilebox_local.errors import ArgumentError, NotFoundError

if TYPE_CHECKING:
    from trace_builder import JobBuilder

    from tilebox_local import Client

shared_store = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def expected(spans: list[SpanSpec]) -> list[DurationStats]:
    """What the definitions give for these spans."""
    ended = [span for span in spans if span.end is not None]
    selfs = {id(span): self_time(span, spans) for span in ended}
    whole = sum(selfs.values())
    found = []
    for name in {span.name for span in spans}:
        lengths = [span.end - span.start for span in ended if span.name == name and span.end is not None]
        own = sum(selfs[id(span)] for span in ended if span.name == name)
        found.append(
            DurationStats(
                kind="span",
                name=name,
                version=None,
                count=len(lengths),
                open=sum(span.name == name and span.end is None for span in spans),
                failed=sum(span.name == name and span.status == 2 for span in spans),
                total_duration_ns=sum(lengths),
                self_duration_ns=own,
                mean_duration_ns=round(sum(lengths) / len(lengths)) if lengths else None,
                p50_duration_ns=nearest_rank(lengths, 50),
                p95_duration_ns=nearest_rank(lengths, 95),
                p99_duration_ns=nearest_rank(lengths, 99),
                max_duration_ns=max(lengths, default=None),
                share=own / whole if whole else None,
            )
        )
    return sorted(found, key=lambda one: (-one.self_duration_ns, one.name))


def view_of(client: Client, job: JobBuilder) -> list[tuple[object, ...]]:
    """Rows of the view span_durations, lengths in ns."""
    frame = client.sql(
        "SELECT name, count, open, failed, total_ms, self_ms, mean_ms, p50_ms, p95_ms, p99_ms, max_ms, share "
        "FROM span_durations WHERE job_id = ? ORDER BY coalesce(self_ms, 0) DESC, name",
        [str(job.id)],
    )
    rows = frame.astype(object).where(frame.notna(), None).itertuples(index=False)
    to_ns = lambda ms: None if ms is None else round(ms * 1e6)  # noqa: E731
    return [(*row[:4], to_ns(row[4] or 0), to_ns(row[5] or 0), *map(to_ns, row[6:11]), row[11]) for row in rows]


@shared_store
@given(traces())
def test_spans_as_defined(client: Client, build: TraceBuilder, spans: list[SpanSpec]) -> None:
    """Counts, self time and percentiles of any spans are those of the definition, through the API and in SQL."""
    job = build.job()
    job.spans(spans)
    wanted = expected(spans)
    assert client.jobs().durations(job.id) == wanted
    rows = [(*row[:6], row[6], *row[7:]) for row in view_of(client, job)]
    assert rows == [
        (
            one.name,
            one.count,
            one.open,
            one.failed,
            one.total_duration_ns,
            one.self_duration_ns,
            one.mean_duration_ns,
            one.p50_duration_ns,
            one.p95_duration_ns,
            one.p99_duration_ns,
            one.max_duration_ns,
            one.share,
        )
        for one in wanted
    ]
    ranking = client.jobs().bottlenecks(job.id)
    assert [(one.name, one.count, one.duration_ns) for one in ranking] == [
        (one.name, one.count, one.self_duration_ns) for one in wanted if one.self_duration_ns
    ]


@shared_store
@given(traces(unique_ids=False))
def test_spans_that_share_an_id(client: Client, build: TraceBuilder, spans: list[SpanSpec]) -> None:
    """Spans with the same id share their children; each is counted once, and none has more self time than duration."""
    job = build.job()
    job.spans(spans)
    assert client.jobs().durations(job.id) == expected(spans)


@shared_store
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([COMPUTED, FAILED, LOST]), st.integers(0, 50)),
        max_size=12,
    )
)
def test_tasks_as_defined(client: Client, build: TraceBuilder, attempts: list[tuple[str, int, int]]) -> None:
    """Each ended attempt of a task counts once, with its run time, also if the task was tried again."""
    job = build.job()
    for name, outcome, length in attempts:
        first = [Attempt(0, 1, 1 + length, outcome=outcome)] if outcome == LOST else []
        last = Attempt(60, 70, 70 + length, outcome=COMPUTED if outcome == LOST else outcome)
        job.task(name, *first, last)
    wanted = {}
    for name in {name for name, *_ in attempts}:
        mine = [(outcome, length) for one, outcome, length in attempts if one == name]
        lengths = [length for outcome, length in mine for _ in range(1 + (outcome == LOST))]
        wanted[name] = (
            len(lengths),
            sum(outcome != COMPUTED for outcome, _ in mine),
            sum(lengths),
            *(nearest_rank(lengths, percent) for percent in (50, 95, 99, 100)),
        )
    found = client.jobs().durations(job.id)
    assert {
        one.name: (
            one.count,
            one.failed,
            one.total_duration_ns,
            one.p50_duration_ns,
            one.p95_duration_ns,
            one.p99_duration_ns,
            one.max_duration_ns,
        )
        for one in found
    } == wanted
    assert [one.self_duration_ns for one in found] == sorted((one.total_duration_ns for one in found), reverse=True)


def test_reasons(client: Client, build: TraceBuilder) -> None:
    """Each bottleneck says in words what it is."""
    job = build.job()
    (outer,) = job.spans([SpanSpec("outer", 0, 10_000_000)])
    job.spans([SpanSpec("read", 0, 6_000_000, outer), SpanSpec("read", 6_000_000, 8_000_000, outer)])
    assert [(one.rank, one.name, one.reason) for one in client.jobs().bottlenecks(job.id)] == [
        (1, "read", "80 % of all self time, in 2 spans of 4.00 ms on average, at most 6.00 ms"),
        (2, "outer", "20 % of all self time, in 1 span; the other 80 % of their time is in child spans"),
    ]


def test_spans_that_share_an_id_and_children_that_overlap(client: Client, build: TraceBuilder) -> None:
    """Each of the spans is covered by the union of the children, as far as it is inside of it."""
    job = build.job()
    children = [(0, 5), (3, 8), (9, 14), (13, 16), (14, 15), (25, 28), (27, 40), (50, 60)]
    spans = [SpanSpec("shared", start, end, span_id=1) for start, end in ((10, 20), (12, 30), (45, 55))]
    spans += [SpanSpec("child", start, end, parent=1, span_id=start + 100) for start, end in children]
    job.spans(spans)
    assert client.jobs().durations(job.id) == expected(spans)
    assert [one.self_duration_ns for one in expected(spans)] == [45, 4 + 9 + 5]


def test_many_spans_of_one_id(client: Client, build: TraceBuilder) -> None:
    """20,000 spans with the same id, all children of all of them, do not take the square of the time."""
    job = build.job()
    job.spans([SpanSpec("same", 10 * n, 10 * n + 15, parent=7, span_id=7) for n in range(20_000)])
    job.spans([SpanSpec("gap", 10 * 20_000, 10 * 20_000 + 100, span_id=7)])
    found = {one.name: (one.count, one.self_duration_ns) for one in client.jobs().durations(job.id)}
    assert found == {"same": (20_000, 0), "gap": (1, 95)}


def test_many_children_of_one_span(client: Client, build: TraceBuilder) -> None:
    """A span with 50,000 overlapping children is measured, as is one in which they outlive it."""
    job = build.job()
    (outer, late) = job.spans([SpanSpec("outer", 0, 100_000), SpanSpec("late", 0, 10)])
    job.spans([SpanSpec("child", at, at + 3, outer) for at in range(0, 100_000, 4)])
    job.spans([SpanSpec("child", at, at + 100, late) for at in range(25_000)])
    found = {one.name: one.self_duration_ns for one in client.jobs().durations(job.id)}
    assert found == {"outer": 25_000, "late": 0, "child": 75_000 + 2_500_000}


def test_times_that_add_up_to_more_than_an_integer_holds(client: Client, build: TraceBuilder) -> None:
    """Spans that seem to have begun in 1970, as with seconds for nanoseconds, are added up, in SQL and pandas, too."""
    job = build.job()
    (outer,) = job.spans([SpanSpec("outer", -T0, 0)])
    job.spans([SpanSpec("inner", -T0, 0, outer if number == 0 else None) for number in range(30)])
    found = client.jobs().durations(job.id)
    assert [(one.name, one.count, one.total_duration_ns, one.self_duration_ns, one.share) for one in found] == [
        ("inner", 30, 30 * T0, 30 * T0, 1.0),
        ("outer", 1, T0, 0, 0.0),
    ]
    frame = client.sql("SELECT name, total_ms, self_ms FROM span_durations WHERE job_id = ?", [str(job.id)])
    assert list(frame.itertuples(index=False, name=None)) == [
        ("inner", 30 * T0 / 1e6, 30 * T0 / 1e6),
        ("outer", T0 / 1e6, 0.0),
    ]
    assert found.to_pandas()["total"].tolist() == [Timedelta.max, Timedelta(T0)]
    assert client.jobs().bottlenecks(job.id)[0].duration_ns == 30 * T0


def test_answers_of_finished_jobs_are_kept_until_something_is_added(client: Client, build: TraceBuilder) -> None:
    """The same question about a finished job gets the same records, but not once there is another span."""
    job = build.job()
    job.task("a", Attempt(0, 0, 10))
    job.span("x", 0, 10)
    first = client.jobs().bottlenecks(job.id)
    assert client.jobs().bottlenecks(job.id)[0] is first[0]
    job.span("x", 10, 15)
    assert [one.duration_ns for one in client.jobs().bottlenecks(job.id)] == [15]
    open_id = job.span("y", 0, None)
    assert [(one.name, one.open) for one in client.jobs().durations(job.id)][1] == ("y", 1)
    client._store.transact(
        lambda connection: connection.execute(
            "UPDATE span_records SET duration_ns = 7 WHERE span_id = ? AND trace_no = ?", (open_id, job.trace_no)
        ).fetchall()
    )
    assert [one.duration_ns for one in client.jobs().bottlenecks(job.id)] == [15, 7]


@pytest.mark.parametrize("by", ["self_time", "critical_path", "queue_wait"])
def test_nothing_to_rank(client: Client, build: TraceBuilder, by: str) -> None:
    """A job without spans and attempts, and one in which nothing took time, have no bottlenecks."""
    assert client.jobs().bottlenecks(build.job().id, by) == []  # type: ignore[arg-type]
    instant = build.job()
    instant.task("a", Attempt(0, 0, 0))
    instant.span("x", 0, 0)
    assert client.jobs().bottlenecks(instant.id, by) == []  # type: ignore[arg-type]
    assert client.jobs().bottlenecks(instant.id, by).to_pandas().columns.tolist() == [  # type: ignore[arg-type]
        "basis",
        "rank",
        "name",
        "count",
        "duration",
        "share",
        "reason",
    ]


QUESTIONS = ["durations", "bottlenecks", "critical_path", "concurrency", "queue_waits", "failures", "error_rates"]


@pytest.mark.parametrize("question", QUESTIONS)
def test_unknown_jobs(client: Client, question: str) -> None:
    """Who asks about a job that is not there is told so, and how to find those that are."""
    unknown = uuid4()
    with pytest.raises(NotFoundError) as caught:
        getattr(client.jobs(), question)(unknown)
    assert (
        str(caught.value)
        == f"No job '{unknown}' in this store. List the jobs of this store with client.jobs().query()."
    )
    with pytest.raises(ArgumentError, match=r"^'nonsense' is no job id; expected a UUID or its text\.$"):
        getattr(client.jobs(), question)("nonsense")


def test_unknown_measure(client: Client, build: TraceBuilder) -> None:
    """A measure that does not exist is refused with those that do."""
    with pytest.raises(ArgumentError) as caught:
        client.jobs().bottlenecks(build.job().id, by="time")  # type: ignore[arg-type]
    assert str(caught.value) == "by is one of 'self_time', 'critical_path', 'queue_wait', not 'time'."
