"""Looking into a store without the right to write: read-only folders and disks, and the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from store_support import add_scope, outside, run, run_ok

from tilebox_local import Client, ExecutionContext, Task
from tilebox_local.cli import main
from tilebox_local.errors import ArgumentError, NotATileboxStoreError, SchemaVersionError, StoreOpenError
from tilebox_local.storage import schema

if TYPE_CHECKING:
    from collections.abc import Iterator


class Noop(Task):
    """Does nothing."""

    def execute(self, context: ExecutionContext) -> None:
        """Log a word."""
        context.logger.info("word")


@pytest.fixture
def stored(path: Path) -> Path:
    """A closed store with one job."""
    with Client(path) as client:
        client.jobs().submit("job", Noop())
        client.runner(tasks=[Noop]).run_all()
    path.with_name("store.db.lock").unlink()
    return path


@pytest.fixture
def mounted(stored: Path) -> Iterator[Path]:
    """The folder of the store as a disk that cannot be written."""
    folder = stored.parent
    mount = ["mount", "--bind", str(folder), str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield stored
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _listing(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def _look(path: Path) -> None:
    with Client(path, read_only=True) as client:
        (job,) = client.jobs().query()
        assert (job.name, job.state.name) == ("job", "COMPLETED")
        assert [span.name for span in client.jobs().query_spans(job)] == ["job/job", "task/Noop"]
        assert client.sql("SELECT body FROM logs")["body"].tolist() == ["word"]
        with client.connect_readonly() as connection:
            assert connection.execute("SELECT count(*) FROM tasks").get == 1


def test_reading_leaves_no_trace(stored: Path) -> None:
    """A client that only reads makes no file, leaves none behind, and changes nothing, where it could."""
    before = _listing(stored.parent)
    _look(stored)
    assert _listing(stored.parent) == before


def test_a_read_only_disk(mounted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A store on a disk that cannot be written is read by the API and the command line; writing says why not."""
    before = _listing(mounted.parent)
    _look(mounted)
    assert main(["--db", str(mounted), "job", "show"]) == 0
    assert "task/Noop" in capsys.readouterr().out
    assert _listing(mounted.parent) == before
    with pytest.raises(StoreOpenError, match="Read-only file system"):
        Client(mounted)


def test_a_read_only_folder(stored: Path) -> None:
    """Somebody who may read the file, but not write to its folder, can look into it."""
    if os.getuid() != 0:
        pytest.skip("needs root, to become nobody")
    script = """
import os, sys
from tilebox_local import Client
Client(":memory:").sql("SELECT 1").to_dict("records")  # loads what is loaded on first use
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
with Client(sys.argv[1], read_only=True) as client:
    print(client.sql("SELECT name, state FROM jobs").to_dict("records"))
"""
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are for their user only
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(stored, folder / "store.db")
        (folder / "store.db").chmod(0o644)
        before = _listing(folder)
        assert run_ok(script, folder / "store.db") == "[{'name': 'job', 'state': 'COMPLETED'}]\n"
        assert _listing(folder) == before


def test_what_would_write_is_refused(stored: Path) -> None:
    """Every way to write raises StoreOpenError with the remedy; spans are dropped and counted; the file stays."""
    before = stored.read_bytes()
    with Client(stored, read_only=True) as client:
        (job,) = client.jobs().query()
        uses = {
            "submit": lambda: client.jobs().submit("new", Noop()),
            "cancel": lambda: client.jobs().cancel(job),
            "retry": lambda: client.jobs().retry(job),
            "cluster": lambda: client.clusters().create("new"),
            "run": lambda: client.runner(tasks=[Noop]).run_all(),
            "transact": lambda: client._store.transact(add_scope("new")),
        }
        for name, use in uses.items():
            with pytest.raises(StoreOpenError) as caught:
                use()
            assert str(caught.value) == (f"{stored} is open for reading only. Open a Client without read_only=True."), (
                name
            )
        dropped = client.stats().dropped_count
        with client.tracer.span("lost"):
            pass
        assert client.stats().dropped_count == dropped + 1
    assert stored.read_bytes() == before


def test_reading_beside_writers(stored: Path) -> None:
    """A reading client sees what others commit, in this process and in another one, while it is open."""
    with Client(stored, read_only=True) as reader, Client(stored) as writer:
        assert reader._store is not writer._store
        writer.jobs().submit("mine", Noop())
        assert reader.sql("SELECT name FROM jobs ORDER BY job_no")["name"].tolist() == ["job", "mine"]
        run_ok("import sys, tilebox_local as t; t.Client(sys.argv[1]).clusters().create('theirs')", stored)
        assert reader.sql("SELECT name FROM cluster_records")["name"].tolist() == ["Default", "theirs"]
    assert outside(stored, "SELECT count(*) FROM jobs") == [(2,)]


def test_what_a_killed_process_left_is_read(path: Path) -> None:
    """Rows that are only in the write-ahead log of a killed process are there for a client that only reads."""
    script = """
import os, sys
from tilebox_local import Client
Client(sys.argv[1]).clusters().create("committed")
os.kill(os.getpid(), 9)
"""
    assert run(script, path).returncode == -9
    with Client(path, read_only=True) as client:
        assert client.sql("SELECT name FROM cluster_records")["name"].tolist() == ["Default", "committed"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_reads_and_does_not_write(stored: Path) -> None:
    """After a fork parent and child of a reading client go on reading, and neither writes."""
    script = """
import os, sys
from tilebox_local import Client
from tilebox_local.errors import StoreOpenError
client = Client(sys.argv[1], read_only=True)
pid = os.fork()
try:
    client.clusters().create("new")
except StoreOpenError:
    os.write(1, f"{len(client.jobs().query())}\\n".encode())
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
client.close()
"""
    assert run(script, stored, warnings="ignore").stdout == "1\n1\n"


def test_what_is_no_store_is_refused(path: Path, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing and empty files, those of others, and stores that need another version are refused untouched."""
    with pytest.raises(StoreOpenError, match="does not exist, and is not made to be read"):
        Client(path.with_name("missing.db"), read_only=True)
    empty = path.with_name("empty.db")
    empty.touch()
    with pytest.raises(NotATileboxStoreError, match="is no store of tilebox-local"):
        Client(empty, read_only=True)
    text = path.with_name("text.db")
    text.write_text("text " * 200)
    with pytest.raises(NotATileboxStoreError, match="is not a SQLite database"):
        Client(text, read_only=True)
    with pytest.raises(ArgumentError, match="read_only needs a file"):
        Client(":memory:", read_only=True)
    for version, hint in ((schema.SCHEMA_VERSION + 1, "Open it once"), (schema.SCHEMA_VERSION - 1000, "Upgrade")):
        monkeypatch.setattr(schema, "SCHEMA_VERSION", version)
        with pytest.raises(SchemaVersionError, match=hint):
            Client(stored, read_only=True)
    assert sorted(file.name for file in path.parent.iterdir()) == ["empty.db", "store.db", "text.db"]
    assert (empty.read_bytes(), text.read_text()) == (b"", "text " * 200)
