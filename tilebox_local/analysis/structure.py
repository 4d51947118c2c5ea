"""Finding spans by how they lie to each other: `client.jobs().search_structure(pattern)`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tilebox_local.analysis.records import Record, Records
from tilebox_local.analysis.search import FoundSpan, checked_glob, checked_limit, read_spans
from tilebox_local.analysis.subject import find_subject
from tilebox_local.catalog import run
from tilebox_local.errors import ArgumentError

if TYPE_CHECKING:
    from uuid import UUID

    import apsw

    from tilebox_local.storage.store import Store

__all__ = ["FoundPair", "Pattern", "parse_pattern", "search_structure"]

_FORMS = (
    "Write A > B (B is a child of A), A >> B (anywhere below it), A ~ B (B is the next one after A), A !> B or A !>> B "
    '(A without such a child, or anything such below it). Names are patterns such as read*; "quote" those with blanks '
    "or one of > ~ !, a quote in them is doubled."
)
_NAME = r'"(?:[^"]|"")+"|[^\s">~!]+'
_PATTERN = re.compile(rf"\s*(?P<a>{_NAME})\s*(?P<operator>!>>|!>|>>|>|~)\s*(?P<b>{_NAME})\s*")


@dataclass(frozen=True)
class FoundPair(Record):
    """What a pattern has found: A, and the B that belongs to it. None: that there is none is what was looked for."""

    a: FoundSpan
    b: FoundSpan | None


class Pattern(NamedTuple):
    """A pattern: two patterns of names, and how spans of these names lie to each other."""

    a: str
    operator: str
    b: str


def parse_pattern(text: str) -> Pattern:
    """A pattern as people write it. Raises ArgumentError."""
    if not isinstance(text, str):
        raise ArgumentError(f"A pattern is a str, not {type(text).__name__}.", hint=_FORMS)
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ArgumentError(f"{text!r:.200} is no pattern of spans.", hint=_FORMS)
    return Pattern(checked_glob(_name(match["a"])), match["operator"], checked_glob(_name(match["b"])))


def _name(text: str) -> str:
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def search_structure(store: Store, text: str, job_id: UUID | None, *, limit: int | None) -> Records[FoundPair]:
    """Pairs by start of A, then of B; of the whole store newest job first. Raises NotFoundError, ArgumentError."""
    pattern = parse_pattern(text)
    left = checked_limit(limit)
    found: list[FoundPair] = []
    with store.snapshot() as connection:
        if job_id is not None:
            traces = [find_subject(connection, job_id).trace_no]
        else:
            traces = [trace_no for (trace_no,) in run(connection, "search_traces")]
        for trace_no in traces:
            pairs = _pairs(connection, pattern, trace_no, left)
            found += pairs
            if left > 0:
                left -= len(pairs)
                if left == 0:
                    break
    return Records(FoundPair, found)


def _pairs(connection: apsw.Connection, pattern: Pattern, trace_no: int, limit: int) -> list[FoundPair]:
    rows = _keys(connection, pattern, trace_no, limit)
    firsts = read_spans(connection, [(trace_no, *row[:2]) for row in rows])
    if pattern.operator.startswith("!"):
        return [FoundPair(a, None) for a in firsts]
    seconds = read_spans(connection, [(trace_no, *row[2:]) for row in rows])
    return [FoundPair(a, b) for a, b in zip(firsts, seconds, strict=True)]


def _keys(connection: apsw.Connection, pattern: Pattern, trace_no: int, limit: int) -> list[tuple[Any, ...]]:
    parameters = {"trace_no": trace_no, "a": pattern.a, "b": pattern.b, "limit": limit}
    match pattern.operator:
        case ">":
            return run(connection, "structure_child", parameters)
        case "!>":
            return run(connection, "structure_no_child", parameters)
        case ">>":
            return run(connection, "structure_descendant", parameters)
        case "!>>":
            return run(connection, "structure_no_descendant", parameters)
    return run(connection, "structure_follower", parameters)
