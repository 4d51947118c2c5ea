"""Attribute values to JSON text and back, without losing anything.

The fast way is one call of orjson. What JSON or SQLite cannot hold (64-bit overflow, NaN, bytes, lone surrogates,
deep nesting, odd keys) takes the slow way, which never fails: it tags, escapes, cuts or spells out.
The tags are documented at the head of schema.sql.
"""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["capture_attributes", "capture_value", "clean_text", "decode_attributes", "encode_attributes"]

MAX_TEXT_CHARS = 64 * 1024
_MAX_DEPTH = 32
_MAX_ITEMS = 10_000
_MAX_JSON_BYTES = 1024 * 1024
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1
_dumps = orjson.dumps


def clean_text(value: str) -> str:
    """`value` as text that every reader can decode, at most 64 Ki characters long."""
    if len(value) > MAX_TEXT_CHARS:
        value = f"{value[:MAX_TEXT_CHARS]}… ({len(value)} characters)"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def clean_value(value: Any, depth: int = 0) -> Any:
    """`value` as something that orjson encodes exactly and SQLite's JSON functions accept. Never raises."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if _INT64_MIN <= value <= _INT64_MAX else {"$int": clean_text(_int_text(value))}
    if kind is float:
        return value if math.isfinite(value) else {"$float": _float_text(value)}
    if kind is str:
        return clean_text(value)
    if kind in (bytes, bytearray, memoryview):
        return {"$bytes": base64.b64encode(bytes(value)[:MAX_TEXT_CHARS]).decode("ascii")}
    if depth >= _MAX_DEPTH:
        return "… (nested too deeply)"
    try:
        return _clean_container(value, depth)
    except Exception:  # noqa: BLE001 -- user objects may raise anything; telemetry must not
        return f"<unserializable {kind.__name__}>"


def _clean_container(value: Any, depth: int) -> Any:
    if isinstance(value, dict):
        cleaned = {clean_text(str(key)): clean_value(item, depth + 1) for key, item in list(value.items())[:_MAX_ITEMS]}
        if len(cleaned) == 1 and next(iter(cleaned)).startswith("$"):
            return {"$object": cleaned}
        return cleaned
    if isinstance(value, (list, tuple, set, frozenset)):
        return [clean_value(item, depth + 1) for item in list(value)[:_MAX_ITEMS]]
    if isinstance(value, (bool, int, float, str, bytes)):  # subclasses, e.g. IntEnum and numpy.float64
        for base in (bool, int, float, str, bytes):
            if isinstance(value, base):
                return clean_value(base(value), depth)  # type: ignore[arg-type]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return clean_value(value.tolist(), depth + 1)
    return clean_text(str(value))


def _int_text(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than sys.set_int_max_str_digits allows
        return hex(value)


def _float_text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def capture_value(value: Any) -> Any:
    """`value` as it is now, in a form that `encode_attributes` takes: later changes of a list do not show."""
    return clean_value(value)


def capture_attributes(attributes: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A captured copy of `attributes`; None if there are none. Never raises."""
    if not attributes:
        return None
    try:
        return {key if type(key) is str else str(key): clean_value(value) for key, value in attributes.items()}
    except Exception as error:  # noqa: BLE001 -- odd mappings; telemetry must not raise
        return {"$invalid": f"<unreadable attributes: {type(error).__name__}>"}


def encode_attributes(attributes: dict[str, Any] | None) -> str | None:
    """JSON object text of captured attributes, None for none. Never raises.

    Takes plain text and numbers unchecked, since that is what nearly all attributes are: text that cannot be encoded
    or is too long is repaired here, not on the user's thread.
    """
    if not attributes:
        return None
    try:
        encoded = _dumps(attributes)
        if len(encoded) <= MAX_TEXT_CHARS:
            return encoded.decode()
    except TypeError:
        pass
    return _encode_repaired(attributes)


def _encode_repaired(attributes: dict[str, Any]) -> str:
    repaired = {clean_text(str(key)): _repair(value) for key, value in attributes.items()}
    encoded = _dumps(repaired)
    if len(encoded) > _MAX_JSON_BYTES:
        cut = {key[:200]: _dumps(value).decode("utf-8", "replace")[:1000] for key, value in repaired.items()}
        encoded = _dumps(cut)
    return encoded.decode()


def _repair(value: Any) -> Any:
    # Everything but bare text was cleaned when it was captured.
    return clean_text(value) if type(value) is str else value


def decode_attributes(text: str | None) -> dict[str, Any]:
    """The attributes that `encode_attributes` wrote."""
    if text is None:
        return {}
    loaded = orjson.loads(text)
    if "$" in text:
        return {key: _untag(value) for key, value in loaded.items()}
    return loaded  # type: ignore[no-any-return]


def _untag(value: Any) -> Any:
    if isinstance(value, list):
        return [_untag(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        tag, content = next(iter(value.items()))
        match tag:
            case "$int":
                return int(content, 0)
            case "$float":
                return float(content)
            case "$bytes":
                return base64.b64decode(content)
            case "$object":
                return {key: _untag(item) for key, item in content.items()}
    return {key: _untag(item) for key, item in value.items()}
