"""Identifiers: job and task ids, trace and span ids, W3C trace context.

Job and task ids are 16 bytes: a 48-bit big-endian Unix time in milliseconds, then 80 random bits, shown as a UUID.
Their version and variant nibbles carry no meaning. Ids made in one process ascend.

Span ids are drawn from 63 bits, so that they are equal as unsigned (OpenTelemetry) and signed (SQLite) integers.
"""

from __future__ import annotations

import os
import random
import re
import threading
from uuid import UUID

__all__ = [
    "format_trace_parent",
    "new_id",
    "new_ids",
    "new_span_id",
    "new_trace_id",
    "parse_trace_parent",
    "signed64",
    "unsigned64",
]

_RANDOM_BITS = 80
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1

# Private generator: a user's random.seed(0) must not repeat our ids.
_random = random.Random(os.urandom(32))  # noqa: S311 -- ids are unique, not secret
_lock = threading.RLock()
_last = 0


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    _random.seed(os.urandom(32))


os.register_at_fork(after_in_child=_after_fork_in_child)


def new_ids(time_ns: int, count: int) -> list[UUID]:
    """`count` ascending ids whose time part is `time_ns` (integer UTC ns) in milliseconds. Thread-safe."""
    global _last
    milliseconds = time_ns // 1_000_000
    with _lock:
        first = (milliseconds << _RANDOM_BITS) | _random.getrandbits(_RANDOM_BITS - 1)
        if first <= _last and first >> _RANDOM_BITS == _last >> _RANDOM_BITS:
            first = _last + 1 + _random.getrandbits(32)
        last = first + count - 1
        _last = max(_last, last)
    return [UUID(int=first + i) for i in range(count)]


def new_id(time_ns: int) -> UUID:
    """One id whose time part is `time_ns` (integer UTC ns) in milliseconds."""
    return new_ids(time_ns, 1)[0]


def new_trace_id() -> int:
    """128 random bits, never 0."""
    return _random.getrandbits(128) or 1


_getrandbits = _random.getrandbits


def new_span_id() -> int:
    """63 random bits, never 0."""
    return _getrandbits(63) or 1


def signed64(value: int) -> int:
    """An unsigned 64-bit id as SQLite's signed integer of the same bits."""
    return value - (1 << 64) if value >= 1 << 63 else value


def unsigned64(value: int) -> int:
    """SQLite's signed integer as the unsigned 64-bit id of the same bits."""
    return value + (1 << 64) if value < 0 else value


_TRACE_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def format_trace_parent(trace_id: int, span_id: int, flags: int) -> str:
    """W3C `traceparent` header value, version 00."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


def parse_trace_parent(value: str) -> tuple[int, int, int] | None:
    """(trace id, span id, flags) of a W3C `traceparent`, or None if it is malformed or all zero.

    W3C Trace Context, section 3.2.2: version ff is invalid; later versions may append fields.
    """
    match = _TRACE_PARENT.fullmatch(value.strip().lower())
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    if trace_id == 0 or span_id == 0:
        return None
    return trace_id, span_id, int(match[4], 16)
