"""`tail`, `--follow` and `wait`: what is committed is shown once, whenever it is committed, and they end in time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sample_tasks import Mosaic, Scene
from terminal import on_terminal

from tilebox_local import Client, clock
from tilebox_local.cli import main
from tilebox_local.query.following import Filters, Follower
from tilebox_local.query.listing import find_job_key, list_logs, list_spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilebox_local.storage.store import Store

PROGRAM = [sys.executable, "-m", "tilebox_local"]
EVERYTHING = Filters()


def insert_span(store: Store, trace_no: int, start_ns: int, duration_ns: int | None, span_id: int) -> None:
    """A span as a process commits it, with any time."""
    store.transact(
        lambda connection: connection.execute(
            "INSERT INTO span_records (trace_no, start_ns, span_id, duration_ns, name, resource_no) "
            "VALUES (?, ?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET duration_ns = excluded.duration_ns",
            (trace_no, start_ns, span_id, duration_ns, f"span {span_id}"),
        ).fetchall()
    )


def insert_log(store: Store, trace_no: int, time_ns: int, log_no: int) -> None:
    """A log record as a process commits it, with any time."""
    store.transact(
        lambda connection: connection.execute(
            "INSERT INTO log_records (trace_no, time_ns, log_no, severity_number, severity_text, body, resource_no, "
            "scope_no) VALUES (?, ?, ?, 9, 'INFO', ?, 1, 1)",
            (trace_no, time_ns, log_no, f"log {log_no}"),
        ).fetchall()
    )


@pytest.fixture
def client(tmp_path: Any) -> Iterator[Client]:
    """A client with one job that nobody runs."""
    with Client(tmp_path / "tilebox.db") as client:
        client.jobs().submit("job", Scene("x"))
        yield client


def names(news: list[Any]) -> list[str]:
    """What the news are about."""
    return [one.row.get("body") or one.row["name"] for one in news]


def test_every_record_once_in_whatever_order_it_is_committed(client: Client) -> None:
    """Spans and log records with times in any order, some of them hours old, are told once each."""
    store = client._store
    now_ns = clock.wall_ns()
    numbers = list(range(1, 201))
    generator = random.Random(1)
    generator.shuffle(numbers)
    follower = Follower(store, since_ns=0, job_no=1, filters=EVERYTHING)
    found = names(follower.look())
    for number in numbers:
        time_ns = now_ns - generator.choice([0, 10**9, 10**13]) - number
        if number % 2:
            insert_span(store, 1, time_ns, 5, number)
        else:
            insert_log(store, 1, time_ns, number)
        if generator.random() < 0.3:
            found += names(follower.look())
    found += names(follower.look(thorough=True))
    assert sorted(found) == sorted(
        [*(f"{'span' if number % 2 else 'log'} {number}" for number in numbers), "job/job", "job", "Scene"]
    )
    assert follower.look(thorough=True) == []


def test_a_store_at_rest_is_looked_at_thoroughly_once(client: Client) -> None:
    """What a quick look overlooks, since it is older, comes with the next look if nothing was committed meanwhile."""
    store = client._store
    follower = Follower(store, since_ns=0, job_no=1, filters=Filters(kinds=("log",)))
    assert follower.look() == []
    insert_log(store, 1, clock.wall_ns(), 1)
    assert names(follower.look()) == ["log 1"]
    insert_log(store, 1, 1000, 2)
    assert names(follower.look()) == []
    assert names(follower.look()) == ["log 2"]
    assert names(follower.look()) == []


def test_the_newest_of_what_is_there(client: Client) -> None:
    """Of what is there at first, only the newest records that match are told; the others not later either."""
    store = client._store
    for number in range(1, 2101):
        insert_span(store, 1, number, 10_000 - 2 * number if number > 2000 else 1, number)
    insert_log(store, 1, 10, 1)
    insert_log(store, 1, 20, 2)
    filters = Filters(kinds=("span", "log"), name="span 1*")
    follower = Follower(store, since_ns=0, job_no=1, filters=filters)
    assert names(follower.look(newest=2)) == ["span 1998", "span 1999"]
    assert follower.look(thorough=True) == []
    everything = Follower(store, since_ns=0, job_no=1, filters=Filters(kinds=("log",)))
    assert names(everything.look(newest=1)) == ["log 2"]


def test_spans_are_told_when_they_end(client: Client) -> None:
    """A span that was open at first is told once, when it has ended, however long ago it began."""
    store = client._store
    since_ns = clock.wall_ns()
    follower = Follower(store, since_ns=since_ns, filters=Filters(kinds=("span",)))
    insert_span(store, 1, since_ns - 10**13, None, 7)
    insert_span(store, 1, since_ns - 10**13, 10**12, 8)  # ended before
    assert follower.look() == []
    insert_span(store, 1, since_ns - 10**13, 10**13 + 5, 7)
    news = follower.look()
    assert [(one.kind, one.time_ns, one.row["name"]) for one in news] == [("span", since_ns + 5, "span 7")]
    assert follower.look(thorough=True) == []


@pytest.mark.parametrize("job_no", [1, None])
def test_long_spans_that_nobody_saw_open(client: Client, job_no: int | None) -> None:
    """A span that began hours before, and was never stored as open, is told by a thorough look."""
    store = client._store
    since_ns = clock.wall_ns()
    follower = Follower(store, since_ns=since_ns, job_no=job_no, filters=Filters(kinds=("span",)))
    assert follower.look() == []
    insert_span(store, 1, since_ns - 10**13, 10**13 + 5, 7)
    insert_span(store, 1, since_ns - 10**13, 10**12, 8)  # ended before
    assert names(follower.look(thorough=True)) == ["span 7"]
    assert follower.look(thorough=True) == []


def test_records_outside_of_jobs(client: Client) -> None:
    """Who follows everything also sees what belongs to no job."""
    follower = Follower(client._store, since_ns=clock.wall_ns(), filters=EVERYTHING)
    assert follower.look() == []
    with client.tracer.span("alone"):
        pass
    insert_log(client._store, 0, clock.wall_ns(), 3)
    client.flush()
    assert names(follower.look()) == ["alone", "log 3"]


def test_changes_of_state(client: Client) -> None:
    """A task is told with each state in which it is met, a job when its state is another one."""
    follower = Follower(client._store, since_ns=0, filters=Filters(kinds=("task", "job")))

    def states() -> list[tuple[str, str, str]]:
        return [(one.kind, one.row["name"], one.row["state"]) for one in follower.look()]

    assert states() == [("task", "Scene", "QUEUED"), ("job", "job", "SUBMITTED")]
    client.runner(tasks=[Scene]).run_all()
    assert states() == [("task", "Scene", "COMPUTED"), ("job", "job", "COMPLETED")]
    client.jobs().submit("second", Mosaic([1], 0.0))
    client.runner(tasks=[Mosaic]).run_all()
    assert states() == [("task", "Mosaic", "FAILED"), ("job", "second", "FAILED")]
    client.jobs().retry(client.jobs().query()[0])
    assert states() == [("task", "Mosaic", "QUEUED"), ("job", "second", "RUNNING")]
    assert states() == []


def test_rows_are_those_of_the_views(db: str) -> None:
    """What is followed has the columns and values of the views."""
    with Client(db, read_only=True) as client:
        store = client._store
        key = find_job_key(store, "name:mosaic")
        news = Follower(store, since_ns=0, job_no=key.job_no, filters=EVERYTHING).look()
        assert [one.row for one in news if one.kind == "log"] == list_logs(store, key.job_no)
        spans = sorted((one.row for one in news if one.kind == "span"), key=lambda row: row["start_ns"])
        assert spans == list_spans(store, key.job_no)
        assert [list(row) for row in spans] == [list(row) for row in list_spans(store, key.job_no)]


# -- the commands ------------------------------------------------------------------------------------------------


def test_follow_of_a_job_that_has_ended(ask: Callable[..., Any], db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--follow prints what is there and ends, as JSON lines on demand; --limit takes the newest."""
    logs = ask("logs", "name:mosaic")
    assert main(["--db", db, "logs", "name:mosaic", "--follow", "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == logs
    assert main(["--db", db, "logs", "name:mosaic", "-f", "--json", "--limit", "1", "--level", "info"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == logs[-1:]
    assert main(["--db", db, "spans", "name:mosaic", "-f", "--task", "Scene", "--name", "comp*", "--json"]) == 0
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == ["compute", "compute"]
    assert main(["--db", db, "tail", "name:scene", "--since", "1h", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted((row["type"], row.get("state", row["name"] if "name" in row else row["body"])) for row in found) == [
        ("job", "COMPLETED"), ("log", "computed x"), ("span", "compute"), ("span", "job/scene"), ("span", "task/Scene"),
        ("task", "COMPUTED"),
    ]  # fmt: skip


def test_follow_ends_with_the_job(tmp_path: Any) -> None:
    """`logs --follow` of a running job in another process prints its records as they come, and ends with the job."""
    path = tmp_path / "tilebox.db"
    with Client(path) as client:
        client.jobs().submit("job", Mosaic([1]))
        command = [*PROGRAM, "--db", str(path), "logs", "latest", "--follow", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            client.runner(tasks=[Mosaic]).run_all()
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["body"] == "mosaic of [1]"
            assert process.poll() is None
            client.runner(tasks=[Scene]).run_all()
            assert sorted(json.loads(line)["body"] for line in process.stdout) == ["computed a", "computed b"]
            assert process.wait(timeout=60) == 0


def test_tail_ends_on_ctrl_c(tmp_path: Any) -> None:
    """`tail` shows what happens after it began, and ends on Ctrl-C with exit code 130 and without a word."""
    path = tmp_path / "tilebox.db"
    with Client(path) as client:
        client.jobs().submit("job", Scene("x"))
        command = [*PROGRAM, "--db", str(path), "tail", "--json", "--since", "1h"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes, preexec_fn=_default_sigint) as process:
            first = [json.loads(process.stdout.readline())["type"] for _ in range(3)]
            assert sorted(first) == ["job", "span", "task"]
            client.runner(tasks=[Scene]).run_all()
            rest = [json.loads(process.stdout.readline())["type"] for _ in range(5)]
            assert sorted(rest) == ["job", "log", "span", "span", "task"]
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130
            assert process.stderr.read().strip() == ""


WRITER = """
import random, sys, threading
from tilebox_local import Client
from tilebox_local.observability.logging import get_logger

generator = random.Random(int(sys.argv[2]))
with Client(sys.argv[1]) as client:
    logger = get_logger("writer")
    provider = client.tracer_provider.get_tracer("writer")
    for number in range(150):
        with client.tracer.span("outer"):
            if generator.random() < 0.03:
                threading.Event().wait(0.3)  # long enough to be written while it is open
            with client.tracer.span("inner"):
                logger.warning("number %d", number)
        if generator.random() < 0.2:  # as instrumentation does that measures first and records later
            start = 1_000_000_000 * (1_700_000_000 + number)
            provider.start_span("past", start_time=start).end()
        if generator.random() < 0.1:
            client.flush()
"""


def test_several_processes_commit_in_any_order(tmp_path: Any) -> None:
    """What three processes record, some of it with times of long ago, is shown once each by a `tail` beside them."""
    path = tmp_path / "tilebox.db"
    Client(path).close()
    command = [*PROGRAM, "--db", str(path), "tail", "--json", "--since", "2020-01-01"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=_default_sigint) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(100, process.kill)  # what is missing would let the test wait for ever
        watchdog.start()
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(seed)], stderr=subprocess.DEVNULL)
            for seed in range(3)
        ]
        assert [writer.wait(timeout=100) for writer in writers] == [0, 0, 0]
        with Client(path, read_only=True) as client:
            stored = client.sql(
                "select 'span' as kind, span_id as id from spans union all select 'log', time_ns from logs"
            )
        expected = sorted((kind, str(identifier)) for kind, identifier in stored.itertuples(index=False))
        assert len(expected) > 1350
        found = []
        for _ in expected:
            row = json.loads(process.stdout.readline())
            found.append((row["type"], str(row["span_id"] if row["type"] == "span" else row["time_ns"])))
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
        assert process.wait(timeout=60) == 130
        watchdog.cancel()
    assert sorted(found) == expected


def _default_sigint() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_readers_that_go_away(db: str) -> None:
    """A reader that closes the pipe ends a stream quietly."""
    with subprocess.Popen([*PROGRAM, "--db", db, "jobs", "--json"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 0
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*PROGRAM, "--db", db, "tail", "name:scene", "--since", "1h"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_wait_is_the_state_of_the_job(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`wait` exits with 0 for a completed job, 1 for a failed or canceled one, 124 after --timeout."""
    with Client(db) as client:
        waiting = client.jobs().submit("waiting", Scene("x"))
        assert main(["--db", db, "wait", "name:mosaic"]) == 0
        assert "(mosaic) is COMPLETED: 3 tasks.\n" in capsys.readouterr().err
        assert main(["--db", db, "wait", "name:broken", "-q"]) == 1
        assert capsys.readouterr() == ("", "")
        assert main(["--db", db, "wait", "latest", "--timeout", "20ms"]) == 124
        assert capsys.readouterr().err == f"Job {waiting.id} is still SUBMITTED.\n"
        client.jobs().cancel(waiting)
    assert main(["--db", db, "wait", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["state"] == "CANCELED"


def test_wait_shows_progress_on_a_terminal(db: str) -> None:
    """On a terminal a bar shows how many tasks are done; it is gone afterwards. -q shows none."""
    _, shown = on_terminal([*PROGRAM, "--db", db, "wait", "name:mosaic"])
    assert shown.startswith(f"\r[{'#' * 30}] 3/3 tasks, 0 running\x1b[K\r\x1b[KJob ")
    assert on_terminal([*PROGRAM, "--db", db, "wait", "name:mosaic", "-q"]) == (0, "")


def test_wait_for_another_thread(tmp_path: Any) -> None:
    """`wait` goes on until the job has ended, and no longer."""
    path = str(tmp_path / "tilebox.db")
    with Client(path) as client:
        client.jobs().submit("job", Scene("x"))
        codes: list[int] = []
        waiter = threading.Thread(target=lambda: codes.append(main(["--db", path, "wait", "-q"])))
        waiter.start()
        client.runner(tasks=[Scene]).run_all()
        waiter.join(timeout=60)
    assert codes == [0]
