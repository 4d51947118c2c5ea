"""Run the benchmarks: `python -m benchmarks.run [--quick] [--large] [--write] [names...]`. One JSON line per case.

`--write` runs all of them and writes benchmarks/RESULTS.md, which is never edited by hand. Exit status 1: a benchmark
could not be run. A missed target is a result, not an error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Options, environment
from benchmarks.report import Section, to_markdown

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = (
    "span_cost",
    "span_throughput",
    "tasks",
    "size",
    "query",
    "backpressure",
    "import",
    "claim",
    "latency",
    "contention",
    "growth",
    "analysis",
)
RESULTS = Path(__file__).with_name("RESULTS.md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measure what the README promises.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"default: all of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="small numbers, one round: only checks that it works")
    parser.add_argument("--large", action="store_true", help="also what takes minutes and gigabytes of disk")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    if options.write and (options.quick or options.names):
        parser.error("--write needs a full run of all benchmarks")
    facts = environment()
    started = time.perf_counter()
    sections = [
        _run_one(name, Options(quick=options.quick, large=options.large), facts)
        for name in NAMES
        if name in (options.names or NAMES)
    ]
    facts |= {"seconds": time.perf_counter() - started, "load_average_after": os.getloadavg()[0]}
    if options.write:
        RESULTS.write_text(to_markdown(sections, facts), encoding="utf-8")
    return 1 if any(section.error for section in sections) else 0


def _run_one(name: str, options: Options, facts: dict[str, object]) -> Section:
    module = importlib.import_module(f"benchmarks.bench_{name}")
    section = Section(module.TITLE, module.METHOD, name)
    started = time.perf_counter()
    try:
        for result in module.run(options):
            section.results.append(result)
            print(json.dumps(result.to_json(facts)), flush=True)
    except Exception as error:  # noqa: BLE001 -- the others are still worth running
        traceback.print_exc()
        section.error = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        print(json.dumps({"case": name, "error": section.error}), flush=True)
    section.seconds = time.perf_counter() - started
    return section


if __name__ == "__main__":
    sys.exit(main())
