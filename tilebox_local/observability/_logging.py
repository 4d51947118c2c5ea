"""The structured logger of tasks, on top of stdlib logging. Independent of any store."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any

from tilebox_local import clock
from tilebox_local.storage.redaction import redact_output

__all__ = ["StructuredLogger", "internal_log_level", "internal_logger", "root_logger", "task_logger"]

NAMESPACE = "tilebox.workflows"
ATTRIBUTES = "tilebox_structured_log_attributes"
TIME_NS = "tilebox_time_ns"
SPAN = "tilebox_span"  # where a record belongs that is made outside of any span

root_logger = logging.getLogger(NAMESPACE)
task_logger = logging.getLogger(f"{NAMESPACE}.tasks")
internal_logger = logging.getLogger(f"{NAMESPACE}.internal")


class _RedactingFilter(logging.Filter):
    """Takes secrets out of the package's own diagnostics, whoever prints them."""

    def filter(self, record: logging.LogRecord) -> bool:
        with contextlib.suppress(Exception):  # a message that cannot be formatted is for logging to complain about
            message = record.getMessage()
            redacted = redact_output(message)
            if redacted != message:
                record.msg, record.args = redacted, ()
        return True


internal_logger.addFilter(_RedactingFilter())


class StructuredLogger:
    """Log messages with attributes: `logger.info("stored %s", name, size_bytes=10)`.

    Positional arguments format the message as in stdlib logging, keyword arguments become attributes. Logging never
    raises because of a value. Immutable; thread-safe.
    """

    __slots__ = ("_attributes", "_logger", "_span")

    def __init__(
        self, logger: logging.Logger, attributes: dict[str, Any] | None = None, *, span: object = None
    ) -> None:
        self._logger = logger
        self._attributes = attributes or {}
        self._span = span  # of the task, for its threads that have no current span

    def bind(self, **attributes: Any) -> StructuredLogger:
        """A logger that adds these attributes to every record; those of a call win over bound ones."""
        return StructuredLogger(self._logger, {**self._attributes, **attributes}, span=self._span)

    def _below(self, span: object) -> StructuredLogger:
        """A logger whose records belong to `span` where no span is current."""
        return StructuredLogger(self._logger, self._attributes, span=span)

    def log(self, level: int, message: object, /, *args: Any, **attributes: Any) -> None:
        """Log at a stdlib level."""
        self._log(level, message, args, attributes)

    def debug(self, message: object, /, *args: Any, **attributes: Any) -> None:
        """Log at DEBUG."""
        self._log(logging.DEBUG, message, args, attributes)

    def info(self, message: object, /, *args: Any, **attributes: Any) -> None:
        """Log at INFO."""
        self._log(logging.INFO, message, args, attributes)

    def warning(self, message: object, /, *args: Any, **attributes: Any) -> None:
        """Log at WARNING."""
        self._log(logging.WARNING, message, args, attributes)

    def error(self, message: object, /, *args: Any, **attributes: Any) -> None:
        """Log at ERROR."""
        self._log(logging.ERROR, message, args, attributes)

    def exception(self, message: object, /, *args: Any, **attributes: Any) -> None:
        """Log at ERROR with the exception that is being handled: type, message and stack become attributes."""
        self._log(logging.ERROR, message, args, attributes, exc_info=True)

    def critical(self, message: object, /, *args: Any, **attributes: Any) -> None:
        """Log at CRITICAL."""
        self._log(logging.CRITICAL, message, args, attributes)

    def _log(
        self,
        level: int,
        message: object,
        args: tuple[Any, ...],
        attributes: dict[str, Any],
        *,
        exc_info: bool = False,
    ) -> None:
        if self._logger.isEnabledFor(level):
            merged = {**self._attributes, **attributes}
            # A stdlib record has its time as a float, which is too coarse for nanoseconds.
            extra: dict[str, Any] = {ATTRIBUTES: merged, TIME_NS: clock.wall_ns()}
            if self._span is not None:
                extra[SPAN] = self._span
            self._logger.log(level, message, *args, exc_info=exc_info, extra=extra, stacklevel=3)


def internal_log_level() -> int:
    """Level of the package's own diagnostics: DEBUG if TILEBOX_DEBUG is 1, true, yes or on, else ERROR."""
    return logging.DEBUG if os.environ.get("TILEBOX_DEBUG", "").strip().lower() in _TRUE else logging.ERROR


_TRUE = {"1", "true", "yes", "on"}


def _level_from_environment() -> int:
    level = logging.getLevelNamesMapping().get(os.environ.get("TILEBOX_LOG_LEVEL", "").strip().upper())
    return logging.INFO if level is None else level


root_logger.setLevel(logging.DEBUG)
task_logger.setLevel(_level_from_environment())
internal_logger.setLevel(internal_log_level())
