"""The flight recorder: what a process was doing when it died, and what becomes of what it left open."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import apsw
import pytest

from tilebox_local import Client, Task
from tilebox_local.catalog import sql
from tilebox_local.engine.crashes import bury, find_remains
from tilebox_local.engine.runners import register_runner
from tilebox_local.process import process_identity
from tilebox_local.resource import process_resource, resource_key

BEGIN_NS = 1_700_000_000_000_000_000
HOST = process_identity().host
SCRIPT = """
import os, sys
from tilebox_local import Client, Task

class Tile(Task):
    def execute(self, context):
        with context.tracer.span("read"):
            context.logger.info("opening %s", "B04")
            with context.tracer.span("warp"):
                pass
            with context.tracer.span("scale"):
                context.logger.info("block 7")
                client.flush()
                stop()

def stop():
    print("open", flush=True)
    if sys.stdin.readline() == "exit\\n":
        os._exit(9)

client = Client(sys.argv[1], name="crashing")
if sys.argv[2] == "runner":
    client.runner(tasks=[Tile]).run_all()
elif sys.argv[2] == "spans":
    with client.tracer.span("outer"), client.tracer.span("inner"):
        client.flush()
        stop()
elif sys.argv[2] == "closed":
    span = client.tracer_provider.get_tracer("x").start_span("left open")
    client._store.writer.queue.attend()
    stop()
    client.close()
else:
    with client.tracer.span("done"):
        pass
    client.flush()
    stop()
print("end", flush=True)
client.close()
"""


class Process:
    """A process that stops in the middle of what it does."""

    def __init__(self, path, mode):
        self.popen = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert "open\n" in iter(self.popen.stdout.readline, "")  # after what the console shows of the logs
        self.pid = self.popen.pid

    def kill(self):
        self.popen.send_signal(signal.SIGKILL)
        self.popen.communicate()

    def tell(self, line):
        self.popen.communicate(f"{line}\n", timeout=60)


@pytest.fixture
def path(tmp_path):
    """Where the store is."""
    return tmp_path / "store.db"


def open_spans_are_written(client, count):
    """Wait until spans that are open in another process can be seen here."""
    deadline = 60 * 20
    for _ in range(deadline):
        with client._store.read() as connection:
            if connection.execute("SELECT count(*) FROM span_records WHERE duration_ns IS NULL").get == count:
                return
        signal.sigtimedwait([], 0.05)
    raise AssertionError("the spans are not there")


class Tile(Task):
    """Stands for the class of the other process."""

    def execute(self, context):
        pass


def test_a_killed_runner_is_named(path):
    """doctor() names the runner, its process, the task and attempt, the deepest open span and the last log record."""
    with Client(path) as client:
        job = client.jobs().submit("job", Tile())
        process = Process(path, "runner")
        open_spans_are_written(client, 3)
        process.kill()
        crash = client.doctor().last_crash
        assert crash is not None
        assert (crash.kind, crash.host, crash.pid) == ("crash", HOST, process.pid)
        assert (crash.task_name, crash.attempt) == ("Tile", 1)
        assert crash.message == f"The runner died (process {process.pid} on {HOST})."
        assert crash.job_id == str(job.id)
        assert crash.span_path == "task/Tile > read > scale"
        assert crash.last_log == "block 7"
        assert crash.last_log_at <= crash.last_seen_at <= crash.time
        assert crash.unseen == crash.time - crash.last_seen_at
        assert crash.unseen < timedelta(minutes=1)
        spans = client.jobs().query_spans(job)
        interrupted = [span for span in spans if "interrupted" in span.status_message]
        assert [(span.name, span.status_code, span.end_time) for span in interrupted] == [
            (name, "STATUS_CODE_ERROR", crash.last_seen_at) for name in ("task/Tile", "read", "scale")
        ]
        assert interrupted[0].runner_attributes["service.instance.id"] == crash.runner
        report = str(client.doctor())
        assert f"  task      Tile, attempt 1, {crash.task_id}" in report
        assert f"  runner    {crash.runner}, process {process.pid} on {HOST}" in report
        assert "  in span   task/Tile > read > scale" in report
        assert report.count("crash:") == 1  # each crash is recorded once


def test_a_killed_program_without_tasks(path):
    """Spans of a killed process without tasks end with its last sign of life, when the next client opens the store."""
    process = Process(path, "spans")
    with Client(path) as client:
        open_spans_are_written(client, 2)
    process.kill()
    with Client(path) as client, client._store.read() as connection:
        incidents = connection.execute("SELECT kind, pid, span_path, task_name FROM incidents").fetchall()
        assert incidents == [("crash", process.pid, "outer > inner", None)]
        ends = connection.execute("SELECT status, status_message, end_time FROM spans").fetchall()
        last_seen = connection.execute("SELECT last_seen_at FROM incidents").get
        assert ends == [("ERROR", f"interrupted: The process ended (process {process.pid} on {HOST}).", last_seen)] * 2
        query = "SELECT has_crashed, ended_at FROM writers WHERE pid = ?"
        assert connection.execute(query, (process.pid,)).get == (1, last_seen)


def test_os_exit_counts_as_a_crash(path):
    """A process that ends by os._exit() without closing the store is recorded; nothing that it committed is lost."""
    process = Process(path, "nothing open")
    process.tell("exit")
    with Client(path) as client:
        diagnosis = client.doctor()
        how = "it was killed, or called os._exit()."
        assert [incident.message for incident in diagnosis.incidents] == [
            f"A process ended without closing the store (process {process.pid} on {HOST}): {how}"
        ]
        with client._store.read() as connection:
            assert connection.execute("SELECT name, status FROM spans").fetchall() == [("done", "UNSET")]


def test_a_process_that_closes_is_no_crash(path):
    """A process that closes the store, or ends normally, leaves no incident behind, and its statistics."""
    process = Process(path, "nothing open")
    process.tell("go")
    with Client(path) as client, client._store.read() as connection:
        assert client.doctor().incidents == []
        query = "SELECT pid, has_crashed, written, queued, ended_at NOT NULL FROM writers"
        assert connection.execute(query).fetchall() == [(process.pid, 0, 1, 0, 1)]


def test_a_span_that_was_left_open_by_a_closed_client(path):
    """A span that nobody ended before its process did is ended by who comes next; that is no crash."""
    process = Process(path, "closed")
    with Client(path) as client:
        open_spans_are_written(client, 1)
    process.tell("go")
    with Client(path) as client, client._store.read() as connection:
        assert connection.execute("SELECT name, status FROM spans").fetchall() == [("left open", "ERROR")]
        assert connection.execute("SELECT count(*) FROM incidents").get == 0


def test_a_live_process_is_left_alone(path):
    """Open spans of a process that lives stay open, whoever opens the store, and its open store is no crash."""
    process = Process(path, "spans")
    with Client(path) as client:
        open_spans_are_written(client, 2)
        assert client.doctor().incidents == []
        with client._store.read() as connection:
            assert connection.execute("SELECT count(*) FROM spans WHERE end_time IS NULL").get == 2
    process.tell("go")


def add_writer(connection, **differences):
    """A process like this one that has not ended, as far as the store knows, and its only resource."""
    identity = {**asdict(process_identity()), **differences, "now_ns": BEGIN_NS}
    writer_no = connection.execute(sql["insert_writer"], identity).get
    key = resource_key(process_resource(None))
    return connection.execute(sql["insert_resource"], (key, writer_no)).get, writer_no


def test_a_process_with_the_name_of_a_dead_one(path):
    """Pid 1 of a container that was started again may look like the one before: what it has open stays open."""
    with Client(path) as client:
        old_resource, old_writer = client._store.transact(lambda connection: add_writer(connection, boot_id="earlier"))
        add = "INSERT INTO span_records (trace_no, start_ns, span_id, name, resource_no) VALUES (9, ?, 5, 'old', ?)"
        client._store.transact(lambda connection: connection.execute(add, (BEGIN_NS, old_resource)).fetchall())
        span = client.tracer_provider.get_tracer("x").start_span("new")
        open_spans_are_written(client, 2)
        assert client.doctor().last_crash.span_path == "old"
        query = "SELECT name, duration_ns NOTNULL FROM span_records ORDER BY name"
        with client._store.read() as connection:
            assert connection.execute(query).fetchall() == [("new", 0), ("old", 1)]
            resources = connection.execute("SELECT attributes, writer_no FROM resource_records").fetchall()
        assert resources == [(resources[0][0], old_writer), (resources[0][0], old_writer + 1)]
        span.end()


def steps(connection, function):
    """Steps of SQLite's virtual machine that a call takes."""
    profiles = []
    connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, profiles.append, id=profiles)
    function()
    connection.trace_v2(0, None, id=profiles)
    return sum(profile["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"] for profile in profiles)


def cost(open_count, closed_count, *, traces=1):
    """Steps of finding out that a process has died, and of burying it: it had open spans, then ended others."""
    insert = "INSERT INTO span_records (trace_no, start_ns, span_id, duration_ns, name, resource_no) VALUES"
    found = []

    def measure(connection):
        resource_no, _ = add_writer(connection, boot_id="earlier")
        for number in range(open_count + closed_count):
            is_open = number < open_count
            values = 1 + number % traces, BEGIN_NS + number, number, None if is_open else 1, resource_no
            connection.execute(f"{insert} (?, ?, ?, ?, 'span', ?)", values).fetchall()
        remains = []
        finding = steps(connection, lambda: remains.append(find_remains(connection, own_runners=(), boot_ns=1)))
        burying = steps(connection, lambda: bury(connection, remains[0], now_ns=BEGIN_NS + 10**6))
        seen = connection.execute("SELECT last_seen_ns FROM incident_records").get
        open_now = connection.execute("SELECT count(*) FROM span_records WHERE duration_ns IS NULL").get
        found.append((finding, burying, seen, open_now))

    with Client(":memory:") as client:
        client._store.transact(measure)
    return found[0]


def test_looking_for_the_dead_costs_the_same_with_many_open_spans():
    """Every runner looks once a second: what it reads does not grow with the spans that are open."""
    few, many = cost(10, 0), cost(5000, 0)
    assert few[0] == many[0]
    assert (few[3], many[3]) == (0, 0)


def test_burying_costs_as_much_as_there_is_to_bury():
    """Ten times as many open spans and closed ones take ten times as long, not a hundred times; writers wait for it."""
    few, many = cost(100, 2000), cost(1000, 20_000)
    assert many[1] < 15 * few[1]
    assert (few[2], many[2]) == (BEGIN_NS + 2100, BEGIN_NS + 21_000)


def test_what_is_read_to_bury_is_bounded():
    """The last sign of a process is looked for among its newest spans, however many there are, in one trace or many."""
    few, one, many = cost(200, 10_000), cost(200, 50_000), cost(200, 50_000, traces=100)
    assert one[1] < 1.2 * few[1]
    assert many[1] < 1.2 * few[1]
    assert few[2] + 40_000 == one[2] == many[2] == BEGIN_NS + 50_200


def cost_of_lost_task(span_count):
    """Steps of burying a task whose runner died, and when it is said to have ended; others went on in its trace."""
    found = []
    take = "UPDATE task_records SET state = 2, ready = 0, attempt = 1, started_ns = ?, runner_no = ? RETURNING task_no"
    insert = "INSERT INTO span_records (trace_no, start_ns, span_id, duration_ns, name, resource_no, task_no) VALUES"

    def measure(connection):
        resource_no, writer_no = add_writer(connection, boot_id="earlier")
        runner_no = register_runner(
            connection, resource_no=resource_no, cluster_no=1, writer_no=writer_no, now_ns=BEGIN_NS
        )
        task_no = connection.execute(take, (BEGIN_NS, runner_no)).get
        trace_no = connection.execute("SELECT max(trace_no) FROM trace_records").get
        for number in range(span_count):
            own = task_no if number == span_count - 5000 else None
            values = trace_no, BEGIN_NS + number, number + 10, 1, resource_no, own
            connection.execute(f"{insert} (?, ?, ?, ?, 'span', ?, ?)", values).fetchall()
        remains = find_remains(connection, own_runners=(), boot_ns=1)
        burying = steps(connection, lambda: bury(connection, remains, now_ns=BEGIN_NS + 10**6))
        seen = connection.execute("SELECT last_seen_ns FROM incident_records WHERE task_no NOTNULL").get
        found.append((burying, seen))

    with Client(":memory:") as client:
        client.jobs().submit("job", Tile())
        client._store.transact(measure)
    return found[0]


def test_what_is_read_to_bury_a_task_is_bounded():
    """The last sign of an attempt is looked for among the newest spans of its trace."""
    few, many = cost_of_lost_task(10_000), cost_of_lost_task(50_000)
    assert many[0] < 1.2 * few[0]
    assert (few[1], many[1]) == (BEGIN_NS + 5001, BEGIN_NS + 45_001)


def test_a_doctor_looks_at_a_healthy_store(path):
    """Nothing is wrong with a fresh store; what was looked at is listed, and what others may do with the file."""
    with Client(path) as client:
        with client.tracer.span("span"):
            pass
        client.flush()
        diagnosis = client.doctor()
        findings = [finding for finding in diagnosis.findings if finding.subject != "sqlite3"]
        subjects = ["versions", "disk", "space", "access", "log", "structure", "commits", "telemetry"]
        assert [finding.subject for finding in findings] == subjects
        assert [finding for finding in findings if finding.level != "ok" and finding.subject != "space"] == []
        assert diagnosis.last_crash is None
        path.chmod(0o644)
        after = client.doctor()
        assert [finding.message for finding in after.findings if finding.subject == "access"] == [
            "mode 0644: not only its owner may use it; `chmod 600` it while nobody has it open"
        ]
        assert not after.ok


def test_a_doctor_for_a_store_in_memory():
    """A store in memory has no place to look at."""
    with Client(":memory:") as client:
        subjects = [finding.subject for finding in client.doctor().findings if finding.subject != "sqlite3"]
        assert subjects == ["versions", "structure", "commits", "telemetry"]
        assert os.fspath(client.doctor().path) == ":memory:"


def test_a_damaged_index_of_the_flight_recorder_keeps_nobody_out(path, caplog):
    """A page that is needed only to look for dead processes is no reason not to open the store; the log names it."""
    with Client(path) as client:
        with client.tracer.span("kept"):
            pass
        client.flush()
        with client._store.read() as connection:
            page = connection.execute(
                "SELECT rootpage FROM sqlite_schema WHERE name = 'span_records_open_resource'"
            ).get
    with Path(path).open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    with Client(path) as client, client._store.read() as connection:
        assert connection.execute("SELECT name FROM spans").fetchall() == [("kept",)]
    assert "stays for now" in caplog.text
