"""Runners that die, hang, are told to stop, or share the work: leases, processes and signals."""

import asyncio
import contextlib
import errno
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import runner_process
from runner_process import Fan, Quick, Step, Wait
from scripted import Do, Script, fail, subtasks

from tilebox_local import Client, clock, ids
from tilebox_local.catalog import run
from tilebox_local.data import JobState, ProgressIndicator
from tilebox_local.engine import jobs as engine_jobs
from tilebox_local.engine.runners import register_runner
from tilebox_local.errors import StoreError
from tilebox_local.process import is_dead, process_identity
from tilebox_local.runner import task_runner
from tilebox_local.storage import watch
from tilebox_local.storage.watch import ChangeWatch
from tilebox_local.task import FutureTask, merge_future_tasks_to_submissions

TIMEOUT_S = 20  # for what takes milliseconds unless something is wrong


class RunnerProcess:
    """A process that runs `runner_process.py`; its lines are read with a timeout."""

    def __init__(self, path, *mode):
        command = [sys.executable, runner_process.__file__, str(path), *mode]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self.process.pid
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        self._buffer = b""

    def hear(self):
        """The next line that it says; "" at the end."""
        while b"\n" not in self._buffer:
            assert self._selector.select(TIMEOUT_S), f"process {self.pid} says nothing"
            chunk = os.read(self.process.stdout.fileno(), 4096)
            if not chunk:
                return ""
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def hear_all(self):
        """All lines until it ends."""
        return list(iter(self.hear, ""))

    def tell(self, line="go", times=1):
        """Let a waiting task go on."""
        self.process.stdin.write(f"{line}\n".encode() * times)
        self.process.stdin.flush()

    def send(self, number):
        """Send a signal."""
        self.process.send_signal(number)

    def end(self):
        """Wait for the end; the exit status, negative for a signal."""
        return self.process.wait(TIMEOUT_S)

    def close(self):
        """Kill it if it still runs, and let go of its pipes."""
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        self._selector.close()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def path(tmp_path):
    """Path of a store that processes share."""
    return tmp_path / "store.db"


@pytest.fixture
def shared(path):
    """A client on the shared store."""
    with Client(path, name="test") as client:
        yield client


@pytest.fixture
def start(path, shared):
    """Starts runner processes on the shared store, and ends them after the test."""
    with contextlib.ExitStack() as stack:

        def start(*mode):
            process = RunnerProcess(path, *(mode or ["run_all"]))
            stack.callback(process.close)
            assert process.hear() == "ready"
            return process

        yield start


def wait_until(client, condition):
    """Return when `condition()` holds, looking again whenever the store changes."""
    changes = ChangeWatch(client._store)
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while not condition():
            assert time.monotonic() < deadline, "it does not come true"
            changes.wait()
    finally:
        changes.close()


def has_open_spans(client, job, count):
    """Whether so many spans of a job are in the file and have not ended."""
    return lambda: sum(span.end_time is None for span in client.jobs().query_spans(job, include_open=True)) == count


def tasks_of(client, columns):
    """Columns of the view `tasks`, in the order of submission."""
    with client._store.read() as connection:
        return connection.execute(f"SELECT {columns} FROM tasks ORDER BY task_no").fetchall()


def runners_of(client, columns):
    """Columns of the view `runners`, in the order of their start."""
    with client._store.read() as connection:
        return connection.execute(f"SELECT {columns} FROM runners ORDER BY runner_no").fetchall()


def spans_of(client, job):
    """(name, status, message, pid of the runner) of the task and user spans of a job that have ended."""
    return [
        (span.name, span.status_code, span.status_message, span.runner_attributes["process.pid"])
        for span in client.jobs().query_spans(job)
        if not span.name.startswith("job/")
    ]


# -- leases, on a frozen clock -----------------------------------------------------------------------------------------


def test_lease_runs_out(script, engine, frozen):
    """A task is lost when its lease has run out on the boot clock, not before; then it is queued again."""
    script.submit()
    engine.claim(lease_s=30)
    frozen.advance(30)
    assert (engine.look_for_lost(), script.states()) == (0, {"root": "RUNNING"})
    frozen.advance(1e-9)
    assert (engine.look_for_lost(), script.states()) == (1, {"root": "QUEUED"})


def test_wall_clock_does_not_matter(script, engine, frozen):
    """A wall clock that jumps ahead does not end leases."""
    script.submit()
    engine.claim(lease_s=30)
    frozen.wall_ns += 10**18
    assert engine.look_for_lost() == 0


def test_lease_is_extended(script, engine, frozen):
    """An extended lease runs from the extension."""
    script.submit()
    claimed = engine.claim(lease_s=30)
    frozen.advance(29)
    assert engine.extend(claimed, lease_s=30)
    frozen.advance(29)
    assert engine.look_for_lost() == 0
    frozen.advance(2)
    assert engine.look_for_lost() == 1
    assert not engine.extend(claimed)


def test_late_report_of_lost_attempt(script, engine, frozen):
    """Who lost its lease can no longer report, also while the next attempt runs; that one can."""
    job = script.submit()
    first = engine.claim(lease_s=30)
    frozen.advance(31)
    engine.look_for_lost()
    second = engine.claim()
    late = [engine.complete(first), engine.fail(first), engine.lose(first), engine.extend(first)]
    assert late == [False] * 4
    assert engine.complete(second)
    assert script.jobs.find(job).state is JobState.COMPLETED
    assert tasks_of(script.client, "attempts, crashes") == [(2, 1)]


def test_running_task_keeps_its_lease(script, frozen, monkeypatch):
    """While a task runs, its runner extends the lease again and again."""
    monkeypatch.setattr(task_runner, "_EXTEND_EVERY_S", 0.01)

    def expires_ns():
        with script.client._store.read() as connection:
            return connection.execute("SELECT lease_expires_boot_ns FROM task_records").get

    def root(context):
        for _ in range(2):
            frozen.advance(20)
            wait_until(script.client, lambda: expires_ns() == frozen.boot_ns + 30 * 10**9)

    assert script.play(root=root).state is JobState.COMPLETED


def test_runners_of_one_process_trust_each_other(script, frozen):
    """A runner does not take a task from another one of its process, whose clock may be the one that hangs."""
    job = script.play(root=lambda context: (frozen.advance(3600), script.run()))
    assert (script.ran, job.state) == (["root"], JobState.COMPLETED)


@pytest.fixture
def exiting(script):
    """Gives the behaviour of a task that raises while a span is open that nobody ends."""
    tracer = script.client.tracer_provider.get_tracer("test")

    def exiting(error):
        def behave(context):
            tracer.start_span("left open")
            raise error

        return behave

    return exiting


def test_ctrl_c_in_task(script, exiting):
    """Ctrl-C inside of a task leaves run_all; the task is queued again, without a retry or a crash."""
    job = script.submit(root=exiting(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        script.run()
    assert tasks_of(script.client, "state, attempts, retries, crashes") == [("QUEUED", 1, 0, 0)]
    assert [(span.name, span.status_code, span.status_message) for span in script.jobs.query_spans(job)[1:]] == [
        ("task/Do", "STATUS_CODE_ERROR", "interrupted: KeyboardInterrupt()"),
        ("left open", "STATUS_CODE_ERROR", "interrupted: The runner was told to stop."),
    ]
    script.behaviour.clear()
    script.run()
    assert script.jobs.find(job).state is JobState.COMPLETED


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__)
def test_interrupt_keeps_progress(script, error):
    """An interrupted execution reports no progress: that of the one before stays until the next report."""

    def behave(number, then):
        def root(context):
            context.progress().add(number)
            then(context)

        return root

    def interrupt(context):
        raise error

    attempts = iter([behave(7, fail), behave(1, interrupt), behave(8, lambda context: None)])
    job = script.submit(root=lambda context: next(attempts)(context), max_retries=1)
    with pytest.raises(type(error)):
        script.run()
    assert script.jobs.find(job).progress == [ProgressIndicator(None, 7, 0)]
    script.run()
    assert script.jobs.find(job).progress == [ProgressIndicator(None, 8, 0)]


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()], ids=lambda error: type(error).__name__)
def test_exit_in_task(script, exiting, error):
    """sys.exit() inside of a task leaves run_all and counts as a crash; its open spans end with an error."""
    job = script.submit(root=exiting(error))
    with pytest.raises(type(error)):
        script.run()
    assert tasks_of(script.client, "state, attempts, retries, crashes") == [("QUEUED", 1, 0, 1)]
    assert [(span.name, span.status_code, span.status_message) for span in script.jobs.query_spans(job)[1:]] == [
        ("task/Do", "STATUS_CODE_ERROR", f"interrupted: {error!r}"),
        ("left open", "STATUS_CODE_ERROR", f"interrupted: The task ended its runner: {error!r}."),
    ]
    script.behaviour.clear()
    script.run()
    assert script.jobs.find(job).state is JobState.COMPLETED


def test_exit_in_task_again_and_again(script, exiting):
    """A runner that is restarted each time meets a task that exits eleven times; then the task fails, and says why."""
    job = script.submit(root=exiting(SystemExit(3)))
    for _ in range(11):
        with pytest.raises(SystemExit):
            script.run()
    script.run()
    assert script.jobs.find(job).state is JobState.FAILED
    assert tasks_of(script.client, "state, display, attempts, retries, crashes") == [
        ("FAILED", "Do\nThe task ended its runner: SystemExit(3).", 11, 0, 10)
    ]


def test_stopped_runner_left_a_task(script, engine):
    """A task of a runner that has stopped is queued again at once, also if its process cannot be looked at."""
    script.submit()
    engine.claim(runner_no=register(engine))
    engine.store.transact(
        lambda connection: connection.execute("UPDATE writer_records SET pid_namespace = 'elsewhere'").fetchall()
    )
    script.client.runner(tasks=[]).run_all()
    assert script.states() == {"root": "RUNNING"}
    stop_runner(engine)
    script.client.runner(tasks=[]).run_all()
    assert script.states() == {"root": "QUEUED"}


def register(engine):
    """Register a runner of this process; its number."""

    def register(connection):
        writer = engine.store.writer
        resource_no = writer.number_resource(connection, engine.store.resource("test"))
        writer_no = writer.number_writer(connection)
        return register_runner(
            connection, resource_no=resource_no, cluster_no=1, writer_no=writer_no, now_ns=clock.wall_ns()
        )

    return engine.store.transact(register)


def stop_runner(engine, runner_no=1):
    """What a runner writes last."""
    stopped = {"now_ns": clock.wall_ns(), "runner_no": runner_no}
    engine.store.transact(lambda connection: run(connection, "runner_stopped", stopped))


def test_time_between_death_and_discovery(script, engine, frozen):
    """The lost attempt ended when its runner was last seen: a night that nobody noticed is no compute time."""
    job = script.submit()
    engine.claim(runner_no=register(engine))
    frozen.advance(5)
    stop_runner(engine)
    frozen.advance(8 * 3600)
    assert engine.look_for_lost() == 1
    stats = script.jobs.find(job).execution_stats
    assert stats.compute_time == timedelta(seconds=5)
    assert stats.last_task_stopped_at == job.submitted_at + timedelta(seconds=5)


SIGNS = {
    "nothing": ([], 0),
    "span that ended": ([("span", 1, 2)], 3),
    "span that began": ([("span", 1, 2), ("span", 4, None)], 4),
    "log": ([("span", 1, 2), ("log", 5, None)], 5),
    "time to come": ([("log", 99, None)], 10),
    "of an earlier attempt": ([("span", -2, 1), ("log", -1, None)], 0),
}
SPAN = (
    "INSERT INTO span_records (trace_no, start_ns, duration_ns, task_no, span_id, name, resource_no)"
    " SELECT trace_no, ?, ?, ?, 7, 'work', 1 FROM trace_records WHERE job_no = 1"
)
LOG = (
    "INSERT INTO log_records"
    " (trace_no, time_ns, task_no, log_no, severity_number, severity_text, body, resource_no, scope_no)"
    " SELECT trace_no, ?, ?, 7, 9, 'INFO', 'work', 1, 1 FROM trace_records WHERE job_no = 1"
)


@pytest.mark.parametrize(("signs", "end_s"), SIGNS.values(), ids=SIGNS.keys())
def test_last_sign_of_a_lost_attempt(script, engine, frozen, signs, end_s):
    """A lost attempt ended with the newest of heartbeat, spans and logs of its task, but not in the future."""
    script.submit("lost", "other")
    claimed = engine.claim(runner_no=register(engine))

    def store(connection):
        for kind, seconds, duration_s in signs:
            time_ns = frozen.wall_ns + seconds * 10**9
            duration_ns = None if duration_s is None else duration_s * 10**9
            if kind == "span":
                connection.execute(SPAN, (time_ns, duration_ns, claimed.task_no)).fetchall()
            else:
                connection.execute(LOG, (time_ns, claimed.task_no)).fetchall()
        connection.execute(LOG, (frozen.wall_ns + 9 * 10**9, claimed.task_no + 1)).fetchall()

    engine.store.transact(store)
    stop_runner(engine)
    frozen.advance(10)
    assert engine.look_for_lost() == 1
    stats = script.jobs.query()[0].execution_stats
    assert stats.compute_time == timedelta(seconds=end_s)


def test_threads_share_a_job(script):
    """Runners on four threads of one process run each task of a job once."""
    job = script.submit(root=subtasks(*(f"branch {i}" for i in range(10))))
    script.behaviour |= {f"branch {i}": subtasks(*(f"leaf {i} {j}" for j in range(10))) for i in range(10)}
    with ThreadPoolExecutor(4) as threads:
        while script.jobs.find(job).state is not JobState.COMPLETED:
            for runner in [threads.submit(script.run) for _ in range(4)]:
                runner.result()
    leaves = [f"leaf {i} {j}" for i in range(10) for j in range(10)]
    assert sorted(script.ran) == sorted(["root", *(f"branch {i}" for i in range(10)), *leaves])
    assert set(script.column("attempts").values()) == {1}


# -- transactions that are rolled back ---------------------------------------------------------------------------------


def doom_report(store, *others):
    """Let the report of the calling task share its transaction with `others`, and let the commit of that fail."""
    dooms, blocked = [], threading.Event()
    store.transact(lambda connection: connection.set_commit_hook(lambda: bool(dooms and dooms.pop())))

    def block(connection):
        blocked.set()
        while len(store.writer._commands) < len(others) + 2:
            time.sleep(0)

    def transact(function):
        with contextlib.suppress(StoreError):
            store.transact(function)

    threading.Thread(target=transact, args=[block]).start()
    blocked.wait()
    for function in (lambda connection: dooms.append(True), *others):
        threading.Thread(target=transact, args=[function]).start()


class Early(Do):
    """A kind of task that the store comes to know first."""

    def execute(self, context):
        """As Do."""


class Late(Do):
    """A kind of task that the store comes to know next."""

    def execute(self, context):
        """As Do."""


def test_kinds_of_a_rolled_back_transaction(script):
    """A kind of task that was rolled back is forgotten: another kind that gets its number runs as what it is."""
    store = script.client._store
    runner = script.client.runner(tasks=[Do, Early, Late])
    script.submit(root=lambda context: (context.submit_subtask(Early("early")), doom_report(store)))
    with pytest.raises(StoreError):
        runner.run_all()
    script.jobs.cancel(script.jobs.query()[0])
    job = script.jobs.submit("job", Late("late"))
    runner.run_all()
    assert [span.name for span in script.jobs.query_spans(job)] == ["job/job", "task/Late"]


def test_job_of_a_rolled_back_transaction(script):
    """A job that was rolled back is forgotten: a task of another one that gets its number runs for that."""
    store, seen = script.client._store, []
    doomed = Do("doomed")

    def submit(connection):
        submissions = merge_future_tasks_to_submissions([FutureTask(0, doomed, [], None, 0, False)], "")
        engine_jobs.submit_job(
            connection,
            job_id=ids.new_id(1),
            name="doomed",
            trace_id=1,
            trace_parent="00-1-1-01",
            submissions=submissions,
            now_ns=1,
        )

    runner = script.client.runner(tasks=[Do])
    script.submit(
        root=lambda context: doom_report(store, submit), other=lambda context: seen.append(context.current_task.job.id)
    )
    with pytest.raises(StoreError):
        runner.run_all()
    other = script.submit("other")
    script.behaviour["root"] = lambda context: None
    runner.run_all()
    assert seen == [other.id]


# -- dead or alive -----------------------------------------------------------------------------------------------------

HERE = process_identity()


@pytest.mark.parametrize(
    ("runner", "expected"),
    [
        pytest.param(HERE, False, id="this process"),
        pytest.param(replace(HERE, process_start="1"), True, id="pid was given to another process"),
        pytest.param(replace(HERE, boot_id="before"), True, id="machine was restarted"),
        pytest.param(replace(HERE, pid_namespace="pid:[1]"), None, id="another container"),
        pytest.param(replace(HERE, process_start=""), None, id="platform does not tell"),
        pytest.param(replace(HERE, boot_id="", pid_namespace=""), None, id="boot unknown"),
    ],
)
def test_is_dead(runner, expected):
    """A runner is dead if its process is gone or is another one, and unknown where processes cannot be compared."""
    assert is_dead(runner) is expected


def test_exited_process_is_dead():
    """A process whose parent has not waited for it yet is dead, and stays so afterwards."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    identity = replace(HERE, pid=child.pid, process_start=start)
    answers = [is_dead(identity)]
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    answers.append(is_dead(identity))
    child.wait()
    answers.append(is_dead(identity))
    assert answers == [False, True, True]


def test_without_a_look_nobody_is_dead(monkeypatch):
    """A process is not taken for dead because there is no file descriptor left to look at it with, or no permission."""
    for error in (OSError(errno.EMFILE, "Too many open files"), PermissionError(), FileNotFoundError()):

        def fail(self, error=error):
            raise error

        monkeypatch.setattr(Path, "read_bytes", fail)
        assert is_dead(HERE) is None


# -- processes ---------------------------------------------------------------------------------------------------------


def test_two_processes_share_a_job(shared, start):
    """Two processes run tasks of one job at the same time, each task once; spans tell who ran what."""
    runners = [start("run_forever"), start("run_forever")]
    job = shared.jobs().submit("shared", Fan(6))
    heard = [runner.hear() for runner in runners]  # each has one, and waits
    for runner in runners:
        runner.tell(times=6)
    wait_until(shared, lambda: shared.jobs().find(job).state is JobState.COMPLETED)
    for runner in runners:
        runner.send(signal.SIGTERM)
        heard += runner.hear_all()
    assert sorted(heard) == [f"step {i}" for i in range(6)]
    assert tasks_of(shared, "name, state, attempts") == [("Fan", "COMPUTED", 1)] + [("Step", "COMPUTED", 1)] * 6
    steps = [span for span in shared.jobs().query_spans(job) if span.name == "task/Step"]
    assert len(steps) == 6
    assert len({span.runner_attributes["service.instance.id"] for span in steps}) == 2
    assert {span.runner_attributes["process.pid"] for span in steps} == {runner.pid for runner in runners}


def test_killed_runner(shared, start):
    """kill -9: another runner takes over at once; the spans that were open end as interrupted; one crash is counted."""
    job = shared.jobs().submit("killed", Wait("a"))
    killed = start()
    assert killed.hear() == "waiting"
    wait_until(shared, has_open_spans(shared, job, 2))
    killed.send(signal.SIGKILL)
    killed.end()
    shared.runner(tasks=runner_process.TASKS).run_all()
    assert shared.jobs().find(job).state is JobState.COMPLETED
    assert tasks_of(shared, "state, attempts, retries, crashes") == [("COMPUTED", 2, 0, 1)]
    message = f"interrupted: The runner died (process {killed.pid} on {HERE.host})."
    assert spans_of(shared, job) == [
        ("task/Wait", "STATUS_CODE_ERROR", message, killed.pid),
        ("user's span", "STATUS_CODE_ERROR", message, killed.pid),
        ("task/Wait", "STATUS_CODE_UNSET", "", os.getpid()),
    ]
    assert has_open_spans(shared, job, 0)()


def test_idle_runner_takes_over(shared, start):
    """A runner that has been idle finds out that another one was killed, and runs its task."""
    shared.jobs().submit("killed", Wait("a"))
    killed = start()
    assert killed.hear() == "waiting"
    idle = start("run_forever")
    wait_until(shared, lambda: len(runners_of(shared, "pid")) == 2)
    killed.send(signal.SIGKILL)
    assert idle.hear() == "waiting"


def test_span_of_killed_runner_ends_with_its_last_sign(shared, start):
    """Interrupted spans end with the newest of what the runner's heartbeat and the task's spans tell."""
    job = shared.jobs().submit("killed", Wait("a"))
    killed = start()
    assert killed.hear() == "waiting"
    wait_until(shared, has_open_spans(shared, job, 2))
    killed.send(signal.SIGKILL)
    killed.end()
    seen = "SELECT max(r.last_seen_ns, w.last_seen_ns) FROM runner_records r JOIN writer_records w USING (writer_no)"
    ((seen_ns,),) = runners_of(shared, f"({seen} WHERE runner_no = 1)")[:1]
    shared.runner(tasks=runner_process.TASKS).run_all()
    task, user = shared.jobs().query_spans(job)[1:3]
    last_sign = max(clock.ns_to_datetime(seen_ns), user.start_time)
    assert (task.end_time, user.end_time) == (last_sign, last_sign)


def test_hanging_runner(shared, start, monkeypatch):
    """A runner that is alive but let its lease run out loses its task; its late result changes nothing."""
    job = shared.jobs().submit("hanging", Wait("a"))
    zombie = start()
    assert zombie.hear() == "waiting"
    wait_until(shared, has_open_spans(shared, job, 2))
    boot_ns = clock.boot_ns
    monkeypatch.setattr(clock, "boot_ns", lambda: boot_ns() + 3600 * 10**9)
    shared.runner(tasks=runner_process.TASKS).run_all()
    after = shared.jobs().find(job)
    assert after.state is JobState.COMPLETED
    zombie.tell("too late")
    assert zombie.hear_all() == ["answered too late", "finished"]
    assert shared.jobs().find(job) == after
    assert tasks_of(shared, "name, display, state, attempts, crashes") == [("Wait", "Wait", "COMPUTED", 2, 1)]
    message = "interrupted: The lease ran out: the runner did not extend it in time."
    assert spans_of(shared, job) == [
        ("task/Wait", "STATUS_CODE_ERROR", message, zombie.pid),
        ("user's span", "STATUS_CODE_ERROR", message, zombie.pid),
        ("task/Wait", "STATUS_CODE_UNSET", "", os.getpid()),
    ]


def test_hanging_runner_gives_back(shared, start, monkeypatch):
    """A runner that lost its lease and then gives its task back leaves its successor's task and spans alone."""
    job = shared.jobs().submit("hanging", Wait("a"))
    zombie = start()
    assert zombie.hear() == "waiting"
    wait_until(shared, has_open_spans(shared, job, 2))
    boot_ns = clock.boot_ns
    monkeypatch.setattr(clock, "boot_ns", lambda: boot_ns() + 3600 * 10**9)

    def interrupt_zombie():
        wait_until(shared, has_open_spans(shared, job, 1))  # the one of this task
        zombie.tell("exit")
        assert zombie.end() == 3

    monkeypatch.setattr(Wait, "here", staticmethod(interrupt_zombie))
    shared.runner(tasks=runner_process.TASKS).run_all()
    assert tasks_of(shared, "name, display, state, attempts, crashes") == [("Wait", "Wait", "COMPUTED", 2, 1)]
    assert spans_of(shared, job)[-1] == ("task/Wait", "STATUS_CODE_UNSET", "", os.getpid())


def test_runners_of_another_store_do_not_count(shared, start):
    """A dead runner is found out also while another store has a living runner of the same number in this process."""
    job = shared.jobs().submit("killed", Wait("a"))
    killed = start()
    assert killed.hear() == "waiting"
    killed.send(signal.SIGKILL)
    killed.end()
    with Client(":memory:") as client:
        Script(client).play(root=lambda context: shared.runner(tasks=runner_process.TASKS).run_all())
    assert shared.jobs().find(job).state is JobState.COMPLETED


def test_job_of_another_process_wakes_runner(shared, start):
    """An idle run_forever runs the jobs that another process submits, without looking again and again."""
    runner = start("run_forever", "unpolled")
    for number in range(2):
        job = shared.jobs().submit("woken", Step(number))
        assert runner.hear() == f"step {number}"
        runner.tell()
        wait_until(shared, lambda job=job: shared.jobs().find(job).state is JobState.COMPLETED)


def test_change_by_another_process_ends_wait(shared, start, monkeypatch):
    """What another process commits ends a wait for changes, long before the waiter would look on its own."""
    monkeypatch.setattr(watch, "_BACKSTOP_S", float(TIMEOUT_S))
    changes = ChangeWatch(shared._store)
    try:
        assert start("run_all").end() == 0
        began = time.monotonic()
        changes.wait()
        assert time.monotonic() - began < TIMEOUT_S / 2
    finally:
        changes.close()


def test_watch_is_closed_in_the_middle_of_changes(shared, path, caplog):
    """Closing a watch while the store's folder is in use ends its threads, and nobody complains."""
    is_over = threading.Event()
    neighbour = path.with_name("neighbour")
    neighbour.touch()

    def use():
        while not is_over.is_set():
            neighbour.read_bytes()

    users = [threading.Thread(target=use) for _ in range(2)]
    for user in users:
        user.start()
    before = threading.active_count()
    try:
        for _ in range(50):
            changes = ChangeWatch(shared._store)
            changes.wait(0.005)
            changes.close()
        assert [record.getMessage() for record in caplog.records if record.name.startswith("watchdog")] == []
        assert threading.active_count() <= before + 1  # watchdog keeps one that all watches of the process share
    finally:
        is_over.set()
        for user in users:
            user.join()


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_idle(shared, start, number):
    """An idle runner ends at once, by the signal, and is marked as stopped."""
    runner = start("run_forever")
    job = shared.jobs().submit("first", Quick("a"))
    wait_until(shared, lambda: shared.jobs().find(job).state is JobState.COMPLETED)
    runner.send(number)
    assert runner.end() == -number
    assert runners_of(shared, "pid, stopped_at IS NOT NULL") == [(runner.pid, 1)]


SIGNAL_AT_ANY_CALL = """
import faulthandler, os, signal, sys
from tilebox_local import Client
from tilebox_local.storage.watch import ChangeWatch
from tilebox_local.task import FutureTask, merge_future_tasks_to_submissions

class Stopped(Exception):
    pass

def stop(number, frame):
    raise Stopped

def is_waiting(frame):
    while frame is not None:
        if frame.f_code is ChangeWatch.wait.__code__:
            return True
        frame = frame.f_back

def trace(frame, event, argument):
    global calls
    if event == "call" and is_waiting(frame):
        calls -= 1
        if calls == 0:
            sys.settrace(None)
            signal.raise_signal(signal.SIGTERM)

faulthandler.dump_traceback_later(6, exit=True)
signal.signal(signal.SIGTERM, stop)
client = Client(":memory:")
for first in range(1, 7):
    calls = first
    sys.settrace(trace)
    try:
        client.runner(tasks=[]).run_forever()
    except Stopped:
        print(first, flush=True)
"""


IDLE = """
import itertools, signal
from tilebox_local import Client, clock
from tilebox_local.runner import task_runner
from tilebox_local.storage import watch

class Stopped(Exception):
    pass

def stop(number, frame):
    raise Stopped

seconds = itertools.count()

def tick():
    second = next(seconds)
    if second == 20 * 60:
        signal.raise_signal(signal.SIGTERM)
    return second * 10**9

task_runner._EXTEND_EVERY_S = watch._BACKSTOP_S = 0.001
signal.signal(signal.SIGTERM, stop)
client = Client(":memory:")
clock.monotonic_ns = tick
try:
    client.runner(tasks=[]).run_forever()
except Stopped:
    print(client.stats().transaction_count)
"""


def test_idle_runner_writes_nothing():
    """In 20 minutes an idle runner commits its beginning, its end, and two heartbeats a minute."""
    command = [sys.executable, "-c", IDLE]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert found.stderr == ""
    assert 3 < int(found.stdout) <= 3 + 2 * 20


def test_signal_at_any_moment_of_the_wait():
    """A signal ends an idle runner at whatever function call of its wait it arrives."""
    found = subprocess.run([sys.executable, "-c", SIGNAL_AT_ANY_CALL], capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["1", "2", "3", "4", "5", "6"], found.stderr


def test_signal_while_task_ends_in_time(shared, start):
    """A task that ends within two seconds of the signal counts, with all that it reports; no other one starts."""
    job = shared.jobs().submit("in time", [Wait("a"), Quick("b")])
    runner = start("run_forever")
    assert runner.hear() == "waiting"
    runner.send(signal.SIGTERM)
    runner.tell("now")
    assert runner.hear_all() == ["answered now"]
    assert runner.end() == -signal.SIGTERM
    assert tasks_of(shared, "name, state, display, crashes") == [
        ("Wait", "COMPUTED", f"done late by {runner.pid}", 0),
        ("Quick", "QUEUED", "Quick", 0),
        ("Quick", "QUEUED", "Quick", 0),
    ]
    assert [indicator.total for indicator in shared.jobs().find(job).progress] == [99]
    assert [span[:2] for span in spans_of(shared, job)] == [
        ("task/Wait", "STATUS_CODE_UNSET"),
        ("user's span", "STATUS_CODE_UNSET"),
    ]


def test_exit_after_signal(shared, start):
    """A task that exits after its runner was told to stop is given back: that is no crash."""
    shared.jobs().submit("told", Wait("a"))
    runner = start("run_forever")
    assert runner.hear() == "waiting"
    runner.send(signal.SIGTERM)
    runner.tell("exit")
    assert runner.end() == 3
    assert tasks_of(shared, "state, attempts, retries, crashes") == [("QUEUED", 1, 0, 0)]


@pytest.fixture
def interrupted(shared, start):
    """A job whose task was still running two seconds after its runner got SIGTERM; and that runner, which is gone."""
    job = shared.jobs().submit("interrupted", Wait("a"))
    runner = start("run_forever")
    assert runner.hear() == "waiting"
    runner.send(signal.SIGTERM)
    assert runner.end() == -signal.SIGTERM
    return job, runner


def test_signal_while_task_goes_on(shared, interrupted):
    """A task that goes on for two seconds after the signal is queued again, without a retry or a crash."""
    job, _ = interrupted
    assert tasks_of(shared, "state, display, attempts, retries, crashes") == [
        ("QUEUED", "Wait\nRunnerShutdown('Task was interrupted')", 1, 0, 0)
    ]
    shared.runner(tasks=runner_process.TASKS).run_all()
    assert shared.jobs().find(job).state is JobState.COMPLETED


def test_spans_of_interrupted_task_end(shared, interrupted):
    """The spans of a task that was given back do not stay open for ever."""
    job, _ = interrupted
    shared.runner(tasks=runner_process.TASKS).run_all()
    assert has_open_spans(shared, job, 0)()
