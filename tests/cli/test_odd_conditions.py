"""Odd conditions: outputs that are closed, full or narrow, other encodings, hostile text, stores that are none."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sample_tasks import Scene
from terminal import on_terminal

from tilebox_local import Client
from tilebox_local.cli import main
from tilebox_local.cli.output import json_text

if TYPE_CHECKING:
    from collections.abc import Callable

STEERING = "\x1b[31mred\x9b31m\u202e\u2066\u200b\ufeff\x7f"
TASKS = str(Path(__file__).with_name("sample_tasks.py"))


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of the shell with `tilebox-local` as $T."""
    command = {**os.environ, "T": f"{sys.executable} -m tilebox_local", **environment}
    return subprocess.run(["bash", "-c", line], env=command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_is_json_in_any_encoding(db: str, encoding: str) -> None:
    """What stdout cannot encode is escaped as JSON has it, and so is what could steer the terminal."""
    values = ["é😀", STEERING, "plain"]
    query = f"select {', '.join(f':v{number} as v{number}' for number in range(3))}"
    given = " ".join(f'-p "v{number}=$V{number}"' for number in range(3))
    done = shell(
        f'$T --db {db} sql "{query}" {given} --json', PYTHONIOENCODING=encoding, V0=values[0], V1=STEERING, V2="plain"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(json.loads(done.stdout)[0].values()) == values
    assert [char for char in done.stdout if not char.isprintable() and char != "\n"] == []


def test_json_of_a_path_that_is_no_utf8() -> None:
    """A lone surrogate, as in the name of a file, is escaped."""
    assert json_text({"path": "a\udcff"}) == '{"path": "a\\udcff"}'


def test_the_path_of_a_snapshot_can_be_used(db: str, tmp_path: Path) -> None:
    """What `snapshot` prints into a pipe is the path itself, byte for byte."""
    name = os.fsdecode(b"copy \xff\x1b.db")
    done = subprocess.run(
        [sys.executable, "-m", "tilebox_local", "--db", db, "snapshot", str(tmp_path / name)],
        capture_output=True,
        check=True,
    )
    assert done.stdout == os.fsencode(tmp_path / name) + b"\n"
    assert (tmp_path / name).is_file()


@pytest.mark.parametrize("command", [["schema"], ["run", TASKS], ["completion", "bash"], ["clusters", "delete", "x"]])
def test_json_of_what_has_none(db: str, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """--json before a command that prints no data is wrong usage, as it is after it."""
    assert main(["--db", db, "--json", *command]) == 2
    output = capsys.readouterr()
    name = command[1] if command[0] == "clusters" else command[0]
    assert output.out == ""
    assert f"'{name}' has no JSON to print" in output.err


def test_headings_are_made_visible(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The name of a column is the user's, or whoever wrote the query."""
    assert main(["--db", db, "sql", f'select 1 as "{STEERING}"']) == 0
    assert capsys.readouterr().out.splitlines()[0] == "␛[31mred\\x9b31m\\u202e\\u2066\\u200b\\ufeff␡"


def test_doctor_is_made_visible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of spans, tasks and log messages of a crash cannot steer the terminal, nor forge lines."""
    db = tmp_path / "tilebox.db"
    code = f"""
import os, sys
from tilebox_local import Client
client = Client(sys.argv[1])
with client.tracer.span({STEERING + chr(10)!r}):
    import time; time.sleep(0.3)
    client.flush()
    os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code, db], check=False, capture_output=True)
    assert main(["--db", str(db), "doctor"]) == 0
    output = capsys.readouterr().out
    assert "in span   ␛[31mred\\x9b31m\\u202e\\u2066\\u200b\\ufeff␡␊" in output
    assert [char for char in output if not char.isprintable() and char != "\n"] == []


@pytest.mark.parametrize("command", ["jobs", "--help", "--version", "show", "schema", "job wait latest"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams(db: str, command: str, closed: str) -> None:
    """A command whose stdin, stdout or stderr is closed does what it does otherwise, and prints nothing there."""
    done = shell(f"$T --db {db} {command} {closed}")
    assert (done.returncode, "Traceback" in done.stderr, "unexpected" in done.stderr) == (
        0 if "wait" not in command else 1,
        False,
        False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="There is no /dev/full on this machine.")
def test_full_output(db: str) -> None:
    """An output that cannot be written is exit code 74 and one line; a job that is submitted is said to be."""
    done = shell(f"$T --db {db} jobs > /dev/full")
    assert (done.returncode, done.stderr) == (
        74,
        "tilebox-local: the output cannot be written: No space left on device.\n",
    )
    done = shell(f"$T --db {db} submit {TASKS}:Scene --arg scene_id=x > /dev/full")
    assert (done.returncode, done.stderr.splitlines()[0]) == (74, "Job Scene is submitted.")
    with Client(db, read_only=True) as client:
        assert len(client.jobs().query()) == 4


def test_stores_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty file, a folder, an empty name and ":memory:" are refused, and nothing is made of them."""
    empty = tmp_path / "empty.db"
    empty.touch()
    for db, code, message in [
        (str(empty), 3, f"{empty} is empty, and no store."),
        (str(tmp_path), 3, f"{tmp_path} is a folder; name the file of a store with --db."),
        ("", 2, "--db is the path of a file, not ''."),
        (":memory:", 2, "--db is the path of a file, not ':memory:'."),
    ]:
        for command in (["doctor"], ["prune", "--keep-last", "1"], ["cancel", "latest"]):
            assert main([*command, "--db", db]) == code
            assert message in capsys.readouterr().err
    assert main(["submit", f"{TASKS}:Scene", "--arg", "scene_id=x", "--db", ":memory:"]) == 2
    assert [(file.name, file.stat().st_size) for file in tmp_path.iterdir()] == [("empty.db", 0)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs", "--since", "99999999d"], ["jobs", "--since", "0001-01-01"], ["jobs", "--since", "9999-12-31"],
        ["jobs", "--limit", "9" * 20], ["spans", "--since", "9999999d"], ["durations", "--limit", "9" * 30],
    ],
)  # fmt: skip
def test_numbers_beyond_all_bounds(db: str, arguments: list[str]) -> None:
    """Instants and numbers that are larger than SQLite can hold are as large as it can."""
    assert main(["--db", db, *arguments]) == 0


@pytest.mark.parametrize(("text", "code"), [("10", 0), ("10s", 0), ("0.5m", 0), ("0", 2), ("x", 2), ("-1", 2)])
def test_timeouts(db: str, text: str, code: int) -> None:
    """A timeout is a length of time, or a number of seconds."""
    assert main(["--db", db, "wait", "name:scene", "--timeout", text]) == code


def test_waiting_on_terminals(db: str) -> None:
    """The bar of `wait` fits narrow terminals, and is left out on those that cannot draw one."""
    with Client(db) as client:
        client.jobs().submit("waiting", Scene("x"))
    command = [sys.executable, "-m", "tilebox_local", "--db", db, "wait", "latest", "--timeout", "200ms"]
    code, shown = on_terminal(command, columns=20)
    bars, message = shown.split("\r")[:-2], shown.split("\r")[-2]
    assert (code, bars) == (124, ["", "0/1 tasks, 0 runnin\x1b[K"])
    assert message.endswith("is still SUBMITTED.")
    code, shown = on_terminal(command, environment={"TERM": "dumb"})
    assert (code, "\x1b" in shown) == (124, False)


def test_a_pager_that_cannot_be_read(db: str) -> None:
    """A PAGER with a quote that is not closed is as none."""
    code, shown = on_terminal([sys.executable, "-m", "tilebox_local", "schema"], environment={"PAGER": "less 'x"})
    assert (code, "CREATE VIEW jobs" in shown) == (0, True)


def test_completion_of_jobs_and_files(db: str) -> None:
    """Tab offers `latest` and the ids of jobs for JOB, and the shell's own files where a file is meant."""

    def complete(*words: str) -> list[str]:
        done = shell(
            "$T",
            COMP_WORDS=" ".join(["tilebox-local", *words]),
            COMP_CWORD=str(len(words)),
            _TILEBOX_LOCAL_COMPLETE="bash_complete",
        )
        return done.stdout.split()

    with Client(db, read_only=True) as client:
        ids = [str(job.id) for job in client.jobs().query()]
    found = complete("--db", db, "show", "")
    assert found[0] == "plain,latest"
    assert sorted(found[1:]) == sorted(f"plain,{one}" for one in ids)
    assert complete("--db", db, "show", ids[0][:-1]) == [f"plain,{one}" for one in ids if one.startswith(ids[0][:-1])]
    assert complete("--db", "no-such.db", "show", "") == ["plain,latest"]
    for words in (
        ["--db", "t"],
        ["submit", "t"],
        ["submit", "x", "--input-file", "t"],
        ["export", "jobs", "--output", "t"],
    ):
        assert complete(*words) == ["file,t"]


def test_attributes_as_people_type_them(ask: Callable[..., Any], db: str) -> None:
    """A value matches as number and as text unless it is quoted; other operators compare, ~ looks into texts."""
    with Client(db) as client, client.tracer.span("typed") as span:
        span.set_attributes({"n": 5, "text": "5", "name": "S2A_001", "flag": True})
    for conditions, count in [
        (["n=5"], 1), (["text=5"], 1), (['text="5"'], 1), (['n="5"'], 0), (["n>4", "n<=5"], 1), (["n>5"], 0),
        (["n!=5"], 0), (["name~2A_"], 1), (["name~2B"], 0), (["flag=true"], 1), (["flag"], 1),
        (["none"], 0), (["name=S2A_001"], 1),
    ]:  # fmt: skip
        options = [word for condition in conditions for word in ("--attribute", condition)]
        assert len(ask("search", "spans", "--name", "typed", *options)) == count, conditions


def test_input_that_is_no_text(
    db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of inputs that is no UTF-8 is wrong usage."""
    file = tmp_path / "input.json"
    file.write_bytes(b'"\xff"')
    assert main(["--db", db, "submit", f"{TASKS}:Scene", "--input-file", str(file)]) == 2
    assert capsys.readouterr().err == f"tilebox-local: {file} is no text in UTF-8.\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    assert main(["--db", db, "submit", f"{TASKS}:Scene", "--input-file", "-"]) == 2


def test_a_bar_while_one_waits(db: str, tmp_path: Path) -> None:
    """Long work draws a bar on a terminal, which is gone in the end; not if it is short, quiet or piped."""
    slow = "import tilebox_local.cli.progress as p; p._AFTER_S = p._EVERY_S = 0.0; "
    code = "import sys; from tilebox_local.cli import main; sys.exit(main(sys.argv[1:]))"
    work = ["--db", db, "check", "--full"]
    shown = on_terminal([sys.executable, "-c", slow + code, *work])[1]
    drawn, message = shown.rsplit("\x1b[K", 1)
    first, *_, last, gone = drawn.split("\x1b[K")
    assert first == "\r[..............................] checking 0/20 checks"
    assert last == "\r[##############################] checking 20/20 checks"
    assert (gone, message) == ("\r", "No problems found.\r\n")
    narrow = on_terminal([sys.executable, "-c", slow + code, *work], columns=15)[1]
    assert narrow.startswith("\rchecking 0/20 \x1b[K")
    for arguments, environment in [
        ([code, *work], {}),
        ([slow + code, *work, "--quiet"], {}),
        ([slow + code, *work], {"TERM": "dumb"}),
    ]:
        assert "checking" not in on_terminal([sys.executable, "-c", *arguments], environment=environment)[1]
    piped = subprocess.run([sys.executable, "-c", slow + code, *work], capture_output=True, text=True, check=True)
    assert (piped.stdout, piped.stderr) == ("", "No problems found.\n")
    for command in (["snapshot", "copy.db"], ["prune", "--keep-last", "1", "--yes"], ["recover", "copy.db", "new.db"]):
        arguments = [word if not word.endswith(".db") else str(tmp_path / f"x-{word}") for word in command]
        code_of, shown = on_terminal([sys.executable, "-c", slow + code, "--db", db, *arguments])
        assert (code_of, "\r[" in shown) == (0, True), shown
