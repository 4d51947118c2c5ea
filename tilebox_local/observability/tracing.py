"""Tracers: `context.tracer`, and an OpenTelemetry TracerProvider for libraries that are instrumented with it.

A workflow tracer is private to its client, as in the official package: OpenTelemetry's global provider is not touched.
To store the spans of instrumented libraries too, make ours the global one:
`opentelemetry.trace.set_tracer_provider(client.tracer_provider)`, or set OTEL_PYTHON_TRACER_PROVIDER=tilebox_local.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import trace as otel_trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tilebox_local.errors import ArgumentError
from tilebox_local.observability._logging import internal_logger
from tilebox_local.observability.span import (
    NOWHERE,
    ConfiguredSpan,
    CurrentSpan,
    RecordingSpan,
    UnstoredSpan,
    is_context,
    is_unsampled,
    parent_from_context,
    unsampled_child,
)
from tilebox_local.storage.attributes import text_of
from tilebox_local.storage.rows import OWN_SCOPE, Reference, Scope

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import timedelta

    from opentelemetry.context.context import Context

    from tilebox_local.storage.queue import TelemetryQueue
    from tilebox_local.storage.writer import Writer

__all__ = [
    "LocalTracer",
    "LocalTracerProvider",
    "NoopWorkflowTracer",
    "TaskTracer",
    "WorkflowTracer",
    "configure_otel_tracing",
    "configure_otel_tracing_axiom",
    "default_tracer_provider",
    "get_trace_parent_of_current_span",
    "start_job_span",
]

_INTERNAL = otel_trace.SpanKind.INTERNAL
_propagator = TraceContextTextMapPropagator()


class Job(Protocol):
    """Anything with the trace context of a job."""

    @property
    def trace_parent(self) -> str: ...


class WorkflowTracer:
    """Makes the spans of one client. Thread-safe; spans follow the current context of each thread and asyncio task."""

    def __init__(self, queue: TelemetryQueue, resource: Reference) -> None:
        self._queue = queue
        self._resource = resource

    def span(self, name: str, *args: Any, **kwargs: Any) -> AbstractContextManager[otel_trace.Span]:
        """A span around a block: `with tracer.span("download") as span: ...`.

        It starts at `with` below the current span, becomes the current one, and ends with the block. An exception that
        leaves the block is recorded as an event and sets the status to ERROR. Inside of a task the span carries the
        task's `task_id`. Further arguments are those of OpenTelemetry's `start_as_current_span`: context, kind,
        attributes, links, start_time, record_exception, set_status_on_exception, end_on_exit.
        """
        if args or kwargs:
            return _new_span(self._queue, self._resource, name, OWN_SCOPE, *args, **kwargs)
        return CurrentSpan(self._queue, self._resource, name)

    def current_span(self) -> otel_trace.Span:
        """The current span of this thread or asyncio task; the invalid span, which records nothing, if none is."""
        return otel_trace.get_current_span()


def _new_span(
    queue: TelemetryQueue,
    resource: Reference,
    name: str,
    scope: Scope,
    context: Context | None = None,
    kind: otel_trace.SpanKind = _INTERNAL,
    attributes: Mapping[str, Any] | None = None,
    links: Sequence[otel_trace.Link] | None = None,
    start_time: int | None = None,
    record_exception: bool = True,
    set_status_on_exception: bool = True,
    end_on_exit: bool = True,
) -> CurrentSpan:
    """What `start_as_current_span` makes of its arguments. Sets only what differs: each costs a span time."""
    if queue is not NOWHERE and context is None and start_time is None and end_on_exit:
        span = CurrentSpan(queue, resource, name)
    else:
        configured = UnstoredSpan(name) if queue is NOWHERE else ConfiguredSpan(queue, resource, name)
        if is_context(context):
            configured.parent_context = context
        configured.start_time = start_time
        configured.ends_on_exit = end_on_exit
        span = configured
    span.describe(kind, attributes, links, scope)
    if not record_exception:
        span.records_exception = False
    if not set_status_on_exception:
        span.sets_status_on_exception = False
    return span


class TaskTracer(WorkflowTracer):
    """`context.tracer`: in a thread of the task that has no current span, spans stand below the span of the task.

    Threads of a pool do not inherit the context. The official tracer begins a trace of its own there, in no job.
    """

    def __init__(self, queue: TelemetryQueue, resource: Reference, task_span: otel_trace.Span) -> None:
        super().__init__(queue, resource)
        self._task_span = task_span

    def span(self, name: str, *args: Any, **kwargs: Any) -> AbstractContextManager[otel_trace.Span]:
        """A span around a block, as of any tracer, below the current span or else that of the task."""
        span = CurrentSpan(self._queue, self._resource, name)
        if args or kwargs:
            span = _new_span(self._queue, self._resource, name, OWN_SCOPE, *args, **kwargs)
        span.default_parent = self._task_span
        return span


class NoopWorkflowTracer(WorkflowTracer):
    """A tracer outside of any client, for tests: its spans nest and can be asked and propagated, but are not stored.

    Below a span of a client they continue its trace; log records inside then belong to that span.
    """

    def __init__(self, service: str | None = None) -> None:  # noqa: ARG002 -- the official signature
        super().__init__(NOWHERE, Reference(""))

    def span(self, name: str, *args: Any, **kwargs: Any) -> AbstractContextManager[otel_trace.Span]:
        """A span around a block, as of any tracer, that is forgotten when it ends."""
        return _new_span(self._queue, self._resource, name, OWN_SCOPE, *args, **kwargs)


class LocalTracer(otel_trace.Tracer):
    """OpenTelemetry's Tracer for one instrumentation scope, writing to a store."""

    def __init__(self, queue: TelemetryQueue, resource: Reference, scope: Scope) -> None:
        self._queue = queue
        self._resource = resource
        self._scope = scope

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: otel_trace.SpanKind = _INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[otel_trace.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> otel_trace.Span:
        """Start a span below that of `context` (default: the current one) without making it the current span."""
        parent = parent_from_context(context)
        if is_unsampled(parent):
            return unsampled_child(parent)
        span = RecordingSpan(self._queue, self._resource, name)
        span.describe(kind, attributes, links, self._scope)
        if not record_exception or not set_status_on_exception:
            span.records_exception, span.sets_status_on_exception = record_exception, set_status_on_exception
        span.start(parent, parent, start_time)
        return span

    def start_as_current_span(  # type: ignore[override]
        self,
        name: str,
        context: Context | None = None,
        kind: otel_trace.SpanKind = _INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[otel_trace.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> AbstractContextManager[otel_trace.Span]:
        """A span around a block, as `WorkflowTracer.span`."""
        span = _new_span(
            self._queue,
            self._resource,
            name,
            self._scope,
            context,
            kind,
            attributes,
            links,
            start_time,
            record_exception,
            set_status_on_exception,
            end_on_exit,
        )
        if type(span) is ConfiguredSpan:
            span.has_task_of_parent = True
        return span


class LocalTracerProvider(otel_trace.TracerProvider):
    """OpenTelemetry's TracerProvider on top of a store."""

    def __init__(self, writer: Writer, resource: Reference) -> None:
        self._writer = writer
        self._resource = resource

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,  # noqa: ARG002
        attributes: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> otel_trace.Tracer:
        """A tracer whose spans carry the module's name and version as scope."""
        scope = Scope(text_of(instrumenting_module_name or "unknown"), text_of(instrumenting_library_version or ""))
        return LocalTracer(self._writer.queue, self._resource, scope)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until all ended spans are committed. Never raises; thread-safe.

        Args:
            timeout_millis: How long to wait, in milliseconds.

        Returns:
            False if it took longer, or if the store cannot be written; the reason is logged, the spans stay queued.
        """
        try:
            self._writer.flush(timeout_millis / 1000)
        except Exception as error:  # noqa: BLE001 -- telemetry must not raise
            internal_logger.error("Spans are not flushed: %s", error)
            return False
        return True

    def shutdown(self) -> None:
        """Flush, for at most 30 seconds. Never raises. The store is closed by its client."""
        self.force_flush()


def default_tracer_provider() -> LocalTracerProvider:
    """Provider on the default store; what OTEL_PYTHON_TRACER_PROVIDER=tilebox_local loads."""
    from tilebox_local.client import Client

    return Client().tracer_provider


@contextmanager
def start_job_span(tracer: WorkflowTracer, job: Job, span_name: str) -> Iterator[otel_trace.Span]:
    """A span below the root span of a job, whatever the current span is."""
    context = _propagator.extract({"traceparent": job.trace_parent})
    with tracer.span(span_name, context=context) as span:
        yield span


def get_trace_parent_of_current_span() -> str:
    """W3C traceparent of the current span. Raises ArgumentError if there is none."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    if "traceparent" not in carrier:
        raise ArgumentError("There is no current span, hence no traceparent.")
    return carrier["traceparent"]


_NOT_YET = (
    "Forwarding to another backend is not available in this version of tilebox-local. Spans and logs are stored in the "
    "local file; read them from there, or use the official package to send them to {0}."
)


def configure_otel_tracing(
    service: Any = None,
    endpoint: str | None = None,
    headers: dict[str, str] | None = None,
    export_interval: timedelta | None = None,
) -> None:
    """Not available yet: raises NotImplementedError."""
    raise NotImplementedError(_NOT_YET.format(endpoint or "OpenTelemetry"))


def configure_otel_tracing_axiom(service: Any = None, dataset: str | None = None, api_key: str | None = None) -> None:
    """Not available yet: raises NotImplementedError."""
    raise NotImplementedError(_NOT_YET.format("Axiom"))
