"""Intervals: every accepted form, with the official package as oracle, and what is refused."""

import subprocess
import sys
import warnings
from datetime import UTC, date, datetime, time, timedelta, timezone
from types import SimpleNamespace
from unittest.mock import create_autospec
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from tilebox.datasets.query.id_interval import IDInterval as OfficialIDInterval
from tilebox.datasets.query.time_interval import TimeInterval as OfficialTimeInterval
from tilebox.workflows.jobs.client import JobClient

from tilebox_local.errors import ArgumentError
from tilebox_local.intervals import IDInterval, TimeInterval, parse_temporal_extent

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, 12, tzinfo=UTC)
FIRST, LAST = UUID("019b7621-0000-7000-8000-000000000001"), UUID("019b7621-0000-7000-8000-000000000002")
TIMES = np.array(["2026-01-01", "2026-01-02", "2026-01-03T12:00"], dtype="datetime64[ns]")
DATASET = xr.Dataset({"value": ("time", [1.0, 2.0, 3.0])}, coords={"time": TIMES})
BERLIN = ZoneInfo("Europe/Berlin")

# Officially accepted, or refused by both.
INSTANTS = [
    "2026-01-01",
    "2026-01-01T10",
    "2026-01-01T10:00",
    "2026-01-01 10:00:01",
    "2026-01-01T10:00:01.5",
    "2026-01-01T10:00:01,5",
    "2026-01-01T10:00:01.123456789Z",
    "2026-01-01T10:00:01+02:00",
    "2026-01-01T10:00:01-0230",
    "2026-01-01T10:00:01 +02:00",
    "2026-01-01t10:00:01z",
    "2026-01-01T24:00",
    "2026-02-30",
    "2026-W01-1",
    "2026-366",
    "2026",
    "2026-01",
    "202601",
    "20260101",
    "20260101T101112",
    "2026-1-1",
    " 2026-01-01 ",
    "1-2-3",
    "March 5 2026",
    "05/03/2026",
    "0001-01-01",
    "2262-05-01",
    "٢٠٢٦-٠١-٠١",
    "",
    "NaT",
    "yesterday",
    str(FIRST),
    0,
    -1,
    1_767_225_600_123_456_789,
    10**30,
    1.5,
    999.6,
    -0.5,
    -999.5,
    1.7672256e18,
    float("nan"),
    float("inf"),
    True,
    None,
    b"2026-01-01",
    START,
    datetime(2026, 1, 1, 1, 2, 3, 456789),
    datetime(2026, 7, 1, tzinfo=BERLIN),
    datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
    datetime(1, 1, 1),
    datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2))),
    date(2026, 1, 1),
    time(10),
    timedelta(1),
    pd.Timestamp("2026-01-01 10:00:00.123456789"),
    pd.Timestamp("2026-01-01", tz="Europe/Berlin"),
    pd.NaT,
    pd.Period("2026"),
    np.datetime64("2026-01-01"),
    np.datetime64("2026"),
    np.datetime64(-1, "ns"),
    np.datetime64("3000-01-01T00:00:00", "s"),
    np.datetime64("NaT", "ns"),
    np.float64(5e9),
    FIRST,
    object(),
]
EXTENTS = [
    None,
    *((instant, instant) for instant in INSTANTS),
    ("2026-01-01", END),
    ["2026-01-01", "2026-02-01"],
    [START, END],
    (START, "2026-02-01"),
    (np.int64(0), np.int64(5_000)),
    (FIRST, LAST),
    [FIRST, LAST],
    (str(FIRST), str(LAST)),
    (FIRST.hex, "urn:uuid:" + str(LAST).upper()),
    (FIRST, str(LAST)[:-1]),
    (str(FIRST), "2026-01-01"),
    (),
    (START,),
    (START, END, END),
    {"start": START},
    DATASET,
    DATASET.time,
    DATASET.isel(time=[2]),
    DATASET.isel(time=[]),
    DATASET.drop_vars("time"),
    xr.DataArray([1.0, 2.0], dims="time"),
]


class RecordingService:
    """Stands behind the official job client and keeps the filters of a query."""

    def __init__(self):
        self.sent = []

    def query(self, filters, page):
        self.sent.append((filters.time_interval, filters.id_interval))
        return SimpleNamespace(jobs=[], next_page=page)


def fields(interval):
    """All there is to an interval, whoever made it."""
    if interval is None:
        return None
    names = ("start", "end") if hasattr(interval, "start") else ("start_id", "end_id")
    return tuple(getattr(interval, name) for name in (*names, "start_exclusive", "end_inclusive"))


def oracle(convert, *args):
    """The fields of the official result, or ValueError for any kind of refusal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = convert(*args)
        except Exception:
            return ValueError
    return tuple(map(fields, result)) if isinstance(result, tuple) else fields(result)


def official_extent(extent):
    """(time interval, id interval) that the official client would send."""
    service = RecordingService()
    JobClient(service, None, None).query(extent)
    return service.sent[0]


def ours(convert, *args):
    try:
        result = convert(*args)
    except ArgumentError:
        return ValueError
    return tuple(map(fields, result)) if isinstance(result, tuple) else fields(result)


@pytest.mark.parametrize("instant", INSTANTS, ids=repr)
def test_one_instant(instant):
    """One instant t means [t, t], read as the official package reads it."""
    assert ours(TimeInterval.parse, instant) == oracle(OfficialTimeInterval.parse, instant)


@pytest.mark.parametrize("extent", EXTENTS, ids=lambda extent: repr(extent)[:60])
def test_temporal_extent(extent):
    """A query's extent becomes the interval that the official client sends, or both refuse it."""
    assert ours(parse_temporal_extent, extent) == oracle(official_extent, extent)
