"""What is wrong with a store, and what happened last: `client.doctor()`."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Literal

import apsw

from tilebox_local import __version__, clock
from tilebox_local.catalog import run, value
from tilebox_local.engine.crashes import tidy_up
from tilebox_local.formatting.text import visible
from tilebox_local.storage.locks import find_lock_holders, process_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta
    from pathlib import Path

    from tilebox_local.storage.store import Store

__all__ = ["Diagnosis", "Finding", "Incident", "examine"]

_SAFE_SQLITE = (3, 51, 3)
_LOW_BYTES, _LOW_SHARE = 256 << 20, 0.02
_LARGE_LOG_BYTES = 64 << 20
_CHECKED_BYTES = 1 << 30
_INCIDENTS = 20
_SYNCS = 3


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `level` is "ok", "warning" or "error"."""

    subject: str
    level: Literal["ok", "warning", "error"]
    message: str


@dataclass(frozen=True)
class Incident:
    """A row of the flight recorder. What does not apply is None; `kind` is documented at `incident_records`."""

    time: datetime
    kind: str
    message: str
    host: str | None
    pid: int | None
    runner: str | None
    job_id: str | None
    task_name: str | None
    task_id: str | None
    attempt: int | None
    span_path: str | None
    span_id: str | None
    last_log: str | None
    last_log_at: datetime | None
    last_seen_at: datetime | None

    @property
    def unseen(self) -> timedelta | None:
        """Time from the last sign of life to when the incident was noticed."""
        return None if self.last_seen_at is None else self.time - self.last_seen_at

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.time.isoformat(timespec='milliseconds')}  {visible(self.kind)}: {visible(self.message)}"
        if self.task_name is not None:
            yield f"  task      {visible(self.task_name)}, attempt {self.attempt}, {self.task_id or 'pruned since'}"
        if self.runner is not None:
            yield f"  runner    {visible(self.runner)}, process {self.pid} on {visible(self.host or '')}"
        if self.span_path is not None:
            yield f"  in span   {visible(self.span_path)}"
        if self.last_log is not None and self.last_log_at is not None:
            yield f"  last log  {self.last_log_at.isoformat(timespec='milliseconds')}  {visible(self.last_log)}"
        if self.last_seen_at is not None and self.unseen is not None:
            seen = self.last_seen_at.isoformat(timespec="milliseconds")
            yield f"  last seen {seen}, {self.unseen.total_seconds():.1f} s before it was noticed"


@dataclass(frozen=True)
class Diagnosis:
    """What `client.doctor()` found. `incidents` are the newest twenty, newest first."""

    path: str
    findings: list[Finding]
    incidents: list[Incident] = field(default_factory=list)

    @property
    def last_crash(self) -> Incident | None:
        """The newest incident of kind "crash"; None if there is none among `incidents`."""
        return next((incident for incident in self.incidents if incident.kind == "crash"), None)

    @property
    def ok(self) -> bool:
        """Whether no finding is a warning or an error. Incidents are of the past and do not count."""
        return all(finding.level == "ok" for finding in self.findings)

    def __str__(self) -> str:
        width = max((len(finding.subject) for finding in self.findings), default=0)
        lines = [visible(self.path)]
        lines += [f"{f.level:7}  {f.subject:{width}}  {visible(f.message, keep_newlines=True)}" for f in self.findings]
        if self.incidents:
            lines += ["", "Newest incidents:", *map(str, self.incidents)]
        return "\n".join(lines)


def examine(store: Store) -> Diagnosis:
    """Look at the store, its file, its disk and its past. Buries dead processes first, so that their crashes show.

    Raises StoreError: the store cannot be read at all.
    """
    tidy_up(store)
    findings = [*_versions()]
    if store.path is not None:
        findings += [*_place(store.path), *_log(store.path)]
    findings += _content(store)
    with store.read() as connection:
        rows = run(connection, "newest_incidents", (_INCIDENTS,))
    return Diagnosis(str(store.path or ":memory:"), findings, [_incident(*row[1:]) for row in rows])


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "ok", f"tilebox-local {__version__}, SQLite {apsw.sqlite_lib_version()}")
    stdlib = sys.modules.get("sqlite3")
    if stdlib is not None and stdlib.sqlite_version_info < _SAFE_SQLITE:
        yield Finding(
            "sqlite3",
            "ok",
            f"Python's sqlite3 module is SQLite {stdlib.sqlite_version}, which may read the file from other processes, "
            "with ?mode=ro, but must not write to it.",
        )


def _place(path: Path) -> Iterator[Finding]:
    latency = _sync_latency_s(path.parent)
    if latency is not None:
        yield Finding("disk", "ok", f"waits {latency * 1000:.1f} ms for the disk (median of {_SYNCS})")
    usage = shutil.disk_usage(path.parent)
    is_low = usage.free < max(_LOW_BYTES, usage.total * _LOW_SHARE)
    message = f"{usage.free >> 20} MiB free"
    yield Finding("space", "warning" if is_low else "ok", message)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        message = f"mode {mode:04o}: not only its owner may use it; `chmod 600` it while nobody has it open"
        yield Finding("access", "warning", message)
    else:
        yield Finding("access", "ok", f"mode {mode:04o}")


def _sync_latency_s(folder: Path) -> float | None:
    """Seconds that a write of one page to this disk takes to be durable; None if nothing can be written."""
    times = []
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(_SYNCS):
                file.write(bytes(4096))
                file.flush()
                begun = time.perf_counter()
                os.fsync(file.fileno())
                times.append(time.perf_counter() - begun)
    except OSError:
        return None
    return median(times)


def _log(path: Path) -> Iterator[Finding]:
    try:
        size = path.with_name(f"{path.name}-wal").stat().st_size
    except OSError:
        size = 0
    readers = find_lock_holders(path).readers
    who = f"; read by {', '.join(map(process_name, readers))} right now" if readers else ""
    level: Literal["ok", "warning"] = "warning" if size > _LARGE_LOG_BYTES else "ok"
    yield Finding("log", level, f"{size / (1 << 20):.1f} MiB in the write-ahead log{who}")


def _content(store: Store) -> Iterator[Finding]:
    size = 0 if store.path is None else store.path.stat().st_size
    with store.read() as connection:
        commit_no = value(connection, "commit_no")
        writers, dropped, quarantined, crashed, lag_ns = run(connection, "writer_totals")[0]
        open_spans = value(connection, "count_open_spans")
        if size <= _CHECKED_BYTES:
            try:
                problem = connection.pragma("quick_check")
            except apsw.Error as error:
                problem = str(error)
            sound = problem == "ok"
            message = "quick_check is ok" if sound else f"quick_check: {problem}. Save it with `tilebox-local recover`"
            yield Finding("structure", "ok" if sound else "error", message)
    yield Finding("commits", "ok", f"{commit_no} transactions, by {writers} processes, {crashed} of which crashed")
    is_lossy = bool(dropped or quarantined)
    message = f"{dropped} records dropped, {quarantined} quarantined, {open_spans} spans open, "
    message += f"longest lag {lag_ns / 1e6:.0f} ms"
    yield Finding("telemetry", "warning" if is_lossy else "ok", message)
    failure = store.writer.last_error
    if failure is not None:
        yield Finding("writer", "error", f"the last transaction of this process failed: {failure}")


def _incident(
    time_ns: int,
    kind: str,
    message: str,
    last_seen_ns: int | None,
    host: str | None,
    pid: int | None,
    runner: str | None,
    task_name: str | None,
    task_id: str | None,
    attempt: int | None,
    job_id: str | None,
    span_path: str | None,
    span_id: str | None,
    log_body: str | None,
    log_time_ns: int | None,
) -> Incident:
    return Incident(
        time=clock.ns_to_datetime(time_ns),
        kind=kind,
        message=message,
        host=host,
        pid=pid,
        runner=runner,
        job_id=job_id,
        task_name=task_name,
        task_id=task_id,
        attempt=attempt,
        span_path=span_path,
        span_id=span_id if span_path is not None else None,
        last_log=log_body,
        last_log_at=None if log_time_ns is None else clock.ns_to_datetime(log_time_ns),
        last_seen_at=None if last_seen_ns is None else clock.ns_to_datetime(last_seen_ns),
    )
