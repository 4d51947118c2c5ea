"""Spans that take the fast way through `with` (children of ours, in a trace that is stored) are like all others."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.trace import StatusCode
from trace_support import table

from tilebox_local.observability.span import ConfiguredSpan, CurrentSpan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilebox_local import Client


class FastTracer:
    """Spans as `tracer.span(name)` makes them."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def span(self, name: Any) -> Any:
        """A span that enters and ends in the fast way."""
        span = self.client.tracer.span(name)
        assert type(span) is CurrentSpan
        return span


class SlowTracer(FastTracer):
    """Spans as if an option had been given that changes nothing: they take the ways that all spans can take."""

    def span(self, name: Any) -> Any:
        """A span that enters by start(), and whose row the writer makes."""
        span = ConfiguredSpan(self.client._store.writer.queue, self.client._resource, name)
        span.has_details = True
        return span


class NoText:
    """No text can be had of it."""

    def __str__(self) -> str:
        raise RuntimeError("__str__")

    __repr__ = __str__


# Each scenario runs inside a span of a stored trace. What it returns, and what is stored, must be the same either way.


def nesting(tracer: Any) -> Any:
    with tracer.span("a") as a:
        a.set_attribute("n", 1)
        with tracer.span("b") as b, tracer.span("c"):
            b.set_attributes({"x": "é", "y": True, "z": [1, 2.5, None]})
        with tracer.span("d"):
            return otel.get_current_span() is a, a.get_span_context().trace_flags


def task_ids(tracer: Any) -> None:
    with tracer.span("a") as a:
        a.set_attribute("task_id", "mine")
        with tracer.span("b"), tracer.span("c") as c:
            c.set_attribute("task_id", 5)
            with tracer.span("d"):
                pass


def errors(tracer: Any) -> None:
    for error in (ValueError("no"), KeyError("k"), StopIteration(), SystemExit(1), GeneratorExit(), NoTextError()):
        with suppress(BaseException), tracer.span(type(error).__name__):
            raise error
    with tracer.span("ok"), suppress(ValueError), tracer.span("status first") as span:
        span.set_status(StatusCode.OK)
        raise ValueError("no")


class NoTextError(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("__str__")


def end_inside(tracer: Any) -> Any:
    with tracer.span("a") as a:
        a.end()
        a.set_attribute("late", 1)
        a.add_event("late")
        with tracer.span("below"):
            pass
    with suppress(ValueError), tracer.span("b") as b:
        b.end(b.start_ns + 5)
        raise ValueError("late")
    return a.is_recording(), b.duration_ns


def names(tracer: Any) -> None:
    for name in (5, 2.5, None, b"x", NoText(), "\ud800", "\x00", "", "x" * 100_000):
        with tracer.span(name):
            pass
        with tracer.span("before") as span:
            span.update_name(name)
    with tracer.span("before") as span:
        span.update_name("after")
        span.end()
        span.update_name("late")


def odd_attributes(tracer: Any) -> None:
    values = ["\ud800", 2**63, -(2**63) - 1, 2**63 - 1, float("nan"), b"\xff", "x" * 70_000, {1: 2}, NoText(), None, {}]
    for number, value in enumerate(values):
        with tracer.span(f"value {number}") as span:
            span.set_attribute("value", value)
    for number, key in enumerate([5, None, "\ud800", NoText(), [], "x" * 70_000]):
        with tracer.span(f"key {number}") as span:
            span.set_attribute(key, 1)
    with tracer.span("many") as span:
        for number in range(130):
            span.set_attribute(str(number), number)


def wrong_calls(tracer: Any) -> None:
    with tracer.span("a") as a:
        a.set_status(5)
        a.set_status(None)
        a.record_exception("no exception")
        a.record_exception(ValueError("no"), attributes=5)
        a.set_attributes(None)
        a.add_event("event", 5)
    a.set_attribute(NoText(), 1)
    a.update_name(NoText())


def other_values_in_the_context(tracer: Any) -> Any:
    seen = []
    token = otel_context.attach(baggage.set_baggage("who", "outside"))
    with tracer.span("a"):
        seen.append(dict(baggage.get_all()))
        otel_context.attach(baggage.set_baggage("who", "inside"))  # and nobody detaches it
        with tracer.span("b"):
            seen.append(dict(baggage.get_all()))
            otel_context.attach(baggage.clear())
        seen.append(dict(baggage.get_all()))
    seen.append(dict(baggage.get_all()))
    otel_context.detach(token)
    return [*seen, dict(baggage.get_all())]


def left_in_another_order(tracer: Any) -> Any:
    outer = otel.get_current_span()
    one, two = tracer.span("one"), tracer.span("two")
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    seen = [otel.get_current_span() is outer]
    two.__exit__(None, None, None)
    seen.append(otel.get_current_span() is one)  # as with OpenTelemetry's SDK: what was current at its start
    otel_context.attach(otel.set_span_in_context(outer))
    return seen


def left_twice(tracer: Any) -> Any:
    outer = otel.get_current_span()
    span = tracer.span("span")
    with span:
        span.__exit__(None, None, None)
    return otel.get_current_span() is outer


def used_twice(tracer: Any) -> Any:
    outer = otel.get_current_span()
    span = tracer.span("span")
    with span:
        pass
    start = span.start_ns
    with suppress(ValueError), span as again:
        seen = [again.is_recording(), otel.get_current_span() is again]
        with tracer.span("below"):
            again.set_attribute("n", 1)
        raise ValueError("no")
    return [*seen, span.start_ns == start, otel.get_current_span() is outer]


def left_in_another_thread(tracer: Any) -> Any:
    seen: list[Any] = []
    span = tracer.span("span")

    def leave() -> None:
        span.__exit__(None, None, None)
        seen.append(otel.get_current_span().get_span_context().is_valid)

    def enter() -> None:
        with tracer.span("outer"):
            span.__enter__()
            thread = threading.Thread(target=leave)
            thread.start()
            thread.join()
            seen.append(otel.get_current_span() is span)

    copy_context().run(enter)
    return [*seen, span.is_recording()]


def generators(tracer: Any) -> Any:
    outer = otel.get_current_span()

    def generate(name: str) -> Iterator[int]:
        with tracer.span(name), tracer.span(f"{name}, deeper"):
            yield 1
            yield 2

    elsewhere = generate("elsewhere")
    assert copy_context().run(next, elsewhere) == 1
    here = generate("here")
    seen = [next(here), otel.get_current_span() is outer]
    elsewhere.close()
    here.close()
    seen.append(otel.get_current_span() is outer)
    thrown = generate("thrown")
    next(thrown)
    with suppress(ValueError):
        thrown.throw(ValueError("no"))
    return [*seen, otel.get_current_span() is outer]


def asyncio_tasks(tracer: Any) -> Any:
    outer = otel.get_current_span()
    seen: list[Any] = []

    async def work(name: str, turns: asyncio.Barrier) -> None:
        with tracer.span(name) as span:
            await turns.wait()
            with tracer.span(f"{name}, deeper"):
                await turns.wait()
            seen.append(otel.get_current_span() is span)

    async def wait_for_ever() -> None:
        with tracer.span("canceled"):
            await asyncio.Event().wait()

    async def main() -> None:
        turns = asyncio.Barrier(3)
        async with asyncio.TaskGroup() as group:
            for name in ("x", "y", "z"):
                group.create_task(work(name, turns))
        task = asyncio.create_task(wait_for_ever())
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    return [*seen, otel.get_current_span() is outer]


def decorators(tracer: Any) -> Any:
    @tracer.span("sum")
    def add(*numbers: int, plus: int = 0) -> int:
        """Adds."""
        return numbers[0] + add(*numbers[1:], plus=plus) if numbers else plus

    @tracer.span("async")
    async def wait() -> str:
        await asyncio.sleep(0)
        return otel.get_current_span().name  # type: ignore[attr-defined,no-any-return]

    @tracer.span("fails")
    def fail() -> None:
        raise ValueError("no")

    with suppress(ValueError):
        fail()
    return add(1, 2, plus=3), add.__name__, add.__doc__, asyncio.run(wait())


def fall_back_inside(tracer: Any) -> None:
    with tracer.span("a") as a:
        a.add_event("event", {"n": 1}, timestamp=a.start_ns)
        with tracer.span("b") as b:
            b.add_link(a.get_span_context(), {"n": 2})
        with tracer.span("c") as c:
            c.set_status(StatusCode.ERROR, "why")
        with tracer.span("d") as d:
            d.record_exception(ValueError("no"), {"n": 3}, timestamp=d.start_ns)


SCENARIOS = [
    nesting,
    task_ids,
    errors,
    end_inside,
    names,
    odd_attributes,
    wrong_calls,
    other_values_in_the_context,
    left_in_another_order,
    left_twice,
    used_twice,
    left_in_another_thread,
    generators,
    asyncio_tasks,
    decorators,
    fall_back_inside,
]
STORED = """
SELECT s.name, p.name, s.status_code, s.status_message, s.attributes, s.kind, s.task_no, s.resource_no, s.scope_no,
       s.trace_state, s.duration_ns IS NULL, s.dropped_attributes_count, s.dropped_events_count,
       json_array_length(s.links), json_remove(s.links, '$[0].trace_id', '$[0].span_id'),
       (SELECT json_group_array(json_array(e.event_no, e.name, json_remove(e.attributes, '$."exception.stacktrace"')))
        FROM event_records e WHERE e.trace_no = s.trace_no AND e.span_id = s.span_id)
FROM span_records s JOIN trace_records t ON t.trace_no = s.trace_no
LEFT JOIN span_records p ON p.trace_no = s.trace_no AND p.span_id = s.parent_span_id
WHERE t.trace_id = x'{0:032x}'
"""


def run(scenario: Callable[[Any], Any], client: Client, tracer: FastTracer) -> Any:
    """What a scenario returns and stores, in a trace of its own."""
    with client.tracer.span("outer") as outer:
        with client.tracer.span("first"):
            pass
        client.flush()  # from here on, its spans may make their own rows
        before = table(client, "SELECT count(*) FROM quarantine_records")[0][0]
        returned = scenario(tracer)
        trace_id = outer.get_span_context().trace_id
    assert client._store.writer.queue.open_spans == {}
    stored = table(client, STORED.format(trace_id))
    quarantined = table(client, "SELECT kind, reason FROM quarantine_records ORDER BY quarantine_no")[before:]
    return returned, sorted(stored, key=repr), sorted(quarantined)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_both_ways_do_the_same(scenario: Callable[[Any], Any], client: Client) -> None:
    """The same code returns and stores the same, whether its spans take the fast way or the one for all spans."""
    fast = run(scenario, client, FastTracer(client))
    slow = run(scenario, client, SlowTracer(client))
    assert fast == slow
    assert len(fast[1]) > 2


def test_the_fast_way_is_taken(client: Client) -> None:
    """A child of a span of ours in a stored trace hands over its own row; one with an event goes to the writer."""
    with client.tracer.span("outer"):
        with client.tracer.span("first"):
            pass
        client.flush()
        handed: list[str] = []
        queue = client._store.writer.queue

        def look(connection: Any) -> None:  # on the writer thread: nothing is taken from the queues meanwhile
            copy_context_here.run(nesting, FastTracer(client))
            copy_context_here.run(fall_back_inside, FastTracer(client))
            handed.extend(row[5] for row in queue.span_rows)
            handed.extend(f"{span.name} as it is" for span in queue.spans)

        copy_context_here = copy_context()
        client._store.transact(look)
    assert handed == ["c", "b", "d", "a", "b as it is", "c as it is", "d as it is", "a as it is"]


def test_what_came_of_wrong_use(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """A span that is used a second time says so, keeps its first row, and what is below it is stored below it."""
    caplog.set_level(logging.WARNING, "tilebox.workflows.internal")
    _, stored, _ = run(used_twice, client, FastTracer(client))
    assert [row[:3] for row in stored] == [
        ("below", "span", 0),
        ("first", "outer", 0),
        ("outer", None, 0),
        ("span", "outer", 0),
    ]
    assert [record.message for record in caplog.records] == [
        "Span 'span' was used before; what happens in this block is not recorded.",
        "Span 'span' has ended; attribute n is ignored.",
    ]


@pytest.mark.parametrize("tracer", [FastTracer, SlowTracer])
def test_names_of_wrong_types(tracer: type[FastTracer], client: Client) -> None:
    """A name that is a number is stored as its text; one that SQLite cannot hold is quarantined with the reason."""
    _, stored, quarantined = run(names, client, tracer(client))
    texts = {"5", "2.5", "\\ud800", "\x00", "", "x" * 100_000}
    assert {row[0] for row in stored} == texts | {"after", "outer", "first"}
    assert [kind for kind, _ in quarantined] == ["span"] * 6
