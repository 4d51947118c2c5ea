"""Intervals: every accepted form, with the official package as oracle, and what is refused."""

import subprocess
import sys
import warnings
from datetime import UTC, date, datetime, time, timedelta, timezone
from types import SimpleNamespace
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
    "\u0662\u0660\u0662\u0666-\u0660\u0661-\u0660\u0661",
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
    datetime(2026, 1, 1, 1, 2, 3, 456789),  # noqa: DTZ001 -- naive on purpose
    datetime(2026, 7, 1, tzinfo=BERLIN),
    datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
    datetime(1, 1, 1),  # noqa: DTZ001 -- naive on purpose
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
    ...,
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
        except (ValueError, TypeError, OverflowError):
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


@pytest.mark.parametrize(
    "interval", [TimeInterval(START, END, True, True), IDInterval(FIRST, LAST, True, False)], ids=repr
)
def test_intervals_pass_unchanged(interval):
    """parse() and a query's extent return an interval of ours as it is."""
    assert type(interval).parse(interval) is interval
    assert any(found is interval for found in parse_temporal_extent(interval))


def test_official_intervals_are_accepted():
    """Instances of the official classes become ours with the same fields."""
    times, ids = OfficialTimeInterval(START, END, True, True), OfficialIDInterval(FIRST, LAST, True, False)
    assert TimeInterval.parse(times) == TimeInterval(START, END, True, True)
    assert IDInterval.parse(ids) == IDInterval(FIRST, LAST, True, False)
    assert parse_temporal_extent(times) == (TimeInterval(START, END, True, True), None)
    assert parse_temporal_extent(ids) == (None, IDInterval(FIRST, LAST, True, False))


@pytest.mark.parametrize(
    "times",
    [
        DATASET.time.astype("datetime64[us]"),
        DATASET["value"],
        DATASET.isel(time=[0, 2]).time,
        TIMES,
        pd.DatetimeIndex(TIMES),
        pd.DatetimeIndex(TIMES, tz="UTC"),
        pd.Series(TIMES),
    ],
    ids=lambda times: f"{type(times).__name__} {times.dtype}",
)
def test_arrays_that_only_we_accept(times):
    """A one-dimensional array of times, or with a coordinate of times, means [first, last]."""
    assert fields(TimeInterval.parse(times)) == (START, END, False, True)


def test_scalar_time_coordinate():
    """A Dataset or DataArray at one time means that time."""
    expected = (START, START, False, True)
    for extent in (
        DATASET.isel(time=0),
        DATASET["value"].isel(time=0),
        DATASET.time[0],
        np.datetime64(START.date()),
    ):
        assert fields(TimeInterval.parse(extent)) == expected


def test_lists_and_mixtures_of_ids_are_accepted():
    """Any pair of ids, each a UUID or its text, is an id interval that includes its end."""
    for pair in ([str(FIRST), str(LAST)], (FIRST, str(LAST)), [str(FIRST), LAST]):
        assert parse_temporal_extent(pair) == (None, IDInterval(FIRST, LAST, False, True))


@pytest.mark.parametrize("flags", [(), (True,), (False, False), (True, True)])
@pytest.mark.parametrize("arg", [(FIRST, LAST), (str(FIRST), str(LAST)), (LAST, FIRST), ("x", "y"), FIRST, None])
def test_ids_are_parsed_officially(arg, flags):
    """IDInterval.parse gives the official fields and text, or both refuse."""
    assert ours(IDInterval.parse, arg, *flags) == oracle(OfficialIDInterval.parse, arg, *flags)


def test_id_interval_text():
    """The text of an id interval is the official one."""
    fields = (FIRST, LAST, False, True)
    assert repr(IDInterval(*fields)) == str(IDInterval(*fields)) == repr(OfficialIDInterval(*fields))


@pytest.mark.parametrize(
    "extent",
    [
        (END, START),
        ("2026-01-02", "2026-01-01"),
        TimeInterval(END, START),
        DATASET.isel(time=[2, 0]),
        (LAST, FIRST),
    ],
    ids=["datetimes", "strings", "interval", "unsorted times", "ids"],
)
def test_end_before_start(extent):
    """A query's extent must not end before it starts."""
    with pytest.raises(ArgumentError, match=r"interval .* ends before it starts"):
        parse_temporal_extent(extent)


def test_empty_extents():
    """An extent may be empty: it then matches nothing, as the official one."""
    assert fields(parse_temporal_extent((START, START))[0]) == (START, START, False, False)


@pytest.mark.parametrize(
    ("extent", "value"),
    [
        ("tomorrow-ish", "'tomorrow-ish' (<class 'str'>)"),
        ((START, "x" * 500), "(datetime.datetime("),
        (True, "True"),
    ],
)
def test_refusals_explain(extent, value):
    """The error names the value, not endlessly, its type and the forms that are accepted."""
    with pytest.raises(ArgumentError) as caught:
        parse_temporal_extent(extent)
    message = str(caught.value)
    assert message.startswith(f"Failed to convert {value}")
    assert all(part in message for part in ("TimeInterval", "a pair of instants", "ISO 8601", "nanoseconds since"))
    assert len(message) < 700


def test_refused_ids_explain():
    """The error names the value, its type and the forms that are accepted."""
    with pytest.raises(ArgumentError) as caught:
        IDInterval.parse("x")
    assert str(caught.value) == (
        "Failed to convert 'x' (<class 'str'>) to IDInterval. "
        "Accepted: an IDInterval or a pair of ids, each a UUID or its text."
    )


@pytest.mark.parametrize("bounds", [("2026-01-01", END), (START, None), (START, date(2026, 1, 3))])
def test_constructor_takes_datetimes_only(bounds):
    """Other bounds raise TypeError with the official text."""
    with pytest.raises(TypeError) as expected:
        OfficialTimeInterval(*bounds)
    with pytest.raises(TypeError) as caught:
        TimeInterval(*bounds)
    assert str(caught.value) == str(expected.value)


BOUNDS = st.one_of(
    st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)),  # noqa: DTZ001 -- Hypothesis wants naive limits
    st.sampled_from([START, START + timedelta(microseconds=1), datetime(1970, 1, 1, tzinfo=UTC)]),
).flatmap(lambda bound: st.sampled_from([bound, bound.astimezone(UTC), bound.astimezone(BERLIN)]))
INTERVAL_FIELDS = st.tuples(BOUNDS, BOUNDS, st.booleans(), st.booleans())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(INTERVAL_FIELDS, INTERVAL_FIELDS)
def test_time_interval_is_official(one, other):
    """Fields, texts, half-open form, time zone conversion and equality are the official ones."""
    mine, official = TimeInterval(*one), OfficialTimeInterval(*one)
    assert fields(mine) == fields(official)
    assert (repr(mine), str(mine)) == (repr(official), str(official))
    for arguments in (
        {"endpoints": False},
        {"sep": " to ", "timespec": "microseconds"},
        {"timespec": "hours"},
    ):
        assert mine.format(**arguments) == official.format(**arguments)
    assert fields(mine.to_half_open()) == fields(official.to_half_open())
    assert fields(mine.astimezone(BERLIN)) == fields(official.astimezone(BERLIN))
    assert (mine == TimeInterval(*other)) == (official == OfficialTimeInterval(*other))
    assert (mine == mine.to_half_open(), hash(mine) == hash(mine.to_half_open())) == (True, True)


def test_equality_counts_instants():
    """Intervals with the same instants are equal and hash alike, whatever their brackets and time zones."""
    microsecond = timedelta(microseconds=1)
    closed = TimeInterval(START, END, end_inclusive=True)
    same = TimeInterval(START.astimezone(BERLIN) - microsecond, END + microsecond, start_exclusive=True)
    assert (closed == same, hash(closed) == hash(same)) == (True, True)
    assert closed != TimeInterval(START, END)
    assert closed != (START, END)


def test_empty_interval():
    """The interval of nothing prints as such, like the official one."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert str(TimeInterval(epoch, epoch, start_exclusive=True)) == "<empty>"
    assert str(TimeInterval(epoch, epoch)) == "[1970-01-01T00:00:00.000 UTC, 1970-01-01T00:00:00.000 UTC)"


def test_half_open_in_the_repeated_hour():
    """The instant after the first 02:59:59.999999 is the second 02:00, not 03:00."""
    start = datetime(2026, 10, 25, 2, 59, 59, 999999, tzinfo=BERLIN)
    half_open = TimeInterval(start, END, start_exclusive=True).to_half_open()
    assert half_open.start.isoformat() == "2026-10-25T02:00:00+01:00"


def test_last_instant_of_time():
    """An interval to the end of the year 9999 can be printed, compared and parsed."""
    end = datetime.max.replace(tzinfo=UTC)
    interval = TimeInterval.parse(end)
    assert interval == TimeInterval(end, end, end_inclusive=True)
    assert str(interval) == "[9999-12-31T23:59:59.999 UTC, 9999-12-31T23:59:59.999 UTC]"
    with pytest.raises(OverflowError):
        interval.to_half_open()


def test_nanoseconds_are_cut_without_a_warning():
    """Nanoseconds of a pandas.Timestamp are dropped silently, also next to others."""
    later = pd.Timestamp("2026-01-03T12:00:00.000000999Z")
    assert fields(TimeInterval.parse((pd.Timestamp(START), later))) == (START, END, False, False)
    assert type(TimeInterval.parse(later).start) is datetime


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("pass", set()),
        ("parse_temporal_extent((datetime(2026, 1, 1), '2026-02-01T10:00Z'))", set()),
        ("parse_temporal_extent('March 5 2026')", {"pandas", "numpy"}),
    ],
    ids=["import", "datetimes and ISO 8601", "other text"],
)
def test_heavy_imports(code, loaded):
    """pandas is loaded only for text that is not ISO 8601, numpy and xarray never."""
    script = (
        "import sys; from datetime import datetime; "
        "from tilebox_local.intervals import parse_temporal_extent; "
        f"{code}; print(*{{'pandas', 'numpy', 'xarray'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == loaded
