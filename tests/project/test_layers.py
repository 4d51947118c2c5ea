"""The structure of the package: which module may import what."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "tilebox_local"

# Lower ranks know nothing of higher ones. Imports inside functions and for type checkers do not count.
RANKS = {
    "errors": 0, "clock": 0, "ids": 0, "catalog": 0, "process": 1, "data": 1, "intervals": 1,
    "resource": 1, "telemetry": 1,
    "codecs": 2, "serialization": 3, "task": 4, "cache": 1, "formatting": 2,
    "storage": 4, "observability": 5, "engine": 5, "redaction": 5, "query": 6, "analysis": 6,
    "clusters": 7, "jobs": 7, "runner": 7, "upkeep": 7, "export": 7,
    "automations": 7, "storage_locations": 7, "workflows": 7, "doctor": 7, "client": 8, "cli": 9,
    "__main__": 10,
}  # fmt: skip


def _imports(path: Path) -> set[str]:
    """Modules of the package that `path` imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tilebox_local."):
            found.add(node.module.split(".")[1])
    return found


def test_imports_go_one_way() -> None:
    """No module imports one of a higher rank at import time."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part != "__init__":
            wrong += [
                f"{path.relative_to(PACKAGE)} imports {other}" for other in _imports(path) if RANKS[other] > RANKS[part]
            ]
    assert wrong == []


def test_only_storage_opens_connections() -> None:
    """`apsw.Connection` is called in storage/connection.py and nowhere else."""
    callers = [
        path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if "apsw.Connection(" in path.read_text()
    ]
    assert callers == ["storage/connection.py"]


def test_the_official_package_is_never_imported() -> None:
    """No module of ours imports `tilebox`, `grpc` or the OpenTelemetry SDK, anywhere."""
    forbidden = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            forbidden += [
                f"{path.relative_to(PACKAGE)}: {name}"
                for name in names
                if name.split(".")[0] in ("tilebox", "_tilebox", "grpc") or name.startswith("opentelemetry.sdk")
            ]
    assert forbidden == []
