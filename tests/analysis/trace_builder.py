"""Jobs with the times, states and spans that a test asks for, in a real store."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    import apsw

    from tilebox_local.storage.store import Store

T0 = 1_700_000_000_000_000_000  # when jobs of tests begin, unless they say otherwise
QUEUED, RUNNING, COMPUTED, FAILED, SKIPPED, FAILED_OPTIONAL, LOST, RELEASED = range(1, 9)


@dataclass
class SpanSpec:
    """A span. Instants are relative to the start of its job, in ns; `end` None: still open."""

    name: str
    start: int
    end: int | None
    parent: int | None = None  # its span_id
    task_no: int | None = None
    status: int = 0  # 2: error
    message: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    runner_no: int = 1
    span_id: int | None = None  # None: the next free one
    exception: tuple[str, str, str] | None = None  # type, message, stack


@dataclass
class Attempt:
    """One attempt of a task, relative to the start of its job, in ns; `stopped` None: it runs."""

    ready: int
    started: int
    stopped: int | None
    runner_no: int = 1
    outcome: int = COMPUTED


class TraceBuilder:
    """Writes jobs, tasks, spans and logs straight into the tables, as the engine would have left them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._numbers = itertools.count(1)
        self._runners: dict[int, int] = {}

    def _write(self, statement: str, *parameters: Any) -> Any:
        def write(connection: apsw.Connection) -> Any:
            return connection.execute(statement, parameters).get

        return self.store.transact(write)

    def runner(self, runner_no: int) -> int:
        """The resource of a runner, which is made when it is first named."""
        if runner_no not in self._runners:
            writer = self._write(
                "INSERT INTO writer_records (host, pid, process_start, boot_id, pid_namespace, opened_ns, "
                "last_seen_ns, ended_ns) VALUES ('host', ?, '', '', '', 0, 0, 0) RETURNING writer_no",
                runner_no,
            )
            attributes = json.dumps({"service.instance.id": f"runner-{runner_no}"})
            resource = self._write(
                "INSERT INTO resource_records (attributes, writer_no) VALUES (?, ?) RETURNING resource_no",
                attributes,
                writer,
            )
            self._write(
                "INSERT INTO runner_records (runner_no, resource_no, cluster_no, writer_no, started_ns, last_seen_ns, "
                "stopped_ns) VALUES (?, ?, 1, ?, ?, ?, ?)",
                runner_no,
                resource,
                writer,
                T0,
                T0,
                T0,
            )
            self._runners[runner_no] = resource
        return self._runners[runner_no]

    def job(self, name: str = "job", start: int = T0) -> JobBuilder:
        """A job without tasks and spans, submitted at `start`."""
        number = next(self._numbers)
        job_no = self._write(
            "INSERT INTO job_records (job_id, name, trace_parent, submitted_ns) VALUES (?, ?, '00-x', ?) "
            "RETURNING job_no",
            UUID(int=(start // 1_000_000 << 80) + number).bytes,
            name,
            start,
        )
        trace_no = self._write(
            "INSERT INTO trace_records (trace_id, job_no) VALUES (?, ?) RETURNING trace_no",
            number.to_bytes(16, "big"),
            job_no,
        )
        self._write("UPDATE job_records SET first_root_no = 0, last_root_no = -1 WHERE job_no = ?", job_no)
        return JobBuilder(self, job_no, trace_no, start)

    def completed_jobs(self, name: str, times: list[tuple[int, int]], start: int = T0) -> None:
        """Jobs that completed, one a second from `start` on, in one transaction: (elapsed, compute) of each, in ns.

        They have one task each as far as their counters say, but no rows of tasks.
        """
        numbers = [next(self._numbers) for _ in times]

        def write(connection: apsw.Connection) -> None:
            for number, (elapsed, compute) in zip(numbers, times, strict=True):
                submitted = start + number * 1_000_000_000
                connection.execute(
                    "INSERT INTO job_records (job_id, name, trace_parent, submitted_ns, first_root_no, last_root_no, "
                    "computed_count, first_started_ns, last_stopped_ns, compute_duration_ns) "
                    "VALUES (?, ?, '00-x', ?, 0, -1, 1, ?, ?, ?)",
                    (UUID(int=number).bytes, name, submitted, submitted, submitted + elapsed, compute),
                ).fetchall()

        self.store.transact(write)


class JobBuilder:
    """One job of a TraceBuilder."""

    def __init__(self, builder: TraceBuilder, job_no: int, trace_no: int, start: int) -> None:
        self._builder = builder
        self._write = builder._write
        self.job_no, self.trace_no, self.start = job_no, trace_no, start
        self._span_ids = itertools.count(1)

    @property
    def id(self) -> UUID:
        """The id of the job."""
        return UUID(bytes=self._write("SELECT job_id FROM job_records WHERE job_no = ?", self.job_no))

    def task(
        self,
        name: str,
        *attempts: Attempt,
        state: int | None = None,
        submitted: int | None = None,
        parent: int | None = None,
        group: int | None = None,
        depends_on: tuple[int, ...] = (),
        released_by: int | None = None,
        branch: int | None = None,
        optional: bool = False,
        task_input: str = "{}",
    ) -> int:
        """Add a task; its task_no. Its state is the outcome of the last attempt, QUEUED without one.

        `depends_on` are numbers of groups; `group` None makes a group of its own.
        """
        last = attempts[-1] if attempts else None
        if state is None:
            state = QUEUED if last is None else RUNNING if last.stopped is None else last.outcome
        if state in (LOST, RELEASED):
            state = QUEUED
        group_no = group or self.group(depends_on)
        identifier = self._write("SELECT identifier_no FROM identifier_records WHERE name = ?", name) or self._write(
            "INSERT INTO identifier_records (name, major, minor) VALUES (?, 0, 0) RETURNING identifier_no", name
        )
        first_ready = attempts[0].ready if attempts else 0
        submitted = first_ready if submitted is None else submitted
        for attempt in attempts:
            self._builder.runner(attempt.runner_no)
        ended = [a for a in attempts if a.stopped is not None]
        number = next(self._builder._numbers) << 20
        # Inserted as queued and then changed, so that the triggers count.
        task_no: int = self._write(
            "INSERT INTO task_records (task_id, job_no, parent_no, group_no, branch_no, identifier_no, cluster_no, "
            "state, ready, optional, attempt, runner_no, submitted_ns, ready_ns, released_by_no, input) "
            "VALUES (?, ?, ?, ?, ?, ?, 1, 1, 0, ?, ?, ?, ?, ?, ?, ?) RETURNING task_no",
            UUID(int=(self.start // 1_000_000 << 80) + number).bytes,
            self.job_no,
            parent,
            group_no,
            branch,
            identifier,
            int(optional),
            len(attempts),
            last.runner_no if last else None,
            self.start + submitted,
            self.start + (last.ready if last else submitted),
            released_by,
            task_input.encode(),
        )
        for number, attempt in enumerate(attempts, start=1):
            self._change(task_no, RUNNING, "started_ns", self.start + attempt.started)
            if attempt.stopped is None:
                continue
            is_last = attempt is last and state != QUEUED
            self._change(task_no, state if is_last else QUEUED, "stopped_ns", self.start + attempt.stopped)
            if not is_last:
                self._write(
                    "INSERT INTO attempt_records (job_no, task_no, attempt, outcome, runner_no, ready_ns, started_ns, "
                    "stopped_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    self.job_no,
                    task_no,
                    number,
                    attempt.outcome,
                    attempt.runner_no,
                    self.start + attempt.ready,
                    self.start + attempt.started,
                    self.start + attempt.stopped,
                )
        if not ended and state not in (QUEUED, RUNNING):
            self._write("UPDATE task_records SET state = ? WHERE task_no = ?", state, task_no)
        if parent is None:
            self._write(
                "UPDATE job_records SET first_root_no = CASE first_root_no WHEN 0 THEN ?1 ELSE first_root_no END, "
                "last_root_no = ?1 WHERE job_no = ?2",
                task_no,
                self.job_no,
            )
        return task_no

    def _change(self, task_no: int, state: int, column: str, instant: int) -> None:
        self._write(f"UPDATE task_records SET state = ?, {column} = ? WHERE task_no = ?", state, instant, task_no)

    def group(self, depends_on: tuple[int, ...] = ()) -> int:
        """A group of tasks that waits for other groups; its number."""
        group_no: int = self._write(
            "INSERT INTO group_records (job_no, dependency_count) VALUES (?, ?) RETURNING group_no",
            self.job_no,
            len(depends_on),
        )
        for other in depends_on:
            self._write("INSERT INTO group_dependency_records (depends_on_no, group_no) VALUES (?, ?)", other, group_no)
        return group_no

    def span(self, name: str, start: int, end: int | None, **more: Any) -> int:
        """Add a span, see SpanSpec; its span_id."""
        return self.spans([SpanSpec(name, start, end, **more)])[0]

    def spans(self, specs: list[SpanSpec]) -> list[int]:
        """Add spans in one transaction; their span_ids."""
        ids = [next(self._span_ids) if spec.span_id is None else spec.span_id for spec in specs]
        resources = [self._builder.runner(spec.runner_no) for spec in specs]

        def write(connection: apsw.Connection) -> None:
            for spec, span_id, resource in zip(specs, ids, resources, strict=True):
                connection.execute(
                    "INSERT INTO span_records (trace_no, start_ns, span_id, parent_span_id, duration_ns, name, "
                    "status_code, status_message, task_no, resource_no, attributes) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        self.trace_no,
                        self.start + spec.start,
                        span_id,
                        spec.parent,
                        None if spec.end is None else spec.end - spec.start,
                        spec.name,
                        spec.status,
                        spec.message,
                        spec.task_no,
                        resource,
                        json.dumps(spec.attributes) if spec.attributes else None,
                    ),
                ).fetchall()
                if spec.exception is not None:
                    keys = ("exception.type", "exception.message", "exception.stacktrace")
                    connection.execute(
                        "INSERT INTO event_records (trace_no, time_ns, span_id, event_no, name, attributes) "
                        "VALUES (?, ?, ?, 0, 'exception', ?)",
                        (
                            self.trace_no,
                            self.start + (spec.start if spec.end is None else spec.end),
                            span_id,
                            json.dumps(dict(zip(keys, spec.exception, strict=True))),
                        ),
                    ).fetchall()

        self._builder.store.transact(write)
        return ids

    def log(
        self, body: str, time: int, *, span_id: int | None = None, severity: int = 9, task_no: int | None = None
    ) -> None:
        """Add a log record."""
        texts = {5: "DEBUG", 9: "INFO", 13: "WARN", 17: "ERROR", 21: "FATAL"}
        self._write(
            "INSERT INTO log_records (trace_no, time_ns, log_no, span_id, severity_number, severity_text, body, "
            "task_no, resource_no, scope_no) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
            self.trace_no,
            self.start + time,
            next(self._builder._numbers),
            span_id,
            severity,
            texts[severity],
            body,
            task_no,
            self._builder.runner(1),
        )
