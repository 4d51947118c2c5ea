"""Import time, and that importing loads nothing heavy."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.harness import ROOT, Options, Result, Target, alternate

if TYPE_CHECKING:
    from collections.abc import Iterator

TITLE = "Import"
METHOD = """\
The whole life of a fresh interpreter that runs one import statement, start and end of the interpreter included,
nothing subtracted; byte code and files are cached. *statement* in the notes is the import alone. The peer of the
first is an interpreter that runs nothing, of the second the official package's equivalent import.
"""

_PACKAGE = "import tilebox_local"
_CLIENT = "from tilebox_local import Client, Task"
_OFFICIAL = "from tilebox.workflows import Client, Task"
_HEAVY = ("pandas", "numpy", "pydantic", "watchdog", "opentelemetry.sdk")


def measure(statement: str) -> dict[str, Any]:
    """Milliseconds of the process and of the statement; which heavy modules it loaded."""
    code = (
        f"from time import perf_counter as now; started = now()\n{statement}\nms = (now() - started) * 1000\n"
        f"import json, sys; print(json.dumps([ms, [name for name in {_HEAVY!r} if name in sys.modules]]))"
    )
    bare = [sys.executable, "-c", statement]
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)  # warms the caches
    started = time.perf_counter()
    subprocess.run(bare, cwd=ROOT, check=True, capture_output=True)
    process_ms = (time.perf_counter() - started) * 1000
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    statement_ms, heavy = json.loads(done.stdout)
    return {"process_ms": process_ms, "statement_ms": statement_ms, "heavy": heavy}


def run(options: Options) -> Iterator[Result]:
    """Both imports, each beside its peer."""
    has_official = importlib.util.find_spec("tilebox") is not None
    statements = [_PACKAGE, "pass", _CLIENT, *([_OFFICIAL] if has_official else [])]
    package, nothing, client, *official = alternate(
        options.pick(7, 2), *(partial(measure, statement) for statement in statements)
    )
    cases = (
        ("package", package, 60, "python -c pass", nothing),
        ("client", client, 300, f"python -c '{_OFFICIAL}'" if official else None, official[0] if official else []),
    )
    for case, ours, limit, peer, peers in cases:
        yield Result(
            case=f"import/{case}",
            unit="ms",
            n=1,
            values=[one["process_ms"] for one in ours],
            target=Target("median", "<", limit),
            peer=peer,
            peer_values=[one["process_ms"] for one in peers],
            notes={"statement_ms": [one["statement_ms"] for one in ours]},
        )
    for case, ours in (("package", package), ("client", client)):
        yield Result(
            case=f"import/{case}_loads_pandas",
            unit="modules",
            n=1,
            values=[float("pandas" in one["heavy"]) for one in ours],
            target=Target("max", "<=", 0),
            notes={"heavy_modules_loaded": ours[0]["heavy"], "looked_for": list(_HEAVY)},
        )
