"""Log records: what is stored, where it belongs, what the console shows; the official package as oracle."""

from __future__ import annotations

import io
import logging
import math
import os
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tilebox.workflows.observability._logging import StructuredLogger as OfficialLogger
from tilebox.workflows.observability.logging import OTELLoggingHandler
from tilebox.workflows.observability.tracing import SpanEventLoggingHandler
from trace_support import run_in_task, run_script, spans_by_name, table

from tilebox_local import Client, ExecutionContext, Task
from tilebox_local.data import LogSeverity
from tilebox_local.errors import ArgumentError
from tilebox_local.observability import _logging as structured
from tilebox_local.observability import logging as observability
from tilebox_local.observability.logging import (
    ColorfulConsoleFormatter,
    StoreHandler,
    StructuredLogger,
    configure_console_logging,
    configure_log_level,
    get_logger,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = "tilebox.workflows.tasks"


class Colour(Enum):
    RED = "r"


@dataclass
class Point:
    x: int
    y: float


def private_logger(*handlers: logging.Handler, name: str = TASKS) -> logging.Logger:
    """A logger with these handlers only, which no other logger knows."""
    logger = logging.Logger(name)  # noqa: LOG001 -- the real one would keep the handlers
    for handler in handlers:
        logger.addHandler(handler)
    return logger


def plain(value: Any) -> Any:
    """Sequences as lists, NaN as text, to compare what two implementations store."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


# -- the official package as oracle -----------------------------------------------------------------------------


def log_methods(logger: Any) -> None:
    logger.debug("debug")
    logger.info("info", a=1)
    logger.warning("warning", a=1, b="x")
    logger.error("error")
    logger.critical("critical")
    logger.log(logging.INFO, "log", level=3)


def log_arguments(logger: Any) -> None:
    logger.info("100%")
    logger.info("%s of %d", "one", 2)
    logger.info("%(a)s", {"a": 1})
    logger.info(5)
    logger.info(Point(1, 2.0))
    logger.info(None)


def log_names(logger: Any) -> None:
    names = {"message": "x", "self": "y", "args": 1, "exc_info": True, "extra": "e", "stack_info": 1, "stacklevel": 2}
    logger.info("m", **names, name="n", msg="m")


def log_bound(logger: Any) -> None:
    bound = logger.bind(a=1, b=2)
    bound.info("bound", b=3, c=4)
    bound.bind(a=5).info("twice")
    logger.info("not bound")


def log_trace_ids(logger: Any) -> None:
    logger.bind(trace_id="mine").info("ids", span_id="mine", task_id="mine")


def log_exception(logger: Any) -> None:
    try:
        raise ValueError("no", 2)
    except ValueError:
        logger.exception("failed", a=1)
        logger.error("without")


def log_exception_without_arguments(logger: Any) -> None:
    try:
        raise ValueError
    except ValueError:
        logger.exception("failed")


def log_exception_with_a_number(logger: Any) -> None:
    try:
        raise KeyError(5)
    except KeyError:
        logger.exception("failed")


def log_exception_outside(logger: Any) -> None:
    logger.exception("nothing is wrong")  # noqa: LOG004


def log_values(logger: Any) -> None:
    logger.info(
        "values",
        text="ü",
        true=True,
        integer=-(2**63),
        real=1.5,
        nan=math.nan,
        none=None,
        nones=[None],
        moment=datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
        naive=datetime(2026, 1, 2),  # noqa: DTZ001
        day=date(2026, 1, 2),
        length=timedelta(seconds=90.5),
        uuid=UUID(int=5),
        decimal=Decimal("1.50"),
        path=Path("/a/b"),
        enum=Colour.RED,
        raw=b"\xff\x00",
        mapping={"a": [1, {"b": None}], "c": 1.5},
        keys={1: "a", None: "b"},
        point=Point(1, 2.0),
        points=[Point(1, 2.0), {"a": 1}],
        sequence=[1, "a", 2.5, True, [1, 2]],
        pair=(1, 2),
        one_set={5},
        empty=[],
        nothing={},
        what=object,
        function=print,
        complex_number=1 + 2j,
    )


LOG_CALLS = [
    pytest.param(call, id=call.__name__, marks=marks)
    for call, marks in [
        (log_methods, ()),
        (log_arguments, ()),
        (log_names, ()),
        (log_bound, ()),
        (log_trace_ids, ()),
        (log_exception, ()),
        (log_exception_without_arguments, ()),
        (log_exception_with_a_number, ()),
        (log_exception_outside, ()),
        (log_values, ()),
    ]
]


def masked(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes with the stack, which names lines of each package, cut to its ends."""
    found: dict[str, Any] = plain(attributes)
    if "exception.stacktrace" in found:
        lines = found["exception.stacktrace"].strip().splitlines()
        found["exception.stacktrace"] = [lines[0], lines[-1]]
    return found


@pytest.mark.parametrize("call", LOG_CALLS)
def test_records_as_the_official_package(call: Callable[[Any], None], client: Client) -> None:
    """The same calls on both loggers make the same records: severity, text, body, attributes, ids, logger's name."""
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    with client.tracer.span("span") as span:
        call(OfficialLogger(private_logger(OTELLoggingHandler(logger_provider=provider))))
        call(StructuredLogger(private_logger(StoreHandler())))
    theirs = [
        (
            data.log_record.severity_number.value,
            data.log_record.severity_text,
            data.log_record.body,
            masked(data.log_record.attributes),
            f"{data.log_record.span_id:016x}",
            data.instrumentation_scope.name,
        )
        for data in exporter.get_finished_logs()
    ]
    ids = {"trace_id": f"{span.get_span_context().trace_id:032x}", "span_id": f"{span.get_span_context().span_id:016x}"}
    ours = [
        (number, text, body, masked(orjson_loads(attributes) | ids), span_id, logger)
        for number, text, body, attributes, span_id, logger in table(
            client, "SELECT severity_number, severity, body, attributes, span_id, logger FROM logs ORDER BY time_ns"
        )
    ]
    assert len(ours) > 0
    assert ours == theirs


def orjson_loads(text: str) -> dict[str, Any]:
    """Stored attributes as the query layer decodes them."""
    from tilebox_local.storage.attributes import decode_attributes

    return decode_attributes(text)


def test_events_as_the_official_package(client: Client) -> None:
    """The same calls add the same log.message events to the current span."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def calls(logger: Any) -> None:
        log_methods(logger)
        log_bound(logger)
        log_exception(logger)
        log_values(logger)
        logger.info("%s of %d", "one", 2)

    def body(context: ExecutionContext) -> None:
        calls(StructuredLogger(private_logger(StoreHandler()), {"task_id": str(context.current_task.id)}))

    job = run_in_task(client, body)
    ours = spans_by_name(client, job)["task/Body"]
    task_id = ours.attributes["task_id"]
    with provider.get_tracer("sdk").start_as_current_span("span"):
        calls(OfficialLogger(private_logger(SpanEventLoggingHandler()), {"task_id": task_id}))
    (theirs,) = exporter.get_finished_spans()
    of_each_run = ("time", "trace_id", "span_id")

    def shown(name: str, attributes: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        return name, {key: value for key, value in plain(attributes).items() if key not in of_each_run}

    assert [shown(event["name"], event["attributes"]) for event in ours.events] == [
        shown(event.name, event.attributes or {}) for event in theirs.events
    ]
    for event in ours.events:
        attributes = event["attributes"]
        assert attributes["time"] == event["time"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        assert (attributes["trace_id"], attributes["span_id"]) == (ours.trace_id, ours.span_id)


def test_order_of_event_attributes(client: Client) -> None:
    """Attributes of log.message: time, body, level, trace_id, span_id, then task_id and those of the call."""
    job = run_in_task(client, lambda context: context.logger.info("log", a=1))
    (event,) = spans_by_name(client, job)["task/Body"].events
    assert list(event["attributes"]) == ["time", "body", "level", "trace_id", "span_id", "task_id", "a"]


def test_the_view_agrees_with_the_events_of_spans(client: Client) -> None:
    """The view `events` shows each log.message with the attributes that query_spans returns, in the same order."""

    def body(context: ExecutionContext) -> None:
        log_bound(context.logger)
        log_trace_ids(context.logger)
        log_exception(context.logger)
        log_values(context.logger)
        context.logger.info("mine", **{"time": "t", "body": [1], "level": 2**70, "exception.note": "n", "ü\n": "\x00"})
        context.logger.log(25, "ü\x00\n")
        context.logger.info("null", nothing=None, nested={"none": None, "some": [None, 1]})
        get_logger("plain").info("no task_id")
        logging.getLogger("another").warning("with task_id")

    job = run_in_task(client, body)
    events = spans_by_name(client, job)["task/Body"].events
    rows = table(client, "SELECT name, time_ns, attributes FROM events ORDER BY time_ns")
    assert [name for name, _, _ in rows] == ["log.message"] * 12
    shown = [plain(orjson_loads(attributes)) for _, _, attributes in rows]
    assert shown == [plain(event["attributes"]) for event in events]
    assert [list(attributes) for attributes in shown] == [list(event["attributes"]) for event in events]


def test_limit_of_log_events(client: Client) -> None:
    """A span shows at most 128 events, the last ones; all log records are kept as such."""

    def body(context: ExecutionContext) -> None:
        for number in range(300):
            context.logger.info("log %d", number)

    job = run_in_task(client, body)
    assert len(client.jobs().query_logs(job)) == 300
    events = spans_by_name(client, job)["task/Body"].events
    assert [event["attributes"]["body"] for event in events] == [f"log {number}" for number in range(172, 300)]


# -- StructuredLogger -------------------------------------------------------------------------------------------


def test_methods_of_the_logger() -> None:
    """The logger has the official methods, and neither warn nor setLevel."""
    public = {name for name in dir(StructuredLogger) if not name.startswith("_")}
    official = {name for name in dir(OfficialLogger) if not name.startswith("_")}
    assert public == official
    assert public == {"bind", "critical", "debug", "error", "exception", "info", "log", "warning"}


def test_bind_makes_a_new_logger() -> None:
    """bind returns another logger; the first one is as before, and so is the dict that was given."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    first = StructuredLogger(private_logger(handler), {"a": 1})
    second = first.bind(b=2)
    first.info("first")
    second.info("second", a=3)
    assert [getattr(record, structured.ATTRIBUTES) for record in records] == [{"a": 1}, {"a": 3, "b": 2}]


def test_the_caller_is_known() -> None:
    """Records name the line that called the logger, for consoles that show it."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = StructuredLogger(private_logger(handler))
    for method in (logger.info, logger.bind(a=1).error):
        method("log")
    logger.log(logging.INFO, "log")
    assert {(record.filename, record.funcName) for record in records} == {
        ("test_logging.py", "test_the_caller_is_known")
    }


def test_values_are_not_looked_at_when_the_level_is_off(client: Client) -> None:
    """A call below the logger's level costs nothing and touches no value."""

    touched: list[str] = []

    class Watched:
        def __str__(self) -> str:
            touched.append("text")
            return "text"

        __repr__ = __str__

    with client.tracer.span("span"):
        logger = private_logger(StoreHandler())
        logger.setLevel(logging.INFO)
        StructuredLogger(logger).debug(Watched(), value=Watched())
        assert touched == []
        StructuredLogger(logger).info(Watched(), value=Watched())
        assert touched != []


# -- where records belong ---------------------------------------------------------------------------------------


def test_records_of_a_task(client: Client) -> None:
    """Records carry the ids of the innermost span and the task, and query_logs returns them in order."""

    def body(context: ExecutionContext) -> None:
        context.logger.info("in the task")
        with context.tracer.span("mine"):
            context.logger.warning("in the span", n=1)
        context.logger.debug("not stored")

    job = run_in_task(client, body)
    spans = spans_by_name(client, job)
    task, mine = spans["task/Body"], spans["mine"]
    task_id = {"task_id": task.attributes["task_id"]}
    logs = client.jobs().query_logs(job)
    assert [(log.body, log.severity_text, log.trace_id, log.span_id, log.attributes) for log in logs] == [
        (
            "in the task",
            "INFO",
            task.trace_id,
            task.span_id,
            {**task_id, "trace_id": task.trace_id, "span_id": task.span_id},
        ),
        (
            "in the span",
            "WARN",
            task.trace_id,
            mine.span_id,
            {**task_id, "n": 1, "trace_id": task.trace_id, "span_id": mine.span_id},
        ),
    ]
    assert [len(span.events) for span in (task, mine)] == [1, 1]
    assert {log.runner_attributes["service.name"] for log in logs} == {"tests"}


def test_ids_cannot_be_overridden(client: Client) -> None:
    """task_id may be overridden by an attribute; trace_id and span_id may not."""
    job = run_in_task(
        client, lambda context: context.logger.info("log", task_id="mine", trace_id="mine", span_id="mine")
    )
    (log,) = client.jobs().query_logs(job)
    assert log.attributes == {"task_id": "mine", "trace_id": log.trace_id, "span_id": log.span_id}
    assert table(client, "SELECT attributes FROM log_records") == [('{"task_id":"mine"}',)]
    assert client.jobs().query_logs(job, task_id=table(client, "SELECT task_id FROM tasks")[0][0]) == [log]


def test_stdlib_loggers_in_a_task(client: Client) -> None:
    """Records of any logger that reach the root logger are stored with the ids of the task that they are emitted in."""
    logger = logging.getLogger("some.library")

    def body(context: ExecutionContext) -> None:
        logger.warning("inside %s", "of a task")
        logging.getLogger("some.quiet.library").info("below the root logger's level")

    logger.warning("before")
    job = run_in_task(client, body)
    logger.warning("after")
    with client.tracer.span("script"):
        logger.warning("in a span outside of a task")
    assert table(client, "SELECT body, severity, logger, job_name FROM logs") == [
        ("inside of a task", "WARN", "some.library", "job")
    ]
    (log,) = client.jobs().query_logs(job)
    task = spans_by_name(client, job)["task/Body"]
    assert (log.trace_id, log.span_id) == (task.trace_id, task.span_id)
    assert log.attributes == {
        "task_id": task.attributes["task_id"],
        "trace_id": task.trace_id,
        "span_id": task.span_id,
    }


def test_attributes_of_get_logger(client: Client) -> None:
    """Plain stdlib records on the tree get only trace_id and span_id as attributes."""
    job = run_in_task(client, lambda context: get_logger("mine").info("log"))
    (log,) = client.jobs().query_logs(job)
    assert log.attributes == {"trace_id": log.trace_id, "span_id": log.span_id}


def test_get_logger(client: Client) -> None:
    """get_logger returns a stdlib logger of the tree, by name or with a new one each; its records are stored."""
    named, first, second = get_logger("mine", logging.ERROR), get_logger(), get_logger()
    assert named is logging.getLogger(f"{TASKS}.mine")
    assert named.level == logging.ERROR
    assert first is not second
    assert first.name.startswith(f"{TASKS}.")

    def body(context: ExecutionContext) -> None:
        first.info("first")
        named.warning("below its level")
        named.error("named")

    job = run_in_task(client, body)
    assert [log.body for log in client.jobs().query_logs(job)] == ["first", "named"]
    assert table(client, "SELECT logger FROM logs ORDER BY time_ns, body") == [(first.name,), (f"{TASKS}.mine",)]
    named.setLevel(logging.NOTSET)


def test_records_outside_of_spans(client: Client, tmp_path: Path) -> None:
    """Our loggers' records outside of any span go to the store of the first runner, without ids; before it, nowhere."""
    logger = get_logger("outside")
    logger.info("before any runner")
    client.runner(tasks=[])
    with Client(tmp_path / "second.db") as second:
        second.runner(tasks=[])
        logger.info("outside")
        with second.tracer.span("theirs"):
            logger.info("inside")
        assert table(second, "SELECT body, trace_id IS NULL, job_id FROM logs") == [("inside", 0, None)]
    columns = "body, trace_id, span_id, task_id, job_id, attributes"
    assert table(client, f"SELECT {columns} FROM logs") == [("outside", None, None, None, None, "{}")]
    assert table(client, "SELECT count(*) FROM events") == [(0,)]


def test_a_failed_task_is_logged(client: Client) -> None:
    """After a failure the runner logs `Task <Class> failed!` with the display text, outside of any span."""

    def body(context: ExecutionContext) -> None:
        raise ValueError("no")

    job = run_in_task(client, body)
    assert client.jobs().query_logs(job) == []
    ((body_text, severity, logger, trace_id, attributes),) = table(
        client, "SELECT body, severity, logger, trace_id, attributes FROM logs"
    )
    assert (body_text, severity, logger, trace_id) == (
        "Task Body failed!",
        "ERROR",
        "tilebox.workflows.internal",
        None,
    )
    found = orjson.loads(attributes)
    assert list(found) == ["display"]
    assert "ValueError('no')" in found["display"]


def test_logger_of_a_context_without_runner(client: Client) -> None:
    """Outside of a runner context.logger is a logger of its own that loses nothing and fails nothing."""
    from tilebox_local.runner.executor import ExecutionContext as Context

    Context(None, None, None).logger.info("log", n=1)
    assert table(client, "SELECT count(*) FROM logs") == [(0,)]


def test_threads_of_a_task(client: Client) -> None:
    """Two thousand records of four threads are stored once each, in the span of the context that each thread has."""
    from contextvars import copy_context

    def body(context: ExecutionContext) -> None:
        def work(name: str) -> None:
            for number in range(500):
                context.logger.info("%s %d", name, number)

        threads = [threading.Thread(target=copy_context().run, args=(work, name)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    job = run_in_task(client, body)
    logs = client.jobs().query_logs(job)
    assert sorted(log.body for log in logs) == sorted(f"{name} {number}" for name in "abcd" for number in range(500))
    assert len({log.span_id for log in logs}) == 1
    assert [log.time for log in logs] == sorted(log.time for log in logs)


def test_a_span_that_has_ended_takes_no_events(client: Client) -> None:
    """A record that is emitted while the current span has already ended is no event of it."""
    with client.tracer.span("span") as span:
        client.runner(tasks=[])
        span.end()
        get_logger("late").info("late")
    assert table(client, "SELECT body, span_id FROM logs") == [("late", None)]
    assert table(client, "SELECT count(*) FROM events") == [(0,)]


def test_unsampled_spans(client: Client) -> None:
    """Records below a span that is not sampled are kept without a trace."""
    context = otel.set_span_in_context(
        otel.NonRecordingSpan(otel.SpanContext(1, 2, is_remote=True, trace_flags=otel.TraceFlags(0)))
    )
    client.runner(tasks=[])
    with client.tracer.span("span", context=context):
        get_logger("unsampled").info("log")
    assert table(client, "SELECT body, trace_id FROM logs") == [("log", None)]


# -- time -------------------------------------------------------------------------------------------------------


def test_times_to_the_nanosecond(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of context.logger has the nanosecond of the call; its event shows the microsecond of that."""
    now = 1_700_000_000_123_456_789
    logger = StructuredLogger(private_logger(StoreHandler()))
    with client.tracer.span("span"), monkeypatch.context() as patch:
        patch.setattr("tilebox_local.clock.wall_ns", lambda: now)
        logger.bind(a=1).info("log")
    assert table(client, "SELECT time_ns, time FROM logs") == [(now, "2023-11-14T22:13:20.123456789Z")]
    assert table(client, "SELECT time_ns, json_extract(attributes, '$.time') FROM events") == [
        (now, "2023-11-14T22:13:20.123456Z")
    ]


@pytest.mark.parametrize("created", [0.0, 1_700_000_000.5, 1_700_000_000.123456789, 1_999_999_999.9999998, -1.75])
def test_times_of_stdlib_records(created: float, client: Client) -> None:
    """A record of a stdlib logger is stored with the time it has, a float of seconds, rounded to the nanosecond."""
    record = logging.LogRecord(TASKS, logging.INFO, __file__, 1, "log", (), None)
    record.created = created
    with client.tracer.span("span"):
        StoreHandler().emit(record)
    assert table(client, "SELECT time_ns FROM logs") == [(round(Fraction(created) * 10**9),)]


# -- severities and levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "number", "text", "event_level"),
    [
        (logging.DEBUG, 5, "DEBUG", "DEBUG"),
        (logging.INFO, 9, "INFO", "INFO"),
        (logging.WARNING, 13, "WARN", "WARNING"),
        (logging.ERROR, 17, "ERROR", "ERROR"),
        (logging.CRITICAL, 21, "FATAL", "CRITICAL"),
    ],
)
def test_severities(level: int, number: int, text: str, event_level: str, client: Client) -> None:
    """Each stdlib level has OpenTelemetry's number and text in log records, and its own name in events."""
    configure_log_level(logging.DEBUG)
    job = run_in_task(client, lambda context: context.logger.log(level, "log"))
    (log,) = client.jobs().query_logs(job)
    assert (log.severity_number, log.severity_text) == (number, text)
    (event,) = spans_by_name(client, job)["task/Body"].events
    assert event["attributes"]["level"] == event_level
    assert table(client, "SELECT json_extract(attributes, '$.level') FROM events") == [(event_level,)]


def test_every_level(client: Client) -> None:
    """Each level, also one of the user's own, has the severity number and text of the official package."""
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    logger = private_logger(OTELLoggingHandler(logger_provider=provider), StoreHandler())
    levels = range(61)
    with client.tracer.span("span"):
        for level in levels:
            logger.handle(logger.makeRecord(TASKS, level, __file__, 1, "%d", (level,), None))
    theirs = [data.log_record for data in exporter.get_finished_logs()]
    assert [record.body for record in theirs] == [str(level) for level in levels]
    expected = [(record.body, record.severity_number.value, record.severity_text) for record in theirs]
    assert table(client, "SELECT body, severity_number, severity FROM logs ORDER BY CAST(body AS INTEGER)") == expected


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (None, ["debug", "info", "warning", "error", "critical"]),
        ([], ["debug", "info", "warning", "error", "critical"]),
        ("debug", ["debug"]),
        ("INFO", ["info"]),
        ("warning", ["warning"]),
        ("error", ["error", "critical"]),
        ("trace", []),
        (LogSeverity.ERROR, ["error", "critical"]),
        (["info", "warning"], ["info", "warning"]),
        ([LogSeverity.DEBUG, LogSeverity.ERROR], ["debug", "error", "critical"]),
    ],
)
def test_filter_by_severity(level: Any, expected: list[str], client: Client) -> None:
    """query_logs returns the records of the given severities only; error includes FATAL."""
    configure_log_level(logging.DEBUG)

    def body(context: ExecutionContext) -> None:
        for name in ("debug", "info", "warning", "error", "critical"):
            getattr(context.logger, name)(name)

    job = run_in_task(client, body)
    assert [log.body for log in client.jobs().query_logs(job, level=level)] == expected


def test_unknown_severity(client: Client) -> None:
    """A severity that does not exist is refused by name."""

    class Nothing(Task):
        pass

    job = client.jobs().submit("job", Nothing())
    with pytest.raises(ArgumentError, match="Invalid log severity level: loud"):
        client.jobs().query_logs(job, level="loud")  # type: ignore[arg-type]


def test_configure_log_level(client: Client) -> None:
    """configure_log_level sets the level of task logs and of the package's diagnostics, each time both."""
    configure_log_level(logging.ERROR, tilebox_debug=True)
    levels = [structured.task_logger.level, structured.internal_logger.level]

    def body(context: ExecutionContext) -> None:
        context.logger.warning("no")
        context.logger.error("yes")

    job = run_in_task(client, body)
    assert [log.body for log in client.jobs().query_logs(job)] == ["yes"]
    configure_log_level()
    assert levels == [logging.ERROR, logging.DEBUG]
    assert [structured.task_logger.level, structured.internal_logger.level] == [logging.INFO, logging.ERROR]


LEVELS = """
from tilebox_local.observability import _logging
print(*(logger.level for logger in (_logging.root_logger, _logging.task_logger, _logging.internal_logger)))
"""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "10 20 40"),
        ({"TILEBOX_LOG_LEVEL": "debug", "TILEBOX_DEBUG": "1"}, "10 10 10"),
        ({"TILEBOX_LOG_LEVEL": " Warning ", "TILEBOX_DEBUG": " TRUE "}, "10 30 10"),
        ({"TILEBOX_LOG_LEVEL": "loud", "TILEBOX_DEBUG": "0"}, "10 20 40"),
        ({"TILEBOX_LOG_LEVEL": "10", "TILEBOX_DEBUG": "on"}, "10 20 10"),
        ({"TILEBOX_LOG_LEVEL": "", "TILEBOX_DEBUG": "off"}, "10 20 40"),
    ],
)
def test_levels_from_the_environment(environment: dict[str, str], expected: str) -> None:
    """TILEBOX_LOG_LEVEL and TILEBOX_DEBUG are read once, at import; what they do not know has no effect."""
    cleared = {"TILEBOX_LOG_LEVEL": "", "TILEBOX_DEBUG": ""}
    assert run_script(LEVELS, env={**cleared, **environment}).strip() == expected


# -- the console ------------------------------------------------------------------------------------------------


@pytest.fixture
def _fresh_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has configured a console yet."""
    monkeypatch.setattr(observability, "_is_console_configured", False)


def log_something(client: Client, level: int = logging.INFO) -> None:
    """Run a task that logs."""
    run_in_task(client, lambda context: context.logger.log(level, "hello %s", "world", secret=1))


@pytest.mark.usefixtures("_fresh_console")
def test_default_console(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """A runner prints `<pid>: <LEVEL>: <message>` to stdout, without attributes, once also with several runners."""
    client.runner(tasks=[])
    log_something(client)
    log_something(client, logging.WARNING)
    out, err = capsys.readouterr()
    assert out == f"{os.getpid()}: INFO: hello world\n{os.getpid()}: WARNING: hello world\n"
    assert err == ""


COLOURED = re.compile(
    r"(\x1b\[[\d;]+m)?\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}(\x1b\[[\d;]*m)* ?(\x1b\[[\d;]+m)? ?INFO"
    r"(\x1b\[[\d;]*m)? ?(\x1b\[[\d;]*m)?hello world(\x1b\[0m)?\n"
)


@pytest.mark.usefixtures("_fresh_console")
def test_configured_console(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """configure_console_logging prints time, level and message in colour, from its level on, instead of the default."""
    configure_console_logging()
    log_something(client)
    out = capsys.readouterr().out
    assert COLOURED.fullmatch(out), repr(out)
    configure_console_logging(logging.ERROR)
    log_something(client)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("_fresh_console")
def test_console_on_a_stream(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """stream= prints elsewhere; reconfigure=False adds a console, True replaces all."""
    first, second, third = io.StringIO(), io.StringIO(), io.StringIO()
    configure_console_logging(stream=first)
    configure_console_logging(stream=second, reconfigure=False)
    log_something(client)
    configure_console_logging(stream=third)
    log_something(client)
    assert [len(stream.getvalue().splitlines()) for stream in (first, second, third)] == [1, 1, 1]
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("_fresh_console")
def test_console_off(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """enabled=False removes all consoles, also the one that a runner would add; records are stored nevertheless."""
    log_something(client)
    assert capsys.readouterr().out != ""
    configure_console_logging(enabled=False)
    log_something(client)
    assert capsys.readouterr().out == ""
    assert table(client, "SELECT count(*) FROM logs") == [(2,)]


@pytest.mark.usefixtures("_fresh_console")
def test_first_console_replaces_the_automatic_one(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """The first configured console replaces the one that a runner has added by itself, also with reconfigure=False."""
    client.runner(tasks=[])
    stream = io.StringIO()
    configure_console_logging(stream=stream, reconfigure=False)
    log_something(client)
    assert len(stream.getvalue().splitlines()) == 1
    assert capsys.readouterr().out == ""


GET_LOGGER = """
import importlib, logging, os, sys
sys.stderr = sys.stdout  # what logging prints as the last resort
module = importlib.import_module(sys.argv[1] + ".observability.logging")

def show(what):
    found = module.root_logger.handlers
    print(what, [(type(handler).__name__, handler.level, handler.stream is sys.stdout) for handler in found])

def add_handler_of_the_program():
    logging.basicConfig(stream=sys.stdout, format="program: %(message)s")

def console():
    module.configure_console_logging(logging.WARNING)

def no_console():
    module.configure_console_logging(enabled=False)

def another_console():
    module.configure_console_logging(reconfigure=False)

show("import")
for step in sys.argv[2].split():
    if step == "get":
        logger = module.get_logger("a")
        show(logger.name)
        logger.debug("debug")
        logger.info("hello %s", step)
        logger.error("error")
        module.get_logger("b.c", logging.ERROR).info("below its level")
    else:
        globals()[step]()
        show(step)
names = [module.get_logger(name).name for name in ("", None, None)]
print(names[0], names[1] != names[2], names[1].rpartition("_")[0])
"""


@pytest.mark.parametrize(
    "steps",
    [
        "get get",
        "add_handler_of_the_program get",
        "get add_handler_of_the_program get",
        "no_console get",
        "get no_console get",
        "console get",
        "get another_console another_console",
    ],
)
def test_console_of_get_logger(steps: str) -> None:
    """get_logger adds the automatic console when the official one does; each record is printed as often as there."""

    def printed(package: str) -> str:
        without_colours = re.sub(r"\x1b\[[\d;]*m", "", run_script(GET_LOGGER, package, steps))
        return re.sub(r"[\d-]+ [\d:,]+ |\d+: ", "", without_colours)  # nor times and pids

    assert printed("tilebox_local") == printed("tilebox.workflows")


def test_get_logger_before_a_runner(tmp_path: Path) -> None:
    """A runner adds no second console to that of get_logger: each record is printed once."""
    script = """
import sys
from tilebox_local import Client, Task
from tilebox_local.observability.logging import get_logger
logger = get_logger("mine")
logger.info("before")

class Say(Task):
    def execute(self, context):
        logger.info("inside")
        context.logger.info("of the context")

with Client(sys.argv[1]) as client:
    client.jobs().submit("job", Say())
    client.runner(tasks=[Say]).run_all()
"""
    lines = run_script(script, tmp_path / "store.db").splitlines()
    assert [line.partition(": ")[2] for line in lines] == ["INFO: before", "INFO: inside", "INFO: of the context"]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL, 25])
def test_colours_end(level: int) -> None:
    """Whatever the level, the colour ends with the line, and the text is time, level and message."""
    record = logging.LogRecord("name", level, __file__, 1, "message", (), None)
    text = ColorfulConsoleFormatter().format(record)
    assert text.endswith(("\x1b[0m", "message"))
    without = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert re.fullmatch(rf"[\d-]+ [\d:,]+ {re.escape(logging.getLevelName(level))} message", without)


def test_configure_logging_of_the_client(client: Client) -> None:
    """Client.configure_logging warns that it has no effect."""
    level = structured.task_logger.level
    with pytest.warns(DeprecationWarning, match="has no effect"):
        client.configure_logging(logging.DEBUG)
    assert structured.task_logger.level == level


def test_logging_never_fails_a_task(client: Client) -> None:
    """A task that logs what cannot be shown, formatted or compared is computed."""

    class Evil:
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    def body(context: ExecutionContext) -> None:
        context.logger.info("value", value=Evil())
        context.logger.info("values", values=[Evil(), {Evil(): Evil()}])
        context.logger.bind(bound=Evil()).info("bound")
        with suppress(ValueError):
            raise ValueError(Evil())
        try:
            raise ValueError(Evil())
        except ValueError:
            context.logger.error("error")

    job = run_in_task(client, body)
    assert job.state.name == "COMPLETED"
    assert [log.body for log in client.jobs().query_logs(job)] == ["value", "values", "bound", "error"]


def test_logging_an_exception_without_text(client: Client) -> None:
    """logger.exception stores the record also if the exception's argument has no text."""

    class Evil:
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    def body(context: ExecutionContext) -> None:
        try:
            raise ValueError(Evil())
        except ValueError:
            context.logger.exception("failed")

    job = run_in_task(client, body)
    assert [log.body for log in client.jobs().query_logs(job)] == ["failed"]


def test_a_record_that_cannot_be_stored_is_printed_without_its_secrets(
    client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What logging prints of a record that failed holds no secret."""

    def refuse(log: object) -> None:
        raise RuntimeError("no")

    def body(context: ExecutionContext) -> None:
        monkeypatch.setattr(client._store.writer.queue, "append_log", refuse)
        context.logger.error("Bearer %s", "abcdef" + str(123456))
        monkeypatch.undo()

    run_in_task(client, body)
    printed = capsys.readouterr().err
    assert "Message: 'Bearer [REDACTED:bearer]'" in printed
    assert "abcdef123456" not in printed
