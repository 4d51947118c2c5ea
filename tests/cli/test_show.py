"""`show`: the waterfall in the terminal, and how much of it is shown."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from tilebox_local import Client, ExecutionContext, Task
from tilebox_local.cli import main
from tilebox_local.formatting.waterfall import SpanRow, render_waterfall
from tilebox_local.query.listing import find_job_key, list_spans, read_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Deep(Task):
    """A span with two failed and one good span below it, one of the failed ones with a log record."""

    def execute(self, context: ExecutionContext) -> None:
        """Fail twice without failing."""
        with context.tracer.span("read"):
            for name in ("first", "second", "third"):
                try:
                    with context.tracer.span(name):
                        if name != "second":
                            context.logger.error("\x1b[2J%s is bad", name)
                            raise OSError(f"{name} is missing")
                except OSError:
                    continue


@pytest.fixture
def deep(tmp_path: Path) -> str:
    """A store with one job of one task `Deep`."""
    path = str(tmp_path / "deep.db")
    with Client(path) as client:
        client.jobs().submit("deep", Deep())
        client.runner(tasks=[Deep]).run_all()
    return path


@pytest.fixture
def shown(deep: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Runs `show` on `deep`; its lines below the header, without durations, bars and runners."""

    def run(*arguments: str) -> list[str]:
        capsys.readouterr()
        assert main(["--db", deep, "job", "show", *arguments]) == 0
        lines = capsys.readouterr().out.splitlines()[4:]
        return [re.split(r"\s{2,}[\d.]+(?:µs|ms|s)|\s+\u2717", line)[0].rstrip() for line in lines]

    return run


def test_tells_why_a_task_failed(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Below a failed task `show` prints type and message of its exception; above all, what the job is and was."""
    assert main(["--db", db, "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"broken  FAILED  [0-9a-f-]{36}", lines[0])
    assert re.fullmatch(
        r"submitted \S{20}, started \S{20}, elapsed [\d.]+(µs|ms), computed for [\d.]+(µs|ms)", lines[1]
    )
    assert lines[2] == "1 tasks: 1 failed"
    below = lines[[line.split()[1] for line in lines].index("task/Mosaic") + 1]
    assert below.strip() == "ValueError: no scale"


def test_all_spans(shown: Callable[..., list[str]]) -> None:
    """Without options the whole tree is shown."""
    assert shown() == [
        "job/deep", "└─ task/Deep", "   └─ read", "      ├─ first", "      │     OSError: first is missing",
        "      ├─ second", "      └─ third", "            OSError: third is missing",
    ]  # fmt: skip


def test_depth(shown: Callable[..., list[str]]) -> None:
    """--depth hides what is deeper, and counts it with its failures below the last level that is shown."""
    assert shown("--depth", "2") == ["job/deep", "└─ task/Deep", "      … 4 spans below, 2 of them failed"]
    assert shown("--depth", "3") == [
        "job/deep", "└─ task/Deep", "   └─ read", "         … 3 spans below, 2 of them failed",
    ]  # fmt: skip
    assert shown("--depth", "4") == shown()


def test_errors(shown: Callable[..., list[str]]) -> None:
    """--errors shows failed spans and those above them, and says how many others there are."""
    lines = [line for line in shown("--errors") if "OSError" not in line]
    assert lines == [
        "job/deep", "└─ task/Deep", "   └─ read", "      ├─ first", "      └─ third",
        "… 1 of 6 spans not shown: no failure in or below them",
    ]  # fmt: skip


def test_logs(deep: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--logs shows the log records of a span below it; they cannot steer the terminal."""
    assert main(["--db", deep, "show", "--logs"]) == 0
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert re.findall(r"\S+ ERROR (.*)", output) == ["␛[2Jfirst is bad", "␛[2Jthird is bad"]


def test_max_rows(shown: Callable[..., list[str]], deep: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--max-rows cuts the tree, and says what is missing."""
    assert shown("--max-rows", "2")[:2] == ["job/deep", "└─ task/Deep"]
    assert shown("--max-rows", "2")[2:] == ["… 4 of 6 spans not shown, 2 of them failed"]
    assert main(["--db", deep, "show", "--max-rows", "0"]) == 2


def test_same_picture_as_of_all_spans(db: str, deep: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is drawn of the shape and a few details is what would be drawn of all spans."""
    for path in (db, deep):
        with Client(path, read_only=True) as client:
            for job in client.jobs().query():
                exact = list_spans(client._store, find_job_key(client._store, str(job.id)).job_no)
                rows = [
                    replace(SpanRow.from_span(span), start_ns=row["start_ns"], end_ns=row["end_ns"])
                    for span, row in zip(client.jobs().query_spans(job, include_open=True), exact, strict=True)
                ]
                assert main(["--db", path, "show", str(job.id)]) == 0
                assert capsys.readouterr().out.split("\n", 3)[3] == f"{render_waterfall(rows)}\n"


def test_json(ask: Callable[..., Any]) -> None:
    """--json is the row of the job, with the rows of its spans in the order of the tree."""
    spans = ask("spans", "name:mosaic")
    found = ask("job", "show", "name:mosaic", "--logs")
    assert found | {"spans": None, "logs": None} == ask("jobs", "--name", "mosaic")[0] | {"spans": None, "logs": None}
    assert sorted(found["spans"], key=lambda span: span["start_ns"]) == spans
    assert [span["name"] for span in found["spans"]] == [
        "job/mosaic", "task/Mosaic", "task/Scene", "compute", "task/Scene", "compute",
    ]  # fmt: skip
    assert found["logs"] == ask("logs", "name:mosaic")
    assert [span["name"] for span in ask("show", "name:mosaic", "--depth", "1")["spans"]] == ["job/mosaic"]


@pytest.mark.parametrize("options", [(), ("--logs",), ("--logs", "--max-rows", "3"), ("--errors", "--logs")])
def test_json_is_one_document(
    deep: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """What is read and written bit by bit is one indented document, of only the spans that the tree shows."""
    monkeypatch.setattr("tilebox_local.query.listing._PART", 2)
    read = []

    def counted(*arguments: Any) -> list[dict[str, Any]]:
        rows = read_rows(*arguments)
        read.extend(row["span_id"] for row in rows if "span_id" in row and "body" not in row)
        return rows

    monkeypatch.setattr("tilebox_local.query.listing.read_rows", counted)
    assert main(["--db", deep, "show", "--json", *options]) == 0
    output = capsys.readouterr().out
    document = orjson.loads(output)
    assert orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n" == output
    names = ["job/deep", "task/Deep", "read", "first", "second", "third"]
    if "--max-rows" in options:
        names = names[:3]
    if "--errors" in options:
        names.remove("second")
    assert [span["name"] for span in document["spans"]] == names
    assert read == [span["span_id"] for span in document["spans"]]
    bodies = [record["body"] for record in document.get("logs", ()) if record["body"].endswith("is bad")]
    assert bodies == (["\x1b[2Jfirst is bad", "\x1b[2Jthird is bad"] if options and len(names) > 3 else [])


def test_json_without_spans(ask: Callable[..., Any]) -> None:
    """What nothing is shown of has empty arrays."""
    found = ask("show", "name:mosaic", "--errors", "--logs")
    assert (found["name"], found["spans"], found["logs"]) == ("mosaic", [], [])


def test_large_job_reads_details_of_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large job only the lines that are shown become objects."""
    from tilebox_local.formatting import waterfall

    path = str(tmp_path / "large.db")
    with Client(path) as client:

        class Many(Task):
            def execute(self, context: ExecutionContext) -> None:
                for _ in range(2000):
                    with context.tracer.span("one"):
                        pass

        client.jobs().submit("many", Many())
        client.runner(tasks=[Many]).run_all()
    made = []

    class Counted(waterfall.SpanRow):
        def __init__(self, **values: Any) -> None:
            super().__init__(**values)
            made.append(self.name)

    monkeypatch.setattr("tilebox_local.query.waterfall.SpanRow", Counted)
    assert main(["--db", path, "show", "--max-rows", "3"]) == 0
    assert made == ["job/many", "task/Many", "one"]
