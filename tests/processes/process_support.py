"""Scripts that make spans in threads and processes of their own, and an oracle outside of them.

Whoever has left a span says so in a file of acknowledgements: the span's name, which span it stands below, its trace
and the process. The test compares them with what is in the store: each span once, in its place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from store_support import outside

if TYPE_CHECKING:
    from pathlib import Path

PRELUDE = '''
import asyncio, atexit, functools, multiprocessing, os, signal, sys, threading, time
import json as _json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from opentelemetry import propagate
from tilebox_local import Client, ExecutionContext, Task

_acks = os.open(os.environ["ACKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

@functools.cache
def client():
    return Client(os.environ["STORE"])

def acknowledge(name, below, span):
    """Say that a span is over."""
    trace_id = f"{span.get_span_context().trace_id:032x}"
    os.write(_acks, (_json.dumps([name, below, trace_id, os.getpid()]) + "\\n").encode())

@contextmanager
def spanned(name, below=None, tracer=None, **kwargs):
    """A span that is acknowledged once it is over."""
    try:
        with (tracer or client().tracer).span(name, **kwargs) as span:
            yield span
    finally:
        acknowledge(name, below, span)

def make(name, below=None, carrier=None, **kwargs):
    """One short span, below that of a carrier if there is one."""
    if carrier:
        kwargs["context"] = propagate.extract(carrier)
    with spanned(name, below, **kwargs):
        pass
    return os.getpid()

def carrier():
    """The current span, to be passed to another process."""
    found = {}
    propagate.inject(found)
    return found

def wait_for_child(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
'''
_STORED = """
SELECT s.name, s.span_id, s.parent_span_id, lower(hex(t.trace_id)), json_extract(r.attributes, '$."process.pid"')
FROM span_records s
JOIN trace_records t ON t.trace_no = s.trace_no
JOIN resource_records r ON r.resource_no = s.resource_no
WHERE s.duration_ns IS NOT NULL
ORDER BY s.name, r.resource_no
"""


@dataclass
class Played:
    """What came of a script."""

    code: int
    output: list[str]
    complaints: str
    acknowledged: list[tuple[Any, ...]]
    stored: list[tuple[Any, ...]]

    def names(self) -> list[str]:
        """Names of the stored spans, sorted."""
        return [row[0] for row in self.stored]


class Stage:
    """Runs scripts on one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "store.db"
        self._acks = folder / "acks"

    def start(self, script: str, *arguments: object, first: str = "", **environment: str) -> subprocess.Popen[str]:
        """Start a script, after the prelude, from a file: what multiprocessing starts imports it again.

        `first` comes before the prelude, and so before the package is imported.
        """
        file = self.folder / "script.py"
        file.write_text(first + PRELUDE + script)
        kept = {name: value for name, value in os.environ.items() if name not in ("TRACEPARENT", "TRACESTATE")}
        places = {"STORE": str(self.path), "ACKS": str(self._acks)}
        return subprocess.Popen(
            [sys.executable, str(file), *map(str, arguments)],
            env=kept | places | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen[str], timeout_s: float = 60) -> Played:
        """Wait for the end of a script, and look at what is left."""
        try:
            output, complaints = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            try:
                output, complaints = process.communicate(timeout=5)
            except subprocess.TimeoutExpired:  # a child that it has left behind holds the pipes
                output, complaints = "", "It has left children behind."
            raise AssertionError(f"The script hangs. {output}\n{complaints}") from None
        found = outside(self.path, _STORED)
        names = {span_id: name for name, span_id, *_ in found}
        stored = [(name, names.get(parent), *rest) for name, _, parent, *rest in found]
        return Played(process.returncode, output.splitlines(), complaints, self.acknowledged_before(None), stored)

    def acknowledged_before(self, size: int | None) -> list[tuple[Any, ...]]:
        """The first acknowledgements, as many as there were when their file had this size in bytes; None: all."""
        lines = self._acks.read_bytes()[:size].splitlines() if self._acks.exists() else []
        return sorted((tuple(json.loads(line)) for line in lines), key=str)

    def play(self, script: str, *arguments: object, **environment: str) -> Played:
        """Run a script to its end."""
        return self.end(self.start(script, *arguments, **environment))

    def play_well(self, script: str, *arguments: object, **environment: str) -> Played:
        """Run a script that must end well, and leave in the store exactly what it acknowledged."""
        played = self.play(script, *arguments, **environment)
        assert (played.code, played.complaints) == (0, ""), played.complaints
        assert sorted(played.stored, key=str) == played.acknowledged
        return played

    def play_output(self, script: str, *arguments: object, **environment: str) -> list[str]:
        """What a script printed that must end well."""
        played = self.play(script, *arguments, **environment)
        assert (played.code, played.complaints) == (0, ""), played.complaints
        return played.output
