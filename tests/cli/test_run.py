"""`run`: runners in this process and in others, signals, crashes, and restarts when code changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sample_tasks import Exit, Mosaic, Scene
from store_support import until

from tilebox_local import Client
from tilebox_local.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = [sys.executable, "-m", "tilebox_local"]
TASKS = str(Path(__file__).with_name("sample_tasks.py"))
SLOW = """
import sys
from tilebox_local import Task

class Slow(Task):
    text: str

    def execute(self, context):
        with open(self.text, "w") as fifo:
            fifo.write("VERSION")
        if "VERSION" == "hang":
            open(self.text).read()
"""


def _handle_signals_by_default() -> None:
    """Whoever runs the tests in the background, or by nohup, ignores some."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def killed_afterwards(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that a failing test does not leave behind."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def running(db: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`tilebox-local run` in a process of its own, with the default handling of SIGINT; ended afterwards."""
    process = subprocess.Popen(
        [*PROGRAM, "--db", db, "run", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=_handle_signals_by_default,
    )
    with killed_afterwards(process):
        yield process


def states(db: str) -> dict[str, str]:
    """State of each job by its name."""
    with Client(db, read_only=True) as client:
        return {job.name: job.state.name for job in client.jobs().query()}


def incidents(db: str) -> list[str]:
    """What the next process that opens the store for writing finds wrong."""
    with Client(db) as client:
        return [incident.message for incident in client.doctor().incidents]


@pytest.fixture
def queued(tmp_path: Path) -> str:
    """A store with a job of each kind of sample task that waits."""
    path = str(tmp_path / "tilebox.db")
    with Client(path) as client:
        client.jobs().submit("scene", Scene("x"))
        client.jobs().submit("mosaic", Mosaic([1]))
    return path


def test_all_tasks_of_a_file(queued: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`run --all` runs what a file defines until nothing can be claimed."""
    assert main(["run", TASKS, "--all", "--name", "laptop", "--db", queued]) == 0
    assert "Running Scene, Mosaic, Exit on " in capsys.readouterr().err
    assert states(queued) == {"scene": "COMPLETED", "mosaic": "COMPLETED"}
    with Client(queued, read_only=True) as client:
        services = client.sql("select service from runners")["service"].tolist()
    assert services == ["laptop"]


def test_chosen_tasks(queued: str) -> None:
    """Only the tasks that are named are run; modules are found from the working directory."""
    command = [*PROGRAM, "--db", queued, "run", "sample_tasks:Scene", "--until-idle"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert states(queued) == {"scene": "COMPLETED", "mosaic": "SUBMITTED"}


def test_cluster(queued: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A runner serves one cluster, which must exist."""
    assert main(["run", TASKS, "--all", "--cluster", "nowhere", "--db", queued]) == 4
    assert main(["clusters", "create", "other", "--slug", "other", "--db", queued]) == 0
    assert main(["run", TASKS, "--all", "--cluster", "other", "--db", queued]) == 0
    assert set(states(queued).values()) == {"SUBMITTED"}


def test_several_processes(queued: str) -> None:
    """Several runners share the work, each in a process of its own; all end well."""
    with running(queued, TASKS, "--processes", "2", "--all") as process:
        assert process.wait(timeout=60) == 0
    assert states(queued) == {"scene": "COMPLETED", "mosaic": "COMPLETED"}
    with Client(queued, read_only=True) as client:
        found = client.sql("select count(distinct pid) as pids, count(stopped_at) as stopped from runners")
    assert found.to_dict("records") == [{"pids": 2, "stopped": 2}]


def test_crashes_are_reported(tmp_path: Path) -> None:
    """A runner process that crashes is named; the other one does its work, and the exit code says so."""
    path = str(tmp_path / "tilebox.db")
    flag = tmp_path / "flag"
    flag.touch()
    with Client(path) as client:
        client.jobs().submit("exit", Exit(str(flag)))
    with running(path, TASKS, "--processes", "2") as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "runner process" in line)
        assert line.startswith("tilebox-local: runner process ")
        assert line.endswith(" ended with exit code 7.\n")
        assert main(["wait", "--db", path, "-q"]) == 0  # the other one has run it
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    flag.touch()
    with Client(path) as client:
        client.jobs().submit("exit", Exit(str(flag)))
    with running(path, TASKS, "--processes", "2", "--all") as process:
        assert process.wait(timeout=60) == 1


def test_tasks_that_crash_all_runners(tmp_path: Path) -> None:
    """When the last runner process has crashed, the last line says where to look."""
    path = str(tmp_path / "tilebox.db")
    with Client(path) as client:
        for flag in (tmp_path / "one", tmp_path / "two"):
            flag.touch()
            client.jobs().submit("exit", Exit(str(flag)))
    with running(path, TASKS, "--processes", "2") as process:
        assert process.wait(timeout=60) == 7
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    assert lines[-1] == "tilebox-local: no runner is left; `tilebox-local doctor` tells what they were running."
    assert len([line for line in lines if line.endswith("ended with exit code 7.")]) == 2


@pytest.mark.parametrize(
    ("number", "processes", "code"),
    [
        (signal.SIGINT, 1, 130),
        (signal.SIGTERM, 1, 143),
        (signal.SIGHUP, 1, 129),
        (signal.SIGINT, 2, 130),
        (signal.SIGTERM, 2, 143),
    ],
)
def test_signals(queued: str, number: int, processes: int, code: int) -> None:
    """Signals end a runner, or all runner processes, once what runs has ended; that is no crash."""
    with running(queued, TASKS, "--processes", str(processes)) as process:
        assert main(["wait", "name:mosaic", "-q", "--db", queued]) == 0
        process.send_signal(number)
        assert process.wait(timeout=60) == code
        assert process.stderr is not None
        assert "runner process" not in process.stderr.read()  # none has crashed
    assert incidents(queued) == []
    with Client(queued, read_only=True) as client:
        assert client.sql("select count(*) as n from runners where stopped_at is null")["n"].tolist() == [0]


def test_runners_end_with_their_supervisor(queued: str) -> None:
    """When the supervisor is killed, its runner processes end, too."""
    with running(queued, TASKS, "--processes", "2") as process:
        assert main(["wait", "name:mosaic", "-q", "--db", queued]) == 0
        process.kill()
        process.wait(timeout=60)
        assert process.stderr is not None
        process.stderr.read()  # ends when the last of them has closed it
    with Client(queued, read_only=True) as client:
        assert client.sql("select count(*) as n from runners where stopped_at is null")["n"].tolist() == [0]


def test_code_that_cannot_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error in the user's code is one line that says where."""
    path = str(tmp_path / "tilebox.db")
    broken = tmp_path / "broken.py"
    broken.write_text("x = 1\nprint(y)\n")
    assert main(["run", str(broken), "--all", "--db", path]) == 2
    assert capsys.readouterr().err == (
        f"tilebox-local: {broken} cannot be imported: NameError: name 'y' is not defined ({broken}, line 2).\n"
    )
    assert main(["submit", str(broken), "--db", path]) == 2
    assert "cannot be imported: NameError" in capsys.readouterr().err
    broken.write_text("def (:\n")
    assert main(["run", str(broken), "--all", "--db", path]) == 2
    assert "cannot be imported: SyntaxError: " in capsys.readouterr().err
    assert not Path(path).exists()
    with running(path, str(broken), "--processes", "2") as process:
        assert process.wait(timeout=60) == 2


def test_reload(tmp_path: Path) -> None:
    """--reload runs the new code after a change; a mistake in it is reported, and mended by the next change."""
    path, code, fifo = str(tmp_path / "tilebox.db"), tmp_path / "code.py", str(tmp_path / "fifo")
    os.mkfifo(fifo)

    def write(version: str) -> None:
        code.write_text(SLOW.replace("VERSION", version))

    def run_once() -> str:
        from_file = main(["submit", f"{code}:Slow", "--arg", f"text={fifo}", "--db", path, "-q"])
        assert from_file == 0
        return Path(fifo).read_text()

    write("first")
    with running(path, str(code), "--reload") as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        assert any(line.startswith("Running Slow on ") for line in lines)
        assert run_once() == "first"
        write("other")
        assert any(line == "code.py changed: starting again.\n" for line in lines)
        assert any(line.startswith("Running Slow on ") for line in lines)
        assert run_once() == "other"
        code.write_text("def (:\n")
        assert any("cannot be imported: SyntaxError: " in line for line in lines)
        assert any(line == "Waiting for a change of the code.\n" for line in lines)
        write("third")
        assert any(line.startswith("Running Slow on ") for line in lines)
        assert _submitted(path, fifo) == "third"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130


def _submitted(path: str, fifo: str) -> str:
    """What the newest code does with a job, submitted by a class of the same name."""
    from tilebox_local import Task

    class Slow(Task):
        text: str

    with Client(path) as client:
        client.jobs().submit("Slow", Slow(fifo))
        return Path(fifo).read_text()


def test_reload_gives_the_running_task_back(tmp_path: Path) -> None:
    """A task that runs on when the code changes goes back to the queue, and is run by the new code."""
    path, code, fifo = str(tmp_path / "tilebox.db"), tmp_path / "code.py", str(tmp_path / "fifo")
    os.mkfifo(fifo)
    code.write_text(SLOW.replace("VERSION", "hang"))
    assert main(["submit", f"{code}:Slow", "--arg", f"text={fifo}", "--db", path, "-q"]) == 0
    with running(path, str(code), "--reload") as process:
        with open(fifo) as told:  # noqa: PTH123 -- and kept open, so that the task has begun
            assert told.read() == "hang"
        code.write_text(SLOW.replace("VERSION", "quick"))
        assert Path(fifo).read_text() == "quick"
        assert main(["wait", "--db", path, "-q"]) == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    with Client(path, read_only=True) as client:
        rows: Any = client.sql("select attempts, crashes, state from tasks").to_dict("records")
    assert rows == [{"attempts": 2, "crashes": 0, "state": "COMPUTED"}]
    assert incidents(path) == []


ODD = """
import sys
from tilebox_local import Task

class Quit(Task):
    def execute(self, context):
        sys.exit(0)

class Bad(Task):
    def execute(self, context):
        context.logger.info("see \x1b[31m red")
        raise ValueError("no \x9b scale")
"""


def test_what_tasks_log(tmp_path: Path) -> None:
    """Records go to stderr and cannot steer the terminal; a failed task says what it raised; --quiet keeps errors."""
    path, code = str(tmp_path / "tilebox.db"), tmp_path / "odd.py"
    code.write_text(ODD)
    for options, expected in [
        ([], ["Running Bad on", "INFO    see ␛[31m red", "ERROR   Task Bad failed! Bad: ValueError('no \\x9b scale')"]),
        (["-q"], ["ERROR   Task Bad failed! Bad: ValueError('no \\x9b scale')"]),
    ]:
        assert main(["submit", f"{code}:Bad", "--db", path, "-q"]) == 0
        command = [*PROGRAM, "--db", path, *options, "run", f"{code}:Bad", "--all"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (0, "")
        lines = done.stderr.splitlines()
        assert len(lines) == len(expected)
        assert [text in line for line, text in zip(lines, expected, strict=True)] == [True] * len(lines), lines


ENDS = """
import os, sys, time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tilebox_local import Task

class Waits(Task):
    flag: str

    def execute(self, context):
        Path(self.flag).touch()
        time.sleep(1000)

class Stays(Task):
    flag: str

    def execute(self, context):
        with ThreadPoolExecutor() as pool:
            Path(self.flag).touch()
            pool.submit(time.sleep, 1000).result()

class Catches(Task):
    flag: str

    def execute(self, context):
        while True:
            try:
                Path(self.flag).touch()
                time.sleep(1000)
            except SystemExit:
                pass

def child(context, flag):
    with context.tracer.span("in child"):
        pass
    Path(flag).touch()
    time.sleep(1000)

class Forks(Task):
    flag: str

    def execute(self, context):
        process = get_context("fork").Process(target=child, args=(context, self.flag))
        process.start()
        while not Path(self.flag).exists():
            time.sleep(0.01)
        process.terminate()
        process.join()
        pid = os.fork()
        if not pid:
            sys.exit(3)
        context.current_task.display = f"{process.exitcode} {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"
"""


@pytest.mark.parametrize(
    ("task", "number", "code"),
    [
        ("Waits", signal.SIGTERM, 143),
        ("Waits", signal.SIGHUP, 129),
        ("Stays", signal.SIGTERM, 143),
        ("Catches", signal.SIGTERM, 143),
    ],
)
def test_signals_to_a_task_that_goes_on(tmp_path: Path, task: str, number: int, code: int) -> None:
    """A task that does not end after a signal goes back to the queue; that it stays there does not keep the process."""
    path, file, flag = str(tmp_path / "tilebox.db"), tmp_path / "ends.py", tmp_path / "flag"
    file.write_text(ENDS)
    assert main(["submit", f"{file}:{task}", "--arg", f"flag={flag}", "--db", path, "-q"]) == 0
    with running(path, str(file)) as process:
        until(flag.exists)
        process.send_signal(number)
        assert process.wait(timeout=60) == code
    assert incidents(path) == []
    with Client(path, read_only=True) as client:
        rows = client.sql("select state, crashes from tasks").to_dict("records")
    assert rows == [{"state": "QUEUED", "crashes": 0}]


def test_children_of_tasks(tmp_path: Path) -> None:
    """Children that a task forks are ended by SIGTERM as any process, keep their spans, and may call sys.exit()."""
    path, file = str(tmp_path / "tilebox.db"), tmp_path / "ends.py"
    file.write_text(ENDS)
    assert main(["submit", f"{file}:Forks", "--arg", f"flag={tmp_path / 'flag'}", "--db", path, "-q"]) == 0
    with running(path, str(file), "--all") as process:
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(timeout=60) == 0
    assert "sys.exit" not in said
    with Client(path, read_only=True) as client:
        tasks = client.sql("select display, state from tasks").to_dict("records")
        spans = client.sql("select name from spans where name = 'in child'")["name"].tolist()
    assert (tasks, spans) == ([{"display": "-15 3", "state": "COMPUTED"}], ["in child"])


@pytest.mark.parametrize("options", [[], ["--processes", "2"]])
def test_a_task_that_exits(tmp_path: Path, options: list[str]) -> None:
    """sys.exit() in a task ends its runner with a message and exit code 1, whatever its argument."""
    path, code = str(tmp_path / "tilebox.db"), tmp_path / "odd.py"
    code.write_text(ODD)
    assert main(["submit", f"{code}:Quit", "--db", path, "-q"]) == 0
    command = [*PROGRAM, "--db", path, "run", f"{code}:Quit", "--all", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "Task Quit ended its runner: SystemExit(0)" in done.stderr
    assert "tilebox-local: sys.exit(0) ended the runner; the task is queued again.\n" in done.stderr


def test_exit_at_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """sys.exit() in the user's file is a file that cannot be imported."""
    code = tmp_path / "odd.py"
    code.write_text("import sys\nsys.exit(3)\n")
    assert main(["run", str(code), "--db", str(tmp_path / "tilebox.db")]) == 2
    assert f"{code} cannot be imported: SystemExit: 3 ({code}, line 2)." in capsys.readouterr().err


@pytest.mark.parametrize("before", [None, "x = 1\n", "import sys\nsys.exit(3)\n"])
@pytest.mark.parametrize("target", ["{}.py", "{}.py:Bad", "new_module"])
def test_reload_of_what_is_not_there_yet(tmp_path: Path, before: str | None, target: str) -> None:
    """--reload that begins with a missing file, module or class, or one without tasks, begins when it is there."""
    code = tmp_path / "new_module.py"
    if before is not None:
        code.write_text(before)
    command = [*PROGRAM, "--db", "tilebox.db", "run", target.format(code.with_suffix("")), "--reload"]
    with killed_afterwards(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)) as process:
        assert process.stderr is not None
        assert any(line == "Waiting for a change of the code.\n" for line in process.stderr)
        code.write_text(ODD)
        assert any(line.startswith("Running ") for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(timeout=60) == 143


@pytest.mark.parametrize(
    ("target", "before", "after"),
    [
        ("code.py", {"code.py": f"import other\n{ODD}"}, {"other.py": ""}),
        ("code.py", {"code.py": f"import other\n{ODD}"}, {"other/__init__.py": ""}),
        ("code.py", {"code.py": f"from some import other\n{ODD}", "some/x.py": ""}, {"some/other.py": ""}),
        ("new.inner", {}, {"new/inner.py": ODD}),
        ("new:Bad", {}, {"new/__init__.py": ODD}),
    ],
)
def test_reload_when_an_import_is_there(
    tmp_path: Path, target: str, before: dict[str, str], after: dict[str, str]
) -> None:
    """--reload of code that imports what is not there yet, or of a package that is not, begins when it is."""

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)

    write(before)
    command = [*PROGRAM, "--db", "tilebox.db", "run", target, "--reload"]
    with killed_afterwards(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)) as process:
        assert process.stderr is not None
        assert any(line == "Waiting for a change of the code.\n" for line in process.stderr)
        write(after)
        begins = any(line.startswith("Running ") for line in process.stderr)
        process.terminate()
        process.stderr.read()
        assert (begins, process.wait(timeout=60)) == (True, 143)


@pytest.mark.parametrize("options", [["--cluster", "nowhere"], ["--db", "/dev/null/x"], ["--db", "no/such/x.db"]])
def test_reload_of_what_no_code_mends(queued: str, options: list[str]) -> None:
    """--reload ends if the code is fine, and the cluster or the store is not."""
    command = [*PROGRAM, "--db", queued, "run", TASKS, "--reload", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in (3, 4)
    assert "Waiting" not in done.stderr


@pytest.mark.parametrize("options", [[], ["--processes", "2"]])
def test_modules_of_the_working_directory(tmp_path: Path, options: list[str]) -> None:
    """A file of tasks may have the name of a module that the program itself needs."""
    (tmp_path / "json.py").write_text(ODD)
    program = Path(sys.executable).with_name("tilebox-local")
    command = [program, "--db", "tilebox.db", "run", "json.py", "--all", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
