"""Help: it is fast and complete, and its examples run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click
import pytest
from sample_tasks import Mosaic, Scene

from tilebox_local import Client, __version__
from tilebox_local.cli import main, program
from tilebox_local.cli.output import Column, show_rows
from tilebox_local.cli.registry import COMMANDS
from tilebox_local.cli.session import Command, Session, command, job_argument

if TYPE_CHECKING:
    from collections.abc import Iterator

README = Path(__file__).parents[2] / "README.md"


def commands() -> Iterator[tuple[str, click.Command]]:
    """All commands with their full names; those of `job` are the same as those without it."""
    context = click.Context(program)
    for name in program.list_commands(context):
        found = program.get_command(context, name)
        assert found is not None
        yield name, found
        if isinstance(found, click.Group) and name != "job":
            yield from ((f"{name} {inner}", one) for inner, one in found.commands.items())


ALL = dict(commands())
EXAMPLES = [(name, example) for name, one in ALL.items() for example in getattr(one, "examples", ())]


def test_each_command_has_help_and_examples() -> None:
    """Each command has examples that begin with its name, and the first sentence of its help is that of the list."""
    for name, found in ALL.items():
        assert found.help
        if name in COMMANDS and name != "job":
            assert re.split(r"\n\n", found.help)[0] == COMMANDS[name][1]
        if not isinstance(found, click.Group):
            assert isinstance(found, Command)
            assert found.examples
            for example in found.examples:
                assert f"tilebox-local {name}" in example or f"tilebox-local job {name}" in example


def test_help_prints_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """Examples stand in the help as they are typed."""
    for name, example in EXAMPLES:
        assert main([*name.split(), "--help"]) == 0
        assert f"\n  {example}\n" in (long := capsys.readouterr().out)
        assert main([*name.split(), "-h"]) == 0
        assert capsys.readouterr().out == long


def test_help_imports_nothing_heavy() -> None:
    """--help of any command imports neither the client nor any package that it needs."""
    heavy = "{'pandas', 'numpy', 'apsw', 'pydantic', 'watchdog', 'orjson', 'opentelemetry', 'tilebox_local.client'}"
    code = (
        "import sys, io, contextlib; from tilebox_local.cli import main\n"
        f"for name in {['', *ALL]!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()): assert main([*name.split(), '--help']) == 0\n"
        f"    assert not {heavy} & set(sys.modules), name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_new_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A function and a line in the table make a command with the options of all commands, a table and JSON."""

    @command("lengths", examples=["tilebox-local lengths"])
    @job_argument()
    def lengths(session: Session, job: str) -> int:
        """Say how long."""
        show_rows(session, [{"name": job, "total_ms": 1.5}], [Column("name"), Column("total_ms", "total", right=True)])
        return 1 if session.is_quiet else 0

    module = ModuleType("tilebox_local.cli.lengths")
    module.lengths = lengths  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(COMMANDS, "lengths", ("lengths:lengths", "Say how long."))
    assert main(["lengths"]) == 0
    assert capsys.readouterr().out == "name    total\nlatest    1.5\n"
    assert main(["-q", "lengths", "x", "--json"]) == 1
    assert capsys.readouterr().out == '[\n{"name":"x","total_ms":1.5}\n]\n'
    assert main(["--help"]) == 0
    assert "  lengths        Say how long.\n" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version is that of the package, also of `python -m tilebox_local`."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tilebox-local {__version__}\n"
    done = subprocess.run([sys.executable, "-m", "tilebox_local", "--version"], capture_output=True, check=True)
    assert done.stdout.decode() == f"tilebox-local {__version__}\n"


def test_readme_names_each_command() -> None:
    """The README has a row for each command, and no other ones."""
    table = re.search(r"## Command line\n(.*?)\n## ", README.read_text(), re.DOTALL)
    assert table is not None
    first_cells = "\n".join(re.findall(r"^\| (.*?) \|", table[1], re.MULTILINE))
    assert set(re.findall(r"`([a-z-]+)[^`]*`", first_cells)) == set(COMMANDS)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples speak of."""
    folder = tmp_path_factory.mktemp("prepared")
    with Client(folder / "tilebox.db") as client:
        client.clusters().create("Old", slug="old")
        for name, task in (("first mosaic", Mosaic([1])), ("process-scenes", Scene("x"))):
            client.jobs().submit(name, task)
        client.runner(tasks=[Scene, Mosaic]).run_all()
    shutil.copy(folder / "tilebox.db", folder / "damaged.db")
    sample = Path(__file__).with_name("sample_tasks.py")
    shutil.copy(sample, folder / "tasks.py")
    (folder / "my_package").mkdir()
    shutil.copy(sample, folder / "my_package" / "tasks.py")
    return folder


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_examples_run(name: str, example: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example of the help does what it says; those that would go on are only read."""
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    line, _, comment = example.partition("  #")
    if "until Ctrl-C" in comment:
        arguments = shlex.split(line)[1 + len(name.split()) :]
        ALL[name].make_context(name, arguments)
    elif re.search(r" [|>] ", line):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(line, shell=True, env={**os.environ, "PATH": path}, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    else:
        assert main(shlex.split(line)[1:]) == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The script of each shell asks the program, which answers with the names of commands and options."""
    assert main(["completion", shell]) == 0
    assert "_TILEBOX_LOCAL_COMPLETE" in capsys.readouterr().out
    asked = {"COMP_WORDS": "tilebox-local sn", "COMP_CWORD": "1" if shell != "fish" else "sn"}
    done = subprocess.run(
        [sys.executable, "-m", "tilebox_local"],
        env={**os.environ, **asked, "_TILEBOX_LOCAL_COMPLETE": f"{shell}_complete"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "snapshot" in done.stdout
    assert "prune" not in done.stdout
