"""Memory that runs out: nothing is corrupt, what was dropped is counted, the process goes on or ends as it should."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from batches import Problem, examine, kinds
from store_support import sizes

from tilebox_local import Client
from tilebox_local.storage import checkpointer

if TYPE_CHECKING:
    import apsw

SCRIPT = Path(__file__).with_name("memory_process.py")
TIMEOUT_S = 600


def suffer(folder: Path, what: str, number: int) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code of the script, what it says, and what it complains about."""
    command = [sys.executable, str(SCRIPT), str(folder), what, str(number)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def stored_spans(connection: apsw.Connection) -> list[Problem]:
    """How many spans there are, and how many the writer has counted as dropped."""
    spans = connection.execute("SELECT count(*) FROM span_records").get
    dropped = connection.execute("SELECT sum(dropped_count) FROM writer_records").get
    return [Problem("stored", f"{spans} + {dropped}")]


@pytest.mark.parametrize("steps", sizes(8, 20, 500))
def test_sqlite_runs_out_of_memory(folder: Path, steps: int) -> None:
    """While SQLite gets no memory, flush and transact say so; then all is there that was not counted as dropped."""
    code, told, complaints = suffer(folder, "heap", steps)
    assert code == 0, complaints
    assert len(told) == steps
    for line in told:
        dropped = line["stats"]["dropped_count"]
        found = examine(Path(line["store"]), {"w": line["acked"]}, further=stored_spans)
        assert found == [Problem("stored", f"{line['spans'] - dropped} + {dropped}")]
        assert line["errors"]  # there was a fault
        assert line["acked"] == list(range(12))


@pytest.mark.parametrize("steps", sizes(3, 20, 500))
def test_the_process_runs_out_of_memory(folder: Path, steps: int) -> None:
    """A process without address space ends in Python's MemoryError or goes on; what it acknowledged is there."""
    codes = set()
    for step in range(steps):
        place = folder / str(step)
        place.mkdir()
        limit = step * 20 // steps
        code, told, complaints = suffer(place, "space", limit)
        assert code == 0 or (code == 1 and complaints.rstrip().splitlines()[-1] == "MemoryError"), (limit, complaints)
        assert examine(place / "store.db", {"w": [line["ack"] for line in told if "ack" in line]}) == []
        codes.add(code)
    assert 1 in codes


def test_the_oracle_notices_what_found_no_memory(folder: Path) -> None:
    """Control: what was acknowledged before it was committed is lost when SQLite runs out of memory."""
    code, told, _ = suffer(folder, "early", 1)
    assert code == 0
    assert kinds(examine(Path(told[0]["store"]), {"w": told[0]["acked"]})) == {"lost"}


def test_no_thread_for_checkpoints(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system has no thread for checkpoints, commits succeed all the same, and so does closing."""
    monkeypatch.setattr(checkpointer, "_BACKGROUND_PAGES", 1)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "tilebox-local-checkpoint":
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    refused: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Client(folder / "store.db") as client:
        for number in range(3):
            client._store.transact(
                lambda connection, number=number: connection.execute(
                    "INSERT INTO scope_records (name) VALUES (?)", (f"w {number}",)
                ).fetchall()
            )
        assert client.stats().failed_transaction_count == 0
    assert refused
