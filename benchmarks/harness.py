"""What all benchmarks share: results and targets, alternation with a peer, fresh processes, facts about the machine.

A benchmark is a module with `TITLE`, `METHOD` (a paragraph of the report) and `run(options)`, which yields `Result`s.
The machine may be busy with other work, so only ratios taken side by side mean much: `alternate` measures A B A B ...,
and the ratio of a result is the median of the ratios of neighbours.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("apsw", "opentelemetry-sdk", "pandas", "orjson")
NORMAL = "normal (WAL, synchronous=NORMAL, one FULL commit per second)"
PEER_NORMAL = "peer: WAL, synchronous=NORMAL"


@dataclass(frozen=True)
class Options:
    """How much to measure. A quick run shows that the benchmark works, not how fast things are."""

    quick: bool = False
    large: bool = False  # also what takes minutes and gigabytes

    def pick(self, full: int, quick: int) -> int:
        """`full`, or `quick` in a quick run."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Target:
    """What a result must meet: a limit on its median, its largest value, or its ratio to the peer (ours / peer)."""

    of: Literal["median", "max", "ratio"]
    relation: Literal["<=", "<", ">=", ">"]
    limit: float
    goal: float | None = None  # nicer to have; does not decide

    def __str__(self) -> str:
        goal = "" if self.goal is None else f" (goal {_number(self.goal)})"
        return f"{self.of} {self.relation} {_number(self.limit)}{goal}"

    def is_met(self, result: Result) -> bool:
        value = {"median": result.median, "max": max(result.values), "ratio": result.ratio}[self.of]
        if value is None:
            return False
        less, equal = value < self.limit, value == self.limit
        return {"<": less, "<=": less or equal, ">": not (less or equal), ">=": not less}[self.relation]


@dataclass
class Result:
    """One case: the values of our side, one per round, and of the peer's side, measured in between."""

    case: str
    unit: str
    n: int  # operations per value
    values: list[float]
    target: Target | None = None
    peer: str | None = None
    peer_values: list[float] = field(default_factory=list)
    durability: str = "none"
    notes: dict[str, Any] = field(default_factory=dict)  # more that was seen, by name

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        """Median over the rounds of ours / peer; None without a peer."""
        if not self.peer_values:
            return None
        return statistics.median(ours / peer for ours, peer in zip(self.values, self.peer_values, strict=True))

    @property
    def is_passed(self) -> bool | None:
        return None if self.target is None else self.target.is_met(self)

    def to_json(self, environment: dict[str, Any]) -> dict[str, Any]:
        """The line that `run` prints."""
        line: dict[str, Any] = {"case": self.case, "n": self.n, "unit": self.unit} | _spread(self.values)
        if self.peer is not None:
            line |= {"peer": self.peer, "ratio_to_peer": self.ratio}
            line |= {f"peer_{name}": value for name, value in _spread(self.peer_values).items()}
        target = None if self.target is None else str(self.target)
        line |= {"target": target, "passed": self.is_passed, "durability": self.durability, "notes": self.notes}
        return _rounded(line | environment)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "rounds": len(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def _number(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


# -- measuring --------------------------------------------------------------------------------------------------------


def alternate(rounds: int, *measures: Callable[[], Any]) -> list[list[Any]]:
    """Call the measures one after the other, `rounds` times over; the values of each."""
    values: list[list[Any]] = [[] for _ in measures]
    for _ in range(rounds):
        for found, measure in zip(values, measures, strict=True):
            found.append(measure())
    return values


def in_fresh_process(function: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
    """`function(folder, **arguments)` in a new interpreter and an empty folder, which is deleted afterwards.

    The function must be at the top level of its module; arguments and result must survive JSON.
    """
    with tempfile.TemporaryDirectory(prefix="tilebox-local-benchmark-") as folder:
        call = json.dumps([function.__module__, function.__name__, {"folder": folder, **arguments}])
        # The settings of the caller's shell must not change what is measured.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "TILEBOX_"))}
        command = [sys.executable, "-m", "benchmarks.harness", call]
        done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{function.__name__} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def check_equal(what: str, found: int, expected: int) -> None:
    """Stop a benchmark that did not do the work it is timed for."""
    if found != expected:
        raise RuntimeError(f"{what}: {found:,} instead of {expected:,}.")


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def rss_mb() -> float:
    """Resident memory of this process in MB (10**6 bytes); its peak where the current value cannot be had."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return pages * resource.getpagesize() / 1e6


def produce_spans(make_span: Callable[[str], Any], count: int) -> None:
    """The loop of user code that spans are measured with: a name, and two attributes of different types."""
    for index in range(count):
        with make_span("compute-index") as span:
            span.set_attribute("scene_id", "S2A_31UFS_20240612")
            span.set_attribute("tile", index)


# -- the machine ------------------------------------------------------------------------------------------------------


def environment() -> dict[str, Any]:
    """Versions, processor and file system: what a number depends on. No host name, no path."""
    import apsw

    versions = {"python": platform.python_version(), "sqlite": apsw.sqlite_lib_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "versions": versions,
        "cpu": _cpu_model(),
        "cores": cores,
        "system": system,
        "filesystem": _filesystem(Path(tempfile.gettempdir()).resolve()),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "load_average_1_min": os.getloadavg()[0],
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # no such file outside of Linux
    return platform.processor() or platform.machine()


def _filesystem(folder: Path) -> str:
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    found = [(len(fields[1]), fields[2]) for fields in mounts if folder.is_relative_to(fields[1])]
    return max(found)[1] if found else "unknown"


if __name__ == "__main__":
    _module, _name, _arguments = json.loads(sys.argv[1])
    _arguments["folder"] = Path(_arguments["folder"])
    print(json.dumps(getattr(importlib.import_module(_module), _name)(**_arguments)))
