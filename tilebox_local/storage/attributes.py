"""Attribute values to JSON text and back, without losing anything.

The fast way is one call of orjson. What JSON or SQLite cannot hold (64-bit overflow, NaN, bytes, lone surrogates,
deep nesting, odd keys) takes the slow way, which never fails: it tags, escapes, cuts or spells out.
The tags are documented at the head of schema.sql.

What was cut says so at its end: text "… (N characters)", bytes the same in UTF-8 ("… (N bytes)"), a list the item
"… (N items)", an object the key "…" with the value "(N items)". N is what there was before.
"""

from __future__ import annotations

import base64
import itertools
import math
from operator import length_hint
from typing import TYPE_CHECKING, Any

import orjson

from tilebox_local.storage.redaction import cut_position, redact_attributes, redact_json, screen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "capture_attributes",
    "capture_value",
    "clean_text",
    "decode_attributes",
    "encodable",
    "encode_attributes",
    "text_of",
]

MAX_TEXT_CHARS = 64 * 1024
_NOTE_CHARS = 40
_MAX_DEPTH = 32
_MAX_ITEMS = 10_000
_MAX_INT_BITS = 4 * (MAX_TEXT_CHARS - 10)  # as hexadecimal digits
_MAX_JSON_BYTES = 1024 * 1024
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1
_dumps = orjson.dumps


def clean_text(value: str) -> str:
    """`value` as text that every reader can decode, at most 64 Ki characters long."""
    if len(value) > MAX_TEXT_CHARS + _NOTE_CHARS:  # what was cut once is not cut again
        value = f"{value[: cut_position(value, MAX_TEXT_CHARS)]}… ({len(value)} characters)"
    return encodable(value)


def encodable(value: str) -> str:
    """`value` with lone surrogates spelled out, at its full length."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def text_of(value: object) -> str:
    """`str(value)` cleaned, or a note if the value cannot be shown. Never raises."""
    try:
        return clean_text(str(value))
    except Exception:  # noqa: BLE001 -- user objects may raise anything; telemetry must not
        return f"<unprintable {type(value).__name__}>"


class _Budget:
    """Items that one value may still hold: without it, a cycle with two branches has 2 ** 32 of them."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = _MAX_ITEMS

    def take(self, items: Iterable[Any]) -> tuple[list[Any], int]:
        """As many of the items as may be taken, and how many are left out."""
        taken = list(itertools.islice(items, self.left))
        self.left -= len(taken)
        return taken, max(0, length_hint(items) - len(taken))


def clean_value(value: Any, depth: int = 0, budget: _Budget | None = None) -> Any:
    """`value` as something that orjson encodes exactly and SQLite's JSON functions accept. Never raises."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if _INT64_MIN <= value <= _INT64_MAX else _big_int(value)
    if kind is float:
        return value if math.isfinite(value) else {"$float": _float_text(value)}
    if kind is str:
        return clean_text(value)
    if depth >= _MAX_DEPTH:
        return "… (nested too deeply)"
    try:
        return _clean_object(value, depth, budget or _Budget())
    except Exception:  # noqa: BLE001 -- as above
        return f"<unserializable {kind.__name__}>"


def _clean_object(value: Any, depth: int, budget: _Budget) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _clean_bytes(bytes(value))
    if isinstance(value, dict):
        items, left_out = budget.take(value.items())
        cleaned = {text_of(key): clean_value(item, depth + 1, budget) for key, item in items}
        if left_out:
            return {"$object": cleaned, "$cut": left_out}
        if cleaned and next(iter(cleaned)).startswith("$"):
            return {"$object": cleaned}
        return cleaned
    if isinstance(value, (list, tuple, set, frozenset)):
        items, left_out = budget.take(value)
        cleaned_items = [clean_value(item, depth + 1, budget) for item in items]
        if left_out:
            cleaned_items.append({"$cut": left_out})
        return cleaned_items
    for base in (bool, int, float, str):  # subclasses, e.g. IntEnum and numpy.float64
        if isinstance(value, base):
            return clean_value(base(value), depth, budget)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return clean_value(value.tolist(), depth + 1, budget)
    return clean_text(str(value))


def _clean_bytes(value: bytes) -> dict[str, Any]:
    if len(value) <= MAX_TEXT_CHARS + _NOTE_CHARS:
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    kept = value[: cut_position(value.decode("latin-1"), MAX_TEXT_CHARS)]
    return {"$bytes": base64.b64encode(kept).decode("ascii"), "$cut": len(value) - len(kept)}


def _big_int(value: int) -> Any:
    if value.bit_length() > _MAX_INT_BITS:
        return f"<int of {value.bit_length()} bits>"
    try:
        return {"$int": str(value)}
    except ValueError:  # more digits than sys.set_int_max_str_digits allows
        return {"$int": hex(value)}


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
        return {key if type(key) is str else text_of(key): clean_value(value) for key, value in attributes.items()}
    except Exception as error:  # noqa: BLE001 -- odd mappings; telemetry must not raise
        return {"$invalid": f"<unreadable attributes: {type(error).__name__}>"}


def encode_attributes(attributes: dict[str, Any] | None) -> str | None:
    """JSON object text of captured attributes without their secrets, None for none. Never raises.

    Takes plain text and numbers unchecked, since that is what nearly all attributes are: text that cannot be encoded
    or is too long is repaired here, not on the user's thread.
    """
    if not attributes:
        return None
    try:
        encoded = _dumps(attributes)
        if len(encoded) <= MAX_TEXT_CHARS:
            text = encoded.decode()
            is_clear = screen.knows(attributes) and not screen.is_suspicious(text, 1)
            return text if is_clear else redact_json(text)
    except TypeError:
        pass  # a lone surrogate, or a key that is no text
    return _encode_repaired(attributes)


def _encode_repaired(attributes: dict[str, Any]) -> str:
    # A copy, since the attributes of a span that is still open may change under the writer's hands.
    repaired = redact_attributes({text_of(key): _repair(value) for key, value in attributes.copy().items()})
    encoded = _dumps(repaired)
    if len(encoded) > _MAX_JSON_BYTES:
        encoded = _dumps({_shorten(key, 200): _shorten_value(value) for key, value in repaired.items()})
    return encoded.decode()


def _repair(value: Any) -> Any:
    # Everything but bare text was cleaned when it was captured.
    return clean_text(value) if type(value) is str else value


def _shorten_value(value: Any) -> Any:
    if type(value) is str:
        return _shorten(value, 1000)
    text = _dumps(value).decode()
    return value if len(text) <= 1000 else _shorten(text, 1000, " of JSON")


def _shorten(text: str, limit: int, kind: str = "") -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters{kind})"


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
        match value:
            case [*kept, {"$cut": int(left_out), **others}] if not others:
                return [*map(_untag, kept), f"… ({len(kept) + left_out} items)"]
        return [_untag(item) for item in value]
    if not isinstance(value, dict):
        return value
    match list(value.items()):
        case [("$int", content)]:
            return int(content, 0)
        case [("$float", content)]:
            return float(content)
        case [("$bytes", content)]:
            return base64.b64decode(content)
        case [("$bytes", content), ("$cut", left_out)]:
            raw = base64.b64decode(content)
            return raw + f"… ({len(raw) + left_out} bytes)".encode()
        case [("$object", content)]:
            return {key: _untag(item) for key, item in content.items()}
        case [("$object", content), ("$cut", left_out)]:
            return {key: _untag(item) for key, item in content.items()} | {"…": f"({len(content) + left_out} items)"}
    return {key: _untag(item) for key, item in value.items()}
