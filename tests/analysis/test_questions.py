"""The questions in SQL: right answers, the same as those of the methods where both answer, and from one job only."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from test_plans import scans_of_tables
from trace_builder import COMPUTED, FAILED, Attempt, SpanSpec, TraceBuilder

from tilebox_local.export.questions import read_questions

if TYPE_CHECKING:
    from uuid import UUID

    from tilebox_local import Client

MS = 1_000_000
QUESTIONS = read_questions()
OF_ALL_JOBS = {"recent_failures", "flaky_tasks"}


def ask(client: Client, question: str, /, **parameters: Any) -> list[dict[str, Any]]:
    """The answer to a question; missing parameters are empty."""
    values = dict.fromkeys(QUESTIONS[question].parameters, "") | {key: str(value) for key, value in parameters.items()}
    rows: list[dict[str, Any]] = client.sql(QUESTIONS[question].sql, values).to_dict("records")
    return rows


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    """One value of each row."""
    return [row[name] for row in rows]


@pytest.fixture
def bands(build: TraceBuilder) -> UUID:
    """A job of 200 spans `read` of four bands, of which one is slower, each with a child `decode` but every tenth."""
    chance = random.Random(7)
    job = build.job("bands")
    specs = []
    for number in range(200):
        band = ["B02", "B03", "B04", "B08"][number % 4]
        length = chance.randrange(1, 50) * MS * (3 if band == "B08" else 1)
        attributes = {"band": band, "level": number % 3, "cloudy": number % 2 == 0}
        specs.append(SpanSpec("read", number * MS, number * MS + length, attributes=attributes, span_id=number + 1))
        if number % 10:
            specs.append(
                SpanSpec("decode", number * MS, number * MS + length // 2, parent=number + 1, span_id=number + 1001)
            )
    specs.append(SpanSpec("read", 0, None, attributes={"band": "B02"}, span_id=5000))
    job.spans(specs)
    other = build.job("other")
    other.spans([SpanSpec("read", 0, 10**12, attributes={"band": "B02"}, span_id=number) for number in range(1, 30)])
    return job.id


@pytest.mark.parametrize("name", sorted(set(QUESTIONS) - OF_ALL_JOBS))
def test_questions_read_one_job(client: Client, name: str) -> None:
    """No question about a job goes through a table."""
    assert scans_of_tables(client, QUESTIONS[name].sql) == []


def test_why_slow_agrees(client: Client, bands: UUID) -> None:
    """Counts, precision, recall and effect of each value that client.jobs().why_slow() names are the same."""
    found = {(row["key"], row["value"]): row for row in ask(client, "why_slow", job_id=bands, name="read")}
    explanations = client.jobs().why_slow(bands, "read")
    equal = [one for one in explanations if (one.kind, one.operator) == ("attribute", "=")]
    assert [one.condition for one in equal] == ["band = B08"]
    (one,) = equal
    row = found["band", "B08"]
    # Slow there is what is above Tukey's fence if enough is, here what is above the 90th percentile.
    assert (row["count"], row["effect"]) == (one.spans, pytest.approx(one.effect))
    assert sum(row["slow"] for (key, _), row in found.items() if key == "band") == 20
    assert row["recall"] == row["slow"] / 20
    assert row["precision"] == row["slow"] / row["count"]
    assert set(found) == {("band", band) for band in ("B02", "B03", "B04", "B08")} | {
        ("level", 0), ("level", 1), ("level", 2), ("cloudy", 0), ("cloudy", 1),
    }  # fmt: skip


def test_compare_agrees(client: Client, build: TraceBuilder, bands: UUID) -> None:
    """Counts, self times and contributions are those of client.jobs().compare(), where a name is at one place only."""
    after = build.job("bands")
    after.spans([SpanSpec("read", 0, 9 * MS, span_id=1), SpanSpec("write", 0, 5 * MS, span_id=3)])
    rows = {row["name"]: row for row in ask(client, "compare_jobs", job_a=bands, job_b=after.id)}
    paths = client.jobs().compare(bands, after.id).paths
    names = {path.path.rpartition(" > ")[2]: path for path in paths}
    assert set(rows) == set(names) == {"read", "decode", "write"}
    for name, path in names.items():
        row = rows[name]
        verdict = path.verdict if path.verdict in ("added", "missing") else ""
        assert row["verdict"] == verdict
        assert row["difference_ms"] == pytest.approx((path.b_self_duration_ns - path.a_self_duration_ns) / 1e6)
        assert row["contribution"] == pytest.approx(path.contribution)
    assert ask(client, "compare_jobs", job_a=bands, job_b=bands) == []


def test_search_agrees(client: Client, bands: UUID) -> None:
    """Spans by name, attribute and length are those of search_spans; open ones have no length."""
    for conditions, filters in [
        ({"name": "de*"}, {"name": "de*"}),
        ({"attribute": "band", "value": "B08"}, {"attributes": {"band": "B08"}}),
        (
            {"attribute": "level", "value": 2, "min_ms": 20},
            {"attributes": {"level": 2}, "min_duration": timedelta(0, 0.02)},
        ),
        ({"attribute": "cloudy", "value": "true"}, {"attributes": {"cloudy": True}}),
        ({"attribute": "band"}, {"attributes": {"band": ("exists", None)}}),
        ({"name": "nothing"}, {"name": "nothing"}),
    ]:
        expected = client.jobs().search_spans(job_id=bands, limit=10_000, **filters)  # type: ignore[arg-type]
        found = ask(client, "search_spans", job_id=bands, **conditions)
        assert sorted(column(found, "span_id")) == sorted(span.span_id for span in expected), conditions
    assert column(ask(client, "search_spans", job_id=bands), "duration_ms")[0] == 147.0
    assert ask(client, "search_spans", job_id=bands)[-1]["name"] == "read"


def test_missing_children_agree(client: Client, bands: UUID) -> None:
    """Spans without a child are those of the pattern `read !> decode`."""
    found = ask(client, "spans_without_child", job_id=bands, parent="re*", child="decode")
    pairs = client.jobs().search_structure("read !> decode", job_id=bands)
    assert sorted(column(found, "span_id")) == sorted(pair.a.span_id for pair in pairs)
    assert len(found) == 21


def test_error_rates_agree(client: Client, build: TraceBuilder) -> None:
    """Rates by name and time are those of error_rates(); names without failures are left out."""
    job = build.job()
    for number in range(60):
        name = ("read", "write", "sound")[number % 3]
        status = 2 if name != "sound" and number % 7 == 0 else 1
        job.span(name, number * MS, number * MS + number * number * 1000, status=status)
    job.span("read", 0, None)
    rows = ask(client, "error_rates", job_id=job.id)
    assert rows == client.jobs().error_rates(job.id).to_dicts()
    assert set(column(rows, "name")) == {"read", "write"}


def test_slowest_spans(client: Client, bands: UUID) -> None:
    """The 100 longest spans that have ended, the longest first."""
    rows = ask(client, "slowest_spans", job_id=bands)
    lengths = column(rows, "duration_ms")
    assert (len(rows), lengths) == (100, sorted(lengths, reverse=True))
    assert lengths[0] == client.jobs().durations(bands)[0].max_duration_ns / 1e6


def test_time_by_attribute(client: Client, bands: UUID) -> None:
    """By value: count, sum, percentiles as nearest ranks; what is open does not count."""
    rows = ask(client, "time_by_attribute", job_id=bands, name="read", attribute="band")
    query = "SELECT attributes, duration_ms FROM spans WHERE job_id = ? AND name = 'read' AND duration_ms IS NOT NULL"
    spans = client.sql(query, [str(bands)])
    for row in rows:
        lengths = sorted(spans[spans["attributes"].str.contains(row["value"])]["duration_ms"])
        assert (row["count"], row["total_ms"]) == (50, pytest.approx(sum(lengths)))
        assert (row["p50_ms"], row["p95_ms"], row["max_ms"]) == (lengths[24], lengths[47], lengths[-1])
    assert column(rows, "value")[0] == "B08"


def test_trace_tree(client: Client, build: TraceBuilder) -> None:
    """Depth first, siblings by start, orphans as roots; a cycle has no root and is left out."""
    job = build.job()
    job.spans(
        [
            SpanSpec("root", 0, 9 * MS, span_id=1), SpanSpec("b", 3 * MS, 4 * MS, parent=1, span_id=2),
            SpanSpec("a", 1 * MS, 2 * MS, parent=1, span_id=3), SpanSpec("c", 1 * MS, 2 * MS, parent=3, span_id=4),
            SpanSpec("orphan", 5 * MS, None, parent=77, span_id=5),
            SpanSpec("x", 0, 1, parent=7, span_id=6), SpanSpec("y", 0, 1, parent=6, span_id=7),
        ]
    )  # fmt: skip
    rows = ask(client, "trace_tree", job_id=job.id)
    assert column(rows, "span") == ["root", "  a", "    c", "  b", "orphan"]
    assert column(rows, "after_ms") == [0.0, 1.0, 1.0, 3.0, 5.0]


def test_search_logs(client: Client, build: TraceBuilder) -> None:
    """Messages that contain a text, in the order of time; nothing of other jobs."""
    jobs = [build.job("a"), build.job("b")]
    for job in jobs:
        for number, body in enumerate(["Tile 7 FAILED", "done", "tile 8 failed", "100 %_"]):
            job._write(
                "INSERT INTO log_records (trace_no, time_ns, log_no, severity_number, severity_text, body, "
                "resource_no, scope_no) VALUES (?, ?, ?, 9, 'INFO', ?, ?, 1)",
                job.trace_no, job.start + number, number, body, build.runner(1),
            )  # fmt: skip
    for text, expected in [("FAILed", ["Tile 7 FAILED", "tile 8 failed"]), ("%_", ["100 %_"]), ("nothing", [])]:
        assert column(ask(client, "search_logs", job_id=jobs[0].id, text=text), "body") == expected


def test_questions_of_all_jobs(client: Client, build: TraceBuilder) -> None:
    """Failed jobs with their first failure, newest first; tasks that were tried more than once."""
    for number, name in enumerate(["first", "second", "good"]):
        job = build.job(name, start=build.job().start + number * 10**9)
        is_good = name == "good"
        job.task("Tile", Attempt(0, 1, 2, outcome=FAILED), Attempt(2, 3, 4, outcome=COMPUTED if is_good else FAILED))
        job._write("UPDATE job_records SET canceled = ? WHERE job_no = ?", int(not is_good), job.job_no)
        if not is_good:
            error = ("ValueError", f"no {name}", "...")
            job.spans(
                [
                    SpanSpec("late", 5, 9, status=2, span_id=2),
                    SpanSpec("read", 1, 3, status=2, span_id=1, exception=error),
                ]
            )
    rows = ask(client, "recent_failures")
    assert [(row["job_name"], row["failed"], row["exception_message"]) for row in rows] == [
        ("second", "read", "no second"), ("first", "read", "no first"),
    ]  # fmt: skip
    assert [{key: row[key] for key in ("name", "tasks", "retried", "share", "additional_attempts", "failed")}
            for row in ask(client, "flaky_tasks")] == [
        {"name": "Tile", "tasks": 3, "retried": 3, "share": 1.0, "additional_attempts": 3, "failed": 2},
    ]  # fmt: skip
