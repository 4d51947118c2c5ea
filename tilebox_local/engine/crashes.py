"""What dead processes leave behind: running tasks go back to the queue, open spans end, and an incident tells of it.

A process on this machine is dead as soon as it is gone (same pid, start time, boot and pid namespace), which is noticed
at once. Where processes cannot be compared, only the lease of a runner tells.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from tilebox_local import clock
from tilebox_local.catalog import run, value
from tilebox_local.engine.runners import OpenSpan, end_open_spans, open_spans_of_task
from tilebox_local.engine.tasks import lose_task
from tilebox_local.errors import StoreCorruptError, StoreFullError
from tilebox_local.process import ProcessIdentity, is_dead, process_identity
from tilebox_local.storage.bookkeeping import write_incident

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import apsw

    from tilebox_local.storage.store import Store

__all__ = ["Remains", "bury", "find_remains", "tidy_up"]

_MAX_ROWS, _MIN_ROWS = 10_000, 10  # to look at for the last sign of a process, in all traces and in each

_log = logging.getLogger("tilebox.workflows.internal")


class LostTask(NamedTuple):
    """A running task whose runner is gone."""

    task_no: int
    attempt: int
    runner_no: int | None
    writer_no: int | None
    has_crashed: bool
    reason: str


class DeadWriter(NamedTuple):
    """A process that is gone."""

    writer_no: int
    has_closed: bool
    process: ProcessIdentity


class Remains(NamedTuple):
    """What is to be tidied up after others."""

    tasks: list[LostTask]
    writers: list[DeadWriter]

    def __bool__(self) -> bool:
        return bool(self.tasks or self.writers)


def find_remains(connection: apsw.Connection, *, own_runners: Collection[int], boot_ns: int) -> Remains:
    """Running tasks whose runner is dead or whose lease ran out, and processes that died. Reads only.

    Tasks of `own_runners`, which are alive by definition, are left out.
    """
    return Remains(_find_lost_tasks(connection, own_runners, boot_ns), _find_dead_writers(connection))


def tidy_up(store: Store) -> None:
    """Bury what dead processes have left behind in `store`, if there is anything: one read mostly.

    Nothing happens to a store that is open for reading only. A full disk or a damaged page is no reason not to look at
    the rest: the log says so, and the next one tries again.
    """
    if store.is_read_only:
        return
    try:
        _tidy_up(store)
    except (StoreFullError, StoreCorruptError) as error:
        _log.error("What dead processes have left behind stays for now: %s", error)


def _tidy_up(store: Store) -> None:
    with store.read() as connection:
        remains = find_remains(connection, own_runners=store.running_here, boot_ns=clock.boot_ns())
    if not remains:
        return

    def tidy(connection: apsw.Connection) -> None:
        remains = find_remains(connection, own_runners=store.running_here, boot_ns=clock.boot_ns())
        bury(connection, remains, now_ns=clock.wall_ns())

    store.transact(tidy)


def _find_lost_tasks(connection: apsw.Connection, own_runners: Collection[int], boot_ns: int) -> list[LostTask]:
    lost = []
    for row in run(connection, "running_tasks"):
        task_no, attempt, lease_expires_boot_ns, runner_no, stopped_ns, writer_no, *identity = row
        if runner_no in own_runners:
            continue
        if runner_no is not None:
            process = ProcessIdentity(*identity)
            has_crashed = bool(is_dead(process))
            # A runner of this process that is not at work has ended without being able to say so: a full disk, say.
            if has_crashed or stopped_ns is not None or process == process_identity():
                lost.append(
                    LostTask(task_no, attempt, runner_no, writer_no, has_crashed, f"The runner died ({process}).")
                )
                continue
        if lease_expires_boot_ns is not None and lease_expires_boot_ns < boot_ns:
            reason = "The lease ran out: the runner did not extend it in time."
            lost.append(LostTask(task_no, attempt, runner_no, writer_no, False, reason))
    return lost


def _find_dead_writers(connection: apsw.Connection) -> list[DeadWriter]:
    dead = []
    for writer_no, ended_ns, *identity in run(connection, "suspect_writers"):
        process = ProcessIdentity(*identity)
        if is_dead(process):
            dead.append(DeadWriter(writer_no, ended_ns is not None, process))
    return dead


def bury(connection: apsw.Connection, remains: Remains, *, now_ns: int) -> None:
    """Queue lost tasks again, end what was open, and record each crash once. Inside of a write transaction.

    Attempts and open spans end with their last sign of life: a heartbeat or commit of the process, or the newest time
    among the spans and logs of the attempt, as far as it is in the newest 10,000 of the trace; the spans with an error.
    """
    for task in remains.tasks:
        _bury_task(connection, task, now_ns)
    reported = {task.writer_no for task in remains.tasks if task.has_crashed}
    for writer in remains.writers:
        _bury_writer(connection, writer, now_ns, is_reported=writer.writer_no in reported)


def _bury_task(connection: apsw.Connection, task: LostTask, now_ns: int) -> None:
    place = {"task_no": task.task_no, "runner_no": task.runner_no, "limit": _MAX_ROWS}
    signs = [value(connection, "last_sign_of_attempt", place)]
    if task.has_crashed:
        signs.append(value(connection, "writer_last_seen", (task.writer_no,)))
    last_seen_ns = _last_of(signs, now_ns)
    spans = open_spans_of_task(connection, task.task_no)
    logs = run(connection, "last_log_of_attempt", {"task_no": task.task_no, "limit": _MAX_ROWS})
    write_incident(
        connection,
        "crash" if task.has_crashed else "runner lost",
        task.reason,
        writer_no=task.writer_no,
        last_seen_ns=last_seen_ns,
        runner_no=task.runner_no,
        task_no=task.task_no,
        attempt=task.attempt,
        task_name=value(connection, "name_of_task", (task.task_no,)),
        **_describe(spans, logs),
    )
    end_open_spans(connection, spans, end_ns=last_seen_ns, reason=task.reason)
    lose_task(
        connection,
        task_no=task.task_no,
        attempt=task.attempt,
        reason=task.reason,
        now_ns=now_ns,
        last_seen_ns=last_seen_ns,
    )


def _bury_writer(connection: apsw.Connection, writer: DeadWriter, now_ns: int, *, is_reported: bool) -> None:
    spans = sorted(map(OpenSpan._make, run(connection, "open_spans_of_process", {"writer_no": writer.writer_no})))
    signs = [value(connection, "writer_last_seen", (writer.writer_no,))]
    logs = []
    first_in_trace = {span.trace_no: span.start_ns for span in reversed(spans)}
    # The writers of all processes wait meanwhile, so what is read is bounded.
    limit = max(_MIN_ROWS, _MAX_ROWS // max(1, len(first_in_trace)))
    for trace_no, start_ns in first_in_trace.items():
        place = {"trace_no": trace_no, "start_ns": start_ns, "writer_no": writer.writer_no, "limit": limit}
        signs.append(value(connection, "last_sign_in_trace", place))
        found = run(connection, "last_log_in_trace", place)
        signs += [time_ns for time_ns, _ in found]
        logs += found
    last_seen_ns = _last_of(signs, now_ns)
    if not (writer.has_closed or is_reported):
        reason = f"A process ended without closing the store ({writer.process}): it was killed, or called os._exit()."
        about = _describe(spans, logs)
        write_incident(connection, "crash", reason, writer_no=writer.writer_no, last_seen_ns=last_seen_ns, **about)
    end_open_spans(connection, spans, end_ns=last_seen_ns, reason=f"The process ended ({writer.process}).")
    if not writer.has_closed:
        run(connection, "writer_crashed", {"writer_no": writer.writer_no, "last_seen_ns": last_seen_ns})
        run(connection, "runners_crashed", (writer.writer_no,))


def _last_of(signs: Sequence[int | None], now_ns: int) -> int:
    """The newest sign of life. Code may give spans and logs a time to come; what came after, nobody knows."""
    known = [sign for sign in signs if sign is not None]
    return min(max(known), now_ns) if known else now_ns


class _Place(NamedTuple):
    """Where an open span is among the others."""

    depth: int
    span: OpenSpan
    above: _Place | None

    def path(self) -> str:
        """Names from the outermost span down to this one."""
        names: list[str] = []
        place: _Place | None = self
        while place is not None:
            names.append(place.span.name)
            place = place.above
        return " > ".join(reversed(names))


def _describe(spans: Sequence[OpenSpan], logs: Sequence[tuple[int, str]]) -> dict[str, object]:
    """The columns of an incident about open spans, by start, and the last log record."""
    about: dict[str, object] = {}
    if spans:
        places: dict[int | None, _Place] = {}
        for span in spans:  # parents begin first
            above = places.get(span.parent_span_id)
            places[span.span_id] = _Place(1 if above is None else above.depth + 1, span, above)
        deepest = max(places.values(), key=lambda place: (place.depth, place.span.start_ns))
        about = {"trace_no": deepest.span.trace_no, "span_id": deepest.span.span_id, "span_path": deepest.path()}
    if logs:
        about["log_time_ns"], about["log_body"] = max(logs)
    return about
