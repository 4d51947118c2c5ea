"""What callers of the jobs client may pass, as what its queries take."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from tilebox_local.data import Job, LogSeverity
from tilebox_local.errors import ArgumentError

__all__ = ["JobIDLike", "as_list", "shown", "to_member", "to_severity", "to_uuid"]

JobIDLike: TypeAlias = Job | UUID | str
EnumT = TypeVar("EnumT", bound=Enum)


def as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def to_member(value: Any, what: str, kind: type[EnumT]) -> EnumT:
    """A member of `kind`, ours or the official package's, as ours."""
    if isinstance(value, kind):
        return value
    if isinstance(value, Enum) and type(value).__name__ == kind.__name__ and value.name in kind.__members__:
        return kind[value.name]
    names = ", ".join(member.name for member in kind if member.name != "UNSPECIFIED")
    hint = f"Pass a member of {kind.__name__} or a list of them: {names}."
    raise ArgumentError(f"{shown(value)} in {what} is no {kind.__name__}.", hint=hint)


def to_severity(level: Any) -> LogSeverity:
    if not isinstance(level, str):
        return to_member(level, "level", LogSeverity)
    try:
        return LogSeverity[level.upper()]
    except KeyError:
        hint = f"Levels are {', '.join(name.lower() for name in LogSeverity.__members__)}."
        raise ArgumentError(f"Invalid log severity level: {level.lower()[:100]}.", hint=hint) from None


def shown(value: Any) -> str:
    return f"{value!r:.100}"


def to_uuid(value: JobIDLike, kind: str) -> UUID:
    if isinstance(value, UUID):
        return value
    found = getattr(value, "id", value)
    if isinstance(found, UUID):
        return found
    try:
        return UUID(str(found))
    except ValueError:
        raise ArgumentError(f"{value!r} is no {kind} id; expected a UUID or its text.") from None
