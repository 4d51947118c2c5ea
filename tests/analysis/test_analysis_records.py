"""Records of analyses as JSON and as DataFrames."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pandas as pd
import pytest

from tilebox_local.analysis.records import Record, Records


@dataclass(frozen=True)
class Step(Record):
    """A record with a field of each kind."""

    name: str
    started_at_ns: int | None
    run_duration_ns: int | None
    count: int
    share: float | None
    note: str | None


STEPS = [Step("a", 1_700_000_000_123_456_789, 1_500_001, 2, 0.5, None), Step("b", None, None, 0, None, "x")]
DTYPES = {
    "name": pd.Series(["x"]).dtype,
    "started_at": "datetime64[ns, UTC]",
    "run": "timedelta64[ns]",
    "count": "int64",
    "share": "float64",
    "note": pd.Series(["x"]).dtype,
}


def test_json() -> None:
    """Lengths of time are milliseconds, instants text with all of their nanoseconds, None stays None."""
    assert Records(Step, STEPS).to_dicts() == [
        {
            "name": "a",
            "started_at": "2023-11-14T22:13:20.123456789Z",
            "run_ms": 1.500001,
            "count": 2,
            "share": 0.5,
            "note": None,
        },
        {"name": "b", "started_at": None, "run_ms": None, "count": 0, "share": None, "note": "x"},
    ]


@pytest.mark.parametrize("items", [STEPS, STEPS[1:], []], ids=["records", "nulls", "empty"])
def test_pandas(items: list[Step]) -> None:
    """A DataFrame has the fields as columns, of the same types however many records there are, exact to the ns."""
    frame = Records(Step, items).to_pandas()
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {k: str(v) for k, v in DTYPES.items()}
    assert [None if pd.isna(value) else value.value for value in frame["started_at"]] == [
        s.started_at_ns for s in items
    ]
    assert [None if pd.isna(value) else value.value for value in frame["run"]] == [s.run_duration_ns for s in items]


def test_copies() -> None:
    """Records survive pickle, as multiprocessing needs it."""
    copy = pickle.loads(pickle.dumps(Records(Step, STEPS)))
    assert (type(copy), copy, copy._kind) == (Records, STEPS, Step)
