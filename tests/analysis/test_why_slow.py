"""What slow spans have in common: causes that were planted, causes that are not there, and plain Python as oracle."""

from __future__ import annotations

import math
import pickle
import random
from datetime import timedelta
from itertools import product
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_plans import scans_of_tables
from trace_builder import FAILED, Attempt, SpanSpec, TraceBuilder

from tilebox_local.analysis import why_slow as why_slow_module
from tilebox_local.analysis.statistics import holm, mann_whitney_by_group, median, midranks, of_rank_sums
from tilebox_local.analysis.why_slow import Explanation
from tilebox_local.catalog import sql
from tilebox_local.errors import ArgumentError, NotFoundError, TileboxLocalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trace_builder import JobBuilder

    from tilebox_local import Client
    from tilebox_local.jobs.client import JobClient

MS = 1_000_000
in_one_store = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@pytest.fixture
def jobs(client: Client) -> JobClient:
    """The jobs of the store."""
    return client.jobs()


def spans_of(durations: list[int], attributes: list[dict[str, Any]] | None = None, **more: Any) -> list[SpanSpec]:
    """Spans named read, one a microsecond, of these durations."""
    attributes = attributes or [{} for _ in durations]
    return [
        SpanSpec("read", number * 1000, number * 1000 + duration, attributes=found, **more)
        for number, (duration, found) in enumerate(zip(durations, attributes, strict=True))
    ]


def jitter(number: int) -> int:
    """Makes 101 durations in a row differ, without a trend."""
    return number * 37 % 101


# -- causes that were planted ------------------------------------------------------------------------------------------


def test_an_explanation(jobs: JobClient, build: TraceBuilder) -> None:
    """An explanation counts spans and slow spans, has medians, effect and corrected p, and says it in words."""
    job = build.job()
    bands = ["B02", "B03", "B04", "B08"] * 25
    durations = [(1200 if band == "B08" else 100) * MS + jitter(number) for number, band in enumerate(bands)]
    job.spans(spans_of(durations, [{"band": band} for band in bands]))
    found = jobs.why_slow(job.id, "read", threshold=timedelta(seconds=1))
    with_ns, without_ns = median(sorted(durations)[75:]), median(sorted(durations)[:75])
    # 25 with and 75 without, without ties: U = 25 * 75, z = (U / 2 - 1/2) / sqrt(25 * 75 / 12 * 101).
    p = math.erfc((25 * 75 / 2 - 0.5) / math.sqrt(25 * 75 / 12 * 101) / math.sqrt(2))
    candidates = 4 + 9  # bands, and the deciles of the start; the number of running tasks is always 0
    assert found == [
        Explanation(
            "band = B08", (), "attribute", "band", "=", "B08", 25, 25, 1.0, 1.0, 1.0, with_ns, without_ns,
            pytest.approx(p * candidates),
            "band = B08: 25 of 25 slow spans have it (median 1.20 s against 100 ms without)",
        )
    ]  # fmt: skip
    assert (found.name, found.threshold_ns, found.span_count, found.slow_count) == ("read", 1000 * MS, 100, 25)
    assert str(found) == (
        "read: 25 of 100 spans took longer than 1.00 s:\n"
        "  band = B08: 25 of 25 slow spans have it (median 1.20 s against 100 ms without)"
    )
    assert found.to_dicts()[0]["with_ms"] == with_ns / 1e6
    assert found.to_pandas()["without"][0].value == without_ns
    copy = pickle.loads(pickle.dumps(found))
    assert (copy, str(copy)) == (found, str(found))


VALUES: list[tuple[Any, Any, str]] = [
    ("B08", "B02", "k = B08"), ("two words", "x", 'k = "two words"'), ("5", 5, 'k = "5"'), (True, False, "k = true"),
    ("true", "false", 'k = "true"'), (None, "x", "k = null"), (["a", 1], ["a", 2], 'k = ["a",1]'), (5, 4, "k = 5"),
    (0.5, 1, "k = 0.5"), ({"$float": "NaN"}, 1.5, 'k = {"$float":"NaN"}'), ("", "x", 'k = ""'), ("ü", "x", "k = ü"),
]  # fmt: skip


@pytest.mark.parametrize(("slow", "fast", "condition"), VALUES, ids=str)
def test_values_of_any_type(jobs: JobClient, build: TraceBuilder, slow: Any, fast: Any, condition: str) -> None:
    """A value of any type is a cause, and is told from others that look like it; its opposite says the same."""
    job = build.job()
    are_slow = [number % 5 == 0 for number in range(100)]
    durations = [(900 if is_slow else 100) * MS + jitter(number) for number, is_slow in enumerate(are_slow)]
    job.spans(spans_of(durations, [{"k": slow if is_slow else fast} for is_slow in are_slow]))
    assert [(one.condition, one.same_spans, one.spans) for one in jobs.why_slow(job.id)] == [(condition, (), 20)]


def test_values_as_they_were(jobs: JobClient, build: TraceBuilder) -> None:
    """The value of an explanation is what the user set, not how it is stored."""
    job = build.job()
    stored = [{"$bytes": "AAE="} if number % 5 == 0 else {"$int": str(2**70)} for number in range(100)]
    durations = [(900 if number % 5 == 0 else 100) * MS + jitter(number) for number in range(100)]
    job.spans(spans_of(durations, [{"k": one} for one in stored]))
    assert [one.value for one in jobs.why_slow(job.id)] == [b"\0\1"]


def _runner(job: JobBuilder, are_slow: list[bool]) -> list[SpanSpec]:
    specs = spans_of([900 * MS if is_slow else 100 * MS for is_slow in are_slow])
    for spec, is_slow in zip(specs, are_slow, strict=True):
        spec.runner_no = 7 if is_slow else 1 + spec.start % 3
    return specs


def _parent(job: JobBuilder, are_slow: list[bool]) -> list[SpanSpec]:
    parents = [job.span(name, 0, 1) for name in ("mosaic", "cold start", "warm", "warm")]
    specs = spans_of([900 * MS if is_slow else 100 * MS for is_slow in are_slow])
    for spec, is_slow in zip(specs, are_slow, strict=True):
        spec.parent = parents[1] if is_slow else parents[spec.start // 1000 % 2 * 2]
    return specs


def _input(job: JobBuilder, are_slow: list[bool]) -> list[SpanSpec]:
    specs = spans_of([900 * MS if is_slow else 100 * MS for is_slow in are_slow])
    for number, (spec, is_slow) in enumerate(zip(specs, are_slow, strict=True)):
        zone = "33N" if is_slow else "32N" if number % 2 else "31N"
        spec.task_no = job.task("T", Attempt(0, 0, 1), task_input=f'{{"zone": "{zone}", "number": {number}}}')
    return specs


def _attempt(job: JobBuilder, are_slow: list[bool]) -> list[SpanSpec]:
    specs = spans_of([900 * MS if is_slow else 100 * MS for is_slow in are_slow])
    for spec, is_slow in zip(specs, are_slow, strict=True):
        first = Attempt(0, 0, 1, outcome=FAILED)
        last = Attempt(1, spec.start if is_slow else spec.start + 1, spec.start + 5)
        spec.task_no = job.task("T", first, last)
    return specs


def _early(job: JobBuilder, are_slow: list[bool]) -> list[SpanSpec]:
    return spans_of([900 * MS] * 40 + [100 * MS] * 160)


def _late(job: JobBuilder, are_slow: list[bool]) -> list[SpanSpec]:
    return spans_of([100 * MS] * 160 + [900 * MS] * 40)


def _crowded(job: JobBuilder, are_slow: list[bool]) -> list[SpanSpec]:
    job.task("T", Attempt(0, 0, None))
    for number, is_slow in enumerate(are_slow):
        if is_slow:
            job.task(
                "T", Attempt(0, number * 1000 - 1, number * 1000 + 1), Attempt(0, number * 1000, number * 1000 + 1)
            )
    return spans_of([900 * MS if is_slow else 100 * MS for is_slow in are_slow])


def _large(job: JobBuilder, are_slow: list[bool]) -> list[SpanSpec]:
    sizes = [1000 + number if is_slow else number for number, is_slow in enumerate(are_slow)]
    return spans_of([(900 if size >= 1000 else 100) * MS for size in sizes], [{"size": size} for size in sizes])


def _small(job: JobBuilder, are_slow: list[bool]) -> list[SpanSpec]:
    sizes = [number / 1000 if is_slow else 1.5 + number for number, is_slow in enumerate(are_slow)]
    return spans_of([(900 if size < 1 else 100) * MS for size in sizes], [{"size": size} for size in sizes])


def _small_of_some(job: JobBuilder, are_slow: list[bool]) -> list[SpanSpec]:
    specs = _small(job, are_slow)
    for number, (spec, is_slow) in enumerate(zip(specs, are_slow, strict=True)):
        if not is_slow and number % 4 == 1:
            spec.attributes = {"size": "unknown"} if number % 8 == 1 else {}
    return specs


@pytest.mark.parametrize(
    ("plant", "condition", "kind"),
    [
        (_runner, "runner = runner-7", "runner"),
        (_parent, 'parent = "cold start"', "parent"),
        (_input, "input.zone = 33N", "input"),
        (_attempt, "attempt = retry", "attempt"),
        (_early, "start <", "start"),
        (_late, "start >=", "start"),
        (_crowded, "concurrency >= 3", "concurrency"),
        (_large, "size >=", "attribute"),
        (_small, "size <", "attribute"),
        (_small_of_some, "size <", "attribute"),
    ],
)
def test_planted_causes(
    jobs: JobClient,
    build: TraceBuilder,
    plant: Callable[[JobBuilder, list[bool]], list[SpanSpec]],
    condition: str,
    kind: str,
) -> None:
    """Each kind of cause is found, and found first; numbers are cut at the decile that separates best."""
    job = build.job()
    rng = random.Random(5)
    job.spans(plant(job, [rng.random() < 0.2 for _ in range(200)]))
    found = jobs.why_slow(job.id, "read")
    assert found[0].condition.startswith(condition)
    assert (found[0].kind, found[0].effect > 0.85) == (kind, True)


def test_same_spans(jobs: JobClient, build: TraceBuilder) -> None:
    """Conditions that hold for the same spans are one explanation, which names all of them, each key once."""
    job = build.job()
    attributes = [
        {"band": "B08" if number % 4 == 0 else f"B{number % 4}", "far": number % 4 == 0, "level": 4 - number % 4}
        for number in range(120)
    ]
    specs = spans_of([(900 if number % 4 == 0 else 100) * MS + jitter(number) for number in range(120)], attributes)
    for number, spec in enumerate(specs):
        spec.runner_no = 2 if number % 4 == 0 else 1
    job.spans(specs)
    best = jobs.why_slow(job.id)[0]
    assert (best.condition, best.same_spans) == ("band = B08", ("far = true", "level = 4", "runner = runner-2"))
    assert best.reason == (
        "band = B08 (the same spans: far = true, level = 4, runner = runner-2): 30 of 30 slow spans have it "
        "(median 900 ms against 100 ms without)"
    )


def test_one_fast_value(jobs: JobClient, build: TraceBuilder) -> None:
    """If one value is fast and all others are slow, the cause is that it is another one."""
    job = build.job()
    runners = [1 + number % 4 for number in range(200)]
    specs = spans_of([(100 if runner == 1 else 900) * MS + jitter(number) for number, runner in enumerate(runners)])
    for spec, runner in zip(specs, runners, strict=True):
        spec.runner_no = runner
    job.spans(specs)
    found = jobs.why_slow(job.id, threshold=timedelta(milliseconds=500))
    assert [(one.condition, one.operator, one.value, one.spans, one.slow_spans) for one in found] == [
        ("runner != runner-1", "!=", "runner-1", 150, 150)
    ]


def test_longer_but_not_slow(jobs: JobClient, build: TraceBuilder) -> None:
    """What takes longer than the rest, but is not among the slow ones, explains nothing."""
    job = build.job()
    attributes = [{"k": "medium"} if number % 2 else {} for number in range(200)]
    durations = [
        (200 if number % 2 else 900 if number % 40 == 0 else 100) * MS + jitter(number) for number in range(200)
    ]
    job.spans(spans_of(durations, attributes))
    assert jobs.why_slow(job.id, threshold=timedelta(milliseconds=500)) == []


# -- nothing to find ---------------------------------------------------------------------------------------------------


def _null_specs(seed: int, draw: Callable[[random.Random], int]) -> list[SpanSpec]:
    rng = random.Random(seed)
    specs = []
    for number in range(300):
        attributes = {
            "band": rng.choice(["B02", "B03", "B04", "B08"]), "size": rng.randint(1, 10**6), "tile": rng.randint(1, 40),
            "cached": rng.random() < 0.3, "level": rng.choice([1, 2, 3]),
        }  # fmt: skip
        if rng.random() < 0.5:
            attributes["note"] = rng.choice("abcdef")
        start = number * 1000
        specs.append(SpanSpec("read", start, start + draw(rng), attributes=attributes, runner_no=rng.randint(1, 4)))
    return specs


def _tied(rng: random.Random) -> int:
    return rng.choice([1, 2, 2, 3, 9])


def _lognormal(rng: random.Random) -> int:
    return int(rng.lognormvariate(10, 1))


@pytest.mark.parametrize("has_ties", [False, True])
def test_nothing_stands_out(jobs: JobClient, build: TraceBuilder, has_ties: bool) -> None:
    """If durations depend on nothing, nothing is found for at least 99 of 100 seeds, also if many are equal."""
    found = []
    for seed in range(100):
        job = build.job()
        job.spans(_null_specs(seed, _tied if has_ties else _lognormal))
        found.append(len(jobs.why_slow(job.id)))
    assert sum(count > 0 for count in found) <= 1


def test_a_weak_test_would_find_something(
    jobs: JobClient, build: TraceBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without correction for their number and without a minimal effect, chance is taken for a cause."""
    monkeypatch.setattr(why_slow_module, "holm", lambda ps: ps)
    monkeypatch.setattr(why_slow_module, "_LEAST_EFFECT", 0.0)
    found = 0
    for seed in range(20):
        job = build.job()
        job.spans(_null_specs(seed, _lognormal))
        found += bool(jobs.why_slow(job.id))
    assert found >= 3


@pytest.mark.parametrize(
    "durations",
    [[], [5], [5] * 100, list(range(9)), [0] * 50],
    ids=["open", "one", "equal", "few", "zero"],
)
def test_too_little_to_compare(jobs: JobClient, build: TraceBuilder, durations: list[int]) -> None:
    """Open spans, one span, equal durations, too few spans: nothing stands out, and the text says so."""
    job = build.job()
    specs = spans_of(durations, [{"k": number % 2} for number in range(len(durations))])
    job.spans([*specs, SpanSpec("read", 10**9, None)])
    found = jobs.why_slow(job.id, "read")
    assert (found, found.span_count) == ([], len(durations))
    assert str(found).endswith("; nothing stands out.")
    assert list(found.to_pandas().columns)[:2] == ["condition", "same_spans"]


def test_unusable_arguments(jobs: JobClient, build: TraceBuilder) -> None:
    """Unknown jobs and names, and what is neither a name nor a length, are errors that say what is wrong."""
    job = build.job()
    with pytest.raises(NotFoundError):
        jobs.why_slow(UUID(int=5))
    no_length = "threshold is a timedelta of 0 or more, not"
    cases: list[tuple[dict[str, Any], type[TileboxLocalError], str]] = [
        ({"name": "read"}, NotFoundError, "No span 'read' in this job."),
        ({"name": "rea*"}, NotFoundError, "No span 'rea*' in this job."),
        ({"name": "\ud800"}, NotFoundError, "No span '?' in this job."),
        ({"name": 5}, ArgumentError, "name is the name of spans, a str, not 5."),
        ({"threshold": 5}, ArgumentError, f"{no_length} 5."),
        ({"threshold": timedelta(-1)}, ArgumentError, f"{no_length} datetime.timedelta(days=-1)."),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error) as caught:
            jobs.why_slow(job.id, **arguments)
        assert caught.value.message == message


def test_no_name_has_enough_spans(jobs: JobClient, build: TraceBuilder) -> None:
    """Without a name, a job of which no name has 20 ended spans has no explanations, and the text says why."""
    job = build.job()
    for count in (0, 19):
        job.spans(spans_of([5] * count))
        found = jobs.why_slow(job.id)
        assert (found, found.name, found.span_count) == ([], "", 0)
        assert str(found) == "No name of the job has 20 ended spans, so that slow ones could be compared with the rest."
    job.spans([SpanSpec("read", 10**9, 10**9 + 5)])
    assert jobs.why_slow(job.id).name == "read"


def test_hostile_values(jobs: JobClient, build: TraceBuilder) -> None:
    """Huge texts, nested values, numbers at the limits, broken JSON and clocks that ran backwards do no harm."""
    job = build.job()
    odd: list[Any] = [
        "x" * 50_000, ["y" * 50_000], 2**63 - 1, -(2**63), 1e308, -1e308, {"a": {"b": []}}, None, True, "", 0, -0.0,
    ]  # fmt: skip
    durations = [(900 if number % 12 == 0 else 100) * MS + jitter(number) for number in range(240)]
    specs = spans_of(durations, [{"k": odd[number % 12], "y" * 300: 1} for number in range(240)])
    for number, spec in enumerate(specs):
        spec.task_no = (
            job.task("T", Attempt(5, 9, 2), task_input="\\x00 no JSON" if number % 2 else "[1]") if number < 9 else None
        )
        spec.start -= 10**9 * (number % 3)
        spec.end = spec.start - 5 if number % 7 == 1 else spec.start + durations[number]
        spec.parent = spec.span_id
    job.spans(specs)
    build._write("UPDATE span_records SET attributes = '{\"k\": ' WHERE start_ns % 17 = 0")
    found = jobs.why_slow(job.id)
    assert (found.span_count, [len(one.condition) < 300 for one in found]) == (240, [True] * len(found))


# -- definitions -------------------------------------------------------------------------------------------------------


def test_the_default_name(jobs: JobClient, build: TraceBuilder) -> None:
    """The name with the largest self time among those with at least 20 ended spans, not one around it."""
    job = build.job()
    outer = job.spans([SpanSpec("outer", 0, 20) for n in range(20)])
    job.spans([SpanSpec("job", 0, 10**12), *(SpanSpec("few", n, n + 10**9) for n in range(19))])
    job.spans(
        [*(SpanSpec("short", n, n + 3) for n in range(50)), *(SpanSpec("long", 5, 20, parent) for parent in outer)]
    )
    job.spans([SpanSpec("open", n, None) for n in range(50)])
    assert jobs.why_slow(job.id).name == "long"


@pytest.mark.parametrize(
    ("durations", "threshold", "slow"),
    [
        (list(range(1, 101)), 90, 10),  # Q1 = 25, Q3 = 75: nothing is above 150
        ([*range(1, 96), *[151] * 5], 90, 10),  # Q3 = 75, fence 150: five are above it, as is the percentile
        ([*range(1, 100), 10**6], 90, 10),  # one outlier is not enough
        ([10] * 95 + [11] * 5, 10, 5),
        ([7] * 100, 7, 0),
        ([1, 2], 2, 0),
    ],
)
def test_the_default_threshold(
    jobs: JobClient, build: TraceBuilder, durations: list[int], threshold: int, slow: int
) -> None:
    """Tukey's fence if five spans are above it, else the 90th percentile by nearest rank; slow is above it."""
    job = build.job()
    job.spans(spans_of(durations))
    found = jobs.why_slow(job.id, "read")
    fence = why_slow_module._default_threshold_ns(np.array([*range(1, 96), *[151] * 5]))
    assert fence == 150
    assert (found.threshold_ns, found.slow_count) == ((fence, 5) if 151 in durations else (threshold, slow))


_numbers = st.lists(st.integers(-5, 5), min_size=2, max_size=12)


@given(values=_numbers, data=st.data())
def test_ranks(values: list[int], data: st.DataObject) -> None:
    """Midranks, Cliff's delta and p are those of counting pairs, and of the other implementation."""
    ranks, tied = midranks(np.array(values))
    assert ranks.tolist() == [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]
    assert tied == sum(values.count(v) ** 3 - values.count(v) for v in set(values))
    size = data.draw(st.integers(1, len(values) - 1))
    first, rest = values[:size], values[size:]
    deltas, ps = of_rank_sums(np.array([ranks[:size].sum()]), np.array([size]), len(values), tied)
    pairs = [(a > b) - (a < b) for a, b in product(first, rest)]
    assert deltas[0] == pytest.approx(sum(pairs) / len(pairs))
    is_first = np.arange(len(values)) < size
    other = mann_whitney_by_group(np.zeros(len(values), dtype=np.int64), is_first, np.array(values), 1)
    assert ps[0] == pytest.approx(other[0])


def slow_ones(specs: list[SpanSpec], threshold: int) -> set[int]:
    """Positions of the slow spans."""
    return {n for n, spec in enumerate(specs) if spec.end is not None and spec.end - spec.start > threshold}


def expected(specs: list[SpanSpec], threshold: int) -> list[tuple[set[int], float, float]]:
    """All explanations, plainly: spans by position, effect, corrected p. Keys: band (text), size (number), start."""
    lengths = [spec.end - spec.start for spec in specs if spec.end is not None]
    everything = set(range(len(specs)))
    tests: list[tuple[str, str, set[int], bool]] = []  # key, operator, spans, whether the rest is a candidate, too
    for key in ("band", "size"):
        has = {n: spec.attributes[key] for n, spec in enumerate(specs) if key in spec.attributes}
        tests += [(key, "=", {n for n in has if has[n] == value}, True) for value in set(has.values())]
    sizes = {n: spec.attributes["size"] for n, spec in enumerate(specs) if "size" in spec.attributes}
    for key, numbers in (("size", sizes), ("start", {n: spec.start for n, spec in enumerate(specs)})):
        ordered = sorted(numbers.values())
        if len(set(ordered)) <= 2:
            continue
        cuts = {ordered[math.ceil(tenth * len(ordered) / 10) - 1] for tenth in range(1, 10)}
        for cut in cuts - {ordered[0]}:
            above = {n for n in numbers if numbers[n] >= cut}
            tests.append((key, ">=", above, len(numbers) == len(specs)))
            if len(numbers) < len(specs):
                tests.append((key, "<", set(numbers) - above, False))
    tests = [test for test in tests if min(len(test[2]), len(specs) - len(test[2])) >= 5]
    slow = slow_ones(specs, threshold)
    measured = []
    for _, _, spans, _ in tests:
        pairs = [(lengths[a] > lengths[b]) - (lengths[a] < lengths[b]) for a in spans for b in everything - spans]
        is_in = np.array([n in spans for n in range(len(specs))])
        p = mann_whitney_by_group(np.zeros(len(specs), dtype=np.int64), is_in, np.array(lengths), 1)[0]
        measured.append((sum(pairs) / len(pairs), float(p)))
    by_key: dict[str, list[tuple[float, str, set[int], float]]] = {}
    corrected = holm([p for _, p in measured])
    for (key, operator, spans, can_turn), (effect, _), p in zip(tests, measured, corrected, strict=True):
        chosen = spans if effect > 0 else everything - spans
        if p > 0.01 or abs(effect) < 0.33 or (effect < 0 and not can_turn):
            continue
        if len(chosen & slow) * len(specs) > len(slow) * len(chosen):
            shown = operator if effect > 0 else {"=": "!=", ">=": "<"}[operator]
            by_key.setdefault(key, []).append((round(abs(effect), 9), shown, chosen, p))
    found: list[tuple[set[int], float, float]] = []
    for all_of_key in by_key.values():
        best = max(effect for effect, *_ in all_of_key)
        is_value = any(effect == best and shown == "=" for effect, shown, *_ in all_of_key)
        found += [
            (chosen, effect, p)
            for effect, shown, chosen, p in all_of_key
            if (shown == "=" if is_value else effect == best)
        ]
    return found


@in_one_store
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(10, 80),
    strength=st.sampled_from([0, 2, 10]),
    spread=st.integers(1, 20),
)
def test_any_job(build: TraceBuilder, jobs: JobClient, seed: int, count: int, strength: int, spread: int) -> None:
    """What is returned is what plain Python finds by counting pairs: sets of spans, effects and p; the best first."""
    rng = random.Random(seed)
    specs = []
    for number in range(count):
        attributes: dict[str, Any] = {}
        if rng.random() < 0.9:
            attributes["band"] = rng.choice("abc")
        if seed % 2 or rng.random() < 0.7:
            attributes["size"] = rng.randint(1, spread)
        length = rng.randint(1, 10) + strength * ((attributes.get("band") == "a") + attributes.get("size", 0) // 5)
        specs.append(SpanSpec("read", number * 7, number * 7 + length, attributes=attributes))
    job = build.job()
    job.spans(specs)
    found = jobs.why_slow(job.id, "read")
    plain = expected(specs, found.threshold_ns)
    best = {effect for _, effect, _ in plain}
    effects = [round(one.effect, 9) for one in found]
    assert effects == sorted(effects, reverse=True)
    assert set(effects) == best
    slow = slow_ones(specs, found.threshold_ns)
    for one, effect in zip(found, effects, strict=True):
        same = [(spans, p) for spans, e, p in plain if e == effect]
        assert (one.spans, one.slow_spans) in [(len(spans), len(spans & slow)) for spans, _ in same]
        assert any(one.p == pytest.approx(p) for spans, p in same if len(spans) == one.spans)


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spans_of_name", "has_name", "parents_of_name", "inputs_of_job", "runs_of_job"])
def test_statements_read_one_job(client: Client, name: str) -> None:
    """No statement goes through a table."""
    assert scans_of_tables(client, sql[name]) == []
