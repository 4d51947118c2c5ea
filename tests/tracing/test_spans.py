"""Spans keep the OpenTelemetry API's promises, nest as the official tracer's do, and land in the job they belong to."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from tilebox.workflows.observability.tracing import NoopWorkflowTracer as OfficialTracer
from trace_support import outside, run_in_task, run_script, spans_by_name, table, tree

from tilebox_local import Client, ExecutionContext, Task
from tilebox_local.catalog import sql
from tilebox_local.errors import ArgumentError, StoreError
from tilebox_local.observability import span as span_module
from tilebox_local.observability.logging import get_logger
from tilebox_local.observability.tracing import (
    NoopWorkflowTracer,
    WorkflowTracer,
    get_trace_parent_of_current_span,
    start_job_span,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MS = 1_000_000
PATIENCE_S = 30
propagator = TraceContextTextMapPropagator()


class Nothing(Task):
    """A task that does nothing."""

    def execute(self, context: ExecutionContext) -> None:
        pass


# -- the official tracer as oracle ------------------------------------------------------------------------------


class Boom(Exception):
    """An error of this module, as users have theirs."""

    class Inner(Exception):
        """One whose name has two parts."""


class Stop(BaseException):
    """As KeyboardInterrupt: not an error."""


OTHER = otel.SpanContext(0xABC, 0xF000_0000_0000_0001, is_remote=True)


def nested(tracer: Any) -> None:
    with tracer.span("a"):
        with tracer.span("b"), tracer.span("c"):
            pass
        with tracer.span("d"):
            pass


def options(tracer: Any) -> None:
    with tracer.span("a", kind=SpanKind.PRODUCER, attributes={"n": 1, "list": ["x"]}):
        pass
    for kind in SpanKind:
        with tracer.span(kind.name, None, kind):
            pass


def times(tracer: Any) -> None:
    with tracer.span("a", start_time=1_000, end_on_exit=False) as span:
        span.add_event("then", timestamp=5)
        span.end(end_time=3_000)
    with tracer.span("b", start_time=1_000) as span:
        span.end(2_500)


def error_escapes(tracer: Any) -> None:
    with suppress(ValueError), tracer.span("a"), tracer.span("b"):
        raise ValueError("no")


def error_of_users(tracer: Any) -> None:
    with suppress(Boom), tracer.span("a"):
        raise Boom("no", 1)
    with suppress(Boom.Inner), tracer.span("b"):
        raise Boom.Inner


def error_is_caught_inside(tracer: Any) -> None:
    with tracer.span("a"), suppress(ValueError), tracer.span("b"):
        raise ValueError("no")


def error_is_no_exception(tracer: Any) -> None:
    with suppress(Stop), tracer.span("a"):
        raise Stop("no")
    with suppress(SystemExit), tracer.span("b"):
        raise SystemExit(3)


def error_is_not_recorded(tracer: Any) -> None:
    with suppress(ValueError), tracer.span("a", record_exception=False):
        raise ValueError("no")
    with suppress(ValueError), tracer.span("b", set_status_on_exception=False):
        raise ValueError("no")


def error_after_ok(tracer: Any) -> None:
    with suppress(ValueError), tracer.span("a") as span:
        span.set_status(StatusCode.OK)
        raise ValueError("no")


def error_after_the_end(tracer: Any) -> None:
    with suppress(ValueError), tracer.span("a") as span:
        span.end()
        raise ValueError("no")


def error_is_recorded_and_raised(tracer: Any) -> None:
    with suppress(ValueError), tracer.span("a") as span:
        try:
            raise ValueError("no")
        except ValueError as error:
            span.record_exception(error)
            raise


def error_is_recorded_with_attributes(tracer: Any) -> None:
    with tracer.span("a") as span:
        span.record_exception(KeyError("k"), {"more": 1, "exception.message": "other"}, timestamp=7, escaped=True)
        span.record_exception(Stop())


def error_without_text(tracer: Any) -> None:
    with suppress(ValueError), tracer.span("a"):
        raise ValueError


def error_group(tracer: Any) -> None:
    with suppress(ExceptionGroup), tracer.span("a"):
        raise ExceptionGroup("several", [ValueError("one"), Boom("two")])


def status_objects(tracer: Any) -> None:
    with tracer.span("a") as span:
        span.set_status(Status(StatusCode.ERROR, "because"))
    with tracer.span("b") as span:
        span.set_status(Status(StatusCode.OK))
    with tracer.span("c") as span:
        span.set_status(Status())


def status_calls(tracer: Any) -> None:
    error, ok, unset = StatusCode.ERROR, StatusCode.OK, StatusCode.UNSET
    for name, *codes in [
        ("a", error, unset),
        ("b", ok, error),
        ("c", ok, unset),
        ("d", error, ok),
        ("e", unset, error),
    ]:
        with tracer.span(name) as span:
            for code in codes:
                span.set_status(code, "because" if code is error else None)


def names(tracer: Any) -> None:
    with tracer.span("a") as span:
        span.update_name("b")
    with tracer.span(""):
        pass


def attributes(tracer: Any) -> None:
    with tracer.span("a", attributes={"x": 1}) as span:
        span.set_attribute("x", 2)
        span.set_attributes({"y": True, "z": [1.5, 2.5]})


def too_many_attributes(tracer: Any) -> None:
    with tracer.span("span") as span:
        for number in range(128):
            span.set_attribute(f"key {number}", number)
        span.set_attribute("key 0", "is the newest now")
        span.set_attribute("key 128", 128)
        span.set_attribute("key 3", "moves, too")
        span.set_attributes({"key 129": 129, "key 2": "was the oldest", "key 130": 130})
    with tracer.span("given", attributes={f"key {number}": number for number in range(200)}):
        pass


def attributes_again(tracer: Any) -> None:
    with tracer.span("span", attributes={"a": 1, "b": 2}) as span:
        span.set_attributes({"c": 3, "a": 4})
        span.set_attribute("b", 5)


def too_many_events(tracer: Any) -> None:
    with tracer.span("a") as span:
        for number in range(300):
            span.add_event(f"event {number}")


def after_the_end(tracer: Any) -> None:
    with tracer.span("a") as span:
        span.set_attribute("x", 1)
    span.set_attribute("x", 2)
    span.set_attributes({"y": 3})
    span.add_event("late")
    span.record_exception(ValueError("late"))
    span.set_status(StatusCode.ERROR, "late")
    span.update_name("late")
    span.add_link(OTHER)
    span.end()


def links(tracer: Any) -> None:
    with tracer.span("a", links=[otel.Link(OTHER, {"x": 1}), otel.Link(OTHER)]) as span:
        span.add_link(OTHER, {"y": 2})


def too_many_links(tracer: Any) -> None:
    with tracer.span("a") as span:
        for number in range(200):
            span.add_link(OTHER, {"number": number})


def task_id_goes_down(tracer: Any) -> None:
    with tracer.span("a") as span:
        span.set_attribute("task_id", "T")
        with tracer.span("b"), tracer.span("c"):
            pass
        with tracer.span("d") as other:
            other.set_attribute("task_id", "U")
            with tracer.span("e"):
                pass


def task_id_that_is_no_text(tracer: Any) -> None:
    with tracer.span("a") as span:
        span.set_attribute("task_id", 5)
        with tracer.span("b"):
            pass


def task_id_is_set_later(tracer: Any) -> None:
    with tracer.span("a") as span, tracer.span("b"):
        span.set_attribute("task_id", "T")
        with tracer.span("c"):
            pass


def task_id_is_given(tracer: Any) -> None:
    with tracer.span("a") as span:
        span.set_attribute("task_id", "T")
        with tracer.span("b", attributes={"task_id": "mine", "x": 1}):
            pass


def task_id_of_an_ended_span(tracer: Any) -> None:
    with tracer.span("a", end_on_exit=False) as span:
        span.set_attribute("task_id", "T")
        span.end()
        with tracer.span("b"):
            pass


def explicit_context(tracer: Any) -> None:
    with tracer.span("a") as span:
        span.set_attribute("task_id", "T")
        context = otel.set_span_in_context(span)
    with tracer.span("b", context=context), tracer.span("c"):
        pass


def decorator(tracer: Any) -> None:
    @tracer.span("f", attributes={"n": 1})
    def f(depth: int) -> str:
        """Documented."""
        return f(depth - 1) if depth else "done"

    assert (f.__name__, f.__doc__, f(2)) == ("f", "Documented.", "done")


SCENARIOS = [
    nested,
    options,
    times,
    error_escapes,
    error_of_users,
    error_is_caught_inside,
    error_is_no_exception,
    error_is_not_recorded,
    error_after_ok,
    error_after_the_end,
    error_is_recorded_and_raised,
    error_is_recorded_with_attributes,
    error_without_text,
    error_group,
    status_objects,
    status_calls,
    names,
    attributes,
    too_many_attributes,
    attributes_again,
    too_many_events,
    after_the_end,
    links,
    too_many_links,
    task_id_goes_down,
    task_id_that_is_no_text,
    task_id_is_set_later,
    task_id_is_given,
    task_id_of_an_ended_span,
    explicit_context,
    decorator,
]


def masked(name: str, attributes: Any) -> tuple[str, dict[str, Any]]:
    """An event whose stack, which names other frames in each package, is reduced to its first and last line."""
    found = {key: list(value) if isinstance(value, tuple) else value for key, value in (attributes or {}).items()}
    if "exception.stacktrace" in found:
        lines = found["exception.stacktrace"].strip().splitlines()
        found["exception.stacktrace"] = lines[0] if lines[0].startswith("Traceback") else "", lines[-1]
    return name, found


def by_official(scenario: Callable[[Any], None]) -> list[tuple[Any, ...]]:
    """What the official tracer, on OpenTelemetry's SDK, makes of a scenario; in the order of starting."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = OfficialTracer()
    tracer._tracer = provider.get_tracer("tilebox.com/observability")
    scenario(tracer)
    spans = exporter.get_finished_spans()
    found: dict[int, ReadableSpan] = {span.context.span_id: span for span in spans}
    rows = []
    for span in spans:
        parent = None if span.parent is None else found[span.parent.span_id].name
        events = [masked(event.name, event.attributes) for event in span.events]
        shown_links = [
            (link.context.trace_id, link.context.span_id, dict(link.attributes or {})) for link in span.links
        ]
        attributes = list(masked("", span.attributes)[1].items())
        status = (span.status.status_code.value, span.status.description)
        counts = (span.dropped_attributes, span.dropped_events)
        rows.append((span.name, parent, span.kind.name, *status, attributes, events, shown_links, *counts))
    return sorted(rows, key=repr)


def by_ours(scenario: Callable[[Any], None], client: Client) -> list[tuple[Any, ...]]:
    """What our tracer stores for a scenario."""
    scenario(client.tracer)
    query = (
        "SELECT s.span_id, name, parent_span_id, kind, status_code, status_message, attributes, links, "
        "dropped_attributes_count, dropped_events_count FROM span_records s"
    )
    spans = table(client, query)
    events: dict[int, list[Any]] = {}
    for span_id, name, attributes in table(
        client, "SELECT span_id, name, attributes FROM event_records ORDER BY span_id, event_no"
    ):
        events.setdefault(span_id, []).append(masked(name, orjson.loads(attributes or "{}")))
    names = {row[0]: row[1] for row in spans}
    return sorted(
        (
            (
                name,
                names.get(parent),
                SpanKind(kind - 1).name,
                code,
                message,
                list(orjson.loads(attributes or "{}").items()),
                events.get(span_id, []),
                [
                    (int(link["trace_id"], 16), int(link["span_id"], 16), link["attributes"])
                    for link in orjson.loads(links or "[]")
                ],
                *counts,
            )
            for span_id, name, parent, kind, code, message, attributes, links, *counts in spans
        ),
        key=repr,
    )


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_as_the_official_tracer(
    scenario: Callable[[Any], None], client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """The same code on both tracers gives the same spans: names, parents, kinds, status, attributes, events, links."""
    caplog.set_level(logging.CRITICAL)
    assert by_ours(scenario, client) == by_official(scenario)


STATUS_CALLS = st.lists(
    st.tuples(st.sampled_from(StatusCode), st.sampled_from([None, "", "a", "b"]), st.booleans()), max_size=5
)


@given(calls=STATUS_CALLS)
@example(calls=[(StatusCode.ERROR, "a", False), (StatusCode.ERROR, None, False)])
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_sequence_of_set_status(
    client: Client, caplog: pytest.LogCaptureFixture, calls: list[tuple[StatusCode, str | None, bool]]
) -> None:
    """After any sequence of set_status calls, status and message are those of OpenTelemetry's SDK."""
    caplog.set_level(logging.CRITICAL, "opentelemetry.trace.status")
    ours = span_module.RecordingSpan(client._store.writer, client._resource, "span")
    theirs: Any = TracerProvider().get_tracer("tests").start_span("span")
    for code, text, as_object in calls:
        for span in (ours, theirs):
            if as_object:
                span.set_status(Status(code, text if code is StatusCode.ERROR else None))
            else:
                span.set_status(code, text)
    assert (ours.status_code, ours.status_message or "") == (
        theirs.status.status_code.value,
        theirs.status.description or "",
    )


# -- OpenTelemetry's API ----------------------------------------------------------------------------------------


def test_the_current_span(client: Client) -> None:
    """Inside of a block our span is OpenTelemetry's current span; outside there is none."""
    assert otel.get_current_span() is otel.INVALID_SPAN
    assert client.tracer.current_span() is otel.INVALID_SPAN
    with client.tracer.span("outer") as outer:
        assert otel.get_current_span() is client.tracer.current_span() is outer
        assert isinstance(outer, otel.Span)
        assert outer.is_recording()
        with client.tracer.span("inner") as inner:
            assert otel.get_current_span() is inner
        assert otel.get_current_span() is outer
        assert not inner.is_recording()
    assert otel.get_current_span() is otel.INVALID_SPAN


def test_span_context(client: Client) -> None:
    """A root span begins a random trace, sampled; its children share trace id and flags and have ids of their own."""
    with client.tracer.span("outer") as outer, client.tracer.span("inner") as inner:
        first, second = outer.get_span_context(), inner.get_span_context()
    assert first.is_valid
    assert second.is_valid
    assert first.trace_id == second.trace_id
    assert first.span_id != second.span_id
    assert (int(first.trace_flags), int(second.trace_flags)) == (3, 3)
    assert (first.is_remote, second.is_remote) == (False, False)
    assert table(client, "SELECT name, trace_id, span_id, parent_span_id FROM spans ORDER BY name") == [
        ("inner", f"{first.trace_id:032x}", f"{second.span_id:016x}", f"{first.span_id:016x}"),
        ("outer", f"{first.trace_id:032x}", f"{first.span_id:016x}", None),
    ]


def test_ids_differ(client: Client) -> None:
    """Two thousand spans in two threads have two thousand ids; root spans have traces of their own."""

    def work() -> None:
        for _ in range(1000):
            with client.tracer.span("span"):
                pass

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    query = "SELECT count(*), count(DISTINCT span_id), count(DISTINCT trace_no) FROM span_records"
    assert table(client, query) == [(2000, 2000, 2000)]


def test_changes_after_the_end_are_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """What is set on an ended span is ignored, with one line each on the package's own logger."""
    caplog.set_level(logging.WARNING, "tilebox.workflows.internal")
    with client.tracer.span("span") as span:
        pass
    span.set_attribute("key", 1)
    span.end()
    assert [record.message for record in caplog.records] == [
        "Span 'span' has ended; attribute key is ignored.",
        "Span 'span' was ended twice.",
    ]


def test_times_that_are_given(client: Client) -> None:
    """start_time and end_time are stored as they are given; an end before the start makes a duration of 0."""
    tracer = client.tracer_provider.get_tracer("tests")
    tracer.start_span("a", start_time=1_000).end(3_500)
    tracer.start_span("b", start_time=1_000).end(500)
    with client.tracer.span("c", start_time=1_000, end_on_exit=False) as span:
        pass
    assert span.is_recording()
    span.end(1_001)
    query = "SELECT name, start_ns, duration_ns FROM span_records ORDER BY name"
    assert table(client, query) == [("a", 1_000, 2_500), ("b", 1_000, 0), ("c", 1_000, 1)]


def test_a_start_in_the_past_ends_now(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A span that is started with a time in the past, and ended without one, lasts until now."""
    now = 1_700_000_000_000_000_000
    monkeypatch.setattr(span_module, "time_ns", lambda: now)
    monkeypatch.setattr(span_module, "perf_counter_ns", lambda: 5)
    with client.tracer.span("span", start_time=now - 700):
        pass
    assert table(client, "SELECT start_ns, duration_ns FROM span_records") == [(now - 700, 700)]


def test_a_span_that_is_never_entered_is_none(client: Client) -> None:
    """tracer.span() alone starts nothing: the span begins at `with`."""
    client.tracer.span("never")
    with client.tracer.span("once"):
        pass
    assert table(client, "SELECT name FROM span_records") == [("once",)]


def test_start_span_as_context_manager(client: Client) -> None:
    """`with tracer.start_span(...)` records an escaping exception as OpenTelemetry's SDK does, with escaped=True."""
    exporter = InMemorySpanExporter()
    sdk = TracerProvider()
    sdk.add_span_processor(SimpleSpanProcessor(exporter))
    for provider in (sdk, client.tracer_provider):
        with suppress(ValueError), provider.get_tracer("tests").start_span("span"):
            raise ValueError("no")
    (theirs,) = exporter.get_finished_spans()
    ((code, message),) = table(client, "SELECT status_code, status_message FROM span_records")
    assert (code, message) == (theirs.status.status_code.value, theirs.status.description)
    events = [
        masked(name, orjson.loads(attributes))
        for name, attributes in table(client, "SELECT name, attributes FROM event_records")
    ]
    assert events == [masked(event.name, event.attributes) for event in theirs.events]


def test_start_span_does_not_become_current(client: Client) -> None:
    """A span of start_span is below the current one, but does not become it, unless it is used with use_span."""
    tracer = client.tracer_provider.get_tracer("tests")
    with client.tracer.span("outer") as outer:
        span = tracer.start_span("side")
        assert otel.get_current_span() is outer
        with otel.use_span(span, end_on_exit=True), client.tracer.span("below"):
            pass
    query = "SELECT c.name, p.name FROM span_records c LEFT JOIN span_records p ON p.span_id = c.parent_span_id"
    assert sorted(table(client, query), key=repr) == [("below", "side"), ("outer", None), ("side", "outer")]


def test_decorated_async_function(client: Client) -> None:
    """OpenTelemetry's start_as_current_span can decorate async functions; their body runs inside of the span."""

    @client.tracer_provider.get_tracer("tests").start_as_current_span("f")
    async def f() -> bool:
        await asyncio.sleep(0)
        return otel.get_current_span().is_recording()

    assert asyncio.run(f())


def test_a_generator_that_is_closed_elsewhere(client: Client) -> None:
    """A span in a generator that is closed in another context than it was started in ends without an error."""

    def generate() -> Iterator[int]:
        with client.tracer.span("generator"):
            yield 1

    generator = generate()
    assert copy_context().run(next, generator) == 1
    with client.tracer.span("outer") as outer:
        generator.close()
        assert otel.get_current_span() is outer
    assert sorted(table(client, "SELECT name FROM span_records")) == [("generator",), ("outer",)]


def test_limits_from_the_environment(client: Client) -> None:
    """OpenTelemetry's environment variables set the limits of attributes and events per span."""
    script = """
import sys
from tilebox_local import Client
with Client(sys.argv[1]) as client, client.tracer.span("span") as span:
    for number in range(10):
        span.set_attribute(str(number), number)
        span.add_event(str(number))
"""
    limits = {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "3", "OTEL_SPAN_EVENT_COUNT_LIMIT": "2"}
    run_script(script, client.path, env=limits)
    assert table(client, "SELECT attributes, dropped_attributes_count, dropped_events_count FROM span_records") == [
        ('{"7":7,"8":8,"9":9}', 7, 8)
    ]
    assert table(client, "SELECT event_no, name FROM event_records ORDER BY event_no") == [(8, "8"), (9, "9")]


def test_no_attributes_by_the_environment(client: Client) -> None:
    """With a limit of 0, a span keeps no attribute, and counts those that it was given."""
    script = """
import sys
from tilebox_local import Client
with Client(sys.argv[1]) as client, client.tracer.span("span", attributes={"a": 1}) as span:
    span.set_attribute("b", 2)
"""
    run_script(script, client.path, env={"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "0"})
    query = "SELECT attributes, dropped_attributes_count FROM span_records"
    assert table(client, query) == [(None, 2)]


def test_threads_that_set_the_same_attributes(client: Client) -> None:
    """Threads that set attributes of one span at once, also the same ones, raise nothing, and about 128 are kept."""
    barrier = threading.Barrier(4)
    errors: list[BaseException] = []

    def work() -> None:
        barrier.wait(PATIENCE_S)
        try:
            for number in range(20_000):
                span.set_attribute(f"key {number % 150}", number)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    with client.tracer.span("span") as span:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    ((text,),) = table(client, "SELECT attributes FROM span_records")
    assert 124 <= len(orjson.loads(text)) <= 132  # each thread may drop one too many or too few


def use_without_a_client(tracer: Any) -> list[Any]:
    """What can be seen of the spans of a tracer that stores none."""
    seen: list[Any] = []
    outside = otel.get_current_span()
    with tracer.span("outer", attributes={"n": 1}) as outer:
        seen += [outer.is_recording(), otel.get_current_span() is outer, tracer.current_span() is outer]
        outer.set_attribute("task_id", "mine")
        with suppress(ValueError), type(tracer)().span("inner", kind=SpanKind.CLIENT) as inner:
            seen += [dict(inner.attributes), otel.get_current_span() is inner]
            one, other = inner.get_span_context(), outer.get_span_context()
            seen += [one.is_valid, one.trace_flags, one.trace_id == other.trace_id, one.span_id == other.span_id]
            carrier: dict[str, str] = {}
            propagator.inject(carrier)
            seen.append(carrier["traceparent"] == f"00-{one.trace_id:032x}-{one.span_id:016x}-03")
            raise ValueError("no")
        seen += [inner.is_recording(), otel.get_current_span() is outer, outer.is_recording()]
        outer.add_event("event")
        outer.update_name("renamed")
        seen += [dict(outer.attributes), outer.name]
    with start_job_span(tracer, SimpleNamespace(trace_parent=f"00-{'ab' * 16}-{'1' * 16}-01"), "job") as span:
        seen += [f"{span.get_span_context().trace_id:x}", span.get_span_context().trace_flags]
    unsampled = otel.set_span_in_context(otel.NonRecordingSpan(otel.SpanContext(1, 2, is_remote=True)))
    with tracer.span("unsampled", unsampled) as span:
        seen += [span.is_recording(), span.get_span_context().trace_id]
    return [*seen, otel.get_current_span() is outside]


def test_a_tracer_without_a_client() -> None:
    """Spans of a tracer that stores none nest, propagate and inherit task_id as those of the official package do."""
    assert use_without_a_client(NoopWorkflowTracer()) == use_without_a_client(OfficialTracer())


def test_unstored_spans_in_a_task(client: Client) -> None:
    """Below a span of a task, such a span has the task's id, and what is recorded inside belongs to the task's span."""

    def body(context: ExecutionContext) -> None:
        noop = NoopWorkflowTracer()
        with context.tracer.span("mine"), noop.span("one") as one, noop.span("two") as two:
            seen.append([dict(span.attributes) for span in (one, two)])  # type: ignore[attr-defined]
            seen.append(two.get_span_context().trace_id)
            context.logger.info("log")
            with context.tracer.span("below"):
                context.logger.info("deeper")

    seen: list[Any] = []
    job = run_in_task(client, body)
    assert tree(client, job) == {"job/job": None, "task/Body": "job/job", "mine": "task/Body", "below": "mine"}
    spans = spans_by_name(client, job)
    task_id = {"task_id": spans["task/Body"].attributes["task_id"]}
    assert seen == [[task_id] * 2, int(spans["mine"].trace_id, 16)]
    assert [span.attributes for span in (spans["mine"], spans["below"])] == [task_id] * 2
    assert [(log.body, log.span_id) for log in client.jobs().query_logs(job)] == [
        ("log", spans["mine"].span_id),
        ("deeper", spans["below"].span_id),
    ]
    assert table(client, "SELECT count(*) FROM trace_records") == [(2,)]


def test_unstored_spans_outside_of_tasks(client: Client) -> None:
    """Where no span above is stored, a span of a client continues the trace, and log records belong to no span."""
    client.runner(tasks=[])
    with NoopWorkflowTracer().span("unstored") as unstored:
        get_logger("tests").info("log")
        with client.tracer.span("stored"):
            pass
    ids = unstored.get_span_context()
    assert table(client, "SELECT name, trace_id, parent_span_id FROM spans") == [
        ("stored", f"{ids.trace_id:032x}", f"{ids.span_id:016x}")
    ]
    assert table(client, "SELECT body, span_id FROM logs") == [("log", None)]


# -- threads and asyncio ----------------------------------------------------------------------------------------


def test_nesting_in_threads(client: Client) -> None:
    """A thread that runs in a copy of the context continues the span; a bare thread begins a trace of its own."""

    def below(name: str) -> None:
        with client.tracer.span(name), client.tracer.span(f"{name}, deeper"):
            pass

    def body(context: ExecutionContext) -> None:
        with context.tracer.span("outer"):
            copied = threading.Thread(target=copy_context().run, args=(below, "copied"))
            bare = threading.Thread(target=below, args=("bare",))
            with ThreadPoolExecutor(1) as pool:
                pool.submit(copy_context().run, below, "pooled").result()
            for thread in (copied, bare):
                thread.start()
                thread.join()

    job = run_in_task(client, body)
    assert tree(client, job) == {
        "job/job": None,
        "task/Body": "job/job",
        "outer": "task/Body",
        "copied": "outer",
        "copied, deeper": "copied",
        "pooled": "outer",
        "pooled, deeper": "pooled",
    }
    assert {span.attributes.get("task_id") for span in client.jobs().query_spans(job)} == {
        None,
        spans_by_name(client, job)["task/Body"].attributes["task_id"],
    }
    assert table(client, "SELECT name, parent_span_id IS NULL, job_id FROM spans WHERE name LIKE 'bare%'") == [
        ("bare", 1, None),
        ("bare, deeper", 0, None),
    ]


def test_nesting_in_asyncio(client: Client) -> None:
    """Spans of asyncio tasks that take turns nest under the span in which the task was created, never across."""

    async def work(tracer: WorkflowTracer, name: str, turns: asyncio.Barrier) -> None:
        with tracer.span(name):
            await turns.wait()
            with tracer.span(f"{name}, deeper"):
                await turns.wait()
            await turns.wait()

    async def body(context: ExecutionContext) -> None:
        turns = asyncio.Barrier(3)
        with context.tracer.span("outer"):
            await asyncio.gather(*(work(context.tracer, name, turns) for name in "abc"))

    job = run_in_task(client, body)
    assert tree(client, job) == {
        "job/job": None,
        "task/Body": "job/job",
        "outer": "task/Body",
        **dict.fromkeys("abc", "outer"),
        **{f"{name}, deeper": name for name in "abc"},
    }


# -- in a task --------------------------------------------------------------------------------------------------


def test_spans_of_a_task(client: Client) -> None:
    """The spans of a job: job/<name>, task/<Class> with its three attributes, and the user's with the task_id."""

    def body(context: ExecutionContext) -> None:
        with context.tracer.span("mine") as span:
            span.set_attribute("n", 1)

    job = run_in_task(client, body, "named")
    spans = spans_by_name(client, job)
    task = spans["task/Body"]
    task_id = task.attributes["task_id"]
    assert {name: span.attributes for name, span in spans.items()} == {
        "job/named": {},
        "task/Body": {"task_id": task_id, "identifier.name": "Body", "identifier.version": "v0.0"},
        "mine": {"task_id": task_id, "n": 1},
    }
    assert table(client, "SELECT task_id FROM tasks") == [(task_id,)]
    assert job.trace_parent == f"00-{task.trace_id}-{spans['job/named'].span_id}-03"
    assert {span.status_code for span in spans.values()} == {"STATUS_CODE_UNSET"}
    assert table(client, "SELECT DISTINCT kind, scope FROM spans") == [("INTERNAL", "tilebox.com/observability")]


def test_events_are_in_the_order_of_time(client: Client) -> None:
    """Events that code added and those of log records are sorted together by time."""

    def body(context: ExecutionContext) -> None:
        with context.tracer.span("mine") as span:
            context.logger.info("one")
            span.add_event("two")
            span.add_event("zero", timestamp=5)
            context.logger.info("three")
            span.add_event("four")

    job = run_in_task(client, body)
    events = spans_by_name(client, job)["mine"].events
    assert [event["attributes"].get("body", event["name"]) for event in events] == [
        "zero",
        "one",
        "two",
        "three",
        "four",
    ]
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)


def test_a_failing_task(client: Client) -> None:
    """A task that raises: the exception as event of its span, ERROR with a fixed text, and a span per attempt."""

    class Fails(Task):
        def execute(self, context: ExecutionContext) -> None:
            raise Boom("no")

    job = client.jobs().submit("job", Fails(), max_retries=1)
    client.runner(tasks=[Fails]).run_all()
    spans = [span for span in client.jobs().query_spans(job) if span.name == "task/Fails"]
    assert len(spans) == 2
    for span in spans:
        assert (span.status_code, span.status_message) == ("STATUS_CODE_ERROR", "Task failed with exception")
        (event,) = span.events
        stack = event["attributes"].pop("exception.stacktrace")
        assert stack.startswith("Traceback (most recent call last):\n")
        assert stack.endswith(f"{__name__}.Boom: no\n")
        assert event["name"] == "exception"
        assert event["attributes"] == {
            "exception.type": f"{__name__}.Boom",
            "exception.message": "no",
            "exception.escaped": "False",
        }


def test_an_error_in_a_span_of_a_task(client: Client) -> None:
    """record_exception and re-raise: two events on the user's span, one on the task's."""

    def body(context: ExecutionContext) -> None:
        with context.tracer.span("mine") as span:
            try:
                raise ValueError("no")
            except ValueError as error:
                span.record_exception(error)
                raise

    job = run_in_task(client, body)
    spans = spans_by_name(client, job)
    assert [len(spans[name].events) for name in ("mine", "task/Body", "job/job")] == [2, 1, 0]
    assert spans["mine"].status_message == "ValueError: no"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_an_interrupted_task(error: BaseException, client: Client) -> None:
    """SystemExit and KeyboardInterrupt leave run_all; the task's span ends as interrupted, without an exception."""

    def body(context: ExecutionContext) -> None:
        raise error

    with pytest.raises(type(error)):
        run_in_task(client, body)
    (job,) = client.jobs().query()
    task = spans_by_name(client, job)["task/Body"]
    assert (task.status_code, task.status_message) == ("STATUS_CODE_ERROR", f"interrupted: {error!r}")
    assert task.events == []


def test_retry_and_cancel(client: Client) -> None:
    """Retrying and canceling a job leave a span each below its root, with an event that tells the outcome."""
    job = client.jobs().submit("job", Nothing())
    client.jobs().cancel(job)
    client.jobs().retry(job)
    spans = spans_by_name(client, job)
    assert tree(client, job) == {"job/job": None, "cancel_job": "job/job", "retry_job": "job/job"}
    events = {name: [(event["name"], event["attributes"]) for event in span.events] for name, span in spans.items()}
    assert events == {
        "job/job": [],
        "cancel_job": [("cancel_succeeded", {})],
        "retry_job": [("retried_succeeded", {"num_tasks_rescheduled": 0})],
    }
    assert {name: span.attributes for name, span in spans.items()} == {name: {} for name in spans}


def test_a_failing_submission(client: Client) -> None:
    """If a job cannot be submitted, its span says why, in a trace without a job; the next job does not inherit it."""
    disk = {"is_full": False}
    client._store.transact(lambda connection: connection.set_commit_hook(lambda: disk["is_full"]))
    disk["is_full"] = True
    with pytest.raises(StoreError):
        client.jobs().submit("doomed", Nothing())
    disk["is_full"] = False
    job = client.jobs().submit("fine", Nothing())
    assert [span.name for span in client.jobs().query_spans(job)] == ["job/fine"]
    assert table(client, "SELECT name, job_id, status FROM spans WHERE name = 'job/doomed'") == [
        ("job/doomed", None, "ERROR")
    ]


# -- one job inside of another ----------------------------------------------------------------------------------


def test_a_job_submitted_in_a_task(client: Client) -> None:
    """A job that a task submits continues the task's trace, below the span that was current, and lists only its own."""
    children = []

    def body(context: ExecutionContext) -> None:
        with context.tracer.span("submitting"):
            children.append(client.jobs().submit("child", Nothing()))

    outer = run_in_task(client, body, "outer")
    (child,) = children
    client.runner(tasks=[Nothing]).run_all()
    ours, theirs = spans_by_name(client, outer), spans_by_name(client, child)
    assert list(ours) == ["job/outer", "task/Body", "submitting"]
    assert list(theirs) == ["job/child", "task/Nothing"]
    assert {span.trace_id for span in (*ours.values(), *theirs.values())} == {ours["job/outer"].trace_id}
    assert theirs["job/child"].parent_span_id == ours["submitting"].span_id
    assert theirs["task/Nothing"].parent_span_id == theirs["job/child"].span_id
    assert theirs["job/child"].attributes == {"task_id": ours["task/Body"].attributes["task_id"]}
    assert theirs["task/Nothing"].attributes["task_id"] != ours["task/Body"].attributes["task_id"]
    assert table(client, "SELECT count(*), count(DISTINCT trace_id), count(DISTINCT job_no) FROM trace_records") == [
        (3, 2, 2)
    ]


def test_jobs_submitted_in_a_span(client: Client) -> None:
    """Jobs that a script submits inside of a span of its own share its trace, and each lists its own spans."""
    with client.tracer.span("script") as script:
        jobs = [client.jobs().submit(name, Nothing()) for name in ("one", "two")]
    client.runner(tasks=[Nothing]).run_all()
    found = [client.jobs().query_spans(job) for job in jobs]
    assert [[span.name for span in spans] for spans in found] == [
        ["job/one", "task/Nothing"],
        ["job/two", "task/Nothing"],
    ]
    parent = f"{script.get_span_context().span_id:016x}"
    assert [spans[0].parent_span_id for spans in found] == [parent, parent]
    assert len({spans[0].trace_id for spans in found}) == 1
    assert table(client, "SELECT job_id FROM spans WHERE name = 'script'") == [(None,)]


def test_a_slow_submission_leaves_one_root_span(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root span of a job whose submission had to wait for the store is stored once, in the job's trace."""
    monkeypatch.setattr("tilebox_local.clock.monotonic_ns", lambda: span_module.perf_counter_ns() + 1000 * MS)
    job = client.jobs().submit("slow", Nothing())
    assert [span.name for span in client.jobs().query_spans(job)] == ["job/slow"]
    assert table(client, "SELECT count(*), count(duration_ns) FROM span_records") == [(1, 1)]


# -- other libraries --------------------------------------------------------------------------------------------


def test_an_instrumented_library(client: Client) -> None:
    """Spans of a library on our provider nest under the task's, with their scope and kind, and ours under them."""
    tracer = client.tracer_provider.get_tracer("some.library", "1.2")

    def body(context: ExecutionContext) -> None:
        with (
            context.tracer.span("mine"),
            tracer.start_as_current_span("GET /", kind=SpanKind.CLIENT, attributes={"http.method": "GET"}),
            context.tracer.span("deeper"),
        ):
            pass

    job = run_in_task(client, body)
    assert tree(client, job) == {
        "job/job": None,
        "task/Body": "job/job",
        "mine": "task/Body",
        "GET /": "mine",
        "deeper": "GET /",
    }
    library = spans_by_name(client, job)["GET /"]
    assert library.attributes["http.method"] == "GET"
    query = "SELECT scope, kind FROM spans WHERE name IN ('GET /', 'deeper') ORDER BY name"
    assert table(client, query) == [("some.library", "CLIENT"), ("tilebox.com/observability", "INTERNAL")]


def test_force_flush(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """force_flush commits what has ended and returns True; False, and one line in the log, if time runs out."""
    provider = client.tracer_provider
    with client.tracer.span("first"):
        pass
    assert provider.force_flush() is True
    assert outside(client.path, "SELECT name FROM spans") == [{"name": "first"}]
    entered, leave = threading.Event(), threading.Event()

    def hold(connection: Any) -> bool:
        entered.set()
        return leave.wait(PATIENCE_S)

    holder = threading.Thread(target=client._store.transact, args=(hold,))
    holder.start()
    assert entered.wait(PATIENCE_S)
    with client.tracer.span("second"):
        pass
    assert provider.force_flush(timeout_millis=1) is False
    leave.set()
    holder.join()
    assert [record.message for record in caplog.records] == [
        "Spans are not flushed: 1 records are still queued after 0.001 s."
    ]
    assert provider.force_flush() is True
    assert outside(client.path, "SELECT name FROM spans ORDER BY start_ns") == [{"name": "first"}, {"name": "second"}]


def test_flushing_while_the_disk_refuses(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """force_flush and shutdown do not raise if the store cannot be written; the spans are kept until it can."""
    provider = client.tracer_provider
    refuses = [False]
    client._store.transact(lambda connection: connection.set_commit_hook(lambda: refuses[0]))
    with client.tracer.span("span"):
        refuses[0] = True
    assert provider.force_flush() is False
    provider.shutdown()
    messages = [record.message for record in caplog.records if record.message.startswith("Spans")]
    assert messages == [f"Spans are not flushed: {client.path}: constraint failed."] * 2
    refuses[0] = False
    assert provider.force_flush() is True
    assert outside(client.path, "SELECT name FROM spans") == [{"name": "span"}]


def test_a_library_on_the_global_provider(client: Client) -> None:
    """A library that uses OpenTelemetry's global tracer stores its spans here once our provider is the global one."""
    script = """
import sys
from opentelemetry import trace
from tilebox_local import Client
with Client(sys.argv[1]) as client:
    trace.set_tracer_provider(client.tracer_provider)
    with client.tracer.span("mine"), trace.get_tracer("library").start_as_current_span("theirs"):
        pass
    print(trace.get_tracer_provider().force_flush())
"""
    assert run_script(script, client.path) == "True\n"
    query = "SELECT c.name, p.name FROM spans c LEFT JOIN spans p ON p.span_id = c.parent_span_id ORDER BY c.name"
    assert table(client, query) == [("mine", None), ("theirs", "mine")]


def test_the_provider_by_entry_point(client: Client, tmp_path: Any) -> None:
    """OTEL_PYTHON_TRACER_PROVIDER=tilebox_local makes the default store's provider the global one."""
    script = """
from opentelemetry import trace
with trace.get_tracer("library").start_as_current_span("span"):
    pass
trace.get_tracer_provider().shutdown()
"""
    environment = {"OTEL_PYTHON_TRACER_PROVIDER": "tilebox_local", "TILEBOX_LOCAL_DB": client.path}
    run_script(script, env=environment)
    assert table(client, "SELECT name, scope FROM spans") == [("span", "library")]


def test_sdk_spans_between_ours(client: Client) -> None:
    """Spans of OpenTelemetry's SDK between ours: one trace, and ours below them stay in the job."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def body(context: ExecutionContext) -> None:
        with (
            context.tracer.span("mine"),
            provider.get_tracer("sdk").start_as_current_span("theirs"),
            context.tracer.span("below"),
            context.tracer.span("deeper"),
        ):
            pass

    job = run_in_task(client, body)
    spans = spans_by_name(client, job)
    (theirs,) = exporter.get_finished_spans()
    assert f"{theirs.context.trace_id:032x}" == spans["mine"].trace_id
    assert theirs.parent is not None
    assert f"{theirs.parent.span_id:016x}" == spans["mine"].span_id
    assert spans["below"].parent_span_id == f"{theirs.context.span_id:016x}"
    assert spans["deeper"].parent_span_id == spans["below"].span_id
    assert list(spans) == ["job/job", "task/Body", "mine", "below", "deeper"]


def test_task_id_through_an_sdk_span(client: Client) -> None:
    """A span below an SDK span that carries a task_id carries it, too, as with the official tracer."""
    provider = TracerProvider()
    with provider.get_tracer("sdk").start_as_current_span("theirs", attributes={"task_id": "T"}):
        official = OfficialTracer()
        with official.span("official") as theirs, client.tracer.span("ours"):
            pass
    assert theirs.attributes["task_id"] == "T"  # type: ignore[attr-defined]
    assert table(client, "SELECT attributes FROM spans") == [('{"task_id":"T"}',)]


def test_a_span_of_another_store(client: Client, tmp_path: Any) -> None:
    """A span below one of another client's store shares its trace, and each is stored in its own file."""
    with Client(tmp_path / "other.db") as other:
        with client.tracer.span("mine") as mine, other.tracer.span("theirs") as theirs:
            pass
        found = table(other, "SELECT name, parent_span_id FROM spans")
    assert mine.get_span_context().trace_id == theirs.get_span_context().trace_id
    assert found == [("theirs", f"{mine.get_span_context().span_id:016x}")]
    assert table(client, "SELECT name FROM spans") == [("mine",)]


# -- W3C trace context ------------------------------------------------------------------------------------------


def test_inject(client: Client) -> None:
    """OpenTelemetry's propagator writes our span into headers, and get_trace_parent_of_current_span returns it."""
    carrier: dict[str, str] = {}
    with client.tracer.span("span") as span:
        propagator.inject(carrier)
        context = span.get_span_context()
        assert carrier == {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-03"}
        assert get_trace_parent_of_current_span() == carrier["traceparent"]
    with pytest.raises(ArgumentError, match="no current span"):
        get_trace_parent_of_current_span()


@pytest.mark.parametrize("flags", ["01", "03"])
def test_extract(flags: str, client: Client) -> None:
    """A remote parent is continued: trace, flags, and a span id of 64 bits; children stay in the same trace."""
    header = f"00-{'ab' * 16}-ffffffffffffff01-{flags}"
    context = propagator.extract({"traceparent": header})
    with client.tracer.span("span", context=context), client.tracer.span("child") as child:
        assert get_trace_parent_of_current_span() == f"00-{'ab' * 16}-{child.get_span_context().span_id:016x}-{flags}"
    assert table(client, "SELECT name, trace_id, parent_span_id FROM spans WHERE name = 'span'") == [
        ("span", "ab" * 16, "ffffffffffffff01")
    ]
    assert table(client, "SELECT count(*) FROM trace_records") == [(2,)]


@pytest.mark.parametrize("header", ["", "garbage", f"00-{'0' * 32}-{'1' * 16}-01", f"ff-{'1' * 32}-{'1' * 16}-01"])
def test_extract_of_nothing(header: str, client: Client) -> None:
    """A malformed or invalid header begins a new trace."""
    with client.tracer.span("span", context=propagator.extract({"traceparent": header})):
        pass
    assert table(client, "SELECT parent_span_id, trace_id = ? FROM spans".replace("?", f"'{'1' * 32}'")) == [(None, 0)]


def test_trace_state_is_kept(client: Client) -> None:
    """The tracestate of a remote parent is stored, and passed on by the span that continues it."""
    context = propagator.extract({"traceparent": f"00-{'ab' * 16}-{'1' * 16}-01", "tracestate": "a=1,b=2"})
    carrier: dict[str, str] = {}
    with client.tracer.span("span", context=context):
        propagator.inject(carrier)
    assert carrier["tracestate"] == "a=1,b=2"
    assert table(client, "SELECT trace_state FROM span_records") == [("a=1,b=2",)]


def test_trace_state_goes_down(client: Client) -> None:
    """The tracestate of a remote parent is passed on by all spans below, as by OpenTelemetry's SDK."""
    context = propagator.extract({"traceparent": f"00-{'ab' * 16}-{'1' * 16}-01", "tracestate": "a=1,b=2"})
    carrier: dict[str, str] = {}
    with client.tracer.span("span", context=context), client.tracer.span("child"):
        propagator.inject(carrier)
    assert carrier.get("tracestate") == "a=1,b=2"


def test_another_process_continues_a_job(client: Client) -> None:
    """A program that gets TRACEPARENT from a task adds its spans to the job, below the span that called it."""
    script = """
import os, sys
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from tilebox_local import Client
context = TraceContextTextMapPropagator().extract({"traceparent": os.environ["TRACEPARENT"]})
with Client(sys.argv[1], name="program") as client:
    with client.tracer.span("program", context=context), client.tracer.span("inside"):
        pass
"""

    def body(context: ExecutionContext) -> None:
        with context.tracer.span("calling"):
            run_script(script, client.path, env={"TRACEPARENT": get_trace_parent_of_current_span()})

    job = run_in_task(client, body)
    assert tree(client, job) == {
        "job/job": None,
        "task/Body": "job/job",
        "calling": "task/Body",
        "program": "calling",
        "inside": "program",
    }
    services = {name: span.runner_attributes["service.name"] for name, span in spans_by_name(client, job).items()}
    assert services == {**dict.fromkeys(["job/job", "task/Body", "calling"], "tests"), "program": "program"} | {
        "inside": "program"
    }


def test_another_process_continues_the_right_job(client: Client) -> None:
    """Where two jobs share a trace, a continued span goes to the job that has its parent."""
    with client.tracer.span("script"):
        jobs = [client.jobs().submit(name, Nothing()) for name in ("one", "two")]
    client.flush()
    for job in reversed(jobs):
        context = propagator.extract({"traceparent": job.trace_parent})
        with client.tracer.span(f"more of {job.name}", context=context):
            pass
    assert [[span.name for span in client.jobs().query_spans(job)] for job in jobs] == [
        ["job/one", "more of one"],
        ["job/two", "more of two"],
    ]


def test_start_job_span(client: Client) -> None:
    """start_job_span opens a span below the root of a job, whatever the current span is."""
    job = client.jobs().submit("job", Nothing())
    with client.tracer.span("unrelated"), start_job_span(client.tracer, job, "more"):
        pass
    assert tree(client, job) == {"job/job": None, "more": "job/job"}


def test_an_unsampled_parent(client: Client) -> None:
    """Below a parent that is not sampled nothing is recorded, at any depth; the trace is passed on as not sampled."""
    context = propagator.extract({"traceparent": f"00-{'ab' * 16}-{'1' * 16}-00"})
    with client.tracer.span("span", context=context) as span, client.tracer.span("child") as child:
        assert not span.is_recording()
        assert not child.is_recording()
        child.set_attribute("n", 1)
        header = get_trace_parent_of_current_span()
        side = client.tracer_provider.get_tracer("tests").start_span("side")
        assert not side.is_recording()
        side.end()
    ids = {one.get_span_context().span_id for one in (span, child, side)}
    assert len(ids) == 3
    assert header == f"00-{'ab' * 16}-{child.get_span_context().span_id:016x}-00"
    assert table(client, "SELECT count(*) FROM span_records") == [(0,)]
    assert otel.get_current_span() is otel.INVALID_SPAN


def test_an_unsampled_job(client: Client) -> None:
    """A job that is submitted below an unsampled span runs, and records no spans."""
    context = propagator.extract({"traceparent": f"00-{'ab' * 16}-{'1' * 16}-00"})
    seen = []

    def body(context: ExecutionContext) -> None:
        with context.tracer.span("mine") as span:
            seen.append(span.is_recording())

    with otel.use_span(otel.get_current_span(context)):
        job = run_in_task(client, body)
    assert job.trace_parent.startswith(f"00-{'ab' * 16}-")
    assert job.trace_parent.endswith("-00")
    assert seen == [False]
    assert client.jobs().query_spans(job) == []
    assert job.state.name == "COMPLETED"


# -- open spans -------------------------------------------------------------------------------------------------


class Hands:
    """The hands of the monotonic clock."""

    def __init__(self) -> None:
        self.now = 10**12

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    """The monotonic clock of spans and writer under control."""
    hands = Hands()
    monkeypatch.setattr(span_module, "perf_counter_ns", hands)
    monkeypatch.setattr("tilebox_local.clock.monotonic_ns", hands)
    return hands


def let_writer_look(client: Client) -> None:
    """Let the writer make a transaction, in which it writes what has become due."""
    client._store.transact(lambda connection: None)


OPEN = "SELECT name, duration_ns, attributes, status_code, status_message, dropped_events_count FROM span_records"


def test_open_spans_can_be_seen(client: Client, hands: Hands) -> None:
    """A span that has been open for 250 ms is in the file without an end, and has one row when it has ended."""
    with client.tracer.span("outer") as outer:
        outer.set_attribute("n", 1)
        hands.now += 249_999_999
        let_writer_look(client)
        assert outside(client.path, "SELECT * FROM spans") == []
        hands.now += 1
        let_writer_look(client)
        found = outside(client.path, "SELECT name, duration_ms, end_time, attributes, status FROM spans")
        assert found == [
            {"name": "outer", "duration_ms": None, "end_time": None, "attributes": '{"n":1}', "status": "UNSET"}
        ]
        with client.tracer.span("inner"):  # a child is not older than its parent
            let_writer_look(client)
        outer.set_attribute("m", 2)
        outer.update_name("renamed")
        hands.now += 50 * MS
    client.flush()
    assert table(client, OPEN + " ORDER BY name") == [
        ("inner", 0, None, 0, None, 0),
        ("renamed", 300 * MS, '{"n":1,"m":2}', 0, None, 0),
    ]


def test_open_spans_with_details(client: Client, hands: Hands) -> None:
    """Events, links, status and kind of a span that was written open are complete and stored once after its end."""
    with suppress(ValueError), client.tracer.span("span", kind=SpanKind.SERVER) as span:
        span.add_event("first", timestamp=1)
        hands.now += 300 * MS
        let_writer_look(client)
        assert table(client, OPEN) == [("span", None, None, 0, None, 0)]
        span.add_event("second", timestamp=2)
        span.add_link(OTHER)
        raise ValueError("no")
    assert table(client, OPEN) == [("span", 300 * MS, None, 2, "ValueError: no", 0)]
    assert table(client, "SELECT kind, links IS NOT NULL FROM span_records") == [(2, 1)]
    assert table(client, "SELECT event_no, name FROM event_records ORDER BY event_no") == [
        (0, "first"),
        (1, "second"),
        (2, "exception"),
    ]


def test_details_that_come_later(client: Client, hands: Hands) -> None:
    """A span that was written open without details gets them when it ends."""
    with client.tracer.span("span") as span:
        hands.now += 300 * MS
        let_writer_look(client)
        span.set_status(StatusCode.ERROR, "because")
        span.add_event("event")
    assert table(client, OPEN) == [("span", 300 * MS, None, 2, "because", 0)]
    assert table(client, "SELECT name FROM event_records") == [("event",)]


def test_events_of_a_long_span_are_limited(client: Client, hands: Hands) -> None:
    """The stored events of a span and its count of dropped ones add up, also if some were written while it was open."""
    with client.tracer.span("span") as span:
        for number in range(128):
            span.add_event(f"event {number}", timestamp=number)
        hands.now += 300 * MS
        let_writer_look(client)
        for number in range(128, 300):
            span.add_event(f"event {number}", timestamp=number)
    ((stored,),) = table(client, "SELECT count(*) FROM event_records")
    ((dropped,),) = table(client, "SELECT dropped_events_count FROM span_records")
    assert (stored, dropped) == (128, 172)


def test_open_spans_are_written_without_being_asked_for(client: Client) -> None:
    """Without any other activity the writer shows an open span within a second or so."""
    written = threading.Event()
    with client.tracer.span("span"):
        client._store.writer.on_commit.append(written.set)
        assert written.wait(PATIENCE_S)
        assert outside(client.path, "SELECT name, duration_ms FROM spans") == [{"name": "span", "duration_ms": None}]


def test_open_spans_in_queries(client: Client, hands: Hands) -> None:
    """query_spans returns open spans only when it is asked to; their end is None."""

    def body(context: ExecutionContext) -> None:
        with context.tracer.span("mine"):
            hands.now += 300 * MS
            let_writer_look(client)
            (job,) = client.jobs().query()
            found.append([span.name for span in client.jobs().query_spans(job)])
            found.append(
                [(span.name, span.end_time is None) for span in client.jobs().query_spans(job, include_open=True)]
            )

    found: list[Any] = []
    job = run_in_task(client, body)
    assert found == [["job/job"], [("job/job", False), ("task/Body", True), ("mine", True)]]
    assert [span.end_time is None for span in client.jobs().query_spans(job, include_open=True)] == [False] * 3


def test_a_killed_process_leaves_its_open_spans(client: Client) -> None:
    """What a process was doing when it was killed can be seen afterwards: its spans are there, without an end."""
    script = """
import sys, threading
from tilebox_local import Client
client = Client(sys.argv[1])
written = threading.Event()
client._store.writer.on_commit.append(written.set)
with client.tracer.span("outer") as outer, client.tracer.span("inner") as inner:
    while not (outer.is_written and inner.is_written):
        assert written.wait(30)
        written.clear()
    print("written", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-W", "error", "-c", script, client.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        os.kill(process.pid, signal.SIGKILL)
    assert table(client, "SELECT name, duration_ns FROM span_records ORDER BY name") == [
        ("inner", None),
        ("outer", None),
    ]


def test_the_root_span_is_stored_with_its_job(client: Client) -> None:
    """When submit returns, the root span is in the file with its end, whatever becomes of the submitting process."""
    script = """
import os, signal, sys
from tilebox_local import Client, Task
class Nothing(Task):
    pass
client = Client(sys.argv[1])
client.jobs().submit("job", Nothing())
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", script, client.path], check=False, timeout=60)
    assert result.returncode == -signal.SIGKILL
    assert table(client, "SELECT name, duration_ms > 0 FROM spans") == [("job/job", 1)]


def test_spans_below_spans_of_others_stay_in_their_job(client: Client) -> None:
    """Below spans of OpenTelemetry's SDK inside a task, a span belongs to the job of the task without a look-up."""
    provider = TracerProvider()

    class Inner(Task):
        def execute(self, context: ExecutionContext) -> None:
            pass

    def body(context: ExecutionContext) -> None:
        client.jobs().submit("inner", Inner())  # shares the trace
        with provider.get_tracer("sdk").start_as_current_span("theirs"), context.tracer.span("mine"):
            pass

    statements: list[str] = []

    def trace(_cursor: Any, statement: str, _bindings: Any) -> bool:
        statements.append(statement)
        return True

    client._store.transact(lambda connection: connection.set_exec_trace(trace))
    job = run_in_task(client, body)
    client._store.transact(lambda connection: connection.set_exec_trace(None))
    assert [span.name for span in client.jobs().query_spans(job)] == ["job/job", "task/Body", "mine"]
    assert sql["find_trace"] not in statements  # it may have to scan the trace


@pytest.mark.parametrize("context", ["text", 5])
def test_a_context_that_is_none(context: Any, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """What is no OpenTelemetry context is ignored with a warning."""
    caplog.set_level(logging.WARNING, "tilebox.workflows.internal")
    with client.tracer.span("outer"), client.tracer.span("span", context=context):
        client.tracer_provider.get_tracer("tests").start_span("other", context=context).end()
    assert table(client, "SELECT name, parent_span_id IS NULL FROM spans ORDER BY start_ns") == [
        ("outer", 1),
        ("span", 0),
        ("other", 0),
    ]
    warning = f"{type(context).__name__} is no OpenTelemetry context; the current one is taken."
    assert [record.getMessage() for record in caplog.records] == [warning] * 2


def test_a_limit_that_is_no_number() -> None:
    """A limit in the environment that is no number is as good as none."""
    script = "from tilebox_local.observability import span; print(span.ATTRIBUTE_LIMIT, span.EVENT_LIMIT)"
    env = {**os.environ, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "²", "OTEL_SPAN_EVENT_COUNT_LIMIT": "x"}
    result = subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True)
    assert result.stdout == "128 128\n"


def test_what_is_over_the_limits_is_counted(client: Client) -> None:
    """The counts of dropped attributes, events and links are stored beside what was kept."""
    with client.tracer.span("span") as span:
        for number in range(130):
            span.set_attribute(str(number), number)
            span.add_event("event", timestamp=number)
            span.add_link(otel.SpanContext(1, number + 1, is_remote=False))
            span.add_link(otel.SpanContext(1, number + 1, is_remote=False))
    query = """
      SELECT dropped_attributes_count, dropped_events_count, dropped_links_count, json_array_length(links),
        (SELECT count(*) FROM json_each(attributes)), (SELECT count(*) FROM event_records)
      FROM span_records"""
    assert table(client, query) == [(2, 2, 132, 128, 128, 128)]


def test_versions_of_scopes(client: Client) -> None:
    """Two versions of a library are two scopes."""
    for version in ("1.0", "2.0", None, "1.0"):
        client.tracer_provider.get_tracer("library", version).start_span(str(version)).end()
    query = (
        "SELECT s.name, c.name, c.version FROM span_records s JOIN scope_records c USING (scope_no) ORDER BY start_ns"
    )
    assert table(client, query) == [
        ("1.0", "library", "1.0"),
        ("2.0", "library", "2.0"),
        ("None", "library", ""),
        ("1.0", "library", "1.0"),
    ]
