"""Task inputs as JSON bytes, and attribute values of logs and spans.

Does not do: the rules of task classes (task.py), the JSON form of single types (codecs.py).

Written is what a value is, read is what its annotation says. So the bytes equal those of the official package
and submitting a job never loads pydantic. Reading goes through one strict pydantic type adapter per class.
"""

from __future__ import annotations

import sys
import threading
import typing
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from functools import partial, wraps
from math import isfinite
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, Union, get_args, get_origin
from weakref import WeakKeyDictionary

import orjson

from tilebox_local.codecs import bytes_to_text, datetime_to_text, find_codec, is_message_type
from tilebox_local.errors import ArgumentError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, TypeAdapter
    from pydantic_core import CoreSchema, ValidationError

__all__ = ["decode_fields", "encode_fields", "normalize_log_value"]

#: Metadata key of dataclass fields that stay out of task inputs and logs.
SKIP = "skip_serialization"

_T = TypeVar("_T")
_R = TypeVar("_R")


def _per_class(function: Callable[[type], _R]) -> Callable[[type], _R]:
    """Cache by class without keeping the class alive; the results must not refer to it."""
    cache: WeakKeyDictionary[type, _R] = WeakKeyDictionary()

    @wraps(function)
    def cached(cls: type) -> _R:
        try:
            return cache[cls]
        except KeyError:
            result = cache[cls] = function(cls)
            return result

    return cached


def _serialized_fields(cls: type) -> list[Field[Any]]:
    return [field for field in fields(cls) if not field.metadata.get(SKIP, False)]


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise NameError(
            f"Cannot resolve the annotations of {cls.__qualname__}: {error}. "
            f"Define or import the type at module level, and not only under TYPE_CHECKING."
        ) from error


class _Form(Enum):
    """Three ways to write the same value; they differ in datetimes and mapping keys."""

    ISO = "iso"  #: below an annotation that says datetime: UTC as +00:00
    NATIVE = "native"  #: everywhere else in task inputs: UTC as Z, as the official encoder does
    LOG = "log"  #: log attributes: UTC as +00:00, and any mapping key


_Encoder: TypeAlias = Callable[[Any, _Form], Any]


class _UnsupportedError(Exception):
    """A value has no JSON form; `path` grows while the error leaves the containers around it."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.path = ""

    def below(self, step: str) -> _UnsupportedError:
        self.path = step + self.path
        return self

    @classmethod
    def of_type(cls, kind: type) -> _UnsupportedError:
        return cls(f"Objects of type {kind.__module__}.{kind.__qualname__} are not supported")


def encode_fields(value: Any) -> bytes:
    """The fields of a dataclass instance as a task input.

    No field gives empty bytes, one field its bare JSON, or the wire bytes of a protobuf message, more fields
    a compact JSON object in field order. Fields with the metadata `skip_serialization` count as absent.

    Raises:
        TypeError: If a value has no JSON form; the message has its path.
        NameError: If an annotation refers to a name that does not exist at module level.
    """
    layout = _layout(type(value))
    if not layout:
        return b""
    try:
        if len(layout) > 1:
            return orjson.dumps(_record_to_json(layout, value))
        name, form = layout[0]
        content = getattr(value, name)
        if type(content) is str:
            return orjson.dumps(content)
        if is_message_type(type(content)):
            return typing.cast("bytes", content.SerializeToString())
        return orjson.dumps(_to_json(content, form))
    except _UnsupportedError as error:
        raise TypeError(f"{error} at ${error.path}") from None


@_per_class
def _layout(cls: type) -> tuple[tuple[str, _Form], ...]:
    hints = _hints(cls)
    return tuple(
        (field.name, _Form.ISO if _names_datetime(hints.get(field.name), frozenset()) else _Form.NATIVE)
        for field in _serialized_fields(cls)
    )


@_per_class
def _names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in _serialized_fields(cls))


_TRANSPARENT = (Union, UnionType, list, tuple, dict, set, frozenset)


def _names_datetime(hint: Any, seen: frozenset[Any]) -> bool:
    """Whether the official encoder finds a datetime below this annotation; it looks into few constructs."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:  # first, since metadata need not be hashable
        return _names_datetime(args[0], seen)
    if hint in seen:
        return False
    seen |= {hint}
    if origin in _TRANSPARENT:
        return any(_names_datetime(arg, seen) for arg in args)
    if not isinstance(hint, type):
        return False
    if is_dataclass(hint) and find_codec(hint) is None:
        return any(_names_datetime(inner, seen) for inner in _hints(hint).values())
    return issubclass(hint, datetime)


def _to_json(value: Any, form: _Form) -> Any:
    """What orjson can write: str, bool, None, numbers, lists, dicts with str keys, fragments."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    return (_BUILTIN_ENCODERS.get(kind) or _encoder(kind))(value, form)


def _int_to_json(value: int, _form: _Form) -> Any:
    return value if -(1 << 63) <= value < 1 << 64 else orjson.Fragment(str(value))


def _float_to_json(value: float, _form: _Form) -> Any:
    if -1e16 < value < 1e16:
        return value
    # orjson writes 1e+16, the official package 1e16.
    return orjson.Fragment(repr(value).replace("e+", "e")) if isfinite(value) else None


def _sequence_to_json(value: Any, form: _Form) -> list[Any]:
    items = []
    for index, item in enumerate(value):
        try:
            items.append(_to_json(item, form))
        except _UnsupportedError as error:
            raise error.below(f"[{index}]")  # noqa: B904 -- it is the same error
    return items


def _mapping_to_json(value: Any, form: _Form) -> dict[str, Any]:
    members = {}
    for key, item in value.items():
        try:
            members[key if type(key) is str else _key_to_json(key, form)] = _to_json(item, form)
        except _UnsupportedError as error:
            raise error.below(f".{key}")  # noqa: B904
    return members


def _key_to_json(key: Any, form: _Form) -> str:
    if form is _Form.LOG or isinstance(key, str):
        return str(key.value if isinstance(key, Enum) and form is not _Form.LOG else key)
    if isinstance(key, float) and not isfinite(key):
        return str(key)
    member = _to_json(key, _Form.NATIVE)
    if isinstance(member, str):
        return member
    if isinstance(member, int | float | orjson.Fragment) and not isinstance(member, bool):
        return orjson.dumps(member).decode()
    raise _UnsupportedError("Only dicts with str-like or number-like keys are supported")


def _record_to_json(layout: Iterable[tuple[str, _Form]], value: Any) -> dict[str, Any]:
    members = {}
    for name, form in layout:
        try:
            members[name] = _to_json(getattr(value, name), form)
        except _UnsupportedError as error:
            raise error.below(f".{name}")  # noqa: B904
    return members


def _dataclass_to_json(value: Any, form: _Form) -> dict[str, Any]:
    kind = type(value)
    layout = _layout(kind) if form is _Form.ISO else [(name, form) for name in _names(kind)]
    return _record_to_json(layout, value)


def _datetime_to_json(value: datetime, form: _Form) -> str:
    return datetime_to_text(value) if form is _Form.NATIVE else value.isoformat()


def _enum_to_json(value: Enum, form: _Form) -> Any:
    return _to_json(value.value, form)


def _model_to_json(value: Any, form: _Form) -> Any:
    return _to_json(value.model_dump(mode="json"), form)


_BUILTIN_SEQUENCES = (list, tuple, set, frozenset)
_BUILTIN_ENCODERS: dict[type, _Encoder] = {
    int: _int_to_json,
    float: _float_to_json,
    **dict.fromkeys(_BUILTIN_SEQUENCES, _sequence_to_json),
    dict: _mapping_to_json,
    datetime: _datetime_to_json,
    bytes: lambda value, _form: bytes_to_text(value),
}


@_per_class
def _encoder(kind: type) -> _Encoder:
    codec = find_codec(kind)
    if codec is not None:
        encode = codec.encode
        return lambda value, form: _to_json(encode(value), form)
    if issubclass(kind, Enum):
        return _enum_to_json
    if is_dataclass(kind):
        return _dataclass_to_json
    if issubclass(kind, dict):
        return _mapping_to_json
    if issubclass(kind, _BUILTIN_SEQUENCES):
        return _sequence_to_json
    if hasattr(kind, "__pydantic_serializer__") and hasattr(kind, "model_dump"):
        return _model_to_json
    if kind is orjson.Fragment:
        return lambda value, _form: value
    raise _UnsupportedError.of_type(kind)


def normalize_log_value(value: object) -> str | bool | int | float | list[str | bool | int | float]:
    """The form in which an attribute of a log record, span or span event is stored. Never raises.

    str, bool, int of 64 bits and float stay. Bigger ints become their digits, None becomes "null". Lists,
    tuples and sets become lists, with scalars kept and other items as JSON text. Everything else has the form
    it has in a task input; dicts and dataclasses as JSON text. What has no such form becomes `str(value)`.
    """
    kind = type(value)
    if kind is bool or kind is float:
        return typing.cast("bool | float", value)
    try:
        if kind is str or kind is int:
            return _log_scalar(value)
        if value is None:
            return "null"
        if kind in _BUILTIN_SEQUENCES:
            return [_log_item(item) for item in value]  # type: ignore[attr-defined]
        content = _to_json(value, _Form.LOG)
        if isinstance(content, list):
            return [_log_item(item) for item in content]
        return _log_item(content)
    except Exception:  # noqa: BLE001 -- a log call must not fail a task
        return _log_fallback(value)


def _log_scalar(value: Any) -> str | bool | int | float:
    if isinstance(value, str) and not value.isascii():
        value.encode()  # raises for lone surrogates, which no JSON or UTF-8 text can hold
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return str(value)
    return typing.cast("str | bool | int | float", value)


def _log_item(value: Any) -> str | bool | int | float:
    kind = type(value)
    if kind in (str, bool, int) or (kind is float and isfinite(value)):
        return _log_scalar(value)
    content = _to_json(value, _Form.LOG)
    if isinstance(content, str | bool | int | float):
        return _log_scalar(content)
    return orjson.dumps(content).decode()


def _log_fallback(value: object) -> str:
    try:
        return str(value).encode("utf-8", errors="replace").decode("utf-8")
    except Exception:  # noqa: BLE001 -- __str__ is the user's code
        return f"<unserializable {type(value).__name__}>"


_READER = "__tilebox_input_reader__"
_MAX_PROBLEMS = 5  # in the message of an error


def decode_fields(cls: type[_T], data: bytes) -> _T:
    """An instance of a dataclass from a task input; the inverse of `encode_fields`.

    Types are checked strictly: 1 is no text and 1.0 no int, but 1 is a float. Unknown members are ignored,
    missing ones take the field's default. The first call for a class builds its reader and loads pydantic.

    Raises:
        ArgumentError: If the input does not fit the fields; the message names them.
        TypeError: If a field's annotation has no JSON form.
        NameError: If an annotation refers to a name that does not exist at module level.
    """
    reader = cls.__dict__.get(_READER)
    if reader is None:
        reader = prepare_fields(cls)
    return typing.cast("_T", reader(data))


def prepare_fields(cls: type) -> Callable[[bytes], Any]:
    """Build the reader of a dataclass now, which takes some 10 ms, and not when the first input arrives.

    Raises as `decode_fields`, for an annotation.
    """
    # On the class itself, not inherited: a weak cache would keep the class alive through its reader.
    reader = _make_reader(cls)
    type.__setattr__(cls, _READER, reader)
    return reader


def _make_reader(cls: type) -> Callable[[bytes], Any]:
    included = _serialized_fields(cls)
    if not included:
        return lambda _data: cls()
    if len(included) > 1:
        return _validator(cls, "", _adapter(_WireTypes().of(cls, {})))

    name = included[0].name
    hint = _hints(cls).get(name, included[0].type)
    message, is_optional = _message_type(hint)
    if message is not None:
        return partial(_read_message, cls, name, message, is_optional)
    validate = _validator(cls, name, _adapter(_WireTypes().of(hint, {})))
    return lambda data: cls(**{name: validate(data)})


def _message_type(hint: Any) -> tuple[Any, bool]:
    """(protobuf message class or None, whether None is allowed) of `M`, `M | None` and Annotated ones."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _message_type(args[0])
    if origin in (Union, UnionType) and len(args) == 2 and NoneType in args:
        return _message_type(args[args[0] is NoneType])[0], True
    return (hint, False) if isinstance(hint, type) and is_message_type(hint) else (None, False)


def _read_message(cls: type, name: str, message: Any, is_optional: bool, data: bytes) -> Any:
    if is_optional and data == b"null":
        return cls(**{name: None})
    try:
        value = message.FromString(data)
    except Exception as error:
        raise ArgumentError(f"Invalid input for task {cls.__name__}: {name}: {error}") from error
    return cls(**{name: value})


def _validator(cls: type, prefix: str, adapter: TypeAdapter[Any]) -> Callable[[bytes], Any]:
    from pydantic_core import ValidationError

    validate_json = adapter.validate_json

    def validate(data: bytes) -> Any:
        try:
            return validate_json(data, strict=True)
        except ValidationError as error:
            raise ArgumentError(_describe(cls, prefix, error)) from error

    return validate


def _describe(cls: type, prefix: str, error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_url=False, include_context=False):
        path = (prefix + "".join(map(_step, problem["loc"]))).removeprefix(".")
        text = f"{problem['msg'].removeprefix('Value error, ')}, got {problem['input']!r:.60}"
        problems.append(f"{path}: {text}" if path else text)
    if len(problems) > _MAX_PROBLEMS:
        problems[_MAX_PROBLEMS:] = [f"and {len(problems) - _MAX_PROBLEMS} more"]
    return f"Invalid input for task {cls.__name__}: " + "; ".join(problems)


def _step(step: int | str) -> str:
    """Part of a path: an index, a name, "[key]", or "(type)" for a member of a union."""
    if isinstance(step, int):
        return f"[{step}]"
    return step if step.startswith(("(", "[")) else f".{step}"


def _adapter(wire_type: Any) -> TypeAdapter[Any]:
    from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

    try:
        return TypeAdapter(wire_type)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise TypeError(f"A task input cannot be read: {error}") from error


_BuildSchema: TypeAlias = "Callable[[GetCoreSchemaHandler], CoreSchema]"
_Scope: TypeAlias = dict[Any, Any]  # what stands for the type variables of a generic class


class _Schema:
    """Annotation metadata that tells pydantic the schema to use."""

    def __init__(self, build: _BuildSchema) -> None:
        self._build = build

    def __get_pydantic_core_schema__(self, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return self._build(handler)


class _Open(threading.local):
    """The types whose schema this thread is building, to notice recursion."""

    def __init__(self) -> None:
        self.types: list[Any] = []


_open = _Open()


class _WireTypes:
    """Rewrites annotations to types of which pydantic reads the JSON that `encode_fields` writes."""

    def __init__(self) -> None:
        self._recursive: dict[Any, TypeAdapter[Any]] = {}

    def of(self, hint: Any, scope: _Scope) -> Any:
        """The type to give to pydantic in place of `hint`."""
        if isinstance(hint, TypeVar):
            return scope[hint] if hint in scope else self.of(hint.__bound__ or Any, scope)
        origin, args = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return Annotated[(self.of(args[0], scope), *hint.__metadata__)]
        if origin in (typing.Required, typing.NotRequired, typing.Final):
            return self.of(args[0], scope)
        if origin in (Union, UnionType):
            return self._of_union(args, scope)
        if isinstance(origin, type) and is_dataclass(origin):
            parameters = getattr(origin, "__parameters__", ())
            inner = {parameter: self.of(arg, scope) for parameter, arg in zip(parameters, args, strict=False)}
            return self._recursive_type(hint, lambda handler: self._dataclass_schema(origin, inner, handler))
        if origin is None:
            return self._of_plain(hint)
        if origin is typing.Literal or not args:
            return hint
        if origin is Iterable:
            origin = list  # pydantic would check the items only when they are used
        return origin[tuple(arg if arg is Ellipsis else self.of(arg, scope) for arg in args)]

    def _of_union(self, members: tuple[Any, ...], scope: _Scope) -> Any:
        if str in members and not {bytes, bytearray, memoryview}.isdisjoint(members):
            raise TypeError("A union of str and bytes cannot be read: both are JSON strings")

        def build(handler: GetCoreSchemaHandler) -> CoreSchema:
            from pydantic_core import core_schema

            # Labels name the member in errors; pydantic's own would show our functions.
            choices: list[CoreSchema | tuple[CoreSchema, str]] = [
                (handler.generate_schema(self.of(member, scope)), f"({getattr(member, '__name__', member)})")
                for member in members
                if member is not NoneType
            ]
            schema = core_schema.union_schema(choices)
            return core_schema.nullable_schema(schema) if NoneType in members else schema

        return Annotated[Any, _Schema(build)]

    def _of_plain(self, hint: Any) -> Any:
        if hasattr(hint, "__supertype__"):  # a NewType
            return self.of(hint.__supertype__, {})
        if type(hint).__name__ == "TypeAliasType":  # `type X = ...`, Python 3.12
            return self._recursive_type(hint, lambda handler: handler.generate_schema(self.of(hint.__value__, {})))
        if not isinstance(hint, type):
            return hint
        codec = find_codec(hint)
        if codec is not None:
            return _plain_type(codec.decode) if codec.decode is not None else _PYDANTIC_TYPES.get(hint, hint)
        if is_dataclass(hint):
            return self._recursive_type(hint, lambda handler: self._dataclass_schema(hint, {}, handler))
        if issubclass(hint, dict) and hasattr(hint, "__required_keys__"):
            return self._recursive_type(hint, lambda handler: self._typed_dict_schema(hint, handler))
        if issubclass(hint, tuple) and hasattr(hint, "_fields"):
            return self._recursive_type(hint, lambda handler: self._named_tuple_schema(hint, handler))
        is_known = hint.__module__.partition(".")[0] in sys.stdlib_module_names or issubclass(hint, Enum)
        if not is_known and not hasattr(hint, "__get_pydantic_core_schema__"):
            raise TypeError(str(_UnsupportedError.of_type(hint)))
        return hint

    def _recursive_type(self, hint: Any, build: _BuildSchema) -> Any:
        """A type that may contain itself: inside of itself it is read by an adapter of its own."""

        def guarded(handler: GetCoreSchemaHandler) -> CoreSchema:
            from pydantic_core import core_schema

            if hint in _open.types:
                return core_schema.no_info_plain_validator_function(partial(self._read_recursive, hint, build))
            _open.types.append(hint)
            try:
                return build(handler)
            finally:
                _open.types.pop()

        return Annotated[Any, _Schema(guarded)]

    def _read_recursive(self, hint: Any, build: _BuildSchema, value: Any) -> Any:
        from pydantic_core import to_json

        adapter = self._recursive.get(hint)
        if adapter is None:
            adapter = self._recursive[hint] = _adapter(self._recursive_type(hint, build))
        # As JSON again: strict reading accepts, say, text for an enum from JSON only.
        return adapter.validate_json(to_json(value), strict=True)

    def _dataclass_schema(self, cls: type, scope: _Scope, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        hints = _hints(cls)
        members = []
        for field in fields(cls):  # also skipped ones: they take their default, or the value of an older input
            schema = handler.generate_schema(self.of(hints.get(field.name, Any), scope))
            if field.default is not MISSING:
                schema = core_schema.with_default_schema(schema, default=field.default)
            elif field.default_factory is not MISSING:
                schema = core_schema.with_default_schema(schema, default_factory=field.default_factory)
            members.append(core_schema.dataclass_field(field.name, schema))
        return core_schema.dataclass_schema(
            cls,
            core_schema.dataclass_args_schema(cls.__name__, members),
            [field.name for field in fields(cls)],
            post_init=hasattr(cls, "__post_init__"),
            slots=hasattr(cls, "__slots__"),
        )

    def _typed_dict_schema(self, cls: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        members = {}
        for name, hint in _hints(cls).items():
            # With postponed annotations, __required_keys__ does not know of (Not)Required.
            is_required = name in cls.__required_keys__ and get_origin(hint) is not typing.NotRequired
            schema = handler.generate_schema(self.of(hint, {}))
            members[name] = core_schema.typed_dict_field(
                schema, required=is_required or get_origin(hint) is typing.Required
            )
        return core_schema.typed_dict_schema(members)

    def _named_tuple_schema(self, cls: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        hints = _hints(cls)
        items = []
        for name in cls._fields:
            schema = handler.generate_schema(self.of(hints.get(name, Any), {}))
            if name in cls._field_defaults:
                schema = core_schema.with_default_schema(schema, default=cls._field_defaults[name])
            items.append(schema)
        return core_schema.no_info_after_validator_function(cls._make, core_schema.tuple_schema(items))


def _plain_type(decode: Callable[[Any], Any]) -> Any:
    """A type that pydantic reads with `decode`; every error of it becomes a validation error."""

    def guarded(value: Any) -> Any:
        try:
            return decode(value)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def build(_handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(guarded)

    return Annotated[Any, _Schema(build)]


def _decimal_schema(_handler: GetCoreSchemaHandler) -> CoreSchema:
    from pydantic_core import core_schema

    return core_schema.decimal_schema(allow_inf_nan=True)


_PYDANTIC_TYPES: dict[type, Any] = {Decimal: Annotated[Any, _Schema(_decimal_schema)]}
