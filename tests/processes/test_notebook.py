"""A Jupyter kernel: cells, a loop that runs already, autoreload, restarts and interrupts."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from store_support import outside, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

jupyter_client = pytest.importorskip("jupyter_client", reason="needs ipykernel")
pytest.importorskip("ipykernel", reason="needs ipykernel")

TIMEOUT_S = 60
pytestmark = pytest.mark.filterwarnings("default")  # what Jupyter's own packages warn of is theirs


class Notebook:
    """Runs cells in a kernel of its own."""

    def __init__(self, folder: Path) -> None:
        self.manager: Any = jupyter_client.manager.KernelManager(kernel_name="python3")
        self.manager.kernel_spec.argv[0] = sys.executable
        self.manager.start_kernel(cwd=str(folder), env=os.environ | {"PYTHONPATH": str(folder), "HOME": str(folder)})
        self._connect()

    def _connect(self) -> None:
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=TIMEOUT_S)

    def run(self, cell: str) -> str:
        """Run a cell; what it printed, and the name of the error that ended it."""
        printed: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = self.client.execute_interactive(cell, timeout=TIMEOUT_S, output_hook=hear)
        assert reply["content"]["status"] != "aborted"  # it has not run, since the one before it has failed
        return "".join(printed) + reply["content"].get("ename", "")

    def restart(self) -> None:
        """What the button does."""
        self.client.stop_channels()
        self.manager.restart_kernel()
        self._connect()

    def close(self) -> None:
        """End the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel()
        self.manager.cleanup_resources()


@contextmanager
def notebook(folder: Path) -> Iterator[Notebook]:
    """A notebook in a folder."""
    found = Notebook(folder)
    try:
        yield found
    finally:
        found.close()


OPEN = """
from tilebox_local import Client, Task
client = Client("store.db")
"""
RUN = """
class Step(Task):
    async def execute(self, context):
        await asyncio.sleep(0)
        with context.tracer.span("in the task"):
            await asyncio.gather(*(self.below(context, number) for number in range(3)))

    async def below(self, context, number):
        with context.tracer.span(f"below {number}"):
            await asyncio.sleep(0)

import asyncio
job = client.jobs().submit("job", Step())
with client.tracer.span("around"):
    client.runner(tasks=[Step]).run_all()
print(client.jobs().find(job).state.name)
"""


def test_cells_and_restarts(tmp_path: Path) -> None:
    """Cells run asynchronous tasks although a loop runs already; spans survive a restart, and cells that run twice."""
    with notebook(tmp_path) as kernel:
        assert kernel.run(OPEN) == ""
        assert kernel.run(RUN) == "COMPLETED\n"
        assert kernel.run("with client.tracer.span('awaited'):\n    await asyncio.sleep(0)") == ""
        assert kernel.run(OPEN) == ""  # run again, as people do: the first client is dropped without close()
        assert kernel.run("with client.tracer.span('before the restart'):\n    pass") == ""
        kernel.restart()
        assert kernel.run("client") == "NameError"
        assert kernel.run(OPEN + "with client.tracer.span('after the restart'):\n    pass\n1/0") == "ZeroDivisionError"
    query = "SELECT s.name, p.name FROM spans s LEFT JOIN spans p ON p.span_id = s.parent_span_id ORDER BY s.start_ns"
    assert outside(tmp_path / "store.db", query) == [
        ("job/job", None),
        ("around", None),
        ("task/Step", "job/job"),
        ("in the task", "task/Step"),
        ("below 0", "in the task"),
        ("below 1", "in the task"),
        ("below 2", "in the task"),
        ("awaited", None),
        ("before the restart", None),
        ("after the restart", None),
    ]
    assert outside(tmp_path / "store.db", "SELECT count(*) FROM spans WHERE end_time IS NULL") == [(0,)]


TASKS = """
from tilebox_local import Task

class Step(Task):
    def execute(self, context):
        with context.tracer.span("{0}"):
            pass
"""


def test_autoreload(tmp_path: Path) -> None:
    """With %autoreload, a task class that was edited runs as edited; the client goes on."""
    module = tmp_path / "steps.py"
    module.write_text(TASKS.format("first"))
    run = "client.jobs().submit('job', steps.Step())\nclient.runner(tasks=[steps.Step]).run_all()"
    with notebook(tmp_path) as kernel:
        assert kernel.run("%load_ext autoreload\n%autoreload 2\nimport steps" + OPEN) == ""
        assert kernel.run(run) == ""
        module.write_text(TASKS.format("second, edited"))
        os.utime(module, ns=(2 * 10**18, 2 * 10**18))
        assert kernel.run(run) == ""
    assert outside(tmp_path / "store.db", "SELECT name FROM spans WHERE name NOT LIKE '%/%' ORDER BY start_ns") == [
        ("first",),
        ("second, edited",),
    ]


def test_interrupting_a_cell(tmp_path: Path) -> None:
    """Interrupting a cell gives its task back and leaves a client that works; the task can be run again."""
    cell = """
import pathlib, time
class Slow(Task):
    def execute(self, context):
        if not pathlib.Path("seen").exists():
            pathlib.Path("seen").touch()
            time.sleep(60)
client.jobs().submit("job", Slow())
client.runner(tasks=[Slow]).run_all()
"""
    with notebook(tmp_path) as kernel:
        assert kernel.run(OPEN) == ""
        message = kernel.client.execute(cell, stop_on_error=False)  # else the next cell may come too soon to be run
        until((tmp_path / "seen").exists)
        kernel.manager.interrupt_kernel()
        reply = kernel.client.get_shell_msg(timeout=TIMEOUT_S)
        assert reply["parent_header"]["msg_id"] == message
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert kernel.run("client.runner(tasks=[Slow]).run_all()") == ""
    assert outside(tmp_path / "store.db", "SELECT state, attempts, crashes FROM tasks") == [("COMPUTED", 2, 0)]
