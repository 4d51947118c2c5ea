"""One hand-made trace, with clocks and ids under control: every row, view, object and DataFrame to the last digit."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import pandas as pd
import pytest
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode
from tilebox.workflows import data as official
from trace_support import outside, table

from tilebox_local import Client, ExecutionContext, Job, Task
from tilebox_local.observability import span as span_module
from tilebox_local.resource import process_resource, resource_key
from tilebox_local.telemetry import LogRecord, LogRecords, Span, Spans

MS = 1_000_000
T0 = 1_700_000_000_112_000_789  # 2023-11-14T22:13:20.112000789Z
TRACE = 0xF0E1D2C3B4A5968778695A4B3C2D1E0F
JOB_ID, TASK_ID = UUID(int=0xA0), UUID(int=0xB0)


class Hands:
    """The hands of all clocks, which move when they are told to. The wall clock may be set back."""

    def __init__(self) -> None:
        self.wall_ns = T0
        self.monotonic_ns = 500

    def move(self, nanoseconds: int) -> None:
        """Let time pass."""
        self.wall_ns += nanoseconds
        self.monotonic_ns += nanoseconds


hands = Hands()


class Exact(Task):
    """Does a little of everything."""

    def execute(self, context: ExecutionContext) -> None:
        hands.move(MS)
        attributes = {"text": "ü", "big": 2**63, "float": math.nan, "bytes": b"\xff", "list": [1, 2.5, None]}
        with context.tracer.span("load", kind=SpanKind.CLIENT, attributes=attributes) as span:
            hands.move(2 * MS)
            span.add_event("reached", {"k": [1, 2.5]})
            context.logger.warning("loaded %d rows", 3, rows=3)
            hands.move(250_000)
            with suppress(ValueError), context.tracer.span("fail"):
                hands.move(4 * MS)
                raise ValueError("no")
            span.set_status(StatusCode.OK)
            hands.move(3 * MS)
        other = SpanContext(0x1234, 0xFFFF_0000_0000_0001, is_remote=True)
        with context.tracer.span("linked", links=[Link(other, {"why": "because"})]) as span:
            span.set_attribute("task_id", "mine")
            hands.wall_ns -= 3600 * 1000 * MS  # somebody sets the clock back by an hour
            hands.monotonic_ns += 1
            with context.tracer.span("inside"):
                hands.move(24 * MS)
        hands.wall_ns += 3600 * 1000 * MS
        try:
            raise KeyError("lost")
        except KeyError:
            context.logger.exception("no key")


@pytest.fixture
def _controlled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks and ids under control."""
    hands.__init__()  # type: ignore[misc]
    numbers = count(0x11)
    task_ids = iter([JOB_ID, TASK_ID])
    monkeypatch.setattr(span_module, "time_ns", lambda: hands.wall_ns)
    monkeypatch.setattr(span_module, "perf_counter_ns", lambda: hands.monotonic_ns)
    monkeypatch.setattr(span_module, "new_span_id", lambda: next(numbers))
    monkeypatch.setattr(span_module, "_getrandbits", lambda bits: next(numbers))
    monkeypatch.setattr(span_module, "new_trace_id", lambda: TRACE)
    monkeypatch.setattr(span_module.traceback, "format_exception", lambda *error: ["the stack"])
    monkeypatch.setattr("tilebox_local.ids.new_ids", lambda time_ns, number: [next(task_ids) for _ in range(number)])
    monkeypatch.setattr("tilebox_local.clock.wall_ns", lambda: hands.wall_ns)
    monkeypatch.setattr("tilebox_local.clock.monotonic_ns", lambda: hands.monotonic_ns)


@pytest.fixture
def job(client: Client, _controlled: None) -> Job:
    """The job, done: submitted at T0, run nearly 10 ms later."""
    job = client.jobs().submit("exact", Exact())
    hands.move(TEN - T0)
    client.runner(tasks=[Exact]).run_all()
    return job


RESOURCE = process_resource("tests")
TEN = T0 + 10 * MS - 789  # the task starts
ATTRIBUTES = (
    '{"text":"ü","big":{"$int":"9223372036854775808"},"float":{"$float":"NaN"},"bytes":{"$bytes":"/w=="},'
    '"list":[1,2.5,null]}'
)
LINKS = '[{"trace_id":"00000000000000000000000000001234","span_id":"ffff000000000001","attributes":{"why":"because"}}]'
MINE = '{"task_id":"mine"}'
EXCEPTION = (
    '{"exception.type":"ValueError","exception.message":"no","exception.stacktrace":"the stack",'
    '"exception.escaped":"False"}'
)
KEY_ERROR = '{"exception.type":"KeyError","exception.message":"lost","exception.stacktrace":"the stack"}'
LONG_AGO = TEN + 10_250_000 - 3600 * 1000 * MS  # the span that starts after the clock was set back
LOGGED, LOGGED_2 = TEN + 3 * MS, TEN + 34_250_000


@pytest.mark.usefixtures("job")
def test_span_records(client: Client) -> None:
    """The rows of span_records, in the order of their key."""
    columns = (
        "trace_no, start_ns, span_id, parent_span_id, duration_ns, name, kind, status_code, status_message, task_no, "
        "resource_no, scope_no, attributes, links, trace_state, dropped_attributes_count, "
        "dropped_events_count, dropped_links_count"
    )
    task = '{"identifier.name":"Exact","identifier.version":"v0.0"}'
    fail = "ValueError: no"
    assert table(client, f"SELECT {columns} FROM span_records") == [
        (1, LONG_AGO, 0x16, 0x15, 24 * MS, "inside", 1, 0, None, 1, 1, 1, MINE, None, None, 0, 0, 0),
        (1, T0, 0x11, None, 0, "job/exact", 1, 0, None, None, 1, 1, None, None, None, 0, 0, 0),
        (1, TEN, 0x12, 0x11, 34_250_001, "task/Exact", 1, 0, None, 1, 1, 1, task, None, None, 0, 0, 0),
        (1, TEN + MS, 0x13, 0x12, 9_250_000, "load", 3, 1, None, 1, 1, 1, ATTRIBUTES, None, None, 0, 0, 0),
        (1, TEN + 3_250_000, 0x14, 0x13, 4 * MS, "fail", 1, 2, fail, 1, 1, 1, None, None, None, 0, 0, 0),
        (1, TEN + 10_250_000, 0x15, 0x12, 24_000_001, "linked", 1, 0, None, 1, 1, 1, MINE, LINKS, None, 0, 0, 0),
    ]


@pytest.mark.usefixtures("job")
def test_event_and_log_records(client: Client) -> None:
    """The rows of event_records and log_records, and what they refer to."""
    assert table(client, "SELECT * FROM event_records") == [
        (1, TEN + 3 * MS, 0x13, 0, "reached", '{"k":[1,2.5]}'),
        (1, TEN + 7_250_000, 0x14, 0, "exception", EXCEPTION),
    ]
    columns = (
        "trace_no, time_ns, log_no, span_id, severity_number, severity_text, body, task_no, has_task_id, "
        "is_span_event, resource_no, scope_no, attributes"
    )
    assert table(client, f"SELECT {columns} FROM log_records") == [
        (1, LOGGED, (1 << 40) + 1, 0x13, 13, "WARN", "loaded 3 rows", 1, 1, 1, 1, 2, '{"rows":3}'),
        (1, LOGGED_2, (1 << 40) + 2, 0x12, 17, "ERROR", "no key", 1, 1, 1, 1, 2, KEY_ERROR),
    ]
    assert table(client, "SELECT * FROM trace_records") == [(0, bytes(16), None), (1, TRACE.to_bytes(16, "big"), 1)]
    assert table(client, "SELECT * FROM resource_records") == [(1, resource_key(RESOURCE), 1)]
    assert table(client, "SELECT * FROM scope_records") == [
        (1, "tilebox.com/observability", ""),
        (2, "tilebox.workflows.tasks", ""),
    ]
    assert table(client, "SELECT job_id, trace_parent FROM job_records") == [
        (JOB_ID.bytes, f"00-{TRACE:032x}-0000000000000011-03")
    ]


TASK = {"task_id": str(TASK_ID), "job_name": "exact", "job_id": str(JOB_ID), "runner": RESOURCE["service.instance.id"]}


def view_row(**values: Any) -> dict[str, Any]:
    """A row of the view spans of the task, with the values that differ."""
    row: dict[str, Any] = {
        "status": "UNSET",
        "status_message": None,
        "trace_id": f"{TRACE:032x}",
        "kind": "INTERNAL",
        "links": None,
        **TASK,
        "scope": "tilebox.com/observability",
        "job_no": 1,
    }
    row |= values
    row["end_ns"] = row["start_ns"] + row["duration_ns"]
    row["duration_ms"] = row["duration_ns"] / 1e6
    return row


@pytest.mark.usefixtures("job")
def test_view_spans(client: Client) -> None:
    """What people see in the view spans, from another process."""
    client.flush()
    task_id = f'"task_id":"{TASK_ID}"'
    expected = [
        view_row(
            name="job/exact",
            start_ns=T0,
            duration_ns=0,
            start_time="2023-11-14T22:13:20.112000789Z",
            end_time="2023-11-14T22:13:20.112000789Z",
            span_id="0000000000000011",
            parent_span_id=None,
            attributes="{}",
            task_id=None,
        ),
        view_row(
            name="task/Exact",
            start_ns=TEN,
            duration_ns=34_250_001,
            start_time="2023-11-14T22:13:20.122000000Z",
            end_time="2023-11-14T22:13:20.156250001Z",
            span_id="0000000000000012",
            parent_span_id="0000000000000011",
            attributes='{"identifier.name":"Exact","identifier.version":"v0.0",' + task_id + "}",
        ),
        view_row(
            name="load",
            status="OK",
            kind="CLIENT",
            start_ns=TEN + MS,
            duration_ns=9_250_000,
            start_time="2023-11-14T22:13:20.123000000Z",
            end_time="2023-11-14T22:13:20.132250000Z",
            span_id="0000000000000013",
            parent_span_id="0000000000000012",
            attributes=ATTRIBUTES[:-1] + f",{task_id}}}",
        ),
        view_row(
            name="fail",
            status="ERROR",
            status_message="ValueError: no",
            start_ns=TEN + 3_250_000,
            duration_ns=4 * MS,
            start_time="2023-11-14T22:13:20.125250000Z",
            end_time="2023-11-14T22:13:20.129250000Z",
            span_id="0000000000000014",
            parent_span_id="0000000000000013",
            attributes=f"{{{task_id}}}",
        ),
        view_row(
            name="linked",
            start_ns=TEN + 10_250_000,
            duration_ns=24_000_001,
            start_time="2023-11-14T22:13:20.132250000Z",
            end_time="2023-11-14T22:13:20.156250001Z",
            span_id="0000000000000015",
            parent_span_id="0000000000000012",
            attributes='{"task_id":"mine"}',
            links=LINKS,
        ),
        view_row(
            name="inside",
            start_ns=LONG_AGO,
            duration_ns=24 * MS,
            start_time="2023-11-14T21:13:20.132250000Z",
            end_time="2023-11-14T21:13:20.156250000Z",
            span_id="0000000000000016",
            parent_span_id="0000000000000015",
            attributes='{"task_id":"mine"}',
        ),
    ]
    assert outside(client.path, "SELECT * FROM spans ORDER BY span_id") == expected


@pytest.mark.usefixtures("job")
def test_views_events_and_logs(client: Client) -> None:
    """What people see in the views events and logs, from another process."""
    client.flush()
    trace = f"{TRACE:032x}"
    task_id = f'"task_id":"{TASK_ID}"'
    job = {"job_name": "exact", "job_id": str(JOB_ID), "job_no": 1}
    log = {"trace_id": trace, **TASK, "logger": "tilebox.workflows.tasks", "job_no": 1}
    assert outside(client.path, "SELECT * FROM logs ORDER BY time_ns") == [
        {
            "time": "2023-11-14T22:13:20.125000000Z",
            "time_ns": LOGGED,
            "severity": "WARN",
            "severity_number": 13,
            "body": "loaded 3 rows",
            "attributes": f'{{"rows":3,{task_id}}}',
            "span_id": "0000000000000013",
            **log,
        },
        {
            "time": "2023-11-14T22:13:20.156250000Z",
            "time_ns": LOGGED_2,
            "severity": "ERROR",
            "severity_number": 17,
            "body": "no key",
            "attributes": f"{KEY_ERROR[:-1]},{task_id}}}",
            "span_id": "0000000000000012",
            **log,
        },
    ]
    assert outside(client.path, "SELECT * FROM events ORDER BY time_ns, name DESC") == [
        {
            "time": "2023-11-14T22:13:20.125000000Z",
            "time_ns": TEN + 3 * MS,
            "name": "reached",
            "attributes": '{"k":[1,2.5]}',
            "trace_id": trace,
            "span_id": "0000000000000013",
            **job,
        },
        {
            "time": "2023-11-14T22:13:20.125000000Z",
            "time_ns": LOGGED,
            "name": "log.message",
            "attributes": '{"time":"2023-11-14T22:13:20.125000Z","body":"loaded 3 rows","level":"WARNING",'
            f'"trace_id":"{trace}","span_id":"0000000000000013",{task_id},"rows":3}}',
            "trace_id": trace,
            "span_id": "0000000000000013",
            **job,
        },
        {
            "time": "2023-11-14T22:13:20.129250000Z",
            "time_ns": TEN + 7_250_000,
            "name": "exception",
            "attributes": EXCEPTION,
            "trace_id": trace,
            "span_id": "0000000000000014",
            **job,
        },
        {
            "time": "2023-11-14T22:13:20.156250000Z",
            "time_ns": LOGGED_2,
            "name": "log.message",
            "attributes": '{"time":"2023-11-14T22:13:20.156250Z","body":"no key","level":"ERROR",'
            f'"trace_id":"{trace}","span_id":"0000000000000012",{task_id}}}',
            "trace_id": trace,
            "span_id": "0000000000000012",
            **job,
        },
    ]


def at(microseconds: int, *, hour: int = 22) -> datetime:
    """An instant of the second in which everything happens."""
    return datetime(2023, 11, 14, hour, 13, 20, microseconds, UTC)


class Same(float):
    """NaN that equals NaN, so that whole objects can be compared."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and math.isnan(other)

    __hash__ = float.__hash__


def expected_spans() -> list[Span]:
    """All spans of the job, ascending by start."""
    trace, task_id = f"{TRACE:032x}", str(TASK_ID)
    unset, ok, error = (f"STATUS_CODE_{name}" for name in ("UNSET", "OK", "ERROR"))
    ids = {number: f"{number:016x}" for number in range(0x11, 0x17)}
    loaded = {
        "task_id": task_id,
        "text": "ü",
        "big": 2**63,
        "float": Same("nan"),
        "bytes": b"\xff",
        "list": [1, 2.5, None],
    }
    message = {
        "time": "2023-11-14T22:13:20.125000Z",
        "body": "loaded 3 rows",
        "level": "WARNING",
        "task_id": task_id,
        "rows": 3,
        "trace_id": trace,
        "span_id": ids[0x13],
    }
    message_2 = {
        "time": "2023-11-14T22:13:20.156250Z",
        "body": "no key",
        "level": "ERROR",
        "task_id": task_id,
        "trace_id": trace,
        "span_id": ids[0x12],
    }
    task = {"task_id": task_id, "identifier.name": "Exact", "identifier.version": "v0.0"}
    exception = {
        "exception.type": "ValueError",
        "exception.message": "no",
        "exception.stacktrace": "the stack",
        "exception.escaped": "False",
    }
    events = {
        0x12: [{"time": at(156250), "name": "log.message", "attributes": message_2}],
        0x13: [
            {"time": at(125000), "name": "reached", "attributes": {"k": [1, 2.5]}},
            {"time": at(125000), "name": "log.message", "attributes": message},
        ],
        0x14: [{"time": at(129250), "name": "exception", "attributes": exception}],
    }
    rows: list[tuple[datetime, datetime, int, int | None, str, str, str, dict[str, Any]]] = [
        (at(132250, hour=21), at(156250, hour=21), 0x16, 0x15, "inside", unset, "", {"task_id": "mine"}),
        (at(112000), at(112000), 0x11, None, "job/exact", unset, "", {}),
        (at(122000), at(156250), 0x12, 0x11, "task/Exact", unset, "", task),
        (at(123000), at(132250), 0x13, 0x12, "load", ok, "", loaded),
        (at(125250), at(129250), 0x14, 0x13, "fail", error, "ValueError: no", {"task_id": task_id}),
        (at(132250), at(156250), 0x15, 0x12, "linked", unset, "", {"task_id": "mine"}),
    ]
    return [
        Span(
            start_time=start,
            end_time=end,
            trace_id=trace,
            span_id=ids[number],
            parent_span_id=None if parent is None else ids[parent],
            name=name,
            status_code=status,
            status_message=text,
            attributes=attributes,
            runner_attributes=RESOURCE,
            events=events.get(number, []),
        )
        for start, end, number, parent, name, status, text, attributes in rows
    ]


def expected_logs() -> list[LogRecord]:
    """All log records of the job, ascending by time."""
    trace, task_id = f"{TRACE:032x}", str(TASK_ID)
    return [
        LogRecord(
            time=at(125000),
            severity_number=13,
            severity_text="WARN",
            body="loaded 3 rows",
            trace_id=trace,
            span_id="0000000000000013",
            attributes={"task_id": task_id, "rows": 3, "trace_id": trace, "span_id": "0000000000000013"},
            runner_attributes=RESOURCE,
        ),
        LogRecord(
            time=at(156250),
            severity_number=17,
            severity_text="ERROR",
            body="no key",
            trace_id=trace,
            span_id="0000000000000012",
            attributes={
                "task_id": task_id,
                "exception.type": "KeyError",
                "exception.message": "lost",
                "exception.stacktrace": "the stack",
                "trace_id": trace,
                "span_id": "0000000000000012",
            },
            runner_attributes=RESOURCE,
        ),
    ]


def test_span_objects(client: Client, job: Job) -> None:
    """What query_spans returns: whole objects, their durations, and the order of attributes."""
    spans = client.jobs().query_spans(job)
    assert type(spans) is Spans
    assert list(spans) == expected_spans()
    assert [list(span.attributes) for span in spans] == [list(span.attributes) for span in expected_spans()]
    assert [span.duration for span in spans] == [
        timedelta(microseconds=n) for n in (24000, 0, 34250, 9250, 4000, 24000)
    ]


def test_spans_of_one_task(client: Client, job: Job) -> None:
    """With task_id, query_spans and query_logs return those of the task: all but the root span."""
    spans = client.jobs().query_spans(job, task_id=TASK_ID)
    assert spans == [span for span in expected_spans() if span.name != "job/exact"]
    assert client.jobs().query_logs(job, task_id=str(TASK_ID)) == expected_logs()


def test_log_objects(client: Client, job: Job) -> None:
    """What query_logs returns: whole objects, and the order of attributes."""
    logs = client.jobs().query_logs(job)
    assert type(logs) is LogRecords
    assert logs == expected_logs()
    assert [list(log.attributes) for log in logs] == [list(log.attributes) for log in expected_logs()]


SPAN_DTYPES = {
    "start_time": "datetime64[us, UTC]",
    "end_time": "datetime64[us, UTC]",
    "trace_id": "str",
    "span_id": "str",
    "parent_span_id": "str",
    "name": "str",
    "status_code": "str",
    "status_message": "str",
    "attributes": "object",
    "runner_attributes": "object",
    "events": "object",
    "duration": "timedelta64[us]",
}
LOG_DTYPES = {
    "time": "datetime64[us, UTC]",
    "severity_number": "int64",
    "severity_text": "str",
    "body": "str",
    "trace_id": "str",
    "span_id": "str",
    "attributes": "object",
    "runner_attributes": "object",
}


@pytest.mark.parametrize("is_filled", [False, True], ids=["from columns", "from objects"])
def test_span_frame(client: Client, job: Job, is_filled: bool) -> None:
    """to_pandas gives the columns, types and values of the official package, whether or not the list was looked at."""
    spans = client.jobs().query_spans(job)
    if is_filled:
        assert spans[0].name == "inside"
    frame = spans.to_pandas()
    if int(pd.__version__.split(".")[0]) >= 3:
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == SPAN_DTYPES
    theirs = official.Spans([official.Span(**vars(span)) for span in expected_spans()]).to_pandas()
    pd.testing.assert_frame_equal(frame, theirs, check_exact=True)


@pytest.mark.parametrize("is_filled", [False, True], ids=["from columns", "from objects"])
def test_log_frame(client: Client, job: Job, is_filled: bool) -> None:
    """to_pandas of log records gives the columns, types and values of the official package."""
    logs = client.jobs().query_logs(job)
    if is_filled:
        assert logs[0].body == "loaded 3 rows"
    frame = logs.to_pandas()
    if int(pd.__version__.split(".")[0]) >= 3:
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == LOG_DTYPES
    theirs = official.LogRecords([official.LogRecord(**vars(log)) for log in expected_logs()]).to_pandas()
    pd.testing.assert_frame_equal(frame, theirs, check_exact=True)


@pytest.mark.usefixtures("_controlled")
def test_empty_frames(client: Client) -> None:
    """Without rows, the DataFrames have no columns, as those of the official package."""
    job = client.jobs().submit("exact", Exact())
    pd.testing.assert_frame_equal(client.jobs().query_logs(job).to_pandas(), official.LogRecords().to_pandas())
    pd.testing.assert_frame_equal(
        client.jobs().query_spans(job, task_id=TASK_ID).to_pandas(), official.Spans().to_pandas()
    )


@pytest.mark.usefixtures("_controlled")
def test_an_open_span(client: Client) -> None:
    """An open span has no end: None in objects, NaT in the DataFrame, NULL in the view."""
    job = client.jobs().submit("exact", Exact())
    client._store.transact(
        lambda connection: connection.execute("UPDATE span_records SET duration_ns = NULL").fetchall()
    )
    assert client.jobs().query_spans(job) == []
    spans = client.jobs().query_spans(job, include_open=True)
    frame = spans.to_pandas()
    assert str(frame.dtypes["end_time"]) == "datetime64[us, UTC]"
    assert frame[["end_time", "duration"]].isna().to_numpy().tolist() == [[True, True]]
    assert [(span.start_time, span.end_time) for span in spans] == [(at(112000), None)]
    assert outside(client.path, "SELECT end_time, end_ns, duration_ms, duration_ns FROM spans") == [
        {"end_time": None, "end_ns": None, "duration_ms": None, "duration_ns": None}
    ]
