"""Colours, widths, pagers, exit codes: how the command line behaves wherever it runs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from terminal import on_terminal

from tilebox_local import Client
from tilebox_local.cli import main
from tilebox_local.cli.output import Column, left_out, table, time_of_day

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = [sys.executable, "-m", "tilebox_local"]


@pytest.mark.parametrize("command", ["jobs", "show"])
def test_store_before_or_after_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """--db is accepted on both sides of the command; the later one wins, and either wins over the environment."""
    from sample_tasks import Scene

    first, second = (str(tmp_path / name) for name in ("first", "second"))
    for path in (first, second):
        with Client(path) as client:
            client.jobs().submit(f"in {path}", Scene("x"))
    monkeypatch.setenv("TILEBOX_LOCAL_DB", second)
    for arguments, store in [
        (["--db", first, command], first),
        ([command, "--db", first], first),
        (["--db", second, command, "--db", first], first),
        ([command, f"--db={second}", "--db", first], first),
        (["--db", second, "job", "--db", first, {"jobs": "list"}.get(command, command)], first),
        ([command], second),
    ]:
        assert main(arguments) == 0
        assert f"in {store}" in capsys.readouterr().out


def test_exit_codes(db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage, a store that cannot be used and what is not found differ; each is one line that says what to do."""
    no_store = str(tmp_path / "none.db")
    foreign = tmp_path / "foreign.db"
    foreign.write_text("not a database, but long enough to be taken for one")
    for arguments, code, message in [
        (["nonsense"], 2, "No such command 'nonsense'. Try `tilebox-local --help`."),
        (["jbos"], 2, "No such command 'jbos'. Did you mean jobs? Try `tilebox-local --help`."),
        (["job", "spns"], 2, "No such command 'spns'. Did you mean spans? Try `tilebox-local job --help`."),
        (["jobs", "--limit", "0"], 2, "Invalid value for '--limit': 0 is not in the range x>=1. Try"),
        (["jobs", "--db", no_store], 3, f"there is no store at {no_store}; name one with --db."),
        (["jobs", "--db", str(foreign)], 3, str(foreign)),
        (["show", "ffffffff", "--db", db], 4, "No job 'ffffffff' in this store."),
    ]:
        assert main(arguments) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("tilebox-local: ")
        assert message in captured.err
        assert len(captured.err.splitlines()) == 1
    assert not (tmp_path / "none.db").exists()
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Usage: tilebox-local ")
    for group in ("job", "search", "clusters"):
        assert main([group]) == 2
        assert capsys.readouterr().err.startswith(f"Usage: tilebox-local {group} ")


def test_unexpected_errors(db: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A bug is one line and exit code 70; -v, on either side, shows where it is."""

    def fail(*_: object, **__: object) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr("tilebox_local.query.listing.list_jobs", fail)
    assert main(["--db", db, "jobs"]) == 70
    expected = "tilebox-local: unexpected LookupError: a bug. Run it again with -v to see where.\n"
    assert capsys.readouterr() == ("", expected)
    for arguments in (["-v", "jobs"], ["jobs", "--verbose"]):
        assert main(["--db", db, *arguments]) == 70
        assert "Traceback" in capsys.readouterr().err


def test_colors(db: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """--color decides, then NO_COLOR, then FORCE_COLOR, then whether it is a terminal that shows them."""

    def is_colored(*arguments: str, **environment: str) -> bool:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            assert main(["--db", db, *arguments]) == 0
        return "\x1b[" in capsys.readouterr().out

    assert not is_colored("jobs")
    assert is_colored("jobs", FORCE_COLOR="1")
    assert not is_colored("jobs", FORCE_COLOR="1", NO_COLOR="1")
    assert is_colored("--color", "always", "jobs", NO_COLOR="1")
    assert not is_colored("--color", "always", "jobs", "--color", "never")
    assert is_colored("show", "--color", "always")
    jobs = [*PROGRAM, "--db", db, "jobs"]
    assert "\x1b[31mFAILED\x1b[0m" in on_terminal(jobs)[1]
    assert "\x1b[" not in on_terminal(jobs, environment={"TERM": "dumb"})[1]
    assert "\x1b[" not in on_terminal(jobs, environment={"NO_COLOR": "1"})[1]


def test_width(db: str) -> None:
    """A table fits the terminal; what is piped is not cut."""
    with Client(db) as client:
        from sample_tasks import Scene

        client.jobs().submit("x" * 200, Scene("x"))
    _, shown = on_terminal([*PROGRAM, "--db", db, "--color", "never", "jobs"], columns=100)
    lines = shown.splitlines()
    assert max(map(len, lines)) == 100
    assert f"  {'x' * 36}…  " in lines[1]
    assert on_terminal([*PROGRAM, "--db", db, "jobs"], columns=40)[1].splitlines()[1].endswith("…")
    piped = subprocess.run([*PROGRAM, "--db", db, "jobs"], capture_output=True, text=True, check=True).stdout
    assert "x" * 200 in piped


def test_pager(db: str, tmp_path: Path) -> None:
    """What is longer than the terminal goes through $PAGER, with LESS=FRX; not if it is piped, or with --no-pager."""
    pager = tmp_path / "pager"
    pager.write_text('#!/bin/sh\necho "paged with $LESS"\ncat >/dev/null\n')
    pager.chmod(0o755)
    show = [*PROGRAM, "--db", db, "show", "name:mosaic"]
    environment = {"PAGER": str(pager)}
    assert on_terminal(show, rows=5, environment=environment)[1] == "paged with FRX\r\n"
    assert "paged" not in on_terminal(show, rows=50, environment=environment)[1]
    assert "paged" not in on_terminal([*show, "--no-pager"], rows=5, environment=environment)[1]
    assert "job/mosaic" in on_terminal(show, rows=5, environment={"PAGER": "no-such-pager"})[1]
    piped = subprocess.run(show, capture_output=True, text=True, check=True, env={**environment, "LINES": "5"})
    assert "job/mosaic" in piped.stdout


def test_plain_encodings(db: str) -> None:
    """Where only ASCII can be shown, nothing else is printed."""
    done = subprocess.run(
        [*PROGRAM, "--db", db, "show"], capture_output=True, check=True, env={"PYTHONIOENCODING": "ascii"}
    )
    assert b"`- task/Mosaic" in done.stdout
    assert done.stdout.isascii()


def test_quiet(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """-q leaves errors only."""
    assert main(["--db", db, "check"]) == 0
    assert capsys.readouterr().err == "No problems found.\n"
    assert main(["--db", db, "-q", "check"]) == 0
    assert capsys.readouterr() == ("", "")


def test_table_of_wide_characters() -> None:
    """Columns are as wide as what they show, numbers are at the right, nothing steers the terminal."""
    rows = [{"name": "語", "count": 5}, {"name": "a\x1bb", "count": 12}, {"name": None, "count": None}]
    assert (
        table(rows, [Column("count", right=True), Column("name", "what")])
        == ("count  what\n    5  語\n   12  a␛b") + "\n"
    )


def test_narrow_tables() -> None:
    """Columns become brief one after the other, as far as it must be; what can be done without goes; then names."""
    columns = [
        Column("time", brief=time_of_day),
        Column("id", brief=left_out),
        Column("name", gives_way=True),
        Column("number", right=True),
    ]
    rows = [{"time": "2026-05-01T12:34:56.789012Z", "id": "abcdef", "name": "n" * 20, "number": 5}]
    for width, lines in [
        (65, ["time                         id      name                  number",
              f"2026-05-01T12:34:56.789012Z  abcdef  {'n' * 20}       5"]),
        (64, ["time          id      name                  number", f"12:34:56.789  abcdef  {'n' * 20}       5"]),
        (49, ["time          name                  number", f"12:34:56.789  {'n' * 20}       5"]),
        (40, ["time          name                number", f"12:34:56.789  {'n' * 17}…       5"]),
    ]:  # fmt: skip
        assert table(rows, columns, width=width).splitlines() == lines
    assert table(rows, columns).splitlines()[1].startswith("2026-05-01T12:34:56.789012Z  abcdef")
