"""What analyses return: typed records, and lists of them that become DataFrames.

Fields of records are integers of nanoseconds where they end in `duration_ns` (a length of time) or `_ns` (an instant,
UTC). Wherever people read them, the same rule turns them into other forms: `self_duration_ns` is the column `self_ms`
(a float) in SQL views and JSON, and `self` (timedelta64) in pandas; `started_at_ns` is `started_at`, text in RFC 3339
with nanoseconds in SQL and JSON, datetime64 in pandas. `duration_ns` is `duration_ms`, and `duration` in pandas.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from tilebox_local.clock import ns_to_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["Record", "Records", "from_view"]

RecordT = TypeVar("RecordT", bound="Record")

_LENGTH, _INSTANT = "_duration_ns", "_ns"
_BARE_LENGTH = "duration_ns"
_MAX_NS = (1 << 63) - 1


class Record:
    """Base of the frozen dataclasses that analyses return."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON has it: keys as in the SQL views, lengths of time in ms, instants as text."""
        return {_shown_name(f.name): _shown_value(f.name, getattr(self, f.name)) for f in fields(self)}


class Records(list[RecordT], Generic[RecordT]):
    """A list of records of one kind.

    Args:
        kind: Their class, so that an empty list has columns, too.
        items: The records, in the order that the analysis promises.
    """

    def __init__(self, kind: type[RecordT], items: Any = ()) -> None:
        super().__init__(items)
        self._kind = kind

    def to_dicts(self) -> list[dict[str, Any]]:
        """Each record as a dictionary, see `Record.to_dict`."""
        return [record.to_dict() for record in self]

    def to_pandas(self) -> pd.DataFrame:
        """One row per record and one column per field, in their order; typed also if there are no records.

        Lengths of time are timedelta64[ns], instants datetime64[ns, UTC], both to the nanosecond. Lengths beyond 292
        years, which only broken clocks add up to, are 292 years.
        """
        import pandas as pd

        columns: dict[str, Any] = {}
        for field in fields(self._kind):
            values = [getattr(record, field.name) for record in self]
            name = field.name
            if name.endswith(_BARE_LENGTH):
                lengths = pd.Series(pd.array(_within_pandas(values), dtype="Int64")).astype("timedelta64[ns]")
                columns["duration" if name == _BARE_LENGTH else name.removesuffix(_LENGTH)] = lengths
            elif name.endswith(_INSTANT):
                instants = pd.Series(pd.array(values, dtype="Int64")).astype("datetime64[ns]")
                columns[name.removesuffix(_INSTANT)] = instants.dt.tz_localize("UTC")
            else:
                columns[name] = pd.Series(values, dtype=_dtype(str(field.type)))
        return pd.DataFrame(columns)

    def __reduce__(self) -> Any:
        return Records, (self._kind, list(self))


def _within_pandas(lengths: list[Any]) -> list[Any]:
    """Lengths of time that fit into 64 bits."""
    return [length if length is None else max(-_MAX_NS, min(length, _MAX_NS)) for length in lengths]


def _dtype(annotation: str) -> str | None:
    """The dtype of a column, by the type of the field; None lets pandas choose."""
    known = {"int": "int64", "float": "float64", "bool": "bool", "int | None": "Int64", "float | None": "float64"}
    if annotation in known:
        return known[annotation]
    return "str" if annotation in ("str", "str | None") else "object"


def from_view(kind: type[RecordT], row: Sequence[Any]) -> RecordT:
    """A record of a row of a view: the values of its fields in order, where lengths of time are in ms.

    The rounding is exact: a float has 53 bits, which are 104 days in ns.
    """
    values = (
        round(value * 1e6) if value is not None and field.name.endswith(_BARE_LENGTH) else value
        for field, value in zip(fields(kind), row, strict=True)
    )
    return kind(*values)


def _shown_name(name: str) -> str:
    if name == _BARE_LENGTH:
        return "duration_ms"
    if name.endswith(_LENGTH):
        return name.removesuffix(_LENGTH) + "_ms"
    return name.removesuffix(_INSTANT)


def _shown_value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name.endswith(_BARE_LENGTH):
        return value / 1e6
    if name.endswith(_INSTANT):
        return ns_to_text(value)
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, list | tuple):
        return [item.to_dict() if isinstance(item, Record) else item for item in value]
    return value
