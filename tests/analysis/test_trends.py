"""Trends: what they show, when they call a job slower, how often they are wrong, and what they read."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from trace_builder import COMPUTED, FAILED, FAILED_OPTIONAL, LOST, RELEASED, SKIPPED, T0, Attempt

from tilebox_local.analysis.trends import JobTrend, StepTrend
from tilebox_local.catalog import sql
from tilebox_local.clock import ns_to_datetime
from tilebox_local.errors import ArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trace_builder import TraceBuilder

    from tilebox_local import Client
    from tilebox_local.analysis.records import Records

S = 1_000_000_000
MS = 1_000_000
MINUTE = 60 * S


def series(build: TraceBuilder, elapsed: list[int], name: str = "scenes") -> None:
    """Completed jobs of a name that took so long; computing took twice as long."""
    build.completed_jobs(name, [(one, 2 * one) for one in elapsed])


def verdicts(trends: Records[Any]) -> list[str]:
    """The verdicts on single jobs."""
    return [trend.verdict for trend in trends]


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_a_job_with_everything(client: Client, build: TraceBuilder) -> None:
    """Times, counts and waits are those of the jobs and of all attempts, and the view has the same."""
    job = build.job("scenes")
    job.task(
        "Load",
        Attempt(ready=0, started=1 * S, stopped=4 * S, outcome=FAILED),
        Attempt(ready=4 * S, started=5 * S, stopped=6 * S, outcome=LOST),
        Attempt(ready=6 * S, started=6 * S, stopped=9 * S),
    )
    job.task("Warp", Attempt(0, 2 * S, 4 * S, outcome=FAILED_OPTIONAL), optional=True)
    job.task("Warp", Attempt(0, 1 * S, 2 * S, outcome=RELEASED), state=SKIPPED)
    job.task("Save", state=SKIPPED)
    (trend,) = client.jobs().trends("scenes")
    assert trend == JobTrend(
        job_id=str(job.id),
        submitted_at_ns=T0,
        state="COMPLETED",
        elapsed_duration_ns=8 * S,
        compute_duration_ns=(3 + 1 + 3 + 2 + 1) * S,
        queue_wait_duration_ns=(1 + 1 + 0 + 2 + 1) * S,
        tasks=4,
        failed=1,
        error_rate=0.25,
        retries=2,
        history=0,
        median_elapsed_duration_ns=None,
        elapsed_ratio=None,
        percentile_rank=None,
        slower_p=None,
        verdict="",
        measure="",
        ratio=None,
        p=None,
        shift="",
        shift_measure="",
        shift_count=0,
        shift_ratio=None,
        shift_p=None,
        description="elapsed 8.00 s; no verdict, no completed job before it to compare with",
    )


def test_history_are_the_completed_jobs_before(client: Client, build: TraceBuilder) -> None:
    """Failed, canceled, running and waiting jobs are listed; they are not judged, and nobody is judged against them."""
    states = ["COMPLETED", "FAILED", "CANCELED", "RUNNING", "SUBMITTED", "COMPLETED"]
    for number, state in enumerate(states):
        job = build.job("scenes", T0 + number * MINUTE)
        outcome = FAILED if state == "FAILED" else COMPUTED
        attempts = [Attempt(0, 1 * S, None if state == "RUNNING" else (number + 2) * S, outcome=outcome)]
        job.task("Load", *([] if state == "SUBMITTED" else attempts))
        if state in ("FAILED", "CANCELED"):
            build._write("UPDATE job_records SET canceled = 1 WHERE job_no = ?", job.job_no)
    trends = client.jobs().trends("scenes")
    assert [(t.state, t.history, t.median_elapsed_duration_ns, t.elapsed_ratio, t.p) for t in trends] == [
        ("COMPLETED", 0, None, None, None),
        ("FAILED", 1, 1 * S, None, None),
        ("CANCELED", 1, 1 * S, None, None),
        ("RUNNING", 1, 1 * S, None, None),
        ("SUBMITTED", 1, 1 * S, None, None),
        ("COMPLETED", 1, 1 * S, 6.0, None),
    ]
    start = ns_to_datetime(T0 + 5 * MINUTE)
    assert client.jobs().trends("scenes", since=start) == trends[5:]
    assert [t.description for t in trends[1:]] == [
        "not judged, the job is FAILED",
        "not judged, the job is CANCELED",
        "not judged, the job is RUNNING",
        "not judged, the job is SUBMITTED",
        "elapsed 6.00 s; no verdict, only 1 completed job before it to compare with",
    ]


def test_clocks_that_ran_backwards(client: Client, build: TraceBuilder) -> None:
    """Lengths of time are never negative."""
    build.job("scenes").task("Load", Attempt(ready=5 * S, started=4 * S, stopped=1 * S))
    (trend,) = client.jobs().trends("scenes")
    assert (trend.elapsed_duration_ns, trend.compute_duration_ns, trend.queue_wait_duration_ns) == (0, 0, 0)
    (step,) = client.jobs().step_trends("scenes")
    assert (step.median_duration_ns, step.total_duration_ns) == (0, 0)


def test_interval_and_limit(client: Client, build: TraceBuilder) -> None:
    """since is included, until is not, the newest of them are kept; what they are judged against stays the same."""
    for number in range(12):
        build.job("scenes", T0 + number * MINUTE).task("Load", Attempt(0, 0, (number + 1) * S))
    jobs = client.jobs()
    start = ns_to_datetime(T0)
    since, until = start + timedelta(minutes=3), start + timedelta(minutes=9)

    def found(**interval: Any) -> list[Any]:
        return [replace(t, shift="", shift_p=None) for t in jobs.trends("scenes", **interval)]

    every = found()
    assert found(since=since, until=until) == every[3:9]
    assert found(since=since, until=until, limit=2) == every[7:9]
    assert found(since=since.isoformat()) == every[3:]
    assert found(until=start) == []
    assert found(since=datetime.max) == found(until=datetime.min) == []  # noqa: DTZ901
    assert found(since=datetime.min, until=datetime.max) == every  # noqa: DTZ901
    assert list(jobs.trends("scenes", until=start).to_pandas().columns[:4]) == [
        "job_id",
        "submitted_at",
        "state",
        "elapsed",
    ]
    assert [step.job_id for step in jobs.step_trends("scenes", since=since, limit=4)] == [t.job_id for t in every[8:]]


def test_bad_arguments(client: Client, build: TraceBuilder) -> None:
    """Each says what is wrong with it."""
    jobs = client.jobs()
    series(build, [S])
    with pytest.raises(NotFoundError, match="No job of the name 'scene' in this store"):
        jobs.trends("scene")
    with pytest.raises(NotFoundError, match="No job of the name 'scene'"):
        jobs.step_trends("scene")
    now = datetime.now(UTC)
    bad: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (TypeError, "which is no text", lambda: jobs.trends(7)),  # type: ignore[arg-type]
        (ArgumentError, "lone surrogate", lambda: jobs.trends("\ud800")),
        (ArgumentError, "from 1 on, not 0", lambda: jobs.trends("scenes", limit=0)),
        (ArgumentError, "from 1 on, not True", lambda: jobs.step_trends("scenes", limit=True)),
        (ArgumentError, "from 1 on", lambda: jobs.trends("scenes", limit=1 << 64)),
        (ArgumentError, "is before since", lambda: jobs.trends("scenes", since=now, until=now - timedelta(1))),
        (ArgumentError, "to TimeInterval", lambda: jobs.trends("scenes", since="some day")),
        (ArgumentError, "one instant", lambda: jobs.trends("scenes", until=(now, now + timedelta(1)))),  # type: ignore[arg-type]
    ]
    for error, message, call in bad:
        with pytest.raises(error, match=message):
            call()


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_a_slow_job_in_words(client: Client, build: TraceBuilder) -> None:
    """A job that took far longer than all before it is a regression, with ratio, p and a sentence."""
    history = [6700 + 7 * n * (-1) ** n for n in range(24)]
    series(build, [ms * MS for ms in [*history, 12_100]])
    trend = client.jobs().trends("scenes")[-1]
    assert (trend.verdict, trend.measure, trend.history, trend.slower_p) == ("regression", "elapsed", 24, 1 / 25)
    assert (trend.median_elapsed_duration_ns, trend.percentile_rank) == (6_696_500_000, 100.0)
    assert trend.ratio == trend.elapsed_ratio == pytest.approx(1.8069, abs=1e-4)
    assert trend.p is not None
    assert 0 < trend.p < 0.001
    assert (
        trend.description == "elapsed 12.1 s, 1.81 times the median of the 24 jobs before it; slower than all of them"
    )


def test_a_fast_job(client: Client, build: TraceBuilder) -> None:
    """A job that was far faster than all before it is an improvement."""
    series(build, [ms * MS for ms in [1010, 1000, 1020, 990, 1005, 1015, 300]])
    trends = client.jobs().trends("scenes")
    assert verdicts(trends) == [""] * 6 + ["improvement"]
    assert trends[-1].description == (
        "elapsed 300 ms, 0.298 times the median of the 6 jobs before it; faster than all of them"
    )


def test_computing_longer_in_the_same_time(client: Client, build: TraceBuilder) -> None:
    """A job whose compute time alone has grown is a regression of `compute`."""
    build.completed_jobs("scenes", [(10 * S, 20 * S + n * MS) for n in range(10)] + [(10 * S, 40 * S)])
    trend = client.jobs().trends("scenes")[-1]
    assert (trend.verdict, trend.measure) == ("regression", "compute")
    assert trend.description.startswith("compute 40.0 s, 2 times the median of the 10 jobs")


@pytest.mark.parametrize("count", [0, 1, 4])
def test_too_short_a_history(count: int, client: Client, build: TraceBuilder) -> None:
    """Fewer than five completed jobs before give no verdict, however slow the job is."""
    series(build, [S + n for n in range(count)] + [100 * S])
    trend = client.jobs().trends("scenes")[-1]
    assert (trend.history, trend.verdict, trend.p, trend.shift_p) == (count, "", None, None)
    assert "no verdict" in trend.description


def test_constant_jobs_and_tiny_differences(client: Client, build: TraceBuilder) -> None:
    """Equal jobs have no verdict; neither has one that is slower than all others by less than 10 %."""
    series(build, [S] * 40)
    series(build, [0] * 40, "nothing")
    series(build, [S + n for n in range(40)] + [S * 109 // 100] * 10, "tiny")
    for name in ("scenes", "nothing", "tiny"):
        trends = client.jobs().trends(name)
        assert {(t.verdict, t.shift) for t in trends} == {("", "")}
    assert client.jobs().trends("scenes")[-1].p == 1.0


def test_a_lasting_shift(client: Client, build: TraceBuilder) -> None:
    """Jobs that became slower by as much as they vary are no outliers alone, but a shift together."""
    rng = random.Random(5)
    before = [int(10 * rng.lognormvariate(0, 0.15) * S) for _ in range(30)]
    series(build, [*before, *(int(13.5 * rng.lognormvariate(0, 0.15) * S) for _ in range(8))])
    trends = client.jobs().trends("scenes")
    assert verdicts(trends) == [""] * 38
    assert [t.shift for t in trends] == [""] * 37 + ["regression"]
    newest = trends[-1]
    assert newest.shift_measure == "elapsed"
    assert 7 <= newest.shift_count <= 9
    assert newest.shift_ratio == pytest.approx(1.35, abs=0.1)
    times = f"{newest.shift_ratio:.3g} times the median of the {38 - newest.shift_count} jobs before them"
    assert newest.description.endswith(
        f". regression since {newest.shift_count} jobs: their median of elapsed is {times}"
    )


def test_a_failed_job_does_not_hide_a_shift(client: Client, build: TraceBuilder) -> None:
    """The shift stands at the newest completed job, whatever came after it."""
    series(build, [10 * S + n * MS for n in range(20)] + [5 * S + n * MS for n in range(6)])
    build.job("scenes", T0 + 1000 * MINUTE).task("Load")
    assert [t.shift for t in client.jobs().trends("scenes")][-2:] == ["improvement", ""]


NOISE: dict[str, Callable[[random.Random], float]] = {
    "normal": lambda rng: max(0.1, rng.gauss(10, 2)),
    "lognormal": lambda rng: rng.lognormvariate(2, 0.5),
    "uniform": lambda rng: rng.uniform(1, 10),
    "exponential": lambda rng: 10 + rng.expovariate(0.3),
    "pareto": lambda rng: rng.paretovariate(1.5),
}


@pytest.mark.parametrize("kind", NOISE)
def test_noise_is_rarely_flagged(kind: str, client: Client, build: TraceBuilder) -> None:
    """Of jobs whose times are independent of when they ran, at most 1 % are flagged, alone or as a shift."""
    rng = random.Random(kind)
    singles, shifts, jobs = 0, 0, 0
    rounds = 120
    for number in range(rounds):
        times = [int(NOISE[kind](rng) * S) for _ in range(36)]
        build.completed_jobs(f"noise {number}", [(one, int(NOISE[kind](rng) * S)) for one in times])
        trends = client.jobs().trends(f"noise {number}")
        singles += sum(t.verdict != "" for t in trends)
        shifts += sum(t.shift != "" for t in trends)
        jobs += len(trends)
    assert singles / jobs <= 0.01
    assert shifts <= 3  # 1.2 would be 1 %; more than 3 have a probability of 3 %


@pytest.mark.parametrize("spread", [0.02, 0.05])
def test_planted_regressions_are_found(spread: float, client: Client, build: TraceBuilder) -> None:
    """Of jobs that took 1.8 times as long, 97 % are found at once with 20 or more jobs before; of shifts, too."""
    rng = random.Random(1)
    found, shifts, rounds = 0, 0, 60
    for number in range(rounds):
        history = [int(rng.lognormvariate(0, spread) * 10 * S) for _ in range(20 + number % 20)]
        series(build, [*history, int(rng.lognormvariate(0, spread) * 18 * S)], f"one {number}")
        found += client.jobs().trends(f"one {number}")[-1].verdict == "regression"
        series(build, [*history, *(int(rng.lognormvariate(0, spread) * 12 * S) for _ in range(6))], f"many {number}")
        shifts += client.jobs().trends(f"many {number}")[-1].shift == "regression"
    assert found / rounds >= 0.97
    assert shifts / rounds >= 0.97


# -- steps -------------------------------------------------------------------------------------------------------------


def test_steps_say_which_one_regressed(client: Client, build: TraceBuilder) -> None:
    """Run times are per step and job, over all attempts that ended; the verdict is on the step that changed."""
    for number in range(12):
        job = build.job("scenes", T0 + number * MINUTE)
        job.task("Load", Attempt(0, 0, S + number * MS))
        warp = 3 * S + number * MS + (number == 11) * 4 * S
        job.task("Warp", Attempt(0, 0, S, outcome=FAILED), Attempt(0, S, S + warp))
        job.task("Warp", Attempt(0, 0, warp + 2))
        job.task("Warp", Attempt(0, 0, None)) if number == 3 else None
    steps = client.jobs().step_trends("scenes")
    assert [(step.step, step.verdict) for step in steps] == (
        [("Load", "")] * 12 + [("Warp", "")] * 11 + [("Warp", "regression")]
    )
    last = steps[-1]
    assert last == StepTrend(
        step="Warp",
        job_id=client.jobs().trends("scenes")[-1].job_id,
        submitted_at_ns=T0 + 11 * MINUTE,
        state="COMPLETED",
        attempts=3,
        median_duration_ns=7 * S + 11 * MS,
        total_duration_ns=S + 2 * (7 * S + 11 * MS) + 2,
        history=10,
        typical_median_duration_ns=3_005_500_000,
        typical_total_duration_ns=7 * S + 11 * MS + 2,
        verdict="regression",
        measure="median",
        ratio=last.ratio,
        p=last.p,
        shift="",
        shift_measure="",
        shift_count=0,
        shift_ratio=None,
        shift_p=last.shift_p,
        description=(
            f"median 7.01 s, {last.ratio:.3g} times the median of the 10 jobs before it; slower than all of them"
        ),
    )
    assert last.ratio == pytest.approx(7.011 / 3.0055, abs=0.01)


def test_steps_come_and_go(client: Client, build: TraceBuilder) -> None:
    """A step that only some jobs ran is compared with those that ran it; queued tasks are no attempts."""
    for number in range(8):
        job = build.job("scenes", T0 + number * MINUTE)
        job.task("Load", Attempt(0, 0, S))
        if number % 2:
            job.task("Save", Attempt(0, 0, 2 * S))
    build.job("scenes", T0 + 9 * MINUTE).task("Save")
    found = [(s.step, s.history, s.typical_median_duration_ns) for s in client.jobs().step_trends("scenes")]
    assert found == [("Load", n, S if n else None) for n in range(8)] + [
        ("Save", n, 2 * S if n else None) for n in range(4)
    ]


def test_noise_in_steps_is_rarely_flagged(client: Client, build: TraceBuilder) -> None:
    """More steps make no more false alarms per job: at most 1 % of the jobs have a step that is flagged."""
    rng = random.Random(3)
    flagged: set[str] = set()
    for number in range(200):
        job = build.job("scenes", T0 + number * MINUTE)
        for step in range(4):
            job.task(f"step {step}", Attempt(0, 0, int(rng.lognormvariate(0, 0.4) * S)))
    steps = client.jobs().step_trends("scenes", limit=1000)
    flagged = {step.job_id for step in steps if step.verdict}
    assert len(steps) == 800
    assert len(flagged) <= 2
    assert {step.shift for step in steps} == {""}


# -- the view ----------------------------------------------------------------------------------------------------------


def mixed_jobs(build: TraceBuilder) -> None:
    """150 jobs of two names, some of them failed, retried, waiting or running."""
    rng = random.Random(11)
    for number in range(150):
        job = build.job("other" if number % 5 == 2 else "scenes", T0 + (number // 2) * MINUTE)
        for _ in range(rng.randrange(8) and 2):
            run = rng.randrange(1, 9) * S
            first = Attempt(rng.randrange(S), S, 2 * S, outcome=FAILED)
            attempts = [Attempt(2 * S, 3 * S, 3 * S + run, outcome=FAILED if rng.random() < 0.1 else COMPUTED)]
            if rng.random() < 0.3:
                attempts.insert(0, first)
            if rng.random() < 0.05:
                attempts = [Attempt(0, S, None)]
            job.task("Load", *attempts, optional=rng.random() < 0.5)


def test_the_view_agrees(client: Client, build: TraceBuilder) -> None:
    """The view `trends` has the same jobs, values and comparisons as trends(), in the same order within a name."""
    mixed_jobs(build)
    for name, count in (("scenes", 120), ("other", 30)):
        trends = client.jobs().trends(name, limit=200)
        frame = client.sql("select * from trends where name = ? order by number", [name])
        assert len(trends) == count
        assert len({t.state for t in trends}) > 2
        assert max(t.history for t in trends) == (30 if name == "scenes" else 19)
        found = [
            {key: None if value is None or value != value else value for key, value in row.items()}
            for row in frame.astype(object).to_dict("records")
        ]
        keys = ["job_id", "state", "elapsed_ms", "compute_ms", "queue_wait_ms", "tasks", "failed", "error_rate"]
        keys += ["retries", "history", "median_elapsed_ms", "elapsed_ratio", "percentile_rank", "slower_p"]
        expected = [
            {"name": name, "number": number, "submitted_at": t["submitted_at"], **{key: t[key] for key in keys}}
            for number, t in enumerate(trends.to_dicts(), start=1)
        ]
        assert [{k: v for k, v in row.items() if k != "job_no"} for row in found] == [
            pytest.approx(e) for e in expected
        ]


# -- what is read ------------------------------------------------------------------------------------------------------


def plan(client: Client, statement: str, parameters: Any) -> list[str]:
    """SQLite's plan for a statement."""
    with client._store.read() as connection:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]


def test_the_view_reads_the_jobs_of_one_name(client: Client) -> None:
    """The name that is asked for reaches the index through all window functions, and gives their order."""
    found = plan(client, "SELECT * FROM trends WHERE name = ?", ("x",))
    assert "SEARCH j USING INDEX job_records_by_name (name=?)" in found
    assert [line for line in found if line.startswith("SCAN j ") or line == "SCAN j"] == []
    assert [line for line in found if line.startswith("SCAN ") and "VIRTUAL" not in line and "(" not in line] == [
        line for line in found if line in ("SCAN p", "SCAN b", "SCAN m", "SCAN c")
    ]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "jobs_of_name",
            [
                "SEARCH j USING INDEX job_records_by_name (name=? AND submitted_ns>? AND submitted_ns<?)",
                "SEARCH j USING INTEGER PRIMARY KEY (rowid=?)",
            ],
        ),
        (
            "completed_jobs_before",
            [
                "SEARCH j USING INDEX job_records_by_name (name=? AND submitted_ns<?)",
                "SEARCH j USING INTEGER PRIMARY KEY (rowid=?)",
            ],
        ),
        ("has_job_of_name", ["SCAN CONSTANT ROW", "SEARCH job_records USING INDEX job_records_by_name (name=?)"]),
    ],
)
def test_jobs_are_found_by_an_index(statement: str, expected: list[str], client: Client) -> None:
    """Only the jobs of the name are read, in the order of the index: nothing is sorted."""
    parameters: Any = {"name": "x", "first_ns": 0, "last_ns": 1, "submitted_ns": 1, "job_no": 1, "limit": 1}
    found = plan(client, sql[statement], parameters if ":" in sql[statement] else ("x",))
    assert [line for line in found if "SUBQUERY" not in line] == expected


@pytest.mark.parametrize("statement", ["waits_of_jobs", "steps_of_jobs"])
def test_tasks_are_found_by_an_index(statement: str, client: Client) -> None:
    """Tasks and attempts are looked up by job; no table is read as a whole, and no span at all."""
    found = plan(client, sql[statement], {"jobs": "[1]"})
    assert any(line.startswith("SEARCH t USING INDEX task_records_by_job (job_no=?)") for line in found)
    assert any(line.startswith("SEARCH a USING PRIMARY KEY (job_no=?") for line in found)
    scans = [line for line in found if line.startswith("SCAN ") and "json_each" not in line and "VIRTUAL" not in line]
    assert [line for line in scans if line.split()[1] in ("t", "a", "i")] == []
    assert "span_records" not in sql[statement] + sql["jobs_of_name"] + sql["completed_jobs_before"]


def test_pandas(client: Client, build: TraceBuilder) -> None:
    """A DataFrame has a row per job; lengths of time are timedelta64."""
    series(build, [S, 2 * S])
    frame = client.jobs().trends("scenes").to_pandas()
    assert frame["elapsed"].to_list() == [np.timedelta64(S, "ns"), np.timedelta64(2 * S, "ns")]
    assert frame["verdict"].to_list() == ["", ""]
