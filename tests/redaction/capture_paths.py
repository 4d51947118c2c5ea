"""A program that captures secrets in every way there is; test_redaction.py runs it in a process of its own.

Arguments: the store, and a JSON file of {path: [[text, key or null, core], ...]}. When all is
committed and the file is still open it prints what it counted, and goes on when it gets a line.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from pathlib import Path

from opentelemetry.trace import Link, Span, SpanContext, StatusCode, TraceFlags

from tilebox_local import Client, ExecutionContext, Task

PATHS = [
    "span attributes", "nested attributes", "attributes at the start", "long attributes", "cut texts", "span names",
    "status messages", "exceptions", "event attributes", "event names", "link attributes", "scopes", "quarantine",
    "log bodies", "log arguments", "log attributes", "nested log attributes", "records of other loggers",
    "logged exceptions", "progress labels", "display texts", "task failures", "exits", "job names", "diagnostics",
    "resource attributes",
]  # fmt: skip
CLIENTS: list[Client] = []
CASES: dict[str, list[tuple[str, str | None, str]]] = {}
OTHER = SpanContext(5, 6, is_remote=True, trace_flags=TraceFlags(1))


def pairs(path: str) -> list[tuple[str, str]]:
    """Attributes, each alone: secret key and bare value, or harmless key and text."""
    return [(key, core) if key else ("note", f"before {text} after") for text, key, core in CASES[path]]


def texts(path: str) -> list[str]:
    """Texts with a secret."""
    return [f"{text} after" for text, _, _ in CASES[path]]


class Work(Task):
    """A task that shows its secrets."""

    def execute(self, context: ExecutionContext) -> None:
        """All that can be captured within a task."""
        for text in texts("log bodies"):
            context.logger.info(text)
        for text in texts("log arguments"):
            context.logger.warning("stored %s", text, size=5)
        for key, value in pairs("log attributes"):
            context.logger.info("stored", **{key: value})
        for key, value in pairs("nested log attributes"):
            context.logger.info("stored", config={"inner": [{key: value}], "n": 1})
        for text in texts("records of other loggers"):
            logging.getLogger("library").error(text)
        for text in texts("logged exceptions"):
            try:
                raise RuntimeError(text)
            except RuntimeError:
                context.logger.exception("failed")
        for text in texts("progress labels"):
            context.progress(text).add(1)


class Fails(Task):
    """Fails with a secret."""

    number: int

    def execute(self, context: ExecutionContext) -> None:
        """The secret is in the exception only, also where its text is cut."""
        text = texts("task failures")[self.number]
        raise ValueError(f"{'x' * (990 - len(context.current_task.display or ''))} {text}" if self.number % 2 else text)


class Shows(Task):
    """Sets a secret as its display text."""

    number: int

    def execute(self, context: ExecutionContext) -> None:
        """Display texts may be set while the task runs."""
        context.current_task.display = texts("display texts")[self.number]


class Exits(Task):
    """Ends its runner with a secret."""

    number: int

    def execute(self, context: ExecutionContext) -> None:
        """As sys.exit with a message does, with a span that nobody will end any more."""
        CLIENTS[0].tracer_provider.get_tracer("library").start_span("left open")
        sys.exit(texts("exits")[self.number])


class Rests(Task):
    """Does nothing."""

    def execute(self, context: ExecutionContext) -> None:
        """Nothing."""


def spans(client: Client) -> None:
    """Everything that spans take."""
    tracer = client.tracer
    with tracer.span("outer") as outer:
        with tracer.span("first"):
            pass
        client.flush()  # from now on, spans make their own rows
        for key, value in pairs("span attributes"):
            with tracer.span("fast") as span:
                span.set_attribute(key, value)
        for key, value in pairs("nested attributes"):
            with tracer.span("nested") as span:
                span.set_attribute("config", {"list": [{key: value}], "n": 1})
        for text in texts("span names"):
            with tracer.span(text):
                pass
        for key, value in pairs("attributes at the start"):
            with tracer.span("detailed", attributes={key: value}, links=[Link(OTHER)]):
                pass
        details(client, outer)


def details(client: Client, outer: Span) -> None:
    """What few spans have, and what happens to spans."""
    tracer = client.tracer
    for key, value in pairs("event attributes"):
        outer.add_event("event", {key: value})
    for text in texts("event names"):
        outer.add_event(text)
    for key, value in pairs("link attributes"):
        outer.add_link(OTHER, {key: value})
    for text in texts("status messages"):
        with tracer.span("failed") as span:
            span.set_status(StatusCode.ERROR, text)
    for text in texts("exceptions"):
        with suppress(ValueError), tracer.span("raised"):
            raise ValueError(text)
    for key, value in pairs("long attributes"):
        with tracer.span("long") as span:
            span.set_attribute(key, f"{value} {'x' * 70_000}")
    for text, _, core in CASES["cut texts"]:
        before = 64 * 1024 - 15 - text.index(core)  # the cut leaves 14 characters of it
        with tracer.span("cut") as span:
            span.set_attribute("note", f"{'x' * before} {text} {'x' * 5000}")
    for key, value in pairs("quarantine"):
        span = client.tracer_provider.get_tracer("scope").start_span("poison", start_time=1 << 70)
        span.set_attributes({key: value})
        span.end()
    for text in texts("scopes"):
        client.tracer_provider.get_tracer(text).start_span("scoped").end()
    for text in texts("diagnostics"):
        with tracer.span(text) as span:
            pass
        span.set_attribute("late", 1)


def main(path: str, cases: str) -> None:
    """Capture, wait to be looked at, go."""
    CASES.update(json.loads(Path(cases).read_text()))
    logging.getLogger("tilebox.workflows.internal").addHandler(logging.StreamHandler())
    client = Client(path)
    CLIENTS.append(client)
    spans(client)
    jobs = client.jobs()
    for text in texts("job names"):
        jobs.submit(text, Rests())
    jobs.submit("work", Work())
    jobs.submit("shows", [Shows(number) for number in range(len(CASES["display texts"]))])
    for number in range(len(CASES["task failures"])):
        jobs.submit("fails", Fails(number))
    runner = client.runner(tasks=[Work, Rests, Shows, Fails])
    runner.run_all()
    for number in range(len(CASES["exits"])):
        jobs.submit("exits", Exits(number))
    exits = client.runner(tasks=[Exits])
    for _ in range(len(CASES["exits"]) * 11):  # a task that ends its runner is tried eleven times
        with suppress(SystemExit):
            exits.run_all()
    client.flush()
    stats = client.stats()
    sys.stdout.write(f"{json.dumps({'redacted': stats.redacted_count, 'quarantined': stats.quarantined_count})}\n")
    sys.stdout.flush()
    sys.stdin.readline()
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
