"""durations, bottlenecks, critical-path and so on; trends and compare."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from sample_tasks import Scene

from tilebox_local import Client, ExecutionContext, Task
from tilebox_local.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = [
    "durations", "bottlenecks", "bottlenecks --by critical_path", "bottlenecks --by queue_wait", "critical-path",
    "concurrency", "queue-waits", "failures", "failures --rates", "failures --stack", "why-slow",
]  # fmt: skip


@pytest.fixture
def waiting(db: str) -> str:
    """A store that also has a job that nobody has begun."""
    with Client(db) as client:
        client.jobs().submit("waiting", Scene("y"))
    return db


@pytest.mark.parametrize("job", ["mosaic", "broken", "waiting"])
@pytest.mark.parametrize("command", COMMANDS)
def test_each_analysis_answers(
    waiting: str, ask: Callable[..., Any], capsys: pytest.CaptureFixture[str], command: str, job: str
) -> None:
    """Of jobs that have run, failed or not begun, each analysis has JSON, and a table or a message that it is empty."""
    assert isinstance(ask(*command.split(), f"name:{job}"), list | dict)
    assert main(["--db", waiting, *command.split(), f"name:{job}"]) == 0
    captured = capsys.readouterr()
    assert bool(captured.out) != bool(captured.err)


def test_what_failed(ask: Callable[..., Any], db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`failures` names the exception of the first failure, and --stack shows where it was raised."""
    first = ask("failures", "name:broken")[0]
    assert first["is_origin"]
    assert first["exception_type"]
    assert main(["--db", db, "failures", "name:broken", "--stack"]) == 0
    output = capsys.readouterr().out
    assert "The first failure, in " in output
    assert f"{first['exception_type']}: {first['exception_message']}" in output


def test_what_took_the_time(ask: Callable[..., Any], db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`bottlenecks`, `durations` and `critical-path` agree with the methods of the jobs client."""
    with Client(db, read_only=True) as client:
        job = client.jobs().query(name="mosaic")[0]
        expected = client.jobs().bottlenecks(job).to_dicts()
        path = client.jobs().critical_path(job)
        tasks = [row.to_dict() for row in client.jobs().durations(job) if row.kind == "task"]
    assert ask("bottlenecks", "name:mosaic") == expected
    assert ask("bottlenecks", str(job.id), "--limit", "1") == expected[:1]
    assert ask("critical-path", "name:mosaic") == {"steps": path.to_dicts(), "savings": path.savings.to_dicts()}
    assert ask("durations", "name:mosaic", "--kind", "task") == tasks
    assert main(["--db", db, "bottlenecks", "name:mosaic", "--limit", "1"]) == 0
    assert expected[0]["reason"] in capsys.readouterr().out


def test_concurrency(ask: Callable[..., Any]) -> None:
    """`concurrency` has slots, runners and stragglers."""
    found = ask("concurrency", "name:mosaic", "--slots", "5")
    assert set(found) == {"peak_running", "mean_running", "parallelism_score", "slots", "runners", "stragglers"}
    assert 1 <= len(found["slots"]) <= 5
    assert len(found["runners"]) == 1


def test_changes(ask: Callable[..., Any], db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`trends` lists the jobs of a name, `compare` what two jobs have and have not in common."""
    assert [row["state"] for row in ask("trends", "mosaic")] == ["COMPLETED"]
    assert {row["step"] for row in ask("trends", "mosaic", "--steps")} >= {"Mosaic"}
    assert main(["--db", db, "trends", "nothing"]) == 4
    assert ask("compare", "name:mosaic", "name:mosaic")["paths"] == []
    assert {path["verdict"] for path in ask("compare", "latest", "latest", "--all")["paths"]} == {"same"}
    changed = ask("compare", "name:mosaic", "name:broken")
    assert (changed["a_name"], changed["b_name"]) == ("mosaic", "broken")
    capsys.readouterr()
    assert main(["--db", db, "compare", "name:mosaic", "name:broken"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == changed["description"]


@pytest.mark.parametrize("command", ["durations", "compare latest"])
def test_unknown_jobs(db: str, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """A job that is not there has exit code 4, also for the second one."""
    assert main(["--db", db, *command.split(), "name:nothing"]) == 4
    assert capsys.readouterr().out == ""


def test_search(ask: Callable[..., Any], db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`search` finds spans by name and status, log records by their words, and structures, in one job or in all."""
    everything = ask("search", "spans", "--name", "task/*")
    assert {row["job_name"] for row in everything} == {"scene", "mosaic", "broken"}
    assert {row["job_name"] for row in ask("search", "spans", "--status", "error")} == {"broken"}
    one = ask("search", "spans", "--job", "name:scene", "--name", "task/*")
    assert {row["job_name"] for row in one} == {"scene"}
    assert ask("search", "spans", "--attribute", "no-such-key") == []
    assert ask("search", "spans", "--since", "1h") == ask("search", "spans")
    assert ask("search", "spans", "--until", "1h") == ask("search", "spans", "--max-duration", "0s") == []
    runner = everything[0]["runner"]
    assert {row["runner"] for row in ask("search", "spans", "--runner", runner)} == {runner}
    pairs = ask("search", "structure", "job/* > task/*")
    assert {(pair["a"]["name"], pair["b"]["name"]) for pair in pairs} >= {("job/scene", "task/Scene")}
    assert isinstance(ask("search", "logs", "nothingofthiskind"), list)
    assert main(["--db", db, "search", "structure", "job/* > task/*", "--limit", "1"]) == 0
    assert "task/" in capsys.readouterr().out
    assert main(["--db", db, "search", "structure", "nonsense >"]) == 2
    assert main(["--db", db, "search", "logs", '"']) == 2


class Bands(Task):
    """Forty spans, of which those of one band take ten times as long, by times that are made up."""

    tracer: ClassVar[Any]

    def execute(self, context: ExecutionContext) -> None:
        """Record them."""
        for number in range(40):
            band, length = ("B08", 900) if number % 4 == 0 else ("B04", 90)
            span = self.tracer.start_span("read", start_time=number * 10**9, attributes={"band": band})
            span.end(number * 10**9 + length * 10**6)


def test_why_slow(ask: Callable[..., Any], db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`why-slow` names what slow spans have in common, or says that nothing stands out, or that there is too little."""
    with Client(db) as client:
        Bands.tracer = client.tracer_provider.get_tracer("test")
        job = client.jobs().submit("bands", Bands())
        client.runner(tasks=[Bands]).run_all()
        expected = client.jobs().why_slow(job, "read", threshold=timedelta(milliseconds=100)).to_dicts()
    found = ask("why-slow", "name:bands", "--threshold", "100ms")
    assert [row["condition"] for row in expected] == ["band = B08"]
    assert found == {"name": "read", "threshold_ms": 100.0, "spans": 40, "slow_spans": 10, "explanations": expected}
    assert main(["--db", db, "why-slow", "name:bands", "--threshold", "100ms"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "read: 10 of 40 spans took longer than 100 ms:\n"
    assert [line.split() for line in captured.out.splitlines()] == [
        ["condition", "spans", "slow", "of", "all", "slow", "median", "with", "without", "effect", "p"],
        ["band", "=", "B08", "10", "10", "100.0", "%", "900ms", "90.0ms", "1.00", "4.8e-09"],
    ]
    assert main(["--db", db, "why-slow", "name:bands", "--threshold", "2s"]) == 0
    assert capsys.readouterr() == ("", "read: 0 of 40 spans took longer than 2.00 s; nothing stands out.\n")
    assert main(["--db", db, "why-slow", "name:scene"]) == 0
    assert capsys.readouterr().err.startswith("No name of the job has 20 ended spans")
    assert main(["--db", db, "why-slow", "name:bands", "--name", "nothing"]) == 4
