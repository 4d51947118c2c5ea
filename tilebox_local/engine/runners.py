"""Runners: register, heartbeat, and give back the tasks of those that died.

A runner on this machine is dead as soon as its process is gone (same pid, same start time, same boot, same pid
namespace), which is noticed at once. Where processes cannot be compared, only its lease tells.
"""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tilebox_local import clock
from tilebox_local.catalog import run, value
from tilebox_local.engine.tasks import lose_task
from tilebox_local.storage.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Collection

    import apsw

__all__ = [
    "LostTask",
    "ProcessIdentity",
    "end_open_spans",
    "find_lost_tasks",
    "lose_tasks_of_dead_runners",
    "process_identity",
    "register_runner",
]


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Names one process of one boot; empty strings where the platform does not tell."""

    host: str
    pid: int
    process_start: str
    boot_id: str
    pid_namespace: str


def process_identity() -> ProcessIdentity:
    """This process."""
    return _identity_of(os.getpid())


@functools.lru_cache(maxsize=1)  # keyed by pid: a forked child is somebody else
def _identity_of(pid: int) -> ProcessIdentity:
    return ProcessIdentity(platform.node(), pid, _process_start(pid) or "", clock.boot_id(), _pid_namespace())


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """Start time of a process in kernel ticks; None if there is no such process, or only its exit status is left."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command name in parentheses may contain anything, so count fields from its end (proc(5)).
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def is_dead(runner: ProcessIdentity) -> bool | None:
    """Whether the process of a runner is gone; None if this process cannot tell."""
    here = process_identity()
    if runner.boot_id and here.boot_id and runner.boot_id != here.boot_id:
        return True  # a store is used on one machine, which has been restarted since
    if not runner.process_start or (runner.boot_id, runner.pid_namespace) != (
        here.boot_id,
        here.pid_namespace,
    ):
        return None
    return _process_start(runner.pid) != runner.process_start


def register_runner(connection: apsw.Connection, *, resource_no: int, cluster_no: int, now_ns: int) -> int:
    """Insert a runner of this process; return its number."""
    identity = process_identity()
    number: int = value(
        connection,
        "insert_runner",
        {
            "resource_no": resource_no,
            "cluster_no": cluster_no,
            "host": identity.host,
            "pid": identity.pid,
            "process_start": identity.process_start,
            "boot_id": identity.boot_id,
            "pid_namespace": identity.pid_namespace,
            "now_ns": now_ns,
        },
    )
    return number


class LostTask(NamedTuple):
    """A running task whose runner is gone."""

    task_no: int
    attempt: int
    runner_no: int | None
    reason: str


def find_lost_tasks(connection: apsw.Connection, *, own_runners: Collection[int], boot_ns: int) -> list[LostTask]:
    """The running tasks whose runner is dead or whose lease ran out. Reads only.

    Tasks of `own_runners`, which are alive by definition, are left out.
    """
    lost = []
    for row in run(connection, "running_tasks"):
        (
            task_no,
            attempt,
            lease_expires_boot_ns,
            runner_no,
            host,
            pid,
            start,
            boot_id,
            namespace,
            stopped_ns,
        ) = row
        if runner_no in own_runners:
            continue
        identity = ProcessIdentity(host, pid, start, boot_id, namespace)
        # A runner of this process that is not at work has ended without being able to say so, for want of disk space.
        if runner_no is not None and (stopped_ns is not None or identity == process_identity() or is_dead(identity)):
            lost.append(LostTask(task_no, attempt, runner_no, f"The runner died (process {pid} on {host})."))
        elif lease_expires_boot_ns is not None and lease_expires_boot_ns < boot_ns:
            reason = "The lease ran out: the runner did not extend it in time."
            lost.append(LostTask(task_no, attempt, runner_no, reason))
    return lost


def lose_tasks_of_dead_runners(
    connection: apsw.Connection, *, own_runners: Collection[int], now_ns: int, boot_ns: int
) -> int:
    """Queue the tasks again that `find_lost_tasks` finds; return how many.

    The attempts, and their open spans with an error, end with the last sign of life: a heartbeat of the runner, or the
    newest time among the spans and logs of the attempt.
    """
    lost = find_lost_tasks(connection, own_runners=own_runners, boot_ns=boot_ns)
    for task_no, attempt, runner_no, reason in lost:
        # What it did after its last sign of life, nobody knows. Code may give spans and logs a time to come.
        sign_ns = value(connection, "last_sign_of_attempt", {"task_no": task_no, "runner_no": runner_no})
        last_seen_ns = now_ns if sign_ns is None else min(sign_ns, now_ns)
        end_open_spans(connection, task_no=task_no, end_ns=last_seen_ns, reason=reason)
        lose_task(connection, task_no=task_no, attempt=attempt, reason=reason, now_ns=now_ns, last_seen_ns=last_seen_ns)
    return len(lost)


def end_open_spans(connection: apsw.Connection, *, task_no: int, end_ns: int, reason: str) -> None:
    """End the spans of a task that nobody will end any more, with an error; one that ends after all stays as it is."""
    message = redact_text(f"interrupted: {reason}")
    for trace_no, start_ns, span_id in run(connection, "open_spans_of_task", {"task_no": task_no}):
        run(
            connection,
            "end_open_span",
            {
                "trace_no": trace_no,
                "start_ns": start_ns,
                "span_id": span_id,
                "end_ns": end_ns,
                "message": message,
            },
        )
