"""Is a store sound? SQLite's own checks, and the rules that the engine and the writer keep, one query each."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import apsw

from tilebox_local.catalog import sql
from tilebox_local.storage.schema import read_schema_sql
from tilebox_local.upkeep.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tilebox_local.storage.store import Store
    from tilebox_local.upkeep.progress import Report

__all__ = ["CheckResult", "Problem", "check_store"]

_QUICK_TIMEOUT_S = 30.0  # of all checks together; a read transaction keeps the log from starting over
_EXAMPLES = 3
_STEPS = 20_000  # of SQLite's virtual machine between two looks at the clock: a few ms

# What is checked: name of the query -> what is wrong if it returns anything.
_RULES = {
    "check_job_counts": "jobs whose counters are not the numbers of their tasks",
    "check_roots": "jobs that name other root tasks than they have",
    "check_children": "tasks that name or count other children than they have",
    "check_group_counts": "groups that count other unsettled tasks than they have",
    "check_group_dependencies": "groups that count other unsettled dependencies than they have",
    "check_ready": "tasks that may be claimed but should not, or the other way round",
    "check_running": "tasks that run without lease or runner, or have a lease and do not run",
    "check_states": "tasks in an unknown state",
    "check_families": "tasks whose group or parent belongs to another job",
    "check_job_traces": "jobs without a trace",
    "check_span_traces": "spans of unknown traces (late ones of what was pruned: prune again)",
    "check_event_traces": "events of unknown traces (late ones of what was pruned: prune again)",
    "check_log_traces": "log records of unknown traces (late ones of what was pruned: prune again)",
    "check_open_spans": "open spans that nobody will end",
}
_FULL_RULES = {
    "check_span_references": "spans of unknown resources or scopes",
    "check_log_references": "log records of unknown resources or scopes",
    "check_attributes": "attributes that are not JSON",
}


@dataclass(frozen=True)
class Problem:
    """Something that should not be: which check found it, what it is, how often, and the first few cases."""

    check: str
    message: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.count} {self.message}: {'; '.join(self.examples)}"


@dataclass(frozen=True)
class CheckResult:
    """What `check` found, in the order of the checks, and the checks for which there was not enough time."""

    problems: tuple[Problem, ...]
    unfinished: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing was found; see `unfinished` for what was not looked at."""
        return not self.problems


def check_store(store: Store, *, full: bool = False, progress: Report | None = None) -> CheckResult:
    """Run all checks on read-only connections; see Client.check."""
    deadline = None if full else time.monotonic() + _QUICK_TIMEOUT_S
    pragma = "integrity_check" if full else "quick_check"
    checks = {
        pragma: ("damages found by SQLite", f"PRAGMA {pragma}", _damages),
        "foreign_key_check": ("rows that refer to rows that do not exist", "PRAGMA foreign_key_check", _dangling),
        "schema": ("tables, indexes, triggers or views that are missing", sql["objects"], _missing),
    }
    checks |= {name: (message, sql[name], _texts) for name, message in (_RULES | (_FULL_RULES if full else {})).items()}
    problems, unfinished = [], []
    for done, (name, (message, statement, texts)) in enumerate(checks.items()):
        if progress is not None:
            progress(Progress("checking", done, len(checks), "checks"))
        found = _Found()
        # One statement, one read transaction: between two of them the log may start over.
        with store.read() as connection:
            try:
                with _interrupted_at(connection, deadline):
                    for text in texts(connection.execute(statement)):
                        found.add(text)
            except apsw.InterruptError:
                unfinished.append(name)
            except apsw.CorruptError as error:
                found.add(f"what was to be checked cannot be read ({error})")
        if found.count:
            problems.append(Problem(name, message, found.count, tuple(found.examples)))
    if progress is not None:
        progress(Progress("checking", len(checks), len(checks), "checks"))
    return CheckResult(tuple(problems), tuple(unfinished))


class _Found:
    """Counts what is wrong, and keeps the first few cases."""

    def __init__(self) -> None:
        self.count = 0
        self.examples: list[str] = []

    def add(self, text: str) -> None:
        self.count += 1
        if self.count <= _EXAMPLES:
            self.examples.append(text)


def _damages(rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    for (text,) in rows:
        if text != "ok":
            yield from text.splitlines()


def _dangling(rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    for table, row_no, parent, _ in rows:
        yield f"row {row_no} of {table} names a row of {parent}"


def _missing(rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    found = {name for (name,) in rows}
    for kind, name in _objects():
        if name not in found:
            yield f"{kind} {name}"


def _texts(rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    for (text,) in rows:
        yield text


@cache
def _objects() -> list[tuple[str, str]]:
    """What schema.sql creates, as (kind, name)."""
    created = re.findall(r"^CREATE (?:UNIQUE )?(TABLE|INDEX|TRIGGER|VIEW) (\w+)", read_schema_sql(), re.MULTILINE)
    return [(kind.lower(), name) for kind, name in created]


@contextmanager
def _interrupted_at(connection: apsw.Connection, deadline: float | None) -> Iterator[None]:
    """Interrupt what runs on the connection when the time has come."""
    if deadline is None:
        yield
        return
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        if time.monotonic() > deadline:
            raise apsw.InterruptError("no time is left")
        yield
    finally:
        connection.set_progress_handler(None)
