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
        deadline = time.monotonic() + 30
        emptied = False
        while not emptied and time.monotonic() < deadline:
            client.clusters().create(f"cluster {time.monotonic_ns()}")  # so that the log is not empty
            emptied = client._store.checkpoint()
            time.sleep(0.1)
    assert emptied
    assert process.poll() is None
    time.sleep(4)
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
