"""Test suites of users under pytest-xdist: one store for all workers, and one for each."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from store_support import outside

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("xdist", reason="needs pytest-xdist")

SUITE = """
import os
import pytest
from tilebox_local import Client, Task


class Step(Task):
    number: int

    def execute(self, context):
        with context.tracer.span(f"step {self.number}"):
            pass


@pytest.fixture(scope="session")
def client():
    name = os.environ["SUITE_STORE"].replace("WORKER", os.environ["PYTEST_XDIST_WORKER"])
    return Client(name)  # nobody closes it


@pytest.mark.parametrize("number", range(6))
def test_step(client, number):
    with client.tracer.span(f"test {number}"):
        job = client.jobs().submit(f"job {number}", Step(number))
    client.runner(tasks=[Step]).run_all()
    while client.jobs().find(job).state.name != "COMPLETED":  # the other worker has it
        client.runner(tasks=[Step]).run_all()
"""


@pytest.mark.parametrize(("store", "files"), [("shared.db", ["shared"]), ("WORKER.db", ["gw0", "gw1"])])
def test_two_workers(store: str, files: list[str], tmp_path: Path) -> None:
    """Two workers on one store, or each on its own, pass, and leave every span once."""
    (tmp_path / "test_suite.py").write_text(SUITE)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env=kept | {"SUITE_STORE": store},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    found: list[str] = []
    for file in files:
        found += [name for (name,) in outside(tmp_path / f"{file}.db", "SELECT name FROM spans")]
    expected = [f"{name} {number}" for number in range(6) for name in ("test", "job/job", "step")]
    assert sorted(found) == sorted(expected + ["task/Step"] * 6)
