"""What the tests of the store share: a look from outside, scripts in processes of their own, hand-made records.

A store that this process has open is never opened by another SQLite in this process: that would drop its locks.
Whoever wants to see it from outside asks another process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_ASK = """
import json, pathlib, sqlite3, sys
connection = sqlite3.connect(f"{pathlib.Path(sys.argv[1]).as_uri()}?mode=ro", uri=True)
rows = connection.execute(sys.argv[2]).fetchall()
show = lambda value: {"blob": value.hex()} if isinstance(value, bytes) else value
print(json.dumps([[show(value) for value in row] for row in rows]))
"""
_CHANGE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
connection.close()
"""
_TIMEOUT_S = 60


def outside(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of a query as another process sees them, through the older SQLite of the standard library, read-only."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _ASK, str(path), query],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    unpack = lambda value: bytes.fromhex(value["blob"]) if isinstance(value, dict) else value  # noqa: E731
    return [tuple(unpack(value) for value in row) for row in json.loads(done.stdout)]


def change_closed_file(path: Path, *statements: str) -> None:
    """Run statements on a file that nobody has open, in another process."""
    command = [sys.executable, "-I", "-S", "-c", _CHANGE, str(path), *statements]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr


def start(script: str, *arguments: object, warnings: str = "error") -> subprocess.Popen[str]:
    """Start a script in a process of its own, with pipes to talk to it."""
    command = [sys.executable, "-W", warnings, "-c", script, *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line that a script prints; if there is none, what it complains about."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.endswith("\n"), process.communicate(timeout=_TIMEOUT_S)
    return line[:-1]


def run_together(script: str, arguments: list[tuple[object, ...]]) -> list[tuple[str, str, int]]:
    """Start a script once per tuple of arguments, tell all of them to go when all are ready; output and exit codes."""
    with ExitStack() as stack:
        processes = [stack.enter_context(start(script, *args)) for args in arguments]
        for process in processes:
            assert read_line(process) == "ready"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [(*process.communicate(timeout=_TIMEOUT_S), process.returncode) for process in processes]


def run(script: str, *arguments: object, warnings: str = "error") -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own to its end."""
    process = start(script, *arguments, warnings=warnings)
    try:
        stdout, stderr = process.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        raise AssertionError(f"The script hangs. {stdout}\n{stderr}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run_ok(script: str, *arguments: object, warnings: str = "error") -> str:
    """Run a script that must succeed; what it printed."""
    done = run(script, *arguments, warnings=warnings)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout
