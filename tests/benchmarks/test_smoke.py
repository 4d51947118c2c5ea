"""The benchmarks run, and print what their readers expect. Their numbers are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FACTS = {"versions", "cpu", "cores", "system", "filesystem", "date", "load_average_1_min"}
OURS = {"case", "n", "unit", "rounds", "median", "min", "max", "target", "passed", "durability", "notes"}
PEER = {"peer", "ratio_to_peer", "peer_rounds", "peer_median", "peer_min", "peer_max"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks.run` with these arguments."""
    command = [sys.executable, "-m", "benchmarks.run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_quick_run_prints_one_json_line_per_case_with_everything_needed_to_read_it() -> None:
    """Each line has the case, its spread, its peer and ratio, its target, and the facts about the machine."""
    done = run("--quick", "span_throughput", "claim")
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line["case"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert list(lines) == [
        "span_throughput/vs_sdk",
        "span_throughput/vs_floor",
        "span_throughput/own_traces",
        "claim/beside",
        "claim/oldest",
    ]
    for case, line in lines.items():
        assert set(line) == OURS | FACTS | (set() if case.endswith("own_traces") else PEER)
        assert 0 < line["min"] <= line["median"] <= line["max"]
        assert set(line["versions"]) == {"python", "sqlite", "apsw", "opentelemetry-sdk", "pandas", "orjson"}


def test_analyses_are_measured() -> None:
    """The ranking has its peers, each analysis a case, and commits are measured beside readers."""
    done = run("--quick", "analysis")
    assert (done.returncode, done.stderr) == (0, "")
    cases = [line["case"] for line in map(json.loads, done.stdout.splitlines())]
    assert cases[:3] == [f"analysis/bottlenecks/1000{peer}" for peer in ("", "/duckdb", "/again")]
    assert cases[-5:] == [
        *(f"analysis/commit_p99_beside_reading_{who}" for who in ("process", "thread")),
        *(f"analysis/bottlenecks/2000{peer}" for peer in ("", "/duckdb", "/again")),
    ]
    assert {case.split("/")[1] for case in cases[3:-5]} == {
        "durations", "bottlenecks", "critical_path", "concurrency", "queue_waits", "failures", "error_rates",
        "why_slow", "search_spans", "search_structure", "compare",
    }  # fmt: skip


def test_what_several_processes_do_to_each_other_is_measured() -> None:
    """The benchmarks of latency, of four processes and of large stores run, and none of them loses a span."""
    done = run("--quick", "latency", "contention", "growth")
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line["case"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert list(lines) == [
        *(f"latency/span_end_{name}" for name in ("p50", "p99", "p999")),
        *(f"latency/commit_{name}" for name in ("normal_p50", "normal_p99", "full_p50", "full_p99")),
        "latency/wakeup_p50",
        *(f"contention/saturated/{name}" for name in ("fairness", "lock_wait_p99", "lock_wait_max", "rate")),
        *(
            f"contention/paced/{name}"
            for name in ("dropped", "commit_lag_p99", "lock_wait_p99", "lock_wait_max", "wal")
        ),
        "growth/stored",
        "growth/readers",
    ]
    assert lines["contention/paced/dropped"]["max"] == 0
    assert lines["growth/readers"]["notes"]["dropped"] == [0]


def test_tasks_are_compared_with_huey() -> None:
    """What `make install` installs contains the peer of the benchmark of tasks."""
    done = run("--quick", "tasks")
    assert (done.returncode, done.stderr) == (0, "")
    peers = {line["case"]: line["peer"] for line in map(json.loads, done.stdout.splitlines())}
    assert peers == {
        "tasks/one_runner": f"huey {metadata.version('huey')}, SqliteHuey without fsync, no trace",
        "tasks/two_runners": "one runner process",
    }


def test_no_line_names_the_machine_or_a_path() -> None:
    """What is printed can be published: no path of this machine is in it."""
    done = run("--quick", "claim")
    assert done.returncode == 0
    assert str(ROOT) not in done.stdout
    assert "/tmp" not in done.stdout


def test_report_is_only_written_from_a_full_run() -> None:
    """Quick and partial runs cannot end up in RESULTS.md."""
    for arguments in (("--write", "--quick"), ("--write", "claim")):
        done = run(*arguments)
        assert done.returncode == 2
        assert "--write needs a full run" in done.stderr


def test_unknown_name_is_refused() -> None:
    """A name that does not exist is refused with the names that do."""
    done = run("nonsense")
    assert done.returncode == 2
    assert "unknown: nonsense; choose from span_cost, " in done.stderr
