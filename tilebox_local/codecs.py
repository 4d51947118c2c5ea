"""The JSON forms of types that are not JSON by nature, as in the official package's task inputs.

Does not do: containers, dataclasses, enums (serialization.py). No third-party package is imported before the
caller has handed over one of its types, by which time the caller has imported it.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Codec", "bytes_to_text", "datetime_to_text", "find_codec", "is_message_type", "text_to_bytes"]


@dataclass(frozen=True, slots=True)
class Codec:
    """JSON form of one type.

    `encode` returns str, numbers, None, orjson.Fragment, or a list or dict of them. `decode` gets what a JSON
    parser makes of it and raises an exception for anything of another form. None: pydantic reads this type.
    """

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any] | None


def is_message_type(kind: Any) -> bool:
    """Whether this is a protobuf message class, told by its methods: protobuf need not be installed."""
    return hasattr(kind, "SerializeToString") and hasattr(kind, "FromString")


def find_codec(kind: type) -> Codec | None:
    """The codec of a class or of its nearest base that has one; None if there is none."""
    codec = _EXACT.get(kind)
    if codec is not None:
        return codec
    if is_message_type(kind):
        return Codec(lambda value: bytes_to_text(value.SerializeToString()), _message_decoder(kind))
    if issubclass(kind, PurePath):
        return Codec(str, lambda value: kind(_text(value)))
    for base in kind.__mro__:
        if base in _WITH_SUBCLASSES:
            return _EXACT[base]
        provider = _PROVIDERS.get(base.__module__.partition(".")[0])
        codec = provider(base) if provider is not None else None
        if codec is not None:
            return codec
    return None


def bytes_to_text(value: Any) -> str:
    """Bytes-like object as standard base64 with padding."""
    return b64encode(value).decode("ascii")


def text_to_bytes(value: Any) -> bytes:
    """Bytes of standard base64 with padding. Raises ValueError."""
    return b64decode(_text(value), validate=True)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {type(value).__name__}")  # noqa: TRY004 -- pydantic reports ValueErrors
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")  # noqa: TRY004
    return value


_OFFSET = r"(?:[Zz]|[+-]\d\d:?\d\d(?::\d\d(?:\.\d+)?)?)?"
_TIME_FORM = re.compile(rf"\d\d:\d\d:\d\d(?:\.\d+)?{_OFFSET}", re.ASCII)
_DATETIME_FORM = re.compile(rf"\d{{4}}-\d\d-\d\d[Tt ]{_TIME_FORM.pattern}", re.ASCII)
_DATE_FORM = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION_FORM = re.compile(
    rf"([+-]?)P(?=[\dT])(?:{_NUMBER}D)?(?:T(?=\d)(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?",
    re.ASCII | re.IGNORECASE,
)
_DURATION_UNITS_US = (86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000)


def datetime_to_text(value: datetime | time) -> str:
    """ISO 8601 with UTC written as Z."""
    text = value.isoformat()
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


def _text_to_datetime(value: Any) -> datetime:
    if _DATETIME_FORM.fullmatch(_text(value)) is None:
        raise ValueError("invalid RFC 3339 datetime")
    return datetime.fromisoformat(value.upper())


def _text_to_date(value: Any) -> date:
    if _DATE_FORM.fullmatch(_text(value)) is None:
        raise ValueError("invalid RFC 3339 date")
    return date.fromisoformat(value)


def _text_to_time(value: Any) -> time:
    if _TIME_FORM.fullmatch(_text(value)) is None:
        raise ValueError("invalid RFC 3339 time")
    return time.fromisoformat(value.upper())


def _timedelta_to_text(value: timedelta) -> str:
    sign = ""
    if value.days < 0:
        sign, value = "-", -value
    seconds = (
        f"{value.seconds}.{value.microseconds:06d}".rstrip("0").rstrip(".") if value.microseconds else value.seconds
    )
    days = f"{value.days}D" if value.days or not seconds else ""
    return f"{sign}P{days}T{seconds}S" if seconds else f"{sign}P{days}"


def _text_to_timedelta(value: Any) -> timedelta:
    match = _DURATION_FORM.fullmatch(_text(value))
    if match is None:
        raise ValueError("invalid ISO 8601 duration of days, hours, minutes and seconds")
    microseconds = sum(
        round(Decimal(number) * unit)
        for number, unit in zip(match.groups()[1:], _DURATION_UNITS_US, strict=True)
        if number is not None
    )
    return timedelta(microseconds=-microseconds if match[1] == "-" else microseconds)


_EXACT: dict[type, Codec] = {
    bytes: Codec(bytes_to_text, text_to_bytes),
    bytearray: Codec(bytes_to_text, lambda value: bytearray(text_to_bytes(value))),
    memoryview: Codec(bytes_to_text, lambda value: memoryview(text_to_bytes(value))),
    datetime: Codec(datetime.isoformat, _text_to_datetime),
    date: Codec(date.isoformat, _text_to_date),
    time: Codec(datetime_to_text, _text_to_time),
    timedelta: Codec(_timedelta_to_text, _text_to_timedelta),
    Decimal: Codec(str, None),
    UUID: Codec(str, None),
    ZoneInfo: Codec(lambda value: value.key, lambda value: ZoneInfo(_text(value))),
}
_WITH_SUBCLASSES = (datetime, UUID, ZoneInfo)  # pandas.Timestamp is a datetime


def _message_decoder(kind: Any) -> Callable[[Any], Any]:
    return lambda value: kind.FromString(text_to_bytes(value))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _intervals(base: Any) -> Codec | None:
    """Intervals of ours, and those of the official package, which have the same fields."""
    if base.__name__ == "TimeInterval":
        return Codec(_time_interval_to_json, lambda value: _json_to_time_interval(base, _mapping(value)))
    if base.__name__ == "IDInterval":
        return Codec(_id_interval_to_json, lambda value: _json_to_id_interval(base, _mapping(value)))
    if base.__name__ == "SpatialFilter":
        return Codec(_spatial_filter_to_json, lambda value: _json_to_spatial_filter(base, _mapping(value)))
    return None


def _timestamp(value: datetime) -> str:
    """Protobuf's JSON form: UTC, with 0, 3 or 6 digits of a second."""
    if value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    timespec = "seconds" if not value.microsecond else "microseconds" if value.microsecond % 1000 else "milliseconds"
    return f"{value.isoformat(timespec=timespec)}Z"


def _flags(value: Any) -> dict[str, bool]:
    # Protobuf's JSON form leaves out fields with their default value.
    return {name: True for name in ("start_exclusive", "end_inclusive") if getattr(value, name)}


def _get(message: dict[str, Any], name: str, default: Any) -> Any:
    """A field under its name or, as protobuf's JSON form also allows, in lowerCamelCase."""
    head, *tail = name.split("_")
    return message.get(name, message.get(head + "".join(word.title() for word in tail), default))


def _time_interval_to_json(value: Any) -> dict[str, Any]:
    return {"start_time": _timestamp(value.start), "end_time": _timestamp(value.end), **_flags(value)}


def _json_to_time_interval(kind: Any, value: dict[str, Any]) -> Any:
    start_exclusive, end_inclusive = (
        bool(_get(value, "start_exclusive", False)),
        bool(_get(value, "end_inclusive", False)),
    )
    if "start" in value or "end" in value:  # written by old versions of the official package
        start, end = datetime.fromisoformat(value["start"]), datetime.fromisoformat(value["end"])
        return kind(start, end, start_exclusive, end_inclusive)
    start, end = (
        datetime.fromisoformat(_get(value, name, "1970-01-01T00:00:00Z")).astimezone(UTC)
        for name in ("start_time", "end_time")
    )
    # An unset message means an empty interval.
    is_unset = start == end == _EPOCH and not start_exclusive and not end_inclusive
    return kind(start, end, is_unset or start_exclusive, end_inclusive)


def _id_interval_to_json(value: Any) -> dict[str, Any]:
    ids = {"start_id": value.start_id, "end_id": value.end_id}
    return {name: {"uuid": bytes_to_text(uuid.bytes)} for name, uuid in ids.items() if uuid.int} | _flags(value)


def _json_to_id_interval(kind: Any, value: dict[str, Any]) -> Any:
    start_id, end_id = (
        UUID(bytes=text_to_bytes(_mapping(_get(value, name, {})).get("uuid", "")) or bytes(16))
        for name in ("start_id", "end_id")
    )
    return kind(
        start_id=start_id,
        end_id=end_id,
        start_exclusive=bool(_get(value, "start_exclusive", False)),
        end_inclusive=bool(_get(value, "end_inclusive", False)),
    )


_SPATIAL_ENUMS = {"mode": "SPATIAL_FILTER_MODE_", "coordinate_system": "SPATIAL_COORDINATE_SYSTEM_"}


def _spatial_filter_to_json(value: Any) -> dict[str, Any]:
    import shapely

    message: dict[str, Any] = {"geometry": {"wkb": bytes_to_text(shapely.to_wkb(value.geometry))}}
    for name, prefix in _SPATIAL_ENUMS.items():
        member = getattr(value, name)
        if member is not None:
            message[name] = prefix + member.name
    return message


def _json_to_spatial_filter(kind: Any, value: dict[str, Any]) -> Any:
    import shapely

    geometry = shapely.from_wkb(text_to_bytes(_mapping(_get(value, "geometry", {})).get("wkb")))
    names = {name: _get(value, name, "").removeprefix(prefix).lower() for name, prefix in _SPATIAL_ENUMS.items()}
    return kind.parse({"geometry": geometry, **{name: member for name, member in names.items() if member}})


def _shapely(base: Any) -> Codec | None:
    if base.__name__ != "Geometry":
        return None
    return Codec(_geometry_to_json, _json_to_geometry)


def _geometry_to_json(value: Any) -> Any:
    import shapely
    from shapely.geometry import mapping

    # WKB has no linear rings: one would come back as a line.
    return mapping(value) if value.geom_type == "LinearRing" else bytes_to_text(shapely.to_wkb(value))


def _json_to_geometry(value: Any) -> Any:
    import shapely
    from shapely.geometry import shape

    if isinstance(value, str):
        return shapely.from_wkb(text_to_bytes(value))
    if _mapping(value).get("type") == "LinearRing":
        return shape(value)
    return shapely.from_geojson(orjson.dumps(value))


def _affine(base: Any) -> Codec | None:
    if base.__name__ != "Affine":
        return None
    return Codec(lambda value: list(value[:6]), lambda value: base(*value))


def _pyproj(base: Any) -> Codec | None:
    if base.__name__ != "CRS":
        return None

    def encode(value: Any) -> str:
        authority = value.to_authority()
        return ":".join(authority) if authority is not None else str(value.to_wkt())

    return Codec(encode, lambda value: base.from_user_input(_text(value)))


def _window(base: Any) -> Codec | None:
    """Windows of rasterio and async-geotiff."""
    if base.__name__ != "Window":
        return None
    names = {"row_offset": "row_off", "column_offset": "col_off", "height": "height", "width": "width"}
    return Codec(
        lambda value: {name: getattr(value, attribute) for name, attribute in names.items()},
        lambda value: base(value["column_offset"], value["row_offset"], value["width"], value["height"]),
    )


def _odc(base: Any) -> Codec | None:
    if base.__name__ == "CRS":
        return Codec(_odc_crs, lambda value: base(_text(value)))
    if base.__name__ == "Geometry":
        return Codec(
            lambda value: {"geometry": _geojson(value.geom), "crs": _odc_crs(value.crs)},
            lambda value: base(value["geometry"], value.get("crs")),
        )
    if base.__name__ == "BoundingBox":
        return Codec(
            lambda value: {"bounds": list(value), "crs": _odc_crs(value.crs)},
            lambda value: base(*value["bounds"], crs=value.get("crs")),
        )
    if base.__name__ in {"XY", "Resolution", "Index2d", "Shape2d"}:
        return Codec(lambda value: {"x": value.x, "y": value.y}, lambda value: base(x=value["x"], y=value["y"]))
    if base.__name__ == "GeoBox":
        return Codec(_geobox_to_json, lambda value: _json_to_geobox(base, value))
    if base.__name__ == "GeoboxTiles":
        return Codec(_tiles_to_json, lambda value: _json_to_tiles(base, value))
    return None


def _geojson(geometry: Any) -> orjson.Fragment:
    import shapely

    return orjson.Fragment(shapely.to_geojson(geometry))


def _odc_crs(value: Any) -> str | None:
    if value is None:
        return None
    authority = value.authority
    return f"{authority[0]}:{authority[1]}" if all(authority) else str(value.wkt)


def _geobox_to_json(value: Any) -> dict[str, Any]:
    return {
        "shape": [value.shape.y, value.shape.x],
        "affine": list(value.affine[:6]),
        "crs": _odc_crs(value.crs),
    }


def _json_to_geobox(kind: Any, value: Any) -> Any:
    from affine import Affine

    return kind(value["shape"], Affine(*value["affine"]), value.get("crs"))


def _is_regular(chunks: tuple[int, ...]) -> bool:
    return bool(chunks) and set(chunks[:-1]) <= {chunks[0]} and chunks[-1] <= chunks[0]


def _tiles_to_json(value: Any) -> dict[str, Any]:
    y, x = value.chunks
    chunking: dict[str, Any]
    if _is_regular(y) and _is_regular(x):
        chunking = {"tile_shape": [y[0], x[0]]}
    else:
        chunking = {"chunks": {"y": list(y), "x": list(x)}}
    return {"base": _geobox_to_json(value.base), "chunking": chunking}


def _json_to_tiles(kind: Any, value: Any) -> Any:
    from odc.geo.geobox import GeoBox

    chunking = value["chunking"]
    chunks = chunking.get("tile_shape") or (chunking["chunks"]["y"], chunking["chunks"]["x"])
    return kind(_json_to_geobox(GeoBox, value["base"]), chunks)


#: Finds the codec of a class by the top-level package that defines it.
_PROVIDERS: dict[str, Callable[[Any], Codec | None]] = {
    "affine": _affine,
    "async_geotiff": _window,
    "odc": _odc,
    "pyproj": _pyproj,
    "rasterio": _window,
    "shapely": _shapely,
    "tilebox": _intervals,
    "tilebox_local": _intervals,
}
