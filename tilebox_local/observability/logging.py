"""Log records into the store, and the console.

One handler on the root logger takes records of two kinds: all of the logger tree `tilebox.workflows`, as the official
package does, and those of any other logger that are emitted while a task runs. A record belongs to the store of the
span that is current; outside of spans, to the store of the runner that was created first.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TextIO
from uuid import uuid4

from tilebox_local.formatting.text import visible
from tilebox_local.observability._logging import (
    ATTRIBUTES,
    NAMESPACE,
    SPAN,
    TIME_NS,
    StructuredLogger,
    internal_logger,
    root_logger,
    task_logger,
)
from tilebox_local.observability.span import RecordingSpan, current_recording_span
from tilebox_local.storage.attributes import capture_attributes, clean_text, text_of
from tilebox_local.storage.redaction import redact_output
from tilebox_local.storage.rows import LogItem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

    from tilebox_local.storage.queue import TelemetryQueue
    from tilebox_local.storage.rows import Reference

__all__ = [
    "ColorfulConsoleFormatter",
    "StoreHandler",
    "StructuredLogger",
    "configure_console_logging",
    "configure_log_level",
    "configure_otel_logging",
    "configure_otel_logging_axiom",
    "get_logger",
    "initialize_logging",
]

# OpenTelemetry's texts of stdlib levels, where they differ from the level names.
_SEVERITY_TEXTS = {"WARNING": "WARN", "CRITICAL": "FATAL"}


class StoreHandler(logging.Handler):
    """Takes log records of tasks to the writer of their store. Never raises; appending is all it does."""

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record, unless it is neither ours nor emitted in a task."""
        try:
            span = current_recording_span() or _span_of_task(record)
            if span is None:
                if _is_ours(record):
                    self._append_without_span(record)
            elif _is_ours(record) or span.task_no is not None:
                _append(record, span.queue, span.resource, span)
        except Exception:  # noqa: BLE001 -- telemetry must not raise; stdlib prints it if logging.raiseExceptions
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- stdlib's name
        """As of stdlib, which prints the record, but without its secrets."""
        super().handleError(logging.makeLogRecord({**vars(record), "msg": redact_output(_body(record)), "args": None}))

    def _append_without_span(self, record: logging.LogRecord) -> None:
        found = _first_runner
        queue = None if found is None else found[0]()
        if found is not None and queue is not None:
            _append(record, queue, found[1], None)


def _span_of_task(record: logging.LogRecord) -> RecordingSpan | None:
    span = getattr(record, SPAN, None)
    return span if isinstance(span, RecordingSpan) else None


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name == NAMESPACE or record.name.startswith(f"{NAMESPACE}.")


def _append(record: logging.LogRecord, queue: TelemetryQueue, resource: Reference, span: RecordingSpan | None) -> None:
    given = getattr(record, ATTRIBUTES, None)
    attributes = _normalized(given) if given else {}
    task_no = None if span is None else span.task_no
    for key in ("trace_id", "span_id"):
        attributes.pop(key, None)  # those of the span win; they are stored as such
    # The task's own id is stored as task_no; another value is the user's. A plain record of our tree shows none, as in
    # the official package, while records of other loggers, which it does not store, are ours to label.
    has_task_id = task_no is not None and not _is_ours(record)
    if task_no is not None and attributes.get("task_id") == queue.task_ids.get(task_no):
        has_task_id = attributes.pop("task_id", None) is not None
    if record.exc_info:
        attributes.update(_exception_attributes(record.exc_info))
    queue.append_log(
        LogItem(
            time_ns=_time_ns(record),
            severity_number=_severity_number(record.levelno),
            severity_text=_SEVERITY_TEXTS.get(record.levelname, record.levelname),
            body=_body(record),
            attributes=capture_attributes(attributes),
            logger=record.name,
            resource=resource,
            scope=None if span is None else span.scope,
            span_id=None if span is None else span.span_id,
            task_no=task_no,
            has_task_id=has_task_id,
            is_span_event=span is not None,
        )
    )


def _time_ns(record: logging.LogRecord) -> int:
    """When the record was made: exact for a StructuredLogger, else as near as the record itself knows."""
    given = getattr(record, TIME_NS, None)
    if type(given) is int:
        return given
    # `created` is a float in every Python (3.13 reads the clock in nanoseconds, but keeps a float), so it may be 120 ns
    # off at today's dates. `created * 1e9` would round a second time, by up to 128 ns; in two parts it does not.
    seconds = int(record.created)
    return seconds * 1_000_000_000 + round((record.created - seconds) * 1e9)


def _body(record: logging.LogRecord) -> str:
    try:
        return clean_text(record.getMessage())
    except Exception:  # noqa: BLE001 -- a message that does not fit its arguments is still a message
        return clean_text(f"{text_of(record.msg)} {text_of(record.args)}")


def _normalized(attributes: dict[str, Any]) -> dict[str, Any]:
    from tilebox_local.serialization import normalize_log_value

    return {str(key): normalize_log_value(value) for key, value in attributes.items()}


def _exception_attributes(exc_info: Any) -> dict[str, Any]:
    from tilebox_local.serialization import normalize_log_value

    kind, error, stack = exc_info if isinstance(exc_info, tuple) else sys.exc_info()
    found: dict[str, Any] = {}
    if kind is not None:
        found["exception.type"] = kind.__name__
    if error is not None and error.args:
        found["exception.message"] = normalize_log_value(error.args[0])
    if stack is not None:
        found["exception.stacktrace"] = "".join(traceback.format_exception(kind, error, stack))
    return found


def _severity_number(level: int) -> int:
    """OpenTelemetry's number: 5 for DEBUG, 9 for INFO ... 21 for CRITICAL, up to 3 more in between; 0 below DEBUG."""
    if level < logging.DEBUG:
        return 0
    group = min(level, logging.CRITICAL) // 10
    return 1 + 4 * group + min(level - 10 * group, 3)


_handler = StoreHandler()
_lock = threading.RLock()
_first_runner: tuple[weakref.ref[TelemetryQueue], Reference] | None = None
_consoles: list[logging.Handler] = []
_is_console_configured = False
_is_automatic = False  # the only console is the one that a runner has added


def _store_without_runner(record: logging.LogRecord) -> bool:
    """A filter that lets everything pass. Where no runner has added the handler, records inside spans are stored, too.

    A handler would keep the stdlib from printing records that nobody else prints.
    """
    if _handler not in logging.getLogger().handlers:
        _handler.emit(record)
    return True


def initialize_logging(queue: TelemetryQueue, resource: Reference) -> None:
    """Start to store log records, and to print them unless a console is configured. Called for every runner."""
    global _first_runner
    with _lock:
        root = logging.getLogger()
        if _handler not in root.handlers:
            root.addHandler(_handler)
        if _first_runner is None or _first_runner[0]() is None:
            _first_runner = (weakref.ref(queue), resource)
        _add_automatic_console()


def _add_automatic_console() -> None:
    global _is_automatic
    if not _is_console_configured and not _consoles:
        _add_console(logging.NOTSET, sys.stdout, _ConsoleFormatter("%(process)d: %(levelname)s: %(message)s"))
        _is_automatic = True


def _add_console(level: int, stream: TextIO, formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler(stream)
    handler.setLevel(level)
    handler.setFormatter(formatter)
    root_logger.addHandler(handler)
    _consoles.append(handler)


def _remove_consoles() -> None:
    while _consoles:
        handler = _consoles.pop()
        root_logger.removeHandler(handler)
        handler.close()


class _ConsoleFormatter(logging.Formatter):
    """Prints no secret."""

    def format(self, record: logging.LogRecord) -> str:
        """As of stdlib, with the message, the exception and the stack redacted."""
        return redact_output(super().format(record))


class ColorfulConsoleFormatter(_ConsoleFormatter):
    """Time, level and message, coloured by level with ANSI escapes."""

    COLORS: ClassVar[dict[int, str]] = {
        logging.DEBUG: "\x1b[90m",
        logging.INFO: "\x1b[92m",
        logging.WARNING: "\x1b[93m",
        logging.ERROR: "\x1b[31m",
        logging.CRITICAL: "\x1b[1;31m",
    }

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One line, or more with an exception."""
        return f"{self.COLORS.get(record.levelno, '')}{super().format(record)}\x1b[0m"


class TerminalFormatter(_ConsoleFormatter):
    """Time, level and message, which cannot steer the terminal; of a task that failed, what it raised, too."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """One line, or more with an exception."""
        text = super().format(record)
        display = getattr(record, ATTRIBUTES, {}).get("display") if record.name == internal_logger.name else None
        if isinstance(display, str):
            text = f"{text} {redact_output(display).replace(chr(10), ': ')}"
        return visible(text, keep_newlines=True)


def configure_console_logging(
    level: int = logging.INFO,
    stream: TextIO | None = None,
    reconfigure: bool = True,
    *,
    enabled: bool = True,
) -> None:
    """Print log records of tasks and of this package.

    Args:
        level: Least stdlib level to print.
        stream: Where to; default stdout.
        reconfigure: Replace earlier consoles; False adds one.
        enabled: False removes all consoles, also the one that a runner would add.
    """
    global _is_console_configured, _is_automatic
    with _lock:
        _is_console_configured = True
        if reconfigure or not enabled or _is_automatic:
            _remove_consoles()
            _is_automatic = False
        if enabled:
            _add_console(level, sys.stdout if stream is None else stream, ColorfulConsoleFormatter())


@contextmanager
def console_on_terminal(level: int, stream: TextIO) -> Iterator[None]:
    """Within the block, print records from this level on, so that they cannot steer the terminal, and nothing else."""
    global _is_console_configured
    with _lock:
        was_configured, _is_console_configured = _is_console_configured, True
        _remove_consoles()
        _add_console(level, stream, TerminalFormatter())
    try:
        yield
    finally:
        with _lock:
            _remove_consoles()
            _is_console_configured = was_configured


def configure_log_level(level: int = logging.INFO, *, tilebox_debug: bool = False) -> None:
    """Set the least level of task logs, and whether the package's own diagnostics are logged.

    Overrides TILEBOX_LOG_LEVEL and TILEBOX_DEBUG, both of them at each call.
    """
    task_logger.setLevel(level)
    internal_logger.setLevel(logging.DEBUG if tilebox_debug else logging.ERROR)


def get_logger(name: str | None = None, level: int = logging.NOTSET) -> logging.Logger:
    """A stdlib logger, `tilebox.workflows.tasks.<name>`, whose records are stored like those of `context.logger`.

    As long as nothing prints its records, neither a console of this package nor a handler of the program's own (as of
    `logging.basicConfig`), the console that a runner would add is added.

    Args:
        name: Last part of the logger's name; None makes a new logger each time.
        level: Its least stdlib level; by default that of `configure_log_level`.
    """
    with _lock:
        if not root_logger.hasHandlers():
            _add_automatic_console()
    logger = logging.getLogger(f"{task_logger.name}.{f'unnamed_logger_{uuid4()}' if name is None else name}")
    logger.setLevel(level)
    logger.addFilter(_store_without_runner)
    return logger


def configure_otel_logging(
    service: Any = None,
    level: int = logging.DEBUG,  # noqa: ARG001 -- the official signature
    endpoint: str | None = None,
    headers: dict[str, str] | None = None,
    export_interval: timedelta | None = None,
) -> None:
    """Not available yet: raises NotImplementedError."""
    from tilebox_local.observability.tracing import configure_otel_tracing

    configure_otel_tracing(service, endpoint, headers, export_interval)


def configure_otel_logging_axiom(
    service: Any = None,
    level: int = logging.DEBUG,  # noqa: ARG001 -- the official signature
    dataset: str | None = None,
    api_key: str | None = None,
) -> None:
    """Not available yet: raises NotImplementedError."""
    from tilebox_local.observability.tracing import configure_otel_tracing_axiom

    configure_otel_tracing_axiom(service, dataset, api_key)
