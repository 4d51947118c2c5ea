"""Task inputs and log attributes, compared with those of the official package."""

import subprocess
import sys
import typing
from base64 import b64encode
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from itertools import count
from pathlib import Path, PurePosixPath, PureWindowsPath
from threading import Barrier
from types import ModuleType, new_class
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
)
from uuid import UUID
from zoneinfo import ZoneInfo

import affine
import numpy as np
import odc.geo
import pandas as pd
import pydantic
import pyproj
import pytest
import shapely
import tilebox.workflows
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox, GeoboxTiles
from tilebox.datasets.data.data_access import SpatialCoordinateSystem, SpatialFilter, SpatialFilterMode
from tilebox.datasets.query.id_interval import IDInterval as OfficialIDInterval
from tilebox.datasets.query.time_interval import TimeInterval as OfficialTimeInterval
from tilebox.workflows import _serialization as official_serialization
from tilebox.workflows.observability.logging import _sanitize_otel_attribute_value as official_attribute
from typing_extensions import TypeAliasType

from tilebox_local.errors import ArgumentError
from tilebox_local.intervals import IDInterval, TimeInterval
from tilebox_local.serialization import normalize_log_value
from tilebox_local.task import Task


def task_class(hints: dict[str, Any], base: type = Task, **defaults: Any) -> Any:
    """A task class `Sample` with these annotated fields."""
    return new_class("Sample", (base,), {}, lambda body: body.update(__annotations__=dict(hints), **defaults))


def brief(part: object) -> str:
    """Parameter in a test's name; a long int has no repr."""
    return "big" if isinstance(part, int) and part > 1 << 70 else f"{part!r:.40}"


def twins(hints: dict[str, Any], **defaults: Any) -> tuple[Any, Any]:
    """The same class body over our base class and over the official one."""
    return task_class(hints, Task, **defaults), task_class(hints, tilebox.workflows.Task, **defaults)


def assert_same(hint: Any, value: Any) -> None:
    """Both packages write the same bytes, alone and beside another field, and read each other's."""
    for hints, values in (({"x": hint}, (value,)), ({"n": int, "x": hint}, (7, value))):
        ours, theirs = twins(hints)
        data = ours(*values)._serialize()
        assert data == theirs(*values)._serialize()
        for cls in (ours, theirs):
            decoded = cls._deserialize(data).x
            assert (type(decoded), decoded) == (type(value), value)


def assert_round_trip(hint: Any, value: Any, data: bytes) -> None:
    """A value that only we can read."""
    cls = task_class({"x": hint})
    assert cls(value)._serialize() == data
    decoded = cls._deserialize(data).x
    assert (type(decoded), decoded) == (type(value), value)


class Color(Enum):
    RED = "r"
    BLUE = "b"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Word(StrEnum):
    ONE = "one"


class Bits(Flag):
    A = 1
    B = 2


class Mixed(Enum):
    TEXT = "a"
    NUMBER = 1
    NOTHING = None


class Corner(NamedTuple):
    x: int
    label: str = "none"


class Moment(NamedTuple):
    at: datetime


class Options(TypedDict):
    size: int
    note: NotRequired[str]


LateOptions = TypedDict("LateOptions", {"size": int, "note": "NotRequired[str]"})  # noqa: UP013


LateTimes = TypedDict("LateTimes", {"raw": "typing.Required[bytes]"}, total=False)  # noqa: UP013


class Times(TypedDict, total=False):
    at: datetime
    raw: typing.Required[bytes]


@dataclass
class Point:
    x: int
    y: float = 0.5


@dataclass
class Scene:
    name: str
    taken: datetime
    points: list[Point] = field(default_factory=list)
    raw: bytes | None = None
    cached: int = field(default=0, metadata={"skip_serialization": True})


@dataclass
class Tree:
    value: bytes
    color: Color = Color.RED
    children: list["Tree"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frozen:
    x: int


T = TypeVar("T")


@dataclass
class Box(Generic[T]):
    item: T
    more: list[T] = field(default_factory=list)


class Model(pydantic.BaseModel):
    x: int
    at: datetime


UserId = NewType("UserId", int)
UserBytes = NewType("UserBytes", bytes)
UserTime = NewType("UserTime", datetime)
Pair = namedtuple("Pair", "a b")  # noqa: PYI024 -- an untyped one is the point

VIENNA = ZoneInfo("Europe/Vienna")
UTC_TIME = datetime(2024, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
LOCAL_CRS = 'LOCAL_CS["mine",UNIT["metre",1]]'
FIRST, LAST = datetime.min, datetime.max  # noqa: DTZ901 -- naive on purpose
AN_ID = UUID("0194ad17-bdaf-ff8e-983b-000000000001")


SAME_AS_OFFICIAL: list[tuple[Any, Any]] = [
    (str, "plain"),
    (str, 'quotes " \\ / \b\f\n\r\t\x00\x1f\x7f\u2028 ü 🛰'),
    (str, ""),
    (int, -7),
    (int, 1 << 64),
    (int, -(10**40)),
    (float, 0.1),
    (float, -0.0),
    (float, 1e16),
    (float, -2.5e300),
    (float, 5e-324),
    (bool, True),
    (type(None), None),
    (Any, {"a": [1, None, 1.5, True, "x", {}]}),
    (list, [1, "a", None]),
    (dict, {"a": {"b": []}}),
    (bytes, b"\xff\xfe\xfb\x00"),
    (LateOptions, {"size": 1}),
    (bytearray, bytearray(b"\xff\xfe")),
    (list[int], []),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (set[int], {3, 1, 2}),
    (frozenset[str], frozenset({"a"})),
    (dict[str, list[float | None]], {"a": [1.0, None], "b": []}),
    (dict[int, str], {1: "a", -2: "b"}),
    (dict[float, int], {1.5: 1, 1e16: 2}),
    (dict[Level, Color], {Level.HIGH: Color.BLUE}),
    (dict[Color, int], {Color.BLUE: 1}),
    (dict[date, datetime], {date(2024, 1, 2): UTC_TIME}),
    (dict[datetime, int], {UTC_TIME: 1}),
    (dict[UUID, Path], {AN_ID: Path("a")}),
    (dict[bytes, int], {b"\xff": 1}),
    (dict[Decimal, int], {Decimal("1.50"): 1}),
    (Sequence[int], [1, 2]),
    (Mapping[str, int], {"a": 1}),
    (typing.List[int], [1]),  # noqa: UP006
    (int | None, None),
    (Optional[str], "a"),  # noqa: UP045
    (int | str | None, "1"),
    (int | float, 1),
    (float | int, 2.0),
    (list[int] | dict[str, int], {"a": 1}),
    (Literal["a", 2], 2),
    (Annotated[list[Annotated[int, "unit"]], "note"], [1]),
    (UserId, 5),
    (UserTime, UTC_TIME),
    (UserBytes, b"\xff"),
    (Color, Color.BLUE),
    (Level, Level.HIGH),
    (Word, Word.ONE),
    (Bits, Bits.A | Bits.B),
    (Corner, Corner(1, "a")),
    (Moment, Moment(UTC_TIME)),
    (Options, {"size": 1}),
    (Options, {"size": 1, "note": "x"}),
    (Times, {"at": UTC_TIME, "raw": b"\xff"}),
    (Point, Point(1, 2.0)),
    (Point | None, Point(1)),
    (Frozen, Frozen(3)),
    (Scene, Scene("a", UTC_TIME, [Point(1)], b"\xff")),
    (dict[str, list[Scene]], {"a": [Scene("a", UTC_TIME.replace(tzinfo=None))]}),
    (Tree, Tree(b"\xff", Color.BLUE, [Tree(b"", children=[Tree(b"a")]), Tree(b"b")])),
    (Box[int], Box(1, [2])),
    (datetime, UTC_TIME),
    (datetime, UTC_TIME.replace(tzinfo=None, microsecond=0)),
    (datetime, datetime(2024, 7, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))),
    (datetime, FIRST),
    (datetime, LAST),
    (datetime | None, UTC_TIME),
    (list[datetime | None], [UTC_TIME, None]),
    (Annotated[datetime, "acquired"], UTC_TIME),
    (Sequence[datetime], [UTC_TIME]),
    (date, date(2024, 2, 29)),
    (time, time(1, 2, 3)),
    (time, time(1, 2, 3, 4, tzinfo=UTC)),
    (time, time(23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=5, minutes=45)))),
    (timedelta, timedelta(days=1, seconds=2, milliseconds=500)),
    (timedelta, timedelta.min),
    (timedelta, timedelta.max),
    (UUID, AN_ID),
    (Decimal, Decimal("1.10")),
    (Decimal, Decimal("-Infinity")),
    (Decimal, Decimal("1E+5")),
    (Path, Path("/data/a b.tif")),
    (PurePosixPath, PurePosixPath("a")),
    (PureWindowsPath, PureWindowsPath("c:\\a")),
    (ZoneInfo, VIENNA),
    (Duration, Duration(seconds=5)),
    (Duration | None, Duration()),
    (Duration | None, None),
    (Annotated[Duration | None, "x"], Duration(nanos=1)),
    (list[Duration], [Duration(seconds=5), Duration()]),
    (dict[str, StringValue | None], {"a": StringValue(value="\xff"), "b": None}),
    (OfficialTimeInterval, OfficialTimeInterval(UTC_TIME, UTC_TIME, True, True)),
    (OfficialIDInterval, OfficialIDInterval(UUID(int=5), AN_ID, False, True)),
    (list[OfficialIDInterval], [OfficialIDInterval(UUID(int=0), AN_ID, True, False)]),
    (SpatialFilter | None, SpatialFilter(shapely.Point(1, 2))),
    (
        SpatialFilter,
        SpatialFilter(
            shapely.box(0, 0, 1, 1),
            SpatialFilterMode.GEOMETRY_CONTAINS_FILTER,
            SpatialCoordinateSystem.SPHERICAL,
        ),
    ),
    (shapely.Point, shapely.Point(1.5, 2)),
    (shapely.Geometry, shapely.LinearRing([(0, 0), (1, 0), (1, 1), (0, 0)])),
    (list[shapely.Polygon], [shapely.box(0, 0, 1, 1)]),
    (affine.Affine, affine.Affine(30.0, 0.0, 500000.0, 0.0, -30.0, 1e16)),
    (list[affine.Affine | None], [affine.Affine.identity(), None]),
    (pyproj.CRS, pyproj.CRS.from_epsg(32633)),
    (pyproj.CRS, pyproj.CRS.from_wkt(LOCAL_CRS)),
    (odc.geo.CRS, odc.geo.CRS(LOCAL_CRS)),
    (odc.geo.CRS, odc.geo.CRS("EPSG:3857")),
    (odc.geo.BoundingBox, odc.geo.BoundingBox(0, 1, 2, 3, crs="EPSG:4326")),
    (odc.geo.Geometry, odc.geo.Geometry(shapely.Point(1, 2), "EPSG:4326")),
    (odc.geo.Geometry, odc.geo.Geometry(shapely.Point(1, 2), None)),
    (odc.geo.Resolution, odc.geo.Resolution(10, -10)),
    (odc.geo.Shape2d, odc.geo.Shape2d(x=3, y=4)),
    (GeoBox, GeoBox((100, 200), affine.Affine(10, 0, 5, 0, -10, 7), "EPSG:32633")),
]


@pytest.mark.parametrize(("hint", "value"), SAME_AS_OFFICIAL, ids=brief)
def test_value_has_the_official_bytes(hint: Any, value: Any) -> None:
    """Each supported type is written and read as by the official package."""
    assert_same(hint, value)


@pytest.mark.parametrize("chunks", [(30, 40), ((30, 70), (150, 50)), ((30, 50, 20), (100, 100))])
def test_geobox_tiles_have_the_official_bytes(chunks: Any) -> None:
    """Tiles, which cannot be compared with ==, keep their chunks, regular or not."""
    tiles = GeoboxTiles(GeoBox((100, 200), affine.Affine.identity(), None), chunks)
    ours, theirs = twins({"x": GeoboxTiles})
    data = ours(tiles)._serialize()
    assert data == theirs(tiles)._serialize()
    decoded = ours._deserialize(data).x
    assert (decoded.base, decoded.chunks) == (tiles.base, tiles.chunks)


@pytest.mark.parametrize("package", ["rasterio.windows", "async_geotiff._windows"])
def test_raster_windows_are_objects(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of rasterio and async-geotiff are known by name, without the package."""
    fields = ["col_off", "row_off", "width", "height"]
    window = make_dataclass("Window", fields)
    window.__module__ = package
    monkeypatch.setitem(sys.modules, package, ModuleType(package))
    data = b'{"row_offset":2,"column_offset":1,"height":4,"width":3}'
    assert_round_trip(window, window(1, 2, 3, 4), data)


def scalars() -> st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]]:
    """An annotation with a strategy for its values."""
    minutes = st.integers(-720, 720).map(lambda minutes: timezone(timedelta(minutes=minutes)))
    zones = st.none() | st.just(UTC) | minutes
    return st.sampled_from(
        [
            (str, st.text()),
            (int, st.integers()),
            (float, st.floats(allow_nan=False, allow_infinity=False)),
            (bool, st.booleans()),
            (bytes, st.binary()),
            (UUID, st.uuids()),
            (Decimal, st.decimals(allow_nan=False)),
            (Color, st.sampled_from(Color)),
            (Level, st.sampled_from(Level)),
            (datetime, st.datetimes(timezones=zones)),
            (date, st.dates()),
            (time, st.times(timezones=zones)),
            (timedelta, st.timedeltas()),
            (Path, st.text("ab/.", min_size=1).map(Path)),
            (Point, st.builds(Point, st.integers(), st.floats(-1e300, 1e300))),
        ]
    )


def hints_with_values() -> st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]]:
    """Nested containers of scalars, with a strategy for their values."""
    keys = st.sampled_from(
        [
            (str, st.text()),
            (int, st.integers()),
            (UUID, st.uuids()),
            (date, st.dates()),
            (float, st.floats(allow_nan=False, allow_infinity=False)),
        ]
    )

    def extend(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.one_of(
            inner.map(lambda pair: (list[pair[0]], st.lists(pair[1], max_size=3))),
            inner.map(lambda pair: (tuple[pair[0], ...], st.lists(pair[1], max_size=3).map(tuple))),
            st.tuples(inner, inner).map(lambda p: (tuple[p[0][0], p[1][0]], st.tuples(p[0][1], p[1][1]))),
            inner.map(lambda pair: (Optional[pair[0]], st.none() | pair[1])),  # noqa: UP045
            st.tuples(keys, inner).map(
                lambda p: (dict[p[0][0], p[1][0]], st.dictionaries(p[0][1], p[1][1], max_size=3))
            ),
        )

    return st.recursive(scalars(), extend, max_leaves=4)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_nested_containers_have_the_official_bytes(data: st.DataObject) -> None:
    """Any nesting of containers is written and read as by the official package."""
    hint, values = data.draw(hints_with_values())
    ours, theirs = twins({"n": int, "x": hint})
    value = data.draw(values)
    encoded = ours(1, value)._serialize()
    assert encoded == theirs(1, value)._serialize()
    assert ours._deserialize(encoded).x == value
    assert theirs._deserialize(encoded).x == value


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(), max_size=50), st.lists(st.timedeltas(), max_size=50))
def test_numbers_and_durations_have_the_official_text(numbers: list[float], durations: list[timedelta]) -> None:
    """Floats of any size, NaN and infinities, and any duration are printed as by the official package."""
    ours, theirs = twins({"numbers": list[float], "durations": list[timedelta]})
    assert ours(numbers, durations)._serialize() == theirs(numbers, durations)._serialize()


class Items(list[Any]):
    pass


@pytest.mark.parametrize(
    "value",
    [
        OrderedDict(b=1, a=2),
        defaultdict(list, a=[1]),
        Counter("aab"),
        Items([1, "a"]),
        type("Bag", (set,), {})([1]),
        Pair(1, [2]),
    ],
    ids=brief,
)
def test_container_subclasses_are_written_as_containers(value: Any) -> None:
    """Subclasses of list, set, dict and tuple have the bytes of their base."""
    ours, theirs = twins({"x": Any})
    assert ours(value)._serialize() == theirs(value)._serialize()


def test_nan_and_infinities_become_null() -> None:
    """JSON has no such numbers; as in the official package they cannot be read back as floats."""
    cls = task_class({"x": list[float | None]})
    assert cls([float("nan"), float("inf"), float("-inf"), 1.0])._serialize() == b"[null,null,null,1.0]"
    assert cls._deserialize(b"[null,1]").x == [None, 1.0]
    with pytest.raises(ArgumentError):
        task_class({"x": float})._deserialize(b"null")


def test_datetimes_outside_of_their_annotation_have_the_official_bytes() -> None:
    """UTC is printed as Z where the official encoder does not look for datetimes, else as +00:00."""
    hints = {
        "a": UserTime,
        "b": Moment,
        "c": Any,
        "d": Sequence[datetime],
        "e": list[datetime],
        "f": dict[datetime, datetime | str],
        "g": Scene,
        "h": dict[str, Any],
    }
    values = (
        UTC_TIME,
        Moment(UTC_TIME),
        [UTC_TIME],
        [UTC_TIME],
        [UTC_TIME],
        {UTC_TIME: UTC_TIME},
        Scene("a", UTC_TIME),
        {"a": Moment(UTC_TIME)},
    )
    ours, theirs = twins(hints)
    assert ours(*values)._serialize() == theirs(*values)._serialize()


def test_offsets_with_seconds_are_exact() -> None:
    """Historic local mean times keep the seconds of their offset, which the official package cannot read."""
    value = datetime(1850, 1, 1, tzinfo=VIENNA)
    data = b'"1850-01-01T00:00:00+01:05:21"'
    cls = task_class({"x": datetime})
    assert cls(value)._serialize() == data
    assert cls._deserialize(data).x == value


@pytest.mark.parametrize(
    ("hint", "value", "data"),
    [
        (Mixed, Mixed.NUMBER, b"1"),
        (Mixed, Mixed.TEXT, b'"a"'),
        (datetime | str, UTC_TIME, b'"2024-01-02T03:04:05.000678+00:00"'),
        (str | datetime, "2024", b'"2024"'),
        (UUID | str, AN_ID, b'"0194ad17-bdaf-ff8e-983b-000000000001"'),
        (Path | int, Path("a"), b'"a"'),
        (Point | Frozen, Point(1, 2.0), b'{"x":1,"y":2.0}'),
        (Box[Box[bytes]], Box(Box(b"\xff", [b""])), b'{"item":{"item":"/w==","more":[""]},"more":[]}'),
        (Pair, Pair(1, "a"), b'[1,"a"]'),
        (Iterable[int], [1], b"[1]"),
        (Model, Model(x=1, at=UTC_TIME), b'{"x":1,"at":"2024-01-02T03:04:05.000678Z"}'),
        (list[Model | None], [Model(x=1, at=UTC_TIME)], b'[{"x":1,"at":"2024-01-02T03:04:05.000678Z"}]'),
        (object, [1], b"[1]"),
        (TypeAliasType("Times", list[datetime]), [UTC_TIME], b'["2024-01-02T03:04:05.000678Z"]'),
        (Annotated[int, {"unit": "m"}], 1, b"1"),
        (
            TimeInterval,
            TimeInterval(datetime(1970, 1, 1, tzinfo=UTC), UTC_TIME.replace(microsecond=4000), end_inclusive=True),
            b'{"start_time":"1970-01-01T00:00:00Z","end_time":"2024-01-02T03:04:05.004Z","end_inclusive":true}',
        ),
        (
            IDInterval,
            IDInterval(UUID(int=5), UUID(int=0), True, False),
            b'{"start_id":{"uuid":"AAAAAAAAAAAAAAAAAAAABQ=="},"start_exclusive":true}',
        ),
    ],
    ids=brief,
)
def test_more_types_than_the_official_package_can_be_read(hint: Any, value: Any, data: bytes) -> None:
    """Unions of texts or dataclasses, mixed enums, pydantic models and our intervals survive a round trip."""
    assert_round_trip(hint, value, data)


@pytest.mark.parametrize(
    ("ours", "theirs", "arguments"),
    [
        (TimeInterval, OfficialTimeInterval, (UTC_TIME, datetime(2024, 2, 1, tzinfo=VIENNA))),
        (TimeInterval, OfficialTimeInterval, (FIRST, LAST, True, False)),
        (IDInterval, OfficialIDInterval, (AN_ID, UUID(int=0), True, True)),
    ],
)
def test_our_intervals_have_the_bytes_of_the_official_ones(ours: Any, theirs: Any, arguments: Any) -> None:
    """Tasks with our interval classes and with the official ones exchange inputs."""
    our_task, their_task = task_class({"x": ours}), task_class({"x": theirs}, tilebox.workflows.Task)
    data = our_task(ours(*arguments))._serialize()
    assert data == their_task(theirs(*arguments))._serialize()
    assert their_task._deserialize(data).x == theirs(*arguments)
    assert our_task._deserialize(data).x == ours(*arguments)


@pytest.mark.parametrize(
    "data",
    [
        b'{"startTime":"2024-01-01T00:00:00Z","endInclusive":true}',
        b'{"start_time":"2024-01-01T00:00:00.123456789+01:00"}',
        b"{}",
        b'{"start":"2024-01-01T00:00:00Z","end":"2024-01-02","end_inclusive":true}',
    ],
)
def test_other_forms_of_time_intervals_are_read(data: bytes) -> None:
    """Camel case, defaults, nanoseconds and the form of old versions are read as by the official package."""
    ours = task_class({"x": TimeInterval})._deserialize(data).x
    theirs = task_class({"x": OfficialTimeInterval}, tilebox.workflows.Task)._deserialize(data).x
    expected = (theirs.start, theirs.end, theirs.start_exclusive, theirs.end_inclusive)
    assert (ours.start, ours.end, ours.start_exclusive, ours.end_inclusive) == expected


@pytest.mark.parametrize(
    ("hint", "data"),
    [
        (int, b'"1"'),
        (int, b"1.0"),
        (int, b"1e3"),
        (int, b"true"),
        (int, b"null"),
        (int, b"[1]"),
        (float, b'"1"'),
        (float, b"true"),
        (str, b"1"),
        (bool, b"1"),
        (bool, b'"true"'),
        (bytes, b'"__77"'),
        (bytes, b'"eA"'),
        (bytes, b'"e_A=="'),
        (bytes, b"1"),
        (UUID, b"5"),
        (UUID, b'"x"'),
        (Decimal, b'"x"'),
        (Color, b'"RED"'),
        (Level, b'"1"'),
        (Level, b"3"),
        (datetime, b'"2024-01-02"'),
        (datetime, b'"2024-01-02T03:04"'),
        (datetime, b"1700000000"),
        (datetime, b'"1700000000"'),
        (datetime, b'"2024-01-02T03:04:61"'),
        (date, b'"2024-01-02T00:00:00"'),
        (date, b'"20240102"'),
        (time, b'"01:02"'),
        (time, b'"25:00:00"'),
        (timedelta, b'"P1W"'),
        (timedelta, b'"P"'),
        (timedelta, b'"PT"'),
        (timedelta, b'"P1DT"'),
        (timedelta, b"1"),
        (Path, b"1"),
        (ZoneInfo, b'"Nope/Nope"'),
        (list[int], b'{"a":1}'),
        (list[int], b'"12"'),
        (tuple[int, int], b"[1]"),
        (tuple[int, int], b"[1,2,3]"),
        (dict[int, int], b'{"a":1}'),
        (dict[str, int], b"[]"),
        (Literal["a"], b'"b"'),
        (int | None, b'"a"'),
        (Corner, b'{"x":1}'),
        (Corner, b"[]"),
        (Options, b"{}"),
        (LateTimes, b"{}"),
        (Times, b'{"at":"2024-01-02T03:04:05"}'),
        (Point, b"{}"),
        (Point, b"[1]"),
        (Point, b'{"x":"1"}'),
        (Tree, b'{"value":"","children":[{"value":"","children":[{"value":1}]}]}'),
        (Duration, b"\xff"),
        (list[Duration], b"[1]"),
        (OfficialTimeInterval, b'"x"'),
        (OfficialTimeInterval, b'{"start_time":"x"}'),
        (shapely.Point, b'"AA=="'),
        (affine.Affine, b'["a"]'),
        (int, b""),
        (int, b"1 2"),
        (str, b'"\xff"'),
    ],
    ids=brief,
)
def test_input_of_another_type_is_refused(hint: Any, data: bytes) -> None:
    """What the official package refuses to read, we refuse with an ArgumentError that names the field."""
    ours, theirs = twins({"x": hint})
    with pytest.raises(ArgumentError, match=r"^Invalid input for task Sample: x"):
        ours._deserialize(data)
    with pytest.raises(Exception):  # noqa: B017, PT011 -- each type has its own errors there
        theirs._deserialize(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"x":1}', "scene: Field required, got {'x': 1}"),
        (
            b'{"x":1.0,"scene":null}',
            "x: Input should be a valid integer, got 1.0; scene: Input should be an object, got None",
        ),
        (
            b'{"x":1,"scene":{"name":"a","taken":"now","points":[{"x":1},{}]}}',
            "scene.taken: invalid RFC 3339 datetime, got 'now'; scene.points[1].x: Field required, got {}",
        ),
        (b"[1]", "Input should be an object, got [1]"),
        (
            b'{"x":1,"scene":{"name":"a","taken":"2024-01-01T00:00:00","points":[{},{},{},{},{},{},{}]}}',
            "".join(f"scene.points[{index}].x: Field required, got {{}}; " for index in range(5)) + "and 2 more",
        ),
    ],
)
def test_refusal_names_all_fields_and_values(data: bytes, message: str) -> None:
    """The message has the path, the rule and the value of each problem."""
    cls = task_class({"x": int, "scene": Scene})
    with pytest.raises(ArgumentError) as caught:
        cls._deserialize(data)
    assert str(caught.value) == f"Invalid input for task Sample: {message}"


@pytest.mark.parametrize(
    ("hint", "data", "value"),
    [
        (float, b"1", 1.0),
        (datetime, b'"2024-01-02 03:04:05.1234567+0100"', None),
        (datetime, b'"2024-01-02t03:04:05z"', None),
        (time, b'"01:02:03-0000"', None),
        (timedelta, b'"pt1h30m5s"', None),
        (timedelta, b'"-P1DT0.25S"', None),
        (timedelta, b'"-P1.5D"', None),
        (timedelta, b'"+P1D"', None),
        (UUID, b'"0194ad17bdafff8e983b000000000001"', None),
        (Decimal, b"1.1", None),
        (Point, b'{"z":[],"x":1}', Point(1)),
        (Corner, b"[1]", Corner(1)),
        (Options, b'{"size":1,"z":2}', {"size": 1}),
        (Scene, b'{"name":"a","taken":"2024-01-02T00:00:00Z","cached":5}', None),
        (str, b' "a" ', "a"),
        (OfficialIDInterval, b'{"startId":{"uuid":"AAAAAAAAAAAAAAAAAAAABQ=="},"end_id":{}}', None),
        (shapely.Geometry, b'{"type":"Point","coordinates":[1.0,2.0]}', shapely.Point(1, 2)),
    ],
    ids=brief,
)
def test_other_accepted_forms_are_read_alike(hint: Any, data: bytes, value: Any) -> None:
    """Input of other writers gives the same value in both packages."""
    ours, theirs = twins({"x": hint})
    decoded, expected = ours._deserialize(data).x, theirs._deserialize(data).x
    if hint is datetime:  # they round, we truncate below a microsecond
        decoded, expected = decoded.replace(microsecond=0), expected.replace(microsecond=0)
    assert (type(decoded), decoded) == (type(expected), expected)
    assert value is None or decoded == value


def test_fields_decide_the_envelope() -> None:
    """No field gives no bytes, one a bare value, more an object; skipped fields do not count."""
    skipped = field(default=9, metadata={"skip_serialization": True})
    cases: list[tuple[dict[str, Any], dict[str, Any], tuple[Any, ...], bytes]] = [
        ({}, {}, (), b""),
        ({"s": int}, {"s": skipped}, (5,), b""),
        ({"x": str}, {}, ("a",), b'"a"'),
        ({"x": str, "s": int}, {"s": skipped}, ("a", 5), b'"a"'),
        ({"y": int, "x": str}, {}, (1, "a"), b'{"y":1,"x":"a"}'),
        ({"y": int, "x": str, "s": int}, {"s": skipped}, (1, "a", 5), b'{"y":1,"x":"a"}'),
    ]
    for hints, defaults, values, data in cases:
        ours, theirs = twins(hints, **defaults)
        assert (ours(*values)._serialize(), theirs(*values)._serialize()) == (data, data)
        assert repr(ours._deserialize(data)) == repr(theirs._deserialize(data))


def test_defaults_fill_missing_fields() -> None:
    """Missing members take the default, fresh for each instance; unknown members and inits are no problem."""
    hints = {"a": int, "b": list[int], "c": str, "d": int}
    defaults = {"b": field(default_factory=list), "c": "x", "d": field(init=False, default=4)}
    ours, theirs = twins(hints, **defaults)
    for data in (b'{"a":1}', b'{"a":1,"zzz":2,"c":"y"}', b'{"a":1,"d":5}'):
        assert repr(ours._deserialize(data)) == repr(theirs._deserialize(data))


@pytest.mark.parametrize(
    ("hint", "data", "message"),
    [
        (
            int | list[date] | None,
            b'["x"]',
            "x(int): Input should be a valid integer, got ['x']; x(list)[0]: invalid RFC 3339 date, got 'x'",
        ),
        (dict[date, int], b'{"now":1}', "x.now[key]: invalid RFC 3339 date, got 'now'"),
    ],
)
def test_refusal_names_members_of_unions_and_keys(hint: Any, data: bytes, message: str) -> None:
    """A problem of a union is told for each member, one of a key as such."""
    with pytest.raises(ArgumentError) as caught:
        task_class({"x": hint})._deserialize(data)
    assert str(caught.value) == f"Invalid input for task Sample: {message}"


def test_default_factories_run_for_each_instance() -> None:
    """A default like a new id is made when an input without it is read."""
    cls = task_class({"a": int, "b": int}, b=field(default_factory=count().__next__))
    assert [cls._deserialize(b'{"a":1}').b for _ in range(3)] == [0, 1, 2]


def test_post_init_runs_on_read_and_may_refuse() -> None:
    """A ValueError of __post_init__ is a refusal of the input."""

    class Positive(Task):
        a: int
        b: int = 0

        def __post_init__(self) -> None:
            self.total = self.a + self.b
            if self.total < 0:
                raise ValueError("negative total")

    assert Positive._deserialize(b'{"a":1,"b":2}').total == 3  # type: ignore[attr-defined]
    with pytest.raises(ArgumentError, match="negative total"):
        Positive._deserialize(b'{"a":-1}')


def test_threads_may_read_a_class_for_the_first_time_at_once() -> None:
    """Readers of recursive types are built on use, by any thread of a runner."""
    value = Tree(b"a", children=[Tree(b"b", children=[Tree(b"c"), Tree(b"d")])] * 20)
    classes = [task_class({"x": Tree}) for _ in range(10)]
    data = classes[0](value)._serialize()
    barrier = Barrier(4)

    def read_all(_thread: int) -> list[Any]:
        barrier.wait(timeout=30)
        return [cls._deserialize(data).x for cls in classes]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_all, range(4))) == [[value] * 10] * 4


def test_subclass_reads_its_own_fields() -> None:
    """The reader of a base class is not used for its subclasses."""

    class Base(Task):
        a: int

    class Derived(Base):
        b: int = 2

    assert Base._deserialize(b"1") == Base(1)
    assert Derived._deserialize(b'{"a":1}') == Derived(1, 2)
    assert Derived(1)._serialize() == b'{"a":1,"b":2}'


class Unsupported:
    def __repr__(self) -> str:
        return "Unsupported()"  # test ids must not hold addresses


@pytest.mark.parametrize(
    ("hints", "values"),
    [
        ({"x": Any}, (Unsupported(),)),
        ({"n": int, "x": Any}, (1, Unsupported())),
        ({"x": Any}, ({"a": [1, Unsupported()]},)),
        ({"n": int, "x": Any}, (1, {"a": [Point(1), (1, {"b": Unsupported()})]})),
        ({"x": Any}, (Scene("a", UTC_TIME, [1j]),)),  # type: ignore[list-item]
        ({"x": Any}, (np.float64(1.5),)),
        ({"x": Any}, ([range(2)],)),
        ({"x": Any}, (type("Text", (str,), {"__module__": "m", "__qualname__": "T.Text"})("a"),)),
        ({"x": Any}, (object,)),
    ],
    ids=repr,
)
def test_unsupported_values_are_refused_with_their_path(hints: Any, values: Any) -> None:
    """The TypeError has the text of the official package."""
    ours, theirs = twins(hints)
    with pytest.raises(TypeError) as caught:
        ours(*values)._serialize()
    with pytest.raises(TypeError) as official:
        theirs(*values)._serialize()
    assert str(caught.value) == str(official.value)


@pytest.mark.parametrize("key", [None, True, (1, 2), frozenset(), Unsupported()])
def test_keys_must_be_texts_or_numbers(key: object) -> None:
    """Mappings with other keys are a TypeError in both packages."""
    ours, theirs = twins({"x": Any})
    with pytest.raises(TypeError, match=r" at \$.a"):
        ours({"a": {key: 1}})._serialize()
    with pytest.raises((TypeError, NotImplementedError)):
        theirs({"a": {key: 1}})._serialize()


@pytest.mark.parametrize("hint", [Unsupported, list[Unsupported], dict[str, Unsupported | None], complex | timezone])
def test_unsupported_annotations_are_refused_on_read(hint: Any) -> None:
    """A type that no input can hold is a TypeError that names it."""
    with pytest.raises(TypeError, match=r"test_serialization\.Unsupported are not supported|datetime\.timezone"):
        task_class({"x": hint})._deserialize(b"1")


def test_unions_of_text_and_bytes_are_refused() -> None:
    """Both are JSON strings, so the text "abcd" could come back as bytes."""
    with pytest.raises(TypeError, match="union of str and bytes"):
        task_class({"x": str | bytes | None})._deserialize(b'"abcd"')


def test_unresolvable_annotation_is_named_at_submission() -> None:
    """A name that exists for type checkers only fails at submission, as in the official package."""
    ours, theirs = twins({"x": "Missing", "y": int})
    for cls in (ours, theirs):
        with pytest.raises(NameError, match="name 'Missing' is not defined"):
            cls(1, 2)._serialize()
    with pytest.raises(NameError, match="Cannot resolve the annotations of Sample"):
        ours._deserialize(b'{"x":1,"y":2}')


def test_lone_surrogates_are_refused() -> None:
    """Text that UTF-8 cannot hold is an error, not other text."""
    for value in ("\ud800", ["\ud800"]):
        with pytest.raises(TypeError, match="surrogates"):
            task_class({"x": Any})(value)._serialize()


def test_writing_loads_no_heavy_package() -> None:
    """Importing tasks and submitting them loads neither pydantic nor pandas, numpy or OpenTelemetry."""
    code = (
        "import sys; from tilebox_local.task import Task\n"
        "class A(Task):\n    x: dict[str, float]\n"
        "assert A({'a': 1.5})._serialize() == b'{\"a\":1.5}'\n"
        "print({'pydantic', 'pydantic_core', 'pandas', 'numpy', 'opentelemetry', 'google', 'tilebox'}"
        " & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class BadText:
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Odd:
    def __str__(self) -> str:
        return "odd \ud800"


CYCLE: list[Any] = []
CYCLE.append(CYCLE)

LOG_VALUES: list[Any] = [
    "a",
    "ü🛰",
    True,
    7,
    -(1 << 63),
    1.5,
    float("inf"),
    None,
    UTC_TIME,
    UTC_TIME.replace(tzinfo=None),
    date(2024, 1, 2),
    time(1, 2, tzinfo=UTC),
    timedelta(seconds=90),
    AN_ID,
    Decimal("1.10"),
    Path("a/b"),
    VIENNA,
    Color.RED,
    Level.LOW,
    Word.ONE,
    Mixed.NOTHING,
    b"\xff\xfe",
    bytearray(b"a"),
    {"a": 1, 2: [None], (1, 2): UTC_TIME, Color.RED: b"x", None: 1e300},
    {},
    Scene("a", UTC_TIME, [Point(1)], b"\xff", cached=5),
    Corner(1, "a"),
    [1, "a", True, 2.5, None, UTC_TIME, b"\xff", [1, None], {"a": 1}, Point(1), float("nan"), Color.RED],
    (1, 2),
    {3},
    frozenset({"a"}),
    [],
    Duration(seconds=5),
    OfficialTimeInterval(UTC_TIME, UTC_TIME),
    shapely.Point(1, 2),
    [shapely.Point(1, 2)],
    shapely.LinearRing([(0, 0), (1, 0), (1, 1), (0, 0)]),
    affine.Affine.identity(),
    pyproj.CRS.from_epsg(4326),
    odc.geo.Geometry(shapely.Point(1, 2), None),
    pd.Timestamp("2024-01-02", tz="UTC"),
    np.float64(1.5),
    np.array([1, 2]),
    [np.int64(1)],
    {"a": np.int64(1)},
    ValueError("bad"),
    Unsupported,
    1j,
    Odd(),
    BadText(),
    [BadText()],
    CYCLE,
    {"a": "\ud800"},
    ["\ud800"],
]


@pytest.mark.parametrize("value", LOG_VALUES, ids=lambda value: type(value).__name__)
def test_log_values_are_those_of_the_official_package(value: Any) -> None:
    """Attributes get the form in which the official package exports them."""
    ours = normalize_log_value(value)
    theirs = official_attribute(official_serialization.normalize_log_value(value))
    assert (type(ours), ours) == (type(theirs), theirs)


@pytest.mark.parametrize(
    ("value", "normalized"),
    [
        (1 << 63, "9223372036854775808"),
        (-(1 << 63) - 1, "-9223372036854775809"),
        ([1 << 64, 1], ["18446744073709551616", 1]),
        ({"a": 1 << 64}, '{"a":18446744073709551616}'),
        ("a\ud800", "a?"),
        (10**5000, "<unserializable int>"),
        (TimeInterval(UTC_TIME, UTC_TIME).start, "2024-01-02T03:04:05.000678+00:00"),
        (Model(x=1, at=UTC_TIME), '{"x":1,"at":"2024-01-02T03:04:05.000678Z"}'),
        pytest.param(memoryview(b"\xff"), "/w==", id="memoryview"),
        ([[1e16, float("nan")]], ["[1e16,null]"]),
        (make_dataclass("Late", [("x", "Missing")])(UTC_TIME), '{"x":"2024-01-02T03:04:05.000678+00:00"}'),
    ],
    ids=brief,
)
def test_log_values_that_no_exporter_could_hold(value: Any, normalized: Any) -> None:
    """Big ints become digits and broken text is mended, where the official package drops the attribute."""
    result = normalize_log_value(value)
    assert (type(result), result) == (type(normalized), normalized)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    )
)
def test_nested_log_values_are_those_of_the_official_package(value: Any) -> None:
    """Any nesting of JSON values and bytes is exported alike."""
    ours = normalize_log_value(value)
    theirs = official_attribute(official_serialization.normalize_log_value(value))
    assert repr(ours) == repr(theirs)


def test_base64_is_the_standard_alphabet() -> None:
    """pydantic's own base64 would be the URL-safe one."""
    data = bytes(range(256))
    assert task_class({"x": bytes})(data)._serialize() == b'"' + b64encode(data) + b'"'
