"""`submit`, `cancel`, `retry` and `clusters`."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sample_tasks import Mosaic, Scene

from tilebox_local import Client, Task
from tilebox_local.cli import main
from tilebox_local.cli.submit import make_task
from tilebox_local.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = str(Path(__file__).with_name("sample_tasks.py"))


@dataclass
class Box:
    """A nested input."""

    left: int
    top: int = 0


class Many(Task):
    """Fields of several types."""

    text: str
    number: int = 1
    box: Box | None = None
    names: list[str] = field(default_factory=list)


class Mixed(Task):
    """Fields that take text, among others."""

    year: str | None = None
    either: int | str = 0
    anything: list[str] | str = ""


class Empty(Task):
    """No field."""


class Nested(Task):
    """One field that is an object."""

    box: Box


def test_inputs() -> None:
    """Fields come from JSON, from --arg, or both; text fields take what stands there, others JSON."""
    assert make_task(Many, '{"text": "a", "number": 2}', ()) == Many("a", 2)
    assert make_task(Many, None, ("text=5", "number=5", 'box={"left": 1}', 'names=["x"]')) == Many(
        "5", 5, Box(1), ["x"]
    )
    assert make_task(Many, '{"text": "a", "number": 2}', ("number=3",)) == Many("a", 3)
    assert make_task(Mixed, None, ("year=2024", "either=5", 'anything=["x"]')) == Mixed("2024", 5, ["x"])
    assert make_task(Mixed, None, ("year=true", "either=x", "anything=5")) == Mixed("true", "x", "5")
    assert make_task(Mixed, None, ("year=null", "either=true")) == Mixed(None, "true")
    assert make_task(Empty, None, ()) == Empty()
    assert make_task(Scene, '"a"', ()) == make_task(Scene, '{"scene_id": "a"}', ()) == Scene("a")
    assert make_task(Nested, '{"left": 1}', ()) == make_task(Nested, '{"box": {"left": 1}}', ()) == Nested(Box(1))


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (None, (), "Many needs text; pass --arg text=VALUE."),
        ("{", (), "The input is no JSON: "),
        ("[1]", (), "The input of Many is an object with the keys text, number, box, names."),
        ('{"text": "a", "colour": 1}', (), "Many has no field 'colour'; it has text, number, box, names."),
        (None, ("text=a", "number=many"), "number"),
    ],
)
def test_wrong_inputs(text: str | None, arguments: tuple[str, ...], message: str) -> None:
    """What does not fit the fields is refused before anything is submitted."""
    with pytest.raises(ArgumentError) as caught:
        make_task(Many, text, arguments)
    assert message in str(caught.value)


def test_submit_prints_the_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`submit` creates the store if need be, and prints the id of the job alone on stdout."""
    path = str(tmp_path / "new.db")
    command = ["submit", f"{TASKS}:Mosaic", "first", "--arg", "bands=[1]", "--max-retries", "2", "--db", path]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.err == "Job first is submitted.\n"
    with Client(path, read_only=True) as client:
        (job,) = client.jobs().query()
        assert captured.out == f"{job.id}\n"
        assert job.name == "first"
        rows = client.sql("select name, input, max_retries, cluster from tasks").to_dict("records")
    assert rows == [{"name": "Mosaic", "input": '{"bands":[1],"scale":1.0}', "max_retries": 2, "cluster": "default"}]


def test_submit_from_files(db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[..., Any]) -> None:
    """The input may come from a file or from stdin; the name of the job is that of the class by default."""
    file = tmp_path / "input.json"
    file.write_text('"from a file"')
    assert ask("submit", f"{TASKS}:Scene", "--input-file", str(file))["name"] == "Scene"
    monkeypatch.setattr("sys.stdin", io.StringIO('{"scene_id": "from stdin"}'))
    assert ask("submit", f"{TASKS}:Scene", "--input-file", "-")["state"] == "SUBMITTED"
    with Client(db, read_only=True) as client:
        inputs = client.sql("select input from tasks order by task_no desc limit 2")["input"].tolist()
    assert inputs == ['"from stdin"', '"from a file"']


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["missing_module:Scene"],
            4,
            "No module 'missing_module' here. Give a module ",
        ),
        (["missing.py"], 4, "No file"),
        ([f"{TASKS}:Nothing"], 4, "No task"),
        ([TASKS], 2, "has several tasks; append one of them"),
        (["json:JSONDecoder"], 2, "json:JSONDecoder is no task class."),
        (["json"], 2, "json defines no task with an execute method."),
        ([f"{TASKS}:Scene", "--arg", "scene_id"], 2, "--arg 'scene_id' is not KEY=VALUE."),
        ([f"{TASKS}:Scene", "--input", "1", "--input-file", "-"], 2, "exclude each other"),
        ([f"{TASKS}:Scene", "--arg", "scene_id=1", "--cluster", "nowhere"], 4, "No cluster 'nowhere'"),
    ],
)
def test_wrong_targets(
    db: str, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not there is not found, what cannot be used is wrong usage; nothing is submitted."""
    assert main(["submit", *arguments, "--db", db]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    with Client(db, read_only=True) as client:
        assert len(client.jobs().query()) == 3


def test_cancel_and_retry(db: str, ask: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    """`cancel` and `retry` change the job, and print its row on demand; they ask for the job."""
    assert ask("retry", "name:broken")["queued"] == 1
    assert ask("cancel", "name:broken")["state"] == "CANCELED"
    assert main(["cancel", "--db", db]) == 2
    assert capsys.readouterr().err.endswith("Missing argument 'JOB'. Try `tilebox-local cancel --help`.\n")
    for job, message in [
        ("broken", "1 failed task of job {} (broken) will run again."),
        ("scene", "There is nothing to retry: job {} (scene) is COMPLETED."),
        ("waiting", "Job {} (waiting) goes on; it is SUBMITTED."),
    ]:
        with Client(db) as client:
            if job == "waiting":
                client.jobs().cancel(client.jobs().submit("waiting", Scene("x")))
            if job == "broken":
                client.runner(tasks=[Scene, Mosaic]).run_all()
                client.jobs().retry(client.jobs().query(name="broken")[0])
                client.runner(tasks=[Scene, Mosaic]).run_all()
            found = client.jobs().query(name=job)[0]
        assert main(["job", "retry", f"name:{job}", "--db", db]) == 0
        assert capsys.readouterr().err.splitlines()[-1] == message.format(found.id)


def test_clusters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Clusters are created, listed and deleted by their slug."""
    path = str(tmp_path / "new.db")
    assert main(["clusters", "--db", path, "create", "Large machines", "--slug", "large", "--description", "GPU"]) == 0
    assert capsys.readouterr().out == "large\n"
    assert main(["clusters", "list", "--db", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"slug": "default", "name": "Default", "description": None, "deletable": False},
        {"slug": "large", "name": "Large machines", "description": "GPU", "deletable": True},
    ]
    assert main(["clusters", "delete", "large", "--db", path]) == 0
    assert main(["clusters", "delete", "large", "--db", path]) == 4
    assert main(["clusters", "delete", "default", "--db", path]) == 2


def test_wait_for_a_submitted_job(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`submit --wait` has the exit code of the job."""
    import threading

    codes: list[int] = []
    submit = ["submit", f"{TASKS}:Mosaic", "slow", "--arg", "bands=[]", "--arg", "scale=0", "--wait", "--db", db]
    waiter = threading.Thread(target=lambda: codes.append(main(submit)))
    waiter.start()
    from tilebox_local.storage.watch import ChangeWatch

    with Client(db) as client:
        watch = ChangeWatch(client._store)
        while not client.jobs().query(name="slow"):
            watch.wait()
        watch.close()
        client.runner(tasks=[Mosaic]).run_all()
        waiter.join(timeout=60)
    assert codes == [1]
