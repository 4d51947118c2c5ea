"""The package as others meet it: imports, wheel, README."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tilebox_local

ROOT = Path(__file__).parents[2]


def _run(*arguments: str, cwd: Path | None = None) -> str:
    done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names() -> None:
    """`__all__` is what the official package exports, and every name can be imported."""
    assert tilebox_local.__all__ == ["Client", "ExecutionContext", "Job", "Runner", "Task"]
    assert [getattr(tilebox_local, name).__name__ for name in tilebox_local.__all__] == tilebox_local.__all__
    assert set(tilebox_local.__all__) <= set(dir(tilebox_local))
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        tilebox_local.Nonsense  # noqa: B018


def test_import_is_lazy() -> None:
    """Importing the package loads none of its modules; its names load no pandas, pydantic or server package."""
    heavy = "{'pandas', 'numpy', 'pydantic', 'watchdog', 'grpc', 'uvicorn', 'IPython', 'asyncio'}"
    code = f"""
import sys
import tilebox_local
print(sorted(name for name in sys.modules if name.startswith("tilebox_local.")))
from tilebox_local import Client, Task
print(sorted({heavy} & set(sys.modules)))
"""
    first, second = _run(sys.executable, "-c", code).splitlines()
    assert first == "[]"
    assert second in ("[]", "['asyncio']")


def test_wheel_contents(tmp_path: Path) -> None:
    """The wheel holds schema.sql, the SQL files, py.typed and the license, and no tests."""
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.read("tilebox_local/schema.sql") == (ROOT / "schema.sql").read_bytes()
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
        (license_file,) = (name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
        assert archive.read(license_file) == (ROOT / "LICENSE").read_bytes()
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tilebox_local").rglob("*.sql")}
    assert sources | {"tilebox_local/py.typed", "tilebox_local/__init__.py"} <= names
    assert "tilebox-local = tilebox_local.cli:main" in entry_points
    assert {"License-Expression: Apache-2.0", "License-File: LICENSE"} <= set(metadata.splitlines())
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "examples/"))]


def test_license_is_the_standard_text() -> None:
    """LICENSE is the Apache License 2.0 as its authors publish it, byte by byte."""
    published = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == published


def test_readme_example_runs(tmp_path: Path) -> None:
    """The Python example of the README runs as printed, and so do the shell commands below it."""
    readme = (ROOT / "README.md").read_text()
    example = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert example is not None
    output = _run(sys.executable, "-c", example[1], cwd=tmp_path)
    assert [line.split()[1] for line in output.splitlines() if "STATUS_CODE" in line] == [
        "job/process-scenes", "task/Scene", "compute-index", "task/Scene", "compute-index",
    ]  # fmt: skip
    if shutil.which("sqlite3"):
        shell = re.search(r'^sqlite3 example.db "(.*)"$', readme, re.MULTILINE)
        assert shell is not None
        rows = _run("sqlite3", "example.db", shell[1], cwd=tmp_path).splitlines()
        assert sorted((row.split("|")[0], row.split("|")[2]) for row in rows) == [
            ("compute-index", "UNSET"), ("compute-index", "UNSET"), ("job/process-scenes", "UNSET"),
            ("task/Scene", "UNSET"), ("task/Scene", "UNSET"),
        ]  # fmt: skip
    shown = _run(sys.executable, "-m", "tilebox_local", "job", "show", "--db", "example.db", cwd=tmp_path)
    assert shown.splitlines()[0].startswith("process-scenes  COMPLETED  ")


def test_readme_datasette_runs(tmp_path: Path) -> None:
    """The commands of the README for datasette run as printed; it answers, with our descriptions."""
    block = re.search(r"```\n(tilebox-local schema.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    with tilebox_local.Client(tmp_path / "tilebox.db"):
        pass
    folder = Path(sys.executable).parent
    first, second = block[1].splitlines()
    assert second.startswith("datasette tilebox.db ")
    line = f"PATH='{folder}':\"$PATH\"; {first} && {second} --get /tilebox/jobs"
    assert "from the first start to the last stop, in ms" in _run("bash", "-c", line, cwd=tmp_path)


def test_version_is_one() -> None:
    """pyproject.toml and the package agree on the version."""
    declared = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert declared[1] == tilebox_local.__version__


def test_command_line(tmp_path: Path) -> None:
    """`jobs` reads a store; without one it says so, and does not create it."""
    missing = subprocess.run(
        [sys.executable, "-m", "tilebox_local", "jobs"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr == "tilebox-local: there is no store at tilebox.db; name one with --db.\n"
    assert list(tmp_path.iterdir()) == []
    assert _run(sys.executable, "-m", "tilebox_local", "schema") == (ROOT / "schema.sql").read_text()
