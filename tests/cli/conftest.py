"""Fixtures of the tests of the command line: stores with jobs, and a way to run commands in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tilebox_local import Client, ExecutionContext, Task
from tilebox_local.cli import main
from tilebox_local.observability.logging import configure_console_logging

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Divide(Task):
    """Divides by its input."""

    by: int

    def execute(self, context: ExecutionContext) -> None:
        """Fail for 0."""
        with context.tracer.span("divide") as span:
            span.set_attribute("by", self.by)
            context.logger.info("dividing", by=self.by)
            1 / self.by


@dataclass
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """The lines of its output."""
        return self.out.splitlines()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs a command in this process."""
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TILEBOX_LOCAL_DB"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Outcome]) -> str:
    """A store with three jobs, named good, bad and waiting; commands use it by themselves."""
    path = str(tmp_path / "store.db")
    configure_console_logging(enabled=False)  # it would keep the stream that pytest captures
    monkeypatch.setenv("TILEBOX_LOCAL_DB", path)
    with Client(path) as client:
        runner = client.runner(tasks=[Divide])
        client.jobs().submit("good", [Divide(1), Divide(2)])
        runner.run_all()
        client.jobs().submit("bad", Divide(0))
        runner.run_all()
        client.jobs().submit("waiting", Divide(3))
    return path


@pytest.fixture
def ids(store: str) -> dict[str, str]:
    """The ids of the jobs by name."""
    with Client(store, read_only=True) as client:
        return {job.name: str(job.id) for job in client.jobs().query()}
