"""The trace tree in the terminal."""

import re
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from tilebox_local.errors import ArgumentError
from tilebox_local.formatting.waterfall import LogRow, LogRows, SpanRow, format_duration, render_waterfall
from tilebox_local.telemetry import Span

MS = 1_000_000
T0 = 1_778_252_739_000_000_000  # some instant of 2026
BLUE, GOLD = "1cc3be7f-0000", "3c51c451-0000"


def span(
    id: str,
    parent: str | None,
    name: str,
    start_ms: float,
    end_ms: float | None,
    runner: str = "",
    error: str | None = None,
) -> SpanRow:
    """A span with times relative to T0; `error` is its status message."""
    end_ns = None if end_ms is None else T0 + int(end_ms * MS)
    start_ns = T0 + int(start_ms * MS)
    return SpanRow(id, parent, name, start_ns, end_ns, runner, error is not None, error or "")


def trace() -> list[SpanRow]:
    """Two runners, three levels, a failure, an open span, an orphan; not in order."""
    return [
        span("thumbnail", "job", "BuildThumbnail", 200, 1000, BLUE),
        span("job", None, "process-scenes", 0, 1600),
        span("save", "thumbnail", "save", 900, 955.3, BLUE),
        span("load", "thumbnail", "load-data", 201, 406, BLUE),
        span("scene", "job", "ProcessScene", 0, 100, BLUE),
        span("submit", "scene", "submit-subtasks", 99, 99.15, BLUE),
        span("publish", "job", "PublishSceneToTheSharedBucketOfTheTeam", 400, 1500, GOLD, "OSError: disk\nfull"),
        span("upload", "publish", "upload", 500, 1400, GOLD),
        span("index", "job", "Index", 1200, None, GOLD),
        span("orphan", "missing", "orphan", 300, 500, "dead"),
    ]


def lines(spans: list[SpanRow], **options: object) -> list[str]:
    """The rendered lines."""
    return render_waterfall(spans, **options).split("\n")  # type: ignore[arg-type]


def names(spans: list[SpanRow], **options: object) -> list[str]:
    """The name column of the rendered lines, with guides, without header."""
    return [re.split(r"  +| [✗…] ", line)[0] for line in lines(spans, **options)[1:]]


EXCEPTION = {"exception.type": "OSError", "exception.message": "disk\nfull", "exception.stacktrace": "Traceback"}


@pytest.mark.parametrize(
    ("status_message", "events", "message"),
    [
        (
            "Task failed with exception",
            [("exception", {}), ("exception", EXCEPTION), ("end", {})],
            "OSError: disk\nfull",
        ),
        ("", [("exception", {"exception.type": "KeyError", "exception.message": ""})], "KeyError"),
        ("Task failed with exception", [("end", EXCEPTION)], "Task failed with exception"),
        ("Its runner is gone.", [("exception", EXCEPTION)], "Its runner is gone."),
        ("", [], ""),
    ],
)
def test_message_of_a_span(status_message: str, events: list[tuple[str, dict[str, str]]], message: str) -> None:
    """A row tells the status message, or the last exception if that gives no reason."""
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)
    found = Span(
        start_time=start,
        end_time=end,
        trace_id="1" * 32,
        span_id="a" * 16,
        parent_span_id="b" * 16,
        name="task/Read",
        status_code="STATUS_CODE_ERROR",
        status_message=status_message,
        attributes={},
        runner_attributes={"service.instance.id": BLUE},
        events=[{"time": end, "name": name, "attributes": attributes} for name, attributes in events],
    )
    start_ns = 1_767_225_600 * 1_000_000_000
    expected = SpanRow("a" * 16, "b" * 16, "task/Read", start_ns, start_ns + 10**9, BLUE, True, message)
    assert SpanRow.from_span(found) == expected


def test_tree_with_bars() -> None:
    """Every span is a line with guides, name, mark, duration, bar and runner, failures have a second one."""
    assert lines(trace(), width=90) == [
        "span                                      duration  0           800ms      1.60s  runner",
        "process-scenes                               1.60s  ████████████████████████████",
        "├─ ProcessScene                              100ms  █▊                            1cc3be7f",
        "│  └─ submit-subtasks                        150µs   ▕                            1cc3be7f",
        "├─ BuildThumbnail                            800ms     ▐█████████████▌            1cc3be7f",
        "│  ├─ load-data                              205ms     ▐███▏                      1cc3be7f",
        "│  └─ save                                  55.3ms                 ▕▊             1cc3be7f",
        "├─ PublishSceneToTheS…redBucketOfTheTeam ✗   1.10s         ███████████████████▎   3c51c451",
        "│  │  OSError: disk␊full",
        "│  └─ upload                                 900ms          ▕███████████████▌     3c51c451",
        "└─ Index                                 …    open                       ░░░░░░░  3c51c451",
        "orphan                                       200ms       ▐██▊                     dead",
    ]


def test_ascii_only() -> None:
    """On request the whole output is ASCII, with escapes for all other characters."""
    output = lines([*trace(), span("x", "job", "日\x1b[1m", 0, 0)], width=64, ascii_only=True)
    assert output == [
        "span                          duration  0        1.60s  runner",
        "process-scenes                   1.60s  ==============",
        "|- ProcessScene                  100ms  =               1cc3be7f",
        "|  `- submit-subtasks            150us  =               1cc3be7f",
        "|- \\u65e5\\x1b[1m                   0us  =",
        "|- BuildThumbnail                800ms   ========       1cc3be7f",
        "|  |- load-data                  205ms   ===            1cc3be7f",
        "|  `- save                      55.3ms         ==       1cc3be7f",
        "|- PublishScen...etOfTheTeam x   1.10s     ===========  3c51c451",
        "|  |  OSError: disk\\nfull",
        "|  `- upload                     900ms      =========   3c51c451",
        "`- Index                     ~    open            ----  3c51c451",
        "orphan                           200ms    ===           dead",
    ]


def test_colors() -> None:
    """Bars and labels have the runner's colour, errors are red, the rest dim; the text stays the same."""
    rows = [
        span("a", None, "a", 0, 10, BLUE),
        span("b", "a", "b", 0, 10, GOLD, "no"),
        span("c", "a", "c", 0, 10),
    ]
    output = render_waterfall(rows, color=True, width=48)
    dim, red, gold, end = "\x1b[2m", "\x1b[31m", "\x1b[33m3c51c451", "\x1b[0m"
    assert output.split("\n") == [
        "\x1b[1mspan          duration  0       10.0ms  runner\x1b[0m",
        "a               10.0ms  \x1b[36m██████████████\x1b[0m  \x1b[36m1cc3be7f\x1b[0m",
        f"{dim}├─ {end}{red}b{end}         {red}✗{end}  10.0ms  {red}██████████████{end}  {gold}{end}",
        "\x1b[2m│     no\x1b[0m",
        "\x1b[2m└─ \x1b[0mc            10.0ms  ██████████████",
    ]
    assert re.sub(r"\x1b\[\d+m", "", output) == render_waterfall(rows, width=48)


def test_seventh_runner_reuses_a_color() -> None:
    """There are six runner colours, none of them red, given out in order of first appearance."""
    rows = [span(str(i), None, "s", i, i + 1, f"runner-{i}") for i in range(7)]
    colors = [re.findall(r"\x1b\[(\d+)m", line)[0] for line in lines(rows, color=True)[1:]]
    assert len(set(colors)) == 6
    assert colors[6] == colors[0]
    assert "31" not in colors


def test_hostile_text_cannot_steer_the_terminal() -> None:
    """Escape sequences and line breaks in names, runners and messages come out as visible characters."""
    evil = "\x1b]0;owned\x07\x9b2J\u202e\n\r"
    output = render_waterfall([span("a", None, evil, 0, 1, evil, evil)], width=120)
    assert [line.rstrip() for line in output.split("\n")] == output.split("\n")
    assert len(output.split("\n")) == 3
    assert all(char.isprintable() for char in output.replace("\n", ""))
    assert "␛]0;owned␇\\x9b2J\\u202e␊␍" in output


@pytest.mark.parametrize("width", [1, 48, 60, 79, 100, 240])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_line_is_wider_than_asked_for(width: int, ascii_only: bool) -> None:
    """Lines fit the width (at least 48), however long the texts are and however deep the tree is."""
    rows = [
        span(str(i), str(i - 1), "日本語" * 20 if i % 2 else "", i, i + 5, "日本語" * 9, "why " * 99) for i in range(40)
    ]
    output = lines(rows, width=width, ascii_only=ascii_only)
    wide = [sum(2 if char in "日本語" else 1 for char in line) for line in output]
    assert max(wide) <= max(width, 48)
    assert len(output) == 1 + 2 * 40


def test_deep_trees_drop_outer_guides() -> None:
    """Beyond a width-dependent depth the guides stop growing, so that names keep their room."""
    guides = [
        line.index("n") for line in lines([span(str(i), str(i - 1), "n", i, 100) for i in range(20)], width=70)[1:]
    ]
    assert guides == [0, 3, 6, 9, 12, 15] + [18] * 14


def test_order_and_roots() -> None:
    """Siblings and roots come in order of their start; a span whose parent is absent is a root."""
    rows = [
        span("late", None, "late", 9, 10),
        span("c2", "root", "c2", 5, 6),
        span("lost", "nowhere", "lost", 3, 4),
        span("c1", "root", "c1", 2, 3),
        span("root", None, "root", 0, 10),
    ]
    assert names(rows) == ["root", "├─ c1", "└─ c2", "lost", "late"]


def test_cycles_and_duplicate_ids() -> None:
    """Spans on a cycle and spans with the same id are all shown once."""
    rows = [
        span("self", "self", "self", 0, 1),
        span("a", "b", "a", 2, 3),
        span("b", "a", "b", 1, 3),
        span("twin", None, "twin", 4, 5),
        span("twin", None, "twin again", 5, 6),
        span("child", "twin", "child", 5, 6),
    ]
    assert names(rows) == ["twin", "└─ child", "twin again", "self", "b", "└─ a"]


def test_max_rows() -> None:
    """Beyond max_rows a note tells how many spans and failures are hidden; the axis covers them too."""
    output = lines(trace(), max_rows=2, width=60)
    assert len(output) == 4
    assert "1.60s" in output[0]
    assert output[3] == "… 8 of 10 spans not shown, 1 of them failed"
    assert lines(trace()[1:4], max_rows=2, ascii_only=True)[-1] == "... 1 of 3 spans not shown"
    assert len(lines(trace(), max_rows=None)) == 12
    with pytest.raises(ArgumentError, match="max_rows must be at least 1 or None, not 0"):
        render_waterfall(trace(), max_rows=0)


def test_degenerate_times() -> None:
    """No spans, spans without length, only open spans and ends before starts all give a picture."""
    assert render_waterfall([]) == "No spans."
    assert lines([span("a", None, "a", 5, 5)], width=48) == [
        "span          duration  0                    0µs",
        "a                  0µs  ▏",
    ]
    assert lines([span("a", None, "a", 5, None)], width=48)[1] == "a            …    open  ░░░░░░░░░░░░░░░░░░░░░░░░"
    backwards = lines([span("a", None, "a", 5, 4), span("b", None, "b", 5, 6)], width=48)
    assert backwards[1:] == ["a              -1.00ms  ▏", "b               1.00ms  " + "█" * 24]


def test_axis_has_quarters_when_there_is_room() -> None:
    """A wide axis is labelled at every quarter, a narrow one at its ends only."""
    rows = [span("a", None, "a", 0, 16_000)]
    assert lines(rows, width=80)[0] == (
        "span          duration  0           4.00s         8.00s         12.0s      16.0s"
    )
    assert lines(rows, width=48)[0] == "span          duration  0         8.00s    16.0s"


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0µs"),
        (1, "0.001µs"),
        (250, "0.250µs"),
        (999, "0.999µs"),
        (1000, "1.00µs"),
        (1234, "1.23µs"),
        (1235, "1.24µs"),
        (99_949, "99.9µs"),
        (99_950, "100µs"),
        (150_000, "150µs"),
        (999_499, "999µs"),
        (999_500, "1.00ms"),
        (55_300_000, "55.3ms"),
        (516_000_000, "516ms"),
        (1_800_000_000, "1.80s"),
        (59_949_999_999, "59.9s"),
        (59_950_000_000, "1.00m"),
        (90_000_000_000, "1.50m"),
        (5400 * 60_000_000_000, "5400m"),
        (-1_200_000_000, "-1.20s"),
    ],
)
def test_format_duration(ns: int, text: str) -> None:
    """Durations have three significant digits, and rounding up goes on to the next unit."""
    assert format_duration(ns) == text


@pytest.mark.parametrize("shape", ["flat", "deep"])
def test_many_spans_take_linear_work(shape: str) -> None:
    """Ten times as many spans, flat or one inside the other, take ten times as many steps of the interpreter."""

    def steps(count: int) -> int:
        rows = [
            span(str(i), None if i == 0 else "0" if shape == "flat" else str(i - 1), "n", i, i + 1, BLUE)
            for i in range(count)
        ]
        taken = 0

        def trace(_frame: Any, _event: str, _argument: Any) -> Any:
            nonlocal taken
            taken += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            output = lines(rows)
        finally:
            sys.settrace(before)
        assert output[-1] == f"… {count - 200:,} of {count:,} spans not shown"
        return taken

    assert steps(20_000) < 11 * steps(2_000)


# -- what is left out, and what is added -------------------------------------------------------------------------------


def tree(spans: list[SpanRow], **options: object) -> list[str]:
    """Guides and names, or whole lines below them, without header."""
    return [re.split(r"(?<=[^\s│])  +| ✗ ", line)[0] for line in lines(spans, **options)[1:]]


def test_depth_counts_what_is_below() -> None:
    """Below the last level that is shown, a line says how many spans are hidden, and how many of them failed."""
    assert tree(trace(), depth=1) == ["process-scenes", "   … 8 spans below, 1 of them failed", "orphan"]
    assert tree(trace(), depth=2) == [
        "process-scenes",
        "├─ ProcessScene",
        "│     … 1 span below",
        "├─ BuildThumbnail",
        "│     … 2 spans below",
        "├─ PublishSceneToTheSharedBucketOfTheTeam",
        "│     OSError: disk␊full",
        "│     … 1 span below",
        "└─ Index",
        "orphan",
    ]
    assert lines(trace(), depth=3) == lines(trace())
    with pytest.raises(ArgumentError, match="depth must be at least 1 or None, not 0"):
        render_waterfall(trace(), depth=0)


def test_depth_and_limit_count_each_span_once() -> None:
    """What is below a line that is shown is not counted a second time as not shown."""
    assert tree(trace(), depth=2, max_rows=2) == [
        "process-scenes",
        "├─ ProcessScene",
        "│     … 1 span below",
        "… 7 of 10 spans not shown, 1 of them failed",
    ]


def test_errors_only() -> None:
    """Only failed spans and those above them are shown; without one, a line says so."""
    assert tree(trace(), errors_only=True) == [
        "process-scenes",
        "└─ PublishSceneToTheSharedBucketOfTheTeam",
        "      OSError: disk␊full",
        f"… {len(trace()) - 2} of {len(trace())} spans not shown: no failure in or below them",
    ]
    good = [row for row in trace() if not row.is_error]
    assert render_waterfall(good, errors_only=True) == f"None of the {len(good)} spans failed."


def test_the_axis_is_that_of_all_spans() -> None:
    """What is hidden still counts for the time axis."""
    for options in ({}, {"max_rows": 2}, {"errors_only": True}, {"depth": 1}):
        assert lines(trace(), width=90, **options)[0].split()[-2:] == ["1.60s", "runner"]


def test_logs_below_their_span() -> None:
    """Log records follow their span with the time since the start of the trace; the number of others is told."""
    records = [LogRow(T0 + 201_000_000, "INFO", "one\x1b[2J"), LogRow(T0, "ERROR", "two")]
    output = lines(trace(), logs={"load": LogRows(records, 5)})
    at = next(index for index, line in enumerate(output) if "load-data" in line)
    assert output[at + 1 : at + 4] == [
        "│  │       201ms INFO  one␛[2J",
        "│  │         0µs ERROR two",
        "│  │     … 3 more log records",
    ]
