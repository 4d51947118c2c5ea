"""Live spans: the OpenTelemetry span API on top of the telemetry queue.

A span costs the user's thread two clock reads, an id, an OpenTelemetry context, JSON of its attributes and an append.
As it ends it makes its own row, once its trace, resource and scope are known to be stored; else the writer thread does.
What every span has sits in slots; what few spans have (events, links, kind, a status) lives in class attributes until
it is set, and `has_details` says that it needs more columns, which the writer fills.

Time: the start is the wall clock's, the duration the monotonic clock's, so a clock step cannot make a span negative.
Spans never raise into user code because of a value they are given.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import traceback
from contextvars import ContextVar, Token
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, TypeGuard

import orjson
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.context.context import Context

from tilebox_local.ids import _getrandbits, new_span_id, new_trace_id, parse_trace_parent, signed64, unsigned64
from tilebox_local.storage.attributes import (
    MAX_TEXT_CHARS,
    capture_attributes,
    capture_value,
    encode_attributes,
    text_of,
)
from tilebox_local.storage.redaction import screen
from tilebox_local.storage.rows import OWN_SCOPE, Reference, Scope, TraceScope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from tilebox_local.storage.queue import TelemetryQueue

__all__ = [
    "NOWHERE",
    "ConfiguredSpan",
    "CurrentSpan",
    "RecordingSpan",
    "UnstoredSpan",
    "current_recording_span",
    "current_task_span",
    "is_context",
    "parent_from_context",
]

_log = logging.getLogger("tilebox.workflows.internal")

_SAMPLED = 0x01
_RANDOM_TRACE_ID = 0x02  # W3C Trace Context level 2: the trace id is random
_NEW_TRACE_FLAGS = _SAMPLED | _RANDOM_TRACE_ID
_ERROR = otel_trace.StatusCode.ERROR.value
_OK = otel_trace.StatusCode.OK.value


def _limit(variable: str, default: int) -> int:
    value = os.environ.get(variable, "")
    return int(value) if value.isdecimal() else default


ATTRIBUTE_LIMIT = _limit("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", 128)
EVENT_LIMIT = _limit("OTEL_SPAN_EVENT_COUNT_LIMIT", 128)
LINK_LIMIT = _limit("OTEL_SPAN_LINK_COUNT_LIMIT", 128)

# The key under which OpenTelemetry keeps the current span, found through its public API.
_SPAN_KEY = next(iter(otel_trace.set_span_in_context(otel_trace.INVALID_SPAN, Context())))
_get_context: Callable[[], Context] = otel_context.get_current
_attach: Callable[[Context], Token[Context]] = otel_context.attach
_detach: Callable[[Token[Context]], None] = otel_context.detach
# By default OpenTelemetry keeps its context in a ContextVar. Going to it directly saves six Python calls per span.
_variable = getattr(getattr(otel_context, "_RUNTIME_CONTEXT", None), "_current_context", None)
if isinstance(_variable, ContextVar):
    _get_context, _attach, _detach = _variable.get, _variable.set, _variable.reset
_dumps = orjson.dumps
_NOT_HERE: Any = object()  # a span that was open when this process was forked: its parent ends and stores it


def _parent_of_process() -> otel_trace.SpanContext | None:
    """The span that started this process, if it said so in TRACEPARENT (OpenTelemetry: environment as carrier).

    One that is not recorded is no reason to record nothing here.
    """
    found = parse_trace_parent(os.environ.get("TRACEPARENT", ""))
    if found is None or not found[2] & _SAMPLED:
        return None
    trace_id, span_id, flags = found
    state = otel_trace.TraceState.from_header([os.environ.get("TRACESTATE", "")])
    return otel_trace.SpanContext(
        trace_id, span_id, is_remote=True, trace_flags=otel_trace.TraceFlags(flags), trace_state=state
    )


_process_parent = _parent_of_process()
_set_item = dict.__setitem__  # Context refuses item assignment; this one is not shared yet


class RecordingSpan(otel_trace.Span):
    """A span that is written to a store when it ends, or after a while if it stays open.

    Created by `Tracer.start_span`; as a context manager it ends itself but does not become the current span.
    Attributes and events may be set by any thread until the span ends; later changes are ignored with a warning.
    """

    __slots__ = (
        "attributes",
        "duration_ns",
        "has_details",
        "monotonic_start_ns",
        "name",
        "parent_id",
        "queue",
        "resource",
        "scope",
        "span_id",
        "start_ns",
        "task_no",
    )

    status_code = 0
    is_written = False  # set by the writer once the span is in the file as open
    otlp_kind = 1
    status_message: str | None = None
    instrumentation = OWN_SCOPE  # the library that makes it
    events: list[tuple[str, int, dict[str, Any] | None]] | None = None
    links: tuple[tuple[otel_trace.SpanContext, dict[str, Any] | None], ...] = ()
    dropped_attributes = 0
    dropped_events = 0
    dropped_links = 0
    records_exception = True
    sets_status_on_exception = True

    scope: TraceScope
    span_id: int  # 63 bits
    parent_id: int | None  # signed
    start_ns: int
    monotonic_start_ns: int
    task_no: int | None

    def __init__(self, queue: TelemetryQueue, resource: Reference, name: str) -> None:
        self.queue = queue
        self.resource = resource
        self.name = name
        self.attributes: dict[str, Any] | None = None
        self.duration_ns: int | None = None
        self.has_details = False

    # -- life ---------------------------------------------------------------------------------------------------

    def describe(
        self,
        kind: otel_trace.SpanKind,
        attributes: Mapping[str, Any] | None,
        links: Sequence[otel_trace.Link] | None,
        instrumentation: Scope,
    ) -> None:
        """Set what a caller may give at the start."""
        if kind is not otel_trace.SpanKind.INTERNAL and isinstance(kind, otel_trace.SpanKind):
            self.otlp_kind = kind.value + 1
            self.has_details = True
        if attributes:
            self.set_attributes(attributes)
        if links is not None:
            for link in _as_links(links):
                self.add_link(link.context, link.attributes)
        if instrumentation is not OWN_SCOPE:
            self.instrumentation = instrumentation

    def start(
        self, parent: otel_trace.Span | None, of_task: otel_trace.Span | None, start_time: int | None = None
    ) -> None:
        """Take the place below `parent` (None: a new trace), read the clocks, and show up as open.

        The span belongs to the task of `of_task`: the current span for a workflow tracer, as in the official package.
        """
        self.span_id = new_span_id()
        parent, of_task = self._stored_above(parent), self._stored_above(of_task)
        if isinstance(parent, RecordingSpan) and parent.queue is self.queue:
            self.scope = parent.scope
            self.parent_id = parent.span_id
        else:
            self._follow_context(None if parent is None else parent.get_span_context())
        if self.scope.trace_state is not None:
            self.has_details = True
        self._join_task_of(of_task)
        self._begin(start_time)

    def _stored_above(self, span: otel_trace.Span | None) -> otel_trace.Span | None:
        """`span`, or the span that it stands below in the store, if itself is not stored."""
        return span.stored if isinstance(span, UnstoredSpan) and span.stored is not None else span

    def _begin(self, start_time: int | None) -> None:
        start_time = _as_instant(start_time)
        self.start_ns = time_ns() if start_time is None else start_time
        self.monotonic_start_ns = perf_counter_ns()
        if start_time is not None:
            # Only the wall clock knows how long ago it was.
            self.monotonic_start_ns -= max(0, time_ns() - start_time)
        queue = self.queue
        queue.open_spans[self] = None
        if queue.idle:
            queue.attend()

    def _follow_context(self, parent: otel_trace.SpanContext | None) -> None:
        if parent is None or not parent.is_valid:
            parent = _process_parent
        if parent is None:
            self.scope = TraceScope(new_trace_id(), _NEW_TRACE_FLAGS)
            self.parent_id = None
            return
        self.parent_id = signed64(parent.span_id)
        trace_state = parent.trace_state.to_header() if parent.trace_state else None
        task_span = current_task_span.get()
        if task_span is not None and task_span.queue is self.queue:
            scope = task_span.scope
            if (scope.trace_id, scope.flags, scope.trace_state) == (parent.trace_id, parent.trace_flags, trace_state):
                self.scope = scope  # spans of others between the task's span and this one do not lead out of the job
                return
        self.scope = TraceScope(
            parent.trace_id, int(parent.trace_flags), parent_span_id=self.parent_id, trace_state=trace_state
        )

    def _join_task_of(self, span: otel_trace.Span | None) -> None:
        """Take over the task of another span, and its attribute task_id if code set one."""
        self.task_no = span.task_no if isinstance(span, RecordingSpan) and span.queue is self.queue else None
        # A span of OpenTelemetry's SDK shows its attributes, too.
        attributes = getattr(span, "attributes", None)
        try:
            inherited = attributes.get("task_id") if attributes else None
        except Exception:  # noqa: BLE001 -- telemetry must not raise
            return
        if type(inherited) is str:
            self.set_attribute("task_id", inherited)

    def end(self, end_time: int | None = None) -> None:
        """Fix the duration and hand the span over. Only the first call counts.

        `end_time` is an integer UTC instant in ns; by default the end is now.
        """
        if self.duration_ns is not None:
            _log.warning("Span %r was ended twice.", self.name)
            return
        try:
            end_time = _as_instant(end_time)
            if end_time is None:
                self.duration_ns = perf_counter_ns() - self.monotonic_start_ns
            else:
                self.duration_ns = max(0, end_time - self.start_ns)
            if self.queue.open_spans.pop(self, _NOT_HERE) is not _NOT_HERE:
                self.queue.append_span(self)
        except BaseException:
            self._end_interrupted(is_ending=True)
            raise

    def _end_interrupted(self, *, is_ending: bool) -> None:
        """Ctrl-C came on the way to the end, which nobody will try again. `is_ending`: it may be ended already."""
        is_open = self.queue.open_spans.pop(self, _NOT_HERE) is not _NOT_HERE
        if self.duration_ns is None:
            self.duration_ns = perf_counter_ns() - self.monotonic_start_ns
        if is_open or is_ending:
            self.queue.append_span(self)  # delivered twice, it is stored once

    def stop(self) -> None:
        """Fix the duration without handing the span over: the caller writes it, in a transaction of its own."""
        self.duration_ns = perf_counter_ns() - self.monotonic_start_ns
        self.queue.open_spans.pop(self, None)

    def resume(self) -> None:
        """That transaction failed: the span goes on."""
        self.duration_ns = None
        self.queue.open_spans[self] = None

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if exc_val is not None:
            self.fail(exc_val, record=self.records_exception, set_status=self.sets_status_on_exception, escaped=True)
        if self.duration_ns is None:
            self.end()

    # -- OpenTelemetry's span API ---------------------------------------------------------------------------------

    def get_span_context(self) -> otel_trace.SpanContext:
        """Ids of this span, for propagation."""
        scope = self.scope
        return otel_trace.SpanContext(
            scope.trace_id,
            unsigned64(self.span_id),
            is_remote=False,
            trace_flags=otel_trace.TraceFlags(scope.flags),
            trace_state=otel_trace.TraceState.from_header([scope.trace_state]) if scope.trace_state else None,
        )

    def is_recording(self) -> bool:
        """Whether the span has not ended."""
        return self.duration_ns is None

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute. Any value is stored: what is no string, number, boolean or sequence, as its text.

        A key that is set again moves to the end. The oldest of more than 128 attributes is dropped and counted.
        """
        if self.duration_ns is not None:
            self._warn_ended("attribute", key)
            return
        if type(key) is not str:
            key = text_of(key)
        kind = type(value)
        if not (
            kind is str or kind is bool or (kind is int and -0x8000_0000_0000_0000 <= value <= 0x7FFF_FFFF_FFFF_FFFF)
        ):
            value = capture_value(value)
        attributes = self.attributes
        if attributes is None:
            if ATTRIBUTE_LIMIT:
                self.attributes = {key: value}
            else:
                self._drop_oldest_attribute({})
            return
        if key in attributes:
            attributes.pop(key, None)  # not del: another thread may have done the same
        elif len(attributes) >= ATTRIBUTE_LIMIT:
            self._drop_oldest_attribute(attributes)
        attributes[key] = value

    def _drop_oldest_attribute(self, attributes: dict[str, Any]) -> None:
        with contextlib.suppress(RuntimeError, StopIteration):  # another thread changes them
            attributes.pop(next(iter(attributes)), None)
        self.dropped_attributes += 1
        self.has_details = True

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes."""
        try:
            items: Iterable[tuple[str, Any]] = attributes.items()
            if type(attributes) is not dict:
                items = list(items)
        except Exception:  # noqa: BLE001 -- telemetry must not raise
            items = [("$invalid", attributes)]
        for key, value in items:
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        """Add an event at `timestamp` (integer UTC ns, default now). The oldest of more than 128 is dropped."""
        if self.duration_ns is not None:
            self._warn_ended("event", name)
            return
        if self.events is None:
            self.events = []
        self.has_details = True
        self.events.append((name, time_ns() if timestamp is None else timestamp, capture_attributes(attributes)))
        if len(self.events) > EVENT_LIMIT:
            del self.events[0]
            self.dropped_events += 1

    def add_link(self, context: otel_trace.SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        """Link another span, of this or another trace. The oldest of more than 128 is dropped."""
        if self.duration_ns is not None:
            self._warn_ended("link", "")
            return
        if not _is_span_context(context):
            _log.warning("Span %r: %s is no span context, the link is ignored.", self.name, type(context).__name__)
            return
        links = (*self.links, (context, capture_attributes(attributes)))
        self.links = links[-LINK_LIMIT:] if LINK_LIMIT else ()
        self.dropped_links += len(links) - len(self.links)
        self.has_details = True

    def update_name(self, name: str) -> None:
        """Change the name."""
        if self.duration_ns is not None:
            self._warn_ended("name", name)
            return
        self.name = name

    def set_status(self, status: otel_trace.Status | otel_trace.StatusCode, description: str | None = None) -> None:
        """Set the status. OK is final, and UNSET is ignored (OpenTelemetry specification, Set Status)."""
        if self.duration_ns is not None:
            self._warn_ended("status", "")
            return
        if isinstance(status, otel_trace.Status):
            code, description = status.status_code.value, status.description
        elif _is_status_code(status):
            code = status.value
        else:
            _log.warning("Span %r: %s is no status, it is ignored.", self.name, type(status).__name__)
            return
        if self.status_code == _OK or code == 0:
            return
        self.status_code = code
        self.status_message = description if code == _ERROR else None
        self.has_details = True

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an event `exception` with type, message and stack (OpenTelemetry semantic conventions)."""
        kind = type(exception)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        try:
            message = str(exception)
        except Exception as error:  # noqa: BLE001 -- an exception that cannot be shown is still an exception
            message = f"<unprintable {kind.__name__}: {type(error).__name__}>"
        try:
            stack = "".join(traceback.format_exception(exception))
        except Exception:  # noqa: BLE001
            stack = "".join(traceback.format_tb(getattr(exception, "__traceback__", None)))
        self.add_event(
            "exception",
            {
                "exception.type": f"{module}{kind.__qualname__}",
                "exception.message": message,
                "exception.stacktrace": stack,
                "exception.escaped": str(escaped),
                **(capture_attributes(attributes) or {}),
            },
            timestamp,
        )

    def fail(
        self, error: BaseException, *, record: bool = True, set_status: bool = True, escaped: bool = False
    ) -> None:
        """Record an exception that leaves the span's block. Does nothing for interrupts, nor after the end."""
        if not isinstance(error, Exception) or self.duration_ns is not None:
            return
        if record:
            self.record_exception(error, escaped=escaped)
        if set_status:
            try:
                text = f"{type(error).__name__}: {error}"
            except Exception:  # noqa: BLE001
                text = type(error).__name__
            self.set_status(otel_trace.StatusCode.ERROR, text)

    def move_to_trace(self, trace_no: int | None) -> None:
        """Become the root span of a job: belong to its part of the trace, also where the trace began elsewhere.

        None: there is no such job after all.
        """
        scope = self.scope
        self.scope = TraceScope(scope.trace_id, scope.flags, trace_no=trace_no, trace_state=scope.trace_state)

    def encoded_links(self) -> str | None:
        """JSON text of the links; None for none."""
        if not self.links:
            return None
        return orjson.dumps(
            [
                {
                    "trace_id": f"{context.trace_id:032x}",
                    "span_id": f"{context.span_id:016x}",
                    # A fragment keeps the repairs that the encoder of attributes makes.
                    "attributes": orjson.Fragment(encode_attributes(attributes) or "{}"),
                }
                for context, attributes in self.links
            ]
        ).decode()

    def _warn_ended(self, what: str, name: object) -> None:
        _log.warning("Span %r has ended; %s %s is ignored.", self.name, what, text_of(name))


class CurrentSpan(RecordingSpan):
    """A span that starts and becomes the current one at `with`, and ends with the block.

    An exception that leaves the block is recorded and sets the status to ERROR.
    """

    __slots__ = ("_token",)

    _token: Token[Context]
    default_parent: otel_trace.Span | None = None  # above it where no span is current, as in a thread of a task

    def __enter__(self) -> otel_trace.Span:
        context = _get_context()
        try:
            parent: Any = context.get(_SPAN_KEY)
            queue = self.queue
            if type(parent) is not CurrentSpan or parent.queue is not queue or self.duration_ns is not None:
                if parent is None:
                    parent = self.default_parent
                return self._enter_below(parent, parent, context)
            # The fast way: all of start() for a child of one of our own spans.
            self.span_id = _getrandbits(63) or 1
            self.scope = scope = parent.scope
            if scope.trace_state is not None:
                self.has_details = True
            self.parent_id = parent.span_id
            self.task_no = parent.task_no
            inherited = parent.attributes
            if inherited is not None and "task_id" in inherited:
                self._join_task_of(parent)
            own = Context() if len(context) == 1 else Context(context)
            _set_item(own, _SPAN_KEY, self)
            self._token = _attach(own)
            self.start_ns = time_ns()
            self.monotonic_start_ns = perf_counter_ns()
            queue.open_spans[self] = None
            if queue.idle:
                queue.attend()
        except BaseException:
            self._take_back(context)
            raise
        return self

    def _enter_below(
        self,
        parent: otel_trace.Span | None,
        of_task: otel_trace.Span | None,
        context: Context,
        start_time: int | None = None,
    ) -> otel_trace.Span:
        if self.duration_ns is not None:
            _log.warning("Span %r was used before; what happens in this block is not recorded.", self.name)
            self._enter(context)
            return self
        if is_unsampled(parent):
            self.duration_ns = 0  # as if it had ended: it records nothing
            span = unsampled_child(parent)
            self._token = _attach(otel_trace.set_span_in_context(span, context))
            return span
        try:
            self.start(parent, of_task, start_time)
            self._enter(context)
        except BaseException:
            self._take_back(context)
            raise
        return self

    def _take_back(self, context: Context) -> None:
        """Ctrl-C came on the way into the block, which will not be left then: there was no span."""
        _attach(context)
        self.queue.open_spans.pop(self, None)

    def enter_task(self, scope: TraceScope, root_span_id: int, task_no: int) -> None:
        """Instead of `with`: become the current span, as the span of a task below the root span of its job."""
        self._enter(_get_context())
        self.span_id = new_span_id()
        self.scope = scope
        self.parent_id = signed64(root_span_id)
        self.task_no = task_no
        self._begin(None)

    def _enter(self, context: Context) -> None:
        own = Context(context)
        _set_item(own, _SPAN_KEY, self)
        self._token = _attach(own)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        is_ending = False
        try:
            try:
                _detach(self._token)
                del self._token  # it holds the outer context, which must not live until the span is written
            except (AttributeError, RuntimeError, ValueError):
                self._left_elsewhere()
            if exc_val is not None:
                self.fail(exc_val, record=self.records_exception, set_status=self.sets_status_on_exception)
            if self.duration_ns is None:
                # end() without its calls: this is what every span does.
                duration_ns = self.duration_ns = perf_counter_ns() - self.monotonic_start_ns
                queue = self.queue
                is_ending = True
                if queue.open_spans.pop(self, _NOT_HERE) is _NOT_HERE:
                    return
                trace_no = self.scope.committed_no
                resource_no = self.resource.committed_no
                scope_no = self.instrumentation.committed_no
                text = None
                if trace_no is None or resource_no is None or scope_no is None or self.has_details:
                    queue.append_span(self)
                    return
                attributes = self.attributes
                if attributes:
                    try:
                        encoded = _dumps(attributes)
                    except TypeError:  # has to be repaired
                        queue.append_span(self)
                        return
                    is_long = len(encoded) > MAX_TEXT_CHARS
                    if is_long or not (screen.knows(attributes) or screen.learn_keys(attributes)):
                        queue.append_span(self)
                        return
                    text = encoded.decode()
                span_rows = queue.span_rows
                span_rows.append(
                    (
                        trace_no,
                        self.start_ns,
                        self.span_id,
                        self.parent_id,
                        duration_ns,
                        self.name,
                        self.task_no,
                        resource_no,
                        scope_no,
                        text,
                    )
                )
                if queue.idle or len(span_rows) > queue.attention:
                    queue.attend(span_rows)
        except BaseException:
            with contextlib.suppress(AttributeError, RuntimeError, ValueError):
                _detach(self._token)
            self._end_interrupted(is_ending=is_ending)
            raise

    def _left_elsewhere(self) -> None:
        """The context cannot be restored: it is another one, as generators can have it, or the block was left twice."""
        _log.debug("Span %r ended in another context than it started in.", self.name)
        with contextlib.suppress(AttributeError):
            del self._token

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As a decorator: each call of `function` runs in a span like this one."""

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def async_wrapper(*args: Any, **kwargs: Any) -> Any:
                with self._again():
                    return await function(*args, **kwargs)

            return async_wrapper

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        return wrapper

    def _again(self) -> CurrentSpan:
        span = type(self)(self.queue, self.resource, self.name)
        span.attributes = None if self.attributes is None else dict(self.attributes)
        span.has_details = self.has_details
        span.__dict__.update(self.__dict__)
        return span


class ConfiguredSpan(CurrentSpan):
    """A current span with what `start_as_current_span` may be given besides a name."""

    __slots__ = ()

    parent_context: Context | None = None
    start_time: int | None = None
    ends_on_exit = True
    has_task_of_parent = False  # instead of the task of the current span

    def __enter__(self) -> otel_trace.Span:
        context = _get_context()
        current: Any = context.get(_SPAN_KEY) or self.default_parent
        parent: Any = current if self.parent_context is None else self.parent_context.get(_SPAN_KEY)
        return self._enter_below(parent, parent if self.has_task_of_parent else current, context, self.start_time)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if self.ends_on_exit:
            super().__exit__(exc_type, exc_val, exc_tb)
            return
        try:
            _detach(self._token)
            del self._token
        except (AttributeError, RuntimeError, ValueError):
            self._left_elsewhere()
        if exc_val is not None:
            self.fail(exc_val, record=self.records_exception, set_status=self.sets_status_on_exception)


class _Nowhere:
    """In place of a queue: takes spans and forgets them."""

    class _NoSpans(dict[RecordingSpan, None]):
        def __setitem__(self, span: RecordingSpan, value: None) -> None:
            pass

    def __init__(self) -> None:
        self.idle = False
        self.open_spans = self._NoSpans()
        self.task_ids: dict[int, str] = {}

    def append_span(self, span: RecordingSpan) -> None:
        """Forget an ended span."""


NOWHERE: Any = _Nowhere()


class UnstoredSpan(ConfiguredSpan):
    """A span that lives, nests and is propagated like others, but is stored nowhere.

    `stored` is the nearest span above that is stored: what is recorded inside, by others, belongs to that.
    """

    stored: RecordingSpan | None = None

    def __init__(self, name: str) -> None:
        super().__init__(NOWHERE, Reference(""), name)

    def start(
        self, parent: otel_trace.Span | None, of_task: otel_trace.Span | None, start_time: int | None = None
    ) -> None:
        """As of other spans."""
        super().start(parent, of_task, start_time)
        self.stored = parent.stored if isinstance(parent, UnstoredSpan) else _as_recording(parent)

    def _stored_above(self, span: otel_trace.Span | None) -> otel_trace.Span | None:
        return span

    def _join_task_of(self, span: otel_trace.Span | None) -> None:
        if isinstance(span, RecordingSpan) and span.task_no is not None:
            self.set_attribute("task_id", span.queue.task_ids.get(span.task_no))
        super()._join_task_of(span)


def _as_recording(span: object) -> RecordingSpan | None:
    return span if isinstance(span, RecordingSpan) else None


# The span of the task that runs in this context; set by the executor.
current_task_span: ContextVar[CurrentSpan | None] = ContextVar("tilebox-local-task-span", default=None)


def _as_instant(value: Any) -> int | None:
    """An instant that a caller gave, None for what is no number."""
    if value is None or type(value) is int:
        return value
    try:
        return int(value)
    except Exception:  # noqa: BLE001 -- telemetry must not raise
        _log.warning("%s is no time in nanoseconds; the current time is taken.", type(value).__name__)
        return None


def _is_span_context(value: object) -> bool:
    return isinstance(value, otel_trace.SpanContext)


def _is_status_code(value: object) -> bool:
    return isinstance(value, otel_trace.StatusCode)


def _as_links(links: Any) -> list[otel_trace.Link]:
    try:
        return [link for link in links or () if isinstance(link, otel_trace.Link)]
    except Exception:  # noqa: BLE001 -- telemetry must not raise
        return []


def is_unsampled(parent: otel_trace.Span | None) -> bool:
    """Whether the trace decided not to be recorded: a valid parent without the sampled flag."""
    if parent is None or isinstance(parent, RecordingSpan):
        return parent is not None and not parent.scope.flags & _SAMPLED
    context = parent.get_span_context()
    return context.is_valid and not context.trace_flags & _SAMPLED


def unsampled_child(parent: otel_trace.Span | None) -> otel_trace.Span:
    """A span that records nothing but passes the trace on."""
    context = (parent or otel_trace.INVALID_SPAN).get_span_context()
    return otel_trace.NonRecordingSpan(
        otel_trace.SpanContext(context.trace_id, new_span_id(), is_remote=False, trace_flags=context.trace_flags)
    )


def parent_from_context(context: Context | None) -> otel_trace.Span | None:
    """The span that a context (None: the current one) holds; None if it holds none."""
    parent = (context if is_context(context) else _get_context()).get(_SPAN_KEY)
    return parent if isinstance(parent, otel_trace.Span) else None


def is_context(value: object) -> TypeGuard[Context]:
    """Whether a caller gave a context; what is none, and not None either, is ignored with a warning."""
    if value is not None and not isinstance(value, dict):
        _log.warning("%s is no OpenTelemetry context; the current one is taken.", type(value).__name__)
    return isinstance(value, dict)


def current_recording_span() -> RecordingSpan | None:
    """The current span if it is one of ours and still open; of one that is not stored, the stored span above it."""
    span = _get_context().get(_SPAN_KEY)
    if isinstance(span, UnstoredSpan):
        span = span.stored
    return span if isinstance(span, RecordingSpan) and span.duration_ns is None else None
