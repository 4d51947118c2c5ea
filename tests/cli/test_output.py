"""What all commands have in common: exit codes, JSON, colours, help, examples."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from typing import Any

import click
import pytest

from tilebox_local import Client, ExecutionContext, Task
from tilebox_local.cli import app

Cli = Any
SCRIPT = "import sys; from tilebox_local.cli import main; sys.exit(main(sys.argv[1:]))"


class Nothing(Task):
    """Does nothing."""

    def execute(self, context: ExecutionContext) -> None:
        """Nothing."""


def _all_commands() -> list[list[str]]:
    group = app._group
    context = click.Context(group)
    found = []
    for name in app.COMMANDS:
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            found += [[name, below] for below in command.commands]
        else:
            found.append([name])
    return found


@pytest.mark.parametrize("words", _all_commands(), ids=" ".join)
def test_help(cli: Cli, words: list[str]) -> None:
    """Each command explains itself, with its options and examples."""
    found = cli(*words, "--help")
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith(f"Usage: tilebox-local {' '.join(words)} ")
    assert "--db FILE" in found.out
    assert "Examples:" in found.out or words[0] == "clusters"


ANALYSES = ["durations", "bottlenecks", "critical-path", "concurrency", "queue-waits", "failures"]


@pytest.mark.parametrize("job", ["good", "bad", "waiting"])
@pytest.mark.parametrize("command", [*ANALYSES, "failures --rates", "bottlenecks --by queue_wait"])
def test_analyses_answer(store: str, cli: Cli, command: str, job: str) -> None:
    """Every analysis has a table and JSON for jobs that have run, failed, or not begun."""
    words = command.split()
    table = cli(*words, f"name:{job}")
    assert (table.code, "Traceback" in table.err) == (0, False)
    assert bool(table.out) != bool(table.err)  # data, or the message that there is none
    data = cli(*words, f"name:{job}", "--json")
    assert (data.code, data.err) == (0, "")
    assert isinstance(data.json, list | dict)


def test_what_analyses_say(store: str, cli: Cli) -> None:
    """The tables name what the analyses found."""
    assert cli("failures", "name:bad").lines[1].split()[2:5] == ["span", "divide", "1"]
    assert "1 / self.by" in cli("failures", "name:bad", "--stack").out
    assert cli("failures", "name:bad", "--json").json[0]["exception_type"] == "ZeroDivisionError"
    assert {row["name"] for row in cli("durations", "name:good", "--json", "--kind", "task").json} == {"Divide"}
    assert cli("bottlenecks", "name:good", "--by", "critical_path").lines[1].startswith("1  ")
    assert [step["step"] for step in cli("critical-path", "name:good", "--json").json["steps"]] == [1]
    assert set(cli("concurrency", "name:good", "--json").json) == {
        "peak_running", "mean_running", "parallelism_score", "slots", "runners", "stragglers",
    }  # fmt: skip
    assert cli("trends", "good", "--json").json[0]["state"] == "COMPLETED"
    assert cli("trends", "good", "--steps").code == 0
    assert cli("compare", "name:good", "name:bad").code == 0
    assert cli("compare", "name:good", "name:bad", "--json").json["a_name"] == "good"
    assert cli("trends", "unknown").code == 4


def test_spans_and_logs(store: str, cli: Cli) -> None:
    """Spans and log records are listed by time; filters and limits apply; attributes are JSON objects."""
    rows = cli("spans", "name:good", "--json").json
    assert [row["name"] for row in rows] == ["job/good", "task/Divide", "divide", "task/Divide", "divide"]
    assert rows[2]["attributes"]["by"] == 1
    assert [row["status"] for row in cli("spans", "name:bad", "--status", "error", "--json").json] == ["ERROR", "ERROR"]
    assert cli("spans", "name:bad", "--status", "open", "--json").json == []
    assert cli("spans", "name:good", "--min-duration", "1h").err == "No spans.\n"
    some = cli("spans", "name:good", "--name", "d*", "--limit", "1")
    assert (len(some.lines), some.err) == (2, "There are more than 1; --limit 0 shows all.\n")
    (record,) = cli("logs", "name:bad", "--json").json
    assert (record["body"], record["severity"], record["attributes"]["by"]) == ("dividing", "INFO", 0)
    assert cli("logs", "name:bad", "--level", "warning").err == "No log records.\n"
    assert '"by":0' in cli("logs", "name:bad", "--attributes").out


def test_sql(store: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sql` prints rows as a table, JSON or CSV; it neither writes nor runs for ever; parameters are values."""
    query = "select name, tasks from jobs where state = ? order by name"
    assert cli("sql", query, "-p", "FAILED").lines == ["name  tasks", "bad   1"]
    assert cli("sql", query, "-p", "FAILED", "--json").json == [{"name": "bad", "tasks": 1}]
    assert cli("sql", "select 'a,b' x, null y, x'ff00' z", "--csv").out == 'x,y,z\r\n"a,b",,ff00\n'
    assert cli("sql", "select 1 a, 2 a").lines == ["a  a", "1  2"]
    assert cli("sql", "select 1 where 0").err == "No rows.\n"
    refused = cli("sql", "delete from job_records")
    assert (refused.code, refused.out) == (2, "")
    assert "only reads" in refused.err
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"
    assert cli("sql", endless, "--timeout", "0.05").code == 3
    many = cli("sql", "select value from json_each('[1, 2, 3]')", "--limit", "2")
    assert (many.lines, many.err) == (["value", "1", "2"], "There are more than 2 rows; --limit 0 shows all.\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("select 7 as seven"))
    assert cli("sql", "-", "--json").json == [{"seven": 7}]


def test_clusters(store: str, cli: Cli) -> None:
    """Clusters are listed, created and deleted."""
    assert [row["slug"] for row in cli("clusters", "list", "--json").json] == ["default"]
    assert cli("clusters", "create", "GPU machines", "--slug", "gpu").out == "gpu\n"
    assert cli("clusters", "list").lines[2].split() == ["gpu", "GPU", "machines"]
    assert cli("clusters", "delete", "gpu").err == "Cluster gpu is deleted.\n"
    assert cli("clusters", "delete", "gpu").code == 4


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["jobs", "--nonsense"], ["jobs", "--limit", "x"], ["jobs", "--since", "soon"], ["sql"], []],
)
def test_wrong_usage(cli: Cli, arguments: list[str]) -> None:
    """Wrong usage has exit code 2, an explanation on stderr, and nothing on stdout."""
    found = cli(*arguments)
    assert (found.code, found.out) == (2, "")
    assert found.err


def test_colors(store: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours are for terminals, unless --color, NO_COLOR or FORCE_COLOR say otherwise."""
    escape = "\x1b["
    assert escape not in cli("jobs").out
    assert escape in cli("jobs", "--color", "always").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert escape in cli("jobs").out
    assert escape not in cli("jobs", "--color", "never").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert escape not in cli("jobs").out


def test_on_a_terminal(store: str) -> None:
    """On a terminal, tables are coloured, and names are cut until a line fits; ids never are."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))  # rows, columns
    with Client(store) as client:
        client.jobs().submit("long" * 50, Nothing())
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment = {**kept, "TERM": "xterm", "TILEBOX_LOCAL_DB": store}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "jobs", "--no-pager"], stdout=side, stderr=side, env=environment
    ) as process:
        os.close(side)
        text = b""
        try:
            while data := os.read(main, 10_000):
                text += data
        except OSError:  # the other side is closed
            pass
    os.close(main)
    assert process.returncode == 0
    assert b"\x1b[" in text
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) == 120
    assert [len(line.split()[0]) for line in lines] == [2, 36, 36, 36, 36]
    assert lines[1].endswith("g")
    assert "…" in lines[1]


def test_a_closed_pipe_is_quiet(store: str) -> None:
    """Whoever stops reading, such as `head`, hears no complaint."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


def test_help_imports_nothing_heavy() -> None:
    """Help and lists of commands load neither the client nor pandas, apsw, pydantic or watchdog."""
    script = (
        "import sys; from tilebox_local.cli import main; "
        "main(['--help']); main(['job', 'show', '--help']); main(['bottlenecks', '--help']); main(['sql', '--help']); "
        "print(sorted({'pandas', 'numpy', 'apsw', 'pydantic', 'watchdog', 'opentelemetry', 'tilebox_local.client'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(cli: Cli, shell: str) -> None:
    """There is a completion script for each shell."""
    found = cli("completion", shell)
    assert (found.code, "_TILEBOX_LOCAL_COMPLETE" in found.out) == (0, True)


def _examples() -> list[str]:
    found = []
    for words in _all_commands():
        command: Any = app._group
        for word in words:
            command = command.get_command(click.Context(command), word)
        found += re.findall(r"^  tilebox-local (.*)$", command.epilog or "", re.MULTILINE)
    return found


@pytest.mark.parametrize("example", sorted(set(_examples())))
def test_examples_are_understood(
    store: str, cli: Cli, example: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every example in a help text is a command that exists, with options that exist."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(re.split(r" (?:>|\||&&|#) ", example)[0])
    if words[0] in ("completion", "recover") or "/backup/tilebox.db" in words:
        return
    if words[0] == "wait":
        words += ["--timeout", "1ms"]  # the later one counts; nobody runs the job
    monkeypatch.setattr("sys.stdin", io.StringIO("select 1"))
    found = cli(*words)
    assert "Usage:" not in found.err
    assert "Traceback" not in found.err
