"""Long output: it comes at once, in flat memory, and whoever reads it slowly is in nobody's way."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING, Any

import pytest
from store_support import until
from terminal import on_terminal

from tilebox_local import Client
from tilebox_local.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = [sys.executable, "-m", "tilebox_local"]
NUMBERS = (
    "with recursive r(n) as (select 1 union all select n + 1 from r{}) select n, 'é' || hex(zeroblob(20)) as e from r"
)
E = "é" + 40 * "0"
ENDLESS = NUMBERS.format("")
STOPPED = (
    "tilebox-local: The query took longer than {} s and was stopped. Narrow it down (the views have job_id and "
    "start_ns), or pass a longer --timeout.\n"
)


def numbers(count: int) -> str:
    """A query of so many rows."""
    return NUMBERS.format(f" where n < {count}")


@pytest.fixture
def started(db: str) -> Iterator[Any]:
    """Starts commands on `db` in processes of their own."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*PROGRAM, "--db", db, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PYTHONIOENCODING": "utf-8", **environment},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """What a process writes."""
    assert process.stdout is not None
    return process.stdout


@pytest.mark.parametrize(("option", "lines"), [("--csv", [b"n,e\r\n", f"1,{E}\r\n".encode()]), ("--json", [b"[\n"])])
def test_first_lines_of_an_endless_query(started: Any, option: str, lines: list[bytes]) -> None:
    """The first rows are printed while the query runs; when their reader has gone, the query ends without a word."""
    began = time.monotonic()
    process = started("sql", ENDLESS, option, "--timeout", "60")
    assert [pipe(process).readline() for _ in lines] == lines
    pipe(process).close()
    assert (process.wait(timeout=30), process.stderr.read()) == (0, b"")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("option", ["--csv", "--json"])
def test_deadline_in_the_middle(started: Any, option: str) -> None:
    """The deadline holds while rows come; what came before is printed, then the error; the exit code is 124."""
    process = started("sql", ENDLESS, option, "--timeout", "1")
    output, message = process.communicate(timeout=60)
    rows = output.decode().splitlines()[1:]
    assert len(rows) > 1000
    if option == "--csv":
        assert rows == [f"{number},{E}" for number in range(1, len(rows) + 1)]
    else:
        assert json.loads(f"[{''.join(rows)}]") == [{"n": number, "e": E} for number in range(1, len(rows) + 1)]
    assert (process.returncode, message.decode()) == (124, STOPPED.format(1))


def test_deadline_before_the_first_row(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A query that is stopped before it has a row prints nothing but the error; exit code 124."""
    for option in (["--csv"], ["--json"], []):
        query = f"select count(*) from ({ENDLESS})"
        assert main(["--db", db, "sql", query, "--timeout", "0.05", *option]) == 124
        assert capsys.readouterr() == ("", STOPPED.format(0.05))


@pytest.mark.parametrize("option", ["--csv", "--json"])
def test_slow_reader(started: Any, db: str, option: str) -> None:
    """Output that nobody takes keeps no transaction open and does not count for the deadline; all of it comes later."""
    process = started("sql", numbers(100_000), option, "--timeout", "4")
    assert pipe(process).read(1)
    with Client(db) as client:

        def is_emptied() -> bool:
            client.clusters().create(f"cluster {time.monotonic_ns()}")  # so that the log is not empty
            return client._store.checkpoint()

        until(is_emptied)
    assert process.poll() is None
    time.sleep(4)  # until the query's time is over: it is another process that looks at its clock
    rest = pipe(process).read().decode()
    if option == "--csv":
        assert list(csv.reader(io.StringIO(f"n{rest}", newline="")))[1:] == [[str(n + 1), E] for n in range(100_000)]
    else:
        assert json.loads(f"[{rest}") == [{"n": n + 1, "e": E} for n in range(100_000)]
    assert (process.wait(timeout=30), process.stderr.read()) == (0, b"")


@pytest.mark.parametrize(("option", "output"), [("--csv", b"a\r\n\\u8a9e\r\n"), ("--json", b'[\n{"a":"\\u8a9e"}\n]\n')])
def test_plain_encodings(started: Any, option: str, output: bytes) -> None:
    """What stdout cannot encode is printed as an escape."""
    process = started("sql", "select '語' as a", option, PYTHONIOENCODING="ascii")
    assert (*process.communicate(timeout=60), process.returncode) == (output, b"", 0)


def test_long_tables(db: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A piped table is as wide as its first rows need; all rows are there."""
    monkeypatch.setattr("tilebox_local.cli.output.MEASURED", (2, 10_000_000))
    query = "select column1 as n, column2 as t from (values (1, 'a'), (22, 'b'), (333, 'c'), ('d', 'e'))"
    assert main(["--db", db, "sql", query]) == 0
    assert capsys.readouterr() == (" n  t\n 1  a\n22  b\n333  c\n d  e\n", "")
    for command in ("spans", "logs"):
        assert main(["--db", db, command, "name:mosaic", "--json"]) == 0
        key = {"spans": "name", "logs": "body"}[command]
        expected = [row[key] for row in json.loads(capsys.readouterr().out)]
        assert main(["--db", db, command, "name:mosaic"]) == 0
        lines = capsys.readouterr().out.splitlines()[1:]
        assert [line.rstrip().endswith(text) for line, text in zip(lines, expected, strict=True)] == [True] * len(lines)
        assert main(["--db", db, command, "name:mosaic", "--limit", "100"]) == 0
        assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [line.split() for line in lines]


def test_first_line_of_an_endless_table(started: Any) -> None:
    """A piped table begins when its first rows have been read; when their reader has gone, the query ends."""
    process = started("sql", ENDLESS, "--timeout", "60")
    assert pipe(process).readline().split() == [b"n", b"e"]
    pipe(process).close()
    assert (process.wait(timeout=30), process.stderr.read()) == (0, b"")


def test_missing_rows_on_a_terminal(db: str) -> None:
    """A table on a terminal holds so many rows or bytes; what is missing, and how to get it, is said below it."""
    code = (
        "import importlib, sys; from tilebox_local.cli import main; "
        "importlib.import_module('tilebox_local.cli.sql')._ON_TERMINAL = ({}, {}); "
        f"sys.exit(main(['--db', {db!r}, '--no-pager', 'sql', {numbers(4)!r}]))"
    )
    lines = ["n  e", *(f"{number}  {E}" for number in range(1, 5))]
    missing = "Rows are missing: these are the first 3. --limit chooses fewer; --csv and --json write all."
    for bounds, shown in [
        ((4, 10_000), lines),
        ((3, 10_000), [*lines[:4], missing]),
        ((9, 300), [*lines[:4], missing]),
    ]:
        done = on_terminal([sys.executable, "-c", code.format(*bounds)], columns=100)
        assert (done[0], done[1].replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()) == (0, shown)
