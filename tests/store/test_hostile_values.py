"""Whatever telemetry is given: it is stored readable or quarantined with the reason, and its neighbours are stored."""

from __future__ import annotations

import logging
import math
import threading
from contextlib import closing, suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace as otel
from store_support import outside, run

from tilebox_local import Client, Task
from tilebox_local.observability._logging import StructuredLogger
from tilebox_local.observability.logging import StoreHandler
from tilebox_local.observability.tracing import start_job_span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilebox_local.telemetry import LogRecords, Span


class Nothing(Task):
    """A task, since a job needs one."""


class Colour(Enum):
    RED = "r"


class Number(IntEnum):
    ONE = 1


class Word(StrEnum):
    HELLO = "hello"


@dataclass
class Point:
    x: int
    y: float


class RaisesInStr:
    """No text can be had of it."""

    def __str__(self) -> str:
        raise RuntimeError("__str__")

    __repr__ = __str__
    __format__ = None  # type: ignore[assignment]


class RaisesInEq:
    """Cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("__eq__")

    __hash__ = object.__hash__

    def __str__(self) -> str:
        return "incomparable"


class RaisesInHash:
    """Can be no key."""

    def __hash__(self) -> int:
        raise RuntimeError("__hash__")

    def __str__(self) -> str:
        return "no key"


class RaisesInToList:
    """Pretends to be an array."""

    def tolist(self) -> list[int]:
        raise RuntimeError("tolist")


class RaisesInItems(dict[str, int]):
    """A dict that does not show its items."""

    def items(self) -> Any:
        raise RuntimeError("items")


class RaisesInIter(list[int]):
    """A list that cannot be walked."""

    def __iter__(self) -> Any:
        raise RuntimeError("__iter__")


class LiesInStr:
    """Its text is no text."""

    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307


class RaisesInGetattr:
    """Any attribute raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def cyclic_list() -> list[Any]:
    """A list that contains itself."""
    value: list[Any] = [1]
    value.append(value)
    return value


def cyclic_dict() -> dict[str, Any]:
    """A dict that contains itself."""
    value: dict[str, Any] = {"n": 1}
    value["self"] = value
    return value


def depth_of(value: Any) -> int:
    """How many lists and dicts are around the innermost value."""
    depth = 0
    while isinstance(value, (list, dict)) and value:
        value = value[-1] if isinstance(value, list) else list(value.values())[-1]
        depth += 1
    return depth


LONG = 10 * 1024 * 1024
CUT_BYTES = b"\x01" * 65536 + "… (1000000 bytes)".encode()
TOO_DEEP = "… (nested too deeply)"
FINE = object()  # stored in some readable form

# What an attribute is given -> what query_spans returns. Where a value can come back as it was, it has to.
VALUES: dict[str, tuple[Any, Any]] = {
    "none": (None, None),
    "true": (True, True),
    "zero": (0, 0),
    "2**53+1": (2**53 + 1, 2**53 + 1),
    "largest int64": (2**63 - 1, 2**63 - 1),
    "smallest int64": (-(2**63), -(2**63)),
    "2**63": (2**63, 2**63),
    "-2**63-1": (-(2**63) - 1, -(2**63) - 1),
    "2**64": (2**64, 2**64),
    "4,000 digits": (10**4000, 10**4000),
    "more digits than str() shows": (1 << 20_000, 1 << 20_000),
    "negative with many digits": (-(1 << 20_000) + 1, -(1 << 20_000) + 1),
    "0.1": (0.1, 0.1),
    "minus zero": (-0.0, -0.0),
    "smallest float": (5e-324, 5e-324),
    "largest float": (1.7976931348623157e308, 1.7976931348623157e308),
    "nan": (math.nan, math.nan),
    "inf": (math.inf, math.inf),
    "-inf": (-math.inf, -math.inf),
    "empty text": ("", ""),
    "unicode": ("ünïcødé 🚀 \u2028", "ünïcødé 🚀 \u2028"),
    "controls": ("a\x00b\x1b[31m\t\r\n\"'\\", "a\x00b\x1b[31m\t\r\n\"'\\"),
    "lone surrogate": ("a\ud800b", "a\\ud800b"),
    "10 MB": ("x" * LONG, "x" * 65536 + f"… ({LONG} characters)"),
    "bytes": (b"\x00\xff", b"\x00\xff"),
    "bytearray": (bytearray(b"ab"), b"ab"),
    "memoryview": (memoryview(b"ab"), b"ab"),
    "64 KiB of bytes": (b"\x01" * 65536, b"\x01" * 65536),
    "1 MB of bytes": (b"\x01" * 1_000_000, b"\x01" * 65536 + "… (1000000 bytes)".encode()),
    "bytes that were cut before": (CUT_BYTES, CUT_BYTES),
    "mixed list": ([1, "a", 2.5, None, True, b"x"], [1, "a", 2.5, None, True, b"x"]),
    "tuple": ((1, (2, 3)), [1, [2, 3]]),
    "set": ({5}, [5]),
    "frozenset": (frozenset({"a"}), ["a"]),
    "empty list": ([], []),
    "empty dict": ({}, {}),
    "list of odd floats": ([math.inf, -0.0, 2**70], [math.inf, -0.0, 2**70]),
    "10,000 items": (list(range(10_000)), list(range(10_000))),
    "long list": (list(range(20_000)), [*range(10_000), "… (20000 items)"]),
    "long tuple": (tuple(range(10_001)), [*range(10_000), "… (10001 items)"]),
    "long set": (set(range(10_001)), [*range(10_000), "… (10001 items)"]),
    "long array": (np.arange(10_001), [*range(10_000), "… (10001 items)"]),
    "long dict": (
        {str(n): n for n in range(10_001)},
        {str(n): n for n in range(10_000)} | {"…": "(10001 items)"},
    ),
    "long list in a list": ([[0] * 20_000, [1, 2], 3], [[0] * 9_997 + ["… (20000 items)"], ["… (2 items)"], 3]),
    "long dict of tags": ({"$a": [0] * 20_000}, {"$a": [0] * 9_999 + ["… (20000 items)"]}),
    "dict": ({"a.b": {"c": ["d", {}]}, 'quo"te': 1, "": 2}, {"a.b": {"c": ["d", {}]}, 'quo"te': 1, "": 2}),
    "odd keys": ({1: "a", None: "b", (1, 2): "c", b"x": "d"}, {"1": "a", "None": "b", "(1, 2)": "c", "b'x'": "d"}),
    "keys of equal text": ({1: "a", "1": "b"}, {"1": "b"}),
    "surrogate key": ({"\ud800": 1}, {"\\ud800": 1}),
    "looks like a tag": ({"$int": "5"}, {"$int": "5"}),
    "looks like a tag of text": ({"$float": "no float"}, {"$float": "no float"}),
    "looks like a tag in a tag": ({"$object": {"$object": {"a": 1}}}, {"$object": {"$object": {"a": 1}}}),
    "looks like a cut": ([1, {"$cut": 5}], [1, {"$cut": 5}]),
    "looks like cut bytes": ({"$bytes": "YQ==", "$cut": 1}, {"$bytes": "YQ==", "$cut": 1}),
    "looks like a cut object": ({"$object": {"a": 1}, "$cut": 1}, {"$object": {"a": 1}, "$cut": 1}),
    "looks like a cut in a cut": ([{"$object": {"$cut": 5}}], [{"$object": {"$cut": 5}}]),
    "several keys like tags": ({"$int": 1, "$float": 2, "a": 3}, {"$int": 1, "$float": 2, "a": 3}),
    "unknown tag": ([{"$ref": "#/a"}], [{"$ref": "#/a"}]),
    "tag with a tagged value": ({"$bytes": b"\xff"}, {"$bytes": b"\xff"}),
    "depth 30": (nested(30), nested(30)),
    "numpy int64": (np.int64(2**62), 2**62),
    "numpy uint64": (np.uint64(2**64 - 1), 2**64 - 1),
    "numpy float32": (np.float32(1.5), 1.5),
    "numpy float64": (np.float64("nan"), math.nan),
    "numpy bool": (np.bool_(True), True),
    "numpy text": (np.str_("x"), "x"),
    "numpy array": (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    "numpy datetime64": (np.datetime64("2026-01-02T03:04:05"), "2026-01-02 03:04:05"),
    "enum": (Colour.RED, "Colour.RED"),
    "int enum": (Number.ONE, 1),
    "str enum": (Word.HELLO, "hello"),
    "datetime": (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "2026-01-02 03:04:05.000006+00:00"),
    "date": (date(2026, 1, 2), "2026-01-02"),
    "timedelta": (timedelta(seconds=1.5), "0:00:01.500000"),
    "uuid": (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "path": (Path("/a/b"), "/a/b"),
    "decimal": (Decimal("1.10"), "1.10"),
    "fraction": (Fraction(1, 3), "1/3"),
    "complex": (1 + 2j, "(1+2j)"),
    "range": (range(3), "range(0, 3)"),
    "dataclass": (Point(1, 2.5), "Point(x=1, y=2.5)"),
    "class": (int, "<class 'int'>"),
    "exception": (ValueError("x"), "x"),
    "generator": ((n for n in ()), FINE),
    "lock": (threading.Lock(), FINE),
    "__str__ raises": (RaisesInStr(), "<unserializable RaisesInStr>"),
    "__eq__ raises": (RaisesInEq(), "incomparable"),
    "__hash__ raises": (RaisesInHash(), "no key"),
    "tolist raises": (RaisesInToList(), "<unserializable RaisesInToList>"),
    "items raises": (RaisesInItems(a=1), "<unserializable RaisesInItems>"),
    "__iter__ raises": (RaisesInIter([1]), "<unserializable RaisesInIter>"),
    "__str__ lies": (LiesInStr(), "<unserializable LiesInStr>"),
    "__getattr__ raises": (RaisesInGetattr(), "<unserializable RaisesInGetattr>"),
    "key without text": ({RaisesInStr(): 1}, {"<unprintable RaisesInStr>": 1}),
    "value without text": ([1, RaisesInStr()], [1, "<unserializable RaisesInStr>"]),
}


def same(found: Any, expected: Any) -> bool:
    """Equal in value and type, with NaN equal to itself and -0.0 unequal to 0.0."""
    if type(found) is not type(expected):
        return False
    if isinstance(expected, float):
        return repr(found) == repr(expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    return bool(found == expected)


class Lab:
    """A job whose spans and log records are made by hand."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.tracer = client.tracer
        self.job = client.jobs().submit("job", Nothing())
        logger = logging.Logger("tilebox.workflows.tasks")  # noqa: LOG001 -- private to this test
        logger.addHandler(StoreHandler())
        self.logger = StructuredLogger(logger)

    def span(self, name: Any = "span") -> Any:
        """A span of the job, as a context manager."""
        return start_job_span(self.tracer, self.job, name)

    def neighbour(self, name: str) -> None:
        """A span with an event and a log record that nothing is wrong with."""
        with self.span(name) as span:
            span.set_attribute("n", 1)
            span.add_event("event", {"n": 2})
            self.logger.info("log", n=3)

    def spans(self) -> list[Span]:
        """All spans of the job but its root."""
        return [span for span in self.client.jobs().query_spans(self.job) if span.name != "job/job"]

    def logs(self) -> LogRecords:
        """All log records of the job."""
        return self.client.jobs().query_logs(self.job)

    def quarantined(self) -> list[tuple[Any, ...]]:
        """What was quarantined: kind, reason, content."""
        with self.client._store.read() as connection:
            return connection.execute("SELECT kind, reason, content FROM quarantine_records").fetchall()

    def check_neighbours(self) -> None:
        """Those before and after are stored whole."""
        for name in ("before", "after"):
            (found,) = [span for span in self.spans() if span.name == name]
            assert found.attributes == {"n": 1}
            assert [(event["name"], event["attributes"].get("n")) for event in found.events] == [
                ("event", 2),
                ("log.message", 3),
            ]
            assert [log.attributes["n"] for log in self.logs() if log.span_id == found.span_id] == [3]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One store for all values that do no harm."""
    with Client(tmp_path_factory.mktemp("hostile") / "store.db") as client:
        yield client


@pytest.fixture
def lab(shared: Client) -> Lab:
    """A job of its own on the shared store."""
    return Lab(shared)


@pytest.fixture
def own_lab(path: Path) -> Iterator[Lab]:
    """A job on a store of its own, for what may block a store."""
    with closing(Client(path)) as client:
        yield Lab(client)


# -- values as attributes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VALUES)
def test_span_attribute(kind: str, lab: Lab) -> None:
    """A value set as attribute comes back from query_spans as it was, or in the documented readable form."""
    value, expected = VALUES[kind]
    lab.neighbour("before")
    with lab.span("victim") as span:
        span.set_attribute("first", 1)
        span.set_attribute("value", value)
        span.set_attribute("last", "z")
    lab.neighbour("after")
    (victim,) = [span for span in lab.spans() if span.name == "victim"]
    assert list(victim.attributes) == ["first", "value", "last"]
    if expected is FINE:
        assert isinstance(victim.attributes["value"], str)
    else:
        assert same(victim.attributes["value"], expected)
    lab.check_neighbours()


@pytest.mark.parametrize("kind", VALUES)
def test_attributes_at_the_start_of_a_span(kind: str, lab: Lab) -> None:
    """A value in attributes={...} is stored as one that is set later."""
    value, expected = VALUES[kind]
    with lab.span("parent"), lab.tracer.span("victim", attributes={"value": value, "last": "z"}):
        pass
    (victim,) = [span for span in lab.spans() if span.name == "victim"]
    assert list(victim.attributes) == ["value", "last"]
    assert expected is FINE or same(victim.attributes["value"], expected)


@pytest.mark.parametrize(
    "kind",
    list(VALUES),
)
def test_event_attribute(kind: str, lab: Lab) -> None:
    """A value as attribute of an event comes back as one of a span does; the span's other events are there."""
    value, expected = VALUES[kind]
    lab.neighbour("before")
    with lab.span("victim") as span:
        span.add_event("first")
        span.add_event("event", {"value": value, "last": "z"})
        span.add_event("last")
    lab.neighbour("after")
    (victim,) = [span for span in lab.spans() if span.name == "victim"]
    first, event, last = victim.events
    assert (first["name"], event["name"], last["name"]) == ("first", "event", "last")
    assert list(event["attributes"]) == ["value", "last"]
    assert expected is FINE or same(event["attributes"]["value"], expected)
    lab.check_neighbours()


@pytest.mark.parametrize("kind", VALUES)
def test_log_attribute(kind: str, lab: Lab) -> None:
    """A value as attribute of a log record is stored as a scalar or list of scalars; the record is kept."""
    lab.neighbour("before")
    with lab.span("victim"):
        lab.logger.info("victim", value=VALUES[kind][0], last="z")
    lab.neighbour("after")
    (victim,) = [log for log in lab.logs() if log.body == "victim"]
    assert list(victim.attributes) == ["value", "last", "trace_id", "span_id"]
    found = victim.attributes["value"]
    items = found if isinstance(found, list) else [found]
    assert all(isinstance(item, (str, bool, int, float)) for item in items)
    lab.check_neighbours()


@pytest.mark.parametrize("kind", VALUES)
def test_log_body(kind: str, lab: Lab) -> None:
    """A value as message of a log record is stored as its text; if it has none, the neighbours are stored."""
    lab.neighbour("before")
    with lab.span("victim"):
        lab.logger.info(VALUES[kind][0])
    lab.neighbour("after")
    lab.check_neighbours()


@pytest.mark.parametrize("kind", ["__str__ raises", "__str__ lies"])
def test_log_body_without_text(kind: str, lab: Lab) -> None:
    """A log record whose message raises is stored with a placeholder, or quarantined."""
    before = len(lab.quarantined())
    with lab.span("victim"):
        lab.logger.info(VALUES[kind][0])
    assert len(lab.logs()) + len(lab.quarantined()) - before == 1


@pytest.mark.parametrize("arguments", [("%d", "no number"), ("%s %s", 1), ("%(a)s", 1), ("%s", RaisesInStr())])
def test_log_message_that_cannot_be_formatted(arguments: tuple[Any, ...], lab: Lab) -> None:
    """A log record whose arguments do not fit its message is stored with what there is, or quarantined."""
    before = len(lab.quarantined())
    with lab.span("victim"):
        lab.logger.info(*arguments)
    assert len(lab.logs()) + len(lab.quarantined()) - before == 1


@pytest.mark.parametrize("kind", VALUES)
def test_exception_with_a_value(kind: str, lab: Lab) -> None:
    """An exception that carries a value leaves the block as it is, and is recorded."""
    error = ValueError(VALUES[kind][0])
    with pytest.raises(ValueError) as caught, lab.span("victim"):  # noqa: PT011
        raise error
    assert caught.value is error
    (victim,) = lab.spans()
    assert [(event["name"], event["attributes"]["exception.type"]) for event in victim.events] == [
        ("exception", "ValueError")
    ]
    assert victim.status_code == "STATUS_CODE_ERROR"
    assert victim.status_message.startswith("ValueError")


def test_the_value_of_an_attribute_is_taken_when_it_is_set(lab: Lab) -> None:
    """What happens to a list or dict after it was set as attribute does not show."""
    value: dict[str, Any] = {"list": [1]}
    with lab.span() as span:
        span.set_attribute("a", value)
        span.add_event("event", value)
        value["list"].append(2)
        value["more"] = 3
    (found,) = lab.spans()
    assert found.attributes["a"] == {"list": [1]}
    assert found.events[0]["attributes"] == {"list": [1]}


@pytest.mark.parametrize("make", [lambda: nested(33), lambda: nested(1000), cyclic_list, cyclic_dict])
def test_depth_is_limited(make: Callable[[], Any], lab: Lab) -> None:
    """Values that are nested deeper than 32 levels, or without end, are cut there and say so."""
    with lab.span() as span:
        span.set_attribute("value", make())
        lab.logger.info("log", value=make())
    (found,) = lab.spans()
    assert depth_of(found.attributes["value"]) == 32
    assert repr(found.attributes["value"]).count(TOO_DEEP) == 1
    assert len(lab.logs()) == 1


NULLS = ",".join(f'"{number}":null' for number in range(10_000))

BRANCHING = """
import sys
from tilebox_local.storage.attributes import capture_value
value = []
for _ in range(2):
    value.append(value)
capture_value(value)
"""


def test_a_cycle_with_branches_ends() -> None:
    """A list that contains itself twice is captured at once, like any other value."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("store_support._TIMEOUT_S", 2)
        assert run(BRANCHING).returncode == 0


def test_a_giant_integer_does_not_break_the_query(lab: Lab) -> None:
    """An integer of a hundred thousand digits is stored in some form that query_spans can read."""
    with lab.span() as span:
        span.set_attribute("value", 1 << 400_000)
    assert len(lab.spans()) == 1


def test_attributes_of_more_than_a_megabyte_are_cut(lab: Lab) -> None:
    """If the attributes of a span make more than 1 MiB of JSON, each is cut to 1,000 characters, and says so."""
    with lab.span() as span:
        for number in range(20):
            span.set_attribute(f"key {number}", "x" * 65536)
        span.set_attribute("numbers", [10] * 10_000)
        span.set_attribute("short", 1)
        span.set_attribute("k" * 201, "short")
    (found,) = lab.spans()
    assert found.attributes == {
        **{f"key {number}": "x" * 1000 + "… (65536 characters)" for number in range(20)},
        "numbers": "[" + "10," * 333 + "… (30001 characters of JSON)",
        "short": 1,
        "k" * 200 + "… (201 characters)": "short",
    }


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ([0] * 10_002, "[" + "0," * 10_000 + '{"$cut":2}]'),
        (b"abc" * 30_000, '{"$bytes":"' + "YWJj" * 21_845 + 'YQ==","$cut":24464}'),
        (dict.fromkeys(map(str, range(10_003))), '{"$object":{' + NULLS + '},"$cut":3}'),
    ],
    ids=["list", "bytes", "dict"],
)
def test_marks_of_what_was_cut(value: Any, stored: str, lab: Lab) -> None:
    """In the file, a value that was cut ends with how much was left out."""
    with lab.span() as span:
        span.set_attribute("value", value)
    lab.client.flush()
    with lab.client._store.read() as connection:
        query = "SELECT attributes FROM span_records ORDER BY start_ns DESC LIMIT 1"
        assert connection.execute(query).fetchall() == [(f'{{"value":{stored}}}',)]


# -- texts ------------------------------------------------------------------------------------------------------

TEXTS = {
    "empty": ("", ""),
    "unicode": ("ünïcødé 🚀", "ünïcødé 🚀"),
    "nul": ("a\x00b", "a\x00b"),
    "lone surrogate": ("a\ud800b", "a\\ud800b"),
    "quotes": ("'; DROP TABLE span_records; --\"", "'; DROP TABLE span_records; --\""),
    "1 MB": ("x" * 1_000_000, "x" * 1_000_000),
    "more than SQLite takes": ("x" * (17 * 2**20), "x" * 65536 + f"… ({17 * 2**20} characters)"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_span_name(kind: str, lab: Lab) -> None:
    """Any text can be a span's name."""
    value, expected = TEXTS[kind]
    with lab.span(value):
        pass
    assert [span.name for span in lab.spans()] == [expected]


@pytest.mark.parametrize("kind", TEXTS)
def test_event_name(kind: str, lab: Lab) -> None:
    """Any text can be an event's name."""
    value, expected = TEXTS[kind]
    with lab.span() as span:
        span.add_event(value)
    assert [event["name"] for event in lab.spans()[0].events] == [expected]


@pytest.mark.parametrize("kind", TEXTS)
def test_status_message(kind: str, lab: Lab) -> None:
    """Any text can be a status message."""
    value, expected = TEXTS[kind]
    with lab.span() as span:
        span.set_status(otel.StatusCode.ERROR, value)
    assert [(span.status_code, span.status_message) for span in lab.spans()] == [("STATUS_CODE_ERROR", expected)]


@pytest.mark.parametrize("kind", TEXTS)
def test_attribute_key(kind: str, lab: Lab) -> None:
    """Any text can be the key of an attribute of a span, event or log record."""
    value, expected = TEXTS[kind]
    if len(expected) > 65536:  # keys are cut like values
        expected = expected[:65536] + f"… ({len(value)} characters)"
    with lab.span() as span:
        span.set_attribute(value, 1)
        span.add_event("event", {value: 2})
        lab.logger.info("log", **{value: 3})
    (found,) = lab.spans()
    assert found.attributes == {expected: 1}
    assert found.events[0]["attributes"] == {expected: 2}
    assert lab.logs()[0].attributes == {
        expected: 3,
        "trace_id": found.trace_id,
        "span_id": found.span_id,
    }


@pytest.mark.parametrize("key", ["http.method", 'quo"te', "a b", "$.a", "[0]", "$int", "$", "task_id", "é"])
def test_keys_that_json_paths_trip_over(key: str, lab: Lab) -> None:
    """Keys with dots, quotes, dollars and brackets come back as they are."""
    with lab.span() as span:
        span.set_attribute(key, 5)
    assert lab.spans()[0].attributes == {key: 5}


@pytest.mark.parametrize("kind", TEXTS)
def test_log_body_text(kind: str, lab: Lab) -> None:
    """Any text can be the message of a log record; it is cut at 64 Ki characters."""
    value, expected = TEXTS[kind]
    if len(value) > 65536:
        expected = value[:65536] + f"… ({len(value)} characters)"
    with lab.span():
        lab.logger.info(value)
    assert [log.body for log in lab.logs()] == [expected]


@pytest.mark.parametrize("kind", TEXTS)
def test_logger_name(kind: str, lab: Lab) -> None:
    """Any text can be the name of a logger."""
    logger = logging.Logger(f"tilebox.workflows.tasks.{TEXTS[kind][0]}")  # noqa: LOG001
    logger.addHandler(StoreHandler())
    with lab.span():
        logger.info("log")
    assert [log.body for log in lab.logs()] == ["log"]


def test_repairing_a_name_leaves_the_attributes_whole(own_lab: Lab) -> None:
    """A span whose name has to be repaired keeps its attributes, however long their JSON is."""
    with own_lab.span("\ud800") as span:
        span.set_attribute("first", "x" * 50_000)
        span.set_attribute("second", "y" * 50_000)
    (found,) = own_lab.spans()
    assert found.name == "\\ud800"
    assert found.attributes == {"first": "x" * 50_000, "second": "y" * 50_000}


# -- what is no text, number or time although it should be ------------------------------------------------------


def attribute(key: Any) -> Callable[[Lab], None]:
    """Use `key` as the key of an attribute."""

    def use(lab: Lab) -> None:
        with lab.span("victim") as span:
            span.set_attribute(key, 1)

    return use


def event(**arguments: Any) -> Callable[[Lab], None]:
    """Add an event with these arguments."""

    def use(lab: Lab) -> None:
        with lab.span("victim") as span:
            span.add_event(**{"name": "event", **arguments})

    return use


def name(value: Any) -> Callable[[Lab], None]:
    """Use `value` as the name of a span."""

    def use(lab: Lab) -> None:
        with lab.span(value):
            pass

    return use


def status(description: Any) -> Callable[[Lab], None]:
    """Set a status with this description."""

    def use(lab: Lab) -> None:
        with lab.span("victim") as span:
            span.set_status(otel.StatusCode.ERROR, description)

    return use


def options(**arguments: Any) -> Callable[[Lab], None]:
    """Start a span with these arguments."""

    def use(lab: Lab) -> None:
        with lab.span("parent"), lab.tracer.span("victim", **arguments):
            pass

    return use


def link(*arguments: Any) -> Callable[[Lab], None]:
    """Add a link with these arguments."""

    def use(lab: Lab) -> None:
        with lab.span("victim") as span:
            span.add_link(*arguments)

    return use


def end(time: Any) -> Callable[[Lab], None]:
    """End a span at a time."""

    def use(lab: Lab) -> None:
        with lab.span("parent"):
            lab.client.tracer_provider.get_tracer("tests").start_span("victim").end(time)

    return use


def instrumentation(name: Any) -> Callable[[Lab], None]:
    """Make a span with a tracer of this name."""

    def use(lab: Lab) -> None:
        with lab.span("parent"):
            lab.client.tracer_provider.get_tracer(name).start_span("victim").end()

    return use


HERE = otel.SpanContext(1, 2, is_remote=False)

WRONG = {
    "span name: number": name(5),
    "span name: None": name(None),
    "span name: bytes": name(b"x"),
    "span name: no text": name(RaisesInStr()),
    "key: number": attribute(5),
    "key: None": attribute(None),
    "key: no text": attribute(RaisesInStr()),
    "key: list": attribute([]),
    "key: __hash__ raises": attribute(RaisesInHash()),
    "event name: number": event(name=5),
    "event name: None": event(name=None),
    "event name: no text": event(name=RaisesInStr()),
    "event time: text": event(timestamp="now"),
    "event time: float": event(timestamp=1.5),
    "event time: too late": event(timestamp=2**63),
    "event time: long ago": event(timestamp=-(2**63) - 1),
    "event attributes: list": event(attributes=[1]),
    "status: number": status(5),
    "status: bytes": status(b"x"),
    "status: no text": status(RaisesInStr()),
    "start: too late": options(start_time=2**63),
    "start: much too late": options(start_time=2**70),
    "start: long ago": options(start_time=-(2**70)),
    "start: float": options(start_time=1.5),
    "start: text": options(start_time="now"),
    "end: too late": end(2**70),
    "end: float": end(1.5),
    "end: text": end("now"),
    "attributes: list": options(attributes=[1]),
    "kind: text": options(kind="CLIENT"),
    "links: number": options(links=5),
    "links: None in a list": options(links=[None]),
    "link: None": link(None),
    "link: surrogate key": link(HERE, {"\ud800": 1}),
    "link: no text": link(HERE, {"k": RaisesInStr()}),
    "link: attributes: list": link(HERE, [1]),
    "tracer name: number": instrumentation(5),
    "tracer name: surrogate": instrumentation("\ud800"),
    "tracer name: None": instrumentation(None),
}


def released() -> memoryview:
    """A view of nothing any more."""
    view = memoryview(b"x")
    view.release()
    return view


def set_released(lab: Lab) -> None:
    """Set an attribute that cannot be read."""
    with lab.span("victim") as span:
        span.set_attribute("value", released())


WRONG["value: released memoryview"] = set_released


@pytest.mark.parametrize(
    "kind",
    list(WRONG),
)
def test_wrong_types(kind: str, own_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of the wrong type where telemetry needs another raises nothing, and blocks nothing.

    The record is stored in a readable form or quarantined with the reason; all others are stored.
    """
    monkeypatch.setattr("tilebox_local.storage.writer._RETRY_S", (0.001,) * 3)
    own_lab.neighbour("before")
    WRONG[kind](own_lab)
    own_lab.neighbour("after")
    own_lab.client.flush()
    own_lab.check_neighbours()
    victims = [span for span in own_lab.spans() if span.name not in ("before", "after", "parent")]
    quarantined = own_lab.quarantined()
    if kind.startswith("event time") or kind in ("event name: None", "event name: no text"):
        assert (len(victims), [row[0] for row in quarantined]) == (1, ["event"])
    else:
        assert len(victims) + len(quarantined) == 1
    for _, reason, content in quarantined:
        assert ": " in reason
        assert content.startswith("[")
    assert own_lab.client.stats().quarantined_count == len(quarantined)
    with own_lab.client._store.read() as connection:
        assert connection.execute("SELECT quarantined_count FROM writer_records").get == len(quarantined)


def test_a_span_that_cannot_start_does_not_stay_current(own_lab: Lab) -> None:
    """If starting a span fails, the current span is what it was before."""

    def attempt() -> Any:
        with suppress(TypeError), own_lab.tracer.span("victim", start_time="now"):
            pass
        return otel.get_current_span()

    assert copy_context().run(attempt) is otel.INVALID_SPAN


def test_quarantine_row(own_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A span outside of the range of 64 bits is quarantined: what, why, when, and what it was."""
    monkeypatch.setattr("tilebox_local.clock.wall_ns", lambda: 123)
    with own_lab.span("parent") as parent, own_lab.tracer.span("victim", start_time=2**63) as victim:
        victim.set_attribute("a", 1)
    own_lab.client.flush()
    with own_lab.client._store.read() as connection:
        (row,) = connection.execute("SELECT * FROM quarantine_records").fetchall()
    number, writer_no, time_ns, kind, reason, content = row
    assert (number, writer_no, time_ns, kind, reason) == (1, 1, 123, "span", "OverflowError: int too big to convert")
    assert content.startswith(f"[1, {2**63}, ")
    assert str(parent.get_span_context().span_id) in content
    assert "'victim'" in content
    assert '{"a":1}' in content


def test_one_bad_row_among_many(own_lab: Lab) -> None:
    """Among 600 spans of one batch, exactly the bad ones are quarantined, wherever they are in a statement."""
    bad = {0, 5, 100, 511, 512, 599}
    with own_lab.span("parent"):
        for number in range(600):
            with own_lab.tracer.span(f"span {number}", start_time=2**63 if number in bad else number):
                pass
    found = {span.name for span in own_lab.spans()} - {"parent"}
    assert found == {f"span {number}" for number in range(600) if number not in bad}
    assert [row[:2] for row in own_lab.quarantined()] == [("span", "OverflowError: int too big to convert")] * len(bad)


def test_a_bad_span_is_quarantined_once(own_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A span that was refused when it was written as open is not counted again when it ends."""
    with own_lab.tracer.span("victim", start_time=2**63):
        monkeypatch.setattr("tilebox_local.clock.monotonic_ns", lambda: 2**62)
        own_lab.client._store.transact(lambda connection: None)
        monkeypatch.undo()
    own_lab.client.flush()
    assert [row[0] for row in own_lab.quarantined()] == ["span"]
    assert own_lab.client.stats().quarantined_count == 1


def test_other_tools_can_read_everything(path: Path) -> None:
    """After all values were stored in all places, an older SQLite finds valid JSON and valid UTF-8 in every row."""
    with closing(Client(path)) as client:
        lab = Lab(client)
        for kind, (value, _) in VALUES.items():
            with lab.span(kind) as span:
                span.set_attribute("value", value)
                span.set_attribute(kind, value)
                span.add_event(kind, {"value": value})
                span.add_link(HERE, {"value": value})
                lab.logger.info("log", value=value)
        for value, _ in TEXTS.values():
            with lab.span("text") as span:
                span.set_attribute(value, value)
                span.set_status(otel.StatusCode.ERROR, "" if len(value) > 2**24 else value)
                span.add_event("text", {value: value})
                lab.logger.info(value, value=value)
        client.flush()
        expected = len(VALUES) + len(TEXTS)
        for view, count in (("spans", expected + 1), ("events", 2 * expected), ("logs", expected)):
            query = f"SELECT count(*), sum(json_valid(attributes)), sum(json_type(attributes) = 'object') FROM {view}"
            assert outside(path, query) == [(count, count, count)]
        assert outside(path, "SELECT count(*), sum(json_valid(links)) FROM spans WHERE links IS NOT NULL") == [
            (len(VALUES), len(VALUES))
        ]
        texts = outside(path, "SELECT name, status_message FROM spans UNION ALL SELECT body, logger FROM logs")
        assert len(texts) == 2 * expected + 1
        assert lab.quarantined() == []


# -- any value --------------------------------------------------------------------------------------------------

KEYS = st.text(st.characters(exclude_categories=()), max_size=5)
EXACT = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary(),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(KEYS | st.sampled_from(["$int", "$float", "$bytes", "$object"]), children, max_size=4)
    ),
    max_leaves=20,
)
ANY = st.recursive(
    EXACT
    | st.decimals()
    | st.datetimes()
    | st.uuids()
    | st.complex_numbers()
    | st.sampled_from(sorted(VALUES.keys() - {"10 MB"})).map(lambda kind: VALUES[kind][0]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.tuples(children, children)
        | st.dictionaries(KEYS | st.integers() | st.none(), children, max_size=3)
    ),
    max_leaves=10,
)


def as_read(value: Any) -> Any:
    """What is expected back: the value, but for text that UTF-8 cannot hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [as_read(item) for item in value]
    if isinstance(value, dict):
        return {as_read(key): as_read(item) for key, item in value.items()}
    return value


@given(EXACT, EXACT)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_plain_values_come_back(shared: Client, value: Any, other: Any) -> None:
    """Nested values of text, numbers, bytes, None, lists and dicts come back equal, in span and event attributes."""
    lab = Lab(shared)
    with lab.span("span") as span:
        span.set_attribute("value", value)
        span.add_event("event", {"value": other})
    (found,) = lab.spans()
    assert same(found.attributes, {"value": as_read(value)})
    assert same(found.events[0]["attributes"], {"value": as_read(other)})


@given(st.dictionaries(KEYS, ANY, max_size=4), ANY, KEYS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_value_is_stored(shared: Client, attributes: dict[str, Any], value: Any, text: str) -> None:
    """Whatever the values are: span, event and log are stored once, as valid JSON, and so are their neighbours."""
    lab = Lab(shared)
    lab.neighbour("before")
    with lab.span(f"victim {text}") as span:
        span.set_attributes(attributes)
        span.set_attribute(text, value)
        span.add_event(text, {"value": value, **attributes})
        span.set_status(otel.StatusCode.ERROR, text)
        lab.logger.error("victim", value=value, **{f"_{key}": item for key, item in attributes.items()})
    lab.neighbour("after")
    spans = lab.spans()
    assert [span.name.split()[0] for span in spans] == ["before", "victim", "after"]
    assert set(spans[1].attributes) == {as_read(key) for key in [*attributes, text]}
    assert [event["name"] for event in spans[1].events] == [as_read(text), "log.message"]
    assert [log.body for log in lab.logs()] == ["log", "victim", "log"]
    lab.check_neighbours()
    with shared._store.read() as connection:
        assert connection.execute("SELECT count(*) FROM quarantine_records").get == 0
        query = "SELECT min(json_valid(attributes)) FROM {0} WHERE job_no = (SELECT max(job_no) FROM job_records)"
        assert [connection.execute(query.format(view)).get for view in ("spans", "events", "logs")] == [1, 1, 1]
