"""The command line, in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tilebox_local import Client, ExecutionContext, Task
from tilebox_local.cli import main

if TYPE_CHECKING:
    from pathlib import Path


class Divide(Task):
    """Divides by its input."""

    by: int

    def execute(self, context: ExecutionContext) -> None:
        """Fail for 0."""
        1 / self.by


@pytest.fixture
def stores(tmp_path: Path) -> list[str]:
    """Two stores with one job each, which has their name."""
    paths = [str(tmp_path / name) for name in ("first", "second")]
    for path in paths:
        with Client(path) as client:
            client.jobs().submit(f"in {path}", Divide(0))
            client.runner(tasks=[Divide]).run_all()
    return paths


def test_show_tells_why_a_task_failed(stores: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Below a failed task `show` prints type and message of its exception."""
    assert main(["--db", stores[0], "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    below = lines[[line.split()[1] for line in lines].index("task/Divide") + 1]
    assert below.strip() == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("command", ["jobs", "show"])
def test_store_before_or_after_the_command(
    stores: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """--db is accepted on both sides of the command; the later one wins, and either wins over the environment."""
    first, second = stores
    monkeypatch.setenv("TILEBOX_LOCAL_DB", second)
    for arguments, store in [
        (["--db", first, command], first),
        ([command, "--db", first], first),
        (["--db", second, command, "--db", first], first),
        ([command, f"--db={second}", "--db", first], first),
        ([command], second),
    ]:
        assert main(arguments) == 0
        assert f"in {store}" in capsys.readouterr().out
