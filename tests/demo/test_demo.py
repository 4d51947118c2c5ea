"""`make demo`, as a newcomer runs it: in processes of its own, twice on one database."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import elevation
import pytest
from elevation_poster import POSTER_SIZE
from elevation_tasks import FLAKY_TILE, TASKS, ElevationReport
from PIL import Image

from tilebox_local import Client
from tilebox_local.data import JobState, TaskState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilebox_local import Job
    from tilebox_local.data import Span

TILES = 3 * 4 + 1 * 2
SCRIPT = Path(elevation.__file__)


@dataclass
class Demo:
    """What two runs have left."""

    folder: Path

    @property
    def db(self) -> Path:
        """Their database."""
        return self.folder / "demo store.db"

    def output(self, run: int) -> str:
        """What a run has printed."""
        return (self.folder / f"{run}.txt").read_text()


def run_demo(demo: Demo, run: int) -> None:
    """Run the demo in the folder; warnings are errors."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("TILEBOX_", "OTEL_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, "--db", demo.db, "--output", f"{run}.png"],
        cwd=demo.folder,
        env=keep | {"COLUMNS": "100", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (demo.folder / f"{run}.txt").write_text(done.stdout)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Two runs of the demo, made once even if pytest-xdist distributes the tests over processes."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    made = Demo(root / "demo")
    with (root / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.folder.exists():
            made.folder.mkdir()
            run_demo(made, 1)
            run_demo(made, 2)
    return made


@pytest.fixture
def client(demo: Demo) -> Iterator[Client]:
    """A client of the database of the demo."""
    with Client(demo.db) as opened:
        yield opened


@pytest.fixture
def job(client: Client) -> Job:
    """The job of the first run."""
    return client.jobs().query()[-1]


def task_spans(client: Client, job: Job, name: str = "") -> list[Span]:
    """Spans of tasks whose class has this name, or of all."""
    return [span for span in client.jobs().query_spans(job) if span.name.startswith(f"task/{name}")]


def test_job_is_completed_with_one_optional_failure(client: Client, job: Job) -> None:
    """Four tasks per tile and three for the whole; all are computed but for PublishPreview."""
    assert job.name == "elevation-report"
    assert job.state is JobState.COMPLETED
    assert job.execution_stats.tasks_by_state == {TaskState.COMPUTED: 4 * TILES + 2, TaskState.FAILED_OPTIONAL: 1}
    (publish,) = task_spans(client, job, "PublishPreview")
    assert publish.status_code == "STATUS_CODE_ERROR"
    assert [(bar.label, bar.done, bar.total) for bar in job.progress] == [("tiles", TILES, TILES)]


def test_flaky_tile_is_retried(client: Client, job: Job) -> None:
    """One tile has two executions: the first one failed, the second one did not."""
    executions: dict[str, list[str]] = {}
    for span in task_spans(client, job, "ProcessTile"):
        executions.setdefault(span.attributes["task_id"], []).append(span.status_code)
    assert sorted(map(tuple, executions.values())) == sorted(
        [("STATUS_CODE_ERROR", "STATUS_CODE_UNSET")] + [("STATUS_CODE_UNSET",)] * (TILES - 1)
    )
    (warning,) = client.jobs().query_logs(job, level="warning")
    assert warning.attributes["tile"] == FLAKY_TILE


def test_three_runners_take_part(client: Client, job: Job) -> None:
    """All runners are ready before the job is submitted, and there is work for each of them."""
    assert len({span.runner_attributes["service.instance.id"] for span in task_spans(client, job)}) == 3


def test_spans_and_logs_tell_what_was_done(client: Client, job: Job) -> None:
    """Custom spans lie below their tasks and carry the tile; so do the logs."""
    spans = client.jobs().query_spans(job)
    tasks = {span.span_id: span for span in spans if span.name.startswith("task/")}
    reads = [span for span in spans if span.name == "read" and span.status_code != "STATUS_CODE_ERROR"]
    assert {tasks[span.parent_span_id or ""].name for span in reads} == {"task/ProcessTile"}
    first = next(span for span in reads if span.attributes["tile"] == "jacksboro/0-0")
    assert {key: value for key, value in first.attributes.items() if key != "task_id"} == {
        "tile": "jacksboro/0-0",
        "shape": [344 // 3 + 4, 403 // 4 + 4],
        "min_m": 373.0,
        "max_m": 853.0,
    }
    names = {span.name for span in spans}
    assert names >= {"measure", "read", "resample", "gradient", "slope", "shade", "tint", "encode-png", "upload"}
    assert names >= {f"task/{task.__name__}" for task in TASKS}
    logs = client.jobs().query_logs(job, level="info")
    assert len({log.attributes["tile"] for log in logs if "tile" in log.attributes}) == TILES


def test_each_run_adds_a_job(client: Client, demo: Demo) -> None:
    """The second run kept what the first one had stored."""
    assert [job.state for job in client.jobs().query()] == [JobState.COMPLETED] * 2
    assert "the database, with 1 job so far" in demo.output(1)
    assert "the database, with 2 jobs so far" in demo.output(2)


def test_picture(demo: Demo) -> None:
    """The map is a valid PNG, and every run draws the same bytes."""
    with Image.open(demo.folder / "1.png") as image:
        image.load()
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", POSTER_SIZE)
        assert len(image.getcolors(1 << 24) or []) > 10_000
    assert (demo.folder / "1.png").read_bytes() == (demo.folder / "2.png").read_bytes()


def test_output_can_be_read(demo: Demo) -> None:
    """Job, trace, slowest spans and files are printed in 100 columns, without colours when piped."""
    output = demo.output(1)
    assert "\x1b" not in output
    lines = output.splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("sqlite3")] == []
    assert re.fullmatch(r"Job elevation-report [0-9a-f-]{36}: COMPLETED", lines[0])
    assert re.match(
        r"59 tasks: 58 computed, 1 failed optional; \S+s elapsed, \S+s of work, parallelism \d\.\d$", lines[1]
    )
    for task in ("ProcessTile jacksboro/2-3", "Slope topobathy/0-1", "Hillshade jacksboro/0-0", "Mosaic"):
        assert len([line for line in lines if re.match(rf"[├└]─ {task} .*s  .*  runner [123]$", line)]) == 1
    assert [
        line for line in lines if line.endswith("TimeoutError: jacksboro_fault_dem.npz: read timed out (simulated)")
    ]
    start = next(number for number, line in enumerate(lines) if line.startswith("slowest spans"))
    assert [len(line.split()) for line in lines[start + 1 : start + 6]] == [5] * 5
    assert "1.png  the map" in lines


def test_printed_commands_work(demo: Demo) -> None:
    """The sqlite3 commands can be pasted into a shell, and find something."""
    if shutil.which("sqlite3") is None:
        pytest.skip("the sqlite3 command line tool is not installed")
    version = subprocess.run(["sqlite3", "--version"], capture_output=True, text=True, check=True).stdout.split()[0]
    if tuple(map(int, version.split("."))) < (3, 37):
        pytest.skip(f"the store needs SQLite 3.37, the command line tool is {version}")
    for run in (1, 2):
        commands = [line for line in demo.output(run).splitlines() if line.startswith("sqlite3 ")]
        assert len(commands) == 3
        for command in commands:
            done = subprocess.run(command, shell=True, cwd=demo.folder, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, ""), command
            assert done.stdout.count("\n") > 4, command


def test_queries_work_without_the_tool(client: Client, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sqlite3 on the PATH the demo's queries give the same rows."""
    queries = [query.format(job.id) for query in (elevation.SLOWEST, elevation.DISPLAYS, elevation.FACTS)]
    with_tool = [elevation.select(client, query) for query in queries]
    assert [len(rows) for rows in with_tool] == [5, 59, 1]
    monkeypatch.setenv("PATH", "")
    assert [elevation.select(client, query) for query in queries] == with_tool


def test_colors(
    client: Client, job: Job, demo: Demo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A terminal gets colours, unless NO_COLOR is set; --full shows every span."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    elevation.report(client, job, demo.folder / "1.png", full=False)
    assert "\x1b[31m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    elevation.report(client, job, demo.folder / "1.png", full=True)
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert output.count("─ encode-png") == TILES + 1
    assert "more spans" not in output


def test_dead_runners_end_the_demo(tmp_path: Path) -> None:
    """When no runner is left, the driver says so instead of waiting."""
    dead = SimpleNamespace(is_alive=lambda: False, exitcode=-9)
    with Client(tmp_path / "x.db") as client:
        job = client.jobs().submit("x", ElevationReport({}, ""))
        with pytest.raises(elevation.DemoError, match=r"All runners have died; their exit codes are -9, -9\."):
            elevation.wait_for(client, job, [dead, dead])


def test_runners_that_cannot_start_end_the_demo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A runner that dies before it is ready is reported, and nothing is left running."""
    with (
        pytest.raises(elevation.DemoError, match=r"did not start; their exit codes are 1\."),
        elevation.running(str(tmp_path / "missing" / "x.db"), str(tmp_path), 1),
    ):
        pass
    assert "cannot be created" in capfd.readouterr().err
    assert multiprocessing.active_children() == []


def test_timeout_cancels_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the timeout the job is canceled, so that nobody takes it up later, and the runners are gone."""
    monkeypatch.setattr(elevation, "JOB_TIMEOUT_S", 0)
    with Client(tmp_path / "x.db") as client:
        with pytest.raises(elevation.DemoError, match="not finished after 0 s"):
            elevation.run_job(client, tmp_path / "x.png", 1)
        (job,) = client.jobs().query()
        assert job.state is JobState.CANCELED
    assert multiprocessing.active_children() == []
    assert not (tmp_path / "x.png").exists()
