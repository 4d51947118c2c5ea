"""Searching spans, log records and structures; slow, plain Python tells what must be found."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_plans import plan, scans_of_tables
from trace_builder import T0, Attempt, SpanSpec, TraceBuilder

from tilebox_local.analysis import search as search_module
from tilebox_local.analysis.search import FoundLog, FoundSpan
from tilebox_local.analysis.structure import FoundPair, Pattern, parse_pattern
from tilebox_local.catalog import sql
from tilebox_local.errors import ArgumentError, NotFoundError
from tilebox_local.storage.text_index import TextIndex, required_word

if TYPE_CHECKING:
    from collections.abc import Callable

    from trace_builder import JobBuilder

    from tilebox_local import Client
    from tilebox_local.jobs.client import JobClient

MS = 1_000_000
in_one_store = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@pytest.fixture
def jobs(client: Client) -> JobClient:
    """The jobs of the store."""
    return client.jobs()


def names(found: list[FoundSpan]) -> list[str]:
    """Names of spans, in their order."""
    return [span.name for span in found]


# -- spans -------------------------------------------------------------------------------------------------------------


def test_found_spans(jobs: JobClient, build: TraceBuilder) -> None:
    """A span comes with its job, task, runner and attributes; one that is open has no duration."""
    job = build.job("mosaic")
    task_no = job.task("Tile", Attempt(0, 0, None, runner_no=3))
    job.spans(
        [
            SpanSpec("read", 5, 2_000_005, runner_no=3, task_no=task_no, status=2, message="no", attributes={"a.b": 1}),
            SpanSpec("warp", 7, None, parent=1, span_id=-1),
        ]
    )
    task_id = str(UUID(bytes=build._write("SELECT task_id FROM task_records")))
    trace_id = f"{job.trace_no:032x}"
    read = FoundSpan(
        str(job.id), "mosaic", trace_id, "0000000000000001", None, "read", T0 + 5, 2 * MS, "error", "no", task_id,
        "runner-3", {"a.b": 1},
    )  # fmt: skip
    warp = FoundSpan(
        str(job.id), "mosaic", trace_id, "f" * 16, "0000000000000001", "warp", T0 + 7, None, "open", None, None,
        "runner-1", {},
    )  # fmt: skip
    assert jobs.search_spans(job.id) == [read, warp]
    assert jobs.search_spans() == [warp, read]
    assert jobs.search_spans(job.id).to_dicts()[0] == {
        "job_id": str(job.id), "job_name": "mosaic", "trace_id": trace_id, "span_id": "0000000000000001",
        "parent_span_id": None, "name": "read", "start_time": "2023-11-14T22:13:20.000000005Z", "duration_ms": 2.0,
        "status": "error", "status_message": "no", "task_id": task_id, "runner": "runner-3", "attributes": {"a.b": 1},
    }  # fmt: skip
    assert jobs.search_spans(job.id).to_pandas()["duration"].dt.total_seconds()[0] == 0.002


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ({}, ["read a", "read b", "Read c", "warp"]),
        ({"name": "read*"}, ["read a", "read b"]),
        ({"name": "[rR]ead ?"}, ["read a", "read b", "Read c"]),
        ({"name": "read"}, []),
        ({"min_duration": timedelta(milliseconds=2)}, ["read b", "Read c"]),
        ({"max_duration": timedelta(milliseconds=2)}, ["read a", "read b"]),
        ({"min_duration": timedelta(milliseconds=2), "max_duration": timedelta(milliseconds=2)}, ["read b"]),
        ({"since": T0 + 1000}, ["read b", "Read c", "warp"]),
        ({"since": T0 + 1000, "until": T0 + 3000}, ["read b", "Read c"]),
        ({"until": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)}, []),
        ({"since": "2024-01-01"}, []),
        ({"status": "unset"}, ["read a"]),
        ({"status": "ok"}, ["read b"]),
        ({"status": "error"}, ["Read c"]),
        ({"status": "open"}, ["warp"]),
        ({"task": "Tile"}, ["read b"]),
        ({"task": "Tile*"}, []),
        ({"runner": "runner-2"}, ["Read c"]),
        ({"limit": 2}, ["read a", "read b"]),
        ({"limit": 2, "newest_first": True}, ["warp", "Read c"]),
        ({"name": "*ead*", "runner": "runner-1", "attributes": {"n": 2}}, ["read b"]),
    ],
)
def test_conditions(jobs: JobClient, build: TraceBuilder, conditions: dict[str, Any], found: list[str]) -> None:
    """Spans are found that match all conditions, by start; names case-sensitively; open ones have no duration."""
    job = build.job()
    tile = job.task("Tile", Attempt(0, 0, 10))
    job.spans(
        [
            SpanSpec("warp", 3000, None, attributes={"n": 1}, status=2),
            SpanSpec("read b", 1000, 1000 + 2 * MS, attributes={"n": 2}, task_no=tile, status=1),
            SpanSpec("read a", 0, MS, attributes={"n": 1}),
            SpanSpec("Read c", 2000, 2000 + 3 * MS, runner_no=2, status=2),
        ]
    )
    build.job("other").span("read other", 0, 2 * MS)
    assert names(jobs.search_spans(job.id, **conditions)) == found


def test_the_whole_store(jobs: JobClient, build: TraceBuilder) -> None:
    """Without a job, spans of all jobs are found, the newest first, and those of no job; pruned jobs are not."""
    first, second, gone = build.job("first"), build.job("second", T0 + 500), build.job("gone")
    first.span("a", 0, 1)
    first.span("c", 1000, 1001)
    second.span("b", 0, 1)
    gone.span("d", 0, 1)
    build._write("UPDATE job_records SET first_root_no = NULL WHERE job_no = ?", gone.job_no)
    build._write(
        "INSERT INTO span_records (trace_no, start_ns, span_id, name, resource_no) VALUES (0, ?, 9, 'none', 1)",
        T0 + 700,
    )
    found = jobs.search_spans()
    assert [(span.job_name, span.name) for span in found] == [
        ("first", "c"), (None, "none"), ("second", "b"), ("first", "a"),
    ]  # fmt: skip
    assert names(jobs.search_spans(limit=1)) == ["c"]
    with pytest.raises(NotFoundError):
        jobs.search_spans(gone.id)


VALUES: dict[str, Any] = {
    "five": 5, "five point": 5.0, "text five": "5", "true": True, "one": 1, "null": None, "list": ["x", 5, True],
    "empty": "", "huge": 2**53 + 1, "a.b": "dotted", "nan": {"$float": "NaN"}, "inf": {"$float": "Infinity"},
    "int": {"$int": str(2**70)}, "bytes": {"$bytes": "AAE="}, 'quote"': "q", "ü": "Ü", "object": {"x": {"y": 1}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "is_found"),
    [
        ({"five": 5}, True), ({"five": 5.0}, True), ({"five": "5"}, False), ({"five": True}, False),
        ({"five point": 5}, True), ({"text five": 5}, False), ({"text five": "5"}, True),
        ({"true": True}, True), ({"true": 1}, False), ({"true": False}, False), ({"one": True}, False),
        ({"null": None}, True), ({"five": None}, False), ({"none": None}, False), ({"five": ("exists", True)}, True),
        ({"null": ("exists",)}, True), ({"none": ("exists",)}, False), ({"a": ("exists",)}, False),
        ({"a.b": "dotted"}, True), ({"a.b": "Dotted"}, False), ({'quote"': "q"}, True), ({"ü": "Ü"}, True),
        ({"object": {"x": {"y": 1}}}, True), ({"object": {"x": {"y": 2}}}, False),
        ({"list": ["x", 5, True]}, True), ({"list": ["x", 5]}, False), ({"list": ("!=", ["x", 5])}, True),
        ({"list": ("contains", "x")}, True), ({"list": ("contains", 5.0)}, True), ({"list": ("contains", "5")}, False),
        ({"list": ("contains", True)}, True), ({"list": ("contains", 1)}, False), ({"a.b": ("contains", "otte")}, True),
        ({"a.b": ("contains", "OTTE")}, False), ({"a.b": ("contains", "%")}, False), ({"a.b": ("contains", "")}, True),
        ({"five": ("contains", 5)}, False),
        ({"five": ("!=", 5)}, False), ({"five": ("!=", "5")}, True), ({"five": ("!=", 4)}, True),
        ({"none": ("!=", 4)}, False), ({"true": ("!=", False)}, True), ({"true": ("!=", True)}, False),
        ({"null": ("!=", None)}, False), ({"five": ("!=", None)}, True),
        ({"five": (">", 4.5)}, True), ({"five": (">", 5)}, False), ({"five": (">=", 5)}, True),
        ({"five": ("<", 5)}, False), ({"five": ("<=", 5.0)}, True), ({"five": ("<", 6)}, True),
        ({"text five": (">", 4)}, False), ({"text five": (">", "4")}, True), ({"text five": ("<=", "5")}, True),
        ({"text five": ("<", "5")}, False), ({"five": (">", "4")}, False), ({"true": (">", 0)}, False),
        ({"list": (">", 0)}, False), ({"null": ("<", 1)}, False), ({"empty": ("<", "a")}, True),
        ({"huge": 2**53 + 1}, True), ({"huge": 2**53}, False), ({"huge": (">", 2**53)}, True),
        ({"inf": (">", 10**300)}, True), ({"inf": ("<", 0)}, False), ({"inf": math.inf}, True),
        ({"inf": -math.inf}, False),
        ({"nan": math.nan}, True), ({"nan": (">", 0)}, False), ({"nan": ("<=", 0)}, False), ({"five": math.nan}, False),
        ({"int": 2**70}, True), ({"int": 2**70 + 1}, False), ({"int": (">", 2**69)}, True),
        ({"int": ("<", 2**71)}, True),
        ({"five": ("<", 2**70)}, True), ({"bytes": b"\0\1"}, True), ({"bytes": b"\0"}, False),
        ({"five": 5, "true": True}, True), ({"five": 5, "true": False}, False), ({"": 1}, False),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("position", [0, 1])
def test_attributes(
    jobs: JobClient, build: TraceBuilder, condition: dict[str, Any], is_found: bool, position: int
) -> None:
    """Attributes are compared by type and value; what JSON cannot hold, too; wherever they stand."""
    job = build.job()
    attributes = dict(sorted(VALUES.items(), reverse=bool(position)))
    # As the store writes them: without blanks, not escaped.
    job.span("full", 0, 1, attributes={"x": 0})
    text = search_module.orjson.dumps(attributes).decode()
    build._write("UPDATE span_records SET attributes = ? WHERE trace_no = ?", text, job.trace_no)
    job.span("empty", 1, 2)
    assert names(jobs.search_spans(job.id, attributes=condition)) == ["full"] * is_found


def test_task_id_is_an_attribute(jobs: JobClient, build: TraceBuilder) -> None:
    """The attribute task_id, which is stored beside the others, is found, unless code has set another one."""
    job = build.job()
    task_no = job.task("Tile", Attempt(0, 0, 10))
    job.spans(
        [
            SpanSpec("own", 0, 1, task_no=task_no),
            SpanSpec("set", 1, 2, task_no=task_no, attributes={"task_id": "mine"}),
            SpanSpec("none", 2, 3),
        ]
    )
    task_id = str(UUID(bytes=build._write("SELECT task_id FROM task_records")))
    assert names(jobs.search_spans(job.id, attributes={"task_id": task_id})) == ["own"]
    assert names(jobs.search_spans(job.id, attributes={"task_id": "mine"})) == ["set"]
    assert names(jobs.search_spans(job.id, attributes={"task_id": ("exists",)})) == ["own", "set"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "'' is no name of 1 to 1000 characters."),
        ({"name": 5}, "5 is no name of 1 to 1000 characters."),
        ({"name": "*" * 1001}, f"{'*' * 1001!r:.100} is no name of 1 to 1000 characters."),
        ({"attributes": ["a"]}, "attributes is a mapping from keys to values, or a list of such pairs, not list."),
        ({"attributes": {5: 5}}, "The key 5 of an attribute is no text."),
        ({"attributes": {"a": ("~", 5)}}, "('~', 5) for the attribute 'a' is no (operator, value)."),
        ({"attributes": {"a": ()}}, "() for the attribute 'a' is no (operator, value)."),
        ({"attributes": {"a": ("<", 5, 6)}}, "('<', 5, 6) for the attribute 'a' is no (operator, value)."),
        ({"attributes": {"a": ("<", None)}}, "The attribute 'a' cannot be < None; compare numbers or text."),
        ({"attributes": {"a": (">", math.nan)}}, "The attribute 'a' cannot be > nan; compare numbers or text."),
        ({"min_duration": 5}, "min_duration is a timedelta, not 5."),
        ({"since": "yesterday, perhaps"}, "Failed to convert 'yesterday, perhaps' (<class 'str'>) to TimeInterval"),
        ({"since": (T0, T0 + 1000)}, f"since is one instant, not ({T0}, {T0 + 1000})."),
        ({"since": T0, "until": T0 - 1000}, f"until ({T0 - 1000}) is before since ({T0})."),
        ({"status": "OK"}, "'OK' is no status of spans; pass unset, ok, error, open."),
        ({"task": 1}, "task is a str, not 1."),
        ({"runner": b"x"}, "runner is a str, not b'x'."),
        ({"limit": 0}, "limit is a number from 1 on, or None for all, not 0."),
        ({"limit": True}, "limit is a number from 1 on, or None for all, not True."),
    ],
    ids=str,
)
def test_unusable_arguments(jobs: JobClient, build: TraceBuilder, arguments: dict[str, Any], message: str) -> None:
    """What cannot be looked for is an ArgumentError that says what is wrong, also where there is nothing to find."""
    with pytest.raises(ArgumentError) as caught:
        jobs.search_spans(**arguments)
    assert caught.value.message.startswith(message)


def test_unknown_jobs(jobs: JobClient) -> None:
    """An unknown job is NotFoundError, what is no id ArgumentError, in all three searches."""
    for search in (
        jobs.search_spans,
        lambda job: jobs.search_logs("a", job),
        lambda j: jobs.search_structure("a>b", j),
    ):
        with pytest.raises(NotFoundError):
            search(UUID(int=5))
        with pytest.raises(ArgumentError):
            search("no id")


def test_a_glob_of_many_stars_ends(jobs: JobClient, build: TraceBuilder) -> None:
    """A pattern that could be tried in very many ways is decided at once."""
    job = build.job()
    job.span("a" * 5000, 0, 1)
    begun = time.monotonic()
    assert names(jobs.search_spans(job.id, name="*a" * 499 + "b")) == []
    assert time.monotonic() - begun < 2


# -- log records -------------------------------------------------------------------------------------------------------

BODIES = [
    "Reading tile 4",
    "read the Tile again",
    "Überlauf in café",
    "cafe\u0301 at 300 K",
    "path/to/tile_4.tif",
    "x\0tile",
]


def found_bodies(found: list[FoundLog]) -> list[str]:
    """Bodies of log records, in their order."""
    return [log.body for log in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tile", [0, 1, 4, 5]), ("TILE", [0, 1, 4, 5]), ("read", [1]), ("read*", [0, 1]), ("tile 4", [0, 4]),
        ("tile AND 4", [0, 4]), ('"tile 4"', [0, 4]), ('"4 tile"', []), ("tile NOT 4", [1, 5]),
        ("again OR reading", [0, 1]), ("NEAR(read tile, 1)", [1]), ("NEAR(read again, 1)", []),
        ("(again OR reading) AND the", [1]), ("cafe", [2, 3]), ("CAFÉ", [2, 3]), ("uberlauf", [2]), ("ÜBERLAUF", [2]),
        ('"path/to"', [4]), ("tile_4", [0, 4]), ("k", [3]), ('"!"', []), ("nothing", []), ("^tile", []),
        ("^read", [1]), ("rea + the", []), ("body : tile", [0, 1, 4, 5]),
    ],
)  # fmt: skip
def test_query_language(jobs: JobClient, build: TraceBuilder, text: str, found: list[int]) -> None:
    """Words, phrases, prefixes, AND, OR, NOT and NEAR find what they say, without regard to case and diacritics."""
    job = build.job()
    for number, body in enumerate(BODIES):
        job.log(body, number * 1000)
    assert found_bodies(jobs.search_logs(text, job.id)) == [BODIES[number] for number in found]


def test_found_logs(jobs: JobClient, build: TraceBuilder) -> None:
    """A log record comes with its job, span and task, and with the words around what was found."""
    job = build.job("mosaic")
    task_no = job.task("Tile", Attempt(0, 0, 10))
    job.log("w " * 30 + "the scene failed " + "w " * 30, 7, span_id=255, severity=17, task_no=task_no)
    task_id = str(UUID(bytes=build._write("SELECT task_id FROM task_records")))
    assert jobs.search_logs("scene failed") == [
        FoundLog(
            str(job.id), "mosaic", T0 + 7, "ERROR", "w " * 30 + "the scene failed " + "w " * 30,
            "…w w w w w w the [scene] [failed] w w w w w w w…", f"{job.trace_no:032x}", f"{255:016x}", task_id,
            "runner-1", "tilebox.com/observability", {},
        )
    ]  # fmt: skip


def test_levels_times_and_limits(jobs: JobClient, build: TraceBuilder) -> None:
    """A level is a minimum; times are half open; one job goes by time, the whole store from the newest on."""
    first, second = build.job("first"), build.job("second")
    for number, severity in enumerate((5, 9, 13, 17, 21)):
        first.log(f"word {number}", number * 2000, severity=severity)
        second.log(f"word other {number}", number * 2000 + 1000)
    build._write(
        "INSERT INTO log_records (trace_no, time_ns, log_no, severity_number, severity_text, body, resource_no, "
        "scope_no) VALUES (0, ?, 1, 9, 'INFO', 'word outside', 1, 1)",
        T0 + 3500,
    )
    assert found_bodies(jobs.search_logs("word", first.id, level="warning")) == ["word 2", "word 3", "word 4"]
    assert found_bodies(jobs.search_logs("word", first.id, level="error")) == ["word 3", "word 4"]
    assert len(jobs.search_logs("word", first.id, level="trace")) == 5
    assert found_bodies(jobs.search_logs("word", first.id, since=T0 + 2000, until=T0 + 6000)) == ["word 1", "word 2"]
    assert found_bodies(jobs.search_logs("word", first.id, limit=2)) == ["word 0", "word 1"]
    found = jobs.search_logs("word", since=T0 + 2000, until=T0 + 5000)
    assert [(log.job_name, log.body, log.trace_id is None) for log in found] == [
        ("first", "word 2", False), (None, "word outside", True), ("second", "word other 1", False),
        ("first", "word 1", False),
    ]  # fmt: skip
    assert found_bodies(jobs.search_logs("word", limit=2)) == ["word other 4", "word 4"]


def test_chunks(jobs: JobClient, build: TraceBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is indexed in pieces, by number or by size, is found as in one; the newest are found wherever they are."""
    new, old = build.job("new", T0 + 10**9), build.job("old")
    for number in range(10):
        old.log(f"word old {number} " + "x" * (number * 20), number)
        new.log(f"word new {number} " + "x" * (number * 20), number)
    whole = [jobs.search_logs("word", limit=limit) for limit in (1, 5, 13, None)]
    ours = [jobs.search_logs("word", old.id, limit=limit) for limit in (1, 5, 13, None)]
    assert [len(found) for found in whole + ours] == [1, 5, 13, 20, 1, 5, 10, 10]
    for name, size in (("_CHUNK_COUNT", 3), ("_CHUNK_CHARS", 50)):
        monkeypatch.setattr(search_module, name, size)
        assert [jobs.search_logs("word", limit=limit) for limit in (1, 5, 13, None)] == whole
        assert [jobs.search_logs("word", old.id, limit=limit) for limit in (1, 5, 13, None)] == ours


@pytest.mark.parametrize("text", ["path/to", "a:b", '"open', "(a", "AND", "a OR", "NEAR(a b", "-a", "^", "(" * 900])
def test_syntax_errors(jobs: JobClient, text: str) -> None:
    """A query with an error is an ArgumentError, which has the query in quotes, also if there are no log records."""
    with pytest.raises(ArgumentError) as caught:
        jobs.search_logs(text)
    quoted = '"' + text.replace('"', '""') + '"'
    assert caught.value.message.startswith(f"The search text {text!r} has an error: ")
    assert caught.value.hint.endswith(f"is quoted: {quoted}.")
    assert jobs.search_logs(quoted) == []


@pytest.mark.parametrize("text", ["", "  ", "*reads", " *reads", "a\0b", "a" * 1001, 5, b"a", "\ud800"])
def test_no_search_text(jobs: JobClient, text: Any) -> None:
    """What is no text to look for, or a command to FTS5, is an ArgumentError."""
    with pytest.raises(ArgumentError):
        jobs.search_logs(text)


# Characters that fold to ASCII, that combine, that end text for some functions, and that separate words.
_CHARS = "kKsSiIeE\u212a\u017f\u0130\u0131éÉ\u0301ß_- .\0\U0001f600\u00aa\uff15"
_words = st.text("kKsSiIeE_", min_size=1, max_size=3)
_queries = st.lists(
    st.one_of(
        _words, _words.map(lambda w: w + "*"), st.text(_CHARS.replace("\0", ""), max_size=5).map(lambda t: f'"{t}"')
    ),
    min_size=1,
    max_size=3,
).flatmap(lambda words: st.sampled_from([" ", " AND ", " OR ", " NOT "]).map(lambda by: by.join(words)))


@in_one_store
@given(texts=st.lists(st.text(_CHARS, max_size=8), max_size=8), query=_queries)
@example(texts=["\u212a"], query="k")
@example(texts=["caf\u00e9"], query="cafe")
@example(texts=["a\0k"], query="k")
@example(texts=["k i"], query="k_i")
def test_the_prefilter_loses_nothing(build: TraceBuilder, jobs: JobClient, texts: list[str], query: str) -> None:
    """What is looked for first with LIKE is found as without it, whatever folds to what."""
    job = build.job()
    for number, text in enumerate(texts):
        job.log(text, number)
    with TextIndex(query) as index:
        expected = [texts[position] for position in index.matches(texts)]
    assert found_bodies(jobs.search_logs(query, job.id)) == expected


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("tile", "tile"), ("a tile", "tile"), ('"read the tile_four" a', "read"), ("read*", "read"), ("a AND bb", "bb"),
        ("AND", None), ("tile OR b", None), ("b NOT tile", None), ("NEAR(tile b)", None), ("^tile", None),
        ("tile + b", None), ("body:tile", None), ("tilé", None), ('""', None), ('"', None), ("or tile", "tile"),
    ],
)  # fmt: skip
def test_the_required_word(query: str, word: str | None) -> None:
    """Only where all words must occur is one of them required: the longest."""
    assert required_word(query) == word


# -- structures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("a>b", Pattern("a", ">", "b")),
        (" read* >> task/[AB]? ", Pattern("read*", ">>", "task/[AB]?")),
        ('"my span" ~ "a > ""b"""', Pattern("my span", "~", 'a > "b"')),
        ("a!>b", Pattern("a", "!>", "b")),
        ("ü !>> *", Pattern("ü", "!>>", "*")),
    ],
)
def test_patterns(text: str, pattern: Pattern) -> None:
    """A pattern is two names around an operator; names with blanks or operators are quoted."""
    assert parse_pattern(text) == pattern


@pytest.mark.parametrize(
    "text", ["", "a", "a >", "> b", "a b", "a = b", "a > b > c", "my span > b", 'a > "b', 'a > ""', "a !! b", 5]
)
def test_what_is_no_pattern(jobs: JobClient, text: Any) -> None:
    """What is no pattern is an ArgumentError that shows how to write one."""
    with pytest.raises(ArgumentError) as caught:
        jobs.search_structure(text)
    assert caught.value.hint.startswith("Write A > B (B is a child of A), ")


def ids(found: list[FoundPair]) -> list[tuple[int, int | None]]:
    """Span ids of pairs."""
    return [(int(pair.a.span_id, 16), None if pair.b is None else int(pair.b.span_id, 16)) for pair in found]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("job > task", [(1, 2), (1, 5)]), ("task > read", [(2, 3)]), ("job > read", []),
        ("job >> read", [(1, 3), (1, 6)]),
        ("t* >> *", [(2, 3), (2, 4), (5, 7), (5, 6)]), ("j* >> write", [(1, 4), (1, 7)]), ("read ~ write", [(3, 4)]),
        ("task ~ task", [(2, 5)]), ("write ~ read", []), ("task !> read", [(5, None)]), ("task !>> read", []),
        ("read !> *", [(3, None), (6, None)]), ("job !>> warp", [(1, None)]),
        ("* !>> write", [(3, None), (4, None), (7, None), (6, None)]),
        ("job > *", [(1, 2), (1, 5)]), ("write > read", [(7, 6)]),
    ],
)  # fmt: skip
def test_operators(jobs: JobClient, build: TraceBuilder, pattern: str, found: list[tuple[int, int | None]]) -> None:
    """Children, descendants, followers and missing ones are found, by start."""
    job = build.job()
    job.spans(
        [
            SpanSpec("job", 0, 100, span_id=1),
            SpanSpec("task", 1, 50, parent=1, span_id=2),
            SpanSpec("read", 2, 20, parent=2, span_id=3),
            SpanSpec("write", 20, 40, parent=2, span_id=4),
            SpanSpec("task", 51, None, parent=1, span_id=5),
            SpanSpec("read", 60, 70, parent=7, span_id=6),
            SpanSpec("write", 55, 80, parent=5, span_id=7),
        ]
    )
    assert ids(jobs.search_structure(pattern, job.id)) == found


def test_pairs_have_the_spans(jobs: JobClient, build: TraceBuilder) -> None:
    """A pair has both spans in full, as a search for spans finds them, and a frame and JSON of pairs, too."""
    job = build.job()
    job.span("b", 1, 2, parent=job.span("a", 0, 3))
    a, b = jobs.search_spans(job.id)
    found = jobs.search_structure("a > b", job.id)
    assert found == [FoundPair(a, b)]
    assert found.to_dicts() == [{"a": a.to_dict(), "b": b.to_dict()}]
    assert list(found.to_pandas()["a"]) == [a]
    assert jobs.search_structure("a !> c", job.id) == [FoundPair(a, None)]


def test_structures_of_all_jobs(jobs: JobClient, build: TraceBuilder) -> None:
    """Without a job, all jobs are looked into, the newest first, until there are enough."""
    builders = [build.job(f"job {number}", T0 + number * 10**9) for number in range(3)]
    for job in builders:
        parent = job.span("a", 0, 3)
        job.spans([SpanSpec("b", 1, 2, parent=parent), SpanSpec("b", 2, 3, parent=parent)])
    assert [pair.a.job_name for pair in jobs.search_structure("a > b")] == ["job 2"] * 2 + ["job 1"] * 2 + ["job 0"] * 2
    assert [pair.a.job_name for pair in jobs.search_structure("a > b", limit=3)] == ["job 2"] * 2 + ["job 1"]


def expected_pairs(specs: list[SpanSpec], pattern: Pattern) -> list[tuple[int, int | None]]:
    """Positions of the pairs among the spans by key, plainly."""
    spans = sorted(specs, key=lambda spec: (spec.start, spec.span_id))
    first: dict[int | None, int] = {}
    for number, spec in enumerate(spans):
        first.setdefault(spec.span_id, number)
    parents = [first.get(spec.parent) for spec in spans]
    parents = [None if parent == number else parent for number, parent in enumerate(parents)]
    above: dict[int, list[int]] = {}
    for number in range(len(spans)):
        line, one = [], parents[number]
        while one is not None and one not in line:
            line.append(one)
            one = parents[one]
        if one is None:
            above[number] = line
    in_a = [n for n, spec in enumerate(spans) if fnmatchcase(spec.name, pattern.a)]
    in_b = [n for n, spec in enumerate(spans) if fnmatchcase(spec.name, pattern.b)]
    match pattern.operator:
        case ">":
            return sorted((parents[b], b) for b in in_b if parents[b] in in_a)
        case "!>":
            return [(a, None) for a in in_a if all(parents[b] != a for b in in_b)]
        case ">>":
            lines = {b: [a for a in above.get(b, []) if a in in_a] for b in in_b}
            return sorted((line[0], b) for b, line in lines.items() if line)
        case "!>>":
            return [(a, None) for a in in_a if a in above and not any(a in above.get(b, []) for b in in_b)]
    found = []
    for a in in_a:
        length = None if spans[a].end is None else max(0, spans[a].end - spans[a].start)
        later = [
            b
            for b in in_b
            if length is not None and b > a and parents[a] == parents[b] and spans[b].start >= spans[a].start + length
        ]
        found += [(a, later[0])] if later else []
    return found


_spans = st.lists(
    st.builds(
        SpanSpec,
        name=st.sampled_from("ab"),
        start=st.integers(0, 6),
        end=st.one_of(st.none(), st.integers(0, 9)),
        parent=st.one_of(st.none(), st.integers(1, 7)),
        span_id=st.integers(1, 6),
    ),
    max_size=9,
    unique_by=lambda spec: (spec.start, spec.span_id),
)


@settings(in_one_store, max_examples=300)
@given(
    specs=_spans,
    a=st.sampled_from("ab*"),
    operator=st.sampled_from([">", ">>", "~", "!>", "!>>"]),
    b=st.sampled_from("ab*"),
)
def test_any_trace(build: TraceBuilder, jobs: JobClient, specs: list[SpanSpec], a: str, operator: str, b: str) -> None:
    """In any trace, with orphans, cycles, shared ids and open spans, the pairs are those that plain Python finds."""
    job = build.job()
    job.spans(specs)
    order = {key: number for number, key in enumerate(sorted((T0 + spec.start, spec.span_id) for spec in specs))}

    def position(span: FoundSpan | None) -> int | None:
        return None if span is None else order[span.start_time_ns, int(span.span_id, 16)]

    found = jobs.search_structure(f"{a} {operator} {b}", job.id, limit=None)
    assert [(position(pair.a), position(pair.b)) for pair in found] == expected_pairs(specs, Pattern(a, operator, b))


def _star(job: JobBuilder, count: int) -> None:
    job.spans([SpanSpec("a", 0, 1), *(SpanSpec("b", n, n + 1, parent=1) for n in range(1, count))])


def _chains(job: JobBuilder, count: int) -> None:
    job.spans([SpanSpec("ab"[n % 2], n, n + 1, parent=None if n % 10_000 == 0 else n) for n in range(count)])


@pytest.mark.parametrize("shape", [_star, _chains])
@pytest.mark.parametrize("operator", [">", ">>", "~", "!>", "!>>"])
def test_large_traces(
    jobs: JobClient, build: TraceBuilder, shape: Callable[[JobBuilder, int], None], operator: str
) -> None:
    """Time grows with the number of spans, not with its square: many children, long chains."""
    job = build.job()
    shape(job, 20_000)
    begun = time.monotonic()
    jobs.search_structure(f"* {operator} *", job.id)
    assert time.monotonic() - begun < 5  # 0.1 s; the square of it would be hours


# -- what is read ------------------------------------------------------------------------------------------------------

OF_ONE_JOB = [
    "structure_child",
    "structure_no_child",
    "structure_descendant",
    "structure_no_descendant",
    "structure_follower",
]


@pytest.mark.parametrize("name", OF_ONE_JOB)
def test_structures_read_one_job(client: Client, name: str) -> None:
    """A pattern reads one range of the key of span_records."""
    assert [step for step in plan(client, sql[name]) if "span_records" in step] == [
        "SEARCH span_records USING PRIMARY KEY (trace_no=?)"
    ]
    made = {"span", "node", "walk", "tree", "has", "s", "a", "b", "t", "h", "p"}  # what the statement makes of it
    assert {step.split()[1] for step in scans_of_tables(client, sql[name])} <= made


def test_searches_read_one_job(client: Client) -> None:
    """The traces are a range of numbers, of which one job is one; of each trace a range of the key is read."""
    range_of_traces = "SEARCH t USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
    steps = plan(client, sql["search_spans"])
    assert [step for step in steps if step.startswith(("SEARCH t ", "SEARCH s ", "SCAN s", "SCAN t"))] == [
        range_of_traces, "SEARCH s USING PRIMARY KEY (trace_no=? AND start_ns>? AND start_ns<?)",
    ]  # fmt: skip
    assert plan(client, sql["search_logs"]) == [
        range_of_traces,
        "SEARCH j USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
        "SEARCH l USING PRIMARY KEY (trace_no=? AND time_ns>? AND time_ns<?)",
    ]
    for name, table in (("found_spans", "s"), ("found_logs", "l")):
        assert any(
            step.startswith(f"SEARCH {table} USING PRIMARY KEY (trace_no=? AND ") for step in plan(client, sql[name])
        )
