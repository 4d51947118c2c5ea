"""Stores for the command line, and nothing of the environment that would change what it prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from sample_tasks import Mosaic, Scene

from tilebox_local import Client
from tilebox_local.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No colours, widths or stores from outside."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TILEBOX_LOCAL_DB", "PAGER", "LESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def db(tmp_path: Path) -> str:
    """A store with three jobs that have run: `scene`, `mosaic` (COMPLETED) and `broken` (FAILED)."""
    path = str(tmp_path / "tilebox.db")
    with Client(path) as client:
        runner = client.runner(tasks=[Scene, Mosaic])
        for name, task in (("scene", Scene("x")), ("mosaic", Mosaic([1, 2])), ("broken", Mosaic([1], 0.0))):
            client.jobs().submit(name, task)
            runner.run_all()
    return path


@pytest.fixture
def ask(db: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command on `db` that succeeds; what it prints as JSON."""

    def run(*arguments: str) -> Any:
        capsys.readouterr()
        assert main(["--db", db, *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run
